"""The package `autograder` as student code finds it while it is graded: this file stands for `autograder/__init__.py` there.

Its `check` judges nothing, for the judge is on the other side of the wall.
"""

from collections.abc import Callable


def check(id: str, answer: Callable) -> None:
    """Say that this is not the place.

    Args:
        id: the exercise.
        answer: the function or class.
    """
    print(f"{id} is judged outside of this notebook.")


def __getattr__(name: str):
    if name == "watch":  # imports triton, which takes a second
        from autograder.inside.sanitizer import watch

        return watch
    raise AttributeError(f"module 'autograder' has no attribute {name!r}")
