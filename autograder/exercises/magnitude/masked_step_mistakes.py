"""Mistakes of exercise 2.4, and the right answer that they vary."""

import torch.nn.functional as F
from torch import nn

from autograder.checking.exercise import Mistakes
from autograder.exercises.magnitude.fixtures import linear_layers
from sparsity_edu import patterns
from sparsity_edu.weights import magnitude


def masked_step_(model, masks, optimizer, x, y):
    held = magnitude.hold_(optimizer, model, masks)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    held.remove()
    return loss.item()


def plain_step(model, optimizer, x, y, zero_grad=True, before=lambda: None, reduction="mean"):
    if zero_grad:
        optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y, reduction=reduction)
    loss.backward()
    before()
    optimizer.step()
    return loss.item()


def mask_gradients(model, masks):
    for name, mask in masks.items():
        model.get_submodule(name).weight.grad.mul_(mask)


mistakes = Mistakes()


@mistakes(
    "mask forgotten",
    "Nothing sets the pruned weights back to zero after optimizer.step() (before it is too early): the model is dense again. Its accuracy looks fine, so count zeros.",
)
def _(model, masks, optimizer, x, y):
    return plain_step(model, optimizer, x, y)


@mistakes(
    "gradient masked only",
    "You masked the gradients only. With plain SGD that works; momentum, Adam's moments and weight decay move the weights all the same.",
)
def _(model, masks, optimizer, x, y):
    return plain_step(model, optimizer, x, y, before=lambda: mask_gradients(model, masks))


@mistakes(
    "ranks again",
    "You chose a new mask from the weights as they are after the step. Retraining keeps the mask that pruning chose; otherwise the mask "
    "drifts and trained weights are thrown away.",
)
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y)
    for name, mask in masks.items():
        weight = model.get_submodule(name).weight
        magnitude.apply_(model, {name: patterns.drop_smallest(weight.abs().flatten(), int((~mask).sum())).view_as(weight)})
    return loss


@mistakes(
    "no zero_grad",
    "The gradients of the step before are still there: backward() adds to them. Call optimizer.zero_grad() first.",
)
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y, zero_grad=False)
    magnitude.apply_(model, masks)
    return loss


@mistakes(
    "no torch.no_grad",
    "autograd refuses to have a parameter changed in place while it is watching: put the line that writes the zeros under `with "
    "torch.no_grad():`.",
)
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y)
    for name, mask in masks.items():
        model.get_submodule(name).weight.masked_fill_(~mask, 0)
    return loss


@mistakes(
    "loss after the step",
    "You return the loss of the changed weights. Return the one that was differentiated, from before the step.",
)
def _(model, masks, optimizer, x, y):
    masked_step_(model, masks, optimizer, x, y)
    return F.cross_entropy(model(x), y).item()


@mistakes("softmax twice", "F.cross_entropy takes the logits: it applies the softmax itself, and yours comes on top.")
def _(model, masks, optimizer, x, y):
    return masked_step_(
        nn.Sequential(model, nn.Softmax(dim=-1)), {f"0.{n}".removesuffix("."): m for n, m in masks.items()}, optimizer, x, y
    )


@mistakes("summed loss", "Your loss is a sum over the batch. F.cross_entropy averages by default; so should you.")
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y, reduction="sum")
    magnitude.apply_(model, masks)
    return loss


@mistakes(
    "mask inverted", "You zero the weights where the mask is True. True = kept: zero where ~mask, or multiply by the mask."
)
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y)
    magnitude.apply_(model, {name: ~mask for name, mask in masks.items()})
    return loss


@mistakes("first layer only", "Only one layer is masked: apply every mask, not the first (a return inside the loop?).")
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y)
    magnitude.apply_(model, dict(list(masks.items())[:1]))
    return loss


@mistakes("no step", "You compute gradients but never call optimizer.step().")
def _(model, masks, optimizer, x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    magnitude.apply_(model, masks)
    return loss.item()


@mistakes(
    "new parameters",
    "You put a new nn.Parameter in the layer's place. The optimiser goes on training the old one, so that the next step does nothing to the "
    "layer: change the weight in place, under torch.no_grad().",
)
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y)
    for name, mask in masks.items():
        layer = model.get_submodule(name)
        layer.weight = nn.Parameter(layer.weight.detach() * mask)
    return loss


@mistakes(
    "top level only",
    "You look for the layers among the model's direct children. Real models nest them, and a name may be `1.2.0`: get_submodule finds it.",
)
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y)
    magnitude.apply_(model, {name: mask for name, mask in masks.items() if name in {"", *dict(model.named_children())}})
    return loss


@mistakes(
    "linear layers only",
    "You look for the masked layers among the nn.Linear ones. A mask may belong to a convolution: `model.get_submodule(name)` is its layer.",
)
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y)
    magnitude.apply_(model, {name: mask for name, mask in masks.items() if name in linear_layers(model)})
    return loss


@mistakes(
    "holds every zero",
    "You hold whatever is zero. A kept weight may be zero for a moment too, and is trained as usual: what is pruned is said by the masks.",
)
def _(model, masks, optimizer, x, y):
    held = {name: model.get_submodule(name).weight != 0 for name in masks}
    loss = plain_step(model, optimizer, x, y)
    magnitude.apply_(model, held)
    return loss


@mistakes("freezes the others", "Layers without a mask stand still. They are not pruned, but they are trained as always.")
def _(model, masks, optimizer, x, y):
    def before():
        for name, layer in linear_layers(model).items():
            if name not in masks:
                layer.weight.grad = None

    loss = plain_step(model, optimizer, x, y, before=before)
    magnitude.apply_(model, masks)
    return loss
