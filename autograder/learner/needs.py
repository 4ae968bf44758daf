"""Whether an experiment can begin: the exercises that it uses have been done, or one sentence says which have not."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable

from autograder.exercises import find, number_of


class NotDone(Exception):
    """Exercises that an experiment uses are not done; a notebook shows the sentence and nothing else."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def needs(*ids: str) -> None:
    """Begin an experiment, or say at once what has to be done before it.

    Args:
        *ids: the exercises whose functions it uses, as the notebook that calls this has them.

    Raises:
        NotDone: some are still as they were released, or their cells have not been run.
        ValueError: an exercise is unknown.
    """
    there = sys._getframe(1).f_globals
    missing = [f"{number_of(id)} ({name})" for id in ids if _is_stub(there.get(name := find(id).defines))]
    if missing:
        listed = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        several = len(missing) > 1
        raise NotDone(f"This experiment uses exercise{'s' * several} {listed}: do {'these' if several else 'that'} first.")


def _is_stub(thing: object) -> bool:
    """Whether nothing is there, or a function or a method of a class does no more than raise NotImplementedError."""
    if isinstance(thing, type):
        return any(_is_stub(part) for part in vars(thing).values() if inspect.isfunction(part))
    return thing is None or (inspect.isfunction(thing) and _ends_unwritten(thing))


def _ends_unwritten(function: Callable) -> bool:
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # there is no source, so somebody has made it in another way
        return False
    last = definition.body[-1] if isinstance(definition, ast.FunctionDef) else None
    return isinstance(last, ast.Raise) and "NotImplementedError" in ast.unparse(last)
