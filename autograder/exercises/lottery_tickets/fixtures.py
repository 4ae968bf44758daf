"""Weights, masks, trainings and their snapshots that the exercises of unit 06 work on."""

import copy
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from autograder.inside.recipes import SUBCLASS, Module, Training

FEATURES, CLASSES = 7, 4


def some_mask(g: torch.Generator, *shape: int, density: float = 0.6) -> Tensor:
    """A mask that keeps exactly int(density * n) entries, anywhere."""
    n = int(torch.tensor(shape).prod())
    mask = torch.zeros(n, dtype=torch.bool)
    mask[torch.randperm(n, generator=g)[: int(density * n)]] = True
    return mask.view(shape)


def exactly(g: torch.Generator, n: int, *shape: int) -> Tensor:
    """A mask that keeps n entries, anywhere."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[torch.randperm(mask.numel(), generator=g)[:n]] = True
    return mask


@cache
def pairs_apart(n: int, by: int) -> list[tuple[int, float]]:
    """This n and all p for which p * n rounded down is by so much more in float32 than it is."""
    fractions = (k / 100 for k in range(15, 90))
    return [(n, p) for p in fractions if int(p * torch.tensor(n)) - int(p * n) == by]


def telling_count(g: torch.Generator, least: int, most: int, by: int = 1) -> tuple[int, float]:
    """n and p for which p * n rounded down is by so much more in float32 than it is, such as 100 and 0.29."""
    pairs = [pair for n in range(least, most) for pair in pairs_apart(n, by)]
    return pairs[int(torch.randint(len(pairs), (), generator=g))]


def of_all_sizes(g: torch.Generator, mask: Tensor) -> Tensor:
    """float64 weights from 1e-150 to 1e150 of both signs, a kept one of exactly zero, and what is gone among them."""
    W = torch.randn(mask.shape, generator=g).sign() * 10.0 ** (300 * torch.rand(mask.shape, generator=g).double() - 150)
    W.view(-1)[int(mask.flatten().nonzero()[-1])] = 0.0
    return W


def nearly_tied(g: torch.Generator, mask: Tensor, p: float) -> Tensor:
    """float64 weights of which the last to go and the first to stay are the same in float32."""
    W = torch.randn(mask.shape, generator=g).double()
    flat = W.view(-1)
    i, j = torch.where(mask, W.abs(), torch.inf).flatten().argsort()[int(p * int(mask.sum())) - 1 :][:2].sort().values
    flat[j] = flat[i] / (1 + 1e-10)
    return W


def weights_left(g: torch.Generator, mask: Tensor, gone: str = "any") -> Tensor:
    """Weights under a mask; what is gone holds zeros, larger values than all others, or whatever comes."""
    W = torch.randn(mask.shape, generator=g)
    return {"any": W, "zero": W * mask, "large": torch.where(mask, W, W.sign() * (5 + W.abs()))}[gone]


def network(g: torch.Generator, *hidden: int, norm: bool = False, kernels: bool = False) -> Module:
    """Linear layers of unlike scale with ReLU, and BatchNorm, between; all but the first layer are one level deeper.

    With `kernels` a convolution that keeps the number of features comes first, and the rest is as without, one level deeper.
    """
    sizes = (FEATURES, *hidden, CLASSES)
    parts: list[list[Module]] = []
    for i, (cols, rows) in enumerate(pairwise(sizes)):
        W = torch.randn(rows, cols, generator=g) * 1.5 ** (1 - i) / cols**0.5
        b = 0.1 * torch.randn(rows, generator=g)
        last = i == len(hidden)
        # BatchNorm takes a bias before it away: its gradient is nothing but rounding, which Adam would make whole steps of
        bias = last or not norm
        part = [Module(SUBCLASS if last else "Linear", (cols, rows, bias), {"weight": W} | ({"bias": b} if bias else {}))]
        if not last:
            part += [Module("BatchNorm1d", (rows,))] * norm + [Module("ReLU")]
        parts.append(part)
    before: tuple[Module, ...] = ()
    if kernels:
        state = {"weight": torch.randn(1, 1, 3, generator=g), "bias": 0.1 * torch.randn(1, generator=g)}
        before = (Module("Unflatten", (1, (1, FEATURES))), Module("Conv1d", (1, 1, 3, 1, 1), state), Module("Flatten"))
    rest = Module("Sequential", tuple(module for part in parts[1:] for module in part))
    return Module("Sequential", (*before, *parts[0], rest))


def training(
    g: torch.Generator, *hidden: int, norm: bool = False, kernels: bool = False, samples: int = 40, **settings
) -> Training:
    """Of a small network on noisy linear labels; `settings` are fields of the recipe."""
    model = network(g, *hidden, norm=norm, kernels=kernels)
    x = torch.randn(samples, FEATURES, generator=g) + 0.5
    y = (x @ torch.randn(FEATURES, CLASSES, generator=g) + 0.5 * torch.randn(samples, CLASSES, generator=g)).argmax(dim=1)
    return Training(model, x, y, seed=int(torch.randint(10**6, (), generator=g)), **settings)


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}


def masks_for(g: torch.Generator, recipe: Training, *densities: float | None) -> dict[str, Tensor]:
    """A mask for each linear layer of a training's network, None for a layer without."""
    layers = linear_layers(recipe.model.build([]))
    pairs = zip(layers.items(), densities, strict=True)
    return {name: some_mask(g, *layer.weight.shape, density=p) for (name, layer), p in pairs if p is not None}


class Snapshot:
    """Keeps each part by a function that copies it, puts it back by another; mistakes replace one of the two."""

    def __init__(self, training) -> None:
        self.training = training
        self.kept = {part: getattr(self, f"keep_{part}")(getattr(training, part)) for part in self.parts}

    parts = ("model", "optimizer", "scheduler", "order")

    def rewind_(self) -> None:
        for part in self.parts:
            getattr(self, f"put_{part}")(getattr(self.training, part), self.kept[part])

    def keep_model(self, model):
        return copy.deepcopy(model.state_dict())

    def put_model(self, model, kept):
        model.load_state_dict(kept)

    def keep_optimizer(self, optimizer):
        return copy.deepcopy(optimizer.state_dict())

    def put_optimizer(self, optimizer, kept):
        optimizer.load_state_dict(copy.deepcopy(kept))

    def keep_scheduler(self, scheduler):
        return copy.deepcopy(scheduler.state_dict())

    def put_scheduler(self, scheduler, kept):
        scheduler.load_state_dict(copy.deepcopy(kept))

    def keep_order(self, order):
        return order.get_state()

    def put_order(self, order, kept):
        order.set_state(kept)
