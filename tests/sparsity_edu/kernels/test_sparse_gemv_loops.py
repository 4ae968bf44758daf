"""Compiled products are exact to float32 sums, rounded once, for any number of threads; what is skipped is not looked at."""

import pytest
import torch
from matrices import assert_product, input_major, kept

from sparsity_edu.kernels.sparse_gemv import cpu, in_torch, loops

DTYPES = (torch.float32, torch.bfloat16)
SHAPES = [(300, 137, 1), (515, 272, 3), (64, 16, 8), (9, 4 * loops.BLOCK + 5, 2), (1, 1, 2)]  # K, N, tokens


@pytest.fixture(params=["one thread", "three threads"])
def either(request):
    if request.param == "three threads":
        request.getfixturevalue("threads")


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("K", "N", "tokens"), SHAPES)
def test_threshold(K, N, tokens, dtype):
    W, x = input_major(K, N, tokens, dtype)
    y = loops.threshold(W, x.view(tokens, 1, K), (0.7,), (N,))
    assert y.shape == (tokens, 1, N)
    assert y.dtype == dtype
    assert_product(y[:, 0], kept(x, 0.7), W.T)
    assert torch.equal(y, loops.threshold(W.float(), x.float().view(tokens, 1, K), (0.7,), (N,)).to(dtype))  # rounded once


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 3])
def test_thresholds_of_sections(tokens, dtype):
    W, x = input_major(300, 371, tokens, dtype)
    sizes, thresholds = (200, 131, 40), (0.2, 1.1, 0.6)
    y = loops.threshold(W, x, thresholds, sizes)
    for part, w, threshold in zip(y.split(sizes, 1), W.split(sizes, 1), thresholds, strict=True):
        assert_product(part, kept(x, threshold), w.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_no_bit(dtype, monkeypatch, threads):
    (W, x), idx = input_major(2000, 137, 2, dtype), torch.arange(0, 2000, 3)
    each = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        each.append((cpu.threshold(W, x, (0.3,), (137,)), cpu.columns(W, idx, x[:, :667], None, 1)))
    for threshold, columns in each[1:]:
        assert torch.equal(threshold, each[0][0])
        assert torch.equal(columns, each[0][1])


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("way", [loops, in_torch])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_skipped_counts_as_zero(way, dtype):
    """NaN exceeds no threshold."""
    W, x = input_major(70, 40, 2, dtype)
    x[:, 13], W[13] = 0.0, torch.inf
    x[0, 20], W[20, 3] = 0.125, torch.nan
    x[1, 20] = torch.nan
    x[:, 30] = torch.nan
    y = way.threshold(W, x, (0.125,), (40,))
    assert_product(y, kept(x, 0.125), W.nan_to_num(0, 0, 0).T)
    assert not way.threshold(W, x, (100.0,), (40,)).any()
    assert not way.threshold(W, x, (torch.inf,), (40,)).any()
    assert not way.threshold(W, x, (torch.nan,), (40,)).any()


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("way", [loops, in_torch])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_chosen_counts_even_if_it_is_infinite(way, dtype):
    W, x = torch.ones(20, 3, dtype=dtype), torch.ones(2, 20, dtype=dtype)
    x[0, 4], W[7, 1], W[9, 2] = -torch.inf, torch.inf, torch.nan
    y = way.threshold(W, x, (0.5,), (3,))
    expected = torch.tensor([[-torch.inf, torch.nan, torch.nan], [20, torch.inf, torch.nan]]).to(dtype)
    torch.testing.assert_close(y, expected, equal_nan=True)


@pytest.mark.parametrize("leading", [(), (1,), (2, 1, 3), (0, 2)])
def test_the_shape_of_x_is_kept(leading):
    x = torch.ones(*leading, 12)
    assert torch.equal(loops.threshold(torch.ones(12, 20), x, (0.5,), (20,)), 12 * torch.ones(*leading, 20))
    assert torch.equal(
        loops.threshold(torch.ones(12, 20), x[..., ::3].repeat_interleave(3, -1), (0.5,), (20,)), 12 * torch.ones(*leading, 20)
    )


# Chosen rows


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("K", "N", "tokens", "group"), [(300, 137, 1, 1), (96, 2 * loops.BLOCK + 3, 3, 8), (64, 16, 8, 4)])
def test_columns_and_rows(K, N, tokens, group, dtype):
    """Of weights that are NaN where nobody asked for them."""
    W, x = input_major(K, N, tokens, dtype)
    idx = torch.randperm(K // group, generator=torch.Generator().manual_seed(1))[: K // group // 3]
    k = (idx[:, None] * group + torch.arange(group)).flatten()
    known, z = torch.full_like(W, torch.nan).index_copy(0, k, W[k]), input_major(N, 1, tokens, dtype, seed=1)[1]
    for index in (idx, idx.int()):
        assert_product(loops.columns(known, index, x[:, : len(k)], None, group), x[:, : len(k)], W[k].T)
        assert_product(loops.rows(known, index, z, None, group), z, W[k])


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", DTYPES)
def test_only_so_many_indices_count(dtype):
    W, x = input_major(50, 90, 3, dtype)
    idx, count = torch.tensor([3, 7, 49, -9, 1000], dtype=torch.int32), torch.tensor([3], dtype=torch.int32)
    padded = torch.cat([x[:, :3], torch.full((3, 2), torch.nan, dtype=dtype)], dim=1)
    assert_product(loops.columns(W, idx, padded, count, 1), x[:, :3], W[idx[:3]].T)
    z = input_major(90, 1, 3, dtype)[1]
    y = loops.rows(W, idx, z, count, 1)
    assert_product(y[:, :3], z, W[idx[:3]])
    assert not y[:, 3:].any()
    none = torch.tensor([0], dtype=torch.int32)
    assert not loops.columns(W, idx, padded, none, 1).any()
    assert not loops.rows(W, idx, z, none, 1).any()


@pytest.mark.parametrize("wrong", [-1, 24])
def test_rows_that_are_not_there(wrong):
    W, x = input_major(96, 40, 1, torch.float32)
    idx = torch.tensor([3, wrong, 5])
    for call in (lambda: loops.rows(W, idx, x[:, :40], None, 4), lambda: loops.columns(W, idx, x[:, :12], None, 4)):
        with pytest.raises(IndexError, match=f"idx must be of groups of rows of W, 0 to 23, got .*{wrong}"):
            call()


# The choice


def test_loops_are_taken_where_they_can_run(monkeypatch):
    taken = []
    for way in (loops, in_torch):
        monkeypatch.setattr(way, "threshold", lambda W, *rest, way=way: taken.append(way))
    W = torch.ones(20, 30)
    for some in (W, W.bfloat16(), W.half(), W.double(), W.T.contiguous().T, W.clone().requires_grad_()):
        cpu.threshold(some, some[:, 0], (0.5,), (30,))
    assert taken == [loops] * 2 + [in_torch] * 4


def test_gradients_come_from_torch():
    W, x = input_major(20, 30, 2, torch.float32)
    W.requires_grad_()
    cpu.threshold(W, x, (0.5,), (30,)).sum().backward()
    torch.testing.assert_close(W.grad, kept(x, 0.5).sum(0)[:, None].expand(20, 30))
