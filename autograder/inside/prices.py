"""A recipe for a search: what settings cost, and which of them were asked for."""

import operator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from autograder.inside.observe import Watched


@dataclass(frozen=True)
class Prices:
    """A callback that gives the cost of a tuple of settings. Observed, it is the list of its calls, in lexicographic order."""

    label: ClassVar = "calls of {}"
    table: Tensor  # int64, with a dimension for each technique
    noted: bool = False  # whether calls are observed: else only what comes of them counts

    def build(self, built: list) -> "AskedPrices":
        return AskedPrices(self.table, self.noted)

    def __str__(self) -> str:
        return "<cost>"


class AskedPrices(Watched):
    """What `Prices` builds."""

    def __init__(self, table: Tensor, noted: bool) -> None:
        self.table, self.noted, self.calls = table, noted, []

    def __call__(self, settings: tuple[int, ...]) -> int:
        if not isinstance(settings, tuple):
            raise TypeError(f"cost takes a tuple of settings, got a {type(settings).__name__}")
        numbers = tuple(map(operator.index, settings))
        if len(numbers) != self.table.ndim or not all(0 <= i < n for i, n in zip(numbers, self.table.shape, strict=True)):
            raise ValueError(f"cost takes settings below {tuple(self.table.shape)}, got {numbers}")
        if self.noted:
            self.calls.append(numbers)
        return int(self.table[numbers])

    def seen(self) -> list[tuple[int, ...]]:
        """The settings that it was asked for: how often, but not in which order."""
        return sorted(self.calls)
