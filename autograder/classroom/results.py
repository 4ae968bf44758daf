"""What a class has reached, read from nbgrader's gradebook and the autograded notebooks."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import nbformat
from nbgrader.api import Gradebook, InvalidEntry
from sqlalchemy.exc import SQLAlchemyError

from autograder.exercises import exercises_of
from autograder.intake.desk import notes
from autograder.lessons.layout import grade_id, notebook_path

DATABASE = re.compile(r"\((?:sqlite3|psycopg2)[\w.]*\) ([^\n]+)")  # as SQLAlchemy tells what one said


@dataclass(frozen=True)
class ExerciseResult:
    """One exercise of one submission."""

    id: str
    points: float  # that count: a manual score, if there is one
    max_points: float
    auto_points: float | None  # what the judge gave; None if the submission was not judged
    manual: bool = False  # whether a person has set the points
    verdict: dict = field(default_factory=dict)  # Verdict.to_dict(); empty if there is none
    text: str = ""  # the verdict as people read it
    readable: bool = True  # False: nothing of the submission could be read

    @property
    def sentence(self) -> str:
        """The sentence that would help; empty if all is right."""
        if not self.readable:
            return "nothing of the submission could be read"
        if not self.verdict:
            return "was not judged"
        if self.verdict["passed"]:
            return ""
        if not self.verdict["started"]:
            return "not started"
        failed = next(stage for stage in self.verdict["stages"] if not stage["passed"])
        difference = failed["problem"]["difference"]
        raised = difference.startswith("the call")  # an error says more than what the stage exposes
        return self.verdict["says"] or (difference if raised else failed["exposes"])


@dataclass(frozen=True)
class Result:
    """One submission to one unit."""

    student: str
    points: float
    max_points: float
    late_penalty: float
    timestamp: datetime | None
    exercises: list[ExerciseResult]
    notes: list[str] = field(default_factory=list)  # what happened to the submission as a whole
    flags: list[str] = field(default_factory=list)  # what a person should look at
    sandboxed: bool = True
    name: str = ""  # the student's, if it is known

    @property
    def counts(self) -> float:
        """The points that count: what was lost for being late is taken off."""
        return max(0.0, self.points - self.late_penalty)

    @property
    def called(self) -> str:
        """The student's id, and their name if it is known."""
        return f"{self.student} ({self.name})" if self.name else self.student

    @property
    def advice(self) -> list[tuple[str, str]]:
        """(exercise id, the sentence that would help), for each exercise that is not fully right."""
        return [(exercise.id, exercise.sentence) for exercise in self.exercises if exercise.sentence]


class GradebookError(RuntimeError):
    """The gradebook cannot be read or written; the message is a sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the gradebook cannot be used: {reason.rstrip('.')}. Nothing is lost: verdicts are kept elsewhere, "
            "and the same command goes on from here when it can"
        )


@contextmanager
def gradebook_at(db_url: str, course_id: str = "default_course") -> Iterator[Gradebook]:
    """nbgrader's gradebook.

    Args:
        db_url: of its database.
        course_id: nbgrader's name of the course.

    Yields:
        The gradebook.

    Raises:
        GradebookError: it is locked, damaged, full, or cannot be reached.
    """
    try:
        with Gradebook(db_url, course_id) as gradebook:
            yield gradebook
    except (SQLAlchemyError, InvalidEntry) as error:  # nbgrader makes some of the first the second
        raise GradebookError(database_said(str(error)) or str(error).split("\n")[0]) from error


def database_said(text: str) -> str:
    """What a database said, in an error's text or a log; empty if it is not about one."""
    found = DATABASE.search(text)
    return found[1] if found else ""


def results(root: Path, unit: str, db_url: str) -> list[Result]:
    """The results of all autograded submissions to a unit.

    Args:
        root: the course folder.
        unit: the unit.
        db_url: nbgrader's database.

    Returns:
        Results in the order of the students' ids.
    """
    with gradebook_at(db_url) as gradebook:
        found = [_result(root, unit, submission) for submission in gradebook.assignment_submissions(unit)]
    return sorted(found, key=lambda result: result.student)


def _result(root: Path, unit: str, submission) -> Result:
    notebook = _read(notebook_path(root / "grading" / "autograded" / submission.student.id, unit))
    told, graded = notes(root / "grading", unit, submission.student.id)
    about = notebook.metadata.get("autograder", {"notes": told, "graded": graded})  # without: nbgrader was kept away from it
    readable = about.get("graded", True)
    cells = {cell.id: cell for cell in notebook.cells}
    grades = {grade.name: grade for part in submission.notebooks for grade in part.grades}
    exercises = []
    for exercise in exercises_of(unit):
        name = f"{grade_id(exercise)}-check"
        grade, output = grades.get(name), _verdict_output(cells.get(name, {}).get("outputs", []))
        exercises.append(
            ExerciseResult(
                exercise.id,
                grade.score if grade else 0.0,
                grade.max_score if grade else exercise.points,
                grade.auto_score if grade else None,
                bool(grade) and grade.manual_score is not None,
                output.get("metadata", {}).get("verdict", {}) if readable else {},
                output.get("data", {}).get("text/plain", "") if readable else "",
                readable,
            )
        )
    flags = dict.fromkeys(sentence for sentences in about.get("flags", {}).values() for sentence in sentences)
    return Result(
        submission.student.id,
        submission.score,
        submission.max_score,
        submission.late_submission_penalty or 0.0,
        submission.timestamp,
        exercises,
        list(about.get("notes", [])),
        list(flags),
        about.get("sandboxed", True),
        name_of(submission.student),
    )


def name_of(student) -> str:
    """A student's name as the gradebook has it; empty if nobody has told it."""
    names = [student.first_name, student.last_name if student.last_name != student.id else ""]
    return " ".join(filter(None, names))


def _read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4) if path.is_file() else nbformat.v4.new_notebook()


def _verdict_output(outputs: list) -> dict:
    return next((output for output in outputs if output.get("metadata", {}).get("verdict")), {})


@dataclass(frozen=True)
class Statistics:
    """One exercise over a class."""

    id: str
    submissions: int  # that were judged
    passed: int
    started: int
    mean_points: float | None  # of what was judged; None: nothing was
    max_points: float
    misconception: str  # the most common one, as its sentence; empty if there is none
    misconception_count: int


def statistics(class_: list[Result]) -> list[Statistics]:
    """How each exercise went, in their order."""
    rows = []
    for parts in zip(*(result.exercises for result in class_), strict=True):
        judged = [part.points for part in parts if part.verdict or part.manual or not part.readable]
        mistakes = Counter(part.verdict["says"] for part in parts if part.verdict.get("misconception"))
        sentence, count = mistakes.most_common(1)[0] if mistakes else ("", 0)
        rows.append(
            Statistics(
                parts[0].id,
                len(judged),
                sum(bool(part.verdict.get("passed")) for part in parts),
                sum(bool(part.verdict.get("started")) for part in parts),
                sum(judged) / len(judged) if judged else None,
                parts[0].max_points,
                sentence,
                count,
            )
        )
    return rows
