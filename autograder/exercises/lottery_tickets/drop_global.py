"""Exercise 6.2: one ranking for all layers, some left out."""

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.lottery_tickets.drop_global_mistakes import drop_smallest_of_all, mistakes
from autograder.exercises.lottery_tickets.fixtures import (
    exactly,
    nearly_tied,
    of_all_sizes,
    some_mask,
    telling_count,
    weights_left,
)
from autograder.inside.case import call

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
    misconceptions=mistakes,
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
