"""Two places in nbgrader that have no hook, changed here and nowhere else, when nbgrader_config.py is read.

nbgrader opens a submission's files before any preprocessor is asked, and the Formgrader's page opens every timestamp: one bad
file stops the class, breaks the page, or (a FIFO) makes it wait for ever.
"""

import os
import stat
from contextlib import suppress
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.apps.api import NbGraderAPI
from nbgrader.converters import Autograde
from nbgrader.converters.base import NbGraderException
from nbgrader.utils import parse_utc

if TYPE_CHECKING:  # imported when used: every nbgrader command reads the configuration, few of them grade
    from autograder.intake.desk import Intake
    from autograder.judge.course import Course


def admit(course: "Course", unit: str, student: str = "*") -> list["Intake"]:
    """Take in the submissions to a unit.

    Args:
        course: the course.
        unit: the unit.
        student: one student's id, or "*".

    Returns:
        One record per submission.
    """
    from autograder.intake.desk import take_in
    from autograder.intake.rebuild import released_notebook
    from autograder.lessons.layout import notebook_path

    source = notebook_path(course.source, unit)
    released = nbformat.writes(released_notebook(source)).encode()
    ours = {path.name: path.read_bytes() for path in source.parent.glob("*.svg")}
    return take_in(course.submitted, course.grading, unit, released, student, ours=ours)


def enter(gradebook: Gradebook, unit: str, student: str) -> None:
    """Give a student whose submission nbgrader is kept away from a row in the gradebook, without points.

    Args:
        gradebook: nbgrader's.
        unit: the unit; nothing happens if the gradebook does not know it.
        student: the student's id.
    """
    with suppress(MissingEntry):
        gradebook.find_assignment(unit)
        gradebook.update_or_create_student(student)
        gradebook.update_or_create_submission(unit, student)


def install() -> None:
    """Have submissions taken in before `Autograde` looks for notebooks, and timestamps read with care."""
    if getattr(Autograde.init_notebooks, "takes_in", False):
        return
    look_for_notebooks, convert = Autograde.init_notebooks, Autograde.convert_notebooks

    @wraps(look_for_notebooks)
    def init_notebooks(self: Autograde) -> None:
        from autograder.judge.course import Course

        taken = admit(Course(self.coursedir), self.coursedir.assignment_id, self.coursedir.student_id)
        self.refused = [record for record in taken if not record.ready]
        for record in self.refused:
            self.log.error("%s cannot be graded: %s", record.student, "; ".join(record.notes))
            with Gradebook(self.coursedir.db_url, self.coursedir.course_id) as gradebook:
                enter(gradebook, self.coursedir.assignment_id, record.student)
        look_for_notebooks(self)
        for record in self.refused:
            self.assignments.pop(self._format_source(self.coursedir.assignment_id, record.student), None)

    @wraps(convert)
    def convert_notebooks(self: Autograde) -> None:
        convert(self)
        if self.refused:
            raise NbGraderException(f"not graded: {', '.join(record.student for record in self.refused)}; see above")

    def get_submitted_timestamp(self: NbGraderAPI, assignment_id: str, student_id: str) -> datetime | None:
        folder = self.coursedir.format_path(self.coursedir.submitted_directory, student_id, assignment_id)
        return timestamp(Path(folder) / "timestamp.txt")

    init_notebooks.takes_in = True
    Autograde.init_notebooks, Autograde.convert_notebooks = init_notebooks, convert_notebooks
    NbGraderAPI.get_submitted_timestamp = get_submitted_timestamp


def timestamp(path: Path) -> datetime | None:
    """The time in a file, in UTC without saying so, as nbgrader keeps times; None if there is none that can be read."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), encoding="utf-8") as file:
            return parse_utc(file.read(100).strip()) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except (OSError, ValueError, OverflowError):
        return None
