"""Exercise 6.6: does the ticket win?"""

import copy

import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.lottery_tickets.fixtures import linear_layers, masks_for, network, training
from autograder.exercises.lottery_tickets.snapshot import Snapshot
from autograder.inside.case import call
from autograder.inside.recipes import Train

KINDS = ("ticket", "other weights", "other connections", "fine-tuned")


def largest(noise, number: int):
    kept = torch.zeros(noise.numel(), dtype=torch.bool)
    kept[noise.flatten().argsort(descending=True)[:number]] = True
    return kept.view(noise.shape)


def per_layer(masks, noise):
    """As many as before in each layer, where the noise is largest."""
    return {name: largest(noise[name], int(mask.sum())) for name, mask in masks.items()}


def compare(
    training,
    train,
    masks,
    steps,
    fresh,
    trained,
    noise,
    snapshot=Snapshot,
    connections=per_layer,
    load=lambda model, state: model.load_state_dict(state),
    changed=None,
    back=True,
    copied=True,
    extra=None,
    between=True,
):
    """`train_controls` with its parts exchangeable; `changed` maps a kind to other weights or other masks."""
    start, results = snapshot(training), {}
    weights = {"other weights": fresh, "fine-tuned": trained}
    used = dict.fromkeys(KINDS, masks) | {"other connections": connections(masks, noise)}
    weights, used = (weights, used) if changed is None else changed(weights, used)
    for kind in KINDS:
        if between:
            start.rewind_()
        if kind in weights:
            load(training.model, weights[kind])
        train(training, used[kind], steps + (extra or {}).get(kind, 0))
        state = training.model.state_dict()
        results[kind] = copy.deepcopy(state) if copied else state
    if back:
        start.rewind_()
    return results


def train_controls(training, train, masks, steps, fresh, trained, noise):
    return compare(training, train, masks, steps, fresh, trained, noise)


controls = Exercise(
    "lottery_tickets.controls",
    defines="train_controls",
    title="Does the ticket win?",
    minutes=15,
    difficulty=3,
    hint="`start = Snapshot(training)`, then four times: `start.rewind_()`, perhaps `training.model.load_state_dict(...)`, `train(training, "
    "masks, steps)`, and a deep copy of `training.model.state_dict()`. As many as before where the noise is largest: "
    "`noise.flatten().topk(int(mask.sum())).indices`.",
    reference=train_controls,
    forbids=("torch.nn.utils.prune",),
)

MOMENTUM = {"lr": 0.08, "momentum": 0.9}


def control_case(g: torch.Generator, *hidden: int, steps: int, densities, norm=False, **settings):
    recipe = training(g, *hidden, norm=norm, **settings)
    masks = masks_for(g, recipe, *densities)
    fresh, trained = (network(g, *hidden, norm=norm).build([]) for _ in range(2))
    if norm:
        for model in (fresh, trained):
            model[1].running_mean.copy_(torch.randn(hidden[0], generator=g))
    states = ({name: value.clone() for name, value in model.state_dict().items()} for model in (fresh, trained))
    noise = {name: torch.rand(mask.shape, generator=g) for name, mask in masks.items()}
    return call(recipe, Train(detailed=False), masks, steps, *states, noise, changes=(0, 1))


@controls.stage(
    "four networks, each from its own start",
    points=2,
    exposes="The ticket: weights and masks as they are. Other weights: `fresh` under the same masks. Other connections: the same weights under "
    "random masks. Fine-tuned: `trained` under the same masks. Each result is a copy of the state dict after train(training, masks, steps).",
)
def _(g):
    yield control_case(g, 8, steps=3, densities=(0.6, 0.6), samples=1, batch_size=1)
    yield control_case(g, 6, 7, steps=4, densities=(0.5, 0.5, 0.5), samples=1, batch_size=1)


@controls.stage(
    "as many connections in each layer",
    points=1,
    exposes="A random mask keeps as many weights as the ticket's *in each layer*, where that layer's noise is largest.",
)
def _(g):
    yield control_case(g, 8, steps=2, densities=(0.3, 0.8), samples=1, batch_size=1)
    yield control_case(g, 6, 7, steps=3, densities=(0.75, 0.2, 0.5), samples=1, batch_size=1)


@controls.stage(
    "and all else is the same",
    points=2,
    exposes="All four begin with the optimiser, the learning rate, the schedule and the data of the ticket's start, and make the same number "
    "of steps: a control that differs in two things says nothing about either. BatchNorm's buffers come with the weights.",
)
def _(g):
    yield control_case(g, 8, steps=5, densities=(0.4, 0.7))
    yield control_case(g, 7, steps=5, densities=(0.4, 0.7), period=3, done=2, samples=1, batch_size=1)
    yield control_case(g, 6, steps=5, densities=(0.4, 0.7), options=MOMENTUM, done=4, samples=1, batch_size=1)
    yield control_case(g, 6, 8, steps=5, densities=(0.4, 0.6, 0.8), norm=True, options=MOMENTUM, period=4, done=3)


@controls.stage(
    "the training is left at the start",
    points=1,
    exposes="Afterwards the training is where it was, so that the next ticket can be compared; masks, noise and the given states are untouched.",
    pure=True,
)
def _(g):
    settings = {"optimizer": "Adam", "options": {"lr": 0.02}, "period": 3, "done": 2}
    yield control_case(g, 6, 5, steps=4, densities=(0.5, 0.3, 0.9), norm=True, **settings)


def mistake(name: str, says: str, **changed):
    controls.misconception(name, says)(lambda *args: compare(*args, **changed))


def only(*parts):
    class Without(Snapshot):
        def __init__(self, training):
            self.parts = parts
            super().__init__(training)

    return Without


mistake(
    "smallest noise kept",
    "You keep the weights whose noise is smallest. Keep those whose noise is largest.",
    connections=lambda masks, noise: {n: largest(-noise[n], int(mask.sum())) for n, mask in masks.items()},
)
mistake(
    "as many are dropped",
    "You count the weights that are gone, and keep so many. A random mask keeps as many as the ticket's.",
    connections=lambda masks, noise: {n: largest(noise[n], int((~mask).sum())) for n, mask in masks.items()},
)


def over_all_layers(masks, noise):
    flat = torch.cat([noise[name].flatten() for name in masks])
    kept = largest(flat, sum(int(mask.sum()) for mask in masks.values()))
    pieces = kept.split([mask.numel() for mask in masks.values()])
    return {name: piece.view_as(mask) for (name, mask), piece in zip(masks.items(), pieces, strict=True)}


mistake(
    "counted over all layers",
    "Your random masks keep as many weights in all layers together, but not in each. The ticket's shares per layer are part of what it found: "
    "keep them, or the control differs in two things.",
    connections=over_all_layers,
)
mistake(
    "the same density in each layer",
    "Your random masks have one density in all layers. Each layer keeps as many as the ticket keeps there.",
    connections=lambda masks, noise: {
        name: largest(
            noise[name],
            int(mask.numel() * sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())),
        )
        for name, mask in masks.items()
    },
)
mistake(
    "only the ticket's connections",
    "Your random mask chooses among the weights that the ticket kept, and so is the ticket's mask. All weights of the layer can be drawn.",
    connections=lambda masks, noise: masks,
)
mistake(
    "other weights too",
    "The network with other connections starts from `fresh`. It has the ticket's weights; only its connections are others.",
    changed=lambda weights, used: (weights | {"other connections": weights["other weights"]}, used),
)
mistake(
    "other connections too",
    "The network with other weights has the random masks. It has the ticket's masks; only its weights are others.",
    changed=lambda weights, used: (weights, used | {"other weights": used["other connections"]}),
)
mistake(
    "dense fine-tuning",
    "You fine-tune without masks. All four have as many weights as the ticket.",
    changed=lambda weights, used: (weights, used | {"fine-tuned": {n: torch.ones_like(m) for n, m in used["ticket"].items()}}),
)
mistake(
    "fine-tuning from the start",
    "The fine-tuned network starts from the ticket's weights, and so is the ticket. It starts from `trained`.",
    changed=lambda weights, used: ({"other weights": weights["other weights"]}, used),
)
mistake(
    "nothing rewound between them",
    "Each network goes on from where the one before ended: with its momentum, its learning rate, and for other connections with its weights.",
    between=False,
)
mistake(
    "model only",
    "Only the model is put back between the networks. Momentum, learning rate and data order are the last one's.",
    snapshot=only("model"),
)
mistake(
    "other data",
    "The networks see other batches. Rewind the order of the data: a control differs in one thing.",
    snapshot=only("model", "optimizer", "scheduler"),
)
mistake(
    "schedule goes on",
    "The controls get the learning rates of the end of the schedule. They have the ticket's schedule, the fine-tuned network too: with less "
    "it would lose for that reason alone.",
    snapshot=only("model", "order"),
)
mistake(
    "schedule not put back",
    "The scheduler goes on counting from network to network, so that the learning rate falls at other steps.",
    snapshot=only("model", "optimizer", "order"),
)
mistake(
    "momentum of another network",
    "The optimiser still has the momentum of the network before.",
    snapshot=only("model", "scheduler", "order"),
)
mistake(
    "not left at the start",
    "You leave the training at the end of the last network. It has to be at the start again.",
    back=False,
)
mistake(
    "one state dict four times",
    "All four results are the same tensors, those of the model: `state_dict()` makes no copy. Use copy.deepcopy.",
    copied=False,
)
mistake(
    "fine-tuning on top",
    "The fine-tuned network makes twice as many steps. What it had before counts for nothing here: all four make `steps` steps.",
    extra={"fine-tuned": 1},
)


def parameters_only(model, state):
    names = {name for name, _ in model.named_parameters()}
    model.load_state_dict({n: v for n, v in state.items() if n in names}, strict=False)


mistake(
    "buffers of the ticket",
    "You take the parameters of `fresh` and `trained` but not their buffers. BatchNorm's running means belong to the weights.",
    load=parameters_only,
)


def weights_only(model, state):
    model.load_state_dict({f"{n}.weight": state[f"{n}.weight"] for n in linear_layers(model)}, strict=False)


mistake(
    "weights without biases",
    "You take only the weight matrices of `fresh` and `trained`: load the whole state dict, with biases and BatchNorm.",
    load=weights_only,
)


def aliased(model, state):
    for name, parameter in model.named_parameters():
        parameter.data = state[name]
    for name, buffer in model.named_buffers():
        buffer.copy_(state[name])


mistake(
    "trains what it was given",
    "`fresh` or `trained` is changed: `parameter.data = fresh[name]` makes the model train these very tensors, and a mask applied to them "
    "stays in them. Copy the values: load_state_dict.",
    load=aliased,
)


@controls.misconception(
    "models instead of states",
    "You return copies of the model. Return their state dicts, copied: `copy.deepcopy(training.model.state_dict())`.",
)
def _(training, train, *arguments):
    ends = []

    def train_and_keep(*given):
        train(*given)
        ends.append(copy.deepcopy(training.model))

    compare(training, train_and_keep, *arguments)
    return dict(zip(KINDS, ends, strict=True))


@controls.misconception(
    "trained once more",
    "You call `train` more often than four times. Each of the four is one training; whatever keeps a diary of them counts on it.",
)
def _(training, train, masks, steps, *arguments):
    start = Snapshot(training)
    train(training, masks, steps)
    start.rewind_()
    return compare(training, train, masks, steps, *arguments)


@controls.accepts("one by one, by hand")
def _(training, train, masks, steps, fresh, trained, noise):
    start, results = Snapshot(training), {}

    def run(name, used):
        train(training, used, steps)
        results[name] = {key: value.clone() for key, value in training.model.state_dict().items()}
        start.rewind_()

    training.model.load_state_dict(trained)
    run("fine-tuned", masks)
    training.model.load_state_dict(fresh)
    run("other weights", masks)
    run("ticket", masks)
    shuffled = {}
    for layer, mask in masks.items():
        n = int(mask.sum())
        threshold = noise[layer].flatten().sort(descending=True).values[n - 1] if n else torch.inf
        shuffled[layer] = noise[layer] >= threshold
    run("other connections", shuffled)
    return results


@controls.accepts("a table, parameters copied in place")
def _(training, train, masks, steps, fresh, trained, noise):
    start = Snapshot(training)
    own = {name: value.detach().clone() for name, value in training.model.state_dict().items()}
    random = {
        n: torch.zeros_like(m).flatten().index_fill(0, noise[n].view(-1).topk(int(m.sum())).indices, True).view_as(m)
        for n, m in masks.items()
    }
    table = {
        "ticket": (own, masks),
        "other weights": (fresh, masks),
        "other connections": (own, random),
        "fine-tuned": (trained, masks),
    }
    results = {}
    for name, (weights, used) in table.items():
        start.rewind_()
        with torch.no_grad():
            for key, value in training.model.state_dict().items():
                value.copy_(weights[key])
        train(training, used, steps)
        results[name] = copy.deepcopy(training.model).state_dict()
    start.rewind_()
    return results
