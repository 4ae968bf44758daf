"""Inputs, weights and networks that the exercises of unit 05 work on."""

from collections.abc import Callable

import torch
from torch import Tensor

from autograder.inside.recipes import Module

WIDTHS = tuple((cols,) for cols in range(20, 121))
CLEAR = 1e-4  # by how much, of its size, a number that decides stands off its threshold: no rounding swaps the two


def inputs(g: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    """Activations (..., cols) as language models have them: features of unequal scale, correlated, with means of their own."""
    x = torch.randn(shape, generator=g) @ (torch.eye(shape[-1]) + 0.4 * torch.randn(shape[-1], shape[-1], generator=g))
    return scale * (x + torch.randn(shape[-1], generator=g)) * 10 ** (1.5 * torch.rand(shape[-1], generator=g) - 1)


def norms(g: torch.Generator, cols: int) -> Tensor:
    """(cols,) norms of inputs over one and a half decades."""
    return 10 ** (1.5 * torch.rand(cols, generator=g) - 0.5)


def clear(score: Tensor, count: int) -> bool:
    """Whether the `count` smallest scores of every group (the last dimension) stand off the next larger one."""
    ascending = score.double().sort(dim=-1).values
    return not 0 < count < score.shape[-1] or bool((ascending[..., count] > (1 + CLEAR) * ascending[..., count - 1]).all())


def redraw(draw: Callable, accept: Callable):
    """The first draw that is accepted."""
    while not accept(drawn := draw()):
        pass
    return drawn


def linear(W: Tensor, b: Tensor | None, kind: str = "Linear") -> Module:
    """`nn.Linear` with these parameters."""
    state = {"weight": W} if b is None else {"weight": W, "bias": b}
    return Module(kind, (W.shape[1], W.shape[0], b is not None), state)
