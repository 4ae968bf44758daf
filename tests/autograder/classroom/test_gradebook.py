"""Submissions that cannot be taken in, and gradebooks that cannot be used: told in a sentence, and nothing is lost."""

import os
import sqlite3
from pathlib import Path

import pytest
from conftest import UNIT, gradebook_rows

from autograder.classroom import demo
from autograder.classroom import grade as module
from autograder.classroom.results import ExerciseResult, GradebookError, Result, results, statistics
from autograder.exercises import exercises_of
from autograder.judge.judge import Judgement
from autograder.lessons.layout import grade_id, notebook_path
from tests.courses import make_course


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A class of one, who has done nothing, judged: only nbgrader's part is left to do."""
    root = make_course(tmp_path / "course", ["blank"])
    monkeypatch.chdir(root)
    monkeypatch.setattr(module, "require", lambda: None)
    run = module.ClassRun(root, UNIT, demo.course_config(root))
    run.store.put(run.job("blank"), judgement(2))
    return root, run


def judgement(points):
    """What somebody gets who has so many points in every exercise."""
    verdicts, outputs = {}, {}
    for exercise in exercises_of(UNIT):
        verdicts[exercise.id] = {"id": exercise.id, "points": points, "flags": [], "cut_short": False, "passed": False}
        score = {"output_type": "execute_result", "data": {"text/plain": f"{points}"}, "metadata": {}, "execution_count": None}
        outputs[f"{grade_id(exercise)}-check"] = [score]
    return Judgement(verdicts, outputs, [], 0.0)


def cannot_be_moved(monkeypatch):
    """Whatever should be set aside: its folder is read-only, say. (For root none is.)"""
    rename = Path.rename

    def fails(self, to):
        if "set_aside" in str(to):
            raise PermissionError(13, "Permission denied")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fails)


REASON = "could not be taken in (permission denied) nor moved aside (permission denied); a person has to look at it"


def test_what_cannot_be_taken_in_has_a_row_a_reason_and_an_exit_code(course, monkeypatch, autograder):
    root, _ = course
    cannot_be_moved(monkeypatch)
    notebook_path(root / "grading" / "submitted" / "blank", UNIT).write_bytes(b"")
    code, told, _ = autograder("grade", UNIT)
    assert code == 1
    assert f"not graded: blank: the submission {REASON}; the notebook is an empty file" in told
    assert "passed" in told
    assert "0 of 6" not in told
    [result] = results(root, UNIT, f"sqlite:///{root}/grading/gradebook.db")
    assert (result.student, result.points, REASON in result.notes[0]) == ("blank", 0, True)
    assert len(gradebook_rows(root)) == 6


def test_nbgraders_own_autograde_says_so_too(course, monkeypatch):
    root, run = course
    cannot_be_moved(monkeypatch)
    notebook_path(root / "grading" / "submitted" / "blank", UNIT).write_bytes(b"")
    outcome = run.api.autograde(UNIT, "blank", force=True, create=True)
    assert not outcome["success"]
    assert "blank" in outcome["log"]
    assert len(gradebook_rows(root)) == 6


def test_a_locked_gradebook_is_one_sentence_and_the_next_run_goes_on(course):
    root, run = course
    other = sqlite3.connect(root / "grading" / "gradebook.db")
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(GradebookError, match="cannot be used: database is locked"):
            run.autograde("blank")
    finally:
        other.rollback()
        other.close()
    assert run.autograde("blank") == ""
    assert {row[2] for row in gradebook_rows(root)} == {2}


def damaged(path):
    path.write_bytes(b"not a database at all" * 1000)


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "reason"), [(damaged, "file is not a database"), (cut, "malformed"), (a_folder, "unable to open database file")]
)
def test_a_damaged_gradebook_is_one_sentence_and_left_as_it_is(course, autograder, harm, reason):
    root, _ = course
    path = root / "grading" / "gradebook.db"
    harm(path)
    before = path.read_bytes() if path.is_file() else b""
    for command in (("grade", UNIT), ("export", UNIT), ("explain", "blank", UNIT)):
        code, told, error = autograder(*command)
        assert (code, told.strip()) == (1, ""), told
        assert reason in error
        assert len(error.strip().splitlines()) == 1
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(course, monkeypatch):
    root, run = course
    path = root / "grading" / "gradebook.db"
    pages = os.path.getsize(path) // 4096
    connect = sqlite3.dbapi2.connect

    def small(*args, **options):
        connection = connect(*args, **options)
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    run.refused = {str(i): "cannot be read" for i in range(100)}  # a hundred rows are too many
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3.dbapi2, "connect", small)
        with pytest.raises(GradebookError, match="database or disk is full"):
            run.prepare()
    assert run.autograde("blank") == ""
    assert {row[2] for row in gradebook_rows(root) if row[0] == "blank"} == {2}


def of_one(points, **about):
    part = ExerciseResult("magnitude.prune", points, 4, points, **about)
    return Result("ada", points, 4, 0, None, [part])


def test_what_was_not_judged_is_in_no_mean():
    """The gradebook may hold points of which nobody knows any more why."""
    (row,) = statistics([of_one(3)])
    assert (row.submissions, row.passed, row.mean_points) == (0, 0, None)
    judged = of_one(2, verdict={"points": 2, "passed": False, "started": True})
    (row,) = statistics([of_one(3), judged, of_one(0, readable=False)])
    assert (row.submissions, row.mean_points) == (2, 1)
