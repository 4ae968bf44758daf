"""What a late submission loses."""

from types import SimpleNamespace

import pytest
from traitlets.config import Config

from autograder.judge import late
from autograder.judge.terms import Terms

DAY = 86400


@pytest.fixture
def lost(monkeypatch):
    """What 20 points lose, under some terms."""

    def lost(seconds, used=0, **terms):
        monkeypatch.setattr(Terms, "read", classmethod(lambda cls, folder: cls(**terms)))
        monkeypatch.setattr(Terms, "late_days", lambda self, *about: used)
        monkeypatch.setattr(late, "CourseDirectory", lambda parent: None)
        monkeypatch.setattr(late, "Course", lambda directory: SimpleNamespace(grading=None))
        plugin = late.LateDays(config=Config({"LateDays": {"penalty_method": "zero"}}))
        monkeypatch.setattr(late.LateDays, "parent", SimpleNamespace(gradebook=None, assignment_id="02_magnitude"))
        return plugin.late_submission_penalty("ada", 20.0, seconds)

    return lost


@pytest.mark.parametrize(
    ("days", "used", "free", "per_day", "points"),
    [(1, 0, 0, 0.1, 2), (1, 0, 1, 0.1, 0), (3, 0, 1, 0.1, 4), (3, 1, 1, 0.1, 6), (2, 9, 3, 0.1, 4), (30, 0, 0, 0.1, 20)],
)
def test_days_beyond_those_that_are_free_cost(lost, days, used, free, per_day, points):
    assert lost(days * DAY, used, free_days=free, lost_per_day=per_day) == pytest.approx(points)


def test_without_terms_it_is_nbgraders_own(lost):
    assert lost(DAY) == 20  # penalty_method = "zero"
