"""From outcomes to points, the first difference, and the mistake it resembles."""

import json

import pytest
import torch
from torch import nn

from autograder.checking.exercise import Exercise
from autograder.checking.known import known_outcome, worked_out
from autograder.checking.naming import describe
from autograder.checking.score import score, score_declared, score_object
from autograder.inside.case import Case, call, script
from autograder.inside.outcome import Outcome, Raised
from autograder.inside.recipes import MLP, Add, Optimizer
from autograder.inside.runner import run


def double(W, n=2):
    if n < 0:
        raise ValueError("n must not be negative")
    return W * n


def make_exercise() -> Exercise:
    exercise = Exercise("toy.double", "double", "Double it", minutes=1, difficulty=1, hints=("Multiply.",), reference=double)

    @exercise.stage("doubles", points=1, exposes="Twice as much.")
    def _(g):
        yield call(torch.rand(3, generator=g) + 1)
        yield call(torch.rand(2, 2, generator=g) + 1)

    @exercise.stage("takes n", points=2, exposes="n times as much.", pure=True)
    def _(g):
        yield call(torch.rand(3, generator=g) + 1, n=5)

    @exercise.stage("refuses", points=3, exposes="A ValueError for a negative n.")
    def _(g):
        yield call(torch.ones(1), -1)

    @exercise.misconception("adds", "You add n.")
    def _(W, n=2):
        return W + n

    @exercise.misconception("ignores n", "You always double.")
    def _(W, n=2):
        return W * 2

    @exercise.misconception("ignores n, but checks", "You always double, after a check.")
    def _(W, n=2):
        double(W, n)
        return W * 2

    @exercise.misconception("no check", "You accept any n.")
    def _(W, n=2):
        return W * n

    return exercise


TOY = make_exercise()


def points(answer) -> list[float]:
    return [stage.points for stage in score_object(TOY, answer).stages]


def test_the_reference_gets_everything():
    verdict = score_object(TOY, double)
    assert (verdict.points, verdict.max_points, verdict.passed) == (6, 6, True)
    assert verdict.first_failure is None
    assert verdict.misconception == verdict.says == ""


def test_each_stage_counts_by_itself_once_the_first_passes():
    assert points(lambda W, n=2: W * n) == [1, 2, 0]
    assert points(lambda W, n=2: double(W, n) * 0 + W * 2) == [1, 0, 3]


def test_an_error_counts_only_beside_a_result():
    def only_raises(W, n=2):
        raise ValueError("always")

    verdict = score_object(TOY, only_raises)
    assert verdict.points == 0
    assert [stage.passed for stage in verdict.stages] == [False, False, True]
    assert points(lambda W, n=2: double(W, n) + (n == 2)) == [0, 2, 3]


def test_a_stage_fails_with_its_first_wrong_case():
    verdict = score_object(TOY, lambda W, n=2: double(W, n) + (W.ndim == 2))
    failure = verdict.first_failure
    assert failure.name == "doubles"
    assert failure.problem.case.startswith("double(W=[[1.")
    assert failure.problem.difference.startswith("result[0, 0]: expected 3.")


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (lambda W, n=2: n + W, "adds"),
        (lambda W, n=2: W.clone().mul_(n), "no check"),
        (lambda W, n=2: W + W, "ignores n"),  # "ignores n, but checks" agrees up to there, but not in the last stage
        (lambda W, n=2: W + abs(double(W, n)) / n, "ignores n, but checks"),
        (lambda W, n=2: W * n if n > 0 else None, ""),
        (lambda W, n=2: W * 3, ""),
        (lambda W, n=2: W + n if W.ndim == 1 else W * 3, "adds"),  # in the first wrong case, and in two of three
        (lambda W, n=2: W + n if n == 5 else W * 3, ""),  # in the last of three only
        (lambda W, n=2: W * n if n == 2 else W + n, ""),  # in the second stage; "adds" would spoil the first as well
        (double, ""),
    ],
)
def test_a_mistake_is_recognised_by_what_it_gives(answer, name):
    verdict = score_object(TOY, answer)
    assert verdict.misconception == name
    assert verdict.says == next((m.says for m in TOY.misconceptions if m.name == name), "")


def test_a_mistake_that_gives_nan_is_recognised_and_does_not_pass():
    exercise = make_exercise()
    exercise.misconception("divides by zero", "You divide by zero.")(lambda W, n=2: W * 0 / 0)
    verdict = score_object(exercise, lambda W, n=2: W - torch.nan)
    assert (verdict.points, verdict.misconception) == (0, "divides by zero")


def test_a_known_mistake_in_one_of_several_results_is_told_beside_another():
    exercise = Exercise(
        "toy.two", "two", "Two", minutes=1, difficulty=1, hints=("Two.",), reference=lambda x: [x.sum(), x.amax()]
    )

    @exercise.stage("both", points=1, exposes="Sum and largest.")
    def _(g):
        for _ in range(3):
            yield call(torch.rand(5, generator=g) + 1)

    exercise.misconception("the mean", "You took the mean.")(lambda x: [x.mean(), x.amax()])
    exercise.misconception("the least", "You took the least.")(lambda x: [x.sum(), x.amin()])
    assert score_object(exercise, lambda x: [x.mean(), x.amin()]).misconception == "the mean"  # where the first difference is
    assert score_object(exercise, lambda x: [x.mean(), 3 * x.amax()]).misconception == "the mean"
    assert score_object(exercise, lambda x: [2 * x.sum(), x.amin()]).misconception == ""


def test_one_small_number_that_agrees_is_no_explanation():
    exercise = Exercise("toy.digit", "digit", "A digit", minutes=1, difficulty=1, hints=("n.",), reference=lambda n: n % 7)

    @exercise.stage("one", points=1, exposes="One.")
    def _(g):
        yield call(4)

    @exercise.stage("many", points=1, exposes="Many.")
    def _(g):
        yield from map(call, range(30, 37))

    exercise.misconception("half", "You halve.")(lambda n: n // 2)
    assert score_object(exercise, lambda n: n // 2).misconception == "half"
    assert score_object(exercise, lambda n: n // 2 if n == 4 else -1).misconception == ""


def test_errors_that_are_asked_for_agree_in_any_words():
    exercise = make_exercise()
    exercise.misconception("refuses 5", "You refuse 5.")(lambda W, n=2: double(W, n if n != 5 else -1))

    def answer(W, n=2):
        if n in (-1, 5):
            raise ValueError("other words")
        return W * n

    assert score_object(exercise, answer).misconception == "refuses 5"


def test_a_change_of_the_arguments_counts_only_where_a_stage_is_pure():
    verdict = score_object(TOY, lambda W, n=2: W.mul_(double(torch.ones(()), n)))
    assert [stage.passed for stage in verdict.stages] == [True, False, True]
    assert "the argument W: expected left as it was" in verdict.first_failure.problem.difference


def test_errors_are_compared_by_class():
    class Finer(ValueError):
        pass

    def raises(error):
        def answer(W, n=2):
            if n < 0:
                raise error
            return W * n

        return answer

    assert points(raises(Finer("my own words"))) == [1, 2, 3]
    assert points(raises(Exception("ValueError"))) == [1, 2, 0]
    assert points(raises(TypeError("no"))) == [1, 2, 0]
    verdict = score_object(TOY, lambda W, n=2: W * n if n >= 0 else ValueError("returned, not raised"))
    assert verdict.first_failure.problem.difference == (
        "the call: expected ValueError (as in: n must not be negative), got no error"
    )


def test_an_unexpected_error_is_told_with_its_line():
    verdict = score_object(TOY, lambda W, n=2: W.nothing)  # the line
    difference = verdict.first_failure.problem.difference
    assert difference.startswith("the call: expected no error, got AttributeError: 'Tensor' object has no attribute 'nothing'")
    assert difference.endswith("# the line")


def test_wrong_parameters_are_an_error_of_the_call():
    assert "positional argument" in score_object(TOY, lambda: 1).first_failure.problem.difference
    assert "unexpected keyword argument 'n'" in score_object(TOY, lambda W: W * 2).stages[1].problem.difference


def test_calling_a_stub_is_a_start():
    def helper(W):
        raise NotImplementedError

    def answer(W, n=2):
        return helper(W)

    verdict = score_object(TOY, answer)
    assert verdict.started
    assert "helper is not written yet" in verdict.first_failure.problem.difference


def test_a_class_is_started_method_by_method():
    class Box:
        def __init__(self, W):
            self.W = W

        def get(self):
            return self.W

        def twice(self):
            return 2 * self.W

    class Half(Box):
        def twice(self):
            raise NotImplementedError

    class Untouched(Box):
        def __init__(self, W):
            raise NotImplementedError

    exercise = Exercise("toy.box", "Box", "A box", minutes=1, difficulty=1, hints=("Keep it.",), reference=Box)

    @exercise.stage("keeps", points=1, exposes="It comes back.")
    def _(g):
        yield script(torch.rand(3, generator=g), calls=[("get",), ("twice",)])

    assert score_object(exercise, Box).passed
    assert not score_object(exercise, Untouched).started
    verdict = score_object(exercise, Half)
    assert verdict.started
    assert "Half.twice is not written yet" in verdict.first_failure.problem.difference
    wrong = type("Wrong", (Box,), {"twice": lambda self: -self.W})
    assert score_object(exercise, wrong).first_failure.problem.difference.startswith("twice()[0]: ")


def test_a_stub_has_not_started():
    def stub(W, n=2):
        raise NotImplementedError

    verdict = score_object(TOY, stub)
    assert (verdict.started, verdict.points, verdict.misconception) == (False, 0, "")
    assert score_object(TOY, lambda W, n=2: W).started


def test_what_was_printed_in_the_failing_case_is_kept():
    def chatty(W, n=2):
        print("n is", n)
        return W * 2

    verdict = score_object(TOY, chatty)
    assert [stage.problem and stage.problem.printed for stage in verdict.stages] == [None, "n is 5\n", "n is -1\n"]


def test_an_answer_that_takes_too_long_is_not_run_again():
    seen = []

    def outcome_of(case: Case) -> Outcome:
        seen.append(case)
        return Outcome(error=Raised(("TimeUp",), "took longer")) if case.kwargs else run(case, double)

    verdict = score(TOY, outcome_of)
    assert len(seen) == 3
    assert [stage.points for stage in verdict.stages] == [1, 0, 0]
    assert "took longer" in verdict.stages[1].problem.difference
    assert "an earlier case took too long" in verdict.stages[2].problem.difference


def test_an_endless_loop_costs_one_time_limit(monkeypatch):
    monkeypatch.setattr(run, "__defaults__", (0.1,))

    def endless(W, n=2):
        while True:
            pass

    verdict = score_object(TOY, endless)
    assert verdict.points == 0
    assert "endless loop?" in verdict.first_failure.problem.difference


def test_an_answer_that_changes_the_reference_comes_too_late():
    """As far as that is possible in one process."""
    factor = [2]
    exercise = Exercise("toy.times", "times", "Times", minutes=1, difficulty=1, hints=(), reference=lambda W: W * factor[0])

    @exercise.stage("multiplies", points=1, exposes="")
    def _(g):
        yield call(torch.ones(2))
        yield call(torch.ones(3))

    def saboteur(W):
        factor[0] = 3
        return W * 3

    assert not score_object(exercise, saboteur).passed
    exercise.known.clear()
    assert score_object(exercise, saboteur).passed  # the reference is really changed


def test_arguments_that_are_meant_to_change_are_compared():
    exercise = Exercise("toy.fill", "fill_", "Fill", minutes=1, difficulty=1, hints=(), reference=lambda W: W.fill_(2) and None)

    @exercise.stage("fills", points=1, exposes="")
    def _(g):
        yield call(torch.rand(1, generator=g), changes=(0,))

    def fill(W):
        W[:] = 2

    assert score_object(exercise, fill).passed
    failure = score_object(exercise, lambda W: None).first_failure
    assert failure.problem.difference.startswith("W after the call[0]: expected 2, got")


def test_each_of_several_calls_is_compared():
    exercise = Exercise("toy.grow", "grow_", "Grow", minutes=1, difficulty=1, hints=(), reference=lambda W: W.add_(1).sum())

    @exercise.stage("grows", points=1, exposes="")
    def _(g):
        yield call(torch.zeros(2), changes=(0,), times=3)

    assert score_object(exercise, lambda W: sum(W.add_(1))).passed
    assert _difference(exercise, lambda W: sum(W.fill_(1))).startswith("result of call 2: expected 4, got 2")


def test_the_methods_of_a_class_are_compared_one_by_one():
    class Right:
        def __init__(self, n):
            self.n = n

        def add(self, m):
            self.n += m
            return self.n

    class Wrong(Right):
        def add(self, m):
            return self.n + m

    class Failing(Right):
        def add(self, m):
            raise NotImplementedError

    exercise = Exercise("toy.counter", "Counter", "Count", minutes=1, difficulty=1, hints=(), reference=Right)

    @exercise.stage("counts", points=1, exposes="")
    def _(g):
        yield script(1, calls=[("add", 1), ("add", 2)])

    assert score_object(exercise, Right).passed
    assert _difference(exercise, Wrong) == "add(): expected 4, got 3"
    assert "NotImplementedError" in _difference(exercise, Failing)
    assert "AttributeError" in _difference(exercise, type("Empty", (), {"__init__": lambda self, n: None}))


def test_what_a_callback_was_given_is_compared():
    def reference(model, retrain):
        retrain(model, {"0": True})
        nn.init.zeros_(model[0].weight)

    exercise = Exercise("toy.retrain", "retrain_", "Retrain", minutes=1, difficulty=1, hints=(), reference=reference)

    @exercise.stage("retrains", points=1, exposes="")
    def _(g):
        yield call(MLP((torch.rand(1, 2, generator=g),), (torch.ones(1),)), Add((torch.ones(1, 2),)), changes=(0, 1))

    def late(model, retrain):
        nn.init.zeros_(model[0].weight)
        retrain(model, {"0": True})
        nn.init.zeros_(model[0].weight)

    def without_masks(model, retrain):
        retrain(model, {})
        nn.init.zeros_(model[0].weight)

    assert score_object(exercise, reference).passed
    assert "calls of retrain[0]['weights']['0'][0, 0]: expected 0." in _difference(exercise, late)
    assert "calls of retrain[0]['masks']'s keys: expected '0', got none" in _difference(exercise, without_masks)
    assert "missing 1 required positional argument: 'masks'" in _difference(exercise, lambda model, retrain: retrain(model))
    never = _difference(exercise, lambda model, retrain: nn.init.zeros_(model[0].weight).sum() or None)
    assert never == "calls of retrain: expected 1 value, got 0 values"


def _difference(exercise: Exercise, answer) -> str:
    return score_object(exercise, answer).first_failure.problem.difference


def test_the_call_is_described_as_one_would_write_it():
    assert describe(TOY, call(torch.tensor([[0.5, -1.25]]), n=0.5)) == "double(W=[[0.5, -1.25]], n=0.5)"
    assert describe(TOY, call(torch.zeros(5, 6, dtype=torch.float16))) == "double(W=<float16 5 x 6>)"
    assert describe(TOY, call({"a": [1, "b", None]}, times=3)) == "double(W={'a': [1, 'b', None]}), 3 times in a row"
    assert describe(TOY, script(1, calls=[("add", 2), ("get",)])) == "double(W=1).add(2).get()"
    assert describe(TOY, script(1, calls=[(0, 2), ("get",)])) == "double(W=1), W(2).get()"
    weights = {"w": 1}
    given_twice = script(1, calls=[("add", 2, weights), ("bytes held", 8), ("add", 3, weights)])
    assert describe(TOY, given_twice) == "double(W=1).add(2, {'w': 1}).add(3, <the same>)"
    many = {str(i): i for i in range(9)}
    assert describe(TOY, call(many)) == "double(W=<9 entries, '0', '1', '2', ...>)"
    assert describe(TOY, call(torch.ones(3, 4, dtype=torch.bool), (2, 3))) == "double(W=<all True 3 x 4>, n=(2, 3))"
    recipes = MLP((torch.zeros(5, 6), torch.zeros(2, 5)), (torch.zeros(5), torch.zeros(2))), Optimizer("SGD", 0, {"lr": 0.1})
    assert describe(TOY, call(*recipes)) == "double(W=<MLP 6-5-2>, n=<SGD lr=0.1>)"


def test_a_verdict_is_plain_data():
    verdict = score_object(TOY, lambda W, n=2: W + n)
    data = json.loads(json.dumps(verdict.to_dict()))
    assert data["passed"] is False
    assert data["misconception"] == "adds"
    assert [stage["passed"] for stage in data["stages"]] == [False, False, False]
    assert data["stages"][0]["problem"]["difference"]


def test_seeds_change_the_cases():
    def first(seed):
        return TOY.cases(TOY.stages[0], seed)[0].args[0]

    assert torch.equal(first("a"), first("a"))
    assert not torch.equal(first("a"), first("b"))
    remembered = {
        tuple(case.args[0].flatten().tolist()): run(case, double).value for case in TOY.cases(TOY.stages[0], "public")
    }
    by_heart = lambda W, n=2: remembered.get(tuple(W.flatten().tolist()))  # noqa: E731
    assert score_object(TOY, by_heart, "public").stages[0].passed
    assert not score_object(TOY, by_heart, "secret").stages[0].passed


def test_what_is_worked_out_once_is_that_of_its_own_seed_function_and_case():
    kept = make_exercise()
    functions = [double, *(mistake.wrong for mistake in kept.misconceptions)]
    for seed in ("public", "a", "b", "a"):
        for function in functions:
            assert score_declared(kept, function, seed) == score_object(make_exercise(), function, seed)


def test_an_outcome_that_came_too_late_is_not_kept(monkeypatch):
    """Perhaps the machine was busy."""
    exercise = make_exercise()
    case = worked_out(exercise, "public").cases["doubles"][0]
    late = Outcome(error=Raised(("TimeUp",), "took longer than 60 seconds"))
    with monkeypatch.context() as busy:
        busy.setattr("autograder.checking.known.run", lambda case, answer, seconds=0: late)
        assert known_outcome(exercise, abs, case, "public") == late
    assert known_outcome(exercise, abs, case, "public").error is None


def test_where_the_reference_takes_too_long_nothing_is_judged(monkeypatch):
    late = Outcome(error=Raised(("TimeUp",), "took longer than 60 seconds"))
    monkeypatch.setattr("autograder.checking.known.run", lambda case, answer, seconds=0: late)
    with pytest.raises(RuntimeError, match=r"toy\.double cannot be checked here: took longer than 60 seconds"):
        score_object(make_exercise(), double)


def test_what_wrong_cases_have_in_common_is_told():
    exercise = Exercise("toy.product", "product", "Multiply", 1, 1, ("Use @.",), reference=lambda W, x: W @ x)

    @exercise.stage("multiplies", points=1, exposes="W x.")
    def _(g):
        for rows, cols in ((3, 3), (2, 4), (4, 4), (5, 2)):
            yield call(torch.randn(rows, cols, generator=g), torch.randn(cols, generator=g))

    def square_only(W, x):
        return W @ x if len(W) == len(x) else W @ x + 1

    assert "right for square matrices only" in score_object(exercise, square_only).first_failure.problem.difference
    assert "square" not in score_object(exercise, lambda W, x: W @ x + 1).first_failure.problem.difference


def test_a_call_that_goes_wrong_later_is_told():
    exercise = Exercise("toy.add", "add_", "Add", 1, 1, ("Add.",), reference=lambda W: W.add_(1).clone())

    @exercise.stage("adds", points=1, exposes="One more each time.")
    def _(g):
        yield call(torch.randn(3, generator=g), times=3, changes=(0,))

    wrong = score_object(exercise, lambda W: W + 1).first_failure.problem.difference
    assert wrong.startswith("result of call 2[0]: expected ")
    assert "right in the first call, wrong in call 2" in wrong
