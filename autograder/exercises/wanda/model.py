"""Exercise 5.6: layer by layer."""

import numpy as np
import torch
from torch import Tensor, nn

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises import counts
from autograder.exercises.wanda.fixtures import WIDTHS, clear, inputs, linear, redraw
from autograder.exercises.wanda.model_mistakes import mistakes, norm_of
from autograder.inside.case import Case, call
from autograder.inside.recipes import SUBCLASS, Module
from sparsity_edu.weights import wanda


@torch.no_grad()
def wanda_prune_model_(model: nn.Sequential, batches: list[Tensor], sparsity: float) -> None:
    for part in model:
        if isinstance(part, nn.Linear):
            part.weight.copy_(wanda.prune(part.weight, norm_of(batches), sparsity))
        batches = [part(X) for X in batches]


model = Exercise(
    "wanda.model",
    defines="wanda_prune_model_",
    title="Layer by layer",
    minutes=20,
    difficulty=3,
    hints=(
        "One loop over the parts of the model, which carries the activations along: the list of batches as they reach the "
        "current part.",
        "For a linear part collect the norm over *all* batches first, prune, write the weight in place, and only then run "
        "the part: the next one is to see what the pruned one makes. All of it is under `torch.no_grad()`.",
        "For an `nn.Linear`: `inputs = InputNorm(part.in_features)`, `inputs.add(X)` for each X, and "
        "`part.weight.copy_(...)` of what `wanda_prune` makes of the weight and `inputs.norm()`. Then, for every part, "
        "`batches = [part(X) for X in batches]`: a new list, so that the one you were given stays as it is.",
    ),
    reference=wanda_prune_model_,
    rules=Rules(tolerance=0),
    forbids=("torch.nn.utils.prune", "torch.ao.pruning"),
    misconceptions=mistakes,
)


def model_case(
    g: torch.Generator,
    sparsity: float,
    *parts: int | str,
    batches=((2, 6), (1, 7), (3, 5)),
    bias: bool | None = True,
    size: float = 1.0,
    sparse: bool = False,
) -> Case:
    """`parts`: the number of inputs, then in order the outputs of linear layers, and the names of other modules.

    "Conv2d" wants batches of one sequence, "LayerNorm over tokens" such of as many tokens. A `bias` of None: every other layer.
    Of more than three parts, a linear layer that comes first is of a subclass.
    `sparse` weights are tiny, and some are exactly 0.
    """

    def draw():
        cols, recipes = parts[0], []
        for part in parts[1:]:
            if isinstance(part, int):
                W = torch.randn(part, cols, generator=g) * 4 ** torch.rand(part, 1, generator=g)
                if sparse:
                    W *= 1e-12 * (torch.rand(part, cols, generator=g) > 0.25)
                biased = len(recipes) % 2 if bias is None else bias
                kind = "Linear" if recipes or len(parts) < 4 else SUBCLASS
                recipes.append(linear(W, torch.randn(part, generator=g) if biased else None, kind))
                cols = part
            elif part == "Conv2d":  # a sequence is its one channel
                state = {"weight": torch.randn(1, 1, 1, 3, generator=g), "bias": torch.randn(1, generator=g)}
                recipes.append(Module(part, (1, 1, (1, 3), 1, (0, 1)), state))
            elif part == "LayerNorm over tokens":
                shape = batches[0][1], cols
                state = {"weight": torch.rand(shape, generator=g) + 0.5, "bias": torch.randn(shape, generator=g)}
                recipes.append(Module("LayerNorm", (shape,), state))
            elif part == "LayerNorm":
                state = {"weight": torch.rand(cols, generator=g) + 0.5, "bias": torch.randn(cols, generator=g)}
                recipes.append(Module(part, (cols,), state))
            else:
                recipes.append(Module(part))
        return Module("Sequential", tuple(recipes)), [
            inputs(g, *shape, parts[0], scale=size * 2.0**i) for i, shape in enumerate(batches)
        ]

    def is_clear(drawn):
        recipe, X = drawn
        with torch.no_grad():
            for part in recipe.build([]):
                if isinstance(part, nn.Linear):
                    if not clear(wanda.score(part.weight, norm_of(X)), int(sparsity * part.in_features)):
                        return False
                    part.weight.copy_(wanda.prune(part.weight, norm_of(X), sparsity))
                X = [part(x) for x in X]
        return True

    return call(*redraw(draw, is_clear), sparsity, changes=(0,))


def all_count(g: torch.Generator) -> Case:
    """One layer whose mask depends on the last of many tokens, the last of many sequences, the first and the last batch."""

    def draw():
        tokens = torch.cat([inputs(g, 1, 2048, 6), inputs(g, 1, 52, 6, scale=6.0)], dim=1)
        sequences = torch.cat([inputs(g, 16, 1, 6, scale=10.0), inputs(g, 24, 1, 6, scale=10.0)])
        others = [inputs(g, 1, 4, 6, scale=20.0) for _ in range(3)]
        return torch.randn(12, 6, generator=g), [tokens, sequences, *others]

    def accept(drawn):
        W, X = drawn
        kept = [
            wanda.prune(W, norm_of(some), 0.5)
            for some in ([x[:, :2048] for x in X], [x[:16] for x in X], X[:3], X[:-1], X[1:], X[2:], X)
        ]
        return clear(wanda.score(W, norm_of(X)), 3) and not any(torch.equal(mask, kept[-1]) for mask in kept[:-1])

    W, X = redraw(draw, accept)
    return call(Module("Sequential", (linear(W, torch.randn(12, generator=g)),)), X, 0.5, changes=(0,))


@model.stage(
    "one layer",
    points=1,
    exposes="The layer's weight is pruned in place, by the norm of what it reads over all batches; the bias stays.",
)
def _(g):
    yield model_case(g, 0.5, 6, 4, batches=((1, 8),))
    yield model_case(g, 0.4, 5, 7)
    (cols,), sparsity = counts.draw(g, WIDTHS, counts.just_below)
    yield model_case(g, sparsity, cols, 3)
    (cols,), sparsity = counts.draw(g, WIDTHS, counts.in_between)
    yield model_case(g, sparsity, cols, 2, size=1e-12)
    yield all_count(g)
    yield model_case(g, 0.5, 4, 70)
    yield model_case(g, 0.6, 9, 6, sparse=True)


@model.stage(
    "every layer, by what it reads itself",
    points=1,
    exposes="All linear layers are pruned, wherever they stand, the last one too, and nothing else that has a weight. Each has its own inputs: "
    "those that reach it, after the ReLU (or whatever else) before it.",
)
def _(g):
    yield model_case(g, 0.5, 8, 8, "GELU", 8, bias=False)
    yield model_case(g, 0.45, 7, 9, "LayerNorm", "GELU", 5)
    yield model_case(g, 0.0, 4, 5, "ReLU", 3)
    yield model_case(g, 0.5, 8, "LayerNorm", 7, 7, "ReLU")
    yield model_case(g, 0.5, 8, 7, "Conv2d", "ReLU", 6, batches=((1, 6), (1, 9)))
    yield model_case(g, 0.4, 6, "LayerNorm over tokens", 7, "PReLU", 5, batches=((2, 4), (3, 4)))
    yield model_case(g, 0.4, 5, 6, "ReLU", "Identity", 5, 6, "Tanh", 5, "ReLU", 6, 4, 5, bias=None)


@model.stage(
    "later layers see what the pruned ones make",
    points=2,
    exposes="When a layer's inputs are collected, the layers before it must be pruned already: the errors they make are part of its inputs. "
    "The batches stay as they are.",
    pure=True,
)
def _(g):
    yield model_case(g, 0.7, 10, 12, "GELU", 11, "GELU", 9)
    yield model_case(g, 0.75, 9, 12, "Tanh", 12, "LayerNorm", 14, "SiLU", 8, batches=((4, 3), (1, 9)))
    yield model_case(g, 0.6, 8, 10, "ReLU", 12, "ReLU", 10, batches=((1, 5), (2, 20)))
    yield model_case(g, 0.6, 9, "ReLU", 8, "GELU", 7)


@model.accepts("official code: hooks, and a run of the model for every layer")
def _(model, batches, sparsity_ratio):
    class WrappedGPT:
        def __init__(self, layer):
            self.layer = layer
            self.columns = layer.weight.data.shape[1]
            self.scaler_row = torch.zeros(self.columns)
            self.nsamples = 0

        def add_batch(self, inp, out):
            if len(inp.shape) == 2:
                inp = inp.unsqueeze(0)
            tmp = inp.shape[0]
            if isinstance(self.layer, nn.Linear):
                if len(inp.shape) == 3:
                    inp = inp.reshape((-1, inp.shape[-1]))
                inp = inp.t()
            self.scaler_row *= self.nsamples / (self.nsamples + tmp)
            self.nsamples += tmp
            inp = inp.type(torch.float32)
            self.scaler_row += torch.norm(inp, p=2, dim=1) ** 2 / self.nsamples

    for layer in [module for module in model.modules() if isinstance(module, nn.Linear)]:
        wrapped = WrappedGPT(layer)
        handle = layer.register_forward_hook(lambda _, inp, out, to=wrapped: to.add_batch(inp[0].data, out.data))
        with torch.no_grad():
            for batch in batches:
                model(batch)
        handle.remove()
        W_metric = torch.abs(layer.weight.data) * torch.sqrt(wrapped.scaler_row.reshape((1, -1)))
        W_mask = torch.zeros_like(W_metric) == 1
        sort_res = torch.sort(W_metric, dim=-1, stable=True)
        indices = sort_res[1][:, : int(W_metric.shape[1] * sparsity_ratio)]
        W_mask.scatter_(1, indices, True)
        layer.weight.data[W_mask] = 0


@model.accepts("all tokens in one matrix, double precision, new data")
def _(model, batches, sparsity):
    for i, part in enumerate(model):
        if isinstance(part, nn.Linear):
            X = torch.cat([batch.reshape(-1, batch.shape[-1]) for batch in batches])
            score = part.weight.detach().double().abs() * X.double().norm(dim=0)
            k = int(sparsity * score.shape[1])
            gone = score.argsort(1)[:, :k]
            model[i].weight.data = part.weight.detach().scatter(1, gone, 0.0)
        batches = [model[i](batch).detach() for batch in batches]


@model.accepts("numpy ranking, recursion")
def _(model, batches, sparsity):
    def go_on(parts, batches):
        if not parts:
            return
        if isinstance(parts[0], nn.Linear):
            squares = sum(np.square(X.detach().numpy().astype(np.float64)).sum(axis=(0, 1)) for X in batches)
            for row in parts[0].weight.detach().numpy():
                row[np.argsort(np.abs(row) * np.sqrt(squares))[: int(sparsity * len(row))]] = 0
        go_on(parts[1:], [parts[0](X) for X in batches])

    go_on(list(model), batches)
