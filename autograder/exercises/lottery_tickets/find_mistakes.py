"""Mistakes of exercise 6.5, and the right answer that they vary."""

import copy

import torch
from torch import nn

from autograder.checking.exercise import Mistakes
from autograder.exercises.lottery_tickets.drop_global_mistakes import drop_smallest_of_all, joint, left_in
from autograder.exercises.lottery_tickets.fixtures import Snapshot, linear_layers


def search(
    training,
    train,
    steps,
    levels,
    p=0.2,
    rewind=0,
    skip=(),
    snapshot=Snapshot,
    layers=linear_layers,
    choose=drop_smallest_of_all,
    first=True,
    last=True,
    rest=None,
    masks_before=lambda masks: masks,
    weights_of=lambda training, layers: {name: layer.weight.detach().clone() for name, layer in layers.items()},
    back=True,
):
    """`find_tickets` with its parts exchangeable, for mistakes in one part."""
    found = layers(training.model)
    masks = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in found.items()}
    if first:
        train(training, masks, rewind)
    start, tickets = snapshot(training), [masks]
    for level in range(levels + 1):
        if level:
            masks = choose(weights_of(training, found), masks_before(masks), p, skip)
            tickets.append(masks)
            start.rewind_()
        if level < levels or last:
            train(training, masks, steps - rewind if rest is None else rest(steps, rewind))
    if back:
        start.rewind_()
    return tickets


def find_tickets(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    return search(training, train, steps, levels, p, rewind, skip)


mistakes = Mistakes()


def mistake(name: str, says: str, **changed):
    def wrong(*args, **kwargs):
        return search(*args, **kwargs, **changed)

    mistakes(name, says)(wrong)


mistake(
    "no subclasses",
    "`type(layer) is nn.Linear` overlooks layers of a subclass, which are linear layers too: ask `isinstance(layer, nn.Linear)`.",
    layers=lambda model: {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear},
)


class Without(Snapshot):
    """Rewinds some parts only."""

    def __init__(self, training, *parts):
        self.parts = parts
        super().__init__(training)


def only(*parts):
    return lambda training: Without(training, *parts)


class FreshMomentum(Snapshot):
    def put_optimizer(self, optimizer, kept):
        optimizer.load_state_dict({**copy.deepcopy(kept), "state": {}})


mistake(
    "not rewound",
    "Nothing is rewound: each level trains on from where the last one ended. That is iterative pruning with fine-tuning (unit 02), a good "
    "method, but it finds no ticket.",
    snapshot=only(),
    back=False,
)
mistake(
    "trained weights kept",
    "Optimiser, schedule and data go back, but the weights do not: each level begins with trained weights, which is fine-tuning. "
    "(Did you keep `model.state_dict()` without a copy? It is trained in place.)",
    snapshot=only("optimizer", "scheduler", "order"),
)
mistake(
    "model only",
    "You rewind the model alone. Momentum, learning rate and data order go back to the start too.",
    snapshot=only("model"),
)
mistake(
    "data order not rewound",
    "Every level sees other batches than the dense network did. Rewind the generator: your Snapshot does.",
    snapshot=only("model", "optimizer", "scheduler"),
)
mistake(
    "schedule not rewound",
    "The schedule is not rewound, and so the learning rate falls at other steps than for the dense network.",
    snapshot=only("model", "optimizer", "order"),
)
mistake(
    "optimiser not rewound",
    "The optimiser still has the momentum and the learning rate of the end.",
    snapshot=only("model", "scheduler", "order"),
)
mistake(
    "momentum thrown away",
    "You begin each level with an empty optimiser. With rewind = 0 that is right; at step k there is momentum already, and it is part of the "
    "start.",
    snapshot=FreshMomentum,
)
mistake(
    "left trained",
    "You leave the training at the end of the last level. It has to be at the start again, where the tickets are.",
    back=False,
)
mistake("last ticket not trained", "The last ticket is not trained. It is the one that one wants to know about.", last=False)
mistake(
    "no steps before rewinding",
    "With rewind = k the start is after k steps of the dense network. You take the snapshot before them.",
    first=False,
)
mistake(
    "too many steps",
    "Each level trains all `steps` from step k on. A ticket at step k has k steps behind it: steps - rewind are left.",
    rest=lambda steps, rewind: steps,
)
mistake(
    "masks forgotten between levels",
    "Each level chooses among all weights again, so that what was gone may come back and the number that is left does not fall. A level drops "
    "from what the level before left.",
    masks_before=lambda masks: {name: torch.ones_like(mask) for name, mask in masks.items()},
)
mistake(
    "layer by layer",
    "Every layer loses its own share p. Here all layers share one ranking: use drop_smallest_of_all.",
    choose=lambda weights, masks, p, skip: {
        name: masks[name] if name in skip else drop_smallest_of_all({name: W}, {name: masks[name]}, p)[name]
        for name, W in weights.items()
    },
)
mistake(
    "fraction of the original",
    "You drop the fraction p of the *original* weights at each level. It is p of what the level before left.",
    choose=lambda weights, masks, p, skip: joint(
        weights,
        masks,
        min(int(p * sum(W.numel() for n, W in weights.items() if n not in skip)), left_in(masks, skip)),
        skip,
    ),
)
mistake(
    "counted in float32",
    "A sum of masks is a tensor, and p times it is in float32, which makes 29 of 0.29 x 100, where int(0.29 * 100) is 28. Make n a Python "
    "number first.",
    choose=lambda weights, masks, p, skip: joint(weights, masks, int(p * torch.tensor(left_in(masks, skip))), skip),
)
mistake(
    "skip ignored", "Layers in `skip` are pruned like all others.", choose=lambda w, m, p, skip: drop_smallest_of_all(w, m, p)
)
mistake(
    "top level only",
    "You prune the model's direct children only. Layers may be nested: `model.named_modules()` finds them all.",
    layers=lambda model: {name: layer for name, layer in model.named_children() if isinstance(layer, nn.Linear)},
)
mistake(
    "signed",
    "You rank the weights themselves, not their magnitudes.",
    choose=lambda weights, masks, p, skip: joint(weights, masks, int(p * left_in(masks, skip)), skip, score=lambda n, W: W),
)


@mistakes(
    "rewinds before choosing",
    "You rewind first and choose the masks then: from the weights of the start, not from the trained ones. Which weights matter is what the "
    "training was for. (`weight.detach()` is no copy: taken before, it is rewound with the model.)",
)
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    layers = linear_layers(training.model)
    masks = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers.items()}
    train(training, masks, rewind)
    start, tickets = Snapshot(training), [masks]
    for level in range(levels + 1):
        train(training, masks, steps - rewind)
        start.rewind_()
        if level < levels:
            masks = drop_smallest_of_all({n: layer.weight.detach() for n, layer in layers.items()}, masks, p, skip)
            tickets.append(masks)
    return tickets


@mistakes(
    "masks of the dense network",
    "All levels choose from the weights of the dense network. Each level ranks the weights to which the ticket before it was trained.",
)
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    dense = []

    def weights_of(training, layers):
        if not dense:
            dense.append({name: layer.weight.detach().clone() for name, layer in layers.items()})
        return dense[0]

    return search(training, train, steps, levels, p, rewind, skip, weights_of=weights_of)


@mistakes(
    "one count for all levels so far",
    "You count what level i has dropped in all, 1 - (1 - p)^i of the original, and round once. Each level drops int(p * n) of the n that the "
    "level before left, which is not always the same number.",
)
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    level = iter(range(1, levels + 1))

    def choose(weights, masks, p, skip):
        n = sum(W.numel() for name, W in weights.items() if name not in skip)
        return joint(weights, masks, int((1 - (1 - p) ** next(level)) * n + 1e-9) - (n - left_in(masks, skip)), skip)

    return search(training, train, steps, levels, p, rewind, skip, choose=choose)


@mistakes(
    "one shot",
    "You drop everything at once, after the dense training. Iterative pruning trains each ticket before it drops more.",
)
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    if levels == 0:
        return find_tickets(training, train, steps, 0, p, rewind, skip)
    first, last = find_tickets(training, train, steps, 1, 1 - (1 - p) ** levels, rewind, skip)
    return [first, last]


@mistakes("dense level missing", "Level 0, the dense network with its full masks, is missing from the list: levels + 1 in all.")
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    return find_tickets(training, train, steps, levels, p, rewind, skip)[1:]


@mistakes("last masks only", "You return the masks of the last level. Return the list of all levels, level 0 first.")
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    return find_tickets(training, train, steps, levels, p, rewind, skip)[-1]


@mistakes(
    "one dict for all levels",
    "All entries of your list are one and the same dict, which you changed from level to level. Make a new dict for each level.",
)
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    tickets = find_tickets(training, train, steps, levels, p, rewind, skip)
    return [tickets[-1]] * len(tickets)


@mistakes(
    "trained without masks",
    "You train the tickets with full masks. What is gone must stay zero in training: train(training, masks, ...).",
)
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    def dense(training, masks, steps):
        train(training, {name: torch.ones_like(mask) for name, mask in masks.items()}, steps)

    return search(training, dense, steps, levels, p, rewind, skip)
