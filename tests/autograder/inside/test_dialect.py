"""Kernels as plain data: what is Triton goes there and back, and nothing else is run."""

import json

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

from autograder.inside.dialect import NotTriton, made, plain, plain_value, value_of

FACTOR = tl.constexpr(3)
TWO = 2


@triton.jit
def scaled(value, factor: tl.constexpr = TWO, sign: tl.constexpr = -1):
    """Of a helper the docstring does not go."""
    return value * factor * sign * sign


@triton.jit
def kernel(x, y, n, KIND: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = scaled(tl.load(x + at, mask=at < n, other=0.0), FACTOR).to(KIND)
    if n > 10:
        value += tl.math.abs(value) * 0
    tl.store(y + at, value.to(y.dtype.element_ty), mask=at < n)


@triton.jit
def opens(x, y, n, KIND: tl.constexpr, BLOCK: tl.constexpr):
    eval("x")


@triton.jit
def uses_torch(x, y, n, KIND: tl.constexpr, BLOCK: tl.constexpr):
    torch.zeros(1)


def test_a_kernel_does_there_what_it_does_here():
    x, here, there = torch.arange(20.0), torch.zeros(20), torch.zeros(20)
    functions = plain(kernel)
    assert json.loads(json.dumps(functions)) == functions
    assert [sorted(f["names"]) for f in functions] == [["FACTOR", "scaled", "tl"], ["tl"]]
    kernel[(2,)](x, here, 20, KIND=tl.float16, BLOCK=16)
    kind = value_of(plain_value("KIND", tl.float16))
    made(functions)[(2,)](x=x, y=there, n=20, KIND=kind, BLOCK=16)
    assert torch.equal(here, 3 * x)
    assert torch.equal(there, here)


@pytest.mark.parametrize(("wrong", "names"), [(opens, "eval"), (uses_torch, "torch")])
def test_a_kernel_that_is_more_than_triton_is_named(wrong, names):
    with pytest.raises(NotTriton, match=names):
        plain(wrong)


BODIES = [
    "__import__('os').system('x')",
    "tl.load.__globals__",
    "tl.core.builtins.open('x')",
    "tl.sum.fn(x)",
    "x.handle.data.tofile('x')",
    "triton.runtime.driver",
    "print.__self__",
    "(1).__class__.__bases__",
    "exec('x')",
    "getattr(tl, 'core')",
    "'{0.handle}'.format(x)",
    "f'{x.__class__}'",
    "[open(a) for a in 'x']",
    "(lambda: open('x'))()",
    "import os",
    "global os",
    "with open('x'): pass",
    "try: pass\n    except Exception: pass",
    "def f(): pass",
    "class A: pass",
    "(y := x)",
    "os.system('x')",
]


@pytest.mark.parametrize("body", BODIES)
def test_nothing_but_triton_is_made(body):
    names = {"tl": {"module": "triton.language"}, "triton": {"module": "triton"}}
    with pytest.raises(NotTriton):
        made([{"source": f"def k(x):\n    {body}", "names": names}])


FORGED = [
    ("def k(x=open('x')): open = x", {}),
    ("def k(x: open('x')): pass", {}),
    ("@print\ndef k(x): pass", {}),
    ("def k(x) -> open('x'): pass", {}),
    ("def k(*x): pass", {}),
    ("open('x')", {}),
    ("class k: pass", {}),
    ("def k(x): pass", {"__builtins__": 1}),
    ("def k(x): m.system()", {"m": {"module": "os"}}),
    ("def k(x): m(x)", {"m": {"tl": "core"}}),
    ("def k(x): m(x)", {"m": {"tl": "__loader__"}}),
]


@pytest.mark.parametrize(("source", "names"), FORGED)
def test_forged_functions_are_not_made(source, names):
    with pytest.raises((NotTriton, KeyError)):
        made([{"source": source, "names": names}])
