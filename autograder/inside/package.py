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


def _inputs(id: str) -> None:
    """Say that there are none: the inputs that count are on the other side of the wall.

    Args:
        id: the exercise.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(f"there is no check.inputs({id!r}) while a notebook is judged: take it out of the cell of your answer")


check.inputs = _inputs
check.needs = lambda *ids: None  # experiments do not count


def progress(*_, **__) -> None:
    """Say nothing: how far one is is kept where one learns."""


def __getattr__(name: str):
    if name == "watch":  # imports triton, which takes a second
        from autograder.inside.sanitizer import watch

        return watch
    raise AttributeError(f"module 'autograder' has no attribute {name!r}")
