"""Products stay within rounding of float64, read the weights that count and no others, and do not depend on an order."""

import numpy as np
import pytest
import torch
from interpreter import shuffled
from matrices import ALL_DTYPES, assert_product, input_major, kept

from autograder.inside.sanitizer import watch
from sparsity_edu.kernels.sparse_gemv import compact, cpu, gemv_columns, gemv_rows, gemv_threshold, products

SHAPES = [(300, 137, 1), (515, 272, 3), (64, 16, 8), (17, 300, 1), (1, 1, 2)]  # K, N, tokens: tails of every kind


@pytest.fixture(params=["interpreter", "torch"])
def either(request, monkeypatch):
    """Kernels in the interpreter, and torch without it. Compiled loops have tests of their own: they know no float16."""
    if request.param == "torch":
        monkeypatch.setattr(products, "runs_kernels", lambda x: False)
        monkeypatch.setattr(cpu, "can_run", lambda *tensors: False)


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize(("K", "N", "tokens"), SHAPES)
def test_threshold(K, N, tokens, dtype):
    W, x = input_major(K, N, tokens, dtype)
    with watch() as seen:
        y = gemv_threshold(W, x, 0.7)
    assert y.dtype == dtype
    assert_product(y, kept(x, 0.7), W.T)
    rows = int((x.abs().float() > 0.7).any(dim=0).sum())
    assert seen.of(W).bytes_loaded == rows * N * dtype.itemsize  # of exactly these rows, once
    assert seen.of(y).bytes_written == y.nbytes


@pytest.mark.parametrize(("K", "N", "tokens"), SHAPES)
def test_a_negative_threshold_skips_nothing_and_reads_nothing_else(K, N, tokens):
    W, x = input_major(K, N, tokens, torch.float16)
    with watch() as seen:
        y = gemv_threshold(W, x, -1.0)
    assert_product(y, x, W.T)
    assert seen.of(W).bytes_loaded == W.nbytes


@pytest.mark.usefixtures("either")
def test_inputs_at_the_threshold_are_skipped():
    W, x = input_major(6, 40, 1, torch.float16)
    x[0] = torch.tensor([0.5, -0.5, 0.5005, -0.5005, 0.0, 0.25])
    assert_product(gemv_threshold(W, x, 0.5), x * torch.tensor([0, 0, 1, 1, 0, 0]), W.T)


@pytest.mark.usefixtures("either")
def test_the_threshold_is_not_rounded_to_half_precision():
    W, x = input_major(2, 40, 1, torch.float16)
    x[0] = torch.tensor([0.1, -0.1]).half()  # 0.09998: below 0.1, which half precision rounds to it
    assert not gemv_threshold(W, x, 0.1).any()
    assert gemv_threshold(W, x, 0.0999).any()


@pytest.mark.usefixtures("either")
def test_a_threshold_is_compared_in_float32():
    """As which 0.1 is slightly more than 0.1: also where the threshold is one of numpy's numbers, which count as doubles."""
    W, x = input_major(2, 40, 1, torch.float32)
    x[0] = torch.tensor([0.1, -0.1])
    for threshold in (0.1, np.float64(0.1)):
        assert not gemv_threshold(W, x, threshold).any()


@pytest.mark.usefixtures("either")
def test_what_is_skipped_counts_as_zero_even_if_it_is_infinite():
    W, x = input_major(70, 40, 2, torch.float16)
    x[:, 13], W[13] = 0.0, torch.inf
    x[0, 20], W[20, 3] = 0.01, torch.nan
    x[1, 20] = 0.02
    assert_product(gemv_threshold(W, x, 0.1), kept(x, 0.1), W.nan_to_num(0, 0, 0).T)


@pytest.mark.usefixtures("either")
def test_nothing_is_large_enough():
    W, x = input_major(70, 40, 2, torch.float16)
    for tokens in (x, x[:1], x[:0]):
        assert torch.equal(gemv_threshold(W, tokens, 100.0), torch.zeros(len(tokens), 40).half())


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("tokens", [1, 3])
def test_projections_that_share_an_input(tokens):
    W, x = input_major(300, 371, tokens, torch.float16)
    sizes, thresholds = (200, 131, 40), (0.2, 1.1, 0.6)
    with watch() as seen:
        y = gemv_threshold(W, x, thresholds, sizes)
    for part, w, threshold in zip(y.split(sizes, 1), W.split(sizes, 1), thresholds, strict=True):
        assert_product(part, kept(x, threshold), w.T)
    large = [(x.abs() > threshold).any(dim=0).sum() for threshold in thresholds]
    if seen.memories:  # in the interpreter
        assert seen.of(W).bytes_loaded == 2 * sum(int(n) * size for n, size in zip(large, sizes, strict=True))


def test_the_order_of_programs_changes_no_bit():
    W, x = input_major(2000, 137, 1, torch.float32)
    first, atomic = gemv_threshold(W, x, 0.3), gemv_threshold(W, x, 0.3, atomic=True)
    orders = []
    for seed in range(5):
        with shuffled(seed) as order:
            assert torch.equal(gemv_threshold(W, x, 0.3), first)
        orders.append(tuple(order))
        with shuffled(seed):
            other = gemv_threshold(W, x, 0.3, atomic=True)
        assert_product(other, kept(x, 0.3), W.T)
        atomic = torch.cat([atomic, other])
    assert len(set(orders)) == 5
    assert len(atomic.unique(dim=0)) > 1  # sums in another order are others


# Chosen rows


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize(("K", "N", "tokens", "group"), [(300, 137, 1, 1), (96, 272, 3, 8), (64, 16, 8, 4)])
@pytest.mark.usefixtures("either")
def test_columns(K, N, tokens, group, index, dtype):
    W, x = input_major(K, N, tokens, dtype)
    idx = torch.randperm(K // group, generator=torch.Generator().manual_seed(1))[: K // group // 3].to(index)
    k = (idx[:, None] * group + torch.arange(group)).flatten()
    chosen = x[:, k].contiguous()
    with watch() as seen:
        y = gemv_columns(W, idx, chosen, group=group)
    assert_product(y, chosen, W[k].T)
    if seen.memories:
        assert seen.of(W).bytes_loaded == len(k) * N * dtype.itemsize


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize(("N", "K", "tokens", "group"), [(300, 137, 1, 1), (96, 772, 3, 8), (64, 16, 8, 4)])
@pytest.mark.usefixtures("either")
def test_rows(N, K, tokens, group, index, dtype):
    W, x = input_major(K, N, tokens, dtype)
    W = W.T.contiguous()
    idx = torch.randperm(N // group, generator=torch.Generator().manual_seed(1))[: N // group // 3].to(index)
    k = (idx[:, None] * group + torch.arange(group)).flatten()
    with watch() as seen:
        y = gemv_rows(W, idx, x, group=group)
    assert y.dtype == dtype
    assert_product(y, x, W[k])
    if seen.memories:
        assert seen.of(W).bytes_loaded == len(k) * K * dtype.itemsize


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("tokens", [1, 3])
def test_only_so_many_indices_count(tokens):
    """As `compact` gives them: what follows is neither read nor multiplied."""
    W, x = input_major(90, 50, tokens, torch.float16)
    mask = torch.rand(50, generator=torch.Generator().manual_seed(3)) > 0.7
    idx, count = compact(mask)
    n = int(count)
    assert n == mask.sum()
    y = gemv_rows(W.T.contiguous(), idx, x, count)
    assert_product(y[:, :n], x, W.T[mask])
    assert not y[:, n:].any()
    padded = torch.full((tokens, 50), torch.nan).half()
    padded[:, :n] = y[:, :n]
    down = W.T.contiguous()
    assert_product(gemv_columns(down, idx, padded, count), y[:, :n], down[mask].T)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("n", [1, 70, 5000, 8192])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_compaction(n, share):
    mask = torch.rand(n, generator=torch.Generator().manual_seed(n)) < share
    idx, count = compact(mask)
    assert idx.dtype == count.dtype == torch.int32
    assert torch.equal(idx[:count], mask.nonzero()[:, 0].int())


@pytest.mark.usefixtures("either")
def test_no_index_is_no_work():
    W, x = input_major(96, 40, 2, torch.float16)
    none = torch.empty(0, dtype=torch.int32)
    assert gemv_rows(W, none, input_major(40, 1, 2, torch.float16)[1]).shape == (2, 0)
    assert torch.equal(gemv_columns(W, none, x[:, :0]), torch.zeros(2, 40).half())


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("leading", [(), (1,), (2, 1, 3), (0, 2)])
def test_the_shape_of_x_is_kept(leading):
    W = torch.ones(12, 20)
    idx = torch.arange(3)
    x = torch.ones(*leading, 12)
    assert torch.equal(gemv_threshold(W, x, 0.5), 12 * torch.ones(*leading, 20))
    assert torch.equal(gemv_columns(W, idx, x, group=4), 12 * torch.ones(*leading, 20))
    assert torch.equal(gemv_rows(W.T.contiguous(), idx, x, group=5), 12 * torch.ones(*leading, 15))


W, X = input_major(96, 40, 2, torch.float16)
IDX = torch.arange(5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gemv_threshold(W, X[:, :50].contiguous(), 0.1),
            r"x must be \(..., 96\) in torch.float16 on cpu, got \(2, 50\)",
        ),
        (lambda: gemv_threshold(W, X.float(), 0.1), "got .* in torch.float32"),
        (lambda: gemv_threshold(W, X.to("meta"), 0.1), "on meta"),
        (
            lambda: gemv_threshold(W, torch.cat([X, X]).T.contiguous().T, 0.1),
            r"x must be contiguous: call x.contiguous\(\) first",
        ),
        (lambda: gemv_threshold(W.T.contiguous().T, X, 0.1), "W must be contiguous"),
        (lambda: gemv_threshold(W, X.repeat(5, 1), 0.1), "x must hold at most 8 tokens, got 10"),
        (lambda: gemv_threshold(W, X, 0.1, sizes=(20, 10)), r"sizes must be positive and sum to 40, .* got \(20, 10\)"),
        (lambda: gemv_threshold(W, X, (0.1, 0.2, 0.3), sizes=(20, 20)), "one for each of 2 projections, got 3"),
        (lambda: gemv_threshold(W, X, 0.1, atomic=True), "atomic sums are for one token, got 2"),
        (lambda: gemv_columns(W, IDX, X), r"x must be \(..., 5\)"),
        (lambda: gemv_rows(W, IDX.float(), X[:, :40].contiguous()), r"idx must be \(n,\) in int32 or int64 on cpu"),
        (lambda: gemv_rows(W, IDX, X[:, :40].contiguous(), group=7), "group must divide the 96 rows of W, got 7"),
        (lambda: compact(torch.ones(3)), r"mask must be contiguous, of shape \(n,\), and bool, got \(3,\) in torch.float32"),
    ],
)
def test_arguments_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()
