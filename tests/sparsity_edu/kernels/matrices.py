"""Matrices for the tests of kernels, and when a product of theirs is right."""

import torch

DTYPES = (torch.float16, torch.bfloat16)
ALL_DTYPES = (*DTYPES, torch.float32)
# the interpreter truncates to bfloat16, a GPU rounds
EPSILON = {torch.float32: 2**-23, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def two_four_matrix(N, K, dtype=torch.float16, seed=0):
    """Groups with two, one and no non-zeros."""
    g = torch.Generator().manual_seed(seed)
    count = torch.tensor([0, 1, 2, 2, 2])[torch.randint(5, (N, K // 4, 1), generator=g)]
    kept = torch.rand(N, K // 4, 4, generator=g).argsort(-1).argsort(-1) < count
    return (torch.randn(N, K, generator=g) * kept.view(N, K)).to(dtype)


def input_major(K, N, tokens, dtype, seed=0):
    """Weights (K, N), and inputs (tokens, K)."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(K, N, generator=g).to(dtype), torch.randn(tokens, K, generator=g).to(dtype)


def kept(x, threshold):
    """Inputs that exceed a threshold; the others are 0."""
    return torch.where(x.abs().double() > threshold, x, 0)


def assert_product(y, x, W):
    """Within one rounding of the exact product, and what float32 sums may lose."""
    exact = x.double() @ W.double().T
    size = x.double().abs() @ W.double().abs().T
    error = (y.double() - exact).abs()
    assert (error <= EPSILON[y.dtype] * exact.abs() + 2**-20 * size + 1e-7).all(), (error / size).max()
