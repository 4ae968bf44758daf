"""Exercise 2.1: measure the sparsity of a model."""

import torch
from torch import nn

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.magnitude.fixtures import inside, linear, linear_layers, of_all_kinds, random_mlp
from autograder.exercises.patterns.fixtures import drawn, holed
from autograder.inside.case import call
from autograder.inside.recipes import MLP, Module


def weight_sparsity(model: nn.Module) -> float:
    zeros = sum(int((layer.weight == 0).sum()) for layer in linear_layers(model).values())
    return zeros / sum(layer.weight.numel() for layer in linear_layers(model).values())


sparsity = Exercise(
    "magnitude.sparsity",
    defines="weight_sparsity",
    title="Measure the sparsity of a model",
    minutes=5,
    difficulty=1,
    hints=(
        "Count, and trust no mask: go over all linear layers, however deep inside the model, and count the weights and "
        "those that are exactly zero.",
        "`model.modules()` gives the model itself and every module inside it; `isinstance(layer, nn.Linear)` picks the "
        "linear ones. Add up over all layers first and divide once: the mean of the layers' sparsities is another number, "
        "for layers differ in size.",
        "A layer has `int((layer.weight == 0).sum())` zeros and `layer.weight.numel()` weights. Sum both over the layers, "
        "and return the first sum over the second.",
    ),
    reference=weight_sparsity,
    rules=Rules(tolerance=1e-6),
)


@sparsity.stage(
    "counts exact zeros in one layer",
    points=1,
    exposes="Sparsity is the fraction of weights that are exactly 0. The layer may be the whole model, and of any dtype.",
)
def _(g):
    yield call(random_mlp(g, 5, 4, zeros=0.4))
    yield call(random_mlp(g, drawn(g, 6, 9), drawn(g, 3, 6), zeros=0.8))
    yield call(linear(g, drawn(g, 4, 8), 9, zeros=0.5))
    for dtype in (torch.bfloat16, torch.float64):
        W = holed(g, 33, drawn(g, 70, 90), zeros=0.3, dtype=dtype)
        yield call(Module("Linear", (W.shape[1], W.shape[0], False), {"weight": W}))


@sparsity.stage(
    "pools all linear layers, at any depth, and nothing else",
    points=1,
    exposes="Zeros of all nn.Linear weights over all nn.Linear weights, however deep a layer lies: `model.modules()` finds them, and "
    "isinstance those of a subclass. Biases, norms, convolutions and embeddings do not count.",
    pure=True,
)
def _(g):
    model = random_mlp(g, 9, 6, 4, 2, zeros=0.5)
    yield call(MLP(model.weights, tuple(b * 0 for b in model.biases)))  # zero biases must not count
    sparse, dense = random_mlp(g, 8, 5, 3, zeros=0.9), random_mlp(g, 8, 5, 3)
    for tiny in (1e-9, 1e-25, 1e-43):
        yield call(MLP((-sparse.weights[0], dense.weights[1] * tiny), dense.biases))  # tiny is not zero, -0.0 is
    embedding = Module("Embedding", (7, 5), {"weight": torch.randn(7, 5, generator=g)})
    yield call(inside(random_mlp(g, 5, drawn(g, 7, 10), 6, 3, zeros=0.6), before=(embedding,)))
    yield call(of_all_kinds(g, zeros=0.3))


@sparsity.misconception("density", "You return the fraction that is kept (the density). Sparsity is the fraction that is zero.")
def _(model):
    return 1 - weight_sparsity(model)


@sparsity.misconception(
    "all parameters",
    "You count biases too. Pruning leaves them alone, and a freshly initialised bias may be zero without being pruned.",
)
def _(model):
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    return zeros / sum(p.numel() for p in model.parameters())


@sparsity.misconception(
    "mean of layers",
    "You average the layers' sparsities. A layer of 10 weights then counts as much as one of a million: pool them.",
)
def _(model):
    layers = linear_layers(model).values()
    return sum((layer.weight == 0).double().mean().item() for layer in layers) / len(layers)


@sparsity.misconception(
    "nearly zero",
    "You count weights below a small threshold. A weight of 1e-9 still has to be stored and multiplied: only == 0 counts.",
)
def _(model):
    layers = linear_layers(model).values()
    return sum(int((layer.weight.abs() < 1e-6).sum()) for layer in layers) / sum(layer.weight.numel() for layer in layers)


@sparsity.misconception("first layer only", "You return inside the loop, so that only the first layer is counted.")
def _(model):
    for layer in linear_layers(model).values():
        return (layer.weight == 0).double().mean().item()


@sparsity.misconception(
    "top level only",
    "You look at the model's direct children only. Real models nest their layers: `modules()` and `named_modules()` find them all.",
)
def _(model):
    layers = [layer for layer in (model, *model.children()) if isinstance(layer, nn.Linear)]
    return sum(int((layer.weight == 0).sum()) for layer in layers) / sum(layer.weight.numel() for layer in layers)


@sparsity.misconception(
    "every weight",
    "You count everything called `weight`. Norms and embeddings have one too, and nobody prunes them: `isinstance(layer, nn.Linear)`.",
)
def _(model):
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    return sum(int((W == 0).sum()) for W in weights) / sum(W.numel() for W in weights)


@sparsity.misconception(
    "without the model itself",
    "You look at what is inside the model only, but the model may be a linear layer itself: `model.modules()` begins with it.",
)
def _(model):
    layers = [layer for name, layer in model.named_modules() if name and isinstance(layer, nn.Linear)]
    return sum(int((layer.weight == 0).sum()) for layer in layers) / sum(layer.weight.numel() for layer in layers)


@sparsity.misconception(
    "no subclasses",
    "`type(layer) is nn.Linear` overlooks subclasses: the output projection of nn.MultiheadAttention is one. Ask `isinstance(layer, nn.Linear)`.",
)
def _(model):
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear]
    return sum(int((layer.weight == 0).sum()) for layer in layers) / sum(layer.weight.numel() for layer in layers)


@sparsity.misconception(
    "every matrix",
    "You count every parameter of two dimensions. Embeddings have one too, and nobody prunes them: `isinstance(layer, nn.Linear)`.",
)
def _(model):
    weights = [p for p in model.parameters() if p.ndim == 2]
    return sum(int((W == 0).sum()) for W in weights) / sum(W.numel() for W in weights)


@sparsity.misconception(
    "convolutions too",
    "You count convolutions. They can be pruned as well, but what is measured here is linear layers: `isinstance(layer, nn.Linear)`.",
)
def _(model):
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)]
    return sum(int((layer.weight == 0).sum()) for layer in layers) / sum(layer.weight.numel() for layer in layers)


@sparsity.misconception("percent", "You return a percentage. The course's unit is a fraction in [0, 1].")
def _(model):
    return 100 * weight_sparsity(model)


@sparsity.misconception("count", "You return the number of zeros; divide it by the number of weights.")
def _(model):
    return sum(int((layer.weight == 0).sum()) for layer in linear_layers(model).values())


@sparsity.accepts("one long vector")
def _(model):
    weights = torch.cat([m.weight.flatten() for m in model.modules() if isinstance(m, nn.Linear)])
    return (weights == 0).double().mean()


@sparsity.accepts("density from nonzero, a recursion over children")
def _(model):
    def count(module):
        own = (len(module.weight.nonzero()), module.weight.numel()) if isinstance(module, nn.Linear) else (0, 0)
        return [sum(counts) for counts in zip(own, *map(count, module.children()), strict=True)]

    nonzeros, weights = count(model)
    return 1 - nonzeros / weights
