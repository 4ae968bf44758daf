"""Exercise 6.1: a fraction of what is left."""

import numpy as np
import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.lottery_tickets.drop_mistakes import drop_smallest, mistakes
from autograder.exercises.lottery_tickets.fixtures import (
    exactly,
    nearly_tied,
    of_all_sizes,
    some_mask,
    telling_count,
    weights_left,
)
from autograder.inside.case import call

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
    misconceptions=mistakes,
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
