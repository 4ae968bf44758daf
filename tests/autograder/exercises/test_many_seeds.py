"""Answers on many draws of the inputs: the luck of a seed decides no point, for or against an answer.

Takes minutes, and runs only when asked for: `pytest tests/autograder/exercises/test_many_seeds.py --seeds 200 -k "unit."`, by
whoever changes cases. Three seeds of right answers are tried in `test_exercises.py`.
"""

import pytest

from autograder.checking.exercise import Exercise
from autograder.checking.score import score_declared, score_object
from autograder.exercises import all_exercises


def in_the_interpreter(exercise: Exercise) -> bool:
    """Whether its kernels are watched: a case takes seconds, and the sums that it compares are of few numbers."""
    return any(case.watched is not None for stage in exercise.stages for case in exercise.cases(stage, "public"))


each = pytest.mark.parametrize(
    "exercise", [exercise for exercise in all_exercises() if not in_the_interpreter(exercise)], ids=lambda exercise: exercise.id
)


@pytest.fixture
def seeds(request) -> list[str]:
    return [f"seed {i}" for i in range(request.config.getoption("--seeds"))]


@each
def test_right_answers_are_right_on_every_seed(exercise, seeds):
    failed = {}
    for seed in seeds:
        for style, answer in {"the reference": exercise.reference, **exercise.accepted}.items():
            verdict = score_object(exercise, answer, seed)
            if not verdict.passed:
                failed[seed, style] = f"{verdict.points:g} points: {verdict.first_failure.problem.difference}"
    assert failed == {}


@each
def test_a_mistake_passes_the_same_stages_on_every_seed(exercise, seeds):
    passed = {mistake.name: set() for mistake in exercise.misconceptions}
    for seed in seeds:
        for mistake in exercise.misconceptions:
            stages = score_declared(exercise, mistake.wrong, seed).stages
            passed[mistake.name].add(tuple(stage.name for stage in stages if stage.passed))
    assert {name: by_seed for name, by_seed in passed.items() if len(by_seed) > 1} == {}
