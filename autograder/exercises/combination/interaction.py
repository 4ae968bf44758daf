"""Exercise 17.6: do errors add up?"""

import math
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.combination.fixtures import some
from autograder.inside.case import Case, call


def beyond(
    dense: Tensor,
    a: Tensor,
    b: Tensor,
    both: Tensor,
    *,
    gap: Callable = lambda dense, a, b, both: both - a - b + dense,
    center: Callable = torch.mean,
    spread: Callable = lambda gaps: gaps.std() / len(gaps) ** 0.5,
    exact: Callable = lambda x: x.double(),
    allowed: Callable = lambda *shapes: len(set(shapes)) == 1 and len(shapes[0]) == 1 and shapes[0][0] > 1,
    error: type[Exception] = ValueError,
    result: Callable = lambda mean, error: (float(mean), float(error)),
) -> tuple[float, float]:
    """With its parts exchangeable, for mistakes in one part."""
    if not allowed(*(tuple(losses.shape) for losses in (dense, a, b, both))):
        raise error("losses must be (texts,) each, of two texts or more")
    gaps = gap(*map(exact, (dense, a, b, both)))
    return result(center(gaps), spread(gaps))


def reference(dense: Tensor, a: Tensor, b: Tensor, both: Tensor) -> tuple[float, float]:
    return beyond(dense, a, b, both)


interaction = Exercise(
    "combination.interaction",
    defines="interaction",
    title="Do errors add up?",
    minutes=10,
    difficulty=1,
    hints=(
        "Work out one number for each text first: by how much the loss with both exceeds what you would expect if errors added up. Mean and standard error are of "
        "these numbers.",
        "What you expect is dense + (a - dense) + (b - dense). The standard error of a mean is the standard deviation, of n - 1 degrees of freedom, divided by the root "
        "of n. Convert before you subtract, not after: in half precision the difference of two losses is nearly all rounding.",
        "See whether all four `shape`s are equal, of one dimension, and 2 or more; if not, raise a ValueError. `gaps = both.double() - a.double() - b.double() + "
        "dense.double()`; return `gaps.mean().item()` and `gaps.std().item() / len(gaps) ** 0.5`.",
    ),
    reference=reference,
)


def losses(g: torch.Generator, texts: int, size: float = 1.0, dtype: torch.dtype = torch.float32) -> Case:
    """Of texts that differ much, and techniques that differ little."""
    dense = 2.5 + torch.rand(texts, generator=g).double() * 2

    def hurt(least: float) -> Tensor:
        return size * (least + 0.3 * least * torch.randn(texts, generator=g).double())

    a, b, more = hurt(0.2), hurt(0.35), hurt(0.12)
    return call(*(x.to(dtype) for x in (dense, dense + a, dense + b, dense + a + b + more)))


@interaction.stage(
    "beyond the sum, text by text",
    points=1,
    exposes="Errors add up if both - dense is (a - dense) + (b - dense). The mean of what is beyond that, and the standard error of this mean: the standard deviation of "
    "n - 1 degrees of freedom over the root of n.",
)
def _(g):
    yield losses(g, 2)
    yield losses(g, some(g, 5, 9))
    dense, a, b, both = losses(g, some(g, 30, 60)).args
    yield call(dense, a, b, a + b - dense - (both - a) * 0.3)  # together they hurt less
    dense, a, b = ((16 * x).round() / 16 for x in (dense, a, b))
    yield call(dense, a, b, a + b - dense)  # nothing beyond: just 0


@interaction.stage(
    "faint effects",
    points=1,
    exposes="Losses of any floating type are converted to float64 before they are subtracted, and stay as they were.",
    pure=True,
)
def _(g):
    yield losses(g, some(g, 12, 20), 3e-4)
    yield losses(g, some(g, 12, 20), 1.0, torch.float16)
    yield losses(g, some(g, 12, 20), 1.0, torch.bfloat16)
    yield losses(g, some(g, 12, 20), 1e-6, torch.float64)
    # of several sizes, so that float32 rounds when they are subtracted, though it holds each of them
    texts = some(g, 8, 14)
    dense, a, b = ((least + 0.4 * torch.rand(texts, generator=g)).double() for least in (0.05, 1.1, 2.5))
    both = a + b - dense + 1e-3 * (1 + torch.rand(texts, generator=g).double())
    yield call(*(x.float() for x in (dense, a, b, both)))


@interaction.stage(
    "what has no answer",
    points=1,
    exposes="One text says nothing about how far texts differ, and losses of other shapes than (texts,), all alike, are not of the same texts: raise a ValueError.",
)
def _(g):
    dense, a, b, both = losses(g, 7).args
    yield call(dense, a, b, both)
    for n in (1, 0):
        yield call(dense[:n].clone(), a[:n].clone(), b[:n].clone(), both[:n].clone())
    yield call(dense[:6].clone(), a, b, both)
    yield call(dense, a[:1].clone(), b, both)
    yield call(dense, a, b, both[:6].clone())
    yield call(*(x.view(7, 1).clone() for x in (dense, a, b, both)))
    yield call(dense, a, b.view(1, 7).clone(), both)
    yield call(dense.view(7, 1).clone(), a, b, both)
    yield call(*(x.mean() for x in (dense, a, b, both)))
    yield call(dense.mean(), a, b, both)


def varied(name: str, says: str, **parts) -> None:
    interaction.misconception(name, says)(lambda *args: beyond(*args, **parts))


varied(
    "dense subtracted",
    "You subtracted the dense loss. It is in a and in b, so it was subtracted twice already, and one of them is one too many: add it.",
    gap=lambda dense, a, b, both: both - a - b - dense,
)
varied("without dense", "You left out the dense loss: it is part of a and of b.", gap=lambda dense, a, b, both: both - a - b)
varied(
    "all of both",
    "You return what both do to the loss. Subtract what each does by itself.",
    gap=lambda dense, a, b, both: both - dense,
)
varied(
    "beyond the worse one",
    "You compared both with the worse one of them. Errors add up if it is the sum.",
    gap=lambda dense, a, b, both: both - torch.maximum(a, b),
)
varied("beyond the second", "You compared both with b alone. Subtract what a does too.", gap=lambda dense, a, b, both: both - b)
varied(
    "the other sign",
    "Your sign is the other one: it is more than 0 if both together hurt more.",
    gap=lambda dense, a, b, both: a + b - both - dense,
)
varied(
    "as a share",
    "You divided by what both do to the loss. The difference itself is asked for.",
    gap=lambda dense, a, b, both: (both - a - b + dense) / (both - dense),
)
varied(
    "sizes",
    "You took sizes text by text. Where it is less than 0, it counts as less.",
    gap=lambda dense, a, b, both: (both - a - b + dense).abs(),
)
varied("the median", "You took the median. The mean is asked for.", center=torch.median)
varied("the sum", "You summed over texts. The mean is asked for.", center=torch.sum)
varied(
    "n degrees of freedom",
    "You divided by n. The mean is made of the same texts, so there are n - 1 degrees of freedom.",
    spread=lambda gaps: gaps.std(correction=0) / len(gaps) ** 0.5,
)
varied(
    "the standard deviation",
    "You return the standard deviation of the texts. The error of their mean is less, by the root of n.",
    spread=torch.std,
)
varied(
    "divided by n", "You divided the standard deviation by n. Divide by its root.", spread=lambda gaps: gaps.std() / len(gaps)
)
varied(
    "the root of n - 1",
    "You divided by the root of n - 1. The n - 1 is in the standard deviation already.",
    spread=lambda gaps: gaps.std() / (len(gaps) - 1) ** 0.5,
)
varied(
    "the variance", "You return the variance of the mean. The error is its root.", spread=lambda gaps: gaps.var() / len(gaps)
)
varied(
    "95 %",
    "You return the half of a confidence interval. The standard error alone is asked for.",
    spread=lambda gaps: 1.96 * gaps.std() / len(gaps) ** 0.5,
)
varied("as they come", "You subtract in the type of the losses. Convert to float64 first.", exact=lambda x: x)
varied("in float32", "You work in float32. Convert to float64 before you subtract.", exact=lambda x: x.float())
varied(
    "the error first",
    "You return the standard error first. The mean comes first.",
    result=lambda mean, error: (float(error), float(mean)),
)
varied(
    "the mean alone",
    "You return the mean alone. Without its error nobody knows what it is worth.",
    result=lambda mean, error: float(mean),
)
varied("another error", "You raise another error. Raise a ValueError.", error=IndexError)
varied(
    "one text",
    "You answer for one text. It has no standard deviation.",
    allowed=lambda *shapes: len(set(shapes)) == 1 and len(shapes[0]) == 1 and shapes[0][0] > 0,
    spread=lambda gaps: gaps.std() / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0,
)
varied(
    "any number of dimensions",
    "You take losses of any number of dimensions. They are (texts,).",
    allowed=lambda *shapes: len(set(shapes)) == 1 and math.prod(shapes[0]) > 1,
)
varied(
    "whatever can be broadcast",
    "You broadcast shapes that differ. Losses are of the same texts, so they have one shape.",
    allowed=lambda *shapes: (
        all(len(shape) == 1 for shape in shapes) and min(shapes)[0] in (1, max(shapes)[0]) and max(shapes)[0] > 1
    ),
)


@interaction.misconception(
    "each by itself",
    "You added the variances of four losses. Texts have most of that in common: take the difference of each text first.",
)
def _(dense, a, b, both):
    mean, _ = beyond(dense, a, b, both)
    return mean, math.sqrt(sum(float(x.double().var()) for x in (dense, a, b, both)) / len(dense))


@interaction.misconception("in place", "You wrote into the losses that you were given. Work on copies.")
def _(dense, a, b, both):
    found = beyond(dense, a, b, both)
    both.sub_(a)
    return found


@interaction.accepts("numpy")
def _(dense, a, b, both):
    arrays = [losses.double().numpy() for losses in (dense, a, b, both)]
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays) or arrays[0].size < 2:
        raise ValueError("shapes do not fit")
    gaps = (arrays[3] - arrays[0]) - (arrays[1] - arrays[0]) - (arrays[2] - arrays[0])
    return float(gaps.mean()), float(np.std(gaps, ddof=1) / np.sqrt(gaps.size))


@interaction.accepts("statistics")
def _(dense, a, b, both):
    if {losses.shape for losses in (dense, a, b, both)} != {(len(dense),)} if dense.ndim else True:
        raise ValueError("not of the same texts")
    rows = zip(*(losses.tolist() for losses in (dense, a, b, both)), strict=True)
    gaps = [w - y - z + x for x, y, z, w in rows]
    if len(gaps) < 2:
        raise ValueError(f"at least two texts, got {len(gaps)}")
    return statistics.fmean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))


@interaction.accepts("stacked")
def _(dense, a, b, both):
    if len({x.shape for x in (dense, a, b, both)}) > 1 or both.ndim != 1 or both.numel() < 2:
        raise ValueError(f"losses must be (texts,), got {both.shape}")
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    gaps = signs @ torch.stack([x.to(torch.float64) for x in (dense, a, b, both)])
    return gaps.mean(), gaps.var(unbiased=True).div(gaps.numel()).sqrt()
