"""Unit 16: its fixtures and kernels against the library, and what its cases have to hold."""

import pytest
import torch

from autograder.exercises import find
from autograder.exercises.sparse_gemv.fixtures import (
    ROUNDED,
    THRESHOLD,
    edges,
    eighths,
    inputs,
    large,
    poisoned,
    product,
    wanted,
    weights,
)
from sparsity_edu.kernels import roofline


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("K", "N", "kept", "tokens", "splits"), [(64, 48, 20, 1, 1), (80, 50, 33, 3, 7), (7, 5, 0, 2, 2)])
def test_the_work_is_the_library_s(K, N, kept, tokens, splits):
    theirs = roofline.threshold_gemv(N, K, kept, tokens, splits=splits)
    moved, operations, seconds = find("sparse_gemv.work").reference(K, N, kept, tokens, splits, 1e9, 1e10)
    assert (moved, operations) == (theirs.bytes, theirs.operations)
    assert seconds == theirs.seconds(roofline.Machine("", 1e9, 1e10))


def test_which_rows_count():
    assert ROUNDED > THRESHOLD
    x = torch.tensor([ROUNDED, -ROUNDED, 0.25, float("nan"), -1.0, float("inf")]).half()
    assert large(x, THRESHOLD).tolist() == [True, True, False, False, True, True]
    assert large(x, ROUNDED).tolist() == [False, False, False, False, True, True]
    hard = edges(inputs(generator(0), 3, 20))
    assert wanted(hard, THRESHOLD)[1]
    assert not wanted(hard, ROUNDED)[1]
    assert wanted(inputs(generator(1), 40), THRESHOLD)[-1]  # the last row is not lost unseen


@pytest.mark.parametrize(("T", "K", "N"), [(1, 64, 48), (3, 101, 70), (8, 40, 129)])
def test_products_are_the_library_s(T, K, N):
    pytest.importorskip("triton")
    from autograder.exercises.sparse_gemv import kernels
    from sparsity_edu.kernels import sparse_gemv as library

    g = generator(T)
    x = edges(inputs(g, T, K, live=0.3))
    W = poisoned(weights(g, K, N), wanted(x, THRESHOLD))
    want = product(W, x, THRESHOLD)
    theirs = library.gemv_threshold(torch.where(wanted(x, THRESHOLD)[:, None], W, 0), x.nan_to_num(0.0), THRESHOLD)
    for y in (kernels.two_stages(W, x, THRESHOLD), kernels.in_one(W, x[0], THRESHOLD)[None] if T == 1 else theirs, theirs):
        torch.testing.assert_close(y.double(), want, rtol=1e-3, atol=1e-3 * want.abs().max().item())


def test_partial_sums_add_up_to_the_product():
    pytest.importorskip("triton")
    from autograder.exercises.sparse_gemv import kernels

    g = generator(5)
    W, x = eighths(weights(g, 37, 21)), eighths(inputs(g, 37))
    parts = kernels.parts(W, x[None], THRESHOLD, 5)
    assert torch.equal(parts.sum(0)[0].double(), product(W, x, THRESHOLD))
    assert torch.equal(kernels.one_by_one(W, x, THRESHOLD, 5), parts[:, 0])


def test_chosen_rows_are_the_library_s():
    pytest.importorskip("triton")
    from autograder.exercises.sparse_gemv import kernels
    from sparsity_edu.kernels import sparse_gemv as library

    g = generator(6)
    W, x = weights(g, 50, 70), torch.randn(70, generator=g).half()
    idx, count = torch.randperm(50, generator=g)[:13].int(), torch.tensor([9], dtype=torch.int32)
    torch.testing.assert_close(
        kernels.gathered(W, idx, count, x), library.gemv_rows(W, idx, x, count=count), rtol=1e-3, atol=1e-2
    )
    assert not kernels.gathered(W, idx, count, x)[9:].any()
