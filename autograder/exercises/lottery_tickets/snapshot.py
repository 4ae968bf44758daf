"""Exercise 6.4: rewind everything."""

import copy

import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.lottery_tickets.fixtures import Snapshot, training
from autograder.exercises.lottery_tickets.snapshot_mistakes import mistakes
from autograder.inside.case import script

snapshot = Exercise(
    "lottery_tickets.snapshot",
    defines="Snapshot",
    title="Rewind everything",
    minutes=15,
    difficulty=2,
    hints=(
        "Four objects decide how a training goes on: model, optimiser, scheduler, and the generator of the order. Keep a "
        "copy of each one's state, and put each state back into the same object.",
        "The first three have `state_dict()` and `load_state_dict(...)`, a generator has `get_state()` and "
        "`set_state(...)`. A state dict is no copy, it holds the very tensors that are trained: copy what you keep. And "
        "an optimiser goes on working with the tensors that it loads: copy again what you load.",
        "Keep `copy.deepcopy([part.state_dict() for part in parts])` with the three parts. To rewind, walk over the parts "
        "and a *fresh* `copy.deepcopy` of these states, and load each. What `order.get_state()` gives is a copy already.",
    ),
    reference=Snapshot,
    misconceptions=mistakes,
)

MOMENTUM = {"lr": 0.05, "momentum": 0.9}


def rewound(recipe, *steps: int):
    """A snapshot, then so many steps and a rewind, and so on; at the end no step, which shows the weights."""
    calls = [call for n in steps for call in ((0, n), ("rewind_",))]
    return script(recipe, calls=[*calls, (0, 0)])


@snapshot.stage(
    "puts the weights back",
    points=1,
    exposes="rewind_ puts every parameter back to its value at the snapshot: weights and biases, in place, as the training holds the same "
    "model still, and the same optimizer, scheduler and order; and the snapshot changes nothing.",
)
def _(g):
    yield rewound(training(g, 6), 3)
    yield rewound(training(g, 5, 6, done=2), 4)
    yield rewound(training(g, 5, kernels=True, done=1), 2, 0, 0, 0, 1)


@snapshot.stage(
    "keeps its own copy, and running means too",
    points=1,
    exposes="After rewinding, training on must not reach what is kept, so that one can rewind again and again; and a model's state is more "
    "than its parameters: BatchNorm has running means, variances and a counter.",
)
def _(g):
    yield rewound(training(g, 6, samples=1, batch_size=1), 2, 1)
    yield rewound(training(g, 5, norm=True, done=2), 2)


@snapshot.stage(
    "puts the optimiser back",
    points=1,
    exposes="The first step after rewinding must be the one that followed the snapshot: momentum and Adam's moments, and their counter, are "
    "what they were then, empty ones too, and again after the second rewind.",
)
def _(g):
    yield rewound(training(g, 6, options=MOMENTUM, done=3, samples=1, batch_size=1), 2, 2, 1)
    yield rewound(training(g, 5, options=MOMENTUM, samples=1, batch_size=1), 2, 2)
    yield rewound(training(g, 6, optimizer="Adam", options={"lr": 0.02}, done=2, samples=1, batch_size=1), 2, 2, 1)


@snapshot.stage(
    "puts schedule and data order back",
    points=2,
    exposes="After rewinding the same batches come in the same order, and the learning rate falls at the same steps: generator and scheduler "
    "are part of a training's state.",
)
def _(g):
    yield rewound(training(g, 6, period=3, done=2, samples=1, batch_size=1), 3, 2)
    yield rewound(training(g, 6, done=2), 3, 2)
    yield rewound(training(g, 5, 6, norm=True, period=3, optimizer="Adam", options={"lr": 0.02}, done=4), 4, 3, 1)


@snapshot.accepts("one deep copy, restored by state dicts")
class _:
    def __init__(self, training):
        self.training = training
        self.state = copy.deepcopy([thing.state_dict() for thing in (training.model, training.optimizer, training.scheduler)])
        self.order = training.order.get_state().clone()

    def rewind_(self):
        things = (self.training.model, self.training.optimizer, self.training.scheduler)
        for thing, state in zip(things, copy.deepcopy(self.state), strict=True):
            thing.load_state_dict(state)
        self.training.order.set_state(self.order)


@snapshot.accepts("tensor by tensor")
class _:
    def __init__(self, training):
        self.t = training
        self.tensors = [tensor.detach().clone() for tensor in (*training.model.parameters(), *training.model.buffers())]
        self.moments = {
            p: {key: value.clone() if torch.is_tensor(value) else value for key, value in state.items()}
            for p, state in training.optimizer.state.items()
        }
        self.rates = [group["lr"] for group in training.optimizer.param_groups]
        self.schedule = {key: value for key, value in vars(training.scheduler).items() if isinstance(value, int | float | list)}
        self.order = training.order.clone_state()

    @torch.no_grad()
    def rewind_(self):
        for tensor, kept in zip((*self.t.model.parameters(), *self.t.model.buffers()), self.tensors, strict=True):
            tensor.copy_(kept)
        self.t.optimizer.state.clear()
        for p, state in self.moments.items():
            self.t.optimizer.state[p] = {
                key: value.clone() if torch.is_tensor(value) else value for key, value in state.items()
            }
        for group, rate in zip(self.t.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
        vars(self.t.scheduler).update(self.schedule)
        self.t.order.set_state(self.order.get_state())


@snapshot.accepts("saved to bytes")
class _:
    def __init__(self, training):
        import io

        self.training, self.file = training, io.BytesIO()
        names = ("model", "optimizer", "scheduler")
        torch.save({n: getattr(training, n).state_dict() for n in names} | {"order": training.order.get_state()}, self.file)

    def rewind_(self):
        self.file.seek(0)
        for name, state in torch.load(self.file, weights_only=False).items():
            if name == "order":
                self.training.order.set_state(state)
            else:
                getattr(self.training, name).load_state_dict(state)
