"""Exercise 6.4: rewind everything."""

import copy

import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.lottery_tickets.fixtures import training
from autograder.inside.case import script


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


snapshot = Exercise(
    "lottery_tickets.snapshot",
    defines="Snapshot",
    title="Rewind everything",
    minutes=15,
    difficulty=2,
    hint="Model, optimiser and scheduler have `state_dict()` and `load_state_dict(...)`, a generator has `get_state()` and `set_state(...)`. "
    "`copy.deepcopy` what you keep, and also what you load: an optimiser goes on working with the tensors that it was given.",
    reference=Snapshot,
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


def mistaken(name: str, says: str):
    """A class with some parts kept or put back in another way."""

    def declare(cls):
        snapshot.misconception(name, says)(cls)
        return cls

    return declare


@mistaken(
    "no copy",
    "`model.state_dict()` holds no copies but the very tensors that are trained: what you kept is trained with the model. Use "
    "copy.deepcopy, or clone every tensor.",
)
class _(Snapshot):
    def keep_model(self, model):
        return model.state_dict()


@mistaken(
    "dict copied, tensors not",
    "dict(...) or .copy() copies the dict, not the tensors in it: they are trained in place. Use copy.deepcopy.",
)
class _(Snapshot):
    def keep_model(self, model):
        return dict(model.state_dict())

    def keep_optimizer(self, optimizer):
        return dict(optimizer.state_dict())


@mistaken(
    "parameters point to what is kept",
    "`parameter.data = kept[name]` makes the parameter use your kept tensor, and training then changes it in place: the first rewind works, "
    "the second goes to the end of the first training. Copy the values: parameter.data.copy_(...) or load_state_dict.",
)
class _(Snapshot):
    def put_model(self, model, kept):
        model.load_state_dict(kept)
        for name, parameter in model.named_parameters():
            parameter.data = kept[name]


@mistaken(
    "optimiser works on what is kept",
    "optimizer.load_state_dict takes the tensors that you give it, and the optimiser then changes them in place: the first rewind works, the "
    "second does not. Give it a copy.",
)
class _(Snapshot):
    def put_optimizer(self, optimizer, kept):
        optimizer.load_state_dict(kept)


@mistaken(
    "optimiser kept without a copy",
    "`optimizer.state_dict()` holds the very tensors that the optimiser works with; you copied the model's state but not this one.",
)
class _(Snapshot):
    def keep_optimizer(self, optimizer):
        return optimizer.state_dict()


@mistaken(
    "buffers forgotten",
    "You put the parameters back but not the buffers: BatchNorm's running means and variances are those of the end. state_dict() has both.",
)
class _(Snapshot):
    def put_model(self, model, kept):
        parameters = dict(model.named_parameters())
        model.load_state_dict(model.state_dict() | {name: kept[name] for name in parameters})


@mistaken(
    "weights only",
    "You put the weight matrices back but not the biases (nor what BatchNorm keeps).",
)
class _(Snapshot):
    def put_model(self, model, kept):
        model.load_state_dict(model.state_dict() | {n: W for n, W in kept.items() if n.endswith("weight")})


@mistaken(
    "optimiser forgotten",
    "The optimiser keeps the momentum of the end, which pushes the rewound weights where the old ones were going; and the learning rate of "
    "the end.",
)
class _(Snapshot):
    parts = ("model", "scheduler", "order")


@mistaken(
    "scheduler forgotten",
    "The scheduler goes on counting from the end: the learning rate falls at other steps than it did after the snapshot.",
)
class _(Snapshot):
    parts = ("model", "optimizer", "order")


@mistaken(
    "data order forgotten",
    "After rewinding other batches come than the first time: keep training.order.get_state() (not the generator itself, which goes on, and "
    "not torch's global one), and set it.",
)
class _(Snapshot):
    parts = ("model", "optimizer", "scheduler")


@mistaken(
    "model only",
    "You put the model back and nothing else. Momentum, learning rate, schedule and the order of the data are those of the end.",
)
class _(Snapshot):
    parts = ("model",)


@mistaken(
    "model and optimiser only",
    "Schedule and data order are missing: the learning rate falls at other steps, and other batches come.",
)
class _(Snapshot):
    parts = ("model", "optimizer")


@mistaken(
    "optimiser emptied",
    "You empty the optimiser's state when you rewind. That is right for a rewind to the first step; later there is momentum to put back.",
)
class _(Snapshot):
    def put_optimizer(self, optimizer, kept):
        optimizer.load_state_dict({**copy.deepcopy(kept), "state": {}})


@mistaken(
    "empty state left full",
    "The snapshot was taken before the first step, when the optimiser had no momentum yet. You put back what you kept, which is nothing, and "
    "the momentum of the end stays: rewinding has to empty the optimiser then.",
)
class _(Snapshot):
    def put_optimizer(self, optimizer, kept):
        now = optimizer.state_dict()
        optimizer.load_state_dict(copy.deepcopy(kept | {"state": now["state"] | kept["state"]}))


@mistaken(
    "learning rate forgotten",
    "Momentum is put back, but the optimiser's learning rate is the one that the schedule had at the end: it is in its param_groups.",
)
class _(Snapshot):
    def put_optimizer(self, optimizer, kept):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": copy.deepcopy(kept["state"]), "param_groups": groups})


@mistaken(
    "data order from its seed",
    "You seed the generator anew, so that the batches are those of the very first steps. Go back to the state at the snapshot: get_state().",
)
class _(Snapshot):
    def put_order(self, order, kept):
        order.manual_seed(order.initial_seed())


@mistaken(
    "other objects in their place",
    "rewind_ puts another model in the training's place. Whoever holds the one before (the optimiser does) sees nothing of it: load into "
    "the objects that are there.",
)
class _(Snapshot):
    def keep_model(self, model):
        return copy.deepcopy(model)

    def put_model(self, model, kept):
        self.training.model = copy.deepcopy(kept)


@mistaken(
    "another generator in its place",
    "rewind_ gives the training another generator. Whoever holds the one before draws from it still: set the state of the one that is there.",
)
class _(Snapshot):
    def put_order(self, order, kept):
        self.training.order = torch.Generator()
        self.training.order.set_state(kept)


@mistaken(
    "another optimiser in its place",
    "rewind_ gives the training another optimiser. The scheduler goes on changing the learning rate of the one before: load the state into the "
    "one that is there.",
)
class _(Snapshot):
    def put_optimizer(self, optimizer, kept):
        self.training.optimizer = copy.deepcopy(optimizer)


@mistaken(
    "all other objects",
    "rewind_ puts a copy of everything in the training's place. Whoever holds the objects before sees nothing of it: load into the "
    "objects that are there.",
)
class _:
    def __init__(self, training):
        self.training, self.kept = training, copy.deepcopy(training)

    def rewind_(self):
        vars(self.training).update(vars(copy.deepcopy(self.kept)))


@mistaken(
    "snapshot when rewinding",
    "You take the state when rewind_ is called, not when the Snapshot is made: there is nothing to go back to.",
)
class _(Snapshot):
    def rewind_(self):
        self.kept = {part: getattr(self, f"keep_{part}")(getattr(self.training, part)) for part in self.parts}


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
