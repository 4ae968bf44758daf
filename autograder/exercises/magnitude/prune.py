"""Exercise 2.2: prune one matrix by magnitude."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.patterns.fixtures import drawn, near_whole
from autograder.inside.case import call
from sparsity_edu import patterns
from sparsity_edu.weights import magnitude


def magnitude_prune(W: Tensor, sparsity: float) -> Tensor:
    return magnitude.prune(W, sparsity)


prune = Exercise(
    "magnitude.prune",
    defines="magnitude_prune",
    title="Prune one matrix by magnitude",
    minutes=15,
    difficulty=1,
    hints=(
        "Rank all weights of the matrix by magnitude, and set the smallest to zero. What you need of the ranking are "
        "*positions* in the whole matrix, not in each row.",
        "Flatten, so that a position is one number. `W.abs().flatten().argsort()` lists the positions from the smallest "
        "magnitude up; the first `int(sparsity * W.numel())` go. Work on a clone, also where nothing goes: the result is "
        "a copy.",
        "Check `0 <= sparsity < 1` before anything else. Then `pruned = W.flatten().clone()`, zeros at the first "
        "positions of the argsort, `pruned[smallest] = 0`, and back to the shape of W.",
    ),
    reference=magnitude_prune,
    rules=Rules(tolerance=0),
    forbids=("torch.nn.utils.prune", "torch.ao.pruning"),
)


@prune.stage(
    "zeroes the smallest magnitudes and keeps the rest unchanged",
    points=1,
    exposes="Rank by |W| over the whole matrix, zero the smallest, leave every other weight exactly as it was.",
)
def _(g):
    yield call(torch.randn(4, 5, generator=g), 0.4)
    yield call(torch.randn(drawn(g, 12, 17), 4 * drawn(g, 2, 4), generator=g) - 0.7, 0.75)
    yield call(torch.randn(3, 40, generator=g) * torch.tensor([[0.1], [1.0], [10.0]]), 0.6)  # rows of unequal scale
    faint = 10.0 ** -torch.linspace(0, 36, 36)[torch.randperm(36, generator=g)].view(4, 9)
    yield call(faint * signs(g, 4, 9), 0.2)  # faint weights are ranked, though their squares are all zero


@prune.stage(
    "removes exactly int(sparsity * n) weights",
    points=1,
    exposes="Of n weights exactly int(sparsity * n) go: rounded down, not to the nearest, and not one more because of `<=`; as Python "
    "computes it, 28 of 100 at 0.29, for 0.29 * 100 is a hair below 29.",
)
def _(g):
    for rows, cols, s in [(7, 9, 0.3), (5, 10, 0.45), (5, 7, 0.7), (3, 3, 0.1), (11, 3, 0.9), (6, 4, 0.0)]:
        yield call(torch.randn(rows, cols, generator=g), s)
    yield call(torch.randn(5, 30, generator=g), 0.98)
    yield call(torch.randn(drawn(g, 5, 9), drawn(g, 5, 9), generator=g), drawn(g, 15, 85) / 100)
    for rows, cols, below in [(4, 25, True), (10, 20, True), (5, 20, False)]:
        yield call(torch.randn(rows, cols, generator=g), near_whole(g, rows, cols, below=below))
    W = torch.randn(8, 5, generator=g)
    yield call(W * (torch.rand(W.shape, generator=g) < 0.7), 0.6)  # zeros of an earlier pruning are among the smallest


@prune.stage(
    "returns a copy in the dtype of W",
    points=1,
    exposes="W itself must not change, also where nothing is pruned, and the result has its shape and dtype: bfloat16, which numpy does "
    "not know, and float64, of which float32 would round differences away, among them.",
    pure=True,
)
def _(g):
    yield call(torch.randn(5, 8, generator=g), 0.5)
    yield call(torch.randn(6, drawn(g, 4, 8), generator=g), 0)
    yield call(torch.randn(6, 5, generator=g, dtype=torch.float64), 0.5)
    yield call((1 + 1e-9 * torch.randn(6, 5, generator=g, dtype=torch.float64)) * signs(g, 6, 5), 0.5)
    for dtype in (torch.float16, torch.bfloat16):
        yield call((torch.randperm(48, generator=g).view(6, 8) + 0.5).to(dtype) * signs(g, 6, 8).to(dtype), 0.25)


@prune.stage(
    "refuses a sparsity outside [0, 1)",
    points=1,
    exposes="A ValueError for a sparsity below 0, of 1 or above, or NaN: an error now saves an hour later. What lies inside is not refused.",
)
def _(g):
    for s in (1.0, 1 + drawn(g, 1, 9) / 10, -drawn(g, 1, 9) / 10, -1e-9, math.nan):
        yield call(torch.randn(3, 4, generator=g), s)
    yield call(torch.rand(3, 4, generator=g) + 0.1, 0.9999)  # positive: how signs are ranked is not asked here


def signs(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(2, shape, generator=g) * 2.0 - 1


def drop(W, sparsity, score=torch.abs, count=lambda x: int(x), check=True):
    """`magnitude_prune` with its parts exchangeable, for mistakes in one part."""
    if check and not 0 <= sparsity < 1:
        raise ValueError("sparsity")
    pruned = W.flatten().clone()
    pruned[score(W).flatten().argsort(stable=True)[: count(sparsity * W.numel())]] = 0
    return pruned.view(W.shape)


@prune.misconception(
    "signed", "You ranked W, not |W|: the most negative weights went first, although they matter as much as the positive ones."
)
def _(W, sparsity):
    return drop(W, sparsity, score=lambda W: W)


@prune.misconception(
    "prunes the largest", "You removed the largest magnitudes. The small ones are the ones that are not missed."
)
def _(W, sparsity):
    return drop(W, sparsity, score=lambda W: -W.abs())


@prune.misconception(
    "keeps the sparsity",
    "You kept a fraction `sparsity` of the weights. Sparsity is what goes; what stays is the density 1 - sparsity.",
)
def _(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("sparsity")
    return drop(W, 1 - sparsity, check=False)


@prune.misconception(
    "one too many",
    "You removed one weight too many: with threshold = sorted[k], the test |W| <= threshold removes k + 1 (SparseGPT's and the "
    "lottery-ticket code do this too, which is why their counts differ). Use < or take the k smallest by index.",
)
def _(W, sparsity):
    return drop(W, sparsity, count=lambda x: int(x) + 1)


@prune.misconception("rounded", "You rounded sparsity * n to the nearest integer. The course rounds down: int(sparsity * n).")
def _(W, sparsity):
    return drop(W, sparsity, count=round)


@prune.misconception(
    "at least one",
    "You always remove a weight. int(sparsity * n) may be 0, and then nothing goes.",
)
def _(W, sparsity):
    return drop(W, sparsity, count=lambda x: max(1, int(x)))


@prune.misconception(
    "index -1",
    "Where int(sparsity * n) is 0 your threshold is entry -1 of the sorted magnitudes, the largest, and everything goes. Python counts "
    "negative indices from the end: take the first weights of the argsort, or treat 0 by itself.",
)
def _(W, sparsity):
    return drop(W, sparsity, count=lambda x: int(x) or W.numel())


@prune.misconception("rounded up", "You rounded sparsity * n up. The course rounds down: int(sparsity * n).")
def _(W, sparsity):
    return drop(W, sparsity, count=math.ceil)


@prune.misconception(
    "quantile",
    "torch.quantile interpolates between two weights, so the number that falls below it is not always int(sparsity * n) (and above "
    "2^24 entries it refuses). Sort, or use kthvalue.",
)
def _(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("sparsity")
    threshold = torch.quantile(W.abs().flatten().to(torch.promote_types(W.dtype, torch.float32)), sparsity)
    return W.masked_fill(W.abs() <= threshold, 0)


@prune.misconception(
    "quantile, below it",
    "torch.quantile interpolates between two weights, and what lies below it is rounded up: more than int(sparsity * n) weights go. Sort, "
    "or use kthvalue.",
)
def _(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("sparsity")
    threshold = torch.quantile(W.abs().flatten().to(torch.promote_types(W.dtype, torch.float32)), sparsity)
    return W.masked_fill(W.abs() < threshold, 0)


@prune.misconception(
    "rounded up and one more",
    "With threshold = sorted[ceil(sparsity * n)], the test |W| > threshold keeps one or two weights too few (the lottery-ticket code counts "
    "so). The course removes exactly int(sparsity * n): take the smallest by index.",
)
def _(W, sparsity):
    return drop(W, sparsity, count=lambda x: math.ceil(x) + 1)


@prune.misconception(
    "not quite a whole number",
    "You count sparsity * n in float32, in decimals, or with an epsilon added, and get one weight more where the product is a hair below "
    "a whole number. The course counts int(sparsity * n), as Python computes it: 28 of 100 at 0.29.",
)
def _(W, sparsity):
    return drop(W, sparsity, count=lambda x: int(x + 1e-9))


@prune.misconception(
    "in float32",
    "You rank the magnitudes in float32, which rounds float64 weights: two that differ become equal. Rank them in the dtype of W.",
)
def _(W, sparsity):
    return drop(W, sparsity, score=lambda W: W.float().abs())


@prune.misconception(
    "row by row",
    "You pruned every row by itself. Here the whole matrix competes: a row of small weights may lose nearly all of them.",
)
def _(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("sparsity")
    return W.masked_fill(~patterns.unstructured(W.abs(), sparsity, per="row"), 0)


@prune.misconception(
    "share of the largest",
    "You removed weights below `sparsity` times the largest magnitude. That is a threshold, not a fraction of weights.",
)
def _(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("sparsity")
    return W.masked_fill(W.abs() < sparsity * W.abs().max(), 0)


@prune.misconception(
    "fraction of what remains",
    "You removed a fraction of the weights that are not zero yet. Sparsity counts all weights, those zeroed earlier included.",
)
def _(W, sparsity):
    zeros = int((W == 0).sum())
    return drop(W, sparsity, count=lambda x: zeros + int(sparsity * (W.numel() - zeros)))


@prune.misconception("returns the mask", "You returned the mask. Return the weights with the pruned ones set to zero.")
def _(W, sparsity):
    return drop(W, sparsity) != 0


@prune.misconception(
    "in place", "You changed W itself. Whoever called you may still need the dense weights: work on W.clone()."
)
def _(W, sparsity):
    W.copy_(drop(W, sparsity))
    return W


@prune.misconception("no check", "You accept any sparsity. Raise a ValueError unless 0 <= sparsity < 1.")
def _(W, sparsity):
    return drop(W, max(0.0, min(1.0, 0.0 if math.isnan(sparsity) else sparsity)), check=False)


@prune.accepts("threshold by kthvalue")
def _(W, sparsity):
    if not (sparsity >= 0 and sparsity < 1):
        raise ValueError("bad sparsity")
    k = int(W.numel() * sparsity)
    if k == 0:
        return W.clone()
    return W * (W.abs() > W.abs().flatten().kthvalue(k).values)


@prune.accepts("numpy")
def _(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError(sparsity)
    pruned = W.double().numpy().copy()  # numpy has no bfloat16
    smallest = np.argsort(np.abs(pruned), axis=None)[: int(sparsity * pruned.size)]
    pruned[np.unravel_index(smallest, pruned.shape)] = 0
    return torch.from_numpy(pruned).to(W.dtype)


@prune.accepts("topk and scatter")
def _(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError(sparsity)
    keep = W.abs().reshape(-1).topk(W.numel() - int(sparsity * W.numel())).indices
    out = torch.zeros(W.numel(), dtype=W.dtype)
    out[keep] = W.reshape(-1)[keep]
    return nn.Parameter(out.reshape(W.shape))


@prune.accepts("sorted pairs of Python numbers")
def _(W, sparsity):
    if sparsity < 0 or sparsity >= 1 or sparsity != sparsity:
        raise ValueError(f"{sparsity} is outside [0, 1)")
    places = [(abs(w), i, j) for i, row in enumerate(W.tolist()) for j, w in enumerate(row)]
    result = torch.empty_like(W).copy_(W)
    for _, i, j in sorted(places)[: int(len(places) * sparsity)]:
        result[i, j] = 0.0
    return result
