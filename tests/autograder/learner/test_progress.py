"""What a learner has reached is kept, and nothing that goes wrong with it stops a check."""

import json

import pytest

from autograder.checking.score import score_object
from autograder.exercises import UNITS, exercises_of, find
from autograder.learner import progress

ID = "magnitude.schedule"
RIGHT = score_object(find(ID), find(ID).reference)
HALF = score_object(find(ID), next(m.wrong for m in find(ID).misconceptions if m.name == "no clamp"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSITY_EDU_PROGRESS", str(tmp_path / "some" / "where"))
    return tmp_path / "some" / "where"


def test_the_best_result_is_kept(folder):
    assert progress.best(ID) == 0
    progress.record(HALF)
    assert progress.best(ID) == HALF.points > 0
    progress.record(RIGHT)
    progress.record(HALF)
    assert progress.best(ID) == RIGHT.points == find(ID).points
    assert json.loads((folder / f"{ID}.json").read_text()) == {"points": 3, "max_points": 3}
    assert [path.name for path in folder.iterdir()] == [f"{ID}.json"]  # no draft is left


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", '{"points": "many"}', '{"points": NaN}', '{"score": 3}', '{"points": -1}', "\udcff"]
)
def test_a_broken_record_counts_as_none_and_is_replaced(folder, text):
    folder.mkdir(parents=True)
    (folder / f"{ID}.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert progress.best(ID) == 0
    progress.record(HALF)
    assert progress.best(ID) == HALF.points


def test_a_folder_that_cannot_be_written_costs_the_memory_only(folder):
    folder.parent.mkdir()
    folder.write_text("a file is in the way")
    progress.record(RIGHT)
    assert progress.best(ID) == 0
    assert folder.read_text() == "a file is in the way"


def test_a_write_that_fails_leaves_the_old_record_and_no_draft(folder, monkeypatch):
    progress.record(HALF)

    def full(self, text):
        self.touch()
        raise OSError("no space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    progress.record(RIGHT)
    assert progress.best(ID) == HALF.points
    assert [path.name for path in folder.iterdir()] == [f"{ID}.json"]


def test_a_unit_is_the_sum_of_its_exercises():
    unit = "02_magnitude"
    exercises = exercises_of(unit)
    total = sum(exercise.points for exercise in exercises)
    empty = {"unit": unit, "done": 0, "exercises": len(exercises), "points": 0, "max_points": total}
    assert progress.of_unit(unit) == empty
    progress.record(HALF)
    assert progress.of_unit(unit) == empty | {"points": HALF.points}
    progress.record(RIGHT)
    assert progress.of_unit(unit) == empty | {"points": RIGHT.points, "done": 1}


def test_a_record_of_more_points_than_there_are_counts_as_full(folder):
    progress.record(RIGHT)
    (folder / f"{ID}.json").write_text('{"points": 1000, "max_points": 1000}')
    assert progress.of_unit("02_magnitude")["points"] == RIGHT.max_points


def test_the_course_is_all_units_in_order():
    assert [row["unit"] for row in progress.of_course()] == list(UNITS)


def test_without_the_variable_it_is_the_users_data_folder(monkeypatch):
    import platformdirs

    monkeypatch.delenv("SPARSITY_EDU_PROGRESS")
    assert progress.folder().is_relative_to(platformdirs.user_data_path("sparsity_edu"))
