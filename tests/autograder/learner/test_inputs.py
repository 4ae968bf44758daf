"""The arguments of a failing call, as the learner's function had them."""

import traceback

import pytest
import torch
from torch import nn

from autograder import check
from autograder.checking.known import PUBLIC_SEED
from autograder.exercises import all_exercises, find
from autograder.inside.case import Case
from autograder.inside.recipes import RunningTraining
from autograder.learner import inputs as module

ID = "magnitude.prune"
RIGHT = find(ID).reference


@pytest.fixture(autouse=True)
def nobody_else(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSITY_EDU_PROGRESS", str(tmp_path))
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    monkeypatch.setattr(module, "_failed", {})


def calls_of(answer):
    """An answer that notes its arguments, and the notes."""
    seen = []

    def noting(*args, **kwargs):
        seen.append((*args, *kwargs.values()))
        return answer(*args, **kwargs)

    return noting, seen


def wrong_from(limit):
    """Right but for large matrices, where it forgets the copy's last weight."""

    def answer(W, sparsity):
        pruned = RIGHT(W, sparsity)
        if W.numel() >= limit:
            pruned.view(-1)[-1] += 1
        return pruned

    return answer


@pytest.mark.parametrize("limit", [0, 30, 100])
def test_it_is_the_call_that_the_report_shows(limit):
    answer, seen = calls_of(wrong_from(limit))
    report = check(ID, answer)
    assert not report.passed
    W, sparsity = check.inputs(ID)
    first = next(call for call in seen if call[0].numel() >= limit)
    assert torch.equal(W, first[0])
    assert sparsity == first[1]
    assert repr(check.inputs(ID)) == f"the arguments of {report.first_failure.problem.case}"


def test_the_report_says_how_to_have_them():
    report = check(ID, wrong_from(0))
    statement = 'W, sparsity = check.inputs("magnitude.prune")'
    assert f"inputs:     `{statement}` gives the call's arguments, to print and step through." in repr(report)
    assert "W, sparsity = check.inputs(&quot;magnitude.prune&quot;)</code>" in report._repr_html_()
    namespace = {"check": check}
    exec(statement, namespace)
    assert namespace["W"].ndim == 2
    assert "check.inputs" not in repr(check(ID, RIGHT))


@pytest.mark.parametrize("exercise", all_exercises(), ids=lambda exercise: exercise.id)
def test_every_exercises_statement_runs(exercise):
    def answer(*args, **kwargs):
        raise ZeroDivisionError

    if exercise.is_class:
        answer = type("Answer", (), {"__init__": answer})
    report = check(exercise.id, answer)
    namespace = {"check": check}
    exec(report.inputs, namespace)
    found = check.inputs(exercise.id)
    assert len(found) == len(found.args) + len(found.kwargs) == len(list(found))
    with pytest.raises(ZeroDivisionError):
        found.run(answer)


def test_they_are_built_anew_each_time():
    check(ID, wrong_from(0))
    W, _ = check.inputs(ID)
    before = W.clone()
    W.zero_()
    assert torch.equal(check.inputs(ID).args[0], before)


def test_of_calls_that_look_alike_it_is_the_one_that_fails(monkeypatch):
    """Large tensors are described by their sizes."""
    stage = find(ID).stages[0]
    cases = [Case((torch.full((8, 8), float(i)) + torch.arange(64).view(8, 8) / 100, 0.5)) for i in range(3)]
    monkeypatch.setattr(type(stage), "cases", property(lambda self: lambda g: cases), raising=False)
    monkeypatch.setattr(find(ID), "known", {})

    def answer(W, sparsity):
        return RIGHT(W, sparsity) + (W[0, 0] == 1)

    check(ID, answer)
    W, _ = check.inputs(ID)
    assert W[0, 0] == 1
    monkeypatch.setattr(find(ID), "known", {})


def test_without_a_check_that_failed_they_are_those_of_the_first_case():
    exercise = find(ID)
    W, sparsity = exercise.cases(exercise.stages[0], PUBLIC_SEED)[0].args
    for _ in range(2):
        first = check.inputs(ID)
        assert torch.equal(first.args[0], W)
        assert first.args[1] == sparsity
        check(ID, wrong_from(100))
        check(ID, RIGHT)  # what failed before is mended


def test_a_stub_has_no_failing_call():
    def stub(W, sparsity):
        raise NotImplementedError

    assert check(ID, stub).inputs == ""


def test_models_and_trainings_come_built():
    assert isinstance(check.inputs("magnitude.sparsity").args[0], nn.Module)
    training, *_ = check.inputs("lottery_tickets.train")
    assert isinstance(training, RunningTraining)


def test_of_a_class_there_are_the_calls_of_its_methods():
    class InputNorm:
        def __init__(self, cols):
            self.squares = torch.zeros(cols)

        def add(self, X):
            self.squares = self.squares + X.float().square().reshape(-1, X.shape[-1]).sum(dim=0)

        def norm(self):
            return self.squares.sqrt()

    report = check("wanda.norm", InputNorm)
    assert report.inputs == 'inputs = check.inputs("wanda.norm")'
    found = check.inputs("wanda.norm")
    thing = InputNorm(*found.args)
    by_hand = [getattr(thing, method)(*given) for method, *given in found.calls]
    assert {method for method, *_ in found.calls} == {"add", "norm"}
    for a, b in zip(found.run(InputNorm), by_hand, strict=True):
        assert (a is b is None) or torch.equal(a, b)


def test_a_case_that_calls_an_argument_runs_too():
    found = next(
        case
        for stage in find("lottery_tickets.snapshot").stages
        for case in find("lottery_tickets.snapshot").cases(stage, PUBLIC_SEED)
        if any(isinstance(name, int) for name, *_ in case.calls)
    )
    args, kwargs = module._built(found)
    results = module.Inputs("", args, kwargs, (), found).run(find("lottery_tickets.snapshot").reference)
    assert len(results) == len(found.calls)


def test_an_error_comes_where_it_is_made():
    def answer(W, sparsity):
        return W @ W.T @ W.T @ torch.ones(3)

    check(ID, answer)
    with pytest.raises(RuntimeError):
        check.inputs(ID).run(answer)


def test_what_no_gpu_forgives_is_an_error_too():
    errors = pytest.importorskip("triton.runtime.errors")
    wrong = next(m.wrong for m in find("sparse_gemv.gather").misconceptions if m.name == "no bound of the list")
    assert "outside all of its arguments" in repr(check("sparse_gemv.gather", wrong))
    with pytest.raises(errors.InterpreterError) as error:
        check.inputs("sparse_gemv.gather").run(wrong)
    assert "outside all of its arguments" in "".join(traceback.format_exception(error.value))


def test_an_unknown_exercise_is_told_with_its_neighbours():
    with pytest.raises(ValueError, match=r"unknown exercise 'magnitude\.prun'; did you mean magnitude\.prune"):
        check.inputs("magnitude.prun")
