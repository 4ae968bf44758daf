"""The terms of a class: due dates, extensions, late days and points, from the instructor's own grading/class.toml.

All of it may be missing. What is there is written into nbgrader's gradebook when a submission is graded, so that nbgrader's
commands, its Formgrader and this project's reports say the same.
"""

import tomllib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor
from nbgrader.utils import compute_checksum

from autograder.checking.exercise import Exercise
from autograder.exercises import exercises_of, find, number_of, unit_named
from autograder.judge.course import Course
from autograder.lessons.layout import grade_id

FILE = "class.toml"


@dataclass(frozen=True)
class Terms:
    """What an instructor has set; by default nothing."""

    due: Mapping[str, datetime] = field(default_factory=dict)  # by unit
    extensions: Mapping[str, Mapping[str, timedelta]] = field(default_factory=dict)  # by unit and student
    points: Mapping[str, float] = field(default_factory=dict)  # by exercise, instead of its own
    free_days: int = 0  # late days that cost nothing, of each student in all units together
    lost_per_day: float = 0.0  # share of a submission's points, for each further day

    @classmethod
    def read(cls, grading: Path) -> "Terms":
        """The terms in a course's grading folder.

        Args:
            grading: the folder; without a class.toml in it, the terms are empty.

        Raises:
            ValueError: the file is no TOML, or says something that it cannot; the message names it.
        """
        path = grading / FILE
        if not path.is_file():
            return cls()
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8"))
            _known("section", told, ("due", "extensions", "late", "points"))
            late = told.get("late", {})
            _known("[late]", late, ("free_days", "lost_per_day"))
            return cls(
                {unit_named(unit): _moment(unit, moment) for unit, moment in told.get("due", {}).items()},
                {
                    unit_named(unit): {student: timedelta(days=_number(student, days)) for student, days in given.items()}
                    for unit, given in told.get("extensions", {}).items()
                },
                {find(id).id: _number(id, points) for id, points in told.get("points", {}).items()},
                int(_number("free_days", late.get("free_days", 0))),
                _number("lost_per_day", late.get("lost_per_day", 0), most=1),
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {error}") from None

    def points_of(self, exercise: Exercise) -> float:
        """What an exercise is worth in this class; 0 if it is left out."""
        return float(self.points.get(exercise.id, exercise.points))

    def late_days(self, gradebook: Gradebook, student: str, unit: str) -> int:
        """The late days that a student has used in units that were due before a unit.

        Args:
            gradebook: nbgrader's, open.
            student: the student's id.
            unit: the unit.

        Returns:
            Days begun, after each due date and its extension.
        """
        due = gradebook.find_assignment(unit).duedate
        submissions = gradebook.student_submissions(student) if due else []
        before = [each for each in submissions if each.assignment.duedate and each.assignment.duedate < due]
        return sum(days(each.total_seconds_late) for each in before)

    def write(self, gradebook: Gradebook, student: str, unit: str, notebook: NotebookNode, name: str) -> None:
        """Write what concerns one submission into the gradebook, and its points into the notebook.

        Args:
            gradebook: nbgrader's, open.
            student: the student's id.
            unit: the unit.
            notebook: the submission, rebuilt on the release; changed in place.
            name: of the notebook.
        """
        submission = gradebook.find_submission(unit, student)
        if unit in self.due:
            submission.assignment.duedate = self.due[unit].astimezone(UTC).replace(tzinfo=None)
        if unit in self.extensions:
            submission.extension = self.extensions[unit].get(student)
        if submission.student.last_name is None:  # the Formgrader would show "None, None"
            submission.student.last_name, submission.student.first_name = student, ""
        self.restate(unit, notebook)
        for cell in notebook.cells:
            about = cell.metadata.get("nbgrader", {})
            if about.get("grade"):
                graded = gradebook.find_grade_cell(about["grade_id"], name, unit)
                if graded.max_score != about["points"]:
                    graded.max_score = about["points"]
                    source = gradebook.find_source_cell(about["grade_id"], name, unit)
                    source.checksum = _checksum(cell, source.source)
        gradebook.db.commit()

    def restate(self, unit: str, notebook: NotebookNode) -> None:
        """Have a released notebook say what its exercises are worth in this class.

        Args:
            unit: the unit.
            notebook: changed in place.
        """
        cells = {cell.id: cell for cell in notebook.cells}
        for exercise in exercises_of(unit):
            points = self.points_of(exercise)
            cells[f"{grade_id(exercise)}-check"].metadata.nbgrader["points"] = points
            told = f"**{points:g} points**" if points else "**does not count**"
            for cell in notebook.cells:
                if cell.cell_type == "markdown" and cell.source.startswith(f"### Exercise {number_of(exercise.id)}: "):
                    cell.source = cell.source.replace(f"**{exercise.points:g} points**", told, 1)


class SetTerms(NbGraderPreprocessor):
    """Writes the terms of a class into the gradebook, before a submission is judged."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """nbgrader calls this with the rebuilt notebook."""
        names = resources["nbgrader"]
        terms = Terms.read(Course(CourseDirectory(parent=self)).grading)
        with Gradebook(names["db_url"]) as gradebook:
            terms.write(gradebook, names["student"], names["assignment"], nb, names["notebook"])
        return nb, resources


def days(seconds: float) -> int:
    """Days begun."""
    return -int(-seconds // 86400)


def _checksum(cell: NotebookNode, source: str) -> str:
    """nbgrader's checksum of a cell, which depends on its points."""
    changed = deepcopy(cell)
    changed.source = source
    return compute_checksum(changed)


def _known(what: str, given: Mapping, allowed: tuple[str, ...]) -> None:
    if unknown := sorted(set(given) - set(allowed)):
        raise ValueError(f"{what} must be one of {', '.join(allowed)}, got {unknown[0]}")


def _moment(unit: str, moment: object) -> datetime:
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError(f"due of {unit} must be a time with its offset, such as 2026-10-12T23:59:00+02:00, got {moment}")
    return moment


def _number(name: str, value: object, most: float = 1e6) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{name} must be a number from 0 to {most:g}, got {value!r}")
    return float(value)
