"""Exercise 6.5: find the tickets."""

import copy

import torch
from torch import nn

from autograder.checking.exercise import Exercise
from autograder.exercises.lottery_tickets.drop_global_mistakes import drop_smallest_of_all
from autograder.exercises.lottery_tickets.find_mistakes import find_tickets, mistakes
from autograder.exercises.lottery_tickets.fixtures import CLASSES, Snapshot, pairs_apart, training
from autograder.inside.case import call, script
from autograder.inside.recipes import Train

find = Exercise(
    "lottery_tickets.find",
    defines="find_tickets",
    title="Find the tickets",
    minutes=20,
    difficulty=3,
    hints=(
        "Train, choose the next masks by the trained weights, rewind; again and again. The order of the last two matters: "
        "after rewinding, the trained weights are gone.",
        "First the dense network makes `rewind` steps, and then you take your `Snapshot`: all levels start there. There "
        "are levels + 1 trainings of `steps - rewind` steps, but only `levels` new masks: nothing is chosen after the "
        "last one.",
        "`train(training, full, rewind)` with masks that are all True, `start = Snapshot(training)`, `tickets = [full]`. "
        "For `level in range(levels + 1)`: train under `tickets[level]`; if `level < levels`, append what "
        "`drop_smallest_of_all` makes of the weights as they are now and of these masks; then `start.rewind_()`.",
    ),
    reference=find_tickets,
    forbids=("torch.nn.utils.prune",),
    misconceptions=mistakes,
)

MOMENTUM = {"lr": 0.08, "momentum": 0.9}


def find_case(g: torch.Generator, *hidden: int, steps: int, levels: int, settings=None, **options):
    return call(training(g, *hidden, **(settings or {})), Train(), steps, levels, changes=(0, 1), **options)


def miscounted(g: torch.Generator) -> tuple[int, float]:
    """Hidden units, and a fraction of the last layer's weights that is one more where it is counted in float32."""
    pairs = [(hidden, p) for hidden in range(8, 40) for _, p in pairs_apart(CLASSES * hidden, 1)]
    return pairs[int(torch.randint(len(pairs), (), generator=g))]


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
    yield find_case(g, 12, steps=6, levels=3, p=0.4)
    yield find_case(g, 7, 6, steps=4, levels=2, settings={"options": MOMENTUM, "done": 3, "period": 3, "norm": True})


@find.stage(
    "rewinds to step k",
    points=2,
    exposes="With rewind = k the dense network makes k steps once, and there is the start of all levels: each then trains steps - k "
    "steps, from the weights, the momentum, the learning rate and the data of step k.",
)
def _(g):
    yield find_case(g, 12, steps=8, levels=2, p=0.4, rewind=2)
    yield find_case(g, 6, 7, steps=7, levels=2, p=0.3, rewind=3, settings={"options": MOMENTUM, "period": 3, "norm": True})


@find.stage(
    "leaves layers out",
    points=1,
    exposes="Layers in `skip` keep a full mask, and are trained and rewound as all others; with levels = 0 only the dense network is trained.",
)
def _(g):
    yield find_case(g, 16, steps=8, levels=2, p=0.4, skip=("2.0",))
    yield find_case(g, 7, 6, steps=4, levels=2, p=0.45, rewind=1, skip=("2.2",), settings={"options": MOMENTUM})
    yield find_case(g, 6, steps=4, levels=0, rewind=1)
    hidden, p = miscounted(g)
    yield find_case(g, hidden, steps=3, levels=1, p=p, skip=("0",))
    recipe = training(g, 6, kernels=True, options=MOMENTUM, period=3)
    yield call(recipe, Train(), 3, 1, 0.4, 1, ["5.0"], changes=(0, 1))  # the convolution is no nn.Linear
    # trained on afterwards: momentum and schedule are those of the start as well
    yield script(training(g, 6, options=MOMENTUM, period=3, done=2), Train(), 4, 1, calls=[(0, 3)], rewind=1)


@find.accepts("recursion over the levels, everything kept by hand")
def _(training, train, steps, levels, p=0.2, rewind=0, skip=()):
    named = [(n, m) for n, m in training.model.named_modules() if isinstance(m, nn.Linear)]
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
