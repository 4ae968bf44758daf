"""Where a learner stands: the best result of each exercise, kept as one small file each in the user's data folder."""

import contextlib
import inspect
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from autograder.checking.verdict import Verdict
from autograder.exercises import UNITS, all_exercises, exercises_of


def folder() -> Path:
    """The folder of results; the environment variable SPARSITY_EDU_PROGRESS names another one."""
    import platformdirs

    return Path(os.environ.get("SPARSITY_EDU_PROGRESS") or platformdirs.user_data_path("sparsity_edu") / "progress")


def is_solution(answer: Callable) -> bool:
    """Whether an answer is the course's own, from a notebook in solutions/: running these is nobody's progress.

    Args:
        answer: a function or class. Its source tells, for solutions are marked and what learners are given is not.
    """
    parts = vars(answer).values() if isinstance(answer, type) else [answer]
    return any("### BEGIN SOLUTION" in _source(part) for part in parts if inspect.isfunction(part))


def _source(function: Callable) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError, ValueError):  # made in another way than by a cell or a file
        return ""


def record(verdict: Verdict) -> None:
    """Keep a verdict if it is at least as good as the one that is kept.

    Args:
        verdict: a verdict from a learner's notebook. A folder that cannot be written costs the memory, not the check.
    """
    if verdict.points < best(verdict.id):
        return
    path = folder() / f"{verdict.id}.json"
    draft = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(json.dumps({"points": verdict.points, "max_points": verdict.max_points}))
            draft.replace(path)  # whole or not at all, also when two notebooks check at once
        finally:
            draft.unlink(missing_ok=True)


def best(id: str) -> float:
    """Best points so far in an exercise; 0 without a (readable) record."""
    try:
        return max(0.0, float(json.loads((folder() / f"{id}.json").read_text())["points"]))  # NaN is 0 too
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def last_checked() -> str | None:
    """The exercise whose record is the youngest; None without a record."""
    written = {}
    for exercise in all_exercises():
        with contextlib.suppress(OSError):
            written[exercise.id] = (folder() / f"{exercise.id}.json").stat().st_mtime_ns
    return max(written, key=written.get, default=None)


def reset(units: Iterable[str] = UNITS) -> int:
    """Forget the results of units.

    Args:
        units: some of `UNITS`.

    Returns:
        How many exercises had one.

    Raises:
        OSError: a record cannot be removed.
    """
    records = [folder() / f"{exercise.id}.json" for unit in units for exercise in exercises_of(unit)]
    kept = [path for path in records if path.is_file()]
    for path in kept:
        path.unlink()
    return len(kept)


def of_unit(unit: str) -> dict:
    """How far a unit is done.

    Args:
        unit: a unit such as "02_magnitude".

    Returns:
        unit, done and exercises (counts), points and max_points.
    """
    exercises = exercises_of(unit)
    points = [min(best(exercise.id), exercise.points) for exercise in exercises]
    return {
        "unit": unit,
        "done": sum(got == exercise.points for got, exercise in zip(points, exercises, strict=True)),
        "exercises": len(exercises),
        "points": sum(points),
        "max_points": sum(exercise.points for exercise in exercises),
    }


def of_course() -> list[dict]:
    """`of_unit` for every unit, in order."""
    return [of_unit(unit) for unit in UNITS]
