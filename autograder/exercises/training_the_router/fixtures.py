"""Probabilities, choices and noise that the exercises of unit 09 work on."""

from collections.abc import Callable

import torch
from torch import Tensor

CLEAR = 1e-3  # how far apart numbers are of which one is chosen, and a number and its limit: no rounding decides


def rows(tokens: int, draw: Callable[[int], list[Tensor]], accept: Callable[..., Tensor]) -> list[Tensor]:
    """So many tokens that are accepted, of all tensors that are drawn together."""
    kept: list[Tensor] = []
    while not kept or len(kept[0]) < tokens:
        drawn = draw(tokens)
        good = accept(*drawn)
        drawn = [part[good] for part in drawn]
        kept = [torch.cat(parts) for parts in zip(kept, drawn, strict=True)] if kept else drawn
    return [part[:tokens].clone() for part in kept]


def apart(values: Tensor, by: float = CLEAR) -> Tensor:
    """(tokens,): whether the finite numbers of a row are so far apart; infinite ones stand off by themselves."""
    ordered = values.sort(dim=-1).values
    gaps = ordered[:, 1:] - ordered[:, :-1]
    return (gaps.nan_to_num(nan=torch.inf) > by).all(dim=-1)


def clear_best(values: Tensor) -> Tensor:
    """(tokens,): whether the largest number of a row stands off the next."""
    best = values.topk(2, dim=-1).values
    return best[:, 0] - best[:, 1] > CLEAR


def uneven(g: torch.Generator, tokens: int, experts: int, spread: float = 1.5) -> Tensor:
    """(tokens, experts) logits in which some experts are more popular, and some tokens surer than others."""
    popular = torch.linspace(-1, 1, experts)[torch.randperm(experts, generator=g)]
    sure = 3 ** (torch.rand(tokens, 1, generator=g) - 0.5)
    return spread * sure * (torch.randn(tokens, experts, generator=g) + popular)


def some_mask(g: torch.Generator, tokens: int, real: int) -> Tensor:
    """(tokens,) boolean, True at so many places."""
    return torch.zeros(tokens, dtype=torch.bool).index_fill(0, torch.randperm(tokens, generator=g)[:real], True)
