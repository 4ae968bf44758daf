"""Scores what is not in a notebook: a file, and the declared mistakes themselves."""

import contextlib
import io
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from autograder.checking.exercise import Exercise
from autograder.checking.score import score_declared, score_object
from autograder.exercises import UNITS, exercises_of
from autograder.learner.check import require_kind
from autograder.lessons.layout import with_stubs
from autograder.lessons.source import render, run_cells


def load_answer(exercise: Exercise, file: Path) -> object:
    """Run a Python file and take the exercise's function or class from it.

    Args:
        exercise: the exercise.
        file: path of the file.

    Returns:
        The function or class.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no text, fails when it is run, or does not define the exercise's name.
        TypeError: the name is defined, but not as a function or class as it should be.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"file must be a Python file, got {file}, which is {'a folder' if file.is_dir() else 'not there'}"
        )
    if file.suffix == ".ipynb":
        raise ValueError(f"file must be a Python file, got {file}: run the check in the notebook itself")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what the file prints does not mix with --json
            namespace = runpy.run_path(str(file), run_name="answer")
    except (Exception, SystemExit) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{file} fails when it is run: {type(error).__name__}" + (f": {reason}" if reason else "")) from error
    if exercise.defines not in namespace:
        raise ValueError(f"{file} must define {exercise.defines} for {exercise.id}, and does not")
    require_kind(exercise, namespace[exercise.defines])
    return namespace[exercise.defines]


def mutation_report(root: Path, units: Sequence[str] = UNITS) -> dict:
    """Run every misconception and the untouched stub of every exercise against its check.

    Args:
        root: the course folder, whose lessons hold the stubs.
        units: of which the exercises are.

    Returns:
        rejected, recognised and total over all exercises, and the same for each under "exercises", with the names of
        misconceptions that got full marks ("survivors") or were not recognised as themselves, and the points of the stub.
    """
    rows = []
    for unit in units:
        exercises = exercises_of(unit)
        with contextlib.redirect_stdout(io.StringIO()):  # cells show examples
            stubs = run_cells(with_stubs(render(root, unit)))
        for exercise in tqdm(exercises, desc=unit, unit="exercise", delay=1, leave=False):
            verdicts = {mistake.name: score_declared(exercise, mistake.wrong) for mistake in exercise.misconceptions}
            rows.append(
                {
                    "id": exercise.id,
                    "rejected": sum(not verdict.passed for verdict in verdicts.values()),
                    "recognised": sum(verdict.misconception == name for name, verdict in verdicts.items()),
                    "total": len(verdicts),
                    "survivors": [name for name, verdict in verdicts.items() if verdict.passed],
                    "unrecognised": [n for n, v in verdicts.items() if not v.passed and v.misconception != n],
                    "stub_points": score_object(exercise, stubs[exercise.defines]).points,
                }
            )
    totals = {key: sum(row[key] for row in rows) for key in ("rejected", "recognised", "total")}
    return {**totals, "exercises": rows}
