"""Exercise 2.3: one ranking for the whole model."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.inside.case import call
from sparsity_edu import patterns
from sparsity_edu.weights import magnitude


def global_masks(weights: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    return patterns.unstructured_model({name: magnitude.score(W) for name, W in weights.items()}, sparsity)


global_ = Exercise(
    "magnitude.global",
    defines="global_masks",
    title="One ranking for the whole model",
    minutes=15,
    difficulty=2,
    hints=(
        "One ranking over the whole model: put the magnitudes of all layers into one long vector, choose in it, and cut "
        "the result up again.",
        "`torch.cat` of the flattened magnitudes is this vector, in the order of the dict. In it `int(sparsity * n)` "
        "positions go, as in the exercise before; but now you make a mask. `mask.split([...])` cuts it into pieces of the "
        "layers' sizes.",
        "`kept = torch.ones(n, dtype=torch.bool)` is False at `magnitudes.argsort()[:count]`. Split it by `[W.numel() for "
        "W in weights.values()]`, then go over the names and pieces together: each piece takes its W's shape with "
        "`.view(W.shape)`.",
    ),
    reference=global_masks,
    forbids=("torch.nn.utils.prune",),
)


def unequal_layers(g: torch.Generator, *shapes: tuple[int, int]) -> dict[str, Tensor]:
    return {f"layer{i}": torch.randn(shape, generator=g) * 2.0 ** (1 - i) for i, shape in enumerate(shapes)}


@global_.stage(
    "keeps the weights that are largest in the whole model",
    points=1,
    exposes="All weights of all layers compete: a layer of large weights loses few, a layer of small ones many.",
)
def _(g):
    yield call(unequal_layers(g, (3, 4), (2, 4)), 0.5)
    yield call(unequal_layers(g, (6, 10), (10, 10), (4, 10)), 0.75)


@global_.stage(
    "counts over all layers together",
    points=1,
    exposes="The number to remove is int(sparsity * n) with n the weights of the whole model, not summed or rounded layer by layer.",
)
def _(g):
    yield call(unequal_layers(g, (3, 5), (5, 5), (7, 1)), 0.35)
    yield call(unequal_layers(g, (2, 3), (3, 9)), 0.9)
    yield call(unequal_layers(g, (4, 3)), 0.0)
    weights = unequal_layers(g, (6, 7), (5, 6))
    yield call({name: W * (torch.rand(W.shape, generator=g) < 0.8) for name, W in weights.items()}, 0.6)  # some zero already


@global_.stage(
    "gives a boolean mask per layer and changes nothing",
    points=1,
    exposes="A dict with the same names; boolean masks of the weights' shapes, True = kept; weights untouched.",
    pure=True,
)
def _(g):
    yield call({"fc": torch.randn(3, 4, generator=g), "conv": torch.randn(2, 3, 3, generator=g)}, 0.5)
    yield call(
        {"up": torch.randn(5, 3, generator=g), "down": torch.randn(2, 5, generator=g), "bias": torch.randn(6, generator=g)}, 0.6
    )


def masks_from(weights, kept: Tensor) -> dict[str, Tensor]:
    pieces = kept.split([W.numel() for W in weights.values()])
    return {name: piece.view(W.shape) for (name, W), piece in zip(weights.items(), pieces, strict=True)}


@global_.misconception(
    "per layer",
    "You pruned every layer by itself, so that each loses the same share. Global means one ranking over all layers.",
)
def _(weights, sparsity):
    return {name: patterns.unstructured(W.abs(), sparsity) for name, W in weights.items()}


@global_.misconception(
    "mean threshold",
    "You averaged the layers' thresholds. One threshold for all is a quantile of all weights, not a mean of quantiles.",
)
def _(weights, sparsity):
    thresholds = [W.abs().flatten().sort().values[int(sparsity * W.numel())] for W in weights.values()]
    return {name: W.abs() >= sum(thresholds) / len(thresholds) for name, W in weights.items()}


@global_.misconception(
    "normalised", "You divided each layer by its norm or scale first. That is another method; here plain magnitudes compete."
)
def _(weights, sparsity):
    return patterns.unstructured_model({name: W.abs() / W.norm() for name, W in weights.items()}, sparsity)


@global_.misconception("inverted", "Your mask is True where a weight goes. In this course True = kept.")
def _(weights, sparsity):
    return {name: ~mask for name, mask in global_masks(weights, sparsity).items()}


@global_.misconception("signed", "You ranked the weights themselves, not their magnitudes.")
def _(weights, sparsity):
    return patterns.unstructured_model(weights, sparsity)


@global_.misconception("one too many", "One weight too many goes: |W| > sorted[k] removes k + 1. Keep |W| >= sorted[k].")
def _(weights, sparsity):
    flat = torch.cat([W.abs().flatten() for W in weights.values()])
    threshold = flat.sort().values[int(sparsity * len(flat))]
    return {name: W.abs() > threshold for name, W in weights.items()}


@global_.misconception("rounded", "You rounded sparsity * n to the nearest integer. The course rounds down: int(sparsity * n).")
def _(weights, sparsity):
    flat = torch.cat([W.abs().flatten() for W in weights.values()])
    return masks_from(weights, patterns.drop_smallest(flat, round(sparsity * len(flat))))


@global_.misconception(
    "quantile",
    "torch.quantile interpolates between two weights, so the number that falls below it is not always int(sparsity * n). Sort, or use "
    "kthvalue.",
)
def _(weights, sparsity):
    threshold = torch.quantile(torch.cat([W.abs().flatten() for W in weights.values()]), sparsity)
    return {name: W.abs() > threshold for name, W in weights.items()}


@global_.misconception("float mask", "Your masks hold 0.0 and 1.0. A mask is boolean in this course (True = kept).")
def _(weights, sparsity):
    return {name: mask.float() for name, mask in global_masks(weights, sparsity).items()}


@global_.misconception("pruned weights", "You returned the pruned weights. Return boolean masks, True = kept.")
def _(weights, sparsity):
    return {name: weights[name] * mask for name, mask in global_masks(weights, sparsity).items()}


@global_.accepts("by threshold")
def _(weights, sparsity):
    flat = torch.cat([W.abs().reshape(-1) for W in weights.values()]).sort().values
    k = int(sparsity * flat.numel())
    return {name: W.abs() >= flat[k] for name, W in weights.items()}
