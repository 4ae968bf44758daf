"""Loops run on torch's threads or on one, survive what numba does not, and can be missing."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from sparsity_edu.kernels import compiled
from sparsity_edu.kernels.compiled import Loops, can_run, number, numbers, prange


@Loops
def double(x, y):
    for i in prange(len(x)):
        y[i] = 2 * number(x[i])


def doubled(x):
    y = np.empty(len(x), np.float32)
    double(len(x), numbers(x), y)
    return torch.from_numpy(y)


@pytest.fixture(params=["one thread", "three threads"])
def either(request):
    if request.param == "three threads":
        request.getfixturevalue("threads")


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers(dtype):
    x = torch.tensor([0.0, -0.0, 1.5, -3e38, 1e-40, torch.inf, -torch.inf, torch.nan]).to(dtype)
    assert torch.equal(doubled(x).view(torch.int32)[:7], (2 * x.float()).view(torch.int32)[:7])
    assert doubled(x)[7].isnan()


def test_a_fork_and_a_second_caller(threads):
    """Numba's threads end the process in both cases, with no error that could be caught."""
    x = torch.arange(1000.0)
    assert torch.equal(doubled(x), 2 * x)
    assert not compiled.THREADS.locked()
    if (child := os.fork()) == 0:
        os._exit(0 if torch.equal(doubled(x), 2 * x) else 1)
    assert os.waitpid(child, 0)[1] == 0
    with compiled.THREADS:
        assert torch.equal(doubled(x), 2 * x)


def test_threads_are_given_back_where_loops_fail(threads):
    with pytest.raises(TypeError):
        double(10, np.zeros(10, np.float32))
    assert not compiled.THREADS.locked()


def test_a_learner_is_told_what_takes_long(capsys):
    """Here each time, for code of no file is not kept."""
    space = {"prange": prange}
    exec("def triple(x):\n for i in prange(len(x)):\n  x[i] *= 3", space)
    x, triple = np.ones(5, np.float32), Loops(space["triple"])
    triple(5, x)
    assert capsys.readouterr().err == "compiling triple for this processor, once: a few seconds ...\n"
    triple(5, x)
    assert not capsys.readouterr().err
    assert (x == 9).all()


def test_what_loops_know():
    x = torch.ones(3)
    assert can_run(x, x.bfloat16())
    assert not any(can_run(x, other) for other in (x.half(), x.double(), x.int(), x.to("meta")))
    x.requires_grad_()  # they give none
    assert not can_run(x)
    with torch.no_grad():
        assert can_run(x)
    assert numbers(x).shape == (3,)


WITHOUT = """
import sys
sys.modules["numba"] = None
import torch
from sparsity_edu.kernels.sparse_attention import sparse_decode
from sparsity_edu.kernels.sparse_gemv import gemv_columns, gemv_rows, gemv_threshold
W, x, idx = torch.arange(12.0).view(4, 3), torch.tensor([1.0, 0.25, -2.0, 0.5]), torch.tensor([2, 0])
print(gemv_threshold(W, x, 0.5).tolist(), gemv_columns(W, idx, x[:2]).tolist(), gemv_rows(W, idx, x[:3]).tolist())
print(sparse_decode(torch.ones(1, 1, 4), torch.ones(1, 1, 3, 4), W.T.reshape(1, 1, 3, 4), torch.zeros(1, 1, 1).int()).tolist())
"""


def test_without_numba_torch_does_it():
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    run = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True)
    assert run.stdout.splitlines() == [
        "[-12.0, -13.0, -14.0] [6.0, 7.25, 8.5] [-8.25, -3.75]",
        "[[[1.0, 4.0, 7.0, 10.0]]]",
    ], run.stderr
