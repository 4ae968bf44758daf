"""Gradients, Hessians and weights that the exercises of unit 03 work on."""

from collections.abc import Callable

import torch
from torch import Tensor


def correlated(g: torch.Generator, P: int, d: int) -> Tensor:
    """(P, d) vectors whose entries depend on each other and differ in scale, in float64."""
    mixing = torch.eye(d) + 0.5 * torch.randn(d, d, generator=g) / d**0.5
    scale = torch.logspace(-0.4, 0.4, d)[torch.randperm(d, generator=g)]
    return (torch.randn(P, d, generator=g) @ mixing * scale).double()


def inverse(g: torch.Generator, d: int, samples: int | None = None, gone: tuple[int, ...] = ()) -> Tensor:
    """(d, d) inverse Hessian in float64, with zeros in the rows and columns of weights that are gone."""
    vectors = correlated(g, samples or 2 * d, d)
    here = torch.tensor([q for q in range(d) if q not in gone])
    H = vectors.T @ vectors / len(vectors) + 0.02 * torch.eye(d, dtype=torch.float64)
    Hinv = torch.zeros(d, d, dtype=torch.float64)
    Hinv[here[:, None], here] = torch.linalg.inv(H[here[:, None], here])
    return Hinv


def weights(g: torch.Generator, d: int, gone: tuple[int, ...] = ()) -> Tensor:
    """(d,) float64 weights away from zero, of both signs; exactly zero where they are gone."""
    w = (0.3 + torch.rand(d, generator=g)).double()
    w[torch.rand(d, generator=g) < 0.5] *= -1
    w[list(gone)] = 0
    return w


def redraw(draw: Callable, accept: Callable):
    """The first draw that is accepted."""
    while not accept(drawn := draw()):
        pass
    return drawn
