"""`progress()` in a notebook, and `autograder progress`."""

import json

import pytest

import autograder as package
from autograder.checking.score import score_object
from autograder.exercises import UNITS, exercises_of, find
from autograder.learner import progress
from autograder.learner.check import check
from autograder.learner.standing import Standing

ID = "magnitude.schedule"
RIGHT = find(ID).reference


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSITY_EDU_PROGRESS", str(tmp_path / "kept"))
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    return tmp_path / "kept"


def test_a_line_per_unit_within_80_columns_and_where_it_is_kept(folder):
    progress.record(score_object(find(ID), RIGHT))
    standing = package.progress()
    *lines, path = repr(standing).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert path.strip() == str(folder)
    (magnitude,) = (line for line in lines if line.startswith("02_magnitude"))
    total = sum(exercise.points for exercise in exercises_of("02_magnitude"))
    assert "1 of 6" in magnitude
    assert f"{find(ID).points:g} of {total:g}" in magnitude
    assert magnitude.count("█") == int(20 * find(ID).points / total)
    assert [line.split()[0] for line in lines[1:-2]] == list(UNITS)
    assert lines[-2].split()[0] == "all"
    assert f"1 of {sum(len(exercises_of(unit)) for unit in UNITS)}" in lines[-2]


def test_a_bar_is_full_only_when_all_is_done():
    for exercise in exercises_of("02_magnitude"):
        (line,) = (line for line in repr(Standing()).splitlines() if line.startswith("02_magnitude"))
        assert "░" in line
        progress.record(score_object(exercise, exercise.reference))
    (line,) = (line for line in repr(Standing()).splitlines() if line.startswith("02_magnitude"))
    assert "░" not in line


def test_a_folder_of_the_user_is_shown_from_home(monkeypatch, tmp_path):
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    assert repr(Standing()).endswith("\n  ~/kept")


def test_as_html_it_is_the_same_text(monkeypatch):
    monkeypatch.setenv("SPARSITY_EDU_PROGRESS", "/no/<where>")
    assert "/no/&lt;where&gt;" in Standing()._repr_html_()


def test_the_command_line_says_the_same(autograder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = autograder("progress")
    assert (code, err) == (0, "")
    assert out.startswith(repr(Standing()))
    assert "--reset" in out


def test_a_units_exercises_fit_80_columns(autograder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    progress.record(score_object(find(ID), RIGHT))
    for unit in UNITS:
        code, out, _ = autograder("progress", unit)
        assert code == 0
        assert all(len(line) <= 80 for line in out.splitlines())
        for exercise in exercises_of(unit):
            row = next(line for line in out.splitlines() if exercise.id in line)
            assert f"{exercise.points if exercise.id == ID else 0:g} / {exercise.points:g}" in row
        assert f"{int(unit == '02_magnitude')} of {len(exercises_of(unit))} done" in out


def test_as_json(autograder):
    assert json.loads(autograder("progress", "--json")[1]) == progress.of_course()
    assert json.loads(autograder("progress", "02", "--json")[1]) == progress.of_unit("02_magnitude")


def test_reset_forgets_a_unit_or_all_and_nothing_else(autograder, folder):
    others = [exercises_of("01_patterns")[0], exercises_of("05_wanda")[0]]
    for exercise in (find(ID), *others):
        progress.record(score_object(exercise, exercise.reference))
    (folder / "note.txt").write_text("mine")
    code, out, _ = autograder("progress", "02", "--reset")
    assert (code, out.split(";")[0]) == (0, "1 result(s) of 02_magnitude forgotten")
    assert progress.best(ID) == 0
    assert progress.best(others[0].id) == others[0].points
    assert autograder("progress", "--reset")[1].startswith("2 result(s) of all units forgotten")
    assert autograder("progress", "--reset")[1].startswith("0 result(s)")
    assert [path.name for path in folder.iterdir()] == ["note.txt"]


def solution(*args, **kwargs):
    ### BEGIN SOLUTION
    return RIGHT(*args, **kwargs)
    ### END SOLUTION


class Bitmap(find("patterns.bitmap").reference):
    def bits(self):
        ### BEGIN SOLUTION
        return super().bits()
        ### END SOLUTION


@pytest.mark.parametrize(("id", "answer"), [(ID, solution), ("patterns.bitmap", Bitmap)])
def test_running_the_solutions_is_nobodys_progress(id, answer):
    report = check(id, answer)
    assert report.passed
    assert report.progress == {}
    assert "best so far" not in repr(report) + report._repr_html_()
    assert progress.best(id) == 0


@pytest.mark.parametrize("answer", [RIGHT, eval("lambda *a, **k: f(*a, **k)", {"f": RIGHT})])
def test_any_other_answer_counts(answer):
    assert check(ID, answer).passed
    assert progress.best(ID) == find(ID).points
