"""Exercise 2.6: prune, retrain, repeat."""

import numpy as np
import torch
from torch import nn

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.magnitude.fixtures import inside, linear, matrices, of_all_kinds, random_mlp
from autograder.exercises.magnitude.iterative_mistakes import iterative_prune_, mistakes
from autograder.exercises.patterns.fixtures import drawn, near_whole
from autograder.inside.case import call
from autograder.inside.recipes import Add, Descend, Module

iterative = Exercise(
    "magnitude.iterative",
    defines="iterative_prune_",
    title="Prune, retrain, repeat",
    minutes=20,
    difficulty=3,
    hints=(
        "One loop over `sparsities`. In each round choose masks from the weights as they are *now*, write the zeros, call "
        "`retrain`, and write the zeros once more, for training may have moved them.",
        "Every layer has a ranking of its own, and of its n weights exactly `int(sparsity * n)` go. What was pruned "
        "before is zero, so it is the smallest and goes again by itself. Write zeros in place under `torch.no_grad()`; "
        "but call `retrain` outside of it, or it cannot train.",
        "1. The layers by name: `{name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}`.\n"
        "2. A layer's mask: `torch.ones(n, dtype=torch.bool)`, False at `layer.weight.abs().flatten().argsort()[:count]`, "
        "in the shape of the weight.\n"
        "3. The zeros: `layer.weight.masked_fill_(~mask, 0)`, once before `retrain(model, masks)` and once after it. "
        "Return the masks of the last round.",
    ),
    reference=iterative_prune_,
    misconceptions=mistakes,
    rules=Rules(tolerance=1e-5, exact_zeros=True),
    forbids=("torch.nn.utils.prune", "torch.ao.pruning"),
)


def rounds_case(g: torch.Generator, *sparsities: float, sizes=(5, 6, 4), delta=0.3, wrap=lambda mlp: mlp):
    mlp = random_mlp(g, *sizes)
    deltas = tuple(torch.randn(W.shape, generator=g) * delta * W.std() for W in mlp.weights)
    return call(wrap(mlp), list(sparsities), Add(deltas), changes=(0, 2))


def module_case(g: torch.Generator, model: Module, *sparsities: float):
    deltas = tuple(torch.randn(W.shape, generator=g) for W in matrices(model))
    return call(model, list(sparsities), Add(deltas), changes=(0, 2))


def trained_case(g: torch.Generator, *sparsities: float, wrap=lambda mlp: mlp):
    mlp = random_mlp(g, 6, drawn(g, 7, 10), 4)
    x, y = torch.randn(12, 6, generator=g), torch.randint(4, (12,), generator=g)
    return call(wrap(mlp), list(sparsities), Descend(0, x, y), changes=(0, 2))


@iterative.stage(
    "one round: prunes every layer, then retrains",
    points=1,
    exposes="In a round every linear layer loses its int(sparsity * n) smallest weights, then retrain(model, masks) is called once with "
    "the pruned model and these masks, boolean and True = kept. It may train by gradients, so torch.no_grad() must not be around it.",
)
def _(g):
    yield rounds_case(g, 0.5)
    yield rounds_case(g, 0.7, sizes=(9, drawn(g, 6, 9), 3))
    yield rounds_case(g, near_whole(g, 4, 25), sizes=(4, 25, 8))
    yield rounds_case(g, near_whole(g, 5, 20, below=False), sizes=(5, 20, 2))
    yield trained_case(g, 0.6)


@iterative.stage(
    "several rounds: ranks the weights as retraining left them, and never revives one",
    points=2,
    exposes="Round two ranks what round one's retraining produced; what was pruned stays at zero, whatever retrain did to it. Parameters "
    "are changed in place: an optimiser that was made before goes on training them.",
)
def _(g):
    yield rounds_case(g, 0.3, 0.6, delta=2.0)
    yield rounds_case(g, 0.25, 0.5, 0.75, sizes=(8, 10, drawn(g, 5, 8)), delta=1.0)
    yield rounds_case(g, 0.4, 0.4, delta=1.0)
    yield trained_case(g, 0.3, 0.5, 0.8, wrap=inside)


@iterative.stage(
    "returns the final masks, which describe the model",
    points=1,
    exposes='A dict from layer name, as model.named_modules() has it at any depth ("" if the model is the layer), to boolean mask '
    "(True = kept), and the model's zeros are exactly where the masks say. Layers of a subclass of nn.Linear count, convolutions do not.",
    pure=True,
)
def _(g):
    yield rounds_case(g, 0.33, 0.77, sizes=(7, 5, 3), delta=1.0)
    yield rounds_case(g, 0.0, 0.45, sizes=(3, drawn(g, 9, 14), 3))
    yield rounds_case(g, 0.4, 0.6, sizes=(5, 6, 4, 3), wrap=inside)
    yield module_case(g, of_all_kinds(g), 0.3, 0.5)
    layer = linear(g, drawn(g, 4, 8), 5)
    layer.state["weight"][1, 2] = 0  # at sparsity 0 it is kept all the same
    yield module_case(g, layer, 0.0)
    yield module_case(g, layer, 0.2, 0.65)
    close = 1 + 1e-9 * torch.randn(6, 5, generator=g, dtype=torch.float64)  # weights are ranked as they are
    yield module_case(g, Module("Linear", (5, 6, False), {"weight": close}), 0.5)


@iterative.accepts("masks as an intersection, threshold by sorting")
def _(model, sparsities, retrain):
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    masks = {n: torch.ones(m.weight.shape, dtype=torch.bool) for n, m in layers}
    for s in sparsities:
        for n, m in layers:
            magnitudes = torch.where(masks[n], m.weight.abs(), -1.0)
            k = int(s * magnitudes.numel())
            masks[n] = masks[n] & (magnitudes > magnitudes.flatten().sort().values[k - 1]) if k else masks[n]
            m.weight.data = m.weight.data * masks[n]
        retrain(model, masks)
        for n, m in layers:
            m.weight.data[~masks[n]] = 0.0
    return masks


@iterative.accepts("numpy masks, keywords, .data")
def _(model, sparsities, retrain):
    for s in sparsities:
        masks = {}
        for n, m in model.named_modules():
            if isinstance(m, nn.Linear):
                kept = np.ones(m.weight.numel(), dtype=bool)
                kept[np.argsort(m.weight.detach().abs().numpy(), axis=None)[: int(s * kept.size)]] = False
                masks[n] = torch.from_numpy(kept).reshape(m.weight.shape)
                m.weight.data = torch.where(masks[n], m.weight.detach(), 0.0)
        retrain(masks=masks, model=model)
        for n, mask in masks.items():
            model.get_submodule(n).weight.data.mul_(mask)
    return masks
