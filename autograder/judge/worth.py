"""A verdict where the class gives its exercise other points than its own."""

from dataclasses import replace

from autograder.checking.verdict import Problem, StageVerdict, Verdict


def verdict_of(given: dict) -> Verdict:
    """The verdict that `Verdict.to_dict` was made of."""
    stages = tuple(
        StageVerdict(**stage | {"problem": stage["problem"] and Problem(**stage["problem"])}) for stage in given["stages"]
    )
    plain = ("id", "title", "points", "max_points", "started", "misconception", "says")
    return Verdict(stages=stages, **{name: given[name] for name in plain})


def worth(verdict: Verdict, points: float) -> Verdict:
    """The same verdict where the exercise is worth other points.

    Args:
        verdict: the verdict.
        points: for a right answer.

    Returns:
        A verdict whose stages have the same shares of these.
    """
    if points == verdict.max_points:
        return verdict
    share = points / verdict.max_points
    stages = tuple(
        replace(stage, points=round(stage.points * share, 2), max_points=round(stage.max_points * share, 2))
        for stage in verdict.stages
    )
    return replace(verdict, points=round(verdict.points * share, 2), max_points=points, stages=stages)
