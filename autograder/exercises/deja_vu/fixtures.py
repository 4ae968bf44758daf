"""Activations, labels and predictors that the exercises of unit 13 work on."""

from collections.abc import Callable

import torch
from torch import Tensor

CLEAR = 1e-3  # how far apart numbers are, relative to the larger, of which one is chosen and the other is not


def redraw(draw: Callable[[], object], accept: Callable[[object], bool]):
    """The first draw that is accepted: what a case is there to show must be there on every seed."""
    for _ in range(2000):
        drawn = draw()
        if accept(drawn):
            return drawn
    raise RuntimeError("no draw was accepted")


def normal(g: torch.Generator, *shape: int, size: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return size * torch.randn(shape, generator=g, dtype=dtype)


def apart(values: Tensor) -> Tensor:
    """(tokens,): whether no two of a token's positive numbers are close."""
    ordered = values.sort(dim=-1).values
    return ((ordered[:, 1:] - ordered[:, :-1]) > CLEAR * ordered[:, 1:]).all(dim=-1)


def head_outputs(g: torch.Generator, tokens: int, heads: int, head_dim: int) -> Tensor:
    """(tokens, heads, head_dim), flat heads and peaked ones, so that the order is another for each measure of size."""
    kept: list[Tensor] = []
    while len(kept) < tokens:
        flat = normal(g, 1, heads, head_dim)
        peaked = 0.3 * flat.sign() * flat.abs() ** (1 + 4 * torch.rand(1, heads, 1, generator=g))
        drawn = peaked * 2 ** normal(g, 1, heads, 1, size=0.4)
        if bool(apart(drawn.norm(dim=-1))):
            kept.append(drawn[0])
    return torch.stack(kept)


def some(g: torch.Generator, low: int, high: int) -> int:
    """An int of [low, high)."""
    return int(torch.randint(low, high, (), generator=g))
