"""Torch's way to skip: how its work is cut among bags, blocks and threads changes nothing."""

import pytest
import torch
from matrices import ALL_DTYPES, assert_product, input_major, kept

from sparsity_edu.kernels.sparse_gemv import in_torch


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_threshold(tokens, dtype):
    W, x = input_major(515, 272, tokens, dtype)
    y = in_torch.threshold(W, x.view(tokens, 1, 515), (0.7,), (272,))
    assert y.shape == (tokens, 1, 272)
    assert_product(y[:, 0], kept(x, 0.7), W.T)


@pytest.mark.parametrize("share", [0.0, 0.002, 0.5, 1.0])
@pytest.mark.parametrize("bag", [1, 10_000, 2**20])
def test_bags_of_rows(bag, share, monkeypatch):
    """One row in a bag, some and a ragged last one, all; more threads than rows."""
    monkeypatch.setattr(in_torch, "BAG", bag)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    W, x = input_major(515, 272, 1, torch.float32)
    threshold = x.abs().sort().values[0, 515 - 1 - round(share * 515)].item() if share < 1 else -1.0
    assert int((x.abs() > threshold).sum()) == round(share * 515)
    assert_product(in_torch.threshold(W, x, (threshold,), (272,)), kept(x, threshold), W.T)


@pytest.mark.parametrize("n", [1, 2, 95])
@pytest.mark.filterwarnings("error")
def test_rows_in_any_order(n, monkeypatch):
    """Fewer than threads, as many, and a share of other length for each; some twice, and NaN in all that are not chosen."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    in_torch._csr_is_beta.cache_clear()
    W, x = input_major(96, 272, 1, torch.float32)
    W, idx = W.T.contiguous(), torch.randint(0, 272, (n,), generator=torch.Generator().manual_seed(2))
    kept = torch.full_like(W, torch.nan).index_copy(0, idx, W[idx])
    assert_product(in_torch.rows(kept, idx, x, None, 1), x, W[idx])


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("wrong", [-1, 272])
def test_rows_that_are_not_there(wrong, tokens):
    W, x = input_major(96, 272, tokens, torch.float32)
    with pytest.raises(IndexError):
        in_torch.rows(W.T.contiguous(), torch.tensor([3, wrong, 5]), x, None, 1)
