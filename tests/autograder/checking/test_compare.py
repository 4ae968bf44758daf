"""When an answer is right, and what is said when it is not."""

import math

import numpy as np
import pytest
import torch

from autograder.checking.compare import Rules, difference, kind
from autograder.inside.case import Opaque
from autograder.inside.observe import observe

NAN, INF = math.nan, math.inf
T = torch.tensor


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (T([1.0, 2.0]), T([1.0, 2.0])),
        (T([1.0, 100.0 + 9e-4]), T([1.0, 100.0])),  # 1e-5 of the largest magnitude
        (T([9e-4, 100.0]), T([0.0, 100.0])),
        (T([INF, -INF, 1.0]), T([INF, -INF, 1.0])),
        (T([-0.0, 1.0]), T([0.0, 1.0])),
        (T([], dtype=torch.float64), T([], dtype=torch.float64)),
        (T([True, False]), T([True, False])),
        (T([2, 3]), T([2, 3])),
        (T([1 + 2j]), T([1 + 2j])),
        (T(0.5), 0.5),
        (T([[0.5]]), 0.5),
        (T(0.3), 0.3),  # float32 is close enough
        (T(3), 3),
        (T(True), True),
        (1, 1.0),
        (3.0, 3),
        (INF, INF),
        (0.0, 0.0),
        ("csr", "csr"),
        (None, None),
        ([1, [T([1.0])]], [1, [T([1.0])]]),
        ({"b": 1, "a": [2.0]}, {"a": [2.0], "b": 1}),
        ([], []),
    ],
)
def test_these_are_right(got, want):
    assert difference(got, want, Rules()) is None


@pytest.mark.parametrize(
    ("got", "want", "where"),
    [
        (T([1.0, NAN]), T([1.0, NAN]), "result[1]"),  # NaN never passes, not even against NaN
        (T([NAN]), T([0.0]), "result[0]"),
        (NAN, NAN, "result"),
        (NAN, 1.0, "result"),
        (5.0, INF, "result"),
        (INF, 5.0, "result"),
        (T([5.0]), T([INF]), "result[0]"),
        (T([INF, 1.0]), T([1.0, 1.0]), "result[0]"),
        (T([-INF]), T([INF]), "result[0]"),
        (T([1.0, 100.0 + 2e-3]), T([1.0, 100.0]), "result[1]"),
        (T([1e-6]), T([0.0]), "result[0]"),  # nothing is small beside zero
        (1e-12, 0.0, "result"),
        (0.30001, 0.3, "result"),
        (T([[1.0, 2.0]]), T([1.0, 2.0]), "result.shape"),
        (T([1.0, 2.0]), T([[1.0, 2.0]]), "result.shape"),
        (T([[1.0], [2.0]]), T([[1.0, 2.0]]), "result.shape"),  # would broadcast
        (T([1.0]), T([1.0, 1.0]), "result.shape"),
        (T([1.0], dtype=torch.float64), T([1.0]), "result.dtype"),
        (T([1.0], dtype=torch.bfloat16), T([1.0], dtype=torch.float16), "result.dtype"),
        (T([1.0, 0.0]), T([True, False]), "result.dtype"),
        (T([1, 0]), T([True, False]), "result.dtype"),
        (T([True, True]), T([True, False]), "result[1]"),
        (torch.arange(1000) < 999, torch.arange(1000) < 1000, "result[999]"),  # one of a thousand
        (T([2, 4]), T([2, 3]), "result[1]"),
        (T([1.0 + 0j]), T([1.0]), "result.dtype"),
        (T([1 + 2j]), T([1 - 2j]), "result[0]"),
        (T(0.5 + 0j), 0.5, "result"),
        (0.5 + 0j, 0.5, "result"),
        (True, 1, "result"),
        (1, True, "result"),
        (T(True), 1.0, "result"),
        ("0.5", 0.5, "result"),
        (0.5, "0.5", "result"),
        (None, 0.5, "result"),
        (0.5, None, "result"),
        (None, T([1.0]), "result"),
        (0.5, T(0.5), "result"),
        ([1.0, 2.0], T([1.0, 2.0]), "result"),
        (np.array([1.0]), T([1.0]), "result"),
        (np.array([0.5]), 0.5, "result"),
        (T([0.5, 0.5]), 0.5, "result"),
        (Opaque("generator"), [1], "result"),
        (T([1.0]), [T([1.0])], "result"),
        ([1], [1, 2], "result"),
        ([1, 2, 3], [1, 2], "result"),
        ([1, 3], [1, 2], "result[1]"),
        ([[1, 2], [3, NAN]], [[1, 2], [3, 4.0]], "result[1][1]"),
        ([1, 2], {"a": 1}, "result"),
        ({"a": 1}, {"a": 1, "b": 2}, "result's keys"),
        ({"a": 1, "c": 3}, {"a": 1}, "result's keys"),
        ({0: 1}, {"0": 1}, "result's keys"),
        ({"a": T([True])}, {"a": T([False])}, "result['a'][0]"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "result['a']['b']"),
    ],
)
def test_these_are_wrong_and_the_first_place_is_named(got, want, where):
    wrong = difference(got, want, Rules())
    assert wrong.where == where
    assert wrong.got != wrong.expected or wrong.got == "nan"


def test_tolerance_is_relative_to_the_reference_not_to_the_answer():
    assert difference(T([1e9, 1.0]), T([1.0, 1.0]), Rules()).where == "result[0]"
    assert difference(T([1e-9, 2e-9]), T([1e-9, 1e-9]), Rules()).where == "result[1]"


def test_tolerance_zero_means_equal():
    just_beside = torch.nextafter(T([1.0]), T([2.0]))
    assert difference(just_beside, T([1.0]), Rules()) is None
    wrong = difference(just_beside, T([1.0]), Rules(tolerance=0))
    assert wrong.got != wrong.expected  # although both are 1 when rounded


def test_scale_is_the_least_the_tolerance_relates_to():
    fraction = Rules(tolerance=1e-5, scale=1)
    assert difference(1e-16, 0.0, fraction) is None
    assert difference(T([9e-6, 0.5]), T([0.0, 0.5]), fraction) is None
    assert difference(2e-5, 0.0, fraction)
    assert difference(T([2e-5, 0.5]), T([0.0, 0.5]), fraction)


def test_exact_zeros_allows_nothing_beside_zero():
    rules = Rules(exact_zeros=True)
    assert difference(T([1.0 + 1e-6, -0.0]), T([1.0, 0.0]), rules) is None
    assert difference(T([1.0, 1e-9]), T([1.0, 0.0]), rules).where == "result[1]"


def test_masks_are_exact_whatever_the_tolerance():
    assert difference(T([True]), T([False]), Rules(tolerance=100))
    assert difference(T([7]), T([8]), Rules(tolerance=100))


def test_the_message_names_place_values_and_extent():
    want = torch.zeros(4, 6)
    got = want.clone()
    got[2, 3] = got[3, 0] = 0.25
    assert str(difference(got, want, Rules())) == "result[2, 3]: expected 0, got 0.25 (2 of 24 entries differ)"
    assert str(difference(T(1.0), T(2.0), Rules())) == "result: expected 2, got 1"
    assert str(difference(None, 0.5, Rules())) == "result: expected the number 0.5, got None (is there a return?)"
    assert "return" not in str(difference({"a": None}, {"a": T([1.0])}, Rules()))
    assert "torch.from_numpy" in str(difference(np.zeros(2), T([0.0, 0.0]), Rules()))


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**4,
        ["y"] * 10**4,
        {str(i): i for i in range(10**3)},
        10**300,
        -(10**300),
        1 + 1j,
        NAN,
        INF,
        Opaque("Thing"),
        b"",
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("want", [0.5, 1, "text", None, True, T([1.0]), [1], {"a": 1}])
def test_any_value_against_any_other_gives_a_short_sentence(value, want):
    for got, expected in [(observe(value), want), ([observe(value)], [want]), ({"a": observe(value)}, {"a": want})]:
        assert 10 < len(str(difference(got, expected, Rules()))) < 2000


def test_a_module_is_no_dict_of_its_tensors():
    layer = observe(torch.nn.Linear(2, 1))
    tensors = {name: layer[name] for name in ("weight", "bias")}
    assert str(difference(tensors, layer, Rules())) == "result: expected a module, got a dict with 2 entries"
    assert difference(layer, tensors, Rules()).without_values() == "result: something else than a dict"
    assert difference(layer, layer, Rules()) is None


@pytest.mark.parametrize("value", [T([1.0]), np.zeros(3), [1], {"a": 1}, None, Opaque("set"), True, "a", 1, 0.5, 1j, NAN])
def test_kind_describes_everything(value):
    assert isinstance(kind(value), str)


def test_a_short_tuple_is_shown():
    assert str(difference(None, ["block", 0], Rules())) == "result: expected ('block', 0), got None (is there a return?)"


W = torch.tensor([[1.0, 2.0, 3.0], [0.0, 4.0, 5.0], [0.0, 0.0, 6.0]])


@pytest.mark.parametrize(
    ("got", "want", "told"),
    [
        (W.T, W, "yours is the transpose of what is expected; yours is lower triangular"),
        (W + 1, W, "yours has no exact zeros, expected 3"),
        (W * torch.tensor([1, 1, 0]), W, "6 zeros, expected 3"),
        (2 * W, W, "yours is 2 times what is expected"),
        (-W, W, "yours is the negative of what is expected"),
        (W > 0, W == 0, "yours is the opposite everywhere"),
        (W > 1, W > 0, "5 are True, expected 6"),
    ],
)
def test_facts_of_a_result_as_a_whole_are_told(got, want, told):
    wrong = difference(got, want, Rules())
    assert str(wrong).endswith(f"entries differ; {told})")
    assert told not in wrong.without_values()


@pytest.mark.parametrize("got", [W + torch.nan, W * torch.inf, W + torch.tensor([0.0, 0.1, 0.0]), W * 1.00004])
def test_where_there_is_no_fact_none_is_told(got):
    assert str(difference(got, W, Rules())).endswith(("entries differ)", "zeros, expected 3)"))
