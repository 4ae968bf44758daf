"""Matrices that the exercises of unit 01 work on."""

import torch
from torch import Tensor


def holed(g: torch.Generator, *shape: int, zeros: float = 0.5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small non-zero numbers of either sign, which every dtype holds exactly, and a share of zeros."""
    values = torch.randint(1, 60, shape, generator=g) * (torch.randint(2, shape, generator=g) * 2 - 1)
    return values.masked_fill(torch.rand(shape, generator=g) < zeros, 0).to(dtype)
