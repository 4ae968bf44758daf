"""Exercise 14.1: the histogram."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.teal import fixtures
from autograder.inside.case import Case, call


def reference(x: Tensor, bins: int = 10_000, outliers: float = 0.01) -> tuple[Tensor, Tensor]:
    return fixtures.distribution(x, bins, outliers)


histogram = Exercise(
    "teal.histogram",
    defines="histogram",
    title="The histogram",
    minutes=15,
    difficulty=2,
    hints=(
        "Sort all numbers. Where the equal bins begin and end can then be read off: so many places from either end.",
        "`a = x.flatten().sort().values` and `few = int(outliers * len(a))`. The edges are `a[0]`, then `bins - 1` numbers from `a[few]` to `a[-few]`, then "
        "`a[-1]`: that is one more than there are bins. How many of the sorted numbers are below an edge is what `torch.searchsorted(a, edges)` says.",
        "`edges = torch.cat([a[:1], torch.linspace(a[few].item(), a[-few].item(), bins - 1), a[-1:]])`; `below = torch.searchsorted(a, edges)` and "
        "`below[-1] = len(a)`, for the largest number belongs to the last bin; return `below.diff()` and `(edges[:-1] + edges[1:]) / 2`.",
    ),
    reference=reference,
)


def case(g: torch.Generator, *shape: int, shift: float = 0.0, size: float = 1.0, of: Callable = lambda x: x, **options) -> Case:
    bins, outliers = options.get("bins", 10_000), options.get("outliers", 0.01)
    x = fixtures.redraw(
        lambda: of(size * fixtures.inputs(g, *shape, shift=shift)), lambda x: fixtures.off_the_edges(x, bins, outliers)
    )
    return call(x, **options)


def capped(x: Tensor) -> Tensor:
    """The three largest are equal, and so are the three least."""
    a = x.flatten().sort().values
    return x.clamp(a[2], a[-3])


def rounded(x: Tensor) -> Tensor:
    """Most numbers are there more than once, also those at which the equal bins begin and end."""
    return (8 * x).round() / 8


@histogram.stage(
    "equal bins between the outliers",
    points=1,
    exposes="All bins but the first and the last are equally wide, from the number at place int(outliers * n) of the sorted ones to that at the same place "
    "from the end.",
)
def _(g):
    yield case(g, 400, bins=8, outliers=0.1)
    yield case(g, 500, bins=20, outliers=0.02)
    yield case(g, 300, bins=31, outliers=0.05, shift=1.0)


@histogram.stage(
    "outliers on both sides",
    points=1,
    exposes="The first bin begins at the smallest number, the last one ends at the largest and holds it. So every number is counted as often as it is "
    "there, and the middle of an end bin is far out.",
)
def _(g):
    yield case(g, 350, bins=12)
    yield case(g, 199, bins=5)
    yield case(g, 730, bins=9, outliers=0.0125)
    yield case(g, 240, bins=3, outliers=0.2, shift=-1.0)
    yield case(g, 333, bins=7, outliers=0.03, of=capped)


@histogram.stage(
    "inputs of any shape, as they are",
    points=1,
    exposes="All numbers of x count, signed, whatever its shape. Bins and outliers have their defaults: 10,000 and 1 %. x stays as it is.",
    pure=True,
)
def _(g):
    yield case(g, 7, 11, 5, bins=16)
    yield case(g, 3, 70, bins=6, outliers=0.04, shift=0.4)
    yield case(g, 2, 75)
    yield case(g, 160, size=1e-4, bins=10)
    yield case(g, 4, 75, bins=9, outliers=0.05, of=lambda x: capped(rounded(x)))


def made(
    x: Tensor,
    bins: int = 10_000,
    outliers: float = 0.01,
    *,
    flat=lambda x: x.flatten(),
    low=lambda a, few: a[few],
    high=lambda a, few: a[-few],
    few=lambda outliers, n: int(outliers * n),
    ends=lambda a: (a[:1], a[-1:]),
    inner=lambda bins: bins - 1,
    centers=lambda edges: (edges[:-1] + edges[1:]) / 2,
    last=lambda below, n: [*below[:-1].tolist(), n],
    right=False,
    counts=lambda counts: counts,
) -> tuple[Tensor, Tensor]:
    """With its parts exchangeable, for mistakes in one part."""
    a = flat(x).sort().values
    count = few(outliers, len(a))
    first, end = ends(a)
    edges = torch.cat([first, torch.linspace(float(low(a, count)), float(high(a, count)), inner(bins)), end])
    below = torch.tensor(last(torch.searchsorted(a, edges, right=right), len(a)))
    return counts(below.diff()), centers(edges)


def varied(name: str, says: str, **parts) -> None:
    histogram.misconception(name, says)(lambda *args, **options: made(*args, **options, **parts))


varied("magnitudes", "You counted |x|. The histogram is of the numbers with their signs.", flat=lambda x: x.abs().flatten())
varied(
    "first row only",
    "You counted the first part of x only. All of its numbers count.",
    flat=lambda x: x[0].flatten() if x.ndim > 1 else x,
)
varied(
    "no outliers",
    "Your equal bins go from the smallest to the largest number. A single outlier makes all of them wide: begin at place int(outliers * n), on either side.",
    low=lambda a, few: a[0],
    high=lambda a, few: a[-1],
)
varied(
    "one place further in",
    "Your upper end is one place too far in: the numbers at both ends are `a[few]` and `a[-few]`.",
    high=lambda a, few: a[-few - 1],
)
varied("one place further out", "Your lower end is one place too far out: it is `a[few]`.", low=lambda a, few: a[few - 1])
varied(
    "outliers rounded",
    "You rounded outliers * n to the nearest whole number. It is cut off.",
    few=lambda outliers, n: max(1, round(outliers * n)),
)
varied("outliers rounded up", "You rounded outliers * n up. It is cut off.", few=lambda outliers, n: -int(-outliers * n // 1))
varied(
    "outliers split",
    "You left half of the outliers on either side. Each side has all of them.",
    few=lambda outliers, n: max(1, int(outliers * n / 2)),
)
varied("its own outliers", "You ignore the argument `outliers` and take 1 %.", few=lambda outliers, n: max(1, int(0.01 * n)))
varied("one bin too many", "You made one bin too many: there are `bins` of them, with both end bins.", inner=lambda bins: bins)
varied(
    "two bins too many",
    "You made `bins` bins between the end bins. The end bins are two of the `bins`.",
    inner=lambda bins: bins + 1,
)
varied(
    "one bin too few",
    "You made one bin too few: bins have `bins + 1` edges, of which `bins - 1` are equally spaced.",
    inner=lambda bins: bins - 2,
)
varied(
    "left edges",
    "You return the left edges. The numbers of a bin are stood for by its middle.",
    centers=lambda edges: edges[:-1],
)
varied(
    "right edges",
    "You return the right edges. The numbers of a bin are stood for by its middle.",
    centers=lambda edges: edges[1:],
)
varied("edges", "You return the edges, of which there is one more than bins. Return the middles.", centers=lambda edges: edges)
varied(
    "edges in the bin below",
    "You put an input that equals an edge into the bin below. It belongs to the one above: `right=True` in torch.bucketize, `right=False` in searchsorted(a, edges).",
    right=True,
    last=lambda below, n: [0, *below[1:-1].tolist(), n],
)
varied(
    "the largest is lost",
    "The largest number is in none of your bins: the last bin holds its upper edge.",
    last=lambda below, n: below.tolist(),
)
varied(
    "one largest",
    "You added one to the last bin, for the largest number. It may be there more than once.",
    last=lambda below, n: [*below[:-1].tolist(), below[-1].item() + 1],
)
varied(
    "different numbers",
    "You counted equal numbers once. Each of them counts.",
    flat=lambda x: x.unique(),
)
varied("shares", "You return shares. Counts are whole numbers.", counts=lambda counts: counts / counts.sum())
varied(
    "cumulative", "You summed the counts up already. Return how many are in each bin.", counts=lambda counts: counts.cumsum(0)
)
varied("counts as floats", "Your counts are floats. Return int64.", counts=lambda counts: counts.float())


@histogram.misconception("the ends thrown away", "You dropped the outliers. They are counted, in the two end bins.")
def _(x, bins=10_000, outliers=0.01):
    counts, centers = made(x, bins, outliers)
    counts[0] = counts[-1] = 0
    return counts, centers


@histogram.misconception(
    "clamped",
    "You clamped the outliers, so that the end bins are as narrow as the others. They reach to the smallest and largest number.",
)
def _(x, bins=10_000, outliers=0.01):
    a = x.flatten().sort().values
    few = int(outliers * len(a))
    edges = torch.linspace(float(a[few]), float(a[-few]), bins + 1)
    place = torch.searchsorted(edges[1:-1].contiguous(), a, right=True)
    return torch.bincount(place, minlength=bins), (edges[:-1] + edges[1:]) / 2


@histogram.misconception("quantile bins", "Your bins hold equally many numbers. They are equally wide.")
def _(x, bins=10_000, outliers=0.01):
    a = x.flatten().sort().values
    edges = a[torch.linspace(0, len(a) - 1, bins + 1).long()]
    return made(x, bins, outliers)[0] * 0 + len(a) // bins, (edges[:-1] + edges[1:]) / 2


@histogram.misconception("middles first", "You return the middles first. Counts come first.")
def _(x, bins=10_000, outliers=0.01):
    return made(x, bins, outliers)[::-1]


@histogram.accepts("torch.histogram, as in the authors' code")
def _(x, bins=10_000, outliers=0.01):
    acts = torch.sort(x.detach().flatten().float())[0]
    lower, upper = acts[int(outliers * len(acts))], acts[-int(outliers * len(acts))]
    edges = torch.cat((acts[:1], torch.linspace(lower.item(), upper.item(), bins - 1), acts[-1:]))
    counts, edges = torch.histogram(acts, edges)
    return counts.long(), (edges[:-1] + edges[1:]) / 2


@histogram.accepts("numpy")
def _(x, bins=10_000, outliers=0.01):
    a = np.sort(x.numpy().ravel().astype(np.float64))
    few = int(outliers * a.size)
    edges = np.concatenate([a[:1], np.linspace(a[few], a[-few], bins - 1), a[-1:]])
    counts, edges = np.histogram(a, edges)
    return torch.from_numpy(counts), torch.from_numpy((edges[1:] + edges[:-1]) / 2).float()


@histogram.accepts("searchsorted")
def _(x, bins=10_000, outliers=0.01):
    return made(x, bins, outliers)
