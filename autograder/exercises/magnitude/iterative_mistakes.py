"""Mistakes of exercise 2.6, and the right answer that they vary."""

import math
from itertools import accumulate

import torch
from torch import Tensor, nn

from autograder.checking.exercise import Mistakes
from autograder.exercises.magnitude.fixtures import linear_layers
from sparsity_edu import patterns
from sparsity_edu.weights import magnitude


def iterative_prune_(model, sparsities, retrain):
    return rounds(model, sparsities, retrain)


def chosen(W: Tensor, sparsity: float, count=int) -> Tensor:
    """The mask of one layer for scores W."""
    return patterns.drop_smallest(W.flatten(), count(sparsity * W.numel())).view(W.shape)


def rounds(model, sparsities, retrain, rank=lambda W: W.abs(), layers=linear_layers, count=int, prune=True, hold=True):
    """`iterative_prune_` with its parts exchangeable, for mistakes in one part."""
    for sparsity in sparsities:
        masks = {n: chosen(rank(m.weight.detach()), sparsity, count) for n, m in layers(model).items()}
        if prune:
            magnitude.apply_(model, masks)
        retrain(model, masks)
        if hold:
            magnitude.apply_(model, masks)
    return masks


mistakes = Mistakes()


@mistakes(
    "zeros not restored",
    "retrain moved the pruned weights, and nothing put them back: the returned model is dense, and in the next round the pruned weights "
    "compete again. Write the zeros once more after retrain.",
)
def _(model, sparsities, retrain):
    return rounds(model, sparsities, retrain, hold=False)


@mistakes(
    "ranks the original weights",
    "Every round ranks the weights from before the first round. The point of iterating is that retraining changes which weights are small.",
)
def _(model, sparsities, retrain):
    original = {name: layer.weight.detach().clone() for name, layer in linear_layers(model).items()}
    for sparsity in sparsities:
        masks = {name: patterns.unstructured(W.abs(), sparsity) for name, W in original.items()}
        magnitude.apply_(model, masks)
        retrain(model, masks)
        magnitude.apply_(model, masks)
    return masks


@mistakes(
    "fraction of what remains",
    "You remove a fraction of the *remaining* weights (as lottery-ticket code does). Here `sparsities` are totals: 0.5 then 0.75 ends at 75 %.",
)
def _(model, sparsities, retrain):
    totals = accumulate(sparsities, lambda gone, s: gone + s * (1 - gone))
    return rounds(model, list(totals), retrain)


@mistakes("one shot", "You prune to the last sparsity at once. Each round has its own sparsity and its own retraining.")
def _(model, sparsities, retrain):
    return rounds(model, sparsities[-1:], retrain)


@mistakes("retrains first", "You call retrain before pruning. A round is: prune, then let the survivors recover.")
def _(model, sparsities, retrain):
    for sparsity in sparsities:
        retrain(model, {})
        masks = rounds(model, [sparsity], lambda *_: None)
    return masks


@mistakes(
    "no retraining",
    "retrain is not called after the last pruning, or never. Every round ends with it: without retraining, pruning in steps is one-shot "
    "pruning, slowly.",
)
def _(model, sparsities, retrain):
    return rounds(model, sparsities, lambda *_: None)


@mistakes(
    "prunes after retraining",
    "The weights are zeroed only after retrain, so that it trains the dense model. Prune first: the survivors must learn to do without.",
)
def _(model, sparsities, retrain):
    return rounds(model, sparsities, retrain, prune=False)


@mistakes(
    "retrain without masks",
    "You call retrain without the masks, but it needs them to hold the zeros: retrain(model, masks).",
)
def _(model, sparsities, retrain):
    return rounds(model, sparsities, lambda model, masks: retrain(model))


@mistakes(
    "top level only",
    "You prune the model's direct children only. Real models nest their layers: `model.named_modules()` finds them all.",
)
def _(model, sparsities, retrain):
    def layers(model):
        top = {"": model, **dict(model.named_children())}
        return {name: layer for name, layer in top.items() if isinstance(layer, nn.Linear)}

    return rounds(model, sparsities, retrain, layers=layers)


@mistakes(
    "no gradients",
    "retrain runs under your torch.no_grad(), where nothing can be trained: put only the lines under it that write the zeros.",
)
@torch.no_grad()
def _(model, sparsities, retrain):
    return rounds(model, sparsities, retrain)


@mistakes(
    "new parameters",
    "You put a new nn.Parameter in the layer's place. An optimiser that was made before goes on training the old one: change the weight in "
    "place, under torch.no_grad().",
)
def _(model, sparsities, retrain):
    def anew(masks):
        for name, mask in masks.items():
            layer = model.get_submodule(name)
            layer.weight = nn.Parameter(layer.weight.detach() * mask)

    for sparsity in sparsities:
        masks = {n: patterns.unstructured(m.weight.detach().abs(), sparsity) for n, m in linear_layers(model).items()}
        anew(masks)
        retrain(model, masks)
        anew(masks)
    return masks


@mistakes("rounded", "You rounded sparsity * n to the nearest integer. The course rounds down: int(sparsity * n).")
def _(model, sparsities, retrain):
    return rounds(model, sparsities, retrain, count=round)


@mistakes("rounded up", "You rounded sparsity * n up. The course rounds down: int(sparsity * n).")
def _(model, sparsities, retrain):
    return rounds(model, sparsities, retrain, count=math.ceil)


@mistakes(
    "not quite a whole number",
    "You count sparsity * n in float32, in decimals, or with an epsilon added, and get one weight more where the product is a hair below "
    "a whole number. The course counts int(sparsity * n), as Python computes it: 28 of 100 at 0.29.",
)
def _(model, sparsities, retrain):
    return rounds(model, sparsities, retrain, count=lambda x: int(x + 1e-9))


@mistakes(
    "zeros are gone",
    "Your masks are False wherever the weight is zero. Which weights go is a matter of their rank: at sparsity 0 all are kept, also a zero.",
)
def _(model, sparsities, retrain):
    for sparsity in sparsities:
        weights = {name: layer.weight.detach() for name, layer in linear_layers(model).items()}
        masks = {name: chosen(W.abs(), sparsity) & (W != 0) for name, W in weights.items()}
        magnitude.apply_(model, masks)
        retrain(model, masks)
        magnitude.apply_(model, masks)
    return masks


@mistakes(
    "without the model itself",
    'You skip the name "", but that is the model itself, and it may be a linear layer: `model.named_modules()` begins with it.',
)
def _(model, sparsities, retrain):
    def layers(model):
        return {name: layer for name, layer in linear_layers(model).items() if name}

    return rounds(model, sparsities, retrain, layers=layers)


@mistakes(
    "no subclasses",
    "`type(layer) is nn.Linear` overlooks subclasses: the output projection of nn.MultiheadAttention is one. Ask `isinstance(layer, nn.Linear)`.",
)
def _(model, sparsities, retrain):
    def layers(model):
        return {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear}

    return rounds(model, sparsities, retrain, layers=layers)


@mistakes(
    "convolutions too",
    "You prune convolutions. That can be done, but this function is for linear layers: `isinstance(layer, nn.Linear)`.",
)
def _(model, sparsities, retrain):
    def layers(model):
        return {n: layer for n, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)}

    return rounds(model, sparsities, retrain, layers=layers)


@mistakes("signed", "You rank the weights themselves, not their magnitudes.")
def _(model, sparsities, retrain):
    return rounds(model, sparsities, retrain, rank=lambda W: W)


@mistakes(
    "one threshold for all layers",
    "You let all layers compete under one threshold. In this exercise every layer reaches the sparsity by itself.",
)
def _(model, sparsities, retrain):
    for sparsity in sparsities:
        weights = {name: layer.weight.detach().abs() for name, layer in linear_layers(model).items()}
        masks = patterns.unstructured_model(weights, sparsity)
        magnitude.apply_(model, masks)
        retrain(model, masks)
        magnitude.apply_(model, masks)
    return masks


@mistakes("masks inverted", "Your masks are True where a weight went. In this course True = kept.")
def _(model, sparsities, retrain):
    return {name: ~mask for name, mask in rounds(model, sparsities, retrain).items()}
