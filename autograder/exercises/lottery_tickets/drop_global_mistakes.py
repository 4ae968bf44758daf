"""Mistakes of exercise 6.2, and the parts that they vary."""

import math

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes
from sparsity_edu.weights import lottery_ticket


def drop_smallest_of_all(weights, masks, p, skip=()) -> dict[str, Tensor]:
    return lottery_ticket.drop_remaining(weights, masks, p, skip=skip)


def joint(weights, masks, number, skip=(), score=lambda name, W: W.abs(), ranked=None) -> dict[str, Tensor]:
    """Drop the `number` smallest of what is left in the layers that are not skipped."""
    names = [name for name in weights if name not in skip]
    kept = torch.cat([(ranked or masks)[name].flatten() for name in names])
    size = torch.where(kept, torch.cat([score(name, weights[name]).flatten() for name in names]), torch.inf)
    new = kept.clone()
    new[size.argsort(stable=True)[:number]] = False
    pieces = new.split([weights[name].numel() for name in names])
    new = {name: piece.view_as(weights[name]) for name, piece in zip(names, pieces, strict=True)}
    return {name: new[name] if name in new else mask.clone() for name, mask in masks.items()}


def left_in(masks, skip=()) -> int:
    return sum(int(mask.sum()) for name, mask in masks.items() if name not in skip)


mistakes = Mistakes()


@mistakes("layer by layer", "Every layer loses its own share p. One ranking for all layers means that only the total is fixed.")
def _(weights, masks, p, skip=()):
    single = {
        name: joint({name: W}, masks, int(p * int(masks[name].sum())))[name] for name, W in weights.items() if name not in skip
    }
    return {**masks, **single}


@mistakes(
    "skipped layers counted",
    "You count the skipped layers' weights in n, so that the others lose more than their share. The authors' code does the same: with the "
    "output layer skipped, its 20 % are more than 20 %.",
)
def _(weights, masks, p, skip=()):
    return joint(weights, masks, min(int(p * left_in(masks)), left_in(masks, skip)), skip)


@mistakes(
    "skipped layers compete",
    "Skipped layers take part in the ranking, and you put their masks back afterwards: the others then lose fewer than int(p * n).",
)
def _(weights, masks, p, skip=()):
    return joint(weights, masks, int(p * left_in(masks))) | {name: masks[name] for name in skip}


@mistakes("skipped layers missing", "Skipped layers are missing from the result. They are not pruned, but they have a mask.")
def _(weights, masks, p, skip=()):
    new = drop_smallest_of_all(weights, masks, p, skip)
    return {name: mask for name, mask in new.items() if name not in skip}


@mistakes(
    "skipped layers revived", "You give skipped layers a full mask. They keep the one they have: what is gone stays gone."
)
def _(weights, masks, p, skip=()):
    return drop_smallest_of_all(weights, masks, p, skip) | {name: torch.ones_like(masks[name]) for name in skip}


@mistakes("skip ignored", "Layers in `skip` are pruned like all others.")
def _(weights, masks, p, skip=()):
    return drop_smallest_of_all(weights, masks, p)


@mistakes(
    "fraction of the original",
    "You drop the fraction p of the *original* weights. It is p of what is left; after five levels of 20 % a third must still be there.",
)
def _(weights, masks, p, skip=()):
    n = sum(W.numel() for name, W in weights.items() if name not in skip)
    return joint(weights, masks, min(int(p * n), left_in(masks, skip)), skip)


@mistakes(
    "resurrection",
    "The new masks are chosen among all weights, so that large values that were gone come back. Masks may only shrink.",
)
def _(weights, masks, p, skip=()):
    total = sum(W.numel() for name, W in weights.items() if name not in skip)
    n = left_in(masks, skip)
    return joint(weights, masks, total - n + int(p * n), skip, ranked={n: torch.ones_like(m) for n, m in masks.items()})


@mistakes(
    "zeros are ranked again",
    "You rank all weights, and those that are gone, being zeros, are the smallest: what you drop is gone already.",
)
def _(weights, masks, p, skip=()):
    new = joint(
        weights,
        masks,
        int(p * left_in(masks, skip)),
        skip,
        score=lambda name, W: (W * masks[name]).abs(),
        ranked={n: torch.ones_like(m) for n, m in masks.items()},
    )
    return {name: mask & masks[name] for name, mask in new.items()}


@mistakes("one too many", "One weight more than int(p * n) goes, as in the authors' code. Here it is exactly int(p * n).")
def _(weights, masks, p, skip=()):
    return joint(weights, masks, int(p * left_in(masks, skip)) + 1, skip)


@mistakes(
    "counted in float32",
    "A sum of masks is a tensor, and p times it is in float32, which makes 29 of 0.29 x 100, where int(0.29 * 100) is 28. Make n a Python "
    "number first.",
)
def _(weights, masks, p, skip=()):
    return joint(weights, masks, int(p * torch.tensor(left_in(masks, skip))), skip)


@mistakes(
    "room for rounding",
    "You add a small number to p * n before you round it down. It is exactly int(p * n): 28 for 0.29 x 100.",
)
def _(weights, masks, p, skip=()):
    return joint(weights, masks, int(p * left_in(masks, skip) + 1e-6), skip)


@mistakes(
    "part of a name",
    "You leave out every layer whose name contains one of `skip`: with fc.1 also fc.10. Compare whole names: `name in skip`.",
)
def _(weights, masks, p, skip=()):
    return drop_smallest_of_all(weights, masks, p, [name for name in weights if any(other in name for other in skip)])


@mistakes("zeros instead of the masks", "You take every zero for a pruned weight. A kept weight can be zero: ask the mask.")
def _(weights, masks, p, skip=()):
    left = {name: mask & (weights[name] != 0) for name, mask in masks.items()}
    return joint(weights, left, int(p * left_in(left, skip)), skip)


@mistakes("rounded", "You rounded p * n to the nearest integer. Here it is rounded down: int(p * n).")
def _(weights, masks, p, skip=()):
    return joint(weights, masks, round(p * left_in(masks, skip)), skip)


@mistakes("rounded up", "You rounded p * n up. Here it is rounded down: int(p * n).")
def _(weights, masks, p, skip=()):
    return joint(weights, masks, math.ceil(p * left_in(masks, skip)), skip)


@mistakes(
    "thresholds without the old masks",
    "The threshold is right, but you compare all weights with it: what is gone comes back if its value is above. And each with its old mask.",
)
def _(weights, masks, p, skip=()):
    left = torch.cat([W.abs()[masks[name]] for name, W in weights.items() if name not in skip]).sort().values
    return {**masks, **{name: W.abs() >= left[int(p * len(left))] for name, W in weights.items() if name not in skip}}


@mistakes(
    "paired by position",
    "You pair weights and masks by position, `zip(weights.values(), masks.values())`. The dicts may be in other orders: take both by name.",
)
def _(weights, masks, p, skip=()):
    paired = dict(zip(weights, masks.values(), strict=True))
    return joint(weights, paired, int(p * left_in(paired, skip)), skip)


@mistakes(
    "rounded layer by layer", "You add up int(p * n) over the layers. Round once, for all of them together: int(p * sum of n)."
)
def _(weights, masks, p, skip=()):
    return joint(weights, masks, sum(int(p * int(mask.sum())) for name, mask in masks.items() if name not in skip), skip)


@mistakes("signed", "You ranked the weights themselves, not their magnitudes.")
def _(weights, masks, p, skip=()):
    return joint(weights, masks, int(p * left_in(masks, skip)), skip, score=lambda name, W: W)


@mistakes("normalised", "You divided each layer by its own scale first. That is another method; here plain magnitudes compete.")
def _(weights, masks, p, skip=()):
    return joint(
        weights, masks, int(p * left_in(masks, skip)), skip, score=lambda name, W: W.abs() / W[masks[name]].abs().mean()
    )


@mistakes(
    "weights and masks in other orders",
    "You concatenate the weights in the order of one dict and the masks in that of the other. Take both by name.",
)
def _(weights, masks, p, skip=()):
    names = [name for name in weights if name not in skip]
    others = [name for name in masks if name not in skip]
    kept = torch.cat([masks[name].flatten() for name in others])
    size = torch.where(kept, torch.cat([weights[name].abs().flatten() for name in names]), torch.inf)
    new = kept.clone()
    new[size.argsort(stable=True)[: int(p * int(kept.sum()))]] = False
    pieces = new.split([masks[name].numel() for name in others])
    return {**masks, **{name: piece.view_as(masks[name]) for name, piece in zip(others, pieces, strict=True)}}


@mistakes("inverted", "Your masks are True where a weight goes. In this course True = kept.")
def _(weights, masks, p, skip=()):
    return {name: ~mask for name, mask in drop_smallest_of_all(weights, masks, p, skip).items()}


@mistakes(
    "old masks changed", "You wrote into the masks that you were given. The level before still needs them: work on copies."
)
def _(weights, masks, p, skip=()):
    for name, mask in drop_smallest_of_all(weights, masks, p, skip).items():
        masks[name] &= mask
    return masks
