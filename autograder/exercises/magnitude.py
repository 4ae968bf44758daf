"""Unit 02: magnitude pruning and retraining."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autograder.case import call
from autograder.compare import Rules
from autograder.exercise import Exercise
from autograder.recipes import MLP, Add, Module, Optimizer
from sparsity_edu import patterns
from sparsity_edu.weights import magnitude


def random_mlp(g: torch.Generator, *sizes: int, zeros: float = 0.0) -> MLP:
    """Layers of very different scale, so that one threshold for all is not one per layer; a share of weights is zero."""
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))  # (out, in)
    weights = tuple(torch.randn(shape, generator=g) * 3.0**-i for i, shape in enumerate(shapes))
    weights = tuple(W * (torch.rand(W.shape, generator=g) >= zeros) for W in weights)
    return MLP(weights, tuple(torch.randn(out, generator=g) * 0.1 for out, _ in shapes))


def inside(mlp: MLP, before: tuple[Module, ...] = ()) -> Module:
    """The same layers in a model as real ones are built: all but the first one level deeper, where a norm has a `weight` too."""
    first, rest = MLP(mlp.weights[:1], mlp.biases[:1]), MLP(mlp.weights[1:], mlp.biases[1:])
    norm = Module("LayerNorm", (len(mlp.biases[0]),))
    return Module("Sequential", (*before, first, Module("Sequential", (norm, Module("ReLU"), rest))))


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}


# --------------------------------------------------------------------------------------------------------------- sparsity


def weight_sparsity(model: nn.Module) -> float:
    zeros = sum(int((layer.weight == 0).sum()) for layer in linear_layers(model).values())
    return zeros / sum(layer.weight.numel() for layer in linear_layers(model).values())


sparsity = Exercise(
    "magnitude.sparsity",
    defines="weight_sparsity",
    title="Measure the sparsity of a model",
    minutes=5,
    difficulty=1,
    hint="Go over `model.modules()` and pick the `nn.Linear` ones. Add up the zeros and the sizes of their `.weight`; divide once, "
    "at the end.",
    reference=weight_sparsity,
    rules=Rules(tolerance=1e-6),
)


@sparsity.stage("counts exact zeros in one layer", points=1, exposes="Sparsity is the fraction of weights that are exactly 0.")
def _(g):
    yield call(random_mlp(g, 5, 4, zeros=0.4))
    yield call(random_mlp(g, 7, 3, zeros=0.8))


@sparsity.stage(
    "pools all linear layers, at any depth, and nothing else",
    points=1,
    exposes="Zeros of all nn.Linear weights over all nn.Linear weights, however deep a layer lies: `model.modules()` finds them. "
    "Biases, norms and embeddings do not count.",
    pure=True,
)
def _(g):
    model = random_mlp(g, 9, 6, 4, 2, zeros=0.5)
    yield call(MLP(model.weights, tuple(b * 0 for b in model.biases)))  # zero biases must not count
    sparse, dense = random_mlp(g, 8, 5, 3, zeros=0.9), random_mlp(g, 8, 5, 3)
    yield call(MLP((sparse.weights[0], dense.weights[1] * 1e-9), dense.biases))  # tiny is not zero
    embedding = Module("Embedding", (7, 5), {"weight": torch.randn(7, 5, generator=g)})
    yield call(inside(random_mlp(g, 5, 8, 6, 3, zeros=0.6), before=(embedding,)))


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
    return sum((layer.weight == 0).float().mean().item() for layer in layers) / len(layers)


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
        return (layer.weight == 0).float().mean().item()


@sparsity.misconception(
    "top level only",
    "You look at the model's direct children only. Real models nest their layers: `modules()` and `named_modules()` find them all.",
)
def _(model):
    layers = [layer for layer in model.children() if isinstance(layer, nn.Linear)]
    return sum(int((layer.weight == 0).sum()) for layer in layers) / sum(layer.weight.numel() for layer in layers)


@sparsity.misconception(
    "every weight",
    "You count everything called `weight`. Norms and embeddings have one too, and nobody prunes them: `isinstance(layer, nn.Linear)`.",
)
def _(model):
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    return sum(int((W == 0).sum()) for W in weights) / sum(W.numel() for W in weights)


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


# ------------------------------------------------------------------------------------------------------------------ prune


def magnitude_prune(W: Tensor, sparsity: float) -> Tensor:
    return magnitude.prune(W, sparsity)


prune = Exercise(
    "magnitude.prune",
    defines="magnitude_prune",
    title="Prune one matrix by magnitude",
    minutes=15,
    difficulty=1,
    hint="Flatten `W.abs()` and sort it with `argsort`: its first `int(sparsity * n)` entries are the positions to zero. "
    "Work on a `clone()`, and check `sparsity` before anything else.",
    reference=magnitude_prune,
    rules=Rules(tolerance=0),
)


@prune.stage(
    "zeroes the smallest magnitudes and keeps the rest unchanged",
    points=1,
    exposes="Rank by |W| over the whole matrix, zero the smallest, leave every other weight exactly as it was.",
)
def _(g):
    yield call(torch.randn(4, 5, generator=g), 0.4)
    yield call(torch.randn(16, 10, generator=g) - 0.7, 0.75)
    yield call(torch.randn(3, 40, generator=g) * torch.tensor([[0.1], [1.0], [10.0]]), 0.6)  # rows of unequal scale


@prune.stage(
    "removes exactly int(sparsity * n) weights",
    points=1,
    exposes="Of n weights exactly int(sparsity * n) go: rounded down, not to the nearest, and not one more because of `<=`.",
)
def _(g):
    for rows, cols, s in [(7, 9, 0.3), (5, 10, 0.45), (5, 7, 0.7), (3, 3, 0.1), (11, 3, 0.9), (6, 4, 0.0)]:
        yield call(torch.randn(rows, cols, generator=g), s)
    yield call(torch.randn(5, 30, generator=g), 0.98)
    W = torch.randn(8, 5, generator=g)
    yield call(W * (torch.rand(W.shape, generator=g) < 0.7), 0.6)  # zeros of an earlier pruning are among the smallest


@prune.stage(
    "returns a copy in the dtype of W",
    points=1,
    exposes="W itself must not change, and the result has its shape and dtype.",
    pure=True,
)
def _(g):
    yield call(torch.randn(5, 8, generator=g), 0.5)
    yield call(torch.randn(6, 5, generator=g, dtype=torch.float64), 0.5)
    yield call(torch.randperm(48, generator=g).view(6, 8).half() - 23.5, 0.25)


@prune.stage(
    "refuses a sparsity outside [0, 1)",
    points=1,
    exposes="A ValueError for a sparsity below 0, of 1 or above, or NaN: an error now saves an hour later.",
)
def _(g):
    for s in (1.0, 1.5, -0.1, math.nan):
        yield call(torch.randn(3, 4, generator=g), s)


def drop(W, sparsity, score=torch.abs, count=lambda x: int(x), check=True):
    """`magnitude_prune` with its parts exchangeable, for mistakes in one part."""
    if check and not 0 <= sparsity < 1:
        raise ValueError("sparsity")
    pruned = W.flatten().clone()
    pruned[score(W).flatten().argsort(stable=True)[: count(sparsity * W.numel())]] = 0
    return pruned.view(W.shape)


@prune.misconception(
    "signed", "You ranked W, not |W|: the most negative weights went first, although they matter as much as the positive ones."
)
def _(W, sparsity):
    return drop(W, sparsity, score=lambda W: W)


@prune.misconception(
    "prunes the largest", "You removed the largest magnitudes. The small ones are the ones that are not missed."
)
def _(W, sparsity):
    return drop(W, sparsity, score=lambda W: -W.abs())


@prune.misconception(
    "keeps the sparsity",
    "You kept a fraction `sparsity` of the weights. Sparsity is what goes; what stays is the density 1 - sparsity.",
)
def _(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("sparsity")
    return drop(W, 1 - sparsity, check=False)


@prune.misconception(
    "one too many",
    "You removed one weight too many: with threshold = sorted[k], the test |W| <= threshold removes k + 1 (SparseGPT's and the "
    "lottery-ticket code do this too, which is why their counts differ). Use < or take the k smallest by index.",
)
def _(W, sparsity):
    return drop(W, sparsity, count=lambda x: int(x) + 1)


@prune.misconception("rounded", "You rounded sparsity * n to the nearest integer. The course rounds down: int(sparsity * n).")
def _(W, sparsity):
    return drop(W, sparsity, count=round)


@prune.misconception("rounded up", "You rounded sparsity * n up. The course rounds down: int(sparsity * n).")
def _(W, sparsity):
    return drop(W, sparsity, count=math.ceil)


@prune.misconception(
    "quantile",
    "torch.quantile interpolates between two weights, so the number that falls below it is not always int(sparsity * n) (and above "
    "2^24 entries it refuses). Sort, or use kthvalue.",
)
def _(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("sparsity")
    threshold = torch.quantile(W.abs().flatten().to(torch.promote_types(W.dtype, torch.float32)), sparsity)
    return W.masked_fill(W.abs() <= threshold, 0)


@prune.misconception(
    "row by row",
    "You pruned every row by itself. Here the whole matrix competes: a row of small weights may lose nearly all of them.",
)
def _(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("sparsity")
    return W.masked_fill(~patterns.unstructured(W.abs(), sparsity, per="row"), 0)


@prune.misconception(
    "share of the largest",
    "You removed weights below `sparsity` times the largest magnitude. That is a threshold, not a fraction of weights.",
)
def _(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("sparsity")
    return W.masked_fill(W.abs() < sparsity * W.abs().max(), 0)


@prune.misconception(
    "fraction of what remains",
    "You removed a fraction of the weights that are not zero yet. Sparsity counts all weights, those zeroed earlier included.",
)
def _(W, sparsity):
    zeros = int((W == 0).sum())
    return drop(W, sparsity, count=lambda x: zeros + int(sparsity * (W.numel() - zeros)))


@prune.misconception("returns the mask", "You returned the mask. Return the weights with the pruned ones set to zero.")
def _(W, sparsity):
    return drop(W, sparsity) != 0


@prune.misconception(
    "in place", "You changed W itself. Whoever called you may still need the dense weights: work on W.clone()."
)
def _(W, sparsity):
    W.copy_(drop(W, sparsity))
    return W


@prune.misconception("no check", "You accept any sparsity. Raise a ValueError unless 0 <= sparsity < 1.")
def _(W, sparsity):
    return drop(W, max(0.0, min(1.0, 0.0 if math.isnan(sparsity) else sparsity)), check=False)


@prune.accepts("threshold by kthvalue")
def _(W, sparsity):
    if not (sparsity >= 0 and sparsity < 1):
        raise ValueError("bad sparsity")
    k = int(W.numel() * sparsity)
    if k == 0:
        return W.clone()
    return W * (W.abs() > W.abs().flatten().kthvalue(k).values)


@prune.accepts("numpy")
def _(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError(sparsity)
    pruned = W.numpy().copy()
    smallest = np.argsort(np.abs(pruned), axis=None)[: int(sparsity * pruned.size)]
    pruned[np.unravel_index(smallest, pruned.shape)] = 0
    return torch.from_numpy(pruned)


@prune.accepts("topk and scatter")
def _(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError(sparsity)
    keep = W.abs().reshape(-1).topk(W.numel() - int(sparsity * W.numel())).indices
    out = torch.zeros(W.numel(), dtype=W.dtype)
    out[keep] = W.reshape(-1)[keep]
    return nn.Parameter(out.reshape(W.shape))


# ----------------------------------------------------------------------------------------------------------------- global


def global_masks(weights: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    return patterns.unstructured_model({name: magnitude.score(W) for name, W in weights.items()}, sparsity)


global_ = Exercise(
    "magnitude.global",
    defines="global_masks",
    title="One ranking for the whole model",
    minutes=15,
    difficulty=2,
    hint="`torch.cat` the flattened magnitudes of all layers, find which of them go as in the exercise before, then cut the long mask "
    "back into pieces: `mask.split([W.numel() for W in weights.values()])` and `.view_as(W)`.",
    reference=global_masks,
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


# ------------------------------------------------------------------------------------------------------------ masked step


def masked_step_(model, masks, optimizer, x, y):
    held = magnitude.hold_(optimizer, model, masks)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    held.remove()
    return loss.item()


masked_step = Exercise(
    "magnitude.masked_step",
    defines="masked_step_",
    title="Train on without losing the zeros",
    minutes=15,
    difficulty=2,
    hint="The four lines of every training step (`zero_grad`, loss, `backward`, `step`), and after `step` one more thing under "
    "`torch.no_grad()`: `layer.weight.masked_fill_(~mask, 0)` for every `layer = model.get_submodule(name)`.",
    reference=masked_step_,
    rules=Rules(tolerance=1e-5, exact_zeros=True),
)


def step_case(g: torch.Generator, kind: str, zeros=0.5, blanks=0.0, names=("0", "2"), wrap=lambda mlp: mlp, times=1, **options):
    """`names` are those of the two layers, None for one without a mask; `blanks` is the share of kept weights that are zero."""
    mlp = random_mlp(g, 6, 5, 4, zeros=blanks)
    masks = {name: torch.rand(W.shape, generator=g) >= zeros for name, W in zip(names, mlp.weights, strict=True)}
    weights = tuple(W * masks[name] if name else W for name, W in zip(names, mlp.weights, strict=True))
    masks.pop(None, None)
    optimizer = Optimizer(kind, of=0, options=options, warm_steps=3, warm_gradient=0.3)
    x, y = torch.randn(7, 6, generator=g), torch.randint(4, (7,), generator=g)
    return call(wrap(MLP(weights, mlp.biases)), masks, optimizer, x, y, changes=(0,), times=times)


@masked_step.stage(
    "makes a training step on the cross-entropy and returns the loss",
    points=1,
    exposes="zero_grad, loss = F.cross_entropy(model(x), y), backward, step, and `return loss.item()`.",
)
def _(g):
    yield step_case(g, "SGD", zeros=0.0, lr=0.1)
    yield step_case(g, "Adam", zeros=0.0, lr=0.01)


@masked_step.stage(
    "keeps pruned weights at zero with plain SGD",
    points=1,
    exposes="The gradient of a pruned weight is not zero: a plain step revives it.",
)
def _(g):
    yield step_case(g, "SGD", lr=0.1)
    yield step_case(g, "SGD", zeros=0.8, lr=0.5)


@masked_step.stage(
    "keeps them with any optimiser",
    points=1,
    exposes="Momentum and Adam's moments from before pruning move a weight even where its gradient is zero: set the weights back to "
    "zero after the step.",
)
def _(g):
    yield step_case(g, "SGD", lr=0.1, momentum=0.9)
    yield step_case(g, "Adam", lr=0.01)
    yield step_case(g, "AdamW", lr=0.01, weight_decay=0.1)
    yield step_case(g, "RMSprop", lr=0.01, momentum=0.5)


@masked_step.stage(
    "in any model, step after step",
    points=1,
    exposes="A mask's layer is `model.get_submodule(name)`, at any depth; layers without a mask are trained as usual; and the parameters "
    "stay the ones that the optimiser knows, so that the next step works too.",
)
def _(g):
    yield step_case(g, "SGD", names=(None, "1.2.0"), wrap=inside, times=3, lr=0.1, momentum=0.9)
    yield step_case(g, "Adam", names=("0.0", "1.2.0"), wrap=inside, blanks=0.2, times=2, lr=0.01)
    yield step_case(g, "AdamW", names=(None, None), times=2, lr=0.01, weight_decay=0.1)


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


@masked_step.misconception(
    "mask forgotten",
    "Nothing sets the pruned weights back to zero after optimizer.step() (before it is too early): the model is dense again. Its accuracy looks fine, so count zeros.",
)
def _(model, masks, optimizer, x, y):
    return plain_step(model, optimizer, x, y)


@masked_step.misconception(
    "gradient masked only",
    "You masked the gradients only. With plain SGD that works; momentum, Adam's moments and weight decay move the weights all the same.",
)
def _(model, masks, optimizer, x, y):
    return plain_step(model, optimizer, x, y, before=lambda: mask_gradients(model, masks))


@masked_step.misconception(
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


@masked_step.misconception(
    "no zero_grad",
    "The gradients of the step before are still there: backward() adds to them. Call optimizer.zero_grad() first.",
)
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y, zero_grad=False)
    magnitude.apply_(model, masks)
    return loss


@masked_step.misconception(
    "no torch.no_grad",
    "autograd refuses to have a parameter changed in place while it is watching: put the line that writes the zeros under `with "
    "torch.no_grad():`.",
)
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y)
    for name, mask in masks.items():
        model.get_submodule(name).weight.masked_fill_(~mask, 0)
    return loss


@masked_step.misconception(
    "loss after the step",
    "You return the loss of the changed weights. Return the one that was differentiated, from before the step.",
)
def _(model, masks, optimizer, x, y):
    masked_step_(model, masks, optimizer, x, y)
    return F.cross_entropy(model(x), y).item()


@masked_step.misconception(
    "softmax twice", "F.cross_entropy takes the logits: it applies the softmax itself, and yours comes on top."
)
def _(model, masks, optimizer, x, y):
    return masked_step_(nn.Sequential(model, nn.Softmax(dim=-1)), {f"0.{n}": m for n, m in masks.items()}, optimizer, x, y)


@masked_step.misconception(
    "summed loss", "Your loss is a sum over the batch. F.cross_entropy averages by default; so should you."
)
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y, reduction="sum")
    magnitude.apply_(model, masks)
    return loss


@masked_step.misconception(
    "mask inverted", "You zero the weights where the mask is True. True = kept: zero where ~mask, or multiply by the mask."
)
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y)
    magnitude.apply_(model, {name: ~mask for name, mask in masks.items()})
    return loss


@masked_step.misconception(
    "first layer only", "Only one layer is masked: apply every mask, not the first (a return inside the loop?)."
)
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y)
    magnitude.apply_(model, dict(list(masks.items())[:1]))
    return loss


@masked_step.misconception("no step", "You compute gradients but never call optimizer.step().")
def _(model, masks, optimizer, x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    magnitude.apply_(model, masks)
    return loss.item()


@masked_step.misconception(
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


@masked_step.misconception(
    "top level only",
    "You look for the layers among the model's direct children. Real models nest them, and a name may be `1.2.0`: get_submodule finds it.",
)
def _(model, masks, optimizer, x, y):
    loss = plain_step(model, optimizer, x, y)
    magnitude.apply_(model, {name: mask for name, mask in masks.items() if name in dict(model.named_children())})
    return loss


@masked_step.misconception(
    "freezes the others", "Layers without a mask stand still. They are not pruned, but they are trained as always."
)
def _(model, masks, optimizer, x, y):
    def before():
        for name, layer in linear_layers(model).items():
            if name not in masks:
                layer.weight.grad = None

    loss = plain_step(model, optimizer, x, y, before=before)
    magnitude.apply_(model, masks)
    return loss


@masked_step.accepts("gradients and weights, multiplied")
def _(model, masks, optimizer, x, y):
    for p in model.parameters():
        p.grad = None
    loss = -F.log_softmax(model(x), dim=-1)[torch.arange(len(y)), y].mean()
    loss.backward()
    mask_gradients(model, masks)
    optimizer.step()
    for name, layer in model.named_modules():
        if name in masks:
            layer.weight.data *= masks[name]
    return loss


@masked_step.accepts("a closure for the optimiser, weights through the state dict")
def _(model, masks, optimizer, x, y):
    def closure():
        optimizer.zero_grad(set_to_none=False)
        loss = nn.CrossEntropyLoss()(model(x), y)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    state = model.state_dict()
    model.load_state_dict(state | {f"{name}.weight": state[f"{name}.weight"] * mask for name, mask in masks.items()})
    return loss.detach().numpy()


# --------------------------------------------------------------------------------------------------------------- schedule

schedule = Exercise(
    "magnitude.schedule",
    defines="cubic_sparsity",
    title="The cubic schedule",
    minutes=10,
    difficulty=1,
    hint="Compute the progress `(step - start) / (end - start)`, clamp it to [0, 1], and only then put it into the formula.",
    reference=magnitude.cubic_sparsity,
    rules=Rules(tolerance=1e-5, scale=1),  # float32 will do
)


@schedule.stage(
    "rises from 0 to the final sparsity by the cubic formula",
    points=1,
    exposes="s_t = s_f + (s_i - s_f) (1 - p)^3 with progress p from 0 to 1: steep at first, flat at the end.",
)
def _(g):
    for step in (0, 1, 3, 7, 10):
        yield call(step, 0, 10, 0.8)
    yield call(25, 0, 100, 0.5)


@schedule.stage(
    "honours start and initial",
    points=1,
    exposes="Progress counts from `start`, and the ramp begins at `initial`, not at 0.",
)
def _(g):
    start = int(torch.randint(5, 20, (), generator=g))
    for offset in (0, 2, 9, 30):
        yield call(start + offset, start, start + 30, 0.9, initial=0.25)


@schedule.stage(
    "stays flat outside the ramp",
    points=1,
    exposes="Before `start` the sparsity is `initial`, after `end` it is `final`: without a clamp the cube runs away.",
)
def _(g):
    yield call(0, 10, 30, 0.8)
    yield call(3, 10, 30, 0.8, initial=0.2)
    yield call(31, 10, 30, 0.8)
    yield call(500, 10, 30, 0.8, initial=0.2)


def ramp(step, start, end, final, initial, shape):
    progress = min(max((step - start) / (end - start), 0.0), 1.0)
    return initial + (final - initial) * shape(progress)


@schedule.misconception("linear", "Your schedule is linear. The cubic one prunes fast at first, while there is much to spare.")
def _(step, start, end, final, initial=0.0):
    return ramp(step, start, end, final, initial, lambda p: p)


@schedule.misconception(
    "cube of the progress",
    "You cubed the progress p, which starts slowly and ends in a rush. The cube belongs to what is left, (1 - p)^3.",
)
def _(step, start, end, final, initial=0.0):
    return ramp(step, start, end, final, initial, lambda p: p**3)


@schedule.misconception("square", "The exponent is 3, not 2.")
def _(step, start, end, final, initial=0.0):
    return ramp(step, start, end, final, initial, lambda p: 1 - (1 - p) ** 2)


@schedule.misconception(
    "initial ignored", "You start from 0 whatever `initial` is: the factor of the cube is (initial - final)."
)
def _(step, start, end, final, initial=0.0):
    return ramp(step, start, end, final, 0.0, lambda p: 1 - (1 - p) ** 3)


@schedule.misconception("start ignored", "Progress is (step - start) / (end - start); you measure it from step 0.")
def _(step, start, end, final, initial=0.0):
    return ramp(step, 0, end, final, initial, lambda p: 1 - (1 - p) ** 3)


@schedule.misconception("no clamp", "Outside the ramp the cube runs away: clamp the progress to [0, 1].")
def _(step, start, end, final, initial=0.0):
    return final + (initial - final) * (1 - (step - start) / (end - start)) ** 3


@schedule.misconception(
    "clamped at the end only", "Before `start` the progress is negative and the cube exceeds 1: clamp it at 0 too."
)
def _(step, start, end, final, initial=0.0):
    return final + (initial - final) * (1 - min((step - start) / (end - start), 1)) ** 3


@schedule.misconception("density", "You return what is kept (1 - sparsity).")
def _(step, start, end, final, initial=0.0):
    return 1 - magnitude.cubic_sparsity(step, start, end, final, initial)


@schedule.accepts("expanded, with early returns")
def _(step, start, end, final, initial=0.0):
    if step <= start:
        return initial
    if step >= end:
        return final
    left = torch.tensor((end - step) / (end - start))
    return final - (final - initial) * left.pow(3)


@schedule.accepts("density, with numpy")
def _(step, start, end, final, initial=0.0):
    left = 1 - (np.float64(step) - start) / (end - start)
    density = (1 - final) + (final - initial) * left**3
    return 1 - np.where(step < start, 1 - initial, np.where(step > end, 1 - final, density))


# -------------------------------------------------------------------------------------------------------------- iterative


def iterative_prune_(model, sparsities, retrain):
    return magnitude.iterative_prune_(model, sparsities, retrain, progress=False)


iterative = Exercise(
    "magnitude.iterative",
    defines="iterative_prune_",
    title="Prune, retrain, repeat",
    minutes=20,
    difficulty=3,
    hint="One loop over `sparsities`; in it, for every linear layer: a mask from the *current* weights with exactly "
    "`int(sparsity * n)` False, zeros written into the layer, then `retrain(model, masks)`, then the zeros written once more.",
    reference=iterative_prune_,
    rules=Rules(tolerance=1e-5, exact_zeros=True),
)


def rounds_case(g: torch.Generator, *sparsities: float, sizes=(5, 6, 4), delta=0.3, wrap=lambda mlp: mlp):
    mlp = random_mlp(g, *sizes)
    deltas = tuple(torch.randn(W.shape, generator=g) * delta * W.std() for W in mlp.weights)
    return call(wrap(mlp), list(sparsities), Add(deltas), changes=(0, 2))


@iterative.stage(
    "one round: prunes every layer, then retrains",
    points=1,
    exposes="In a round every linear layer loses its int(sparsity * n) smallest weights, then retrain(model, masks) is called once with "
    "the pruned model and these masks, boolean and True = kept.",
)
def _(g):
    yield rounds_case(g, 0.5)
    yield rounds_case(g, 0.7, sizes=(9, 7, 3))


@iterative.stage(
    "several rounds: ranks the weights as retraining left them, and never revives one",
    points=2,
    exposes="Round two ranks what round one's retraining produced; what was pruned stays at zero, whatever retrain did to it.",
)
def _(g):
    yield rounds_case(g, 0.3, 0.6, delta=2.0)
    yield rounds_case(g, 0.25, 0.5, 0.75, sizes=(8, 10, 6), delta=1.0)
    yield rounds_case(g, 0.4, 0.4, delta=1.0)


@iterative.stage(
    "returns the final masks, which describe the model",
    points=1,
    exposes="A dict from layer name, as model.named_modules() has it at any depth, to boolean mask (True = kept), and the model's zeros "
    "are exactly where the masks say.",
)
def _(g):
    yield rounds_case(g, 0.33, 0.77, sizes=(7, 5, 3), delta=1.0)
    yield rounds_case(g, 0.0, 0.45, sizes=(3, 11, 3))
    yield rounds_case(g, 0.4, 0.6, sizes=(5, 6, 4, 3), wrap=inside)


def rounds(model, sparsities, retrain, rank=lambda W: W.abs(), layers=linear_layers, prune=True, hold=True):
    for sparsity in sparsities:
        masks = {n: patterns.unstructured(rank(m.weight.detach()), sparsity) for n, m in layers(model).items()}
        if prune:
            magnitude.apply_(model, masks)
        retrain(model, masks)
        if hold:
            magnitude.apply_(model, masks)
    return masks


@iterative.misconception(
    "zeros not restored",
    "retrain moved the pruned weights, and nothing put them back: the returned model is dense, and in the next round the pruned weights "
    "compete again. Write the zeros once more after retrain.",
)
def _(model, sparsities, retrain):
    return rounds(model, sparsities, retrain, hold=False)


@iterative.misconception(
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


@iterative.misconception(
    "fraction of what remains",
    "You remove a fraction of the *remaining* weights (as lottery-ticket code does). Here `sparsities` are totals: 0.5 then 0.75 ends at 75 %.",
)
def _(model, sparsities, retrain):
    kept = 1.0
    totals = [1 - (kept := kept * (1 - s)) for s in sparsities]
    return rounds(model, totals, retrain)


@iterative.misconception(
    "one shot", "You prune to the last sparsity at once. Each round has its own sparsity and its own retraining."
)
def _(model, sparsities, retrain):
    return rounds(model, sparsities[-1:], retrain)


@iterative.misconception(
    "retrains first", "You call retrain before pruning. A round is: prune, then let the survivors recover."
)
def _(model, sparsities, retrain):
    for sparsity in sparsities:
        retrain(model, {})
        masks = magnitude.prune_(model, sparsity)
    return masks


@iterative.misconception(
    "no retraining",
    "retrain is not called after the last pruning, or never. Every round ends with it: without retraining, pruning in steps is one-shot "
    "pruning, slowly.",
)
def _(model, sparsities, retrain):
    return rounds(model, sparsities, lambda *_: None)


@iterative.misconception(
    "prunes after retraining",
    "The weights are zeroed only after retrain, so that it trains the dense model. Prune first: the survivors must learn to do without.",
)
def _(model, sparsities, retrain):
    return rounds(model, sparsities, retrain, prune=False)


@iterative.misconception(
    "retrain without masks",
    "You call retrain without the masks, but it needs them to hold the zeros: retrain(model, masks).",
)
def _(model, sparsities, retrain):
    return rounds(model, sparsities, lambda model, masks: retrain(model))


@iterative.misconception(
    "top level only",
    "You prune the model's direct children only. Real models nest their layers: `model.named_modules()` finds them all.",
)
def _(model, sparsities, retrain):
    def layers(model):
        return {name: layer for name, layer in model.named_children() if isinstance(layer, nn.Linear)}

    return rounds(model, sparsities, retrain, layers=layers)


@iterative.misconception("signed", "You rank the weights themselves, not their magnitudes.")
def _(model, sparsities, retrain):
    return rounds(model, sparsities, retrain, rank=lambda W: W)


@iterative.misconception(
    "one threshold for all layers",
    "You let all layers compete under one threshold. In this exercise every layer reaches the sparsity by itself.",
)
def _(model, sparsities, retrain):
    return magnitude.iterative_prune_(model, sparsities, retrain, pattern="model", progress=False)


@iterative.misconception("masks inverted", "Your masks are True where a weight went. In this course True = kept.")
def _(model, sparsities, retrain):
    return {name: ~mask for name, mask in rounds(model, sparsities, retrain).items()}


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


@iterative.accepts("numpy masks, keywords, new parameters")
def _(model, sparsities, retrain):
    for s in sparsities:
        masks = {}
        for n, m in model.named_modules():
            if isinstance(m, nn.Linear):
                kept = np.ones(m.weight.numel(), dtype=bool)
                kept[np.argsort(m.weight.detach().abs().numpy(), axis=None)[: int(s * kept.size)]] = False
                masks[n] = torch.from_numpy(kept).reshape(m.weight.shape)
                m.weight = nn.Parameter(torch.where(masks[n], m.weight.detach(), 0.0))
        retrain(masks=masks, model=model)
        for n, mask in masks.items():
            model.get_submodule(n).weight.data.mul_(mask)
    return masks


EXERCISES = (sparsity, prune, global_, masked_step, schedule, iterative)
