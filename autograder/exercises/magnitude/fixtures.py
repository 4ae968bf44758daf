"""Models that the exercises of unit 02 work on."""

import torch
from torch import Tensor, nn

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


def linear(g: torch.Generator, out: int, features: int, zeros: float = 0.0) -> Module:
    """A linear layer without a bias."""
    W = torch.randn(out, features, generator=g)
    return Module("Linear", (features, out, False), {"weight": W * (torch.rand(W.shape, generator=g) >= zeros)})


def of_all_kinds(g: torch.Generator, zeros: float = 0.0) -> Module:
    """Linear layers, one of a subclass, beside others that have a matrix or a `weight` too; only two have zeros."""

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    attention = {
        "in_proj_weight": some(12, 4),
        "in_proj_bias": some(12),
        "out_proj.weight": some(4, 4),
        "out_proj.bias": some(4),
    }
    parts = (
        linear(g, 4, 6, zeros),
        Module("Conv1d", (3, 4, 2), {"weight": some(4, 3, 2), "bias": some(4)}),
        Module("Sequential", (linear(g, 4, 6, zeros), Module("MultiheadAttention", (4, 2), attention))),  # its out_proj
        Module("Bilinear", (3, 5, 2), {"weight": some(2, 3, 5), "bias": some(2)}),
        Module("Embedding", (5, 4), {"weight": some(5, 4)}),
    )
    return Module("Sequential", parts)


def matrices(module: Module) -> list[Tensor]:
    """The parameters of two dimensions, in a model's order."""
    return [parameter.detach() for parameter in module.build([]).parameters() if parameter.ndim == 2]


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
