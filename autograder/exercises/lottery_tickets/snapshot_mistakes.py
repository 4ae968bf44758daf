"""Mistakes of exercise 6.4: a `Snapshot` with some parts kept or put back in another way."""

import copy

import torch

from autograder.checking.exercise import Mistakes
from autograder.exercises.lottery_tickets.fixtures import Snapshot

mistakes = Mistakes()


@mistakes(
    "no copy",
    "`model.state_dict()` holds no copies but the very tensors that are trained: what you kept is trained with the model. Use "
    "copy.deepcopy, or clone every tensor.",
)
class _(Snapshot):
    def keep_model(self, model):
        return model.state_dict()


@mistakes(
    "dict copied, tensors not",
    "dict(...) or .copy() copies the dict, not the tensors in it: they are trained in place. Use copy.deepcopy.",
)
class _(Snapshot):
    def keep_model(self, model):
        return dict(model.state_dict())

    def keep_optimizer(self, optimizer):
        return dict(optimizer.state_dict())


@mistakes(
    "parameters point to what is kept",
    "`parameter.data = kept[name]` makes the parameter use your kept tensor, and training then changes it in place: the first rewind works, "
    "the second goes to the end of the first training. Copy the values: parameter.data.copy_(...) or load_state_dict.",
)
class _(Snapshot):
    def put_model(self, model, kept):
        model.load_state_dict(kept)
        for name, parameter in model.named_parameters():
            parameter.data = kept[name]


@mistakes(
    "optimiser works on what is kept",
    "optimizer.load_state_dict takes the tensors that you give it, and the optimiser then changes them in place: the first rewind works, the "
    "second does not. Give it a copy.",
)
class _(Snapshot):
    def put_optimizer(self, optimizer, kept):
        optimizer.load_state_dict(kept)


@mistakes(
    "optimiser kept without a copy",
    "`optimizer.state_dict()` holds the very tensors that the optimiser works with; you copied the model's state but not this one.",
)
class _(Snapshot):
    def keep_optimizer(self, optimizer):
        return optimizer.state_dict()


@mistakes(
    "buffers forgotten",
    "You put the parameters back but not the buffers: BatchNorm's running means and variances are those of the end. state_dict() has both.",
)
class _(Snapshot):
    def put_model(self, model, kept):
        parameters = dict(model.named_parameters())
        model.load_state_dict(model.state_dict() | {name: kept[name] for name in parameters})


@mistakes(
    "weights only",
    "You put the weight matrices back but not the biases (nor what BatchNorm keeps).",
)
class _(Snapshot):
    def put_model(self, model, kept):
        model.load_state_dict(model.state_dict() | {n: W for n, W in kept.items() if n.endswith("weight")})


@mistakes(
    "optimiser forgotten",
    "The optimiser keeps the momentum of the end, which pushes the rewound weights where the old ones were going; and the learning rate of "
    "the end.",
)
class _(Snapshot):
    parts = ("model", "scheduler", "order")


@mistakes(
    "scheduler forgotten",
    "The scheduler goes on counting from the end: the learning rate falls at other steps than it did after the snapshot.",
)
class _(Snapshot):
    parts = ("model", "optimizer", "order")


@mistakes(
    "data order forgotten",
    "After rewinding other batches come than the first time: keep training.order.get_state() (not the generator itself, which goes on, and "
    "not torch's global one), and set it.",
)
class _(Snapshot):
    parts = ("model", "optimizer", "scheduler")


@mistakes(
    "model only",
    "You put the model back and nothing else. Momentum, learning rate, schedule and the order of the data are those of the end.",
)
class _(Snapshot):
    parts = ("model",)


@mistakes(
    "model and optimiser only",
    "Schedule and data order are missing: the learning rate falls at other steps, and other batches come.",
)
class _(Snapshot):
    parts = ("model", "optimizer")


@mistakes(
    "optimiser emptied",
    "You empty the optimiser's state when you rewind. That is right for a rewind to the first step; later there is momentum to put back.",
)
class _(Snapshot):
    def put_optimizer(self, optimizer, kept):
        optimizer.load_state_dict({**copy.deepcopy(kept), "state": {}})


@mistakes(
    "empty state left full",
    "The snapshot was taken before the first step, when the optimiser had no momentum yet. You put back what you kept, which is nothing, and "
    "the momentum of the end stays: rewinding has to empty the optimiser then.",
)
class _(Snapshot):
    def put_optimizer(self, optimizer, kept):
        now = optimizer.state_dict()
        optimizer.load_state_dict(copy.deepcopy(kept | {"state": now["state"] | kept["state"]}))


@mistakes(
    "learning rate forgotten",
    "Momentum is put back, but the optimiser's learning rate is the one that the schedule had at the end: it is in its param_groups.",
)
class _(Snapshot):
    def put_optimizer(self, optimizer, kept):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": copy.deepcopy(kept["state"]), "param_groups": groups})


@mistakes(
    "data order from its seed",
    "You seed the generator anew, so that the batches are those of the very first steps. Go back to the state at the snapshot: get_state().",
)
class _(Snapshot):
    def put_order(self, order, kept):
        order.manual_seed(order.initial_seed())


@mistakes(
    "other objects in their place",
    "rewind_ puts another model in the training's place. Whoever holds the one before (the optimiser does) sees nothing of it: load into "
    "the objects that are there.",
)
class _(Snapshot):
    def keep_model(self, model):
        return copy.deepcopy(model)

    def put_model(self, model, kept):
        self.training.model = copy.deepcopy(kept)


@mistakes(
    "another generator in its place",
    "rewind_ gives the training another generator. Whoever holds the one before draws from it still: set the state of the one that is there.",
)
class _(Snapshot):
    def put_order(self, order, kept):
        self.training.order = torch.Generator()
        self.training.order.set_state(kept)


@mistakes(
    "another optimiser in its place",
    "rewind_ gives the training another optimiser. The scheduler goes on changing the learning rate of the one before: load the state into the "
    "one that is there.",
)
class _(Snapshot):
    def put_optimizer(self, optimizer, kept):
        self.training.optimizer = copy.deepcopy(optimizer)


@mistakes(
    "all other objects",
    "rewind_ puts a copy of everything in the training's place. Whoever holds the objects before sees nothing of it: load into the "
    "objects that are there.",
)
class _:
    def __init__(self, training):
        self.training, self.kept = training, copy.deepcopy(training)

    def rewind_(self):
        vars(self.training).update(vars(copy.deepcopy(self.kept)))


@mistakes(
    "snapshot when rewinding",
    "You take the state when rewind_ is called, not when the Snapshot is made: there is nothing to go back to.",
)
class _(Snapshot):
    def rewind_(self):
        self.kept = {part: getattr(self, f"keep_{part}")(getattr(self.training, part)) for part in self.parts}
