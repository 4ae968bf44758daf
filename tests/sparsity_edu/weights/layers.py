"""A layer and its inputs on which plausible mistakes show: all dimensions differ, inputs are correlated and of unequal scale,
batches are unequal, some inputs are dead, and columns do not fill whole blocks."""

import torch
from torch import Tensor

ROWS, COLS, DEAD = 95, 300, (3, 40, 41, 129, 200, 256, 299)


def layer(rows: int = ROWS, cols: int = COLS, dead: tuple[int, ...] = DEAD, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """W (rows, cols) and three batches (sequences, tokens, cols) of 2, 1 and 3 sequences."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(cols, cols, generator=g) / cols**0.5 + 0.5 * torch.eye(cols)
    scale = 10 ** torch.linspace(-0.5, 0.5, cols)[torch.randperm(cols, generator=g)]
    batches = [(k + 1) * torch.randn(n, 120, cols, generator=g) @ mix * scale for k, n in enumerate((2, 1, 3))]
    for X in batches:
        X[..., list(dead)] = 0
    return torch.randn(rows, cols, generator=g) / cols**0.5, batches
