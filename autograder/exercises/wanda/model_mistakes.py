"""Mistakes of exercise 5.6, and the right answer that they vary."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autograder.checking.exercise import Mistakes
from autograder.exercises.wanda.norm import InputNorm
from sparsity_edu import patterns
from sparsity_edu.weights import wanda


def norm_of(batches: list[Tensor]) -> Tensor:
    kept = InputNorm(batches[0].shape[-1])
    for X in batches:
        kept.add(X)
    return kept.norm()


def walk(model, batches, sparsity, chooser=wanda.prune, statistic=norm_of, skip=lambda i, last: False):
    """`wanda_prune_model_` with its parts exchangeable, for mistakes in one part."""
    with torch.no_grad():
        indices = [i for i, part in enumerate(model) if isinstance(part, nn.Linear)]
        for i, part in enumerate(model):
            if i in indices and not skip(i, indices[-1]):
                part.weight.copy_(chooser(part.weight.detach(), statistic(batches), sparsity))
            batches = [part(X) for X in batches]


def dense_inputs(model, batches) -> dict:
    """What each linear layer of the dense model reads."""
    seen = {}
    with torch.no_grad():
        for part in model:
            if isinstance(part, nn.Linear):
                seen[part] = batches
            batches = [part(X) for X in batches]
    return seen


mistakes = Mistakes()


@mistakes(
    "dense activations",
    "You collected every layer's inputs from the dense model, or ran a layer before you pruned it. Prune first, run second: the layers "
    "behind it will never see what the dense one made.",
)
def _(model, batches, sparsity):
    for part, X in dense_inputs(model, batches).items():
        part.weight.data = wanda.prune(part.weight, norm_of(X), sparsity)


@mistakes(
    "no subclasses",
    "`type(part) is nn.Linear` overlooks layers of a subclass, which are linear layers too: ask `isinstance(part, nn.Linear)`.",
)
def _(model, batches, sparsity):
    walk(model, batches, sparsity, skip=lambda i, last: type(model[i]) is not nn.Linear)


@mistakes(
    "first layer only",
    "Only the first linear layer is pruned. Go on with what it makes of the batches, through the whole model.",
)
def _(model, batches, sparsity):
    first = next(i for i, part in enumerate(model) if isinstance(part, nn.Linear))
    walk(model, batches, sparsity, skip=lambda i, last: i > first)


@mistakes("last layer left out", "You left the last linear layer dense. Here all linear layers are pruned.")
def _(model, batches, sparsity):
    walk(model, batches, sparsity, skip=lambda i, last: i == last and i > 0)


@mistakes(
    "the first inputs for all",
    "You used the norm of the model's inputs for every layer. Each layer reads something else.",
)
def _(model, batches, sparsity):
    norm = norm_of(batches)
    walk(model, batches, sparsity, statistic=lambda _: norm)


@mistakes("last batch only", "Only the last batch counts in your norms. Collect all batches before you prune the layer.")
def _(model, batches, sparsity):
    walk(model, batches, sparsity, statistic=lambda batches: norm_of(batches[-1:]))


@mistakes(
    "first batch only",
    "Only the first batch counts in your norms (or you prune after each batch: what the first one has removed is gone). Collect all batches "
    "before you prune the layer.",
)
def _(model, batches, sparsity):
    walk(model, batches, sparsity, statistic=lambda batches: norm_of(batches[:1]))


@mistakes(
    "mean of norms",
    "You averaged the norms of the batches, which differ in size. Use one InputNorm per layer, and `add` every batch.",
)
def _(model, batches, sparsity):
    walk(model, batches, sparsity, statistic=lambda batches: torch.stack([norm_of([X]) for X in batches]).mean(dim=0))


@mistakes(
    "pruned batch by batch",
    "You prune a layer after every batch. Collect all batches first, prune once: what one batch removes, the next cannot judge any more.",
)
def _(model, batches, sparsity):
    with torch.no_grad():
        for part in model:
            out = []
            for X in batches:
                if isinstance(part, nn.Linear):
                    part.weight.copy_(wanda.prune(part.weight, norm_of([X]), sparsity))
                out.append(part(X))
            batches = out


@mistakes(
    "one statistic for all layers",
    "Your InputNorm goes on from layer to layer. Every layer needs a fresh one.",
)
def _(model, batches, sparsity):
    kept = InputNorm(batches[0].shape[-1])
    with torch.no_grad():
        for part in model:
            if isinstance(part, nn.Linear):
                for X in batches:
                    kept.add(X)
                part.weight.copy_(wanda.prune(part.weight, kept.norm(), sparsity))
            batches = [part(X) for X in batches]


@mistakes("magnitude", "You pruned by magnitude, row by row: the inputs have no say.")
def _(model, batches, sparsity):
    walk(model, batches, sparsity, statistic=lambda batches: torch.ones(batches[0].shape[-1]))


@mistakes("layer-wide", "You let a whole layer compete. Wanda compares within a row: one output's weights.")
def _(model, batches, sparsity):
    walk(
        model,
        batches,
        sparsity,
        lambda W, norm, sparsity: W.masked_fill(~patterns.unstructured(wanda.score(W, norm), sparsity), 0),
    )


@mistakes(
    "activation left out",
    "You feed a linear layer's output to the next linear layer and leave out what is between them. Run every part of the model, in order.",
)
def _(model, batches, sparsity):
    walk([part for part in model if isinstance(part, nn.Linear)], batches, sparsity)


@mistakes(
    "every second part",
    "You take every second part for a linear layer. Parts come in any order: ask each one, isinstance(part, nn.Linear).",
)
def _(model, batches, sparsity):
    walk(model, batches, sparsity, skip=lambda i, last: i % 2)


@mistakes(
    "whatever has a weight",
    "You prune all that has a weight matrix. A norm over tokens and features has one too: ask isinstance(part, nn.Linear).",
)
def _(model, batches, sparsity):
    with torch.no_grad():
        for part in model:
            if getattr(part, "weight", torch.zeros(1)).ndim == 2:
                part.weight.copy_(wanda.prune(part.weight.detach(), norm_of(batches), sparsity))
            batches = [part(X) for X in batches]


@mistakes(
    "weights replaced",
    "You put a new Parameter in the place of each weight. An optimiser, or whoever else holds the old one, never hears of it: "
    "`part.weight.copy_(...)` under `torch.no_grad()` writes into it.",
)
def _(model, batches, sparsity):
    walk(model, batches, sparsity)
    for part in model:
        if isinstance(part, nn.Linear):
            part.weight = nn.Parameter(part.weight.detach().clone())


@mistakes(
    "weights left frozen",
    "You switch requires_grad off and leave it so: the pruned model cannot be trained any more. torch.no_grad() is enough.",
)
def _(model, batches, sparsity):
    walk(model, batches, sparsity)
    model.requires_grad_(False)


@mistakes(
    "hooks left behind",
    "The hooks with which you collected inputs are still on the layers: they go on collecting. Keep the handle, and call handle.remove().",
)
def _(model, batches, sparsity):
    walk(model, batches, sparsity)
    for part in model:
        if isinstance(part, nn.Linear):
            part.register_forward_pre_hook(lambda *_: None)


@mistakes(
    "batches overwritten",
    "The model is right, but you write the activations into the list that you were given: `batches[i] = part(X)`. Bind a list of your own: "
    "`batches = [part(X) for X in batches]`.",
)
def _(model, batches, sparsity):
    walk(model, batches, sparsity)
    with torch.no_grad():
        batches[:] = [model(X) for X in batches]


@mistakes(
    "biases forgotten",
    "You compute the next inputs as X @ W.T and forget the bias. Call the layer itself: `part(X)`.",
)
def _(model, batches, sparsity):
    with torch.no_grad():
        for part in model:
            if isinstance(part, nn.Linear):
                part.weight.copy_(wanda.prune(part.weight, norm_of(batches), sparsity))
                batches = [F.linear(X, part.weight) for X in batches]
            else:
                batches = [part(X) for X in batches]


@mistakes("biases pruned", "You set biases to zero. A pruned layer keeps its bias: it costs nothing and shifts every output.")
def _(model, batches, sparsity):
    walk(model, batches, sparsity)
    for part in model:
        if isinstance(part, nn.Linear) and part.bias is not None:
            part.bias.data.zero_()


@mistakes(
    "on a copy",
    "The model is as it was: you pruned copies of the weights. Write them back: `layer.weight.copy_(...)` under `torch.no_grad()`.",
)
def _(model, batches, sparsity):
    pass
