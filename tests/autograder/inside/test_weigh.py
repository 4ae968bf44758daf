"""What an object holds: dense matrices are found wherever they are kept, and what belongs to everybody is nobody's."""

import array
import functools
import mmap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from autograder.inside.weigh import weigh

DENSE = 64 * 1024 * 4  # bytes of the matrix that is kept
STORE: dict = {}


class Layer(nn.Module):
    def __init__(self, keep) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(64, 128))
        self.keep = keep(torch.randn(64, 1024))

    def forward(self, x):
        return x


class Class(Layer):
    kept = None

    def __init__(self) -> None:
        super().__init__(lambda dense: None)
        type(self).kept = torch.randn(64, 1024)


class Global(Layer):
    def __init__(self) -> None:
        super().__init__(lambda dense: None)
        STORE[0] = torch.randn(64, 1024)

    def forward(self, x):
        return x @ STORE[0]


class Small(bytes):
    def __sizeof__(self):
        return 1


def closure(dense):
    return lambda x: x @ dense


def default(dense):
    def f(x, dense=dense):
        return x @ dense

    return f


def mapped(dense):
    memory = mmap.mmap(-1, dense.nbytes)
    memory.write(dense.numpy().tobytes())
    return memory


WAYS = {
    "a tensor": lambda dense: [dense],
    "a view": lambda dense: {"row": dense[0]},
    "an array": lambda dense: dense.numpy()[1:],
    "bytes": lambda dense: dense.numpy().tobytes(),
    "bytes of its own size": lambda dense: Small(dense.numpy().tobytes()),
    "an array of Python's": lambda dense: array.array("f", dense.flatten().tolist()),
    "a list of numbers": lambda dense: dense.tolist(),
    "an attribute of a tensor": lambda dense: setattr(small := torch.zeros(1), "dense", dense) or small,
    "a mapping": mapped,
    "a closure": closure,
    "a default": default,
    "a partial": lambda dense: functools.partial(torch.matmul, dense),
    "a bound method": lambda dense: dense.matmul,
    "an iterator": lambda dense: iter([dense]),
    "a constant": lambda dense: eval(f"lambda: {dense.numpy().tobytes()!r}"),
    "an object": lambda dense: SimpleNamespace(a=SimpleNamespace(b=(dense,))),
    "objects in an array": lambda dense: np.array([dense.numpy().tobytes(), None], dtype=object),
}


@pytest.mark.parametrize("keep", WAYS.values(), ids=WAYS)
def test_what_is_kept_is_found(keep):
    assert sum(weigh(Layer(keep))) > DENSE


@pytest.mark.parametrize("kind", [Class, Global])
def test_what_is_kept_beside_the_object_is_found(kind):
    assert sum(weigh(kind())) > DENSE


@pytest.mark.parametrize("keep", [lambda dense: None, lambda dense: torch, lambda dense: nn.Linear, lambda dense: dense.shape])
def test_an_ordinary_module_weighs_little_more_than_its_tensors(keep):
    layer = Layer(keep)
    numbers, rest = weigh(layer)
    assert numbers == layer.values.nbytes
    assert 0 < rest < 10_000


def test_a_tensor_on_an_arrays_memory_counts_once():
    array = np.zeros(1000, dtype=np.float32)
    numbers, rest = weigh([array, torch.from_numpy(array), array[10:]])
    assert numbers == array.nbytes
    assert rest < 1000


def test_what_is_shared_counts_once():
    dense = torch.zeros(1000)
    numbers, rest = weigh([dense, dense[5:], dense.numpy(), [dense]])
    assert numbers == dense.nbytes
    assert rest < 0.2 * dense.nbytes
