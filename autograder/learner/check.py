"""`check`: what a learner calls in a notebook, with `check.inputs` for what it called and `check.needs` before experiments."""

import os
from collections.abc import Callable

from autograder.checking.exercise import Exercise
from autograder.checking.score import score_object
from autograder.exercises import find, unit_of
from autograder.learner import progress
from autograder.learner.inputs import inputs, remember
from autograder.learner.needs import needs
from autograder.learner.report import Report
from autograder.learner.solved import Solved


def check(id: str, answer: Callable) -> Report | float:
    """Say what is right and what is wrong with an answer, and how far the unit is done.

    After a check that failed, `check.inputs(id)` gives the arguments of the call that the report shows.

    Args:
        id: the exercise, such as "magnitude.prune".
        answer: your function or class (the thing itself, not what it returns).

    Returns:
        A report, which shows itself. While nbgrader grades or validates, it is displayed and the points are returned, because
        nbgrader reads partial credit from a cell's result.

    Raises:
        ValueError: the exercise is unknown.
        TypeError: `answer` is not a function or class.
    """
    exercise = find(id)
    require_kind(exercise, answer)
    verdict = score_object(exercise, answer)
    if os.environ.get("NBGRADER_EXECUTION"):
        from IPython.display import display

        display(Report.of(verdict), metadata={"verdict": verdict.to_dict()})  # reports read it from there
        return verdict.points
    statement = remember(exercise, verdict)
    if progress.is_solution(answer):
        return Report.of(verdict, inputs=statement)
    progress.record(verdict)
    solved = Solved.of(exercise.id) if verdict.passed else None
    return Report.of(verdict, progress.of_unit(unit_of(exercise.id)), statement, solved)


check.inputs = inputs  # so that a notebook imports one name only
check.needs = needs


def require_kind(exercise: Exercise, answer: object) -> None:
    """Refuse what is not of the exercise's kind.

    Args:
        exercise: the exercise.
        answer: what was given.

    Raises:
        TypeError: a class is wanted and something else was given, or a function and something that cannot be called.
    """
    if exercise.is_class != isinstance(answer, type) or not callable(answer):
        kind = "class" if exercise.is_class else "function"
        given = f"the class {answer.__name__}" if isinstance(answer, type) else f"an object of type {type(answer).__name__}"
        raise TypeError(f"{exercise.id} checks the {kind} {exercise.defines} itself, got {given}")
