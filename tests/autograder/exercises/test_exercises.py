"""Every exercise: right answers get full marks, wrong ones do not, and lazy ones get nothing."""

import math
import re
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from worked import first_difference

from autograder.checking.exercise import Exercise
from autograder.checking.known import known_outcome, worked_out
from autograder.checking.score import score_declared, score_object
from autograder.exercises import UNITS, all_exercises, exercises_of, find, unit_named, unit_of
from autograder.inside.case import Opaque
from autograder.inside.outcome import equal
from autograder.inside.runner import run
from autograder.inside.wire import encode
from tests.drawn import public_cases

SEEDS = ("public", "a secret", "another secret")


def parameter(exercise: Exercise):
    """An exercise as a test's argument; one whose kernels are watched needs triton, and there is none for macOS."""
    is_missing = find_spec("triton") is None and any(case.watched for case in public_cases(exercise.id))
    skipped = pytest.mark.skipif(is_missing, reason="there is no triton here")
    return pytest.param(exercise, id=exercise.id, marks=skipped)


each = pytest.mark.parametrize("exercise", [parameter(exercise) for exercise in all_exercises()])
seeded = pytest.mark.parametrize("seed", SEEDS)


@each
@seeded
def test_right_answers_get_full_marks(exercise, seed):
    for style, answer in {"the reference": exercise.reference, **exercise.accepted}.items():
        verdict = (score_declared if style == "the reference" else score_object)(exercise, answer, seed)
        assert verdict.passed, f"{style}: {verdict}"
        assert verdict.points == exercise.points
        assert verdict.misconception == ""


@each
@pytest.mark.parametrize("seed", SEEDS[1:])  # on the public one: the next test
def test_every_misconception_is_rejected(exercise, seed):
    assert first_difference(exercise, exercise.reference, seed) is None
    survivors = [mistake.name for mistake in exercise.misconceptions if first_difference(exercise, mistake.wrong, seed) is None]
    assert survivors == []


@each
def test_every_misconception_is_recognised_by_its_own_name(exercise):
    verdicts = {m.name: score_declared(exercise, m.wrong) for m in exercise.misconceptions}  # on the notebook's own inputs
    assert [name for name, verdict in verdicts.items() if verdict.passed] == []
    others = {name: verdict.misconception for name, verdict in verdicts.items() if verdict.misconception != name}
    assert others == {}  # the contract is 80 %; a new one that cannot be told from another is worth a look


@each
def test_a_declared_mistake_is_scored_as_a_learners_answer(exercise):
    for answer in (exercise.reference, exercise.misconceptions[-1].wrong):
        assert score_declared(exercise, answer) == score_object(exercise, answer)


def first_tensor(*values) -> torch.Tensor | None:
    """The first tensor in the arguments, however deep."""
    for value in values:
        inner = value
        if isinstance(value, nn.Module):
            inner = list(value.parameters())
        elif isinstance(value, dict):
            inner = list(value.values())
        if isinstance(inner, torch.Tensor):
            return inner
        if isinstance(inner, list | tuple) and (found := first_tensor(*inner)) is not None:
            return found
    return None


def like(make, without):
    def lazy(*args, **kwargs):
        tensor = first_tensor(*args, *kwargs.values())
        return without if tensor is None else make(tensor)

    return lazy


def raises(error, *says):
    def lazy(*args, **kwargs):
        raise error(*says)

    return lazy


LAZY = {
    "a stub": raises(NotImplementedError),
    "always a ValueError": raises(ValueError, "no"),
    "always a TypeError": raises(TypeError, "no"),
    "None": lambda *args, **kwargs: None,
    "nothing in": lambda: None,
    "the first argument": lambda *args, **kwargs: args[0] if args else next(iter(kwargs.values())),
    "all arguments": lambda *args, **kwargs: args,
    "zero": lambda *args, **kwargs: 0,
    "one": lambda *args, **kwargs: 1.0,
    "half": lambda *args, **kwargs: 0.5,
    "True": lambda *args, **kwargs: True,
    "NaN": lambda *args, **kwargs: math.nan,
    "zeros": like(torch.zeros_like, 0),
    "ones": like(torch.ones_like, 1),
    "an empty mask": like(lambda W: torch.zeros_like(W, dtype=torch.bool), False),
    "a full mask": like(lambda W: torch.ones_like(W, dtype=torch.bool), True),
    "NaNs": like(lambda W: torch.full(W.shape, math.nan), math.nan),
    "noise": like(lambda W: torch.rand(W.shape), 0.3),
    "an empty dict": lambda *args, **kwargs: {},
    "an empty list": lambda *args, **kwargs: [],
    "text": lambda *args, **kwargs: "right",
}


@each
@pytest.mark.parametrize("kind", LAZY)
def test_lazy_answers_get_nothing(exercise, kind):
    verdict = score_object(exercise, LAZY[kind])
    assert verdict.points == 0
    assert verdict.started == (kind != "a stub")


def leaves(value):
    """The values inside lists and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [leaf for entry in value for leaf in leaves(entry)]
    return [value]


@each
@seeded
def test_what_the_reference_gives_can_be_compared(exercise, seed):
    for stage in exercise.stages:
        cases = worked_out(exercise, seed).cases[stage.name]
        assert cases
        for case in cases:
            outcome = known_outcome(exercise, exercise.reference, case, seed)
            assert outcome.error is None or stage is not exercise.stages[0], f"the first stage must give a result: {outcome}"
            if outcome.error is None:
                results = leaves([outcome.value, outcome.gradients, [outcome.after[i] for i in case.changes]])
                assert not any(isinstance(leaf, Opaque) for leaf in results)
                assert not any(
                    torch.as_tensor(leaf).isnan().any() for leaf in results if isinstance(leaf, float | torch.Tensor)
                )
                untouched = run(case, lambda *_, **__: None).after if stage.pure and not case.calls else outcome.after
                others = [key for key in outcome.after if key not in case.changes]
                assert all(equal(outcome.after[key], untouched[key]) for key in others)
            assert outcome.printed == ""


@each
def test_a_seed_gives_the_same_cases_whatever_the_random_state(exercise):
    def cases(seed):
        return [encode(case) for stage in exercise.stages for case in exercise.cases(stage, seed)]

    torch.manual_seed(1)
    first = cases("a")
    torch.manual_seed(2)
    assert cases("a") == first
    assert cases("b") != first


@each
def test_the_declaration_is_complete(exercise):
    assert exercise.unit == unit_of(exercise.id).split("_", 1)[1]
    assert find(exercise.id) is exercise
    assert re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", exercise.id)
    assert exercise.defines.isidentifier()
    assert exercise.title.strip() == exercise.title != ""
    assert exercise.minutes > 0
    assert exercise.difficulty in (1, 2, 3)
    assert all(stage.points > 0 for stage in exercise.stages)
    assert exercise.points == sum(stage.points for stage in exercise.stages)
    assert len(exercise.stages) >= 2
    assert len(exercise.misconceptions) >= 5
    assert len(exercise.accepted) >= 1
    for names in ([stage.name for stage in exercise.stages], [mistake.name for mistake in exercise.misconceptions]):
        assert len(set(names)) == len(names)
        assert all(names)


@each
def test_learners_read_sentences(exercise):
    said = [*exercise.hints, *(s.exposes for s in exercise.stages), *(m.says for m in exercise.misconceptions)]
    for sentence in said:
        assert len(sentence.split()) >= 4, sentence
        assert re.search(r"[.?!][`)]?$", sentence), sentence
        assert "  " not in sentence, sentence
        assert sentence == sentence.strip(), sentence
    assert len(set(said)) == len(said)


@each
def test_hints_unfold_in_three_steps(exercise):
    assert len(exercise.hints) == 3
    for hint in exercise.hints:
        text, code = hint.split("`")[::2], hint.split("`")[1::2]
        assert len(text) == len(code) + 1, f"code that does not end: {hint}"
        assert all(code), hint
        assert not any("$" in part for part in text), hint
    idea, *_, last = exercise.hints
    assert idea.count("`") < last.count("`"), "an idea is words, the last step is nearly the code"


def test_ids_and_names_are_unique():
    exercises = all_exercises()
    assert len({exercise.id for exercise in exercises}) == len(exercises)
    for unit in UNITS:
        names = [exercise.defines for exercise in exercises_of(unit)]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["05_wanda", "wanda", "05", "5"])
def test_a_unit_has_a_name_and_a_number(name):
    assert unit_named(name) == "05_wanda"


@pytest.mark.parametrize("name", ["", "0", "_", "wand", "05_", "99"])
def test_what_is_no_unit_is_told_with_those_that_are(name):
    with pytest.raises(ValueError, match=r"unit must be one of 01_patterns, .*, or its number, got"):
        unit_named(name)


def test_an_unknown_unit_is_told_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unit must be one of 01_patterns, 02_magnitude, .*got 'magnitude'"):
        exercises_of("magnitude")


def test_a_case_of_an_exercise_is_fresh_each_time():
    exercise: Exercise = find("magnitude.prune")
    first, second = (exercise.cases(exercise.stages[0], "a")[0].args[0] for _ in range(2))
    first.zero_()
    assert second.any()
