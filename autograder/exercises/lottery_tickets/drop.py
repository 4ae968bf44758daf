"""Exercise 6.1: a fraction of what is left."""

import math

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.lottery_tickets.fixtures import (
    exactly,
    nearly_tied,
    of_all_sizes,
    some_mask,
    telling_count,
    weights_left,
)
from autograder.inside.case import call
from sparsity_edu.weights import lottery_ticket


def drop_smallest(W: Tensor, mask: Tensor, p: float) -> Tensor:
    return lottery_ticket.drop_remaining({"W": W}, {"W": mask}, p)["W"]


drop = Exercise(
    "lottery_tickets.drop",
    defines="drop_smallest",
    title="A fraction of what is left",
    minutes=10,
    difficulty=1,
    hints=(
        "Rank only what is left, and count only what is left: n is the number of True in the mask, and `int(p * n)` go. "
        "What weights hold that are gone means nothing.",
        "Give what is gone the magnitude infinity: then it comes last and is never dropped again. Make n a Python number, "
        "`int(mask.sum())`, before you multiply. `p * mask.sum()` would be a float32 tensor, which makes 29 of 0.29 x "
        "100, where `int(0.29 * 100)` is 28.",
        "`size = torch.where(mask, W.abs(), torch.inf).flatten()` is what to rank. A flat clone of the mask becomes False "
        "at `size.argsort()[: int(p * n)]`; then bring it back to its shape.",
    ),
    reference=drop_smallest,
    forbids=("torch.nn.utils.prune",),
)


def left(g: torch.Generator, *shape: int, density: float, p: float, gone: str = "any"):
    mask = some_mask(g, *shape, density=density)
    return call(weights_left(g, mask, gone), mask, p)


@drop.stage(
    "drops the smallest when all are left",
    points=1,
    exposes="Of n weights that are left the int(p * n) of smallest magnitude go. The result is a boolean mask of W's shape, True = kept.",
)
def _(g):
    yield left(g, 3, 4, density=1.0, p=0.25)
    yield left(g, 5, 7, density=1.0, p=0.37)
    yield left(g, 60, 50, density=1.0, p=0.5)


@drop.stage(
    "counts and ranks only what is left",
    points=1,
    exposes="n is the number of weights that the mask keeps, not that of all; and weights that are gone are not candidates, though they are "
    "zeros and so the smallest of all. Weights may be of any size and all of one sign.",
)
def _(g):
    yield left(g, 4, 6, density=0.5, p=0.5, gone="zero")
    yield left(g, 6, 9, density=0.7, p=0.33, gone="zero")
    yield left(g, 8, 5, density=0.3, p=0.4, gone="zero")
    mask = some_mask(g, 6, 8, density=0.6)
    yield call(-1e4 * weights_left(g, mask, "zero").abs(), mask, 0.6)


@drop.stage(
    "what is gone stays gone, what is kept may be zero",
    points=1,
    exposes="The mask decides what is gone, not the values: a weight that is gone may hold anything, and a kept weight that "
    "happens to be zero is left, counts in n and is the first to go.",
)
def _(g):
    yield left(g, 5, 6, density=0.6, p=0.5, gone="large")
    yield left(g, 7, 8, density=0.4, p=0.2, gone="any")
    mask = some_mask(g, 6, 7, density=0.55)
    W = weights_left(g, mask, "zero")
    W.view(-1)[int(mask.flatten().nonzero()[3])] = 0.0
    yield call(W, mask, 0.2)
    mask = some_mask(g, 5, 9, density=0.7)
    yield call(of_all_sizes(g, mask), mask, 0.3)
    yield call(of_all_sizes(g, mask), mask, 0.8)


@drop.stage(
    "any shape, any fraction, arguments untouched",
    points=1,
    exposes="Exactly int(p * n) go, so none at all where p * n is below 1; W may have any number of dimensions; and the mask that you "
    "were given is still the old one.",
    pure=True,
)
def _(g):
    yield left(g, 4, 3, 3, 2, density=0.8, p=0.2)
    yield left(g, 9, density=0.9, p=0.1)
    yield left(g, 6, 5, density=0.7, p=0.0)
    yield left(g, 11, 13, density=0.9, p=0.95, gone="large")
    for by in (1, 1, -1):
        n, p = telling_count(g, 40, 160, by)
        mask = exactly(g, n, 10, 17)
        yield call(weights_left(g, mask), mask, p)
    mask = some_mask(g, 6, 7, density=0.8)
    yield call(nearly_tied(g, mask, 0.45), mask, 0.45)


def by_rank(W: Tensor, mask: Tensor, count: int, score=lambda W: W.abs(), descending=False) -> Tensor:
    """Drop `count` of what is left, by rank in `score`."""
    worst = -torch.inf if descending else torch.inf
    ranked = torch.where(mask, score(W), worst).flatten().argsort(stable=True, descending=descending)
    new = mask.flatten().clone()
    new[ranked[:count]] = False
    return new.view(mask.shape)


def miscounted(name: str, says: str, count):
    drop.misconception(name, says)(lambda W, mask, p: by_rank(W, mask, count(mask, p)))


miscounted(
    "fraction of the original",
    "You drop the fraction p of the *original* weights at every level: after five levels of 20 % nothing is left. It is p of what is left.",
    lambda mask, p: min(int(p * mask.numel()), int(mask.sum())),
)
miscounted(
    "one too many",
    "One weight more than int(p * n) goes, as in the authors' code, where everything up to the weight at index k falls. A course has to "
    "say how it counts; here it is exactly int(p * n).",
    lambda mask, p: int(p * int(mask.sum())) + 1,
)
miscounted(
    "rounded",
    "You rounded p * n to the nearest integer. Here it is rounded down: int(p * n).",
    lambda m, p: round(p * int(m.sum())),
)
miscounted("rounded up", "You rounded p * n up. Here it is rounded down: int(p * n).", lambda m, p: math.ceil(p * int(m.sum())))
miscounted(
    "counted in float32",
    "p * mask.sum() is a float32 tensor, which makes 29 of 0.29 x 100, where int(0.29 * 100) is 28. Make n a Python number first: "
    "int(mask.sum()).",
    lambda mask, p: int(p * mask.sum()),
)
miscounted(
    "room for rounding",
    "You add a small number to p * n before you round it down. It is exactly int(p * n): 28 for 0.29 x 100.",
    lambda mask, p: int(p * int(mask.sum()) + 1e-6),
)
miscounted(
    "two too many",
    "You round p * n up and add one, as the authors' later code does. Here exactly int(p * n) go.",
    lambda mask, p: min(math.ceil(p * int(mask.sum())) + 1, int(mask.sum())),
)
miscounted(
    "keeps the fraction",
    "You keep the fraction p. It is the fraction that goes: p = 0.2 leaves 80 % of what was left.",
    lambda mask, p: int(mask.sum()) - int(p * int(mask.sum())),
)


@drop.misconception(
    "signed", "You ranked the weights themselves, not their magnitudes: the negative ones go first, however large they are."
)
def _(W, mask, p):
    return by_rank(W, mask, int(p * int(mask.sum())), score=lambda W: W)


@drop.misconception("drops the largest", "You drop the largest weights. The small ones go.")
def _(W, mask, p):
    return by_rank(W, mask, int(p * int(mask.sum())), descending=True)


@drop.misconception(
    "zeros are ranked again",
    "You rank all weights, and those that are gone, being zeros, are the smallest: you drop what is gone already, and the mask stays as it was.",
)
def _(W, mask, p):
    return mask & by_rank(W * mask, torch.ones_like(mask), int(p * int(mask.sum())))


@drop.misconception(
    "resurrection",
    "Your new mask is chosen among all weights, so that one that is gone comes back if its value is large. A mask may only shrink: `mask & new`.",
)
def _(W, mask, p):
    return by_rank(W, torch.ones_like(mask), mask.numel() - int(mask.sum()) + int(p * int(mask.sum())))


@drop.misconception(
    "threshold without the old mask",
    "The threshold is right, but you compare all weights with it: what is gone comes back if its value is above. And the two: "
    "`mask & (W.abs() >= threshold)`.",
)
def _(W, mask, p):
    size = W.abs()[mask].sort().values
    return W.abs() >= size[int(p * len(size))]


@drop.misconception(
    "zeros instead of the mask",
    "You take every zero for a pruned weight. A kept weight can be zero (biases and some layers begin there): ask the mask.",
)
def _(W, mask, p):
    alive = mask & (W != 0)
    return by_rank(W, alive, int(p * int(alive.sum())))


@drop.misconception(
    "mask never read",
    "Your code never looks at `mask`. What is gone may hold any value, and what is left may be zero: only the mask tells the two apart.",
)
def _(W, mask, p):
    return by_rank(W, W != 0, int(p * int((W != 0).sum())))


@drop.misconception(
    "a large number instead of inf",
    "You give what is gone a large number, or the largest weight, so that it comes last. Some weight that is left may be larger still: use "
    "torch.inf.",
)
def _(W, mask, p):
    size = torch.where(mask, W.abs(), 100.0)
    return mask & by_rank(size, torch.ones_like(mask), int(p * int(mask.sum())))


@drop.misconception(
    "ranked in float32",
    "You rank in float32, in which two weights that differ may be the same. Stay in the dtype of W.",
)
def _(W, mask, p):
    return by_rank(W, mask, int(p * int(mask.sum())), score=lambda W: W.abs().float())


@drop.misconception(
    "argsort taken for ranks",
    "argsort says which weight comes first, second, ...; not which rank the first weight has. Use its first int(p * n) entries as indices.",
)
def _(W, mask, p):
    order = torch.where(mask, W.abs(), torch.inf).flatten().argsort(stable=True).view(mask.shape)
    return mask & (order >= int(p * int(mask.sum())))


@drop.misconception(
    "index of -1",
    "You compare with the last weight that goes, number int(p * n) - 1. Where int(p * n) is 0 that is index -1, the largest, and all go.",
)
def _(W, mask, p):
    return mask & (W.abs() > W.abs()[mask].sort().values[int(p * int(mask.sum())) - 1])


@drop.misconception(
    "quantile",
    "torch.quantile goes to position p * (n - 1) and interpolates there, so that not always int(p * n) are below it. Sort, or use kthvalue.",
)
def _(W, mask, p):
    return mask & (W.abs() > torch.quantile(W.abs()[mask], p))


@drop.misconception(
    "kthvalue of zero", "kthvalue counts from 1: its k = 0 does not exist. Where int(p * n) is 0, nothing goes."
)
def _(W, mask, p):
    k = max(1, int(p * int(mask.sum())))
    return mask & (W.abs() > W.abs()[mask].kthvalue(k).values)


@drop.misconception("inverted", "Your mask is True where a weight goes. In this course True = kept.")
def _(W, mask, p):
    return ~drop_smallest(W, mask, p)


@drop.misconception(
    "only the newly dropped", "You return which weights go at this level. Return which are left: the old mask without them."
)
def _(W, mask, p):
    return mask & ~drop_smallest(W, mask, p)


@drop.misconception("float mask", "Your mask holds 0.0 and 1.0. A mask is boolean in this course (True = kept).")
def _(W, mask, p):
    return drop_smallest(W, mask, p).float()


@drop.misconception(
    "weights instead of a mask", "You returned the weights that are left. Return the mask: the weights will be rewound."
)
def _(W, mask, p):
    return W * drop_smallest(W, mask, p)


@drop.misconception(
    "old mask changed",
    "You wrote into the mask that you were given. The level before still needs it: work on a copy, mask.clone().",
)
def _(W, mask, p):
    mask &= drop_smallest(W, mask, p)
    return mask


@drop.accepts("a threshold, and-ed")
def _(W, mask, p):
    size = W[mask].abs().sort()[0]
    return mask & (W.abs() >= size[int(p * size.numel())])


@drop.accepts("the authors' code, without its one too many")
def _(W, mask, p):
    weights, current = {"W": W.numpy()}, {"W": mask.numpy().astype(float)}
    number_of_remaining_weights = np.sum([np.sum(v) for v in current.values()])
    number_of_weights_to_prune = int(p * number_of_remaining_weights)
    weight_vector = np.concatenate([v[current[k] == 1] for k, v in weights.items()])
    threshold = np.sort(np.abs(weight_vector))[number_of_weights_to_prune]
    new = {k: np.where(np.abs(v) >= threshold, current[k], np.zeros_like(v)) for k, v in weights.items()}
    return torch.from_numpy(new["W"] == 1)


@drop.accepts("a loop")
def _(W, mask, p):
    new, flat = mask.clone(), W.abs().flatten().tolist()
    places = sorted((value, i) for i, (value, kept) in enumerate(zip(flat, mask.flatten().tolist(), strict=True)) if kept)
    for _, i in places[: int(p * len(places))]:
        new[np.unravel_index(i, new.shape)] = False
    return new
