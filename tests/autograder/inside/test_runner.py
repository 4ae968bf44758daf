"""Student code is run with fresh arguments, in time, quietly, and without a trace."""

import contextlib
import functools
import math
import signal
import sys
import threading
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from autograder.inside.case import AGAIN, STRIDED, Case, Opaque, call, script
from autograder.inside.outcome import equal
from autograder.inside.recipes import MLP, Optimizer
from autograder.inside.runner import MAX_PRINTED, run


def touched(case, outcome):
    """The arguments that are others than an answer that does nothing leaves."""
    methods = {name: lambda self, *_: None for name, *_ in case.calls}
    idle = type("Idle", (), methods | {"__init__": lambda self, *_, **__: None}) if case.calls else lambda *_, **__: None
    return [key for key, value in run(case, idle).after.items() if not equal(outcome.after[key], value)]


MODEL = MLP((torch.ones(2, 3), torch.ones(1, 2)), (torch.zeros(2), torch.zeros(1)))


def test_the_answer_is_what_the_call_returns():
    outcome = run(call(torch.tensor([1.0]), 2, name="x"), lambda W, n, name: (W * n, name))
    assert [outcome.value[0].tolist(), outcome.value[1]] == [[2.0], "x"]
    assert (outcome.error, outcome.printed) == (None, "")
    assert touched(call(torch.tensor([1.0]), 2, name="x"), outcome) == []


def test_arguments_are_fresh_for_every_run():
    def greedy(W, options, model, keep):
        W.zero_()
        options["list"].append(1)
        nn.init.zeros_(model[0].weight)
        return W.sum() + len(options["list"]) + model[0].weight.sum()

    W = torch.ones(3)
    case = call(W, {"list": [0]}, MODEL, keep=W)
    first, second = run(case, greedy), run(case, greedy)
    assert first.value == second.value == 2
    assert touched(case, first) == [0, 1, 2]  # `keep` is another copy
    assert W.tolist() == [1, 1, 1]
    assert case.args[1] == {"list": [0]}


@pytest.mark.parametrize(
    ("change", "which"),
    [
        (lambda a, b, c: None, []),
        (lambda a, b, c: a.add_(1), [0]),
        (lambda a, b, c: a.data.mul_(0), [0]),
        (lambda a, b, c: a.unsqueeze_(0), [0]),
        (lambda a, b, c: b.pop(), [1]),
        (lambda a, b, c: b[0].zero_(), [1]),
        (lambda a, b, c: b.__setitem__(0, b[0].double()), [1]),
        (lambda a, b, c: b.__setitem__(1, np.zeros(3)), [1]),
        (lambda a, b, c: b.append(b), None),
        (lambda a, b, c: c.clear(), ["c"]),
        (lambda a, b, c: c.update(x=float("nan")), ["c"]),
        (lambda a, b, c: (a.zero_(), c.clear()), [0, "c"]),
    ],
)
def test_changed_arguments_are_seen(change, which):
    case = call(torch.tensor([1.0, float("nan")]), [torch.ones(2), None], c={"x": 1.0})  # a NaN that stays is no change
    outcome = run(case, change)
    if which is None:  # an argument that holds itself cannot be looked at
        assert outcome.error.types[0] == "RecursionError"
    else:
        assert touched(case, outcome) == which


def test_changed_arguments_of_methods_are_seen():
    class Greedy:
        def __init__(self, start):
            self.kept = start

        def keep(self, X):
            self.kept = X

        def read(self, X):
            return X.sum()

        def spoil(self):
            self.kept.zero_()

    X = torch.ones(2)
    calls = [("keep", X), ("read", X), ("spoil",)]
    for some, which in (
        (calls[:2], []),
        (calls, ["of keep()"]),
        (calls[2:], [0]),
    ):  # later, but it is the caller's all the same
        case = script(X, calls=some)
        assert touched(case, run(case, Greedy)) == which


def shared(model, W):
    new = nn.Linear(3, 2)
    new.weight = model[0].weight
    return {"layers": [new], "rows": W[1:]}


def copied(model, W):
    return {"layers": (nn.Linear(3, 2),), "rows": W[1:].clone(), "expanded": W.new_ones(1).expand(3), "name": "x"}


PROBES = pytest.mark.parametrize("probe", [AGAIN, STRIDED])


@PROBES
@pytest.mark.parametrize(("answer", "which"), [(shared, [0, 1]), (copied, [])])
def test_what_shares_memory_with_a_result_shows_in_a_probe(answer, which, probe):
    outcome = run(replace(call(MODEL, torch.ones(2, 3)), probe=probe), answer)
    before, overwritten = outcome.again["arguments"], outcome.again["overwritten"]
    assert [key for key in before if not equal(before[key], overwritten[key])] == which
    assert outcome.value["rows"].tolist() == outcome.again["second"]["rows"].tolist() == [[1, 1, 1]]  # observed before
    assert touched(call(MODEL, torch.ones(2, 3)), outcome) == []


@PROBES
def test_a_buffer_that_is_used_again_shows_in_a_probe(probe):
    buffer = torch.zeros(2)
    case = replace(call(torch.ones(2)), probe=probe)
    outcome = run(case, lambda W: torch.add(W, 1, out=buffer))
    assert (outcome.value.tolist(), outcome.again["second"].tolist()) == ([2, 2], [2, 2])
    assert outcome.again["kept"].tolist() == [0, 0]  # overwritten as the second result
    assert equal((fine := run(case, lambda W: W + 1)).again["kept"], fine.value)


@PROBES
def test_two_objects_are_used_in_turns_in_a_probe(probe):
    class Shared:
        total = torch.zeros(1)

        def add(self, n):
            self.total += n
            return self.total.clone()

    class Own(Shared):
        def __init__(self):
            self.total = torch.zeros(1)

    case = replace(script(calls=[("add", 1), ("add", 10)]), probe=probe)
    sums = [[value.item() for value in values] for values in (run(case, Own).value, run(case, Own).again["second"])]
    assert sums == [[1, 11], [1, 11]]
    assert [value.item() for value in run(case, Shared).value] == [1, 12]


def test_a_kernel_is_probed_under_the_watch():
    case = replace(call(torch.ones(4), watched=()), probe=AGAIN)
    assert run(case, lambda x: torch.empty(3)).value.isnan().all()


def test_a_probe_gives_the_same_values_in_tensors_that_are_not_contiguous():
    seen = []
    values = torch.arange(24.0).view(2, 3, 4), torch.arange(3), torch.tensor(5.0), {"x": [torch.ones(2, 2, dtype=torch.bool)]}
    run(replace(call(*values), probe=STRIDED), lambda *args: seen.append(args))
    for X, n, scalar, nested in seen:
        assert not any(tensor.is_contiguous() for tensor in (X, X[0], X.mT, n, nested["x"][0]))
        assert equal([X, n, scalar, nested["x"][0]], [*values[:3], values[3]["x"][0]])


def test_a_probe_finds_models_in_use_and_looks_at_what_is_left_of_that():
    def settings(answer):
        again = run(replace(call(MODEL, changes=(0,)), probe=STRIDED), answer).again
        (found_first, found), (left_first, left) = ([of_use[0][0] for of_use in again[part]] for part in ("found", "settings"))
        assert found_first["modules in evaluation mode"] == "none"
        changed = {name: left[name] for name in left if not equal(left[name], found[name])}
        first = {name: left_first[name] for name in left_first if not equal(left_first[name], found_first[name])}
        return first | changed

    def replaced(model):
        model[2].weight = nn.Parameter(model[2].weight.detach())

    assert settings(lambda model: None) == {}
    assert settings(lambda model: model.train()) == {"modules in evaluation mode": "none"}
    assert settings(lambda model: model[1].eval()) == {"modules in evaluation mode": "1"}
    assert settings(lambda model: model[0].weight.requires_grad_(False)) == {"frozen parameters": "0.weight"}
    assert settings(lambda model: model.register_forward_hook(print)) == {"hooks": "the model"}
    assert settings(lambda model: model[0].bias.register_hook(print)) == {"hooks": "0.bias"}
    assert settings(replaced)["parameters that were replaced"] == "2.weight"
    assert settings(lambda model: model.zero_grad())["gradients"] == dict.fromkeys(["0.weight", "0.bias", "2.weight", "2.bias"])


def test_gradients_are_of_a_weighted_sum_of_all_results():
    case = call(torch.ones(3), torch.ones(2), MODEL, n=torch.ones(3), gradients=(0, 1, 2, "n"))
    grads = run(case, lambda a, b, model, n: [a * 2, {"x": model(a[None])}, n.detach() * a]).gradients
    weights = torch.arange(1.0, 4).cos()
    assert torch.allclose(grads[0], 3 * weights + math.cos(1) * 2)
    assert grads[1] is None
    assert grads["n"] is None
    assert grads[2][3].tolist() == pytest.approx([math.cos(1)])  # the last bias of the model
    assert run(case, lambda *_, **__: 1.0).gradients == {0: None, 1: None, 2: [None] * 4, "n": None}


def test_all_arguments_are_part_of_the_outcome():
    outcome = run(call(torch.ones(2), torch.ones(2), changes=(1,), n=3), lambda a, b, n: (a.add_(1), b.add_(1)))
    assert {key: observed for key, observed in outcome.after.items() if key == "n"} == {"n": 3}
    assert [outcome.after[key].tolist() for key in (0, 1)] == [[2, 2], [2, 2]]


def test_several_calls_share_their_arguments():
    def step(model, optimizer):
        optimizer.zero_grad()
        loss = model(torch.ones(1, 3)).sum()
        loss.backward()
        optimizer.step()
        return loss.item()

    case = call(MODEL, Optimizer("SGD", of=0, options={"lr": 0.1}), changes=(0,), times=3)
    losses = run(case, step).value
    assert len(losses) == 3
    assert losses[0] == 6
    assert losses[0] > losses[1] > losses[2]
    assert isinstance(run(call(MODEL, Optimizer("SGD", of=0)), step).value, float)


class Counter:
    def __init__(self, start, by=1):
        self.values = torch.tensor([start])
        self.by = by

    def add(self, n):
        self.values += n * self.by
        return self.values  # the same tensor each time: it must be looked at before the next call

    def fail(self):
        raise LookupError("here")


def test_a_class_is_constructed_and_its_methods_called_in_order():
    outcome = run(script(1, by=2, calls=[("add", 1), ("add", 10)]), Counter)
    assert [value.tolist() for value in outcome.value] == [[3], [23]]
    assert run(script(1, calls=[("fail",)]), Counter).error.types[0] == "LookupError"
    assert run(script(1, calls=[("lost",)]), Counter).error.types[0] == "AttributeError"


class Odd(Exception):
    def __str__(self):
        raise RuntimeError("no")


class Mine(ValueError):
    pass


@pytest.mark.parametrize(
    ("error", "types", "message"),
    [
        (ValueError("first\nsecond"), ("ValueError", "Exception"), "first"),
        (Mine("m" * 9999), ("Mine", "ValueError", "Exception"), "m" * 300),
        (SystemExit(3), ("SystemExit",), "3"),
        (NotImplementedError(), ("NotImplementedError", "RuntimeError", "Exception"), ""),
        (GeneratorExit("g"), ("GeneratorExit",), "g"),
        (Odd(), ("Odd", "Exception"), "(its message cannot be printed)"),
        (ValueError("\ud800"), ("ValueError", "Exception"), "?"),
    ],
)
def test_exceptions_are_outcomes(error, types, message):
    def answer():
        raise error

    raised = run(call(), answer).error
    assert (raised.types, raised.message) == (types, message)
    assert raised.line.endswith("raise error")


def test_sys_exit_does_not_end_the_check():
    assert run(call(), lambda: sys.exit("bye")).error.types == ("SystemExit",)


def test_keyboard_interrupt_passes_through():
    def answer():
        raise KeyboardInterrupt

    stdout = sys.stdout
    with pytest.raises(KeyboardInterrupt):
        run(call(), answer)
    assert sys.stdout is stdout
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


class Thing:
    def __call__(self, W):
        return W.view(7)  # here


@pytest.mark.parametrize(
    "answer",
    [
        lambda W: W.view(7),  # here
        Thing(),
        functools.partial(Thing()),
        torch.no_grad()(lambda W: W.view(7)),  # here
        lambda W: [W.view(7) for _ in sorted([2, 1], key=lambda n: n)],  # here
        lambda W: nn.Sequential(nn.Linear(3, 3))(W),  # here
    ],
)
def test_the_line_of_an_error_is_the_students_own(answer):
    assert run(call(torch.ones(4)), answer).error.line.endswith("# here")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs SIGALRM")
class TestTimeLimit:
    def loop(self):
        while True:
            pass

    def excepts(self):
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    def swallows_one(self):
        try:
            self.loop()
        except BaseException:
            self.loop()

    def returns_an_endless_list(self):
        class Endless(list):
            def __iter__(self):
                while True:
                    yield 1

        return Endless()

    @pytest.mark.parametrize("kind", ["loop", "excepts", "swallows_one", "returns_an_endless_list"])
    def test_an_endless_loop_ends(self, kind):
        before = signal.getsignal(signal.SIGALRM)
        start = time.monotonic()
        outcome = run(call(), getattr(self, kind), seconds=0.1)
        assert time.monotonic() - start < 5
        assert outcome.error.types == ("TimeUp",)
        assert "longer than 0.1 seconds" in outcome.error.message
        assert outcome.value is None
        assert signal.getsignal(signal.SIGALRM) is before
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)

    def test_the_alarm_is_off_afterwards(self):
        assert run(call(), lambda: 1, seconds=0.05).value == 1
        time.sleep(0.1)

    def test_other_threads_have_no_alarm_but_work(self):
        outcomes = []
        thread = threading.Thread(target=lambda: outcomes.append(run(call(2), lambda n: n + 1)))
        thread.start()
        thread.join()
        assert outcomes[0].value == 3


def test_what_is_printed_is_kept_and_nothing_reaches_the_screen(capsys):
    def answer():
        print("to stdout")
        print("to stderr", file=sys.stderr)
        warnings.warn("a warning", stacklevel=1)
        sys.stdout.write("half a surrogate \ud800")

    with warnings.catch_warnings():  # as outside of pytest
        warnings.resetwarnings()
        warnings.showwarning = lambda message, *rest: print(message, file=sys.stderr)
        outcome = run(call(), answer)
    assert outcome.printed == "to stdout\nto stderr\na warning\nhalf a surrogate ?"
    assert capsys.readouterr() == ("", "")


def test_what_is_printed_before_an_error_is_kept():
    def answer():
        print("so far")
        raise ValueError

    assert run(call(), answer).printed == "so far\n"


def test_endless_printing_is_cut():
    outcome = run(call(), lambda: [print("x" * 999) for _ in range(2000)] and 1)
    assert len(outcome.printed) == MAX_PRINTED
    assert outcome.value == 1


def test_closing_stdout_closes_nothing(capsys):
    outcome = run(call(), lambda: (print("a"), sys.stdout.close(), print("b"))[0])
    assert (outcome.printed, outcome.error) == ("a\nb\n", None)
    print("still there")
    assert capsys.readouterr().out == "still there\n"


def test_random_numbers_are_the_same_for_every_run_and_the_notebooks_own_go_on():
    state = torch.get_rng_state()
    case = call(MODEL, Optimizer("Adam", of=0, warm_steps=1))  # building layers draws numbers too
    first = run(case, lambda *_: torch.rand(3)).value
    run(case, lambda *_: torch.manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(run(case, lambda *_: torch.rand(3)).value, first)


def test_torchs_settings_are_the_same_for_every_run_and_the_notebooks_own_stay():
    def settings():
        return [torch.is_grad_enabled(), torch.ones(()).dtype == torch.float32]

    def answer():
        seen = settings()
        torch.set_grad_enabled(not seen[0])
        torch.set_default_dtype(torch.float64)
        return seen

    assert run(call(), answer).value == [True, True]
    assert settings() == [True, True]
    try:
        torch.set_default_dtype(torch.float64)
        with torch.no_grad():
            assert run(call(), answer).value == [True, True]
            assert settings() == [False, False]
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_cannot_be_observed_is_told_by_its_type():
    assert run(call(), lambda: (n for n in [1])).value == Opaque("generator")


def test_an_answer_that_holds_itself_is_an_error():
    def answer():
        values = []
        values.append(values)
        return values

    assert run(call(), answer).error.types[0] == "RecursionError"


def test_a_case_is_plain_data():
    assert call(1, times=2, changes=(0,), gradients=(0,), a=2) == Case((1,), {"a": 2}, changes=(0,), times=2, gradients=(0,))
    assert script(1, calls=[("add", 1)]) == Case((1,), calls=(("add", 1),))
