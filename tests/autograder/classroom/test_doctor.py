"""`autograder doctor`'s attempts to break out: each is held by the wall, and would succeed without it."""

from pathlib import Path

import pytest

from autograder.classroom.doctor import COUNT, attempts
from autograder.lessons.layout import course_root

ROOT = course_root(Path(__file__).parent)


@pytest.mark.usefixtures("sandbox")
def test_every_attempt_to_break_out_is_held():
    tried = list(attempts(ROOT))
    assert len(tried) == COUNT
    assert [f"{attempt.what} {attempt.told}" for attempt in tried if not attempt.held] == []


@pytest.mark.usefixtures("sandbox")
def test_the_attempts_succeed_where_there_is_no_wall(tmp_path, monkeypatch):
    """An attempt that cannot succeed would prove nothing."""
    from autograder.classroom import escapes

    (tmp_path / "autograder" / "exercises").mkdir(parents=True)
    monkeypatch.setenv("AUTOGRADER_CANARY", "canary")
    assert not escapes.answers([str(tmp_path)])[0]
    assert not escapes.environment("canary")[0]
    assert not escapes.writing([str(tmp_path)])[0]
