"""What the exercises of unit 17 draw their inputs with."""

from collections.abc import Callable

import torch


def some(g: torch.Generator, low: int, high: int) -> int:
    """A whole number from low to high - 1."""
    return int(torch.randint(low, high, (), generator=g))


def share(g: torch.Generator, low: float, high: float) -> float:
    """A share of whole thousandths."""
    return round(low + (high - low) * float(torch.rand((), generator=g)), 3)


def redraw(draw: Callable, accept: Callable):
    """The first draw that is accepted."""
    while not accept(drawn := draw()):
        pass
    return drawn
