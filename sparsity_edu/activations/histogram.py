"""How large the inputs of a layer are, and the threshold that a given share of them does not exceed.

    Histogram    TEAL's: 10,000 bins over signed values; threshold(s) is the quantile 0.5 + s/2 of x
    Quantiles    the plain one: threshold(s) is the quantile s of |x|

They agree where inputs are symmetric about zero: then as many lie below -t as above t. Where they are not, TEAL's threshold
zeroes another share than asked for: of Laplace inputs moved by 0.7 of their scale, 69 % instead of 50 %. The inputs of most
projections are nearly symmetric, and with a histogram a threshold for any level is had in a moment, from 80 kB instead of all
inputs. Its two end bins hold 1 % of the inputs each and are wide: beyond a level of 98 % a threshold is a guess inside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

BINS = 10_000
OUTLIERS = 0.01  # of the inputs on each side
GRID = 10_000  # intervals between the quantiles that are kept


class Distribution(Protocol):
    """What is known of a layer's inputs."""

    @classmethod
    def of(cls, x: Tensor) -> Distribution:
        """Of inputs in any shape."""

    def threshold(self, sparsity: float) -> float:
        """What inputs must exceed so that the others are a share `sparsity` of all."""


@dataclass(frozen=True)
class Histogram:
    """Counts of inputs, by bins."""

    counts: Tensor  # (bins,) int64
    centers: Tensor  # (bins,) float64, the middles of the bins

    @classmethod
    def of(cls, x: Tensor, bins: int = BINS, outliers: float = OUTLIERS) -> Histogram:
        """Count inputs.

        Args:
            x: inputs in any shape.
            bins: how many; all but the first and the last are of equal width.
            outliers: the share of inputs in each of these two.

        Returns:
            The histogram.

        Raises:
            ValueError: there are so few inputs that an end bin would be empty, or some are no numbers.

        Source: Liu et al. 2024 (TEAL), section 4.2; bins as in the authors' code.
        """
        a = _sorted(x)
        few = int(outliers * len(a))
        if few < 1:
            raise ValueError(f"x must hold at least {round(1 / outliers)} numbers, got {len(a)}")
        inner = torch.linspace(float(a[few]), float(a[-few]), bins - 1, device=a.device)
        edges = torch.cat([a[:1], inner, a[-1:]])  # (bins + 1,)
        below = torch.searchsorted(a, edges)  # how many inputs are smaller than an edge
        below[-1] = len(a)  # the last bin has both its edges
        edges = edges.double()
        return cls(below.diff().cpu(), ((edges[:-1] + edges[1:]) / 2).cpu())

    def quantile(self, q: float) -> float:
        """The number that a share q of the inputs does not exceed, linear between the middles of two bins.

        Args:
            q: a share; of less than the first bin's it is that bin's middle, from 1 on the last bin's.

        Returns:
            The quantile.

        Source: `icdf` in the authors' code.
        """
        cumulative = self.counts.cumsum(0).double()
        target = q * float(cumulative[-1])
        i = int(torch.searchsorted(cumulative, torch.tensor(target, dtype=torch.float64)))
        if i == 0:
            return float(self.centers[0])
        if i == len(self.centers):
            return float(self.centers[-1])
        share = (target - cumulative[i - 1]) / (cumulative[i] - cumulative[i - 1])
        return float(self.centers[i - 1] + share * (self.centers[i] - self.centers[i - 1]))

    def threshold(self, sparsity: float) -> float:
        """TEAL's threshold, the quantile 0.5 + sparsity / 2: of inputs that are symmetric about zero, a share `sparsity` lies
        between minus it and it.

        Args:
            sparsity: a share, at least 0, where the threshold is 0. One above 1 counts as 1.

        Returns:
            The threshold; negative, and so without effect, where more than half of the inputs are.

        Raises:
            ValueError: `sparsity` is negative.
        """
        return self.quantile(0.5 + sparsity / 2) if _checked(sparsity) else 0.0


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of |x|."""

    points: Tensor  # (GRID + 1,) float64, ascending

    @classmethod
    def of(cls, x: Tensor) -> Quantiles:
        """Quantiles of inputs in any shape, as `torch.quantile` has them, of any number of inputs.

        Raises:
            ValueError: there is no input, or some are no numbers.
        """
        a = _sorted(x.abs())
        place = torch.linspace(0, len(a) - 1, GRID + 1, dtype=torch.float64, device=a.device)
        low, part = place.long(), place.frac()
        high = (low + 1).clamp(max=len(a) - 1)
        return cls((a[low].double() * (1 - part) + a[high].double() * part).cpu())

    def threshold(self, sparsity: float) -> float:
        """The quantile `sparsity` of |x|.

        Args:
            sparsity: a share, at least 0, where the threshold is 0. One above 1 counts as 1.

        Returns:
            The threshold.

        Raises:
            ValueError: `sparsity` is negative.
        """
        if not _checked(sparsity):
            return 0.0
        place = min(sparsity, 1.0) * GRID
        low = min(int(place), GRID - 1)
        return float(self.points[low] + (place - low) * (self.points[low + 1] - self.points[low]))


RULES: dict[str, type[Distribution]] = {"histogram": Histogram, "quantile": Quantiles}


def _sorted(x: Tensor) -> Tensor:
    a = x.detach().flatten().float().sort().values
    if not len(a):
        raise ValueError("x must hold at least one number, got none")
    if not a[[0, -1]].isfinite().all():  # NaN sorts last
        raise ValueError("x must hold finite numbers only, got infinity or NaN")
    return a


def _checked(sparsity: float) -> float:
    if not sparsity >= 0:
        raise ValueError(f"sparsity must be at least 0, got {sparsity}")
    return sparsity
