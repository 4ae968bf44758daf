"""A verdict where an exercise is worth other points."""

from autograder.checking.score import score_declared
from autograder.exercises import find
from autograder.judge.worth import verdict_of, worth

EXERCISE = find("magnitude.prune")


def verdict():
    """Of an answer that passes some stages."""
    return score_declared(EXERCISE, EXERCISE.misconceptions[0].wrong)


def test_a_verdict_is_the_same_after_it_was_plain_data():
    assert verdict_of(verdict().to_dict()) == verdict()
    assert verdict_of(verdict().to_dict() | {"flags": [], "cut_short": False}) == verdict()


def test_stages_keep_their_shares():
    before, after = verdict(), worth(verdict(), 2 * EXERCISE.points)
    assert (after.points, after.max_points) == (2 * before.points, 2 * before.max_points)
    assert [stage.points for stage in after.stages] == [2 * stage.points for stage in before.stages]
    assert after.passed == before.passed
    assert worth(before, before.max_points) is before


def test_an_exercise_that_is_left_out_is_worth_nothing():
    after = worth(verdict(), 0)
    assert (after.points, after.max_points, sum(stage.max_points for stage in after.stages)) == (0, 0, 0)
    assert after.says == verdict().says
