"""`check` as student code finds it while it is graded: it judges nothing, for the judge is on the other side of the wall."""

from collections.abc import Callable


def check(id: str, answer: Callable) -> None:
    """Say that this is not the place.

    Args:
        id: the exercise.
        answer: the function or class.
    """
    print(f"{id} is judged outside of this notebook.")
