"""A small class, and what a gradebook says of it."""

import os
import sys
from pathlib import Path

import pytest
from nbgrader.api import Gradebook

from autograder.classroom import demo
from autograder.classroom.grade import ClassRun
from autograder.lessons.layout import notebook_path
from tests.courses import make_course

UNIT = demo.UNIT
POINTS = {
    "another-route": 20,
    "blank": 0,
    "crashes": 6,
    "deleted-and-duplicated": 20,
    "mask-lost": 14,
    "perfect": 20,
    "signed-weights": 17,
}


def grade(root, jobs=2, scheduler=None, **judge):
    """All steps of `autograder grade`, in this process."""
    config = demo.course_config(root)
    config.Judge.update(judge)
    run = ClassRun(root, UNIT, config)
    run.prepare()
    students = [record.student for record in run.take_in()]
    assert [error for _, error in run.judge_all(run.open_questions(students), jobs, scheduler) if error] == []
    assert [error for student in students if (error := run.autograde(student) or run.feedback(student))] == []
    return run


def gradebook_rows(root, url=None):
    """Everything that a gradebook says of scores."""
    with Gradebook(url or f"sqlite:///{root}/grading/gradebook.db") as gradebook:
        return sorted(
            (submission.student.id, grade.name, grade.auto_score, grade.manual_score, grade.score, grade.needs_manual_grade)
            for submission in gradebook.assignment_submissions(UNIT)
            for notebook in submission.notebooks
            for grade in notebook.grades
        )


@pytest.fixture(scope="session", autouse=True)
def programs():
    """nbgrader calls programs of its environment by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        yield


@pytest.fixture(scope="session")
def graded(tmp_path_factory, sandbox, programs):
    """A course in which the demo has run, and its results by student. It takes long: for all tests that only read it."""
    root = make_course(tmp_path_factory.mktemp("class") / "course")
    released = notebook_path(root / "notebooks", UNIT).read_bytes()
    rows, _ = demo.demo(root)
    assert notebook_path(root / "notebooks", UNIT).read_bytes() == released
    return root, {result.student: result for result in rows}
