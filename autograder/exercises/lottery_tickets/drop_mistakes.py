"""Mistakes of exercise 6.1, and the parts that they vary."""

import math

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes
from sparsity_edu.weights import lottery_ticket


def drop_smallest(W: Tensor, mask: Tensor, p: float) -> Tensor:
    return lottery_ticket.drop_remaining({"W": W}, {"W": mask}, p)["W"]


def by_rank(W: Tensor, mask: Tensor, count: int, score=lambda W: W.abs(), descending=False) -> Tensor:
    """Drop `count` of what is left, by rank in `score`."""
    worst = -torch.inf if descending else torch.inf
    ranked = torch.where(mask, score(W), worst).flatten().argsort(stable=True, descending=descending)
    new = mask.flatten().clone()
    new[ranked[:count]] = False
    return new.view(mask.shape)


mistakes = Mistakes()


@mistakes(
    "signed", "You ranked the weights themselves, not their magnitudes: the negative ones go first, however large they are."
)
def _(W, mask, p):
    return by_rank(W, mask, int(p * int(mask.sum())), score=lambda W: W)


@mistakes("drops the largest", "You drop the largest weights. The small ones go.")
def _(W, mask, p):
    return by_rank(W, mask, int(p * int(mask.sum())), descending=True)


@mistakes(
    "zeros are ranked again",
    "You rank all weights, and those that are gone, being zeros, are the smallest: you drop what is gone already, and the mask stays as it was.",
)
def _(W, mask, p):
    return mask & by_rank(W * mask, torch.ones_like(mask), int(p * int(mask.sum())))


@mistakes(
    "resurrection",
    "Your new mask is chosen among all weights, so that one that is gone comes back if its value is large. A mask may only shrink: `mask & new`.",
)
def _(W, mask, p):
    return by_rank(W, torch.ones_like(mask), mask.numel() - int(mask.sum()) + int(p * int(mask.sum())))


@mistakes(
    "threshold without the old mask",
    "The threshold is right, but you compare all weights with it: what is gone comes back if its value is above. And the two: "
    "`mask & (W.abs() >= threshold)`.",
)
def _(W, mask, p):
    size = W.abs()[mask].sort().values
    return W.abs() >= size[int(p * len(size))]


@mistakes(
    "zeros instead of the mask",
    "You take every zero for a pruned weight. A kept weight can be zero (biases and some layers begin there): ask the mask.",
)
def _(W, mask, p):
    alive = mask & (W != 0)
    return by_rank(W, alive, int(p * int(alive.sum())))


@mistakes(
    "mask never read",
    "Your code never looks at `mask`. What is gone may hold any value, and what is left may be zero: only the mask tells the two apart.",
)
def _(W, mask, p):
    return by_rank(W, W != 0, int(p * int((W != 0).sum())))


@mistakes(
    "a large number instead of inf",
    "You give what is gone a large number, or the largest weight, so that it comes last. Some weight that is left may be larger still: use "
    "torch.inf.",
)
def _(W, mask, p):
    size = torch.where(mask, W.abs(), 100.0)
    return mask & by_rank(size, torch.ones_like(mask), int(p * int(mask.sum())))


@mistakes(
    "ranked in float32",
    "You rank in float32, in which two weights that differ may be the same. Stay in the dtype of W.",
)
def _(W, mask, p):
    return by_rank(W, mask, int(p * int(mask.sum())), score=lambda W: W.abs().float())


@mistakes(
    "argsort taken for ranks",
    "argsort says which weight comes first, second, ...; not which rank the first weight has. Use its first int(p * n) entries as indices.",
)
def _(W, mask, p):
    order = torch.where(mask, W.abs(), torch.inf).flatten().argsort(stable=True).view(mask.shape)
    return mask & (order >= int(p * int(mask.sum())))


@mistakes(
    "index of -1",
    "You compare with the last weight that goes, number int(p * n) - 1. Where int(p * n) is 0 that is index -1, the largest, and all go.",
)
def _(W, mask, p):
    return mask & (W.abs() > W.abs()[mask].sort().values[int(p * int(mask.sum())) - 1])


@mistakes(
    "quantile",
    "torch.quantile goes to position p * (n - 1) and interpolates there, so that not always int(p * n) are below it. Sort, or use kthvalue.",
)
def _(W, mask, p):
    return mask & (W.abs() > torch.quantile(W.abs()[mask], p))


@mistakes("kthvalue of zero", "kthvalue counts from 1: its k = 0 does not exist. Where int(p * n) is 0, nothing goes.")
def _(W, mask, p):
    k = max(1, int(p * int(mask.sum())))
    return mask & (W.abs() > W.abs()[mask].kthvalue(k).values)


@mistakes("inverted", "Your mask is True where a weight goes. In this course True = kept.")
def _(W, mask, p):
    return ~drop_smallest(W, mask, p)


@mistakes(
    "only the newly dropped", "You return which weights go at this level. Return which are left: the old mask without them."
)
def _(W, mask, p):
    return mask & ~drop_smallest(W, mask, p)


@mistakes("float mask", "Your mask holds 0.0 and 1.0. A mask is boolean in this course (True = kept).")
def _(W, mask, p):
    return drop_smallest(W, mask, p).float()


@mistakes("weights instead of a mask", "You returned the weights that are left. Return the mask: the weights will be rewound.")
def _(W, mask, p):
    return W * drop_smallest(W, mask, p)


@mistakes(
    "old mask changed",
    "You wrote into the mask that you were given. The level before still needs it: work on a copy, mask.clone().",
)
def _(W, mask, p):
    mask &= drop_smallest(W, mask, p)
    return mask


def miscounted(name: str, says: str, count):
    mistakes(name, says)(lambda W, mask, p: by_rank(W, mask, count(mask, p)))


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
