"""Exercise 2.3: one ranking for the whole model."""

import math

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.patterns.fixtures import drawn, near_whole
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
    yield call(unequal_layers(g, (6, 10), (2 * drawn(g, 4, 7), 10), (4, 10)), 0.75)
    small = {"a": torch.randn(4, 5, generator=g), "b": torch.randn(3, 5, generator=g) * 1e-12, "c": torch.ones(1, 1)}
    yield call(small, 0.5)  # a layer may lose everything
    faint = 10.0 ** -torch.linspace(0, 36, 36)[torch.randperm(36, generator=g)]  # ranked, though squares are all zero
    yield call({"a": faint[:20].view(4, 5), "b": -faint[20:].view(4, 4)}, 0.2)


@global_.stage(
    "counts over all layers together",
    points=1,
    exposes="The number to remove is int(sparsity * n) with n the weights of the whole model, not summed or rounded layer by layer; as "
    "Python computes it, 28 of 100 at 0.29, for 0.29 * 100 is a hair below 29. At 0 nothing goes, also no weight that is zero.",
)
def _(g):
    yield call(unequal_layers(g, (3, 5), (5, 5), (7, 1)), 0.35)
    yield call(unequal_layers(g, (2, 3), (3, drawn(g, 6, 12))), 0.9)
    zero = torch.randn(4, 3, generator=g)
    zero[drawn(g, 0, 4), 1] = 0
    yield call({"only": zero}, 0.0)
    for shapes, below in [(((5, 8), (6, 10)), True), (((5, 12), (10, 4), (20, 5)), True), (((4, 15), (8, 5)), False)]:
        layers = unequal_layers(g, *shapes)
        yield call(layers, near_whole(g, sum(W.numel() for W in layers.values()), below=below))
    weights = unequal_layers(g, (6, 7), (5, 6))
    yield call({name: W * (torch.rand(W.shape, generator=g) < 0.8) for name, W in weights.items()}, 0.6)  # some zero already


@global_.stage(
    "gives a boolean mask per layer and changes nothing",
    points=1,
    exposes="A dict with the same names; boolean masks of the weights' shapes, True = kept; weights untouched. The weights may be of any "
    "dtype: bfloat16, which numpy does not know, and float64, of which float32 would round differences away, among them.",
    pure=True,
)
def _(g):
    yield call({"fc": torch.randn(3, 4, generator=g), "conv": torch.randn(2, 3, drawn(g, 2, 5), 2, generator=g)}, 0.5)
    yield call(
        {"1": torch.randn(5, 3, generator=g), "11.1": torch.randn(2, 5, generator=g), "1.1": torch.randn(6, generator=g)}, 0.6
    )
    close = 1 + 1e-9 * torch.randn(30, generator=g, dtype=torch.float64)
    yield call({"up": -close[:12].view(3, 4), "down": close[12:].view(6, 3)}, 0.5)
    halves = (torch.randperm(48, generator=g) - 23.75).to(torch.bfloat16)
    yield call({"up": halves[:20].view(4, 5), "down": halves[20:].view(7, 4)}, 0.4)


def at_least_float32(W: Tensor) -> Tensor:
    return W.to(torch.promote_types(W.dtype, torch.float32))


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


@global_.misconception(
    "rounded up and one more",
    "With threshold = sorted[ceil(sparsity * n)], the test |W| > threshold keeps one or two weights too few (the lottery-ticket code counts "
    "so). The course removes exactly int(sparsity * n).",
)
def _(weights, sparsity):
    flat = torch.cat([W.abs().flatten() for W in weights.values()])
    return masks_from(weights, patterns.drop_smallest(flat, min(math.ceil(sparsity * len(flat)) + 1, len(flat))))


@global_.misconception(
    "not quite a whole number",
    "You count sparsity * n in float32, in decimals, or with an epsilon added, and get one weight more where the product is a hair below "
    "a whole number. The course counts int(sparsity * n), as Python computes it: 28 of 100 at 0.29.",
)
def _(weights, sparsity):
    flat = torch.cat([W.abs().flatten() for W in weights.values()])
    return masks_from(weights, patterns.drop_smallest(flat, int(sparsity * len(flat) + 1e-9)))


@global_.misconception(
    "zeros are gone",
    "Your mask is False wherever the weight is zero. Which weights go is a matter of their rank: at sparsity 0 all are kept, also a zero.",
)
def _(weights, sparsity):
    return {name: mask & (weights[name] != 0) for name, mask in global_masks(weights, sparsity).items()}


@global_.misconception("rounded up", "You rounded sparsity * n up. The course rounds down: int(sparsity * n).")
def _(weights, sparsity):
    flat = torch.cat([W.abs().flatten() for W in weights.values()])
    return masks_from(weights, patterns.drop_smallest(flat, math.ceil(sparsity * len(flat))))


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
    threshold = torch.quantile(torch.cat([at_least_float32(W).abs().flatten() for W in weights.values()]), sparsity)
    return {name: W.abs() > threshold for name, W in weights.items()}


@global_.misconception(
    "quantile, from it on",
    "torch.quantile interpolates between two weights, and what lies below it is rounded up: more than int(sparsity * n) weights go. Sort, "
    "or use kthvalue.",
)
def _(weights, sparsity):
    threshold = torch.quantile(torch.cat([at_least_float32(W).abs().flatten() for W in weights.values()]), sparsity)
    return {name: W.abs() >= threshold for name, W in weights.items()}


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


@global_.accepts("one sorted list of places")
def _(weights, sparsity):
    masks = {name: torch.ones(W.shape, dtype=torch.bool) for name, W in weights.items()}
    places = [(abs(w), name, i) for name, W in weights.items() for i, w in enumerate(W.flatten().tolist())]
    for _, name, i in sorted(places)[: int(sparsity * len(places))]:
        masks[name].view(-1)[i] = False
    return masks
