"""Exercise 6.5: find the tickets."""

import copy

import torch
from torch import nn

from autograder.checking.exercise import Exercise
from autograder.exercises.lottery_tickets.drop_global import drop_smallest_of_all, joint, left_in
from autograder.exercises.lottery_tickets.fixtures import linear_layers, training
from autograder.exercises.lottery_tickets.snapshot import Snapshot
from autograder.inside.case import call
from autograder.inside.recipes import Train


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


find = Exercise(
    "lottery_tickets.find",
    defines="find_tickets",
    title="Find the tickets",
    minutes=20,
    difficulty=3,
    hint="`train(training, full masks, rewind)`, then `start = Snapshot(training)`. One loop over levels + 1: train with the masks of the level, "
    "choose the next masks from the weights as they are now, and only then `start.rewind_()`. The dense network is level 0.",
    reference=find_tickets,
    forbids=("torch.nn.utils.prune",),
)

MOMENTUM = {"lr": 0.08, "momentum": 0.9}


def find_case(g: torch.Generator, *hidden: int, steps: int, levels: int, settings=None, **options):
    return call(training(g, *hidden, **(settings or {})), Train(), steps, levels, changes=(0, 1), **options)


@find.stage(
    "one level: train, choose, rewind, train the ticket",
    points=2,
    exposes="train(training, full masks, steps); masks from the *trained* weights; everything back to the start; train(training, masks, "
    "steps). The result is the list of both masks, and the training is left at the start.",
)
def _(g):
    yield find_case(g, 8, steps=5, levels=1, p=0.4)
    yield find_case(g, 6, 5, steps=8, levels=1, p=0.3, settings={"options": MOMENTUM, "period": 5})


@find.stage(
    "level by level",
    points=2,
    exposes="Each level drops the fraction p of what the level before left, ranked by the weights to which *that* ticket was trained. Every "
    "ticket is trained from the start, the last one too.",
)
def _(g):
    yield find_case(g, 7, steps=5, levels=3, p=0.4)
    yield find_case(g, 7, 6, steps=4, levels=2, settings={"options": MOMENTUM, "done": 3, "period": 3, "norm": True})


@find.stage(
    "rewinds to step k",
    points=2,
    exposes="With rewind = k the dense network makes k steps once, and there is the start of all levels: each then trains steps - k "
    "steps, from the weights, the momentum, the learning rate and the data of step k.",
)
def _(g):
    yield find_case(g, 8, steps=5, levels=2, p=0.4, rewind=2)
    yield find_case(g, 6, 7, steps=7, levels=2, p=0.3, rewind=3, settings={"options": MOMENTUM, "period": 3, "norm": True})


@find.stage(
    "leaves layers out",
    points=1,
    exposes="Layers in `skip` keep a full mask, and are trained and rewound as all others; with levels = 0 only the dense network is trained.",
)
def _(g):
    yield find_case(g, 8, steps=5, levels=2, p=0.4, skip=("2.0",))
    yield find_case(g, 7, 6, steps=4, levels=2, p=0.45, rewind=1, skip=("2.2",), settings={"options": MOMENTUM})
    yield find_case(g, 6, steps=4, levels=0, rewind=1)


def mistake(name: str, says: str, **changed):
    def wrong(*args, **kwargs):
        return search(*args, **kwargs, **changed)

    find.misconception(name, says)(wrong)


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


@find.misconception(
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


@find.misconception(
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


@find.misconception(
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


@find.misconception(
    "one shot",
    "You drop everything at once, after the dense training. Iterative pruning trains each ticket before it drops more.",
)
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    if levels == 0:
        return find_tickets(training, train, steps, 0, p, rewind, skip)
    first, last = find_tickets(training, train, steps, 1, 1 - (1 - p) ** levels, rewind, skip)
    return [first, last]


@find.misconception(
    "dense level missing", "Level 0, the dense network with its full masks, is missing from the list: levels + 1 in all."
)
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    return find_tickets(training, train, steps, levels, p, rewind, skip)[1:]


@find.misconception("last masks only", "You return the masks of the last level. Return the list of all levels, level 0 first.")
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    return find_tickets(training, train, steps, levels, p, rewind, skip)[-1]


@find.misconception(
    "one dict for all levels",
    "All entries of your list are one and the same dict, which you changed from level to level. Make a new dict for each level.",
)
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    tickets = find_tickets(training, train, steps, levels, p, rewind, skip)
    return [tickets[-1]] * len(tickets)


@find.misconception(
    "trained without masks",
    "You train the tickets with full masks. What is gone must stay zero in training: train(training, masks, ...).",
)
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    def dense(training, masks, steps):
        train(training, {name: torch.ones_like(mask) for name, mask in masks.items()}, steps)

    return search(training, dense, steps, levels, p, rewind, skip)


@find.accepts("recursion over the levels, everything kept by hand")
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    named = [(n, m) for n, m in training.model.named_modules() if type(m) is nn.Linear]
    full = {n: m.weight == m.weight for n, m in named}
    if rewind:
        train(training, full, rewind)
    parts = (training.model, training.optimizer, training.scheduler)
    kept = copy.deepcopy([part.state_dict() for part in parts])
    order = training.order.get_state()

    def go_back():
        for part, state in zip(parts, copy.deepcopy(kept), strict=True):
            part.load_state_dict(state)
        training.order.set_state(order)

    def level(masks, more):
        train(training, masks=masks, steps=steps - rewind)
        sizes = {n: m.weight.detach().abs().clone() for n, m in named}
        go_back()
        if not more:
            return [masks]
        left = torch.cat([sizes[n][masks[n]] for n in sizes if n not in skip]).sort().values
        threshold = left[int(p * len(left))]
        new = {n: masks[n] & ((sizes[n] >= threshold) if n not in skip else True) for n in sizes}
        return [masks, *level(new, more - 1)]

    return level(full, levels)


@find.accepts("a loop that rewinds first thing, weights zeroed by hand")
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    layers = {n: m for n, m in training.model.named_modules() if isinstance(m, nn.Linear)}
    tickets = [{n: torch.ones(m.weight.shape).bool() for n, m in layers.items()}]
    if rewind > 0:
        train(training, tickets[0], rewind)
    start = Snapshot(training)
    for i in range(levels + 1):
        start.rewind_()
        for n, m in layers.items():
            m.weight.data.mul_(tickets[i][n])
        train(training, tickets[i], steps - rewind)
        if i < levels:
            trained = {n: m.weight.detach() * tickets[i][n] for n, m in layers.items()}
            tickets += [drop_smallest_of_all(trained, tickets[i], p, skip)]
    start.rewind_()
    return tuple(tickets)
