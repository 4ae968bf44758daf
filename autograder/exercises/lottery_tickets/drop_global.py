"""Exercise 6.2: one ranking for all layers, some left out."""

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


def drop_smallest_of_all(weights, masks, p, skip=()) -> dict[str, Tensor]:
    return lottery_ticket.drop_remaining(weights, masks, p, skip=skip)


drop_global = Exercise(
    "lottery_tickets.drop_global",
    defines="drop_smallest_of_all",
    title="One ranking for all layers",
    minutes=15,
    difficulty=2,
    hints=(
        "One ranking of many layers is the ranking of one long layer, and your `drop_smallest` can do that: make one long "
        "vector of the weights and one of the masks.",
        "Leave the layers of `skip` out from the beginning, so that they neither compete nor count. Walk over the names "
        "of `weights` for both vectors, as the masks may come in another order. Cut the result with `.split`, and give "
        "each piece its layer's shape.",
        "`names = [name for name in weights if name not in skip]`. `torch.cat` the flattened weights of these names, and "
        "their masks; call `drop_smallest`; `.split([weights[name].numel() for name in names])`. A skipped layer gets a "
        "clone of the mask that it had.",
    ),
    reference=drop_smallest_of_all,
    forbids=("torch.nn.utils.prune",),
)


def layers_left(g: torch.Generator, *shapes, densities, p, gone="any", reorder=False, **kwargs):
    """Layers of unlike scale, the later ones smaller."""
    masks = {f"layer{i}": some_mask(g, *shape, density=d) for i, (shape, d) in enumerate(zip(shapes, densities, strict=True))}
    weights = {name: weights_left(g, mask, gone) * 2.0**-i for i, (name, mask) in enumerate(masks.items())}
    return call(weights, dict(reversed(masks.items())) if reorder else masks, p, **kwargs)


def split(W: Tensor, mask: Tensor, *names: str) -> tuple[dict, dict]:
    """One long layer cut into several."""
    sizes = [W.numel() // (i + 2) for i in range(len(names) - 1)]
    pieces = [value.split([*sizes, W.numel() - sum(sizes)]) for value in (W, mask)]
    weights, masks = (dict(zip(names, (piece.clone() for piece in of), strict=True)) for of in pieces)
    return weights, masks


@drop_global.stage(
    "one ranking for all layers",
    points=1,
    exposes="All weights that are left in all layers compete: a layer of small weights loses many, one of large weights few. A dict of "
    "boolean masks by layer name.",
)
def _(g):
    yield layers_left(g, (3, 4), (2, 4), densities=(1, 1), p=0.5)
    yield layers_left(g, (6, 7), (5, 6), (3, 5), densities=(1, 1, 1), p=0.35)


@drop_global.stage(
    "counts and ranks only what is left, in all layers together",
    points=1,
    exposes="n counts the weights that are left in all these layers together, rounded once; what is gone stays gone, whatever value it "
    "has.",
)
def _(g):
    yield layers_left(g, (5, 7), (4, 5), (3, 4), densities=(0.5, 0.9, 0.7), p=0.45, gone="zero")
    yield layers_left(g, (6, 5), (7, 6), (2, 7), densities=(0.8, 0.4, 0.6), p=0.37, gone="large")
    yield layers_left(g, (4, 9), (8, 4), densities=(0.3, 0.8), p=0.2, reorder=True)
    yield layers_left(g, (6, 5), (6, 5), densities=(0.4, 0.9), p=0.3, reorder=True)
    yield layers_left(g, (4, 6), (5, 6), (9,), densities=(0, 0.8, 1), p=0.4)
    mask = some_mask(g, 60, density=0.7)
    yield call(*split(of_all_sizes(g, mask), mask, "a", "b"), 0.3)
    yield call(*split(of_all_sizes(g, mask), mask, "a", "b"), 0.8)


@drop_global.stage(
    "skipped layers neither lose, nor compete, nor count",
    points=2,
    exposes="A layer in `skip` keeps the mask it has, its weights do not compete, and it is not counted in n.",
)
def _(g):
    yield layers_left(g, (5, 6), (7, 5), (4, 7), densities=(1, 1, 1), p=0.4, skip=("layer2",))
    yield layers_left(g, (6, 7), (5, 6), (3, 5), densities=(0.6, 0.7, 0.8), p=0.3, gone="large", skip=("layer2",))
    yield layers_left(g, (9, 4), (5, 9), (8, 5), densities=(0.9, 0.5, 0.6), p=0.55, gone="zero", skip=("layer0", "layer1"))
    mask = some_mask(g, 80, density=0.8)
    for skip in (["fc.1"], ("fc",), []):
        yield call(*split(weights_left(g, mask), mask, "fc", "fc.1", "fc.10"), 0.35, skip)


@drop_global.stage(
    "arguments untouched",
    points=1,
    exposes="New masks in a new dict; exactly int(p * n) go, none where p * n is below 1; the arguments stay as they were.",
    pure=True,
)
def _(g):
    yield layers_left(g, (4, 2, 3, 3), (3, 5), densities=(0.7, 0.9), p=0.25, skip=("layer1",))
    yield layers_left(g, (4, 5), (3, 4), densities=(0.5, 1), p=0.0)
    yield layers_left(g, (2, 3), (3, 2), densities=(0.5, 1), p=0.1)
    yield layers_left(g, (50, 40), (30, 20), densities=(0.9, 1), p=0.5)
    for by in (1, 1, -1):
        n, p = telling_count(g, 60, 160, by)
        mask = exactly(g, n, 170)
        yield call(*split(weights_left(g, mask), mask, "a", "b", "c"), p)
    mask = some_mask(g, 70, density=0.8)
    yield call(*split(nearly_tied(g, mask, 0.45), mask, "a", "b"), 0.45)


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


@drop_global.misconception(
    "layer by layer", "Every layer loses its own share p. One ranking for all layers means that only the total is fixed."
)
def _(weights, masks, p, skip=()):
    single = {
        name: joint({name: W}, masks, int(p * int(masks[name].sum())))[name] for name, W in weights.items() if name not in skip
    }
    return {**masks, **single}


@drop_global.misconception(
    "skipped layers counted",
    "You count the skipped layers' weights in n, so that the others lose more than their share. The authors' code does the same: with the "
    "output layer skipped, its 20 % are more than 20 %.",
)
def _(weights, masks, p, skip=()):
    return joint(weights, masks, min(int(p * left_in(masks)), left_in(masks, skip)), skip)


@drop_global.misconception(
    "skipped layers compete",
    "Skipped layers take part in the ranking, and you put their masks back afterwards: the others then lose fewer than int(p * n).",
)
def _(weights, masks, p, skip=()):
    return joint(weights, masks, int(p * left_in(masks))) | {name: masks[name] for name in skip}


@drop_global.misconception(
    "skipped layers missing", "Skipped layers are missing from the result. They are not pruned, but they have a mask."
)
def _(weights, masks, p, skip=()):
    new = drop_smallest_of_all(weights, masks, p, skip)
    return {name: mask for name, mask in new.items() if name not in skip}


@drop_global.misconception(
    "skipped layers revived", "You give skipped layers a full mask. They keep the one they have: what is gone stays gone."
)
def _(weights, masks, p, skip=()):
    return drop_smallest_of_all(weights, masks, p, skip) | {name: torch.ones_like(masks[name]) for name in skip}


@drop_global.misconception("skip ignored", "Layers in `skip` are pruned like all others.")
def _(weights, masks, p, skip=()):
    return drop_smallest_of_all(weights, masks, p)


@drop_global.misconception(
    "fraction of the original",
    "You drop the fraction p of the *original* weights. It is p of what is left; after five levels of 20 % a third must still be there.",
)
def _(weights, masks, p, skip=()):
    n = sum(W.numel() for name, W in weights.items() if name not in skip)
    return joint(weights, masks, min(int(p * n), left_in(masks, skip)), skip)


@drop_global.misconception(
    "resurrection",
    "The new masks are chosen among all weights, so that large values that were gone come back. Masks may only shrink.",
)
def _(weights, masks, p, skip=()):
    total = sum(W.numel() for name, W in weights.items() if name not in skip)
    n = left_in(masks, skip)
    return joint(weights, masks, total - n + int(p * n), skip, ranked={n: torch.ones_like(m) for n, m in masks.items()})


@drop_global.misconception(
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


@drop_global.misconception(
    "one too many", "One weight more than int(p * n) goes, as in the authors' code. Here it is exactly int(p * n)."
)
def _(weights, masks, p, skip=()):
    return joint(weights, masks, int(p * left_in(masks, skip)) + 1, skip)


@drop_global.misconception(
    "counted in float32",
    "A sum of masks is a tensor, and p times it is in float32, which makes 29 of 0.29 x 100, where int(0.29 * 100) is 28. Make n a Python "
    "number first.",
)
def _(weights, masks, p, skip=()):
    return joint(weights, masks, int(p * torch.tensor(left_in(masks, skip))), skip)


@drop_global.misconception(
    "room for rounding",
    "You add a small number to p * n before you round it down. It is exactly int(p * n): 28 for 0.29 x 100.",
)
def _(weights, masks, p, skip=()):
    return joint(weights, masks, int(p * left_in(masks, skip) + 1e-6), skip)


@drop_global.misconception(
    "part of a name",
    "You leave out every layer whose name contains one of `skip`: with fc.1 also fc.10. Compare whole names: `name in skip`.",
)
def _(weights, masks, p, skip=()):
    return drop_smallest_of_all(weights, masks, p, [name for name in weights if any(other in name for other in skip)])


@drop_global.misconception(
    "zeros instead of the masks", "You take every zero for a pruned weight. A kept weight can be zero: ask the mask."
)
def _(weights, masks, p, skip=()):
    left = {name: mask & (weights[name] != 0) for name, mask in masks.items()}
    return joint(weights, left, int(p * left_in(left, skip)), skip)


@drop_global.misconception("rounded", "You rounded p * n to the nearest integer. Here it is rounded down: int(p * n).")
def _(weights, masks, p, skip=()):
    return joint(weights, masks, round(p * left_in(masks, skip)), skip)


@drop_global.misconception("rounded up", "You rounded p * n up. Here it is rounded down: int(p * n).")
def _(weights, masks, p, skip=()):
    return joint(weights, masks, math.ceil(p * left_in(masks, skip)), skip)


@drop_global.misconception(
    "thresholds without the old masks",
    "The threshold is right, but you compare all weights with it: what is gone comes back if its value is above. And each with its old mask.",
)
def _(weights, masks, p, skip=()):
    left = torch.cat([W.abs()[masks[name]] for name, W in weights.items() if name not in skip]).sort().values
    return {**masks, **{name: W.abs() >= left[int(p * len(left))] for name, W in weights.items() if name not in skip}}


@drop_global.misconception(
    "paired by position",
    "You pair weights and masks by position, `zip(weights.values(), masks.values())`. The dicts may be in other orders: take both by name.",
)
def _(weights, masks, p, skip=()):
    paired = dict(zip(weights, masks.values(), strict=True))
    return joint(weights, paired, int(p * left_in(paired, skip)), skip)


@drop_global.misconception(
    "rounded layer by layer", "You add up int(p * n) over the layers. Round once, for all of them together: int(p * sum of n)."
)
def _(weights, masks, p, skip=()):
    return joint(weights, masks, sum(int(p * int(mask.sum())) for name, mask in masks.items() if name not in skip), skip)


@drop_global.misconception("signed", "You ranked the weights themselves, not their magnitudes.")
def _(weights, masks, p, skip=()):
    return joint(weights, masks, int(p * left_in(masks, skip)), skip, score=lambda name, W: W)


@drop_global.misconception(
    "normalised", "You divided each layer by its own scale first. That is another method; here plain magnitudes compete."
)
def _(weights, masks, p, skip=()):
    return joint(
        weights, masks, int(p * left_in(masks, skip)), skip, score=lambda name, W: W.abs() / W[masks[name]].abs().mean()
    )


@drop_global.misconception(
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


@drop_global.misconception("inverted", "Your masks are True where a weight goes. In this course True = kept.")
def _(weights, masks, p, skip=()):
    return {name: ~mask for name, mask in drop_smallest_of_all(weights, masks, p, skip).items()}


@drop_global.misconception(
    "old masks changed", "You wrote into the masks that you were given. The level before still needs them: work on copies."
)
def _(weights, masks, p, skip=()):
    for name, mask in drop_smallest_of_all(weights, masks, p, skip).items():
        masks[name] &= mask
    return masks


@drop_global.accepts("a threshold for all")
def _(weights, masks, p, skip=()):
    names = [name for name in weights if name not in skip]
    left = torch.cat([weights[name][masks[name]].abs() for name in names]).sort().values
    threshold = left[int(p * len(left))]
    return {n: masks[n] & (weights[n].abs() >= threshold) if n in names else masks[n].clone() for n in weights}


@drop_global.accepts("the authors' code, without its one too many and with its skipped layers uncounted")
def _(weights, masks, p, skip=()):
    current = {name: mask.numpy().astype(float) for name, mask in masks.items()}
    prunable_tensors = set(weights) - set(skip)
    number_of_remaining_weights = np.sum([np.sum(current[k]) for k in prunable_tensors])
    number_of_weights_to_prune = int(p * number_of_remaining_weights)
    arrays = {k: v.numpy() for k, v in weights.items() if k in prunable_tensors}
    weight_vector = np.concatenate([v[current[k] == 1] for k, v in arrays.items()])
    threshold = np.sort(np.abs(weight_vector))[number_of_weights_to_prune]
    new_mask = {k: np.where(np.abs(v) >= threshold, current[k], np.zeros_like(v)) for k, v in arrays.items()}
    for k in current:
        if k not in new_mask:
            new_mask[k] = current[k]
    return {k: torch.tensor(v, dtype=torch.bool) for k, v in new_mask.items()}


@drop_global.accepts("one by one")
def _(weights, masks, p, skip=()):
    new = {name: mask.clone() for name, mask in masks.items()}
    n = sum(int(masks[name].sum()) for name in weights if name not in skip)
    for _ in range(int(p * n)):
        _, name = min((weights[m].abs()[new[m]].min(), m) for m in weights if m not in skip and new[m].any())
        left = new[name].flatten().nonzero()
        smallest = left[weights[name].flatten()[left].abs().argmin()]
        new[name] = new[name].flatten().index_fill(0, smallest, False).view(new[name].shape)
    return new
