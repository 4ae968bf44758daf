"""Recipes: what a case hands to student code when plain arrays will not do - a model, an optimiser, a callback.

A recipe is plain data, so it can be sent to another process; `build` makes the object there, fresh for every call. It is given
the arguments built so far, so that an optimiser can be made over the model before it.
"""

import inspect
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autograder.inside.observe import Recorder, Watched, observe
from autograder.inside.prices import Prices

SUBCLASS = "NonDynamicallyQuantizableLinear"  # torch's own subclass of nn.Linear, which nn.MultiheadAttention has


@dataclass(frozen=True)
class Module:
    """`nn.<kind>(*arguments)` with the parameters in `state`; an argument may be a recipe itself, as in a Sequential."""

    kind: str  # "Embedding", "LayerNorm", "Sequential", ... or SUBCLASS
    arguments: tuple = ()  # of a Sequential whose parts have names: a dict
    state: dict[str, Tensor] = field(default_factory=dict)

    def build(self, built: list) -> nn.Module:
        def made(part):
            if isinstance(part, dict):
                return OrderedDict((name, made(entry)) for name, entry in part.items())
            return part.build(built) if isinstance(part, RECIPES) else part

        arguments = map(made, self.arguments)
        module = getattr(nn.modules.linear if self.kind == SUBCLASS else nn, self.kind)(*arguments)
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


@cache
def optimizer_class(kind: str) -> type[torch.optim.Optimizer]:
    """A class of `torch.optim` that does not import torch's compiler.

    Its decorators do so on their first call, to keep the compiler away: a second in each process, and nothing is compiled here.
    """
    base = getattr(torch.optim, kind)
    plain = {
        name: inspect.unwrap(getattr(base, name)) for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    }
    step = torch.no_grad()(inspect.unwrap(base.step))
    return type(kind, (base,), {**plain, "step": step, "__module__": base.__module__, "__doc__": base.__doc__})


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
        optimizer = optimizer_class(self.kind)(parameters, **self.options)
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


@dataclass(frozen=True)
class Descend:
    """Retraining by gradients: a callback that makes steps of gradient descent on the cross-entropy, masks or not.

    It trains the parameters that argument `of` has when it is built, as an optimiser does that was made before. Observed, it is
    the list of its calls: the masks, the weights that the linear layers had, and the losses.
    """

    label: ClassVar = "calls of {}"
    of: int  # position of the model among the arguments
    inputs: Tensor  # (samples, features)
    labels: Tensor  # (samples,)
    rate: float = 0.3
    steps: int = 2

    def build(self, built: list) -> Recorder:
        parameters = list(built[self.of].parameters())

        def retrain(model: nn.Module, masks: dict[str, Tensor]) -> dict:
            layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
            given = observe({"masks": masks, "weights": {name: layer.weight for name, layer in layers.items()}})
            given["losses"] = []
            for _ in range(self.steps):
                loss = F.cross_entropy(model(self.inputs), self.labels)
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                with torch.no_grad():
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        if gradient is not None:
                            parameter -= self.rate * gradient
                given["losses"].append(loss.item())
            return given

        return Recorder(retrain)

    def __str__(self) -> str:
        return "<training by gradients>"


@dataclass(frozen=True)
class Training:
    """A `RunningTraining` that has already made `done` steps: what the lesson on lottery tickets calls a training."""

    model: Module | MLP
    inputs: Tensor  # (samples, features)
    labels: Tensor  # (samples,)
    optimizer: str = "SGD"
    options: dict = field(default_factory=lambda: {"lr": 0.1})
    period: int = 100  # steps after which the learning rate is multiplied by `factor`, again and again
    factor: float = 0.5
    batch_size: int = 6
    seed: int = 0
    done: int = 0
    evaluating: bool = False  # whether the model is left in evaluation mode

    def build(self, built: list) -> "RunningTraining":
        model = self.model.build(built)
        optimizer = optimizer_class(self.optimizer)(model.parameters(), **self.options)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, self.period, self.factor)
        order = torch.Generator().manual_seed(self.seed)
        training = RunningTraining(model, optimizer, scheduler, order, self.inputs, self.labels, self.batch_size)
        training(self.done)
        model.train(not self.evaluating)
        return training

    def __str__(self) -> str:
        made = f", {self.done} steps made" if self.done else ""
        return f"<training of {self.model} with {self.optimizer}{made}>"


class RunningTraining(Watched):
    """A model, its optimiser and schedule, and the generator that draws the batches.

    Called with a number it makes so many ordinary steps, and says how they went. Only the objects it was made of count: those
    that student code may put in their place are not the ones that others hold.
    """

    __slots__ = ("_parts",)  # beside the attributes, which may all be replaced at once through `__dict__`

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        order: torch.Generator,
        inputs: Tensor,
        labels: Tensor,
        batch_size: int,
    ) -> None:
        self.model, self.optimizer, self.scheduler, self.order = self._parts = model, optimizer, scheduler, order
        self.inputs, self.labels, self.batch_size = inputs, labels, batch_size

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next inputs and labels."""
        chosen = torch.randint(len(self.inputs), (self.batch_size,), generator=self._parts[3])
        return self.inputs[chosen], self.labels[chosen]

    def __call__(self, steps: int) -> dict:
        model, optimizer, scheduler, _ = self._parts
        said: dict = {"replaced": self._replaced(), "learning rates": [], "next batches": [], "losses": []}
        model.train()
        for _ in range(steps):
            said["learning rates"].append(optimizer.param_groups[0]["lr"])
            said["next batches"].append(self._next())
            inputs, labels = self.batch()
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            said["losses"].append(loss.item())
        return said | {"weights": observe(model.state_dict())}

    def seen(self) -> dict:
        """Which of its objects are others now, the learning rate, the indices of the next batch, and the model's state."""
        model, optimizer, _, _ = self._parts
        return {
            "replaced": self._replaced(),
            "learning rate": optimizer.param_groups[0]["lr"],
            "next batch": self._next(),
            "weights": observe(model.state_dict()),
        }

    def _replaced(self) -> str:
        names = ("model", "optimizer", "scheduler", "order")
        replaced = [name for name, part in zip(names, self._parts, strict=True) if getattr(self, name, None) is not part]
        return ", ".join(replaced) or "nothing"

    def _next(self) -> Tensor:
        order = torch.Generator()
        order.set_state(self._parts[3].get_state())
        return torch.randint(len(self.inputs), (self.batch_size,), generator=order)


@dataclass(frozen=True)
class Train:
    """A stand-in for training under masks: a callback that zeroes what is masked and then makes ordinary steps.

    So masked weights move, as in careless training, and whoever calls it has to know what is gone. Observed, it is the list of
    its calls: how many steps, and in detail the masks, the training as it was then, and the steps; a call for no steps is none.
    """

    label: ClassVar = "calls of {}"
    detailed: bool = True

    def build(self, built: list) -> Recorder:
        def train(training: RunningTraining, masks: dict[str, Tensor], steps: int) -> dict:
            with torch.no_grad():
                for name, mask in masks.items():
                    training.model.get_submodule(name).weight[~mask] = 0
            given = observe({"number of steps": steps, "masks": masks, "training": training})
            given["steps"] = training(steps)
            if not self.detailed:
                given = {"number of steps": given["number of steps"]}
            return given if steps else None

        return Recorder(train)

    def __str__(self) -> str:
        return "<training under masks>"


RECIPES = (Module, MLP, Optimizer, Add, Descend, Training, Train, Prices)
