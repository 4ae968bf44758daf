"""Whatever student code makes becomes plain values, and nothing that its objects overload has a say."""

from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from autograder.inside.case import MODULE, Opaque
from autograder.inside.observe import Recorder, observe


class Liar:
    """Says yes to every comparison."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = object.__hash__


class AnyFloat(Liar, float):
    __hash__ = float.__hash__


class AnyInt(Liar, int):
    __hash__ = int.__hash__


class AnyStr(Liar, str):
    __hash__ = str.__hash__


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")


class LyingTensor(torch.Tensor):
    def __eq__(self, other):
        return torch.ones(())

    def isfinite(self):
        return True


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda W: W.clone().requires_grad_(), None),
        (lambda W: nn.Parameter(W), None),
        (lambda W: W.clone().requires_grad_() * 1.0, None),
        (lambda W: W.T.contiguous().T, None),
        (lambda W: W.to_sparse(), None),
        (lambda W: W.to_sparse_csr(), None),
        (lambda W: W.as_subclass(LyingTensor), None),
        (lambda W: W[0].expand(3, 4), [[1.0, 0.0, 2.0, 3.0]] * 3),
        (lambda W: W + 0j, [[1.0, 0.0, 2.0, 3.0], [0.0, 4.0, 0.0, 5.0]]),
    ],
)
def test_every_tensor_becomes_a_plain_one(make, expected):
    W = torch.tensor([[1.0, 0.0, 2.0, 3.0], [0.0, 4.0, 0.0, 5.0]])
    seen = observe(make(W))
    assert type(seen) is torch.Tensor
    assert not seen.requires_grad
    assert seen.layout == torch.strided
    assert seen.tolist() == (expected or W.tolist())


def test_a_tensor_is_copied():
    W = torch.zeros(2)
    seen = observe([W])
    W += 1
    assert seen[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(0.25), 0.25),
        (np.where(True, 0.5, 1), 0.5),
        (AnyFloat(0.5), 0.5),
        (AnyInt(7), 7),
        (AnyStr("a"), "a"),
        (1 + 2j, 1 + 2j),
        (None, None),
        (False, False),
    ],
)
def test_numbers_and_text_become_plain(value, expected):
    seen = observe(value)
    assert type(seen) is type(expected)
    assert seen == expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Liar(), "Liar"),
        (Unprintable(), "Unprintable"),
        ((i for i in range(3)), "generator"),
        (range(10**12), "range"),
        ({1, 2}, "set"),
        (len, "builtin_function_or_method"),
        (b"bytes", "bytes"),
        (np.longdouble(1), "longdouble"),
        (torch.zeros(2, device="meta"), "meta tensor, which holds no values"),
        (1 << 5000, "int, and it has 5001 bits"),
    ],
    ids=lambda value: type(value).__name__,  # repr is not to be trusted here
)
def test_the_rest_is_known_by_its_type(value, kind):
    assert observe(value) == Opaque(kind)


def test_collections_keep_their_structure():
    Pair = namedtuple("Pair", "a b")
    assert observe((1, [2, Pair(3, torch.Size([4]))])) == [1, [2, [3, [4]]]]
    assert observe(OrderedDict(b=1, a=(2,))) == {"a": [2], "b": 1}


def test_keys_become_plain_too():
    layer = nn.Linear(1, 1)
    seen = observe({AnyStr("fc"): 1, ("a", 0): 2, np.int64(5): 3, layer: 4, Unprintable(): 5})
    assert list(seen) == ["fc", ("a", 0), 5, Opaque("Linear"), Opaque("Unprintable")]
    assert type(next(iter(seen))) is str


def test_a_module_is_its_state():
    layer = nn.Linear(2, 1)
    seen = observe(nn.Sequential(layer))
    assert seen.keys() == {MODULE, "0.weight", "0.bias"}  # a state dict is another thing
    assert torch.equal(seen["0.weight"], layer.weight)


def test_a_linear_layer_has_its_sizes_too():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight = nn.Parameter(torch.ones(3, 2))
    seen = observe(layer)
    assert (seen["in_features"], seen["out_features"]) == (2, 1)
    assert seen["weight"].shape == (3, 2)


def test_an_array_is_copied():
    array = np.zeros(2)
    seen = observe(array)
    array += 1
    assert seen.tolist() == [0, 0]


def test_a_recorder_is_what_was_said_of_each_call_at_the_time():
    def add(W, by):
        W += by
        return W

    recorder, W = Recorder(add), torch.zeros(2)
    before = observe(recorder)
    assert recorder(W, 1) is None
    recorder(by=2, W=W)
    with pytest.raises(TypeError, match="by"):
        recorder(W)
    assert [seen.tolist() for seen in observe(recorder)] == [[1, 1], [3, 3]]
    assert before == []
