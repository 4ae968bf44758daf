"""Exercise 14.2: the threshold."""

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.teal import fixtures
from autograder.inside.case import Case, call

threshold = Exercise(
    "teal.threshold",
    defines="threshold",
    title="The threshold",
    minutes=15,
    difficulty=2,
    hints=(
        "Between -t and t shall lie a share s. If as many numbers lie on either side, how many lie below t?",
        "A share q = 0.5 + s / 2 lies below t. Sum the counts up: the first bin at which the sum reaches q times all is where t is. Go from the middle of "
        "the bin before to the middle of this one, by the part of this bin's count that is still needed.",
        "`total = counts.cumsum(0)`; `wanted = (0.5 + sparsity / 2) * total[-1].item()`; `i = int(torch.searchsorted(total, wanted))` with total as float64; "
        "for i of 0 or `len(total)` it is the first or the last middle; else `part = (wanted - total[i - 1]) / (total[i] - total[i - 1])` and "
        "`centers[i - 1] + part * (centers[i] - centers[i - 1])`, as a float.",
    ),
    reference=fixtures.limit,
    shares=True,  # a middle may be returned as it is
)


def case(
    g: torch.Generator, sparsity: float | tuple[float, float], *, n=400, bins=16, shift=0.0, outliers=0.02, times=1, least=-9.0
) -> Case:
    def draw():
        counts, centers = fixtures.distribution(fixtures.inputs(g, n, shift=shift), bins, outliers)
        s = fixtures.between_ties(g, n, *sparsity) if isinstance(sparsity, tuple) else sparsity
        return counts * times, centers, s

    return call(*fixtures.redraw(draw, lambda drawn: fixtures.limit(*drawn) > least))


@threshold.stage(
    "the quantile 0.5 + s / 2",
    points=1,
    exposes="So many numbers lie below the threshold that, if the numbers are symmetric, a share s lies between minus it and it; between the middles of two "
    "bins it goes in a straight line.",
)
def _(g):
    for n, bins in ((400, 9), (310, 30), (577, 14)):
        yield case(g, (0.2, 0.4), n=n, bins=bins, least=0.05)
        yield case(g, (0.55, 0.75), n=n, bins=bins, least=0.05)


@threshold.stage(
    "skewed numbers, and empty bins",
    points=1,
    exposes="The numbers need not be symmetric: the threshold is the quantile of the signed numbers all the same, and may be negative. Empty bins have no "
    "threshold in them, and the first bin with enough is the one: its sum may be just enough.",
)
def _(g):
    yield case(g, (0.3, 0.5), n=500, shift=0.5)
    yield case(g, (0.1, 0.3), n=500, shift=-1.5)
    yield case(g, (0.3, 0.6), n=150, bins=400)
    yield case(g, (0.3, 0.6), n=210, bins=1000, shift=0.2)
    counts = torch.tensor([3, 41, 0, 0, 57, 0, 20, 2])
    centers = torch.tensor([-3.0, -1.0, -0.4, 0.1, 0.5, 1.2, 2.0, 4.5])
    for sparsity in (0.1, 0.47, 0.73):
        yield call(counts, centers, sparsity)
    yield call(torch.tensor([2, 3, 7, 0, 0, 3, 1]), centers[1:], 0.5)  # 12 of 16 are wanted: just those of three bins
    yield case(g, (0.2, 0.4), bins=6, shift=0.3, times=10**7)  # more than an int32 can hold


@threshold.stage(
    "at the ends",
    points=1,
    exposes="A sparsity of 0 has the threshold 0, the least other one the formula's. From 1 on it is the last middle. If the first bin alone holds more than is needed, it is the first middle.",
    pure=True,
)
def _(g):
    yield case(g, 0.0, shift=0.7)
    yield case(g, (0.001, 0.004), shift=0.7)
    yield case(g, 1.0)
    yield case(g, 1.3, n=300)
    yield case(g, (0.97, 0.995), n=900)
    counts, centers = torch.tensor([90, 6, 3, 1]), torch.tensor([-1.0, 0.3, 0.7, 2.5])
    yield call(counts, centers, 0.25)
    yield call(counts, centers, 0.83)
    yield call(counts, centers, 0.0)


def found(
    counts: Tensor,
    centers: Tensor,
    sparsity: float,
    *,
    q=lambda s: 0.5 + s / 2,
    zero=True,
    value=lambda centers, i, part: centers[i - 1] + part * (centers[i] - centers[i - 1]),
    weigh=lambda counts, centers: (counts, centers),
    after=lambda t: t,
    right=False,
) -> float:
    """With its parts exchangeable, for mistakes in one part."""
    if zero and sparsity == 0:
        return 0.0
    counts, centers = weigh(counts, centers.double())
    total = counts.cumsum(0).double()
    wanted = q(sparsity) * float(total[-1])
    i = int(torch.searchsorted(total, torch.tensor(wanted, dtype=torch.float64), right=right))
    if i in (0, len(total)):
        return after(float(centers[0 if i == 0 else -1]))
    return after(float(value(centers, i, (wanted - total[i - 1]) / (total[i] - total[i - 1]))))


def varied(name: str, says: str, **parts) -> None:
    threshold.misconception(name, says)(lambda *args, **options: found(*args, **options, **parts))


def folded(counts: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    order = centers.abs().argsort()
    return counts[order], centers.abs()[order]


varied(
    "the quantile s",
    "You took the quantile s of the signed numbers. Half of them are negative: a share 0.5 + s / 2 lies below the threshold.",
    q=lambda s: s,
)
varied(
    "the quantile (1 + s)", "Half of the sparsity lies above zero: the quantile is 0.5 + s / 2.", q=lambda s: min(0.5 + s, 1.0)
)
varied(
    "the quantile 1 - s / 2",
    "You kept a share s where you should have removed it: the quantile is 0.5 + s / 2.",
    q=lambda s: 1 - s / 2,
)
varied(
    "the other tail",
    "You took the quantile 0.5 - s / 2, which is negative. The threshold is on the other side of zero.",
    q=lambda s: max(0.5 - s / 2, 0.0),
)
varied(
    "the lower tail's size",
    "You took the size of the lower quantile. They agree if the numbers are symmetric; TEAL takes the upper one.",
    q=lambda s: max(0.5 - s / 2, 0.0),
    after=abs,
)
varied(
    "magnitudes",
    "You took the quantile s of the magnitudes. That is the plain rule; TEAL's is the quantile 0.5 + s / 2 of the signed numbers.",
    q=lambda s: min(s, 1.0),
    weigh=folded,
)
varied(
    "no straight line",
    "You return the middle of a bin. Between two middles the threshold goes in a straight line.",
    value=lambda c, i, part: c[i],
)
varied(
    "the bin before",
    "You return the middle of the bin before. Go on from there, by the part of this bin that is needed.",
    value=lambda c, i, part: c[i - 1],
)
varied(
    "the line backwards",
    "Your line runs backwards: with more of the bin needed, the threshold is nearer to this bin's middle.",
    value=lambda c, i, part: c[i] - part * (c[i] - c[i - 1]),
)
varied(
    "one bin on",
    "You went from the middle of this bin to that of the next. It is from the one before to this one.",
    value=lambda c, i, part: c[i] + part * (c[min(i + 1, len(c) - 1)] - c[i]),
)
varied(
    "more than enough",
    "You took the first bin with more than enough. It is the first whose sum reaches q times all, and that may be just enough.",
    right=True,
)
varied(
    "its size",
    "You returned the size of the threshold. Where more than half of the numbers are negative, it is negative, and has no effect.",
    after=abs,
)
varied(
    "not below zero", "You set negative thresholds to 0. The contract returns them as they are.", after=lambda t: max(t, 0.0)
)
varied(
    "0 is not special",
    "A sparsity of 0 has the threshold 0: nothing is to go. The median of the numbers is another number.",
    zero=False,
)


@threshold.misconception(
    "counts ignored", "You interpolated the middles as if all bins held equally many numbers. Use the counts."
)
def _(counts, centers, sparsity):
    if sparsity == 0:
        return 0.0
    place = min(0.5 + sparsity / 2, 1.0) * (len(centers) - 1)
    return float(np.interp(place, np.arange(len(centers)), centers.numpy()))


@threshold.misconception(
    "non-empty bins only",
    "You left out empty bins before you took the line. It begins at the middle of the bin before, whether that is empty or not.",
)
def _(counts, centers, sparsity):
    return found(counts[counts > 0], centers[counts > 0], sparsity)


@threshold.misconception("above 1", "A sparsity above 1 counts as 1: the threshold is the last middle.")
def _(counts, centers, sparsity):
    if sparsity > 1:
        raise ValueError(sparsity)
    return found(counts, centers, sparsity)


@threshold.accepts("torch, as in the authors' code")
def _(counts, centers, sparsity):
    if sparsity == 0.0:
        return 0.0
    cumulative = torch.cumsum(counts.double(), dim=0)
    target = (0.5 + sparsity / 2) * cumulative[-1]
    idx = torch.searchsorted(cumulative, target)
    if idx == 0:
        return centers[0]
    if idx == len(centers):
        return centers[-1]
    fraction = (target - cumulative[idx - 1]) / (cumulative[idx] - cumulative[idx - 1])
    return float(centers[idx - 1] + fraction * (centers[idx] - centers[idx - 1]))


@threshold.accepts("numpy's interp over the bins that hold something")
def _(counts, centers, sparsity):
    if sparsity == 0:
        return 0.0
    n, c = counts.numpy().astype(np.float64), centers.numpy().astype(np.float64)
    total = np.cumsum(n)
    wanted = min(0.5 + sparsity / 2, 1.0) * total[-1]
    i = int(np.argmax(total >= wanted))
    return float(np.interp(wanted, [total[i] - n[i], total[i]], [c[i - 1], c[i]])) if i else float(c[0])


@threshold.accepts("a loop")
def _(counts, centers, sparsity):
    if not sparsity:
        return 0.0
    left = (0.5 + sparsity / 2) * sum(counts.tolist())
    previous = centers[0].item()
    for count, center in zip(counts.tolist(), centers.tolist(), strict=True):
        if count and left <= count:
            return previous + (center - previous) * left / count
        left, previous = left - count, center
    return previous
