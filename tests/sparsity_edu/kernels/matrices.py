"""Matrices for the tests of 2:4."""

import torch

DTYPES = (torch.float16, torch.bfloat16)


def two_four_matrix(N, K, dtype=torch.float16, seed=0):
    """Groups with two, one and no non-zeros."""
    g = torch.Generator().manual_seed(seed)
    count = torch.tensor([0, 1, 2, 2, 2])[torch.randint(5, (N, K // 4, 1), generator=g)]
    kept = torch.rand(N, K // 4, 4, generator=g).argsort(-1).argsort(-1) < count
    return (torch.randn(N, K, generator=g) * kept.view(N, K)).to(dtype)
