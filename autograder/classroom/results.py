"""What a class has reached, read from nbgrader's gradebook and the autograded notebooks."""

from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbgrader.api import Gradebook

from autograder.exercises import exercises_of
from autograder.lessons.source import grade_id, notebook_path


@dataclass(frozen=True)
class Result:
    """One submission to one unit."""

    student: str
    points: float
    max_points: float
    advice: list[tuple[str, str]]  # (exercise id, the sentence that would help), for each exercise not fully right


def results(root: Path, unit: str, db_url: str) -> list[Result]:
    """The results of all autograded submissions to a unit.

    Args:
        root: the course folder.
        unit: the unit.
        db_url: nbgrader's database.

    Returns:
        Results in the order of the students' ids.
    """
    with Gradebook(db_url) as gradebook:
        scores = {s.student.id: (s.score, s.max_score) for s in gradebook.assignment_submissions(unit)}
    return [Result(student, *scores[student], advice(root, unit, student)) for student in sorted(scores)]


def advice(root: Path, unit: str, student: str) -> list[tuple[str, str]]:
    """The sentence that would help, for each exercise that is not fully right.

    Args:
        root: the course folder.
        unit: the unit.
        student: the student's id.

    Returns:
        (exercise id, sentence) in the order of the exercises.
    """
    path = notebook_path(root / "grading" / "autograded" / student, unit)
    if not path.is_file():
        return [("", "no notebook was graded")]
    cells = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell for cell in nbformat.read(path, as_version=4).cells}
    sentences = []
    for exercise in exercises_of(unit):
        outputs = cells[f"{grade_id(exercise)}-check"].outputs
        verdict = next((o.metadata.get("verdict") for o in outputs if o.get("metadata", {}).get("verdict")), None)
        error = next((f"{o.ename}: {o.evalue}" for o in outputs if o.output_type == "error"), None)
        if verdict is None:
            sentences.append((exercise.id, f"the check could not run: {error or 'it gave no result'}"))
        elif not verdict["passed"]:
            sentences.append((exercise.id, _sentence(verdict)))
    return sentences


def _sentence(verdict: dict) -> str:
    if not verdict["started"]:
        return "not started"
    failed = next(stage for stage in verdict["stages"] if not stage["passed"])
    raised = failed["problem"]["difference"].startswith("the call")  # an error says more than what the stage exposes
    return verdict["says"] or (failed["problem"]["difference"] if raised else failed["exposes"])
