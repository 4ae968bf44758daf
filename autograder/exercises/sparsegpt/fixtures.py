"""Layers and inputs that the exercises of unit 04 work on: correlated inputs, unequal in size, and decisions that are not close."""

from collections.abc import Callable

import torch
from torch import Tensor

from autograder.exercises.sparsegpt import definition

SIZES = tuple((rows, n // rows) for n in (50, 90, 100, 112) for rows in range(2, 26) if n % rows == 0)  # of about 100 weights
CLEAR = 1e-3  # how far apart the last score that goes and the first that stays are at least, as a share


def inputs(g: torch.Generator, *shape: int, dead: tuple[int, ...] = ()) -> Tensor:
    """(..., cols) inputs: every feature a mixture of others, the largest about ten times the smallest; dead ones always 0."""
    cols = shape[-1]
    mix = torch.randn(cols, cols, generator=g) / cols**0.5 + 0.6 * torch.eye(cols)
    scale = 10 ** (torch.rand(cols, generator=g) - 0.5)
    X = (torch.randn(shape, generator=g) @ mix) * scale
    X[..., list(dead)] = 0
    return X


def hessian(g: torch.Generator, cols: int, dead: tuple[int, ...] = (), size: float = 1.0) -> Tensor:
    """(cols, cols) float32: the Hessian of some inputs, its living diagonal about `size` on average."""
    H = definition.hessian([inputs(g, 3 * cols, cols, dead=dead)])
    return (H * (size * (cols - len(dead)) / H.diagonal().sum())).float()


def weights(g: torch.Generator, rows: int, cols: int) -> Tensor:
    """(rows, cols), columns of unequal size."""
    return torch.randn(rows, cols, generator=g) * (0.5 + torch.rand(cols, generator=g))


def layer(
    g: torch.Generator,
    rows: int,
    cols: int,
    dead: tuple[int, ...] = (),
    faint: tuple[int, ...] = (),
    zeros_from: int | None = None,
    size: float = 1.0,
    ridge: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Weights and Hessian.

    Args:
        g: generator.
        rows: of the weights.
        cols: of both.
        dead: inputs that are always 0.
        faint: inputs that are all but 0; their weights are the largest.
        zeros_from: the column from which on every fourth weight is exactly 0.
        size: of the Hessian's diagonal.
        ridge: what is added to the diagonal, so that it needs no damping.

    Returns:
        Both, float32.
    """
    W, H = weights(g, rows, cols), hessian(g, cols, dead, size) + ridge * torch.eye(cols)
    strength = torch.ones(cols)
    strength[list(faint)] = 1e-13
    W[:, list(faint)] *= 100
    if zeros_from is not None:
        W[:, zeros_from:] *= torch.rand(rows, cols - zeros_from, generator=g) > 0.25
    return W, H * strength * strength[:, None]


def triangular(g: torch.Generator, cols: int) -> Tensor:
    """(cols, cols) float32 factor of a Hessian's inverse, whatever that may be: it is drawn itself."""
    return torch.randn(cols, cols, generator=g).triu(1) / cols**0.5 + torch.diag(torch.rand(cols, generator=g) + 0.5)


def clear(
    draw: Callable[[], tuple[Tensor, Tensor]], size: int, groups, damping: float, wakes: bool = False
) -> tuple[Tensor, Tensor]:
    """Weights and Hessian whose mask no rounding can change: drawn until every decision is clear.

    And, if one `wakes`, until a weight that was 0 stays, and is not 0 any more.
    """
    while True:
        W, H = draw()
        result = definition.prune(W, H, size, groups, damping)
        if result.gap > CLEAR and (not wakes or result.pruned[W == 0].any()):
            return W, H
