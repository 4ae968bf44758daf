"""The terms of a class: what may be written there, and what it means."""

from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from autograder.exercises import find
from autograder.judge.terms import Terms, days

GOOD = """
[due]
02_magnitude = 2026-10-12T23:59:00+02:00
1 = 2026-10-05T23:59:00Z
[extensions.02]
ada = 2
"j.doe" = 0.5
[late]
free_days = 3
lost_per_day = 0.1
[points]
"magnitude.iterative" = 0
"""


@pytest.fixture
def read(tmp_path):
    """Reads terms from text."""

    def read(text):
        (tmp_path / "class.toml").write_text(text, encoding="utf-8")
        return Terms.read(tmp_path)

    return read


def test_all_that_can_be_said(read):
    terms = read(GOOD)
    assert terms.due["02_magnitude"].isoformat() == "2026-10-12T23:59:00+02:00"
    assert set(terms.due) == {"01_patterns", "02_magnitude"}
    assert terms.extensions == {"02_magnitude": {"ada": timedelta(2), "j.doe": timedelta(hours=12)}}
    assert (terms.free_days, terms.lost_per_day) == (3, 0.1)
    assert terms.points_of(find("magnitude.iterative")) == 0
    assert terms.points_of(find("magnitude.prune")) == find("magnitude.prune").points


def test_nothing_need_be_said(read, tmp_path):
    assert read("") == Terms()
    (tmp_path / "class.toml").unlink()
    assert Terms.read(tmp_path) == Terms()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[due", "class.toml"),
        ("[dues]", "section must be one of due, extensions, late, points, got dues"),
        ("[due]\n99 = 2026-10-12T23:59:00Z", "unit must be one of"),
        ("[due]\n02 = 2026-10-12T23:59:00", "must be a time with its offset"),
        ("[due]\n02 = 'tomorrow'", "got tomorrow"),
        ("[extensions.02]\nada = '2'", "ada must be a number from 0"),
        ("[extensions]\n02 = 3", "class.toml"),
        ("[late]\nper_day = 1", r"\[late\] must be one of"),
        ("[late]\nlost_per_day = 10", "lost_per_day must be a number from 0 to 1, got 10"),
        ("[points]\n'magnitude.prun' = 1", "did you mean magnitude.prune"),
        ("[points]\n'magnitude.prune' = true", "got True"),
        ("[points]\n'magnitude.prune' = nan", "got nan"),
        ("[points]\n'magnitude.prune' = -1", "got -1"),
        ("late = 3", "class.toml"),
    ],
)
def test_what_cannot_be_meant_is_said(read, text, says):
    with pytest.raises(ValueError, match=says):
        read(text)


@pytest.mark.parametrize(("seconds", "count"), [(0, 0), (1, 1), (86400, 1), (86401, 2), (0.5, 1)])
def test_a_day_begun_is_a_day(seconds, count):
    assert days(seconds) == count


class Book:
    """A gradebook with three units of one student, each late by some hours."""

    def __init__(self, hours):
        self.units = {unit: SimpleNamespace(duedate=datetime(2026, 10, day)) for unit, day in {"a": 1, "b": 8, "c": 15}.items()}
        self.hours = hours

    def find_assignment(self, unit):
        return self.units[unit]

    def student_submissions(self, student):
        late = zip(self.units.values(), self.hours, strict=True)
        return [SimpleNamespace(assignment=unit, total_seconds_late=3600 * hours) for unit, hours in late]


def test_late_days_are_counted_in_the_order_of_due_dates():
    book = Book([30, 5, 100])
    assert [Terms().late_days(book, "ada", unit) for unit in "abc"] == [0, 2, 3]
