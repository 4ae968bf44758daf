"""Recipes: what a case hands to student code when plain arrays will not do - a model, an optimiser, a callback.

A recipe is plain data, so it can be sent to another process; `build` makes the object there, fresh for every call. It is given
the arguments built so far, so that an optimiser can be made over the model before it.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from autograder.observe import Recorder, observe


@dataclass(frozen=True)
class Module:
    """`nn.<kind>(*arguments)` with the parameters in `state`; an argument may be a recipe itself, as in a Sequential."""

    kind: str  # "Embedding", "LayerNorm", "Sequential", ...
    arguments: tuple = ()
    state: dict[str, Tensor] = field(default_factory=dict)

    def build(self, built: list) -> nn.Module:
        arguments = (part.build(built) if isinstance(part, RECIPES) else part for part in self.arguments)
        module = getattr(nn, self.kind)(*arguments)
        if self.state:
            # assigned, so that a layer has the dtype of its state
            module.load_state_dict({name: entry.clone() for name, entry in self.state.items()}, assign=True)
        return module

    def __str__(self) -> str:
        return f"<{self.kind}>"


@dataclass(frozen=True)
class MLP:
    """`nn.Sequential` of linear layers with these parameters and a ReLU between them."""

    weights: tuple[Tensor, ...]  # (out, in) each
    biases: tuple[Tensor, ...]  # (out,) each

    def build(self, built: list) -> nn.Module:
        layers: list[nn.Module] = []
        for W, b in zip(self.weights, self.biases, strict=True):
            linear = nn.Linear(W.shape[1], W.shape[0], dtype=W.dtype)
            linear.load_state_dict({"weight": W, "bias": b})
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def __str__(self) -> str:
        sizes = [self.weights[0].shape[1], *(W.shape[0] for W in self.weights)]
        return f"<MLP {'-'.join(map(str, sizes))}>"


@dataclass(frozen=True)
class Optimizer:
    """A `torch.optim` optimiser over the parameters of argument `of`, which has already made `warm_steps` steps.

    Warm steps fill momentum and moments, as in a training that pruning interrupts. Every gradient is `warm_gradient`; the last
    ones are left in place, as training leaves them, and the parameters are put back.
    """

    kind: str  # "SGD", "AdamW", ...
    of: int  # position of the model among the arguments
    options: dict = field(default_factory=dict)
    warm_steps: int = 0
    warm_gradient: float = 1.0

    def build(self, built: list) -> torch.optim.Optimizer:
        parameters = list(built[self.of].parameters())
        optimizer = getattr(torch.optim, self.kind)(parameters, **self.options)
        start = [parameter.detach().clone() for parameter in parameters]
        for _ in range(self.warm_steps):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, self.warm_gradient)
            optimizer.step()
        with torch.no_grad():
            for parameter, value in zip(parameters, start, strict=True):
                parameter.copy_(value)
        return optimizer

    def __str__(self) -> str:
        return f"<{self.kind} {', '.join(f'{name}={value}' for name, value in self.options.items())}>"


@dataclass(frozen=True)
class Add:
    """A stand-in for retraining: a callback that adds a fixed tensor to every weight matrix of the model it is given.

    It ignores masks, as careless training does, so that a learner's loop has to hold them. Observed, it is the list of its
    calls: the masks, and the weights that the model had.
    """

    label: ClassVar = "calls of {}"  # what is observed of it, in messages
    deltas: tuple[Tensor, ...]  # one per weight matrix, in the model's order

    def build(self, built: list) -> Recorder:
        @torch.no_grad()
        def retrain(model: nn.Module, masks: dict[str, Tensor]) -> dict:
            layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
            given = observe({"masks": masks, "weights": {name: layer.weight for name, layer in layers.items()}})
            matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
            for matrix, delta in zip(matrices, self.deltas, strict=True):
                matrix += delta
            return given

        return Recorder(retrain)

    def __str__(self) -> str:
        return "<training>"


RECIPES = (Module, MLP, Optimizer, Add)
