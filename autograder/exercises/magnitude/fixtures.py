"""Models that the exercises of unit 02 work on."""

import torch
from torch import nn

from autograder.inside.recipes import MLP, Module


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
