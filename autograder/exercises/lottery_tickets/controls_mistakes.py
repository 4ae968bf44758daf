"""Mistakes of exercise 6.6, and the right answer that they vary."""

import copy

import torch

from autograder.checking.exercise import Mistakes
from autograder.exercises.lottery_tickets.fixtures import Snapshot, linear_layers

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


mistakes = Mistakes()


def mistake(name: str, says: str, **changed):
    mistakes(name, says)(lambda *args: compare(*args, **changed))


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


@mistakes(
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


@mistakes(
    "trained once more",
    "You call `train` more often than four times. Each of the four is one training; whatever keeps a diary of them counts on it.",
)
def _(training, train, masks, steps, *arguments):
    start = Snapshot(training)
    train(training, masks, steps)
    start.rewind_()
    return compare(training, train, masks, steps, *arguments)
