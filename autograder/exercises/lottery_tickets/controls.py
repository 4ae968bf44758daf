"""Exercise 6.6: does the ticket win?"""

import copy

import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.lottery_tickets.controls_mistakes import compare, mistakes
from autograder.exercises.lottery_tickets.fixtures import Snapshot, exactly, masks_for, network, training
from autograder.inside.case import call, script
from autograder.inside.recipes import Train


def train_controls(training, train, masks, steps, fresh, trained, noise):
    return compare(training, train, masks, steps, fresh, trained, noise)


controls = Exercise(
    "lottery_tickets.controls",
    defines="train_controls",
    title="Does the ticket win?",
    minutes=15,
    difficulty=3,
    hints=(
        "Take a snapshot of where the training is. Then do the same thing four times: begin at the snapshot, perhaps put "
        "other weights in, train under some masks, keep a copy of the result.",
        "Only the model's weights and the masks differ: `fresh` and `trained` go in with `load_state_dict`, after "
        "rewinding, so that optimiser, schedule and order are the snapshot's. A random mask is made layer by layer, with "
        "as many True as the ticket's mask has, where the noise is largest.",
        "Make a dict from each of the four names to its state (or None) and its masks. For each: load the state, if there "
        "is one; `train(training, masks, steps)`; keep `copy.deepcopy(training.model.state_dict())`; `start.rewind_()`. "
        "The random mask of a layer is True at `noise.flatten().topk(int(mask.sum())).indices`, in the mask's shape.",
    ),
    reference=train_controls,
    forbids=("torch.nn.utils.prune",),
    misconceptions=mistakes,
)

MOMENTUM = {"lr": 0.08, "momentum": 0.9}


def control_case(g: torch.Generator, *hidden: int, steps: int, densities, norm=False, kept=None, then=0, **settings):
    """With `kept`, so many weights of the first layer; with `then`, so many steps of the training afterwards."""
    recipe = training(g, *hidden, norm=norm, **settings)
    masks = masks_for(g, recipe, *densities)
    if kept is not None:
        masks["0"] = exactly(g, kept, *masks["0"].shape)
    fresh, trained = (network(g, *hidden, norm=norm).build([]) for _ in range(2))
    if norm:
        for model in (fresh, trained):
            model[1].running_mean.copy_(torch.randn(hidden[0], generator=g))
    states = ({name: value.clone() for name, value in reversed(model.state_dict().items())} for model in (fresh, trained))
    noise = {name: torch.randn(mask.shape, generator=g) for name, mask in masks.items()}
    if then:
        return script(recipe, Train(detailed=False), masks, steps, *states, noise, calls=[(0, then)])
    return call(recipe, Train(detailed=False), masks, steps, *states, noise, changes=(0, 1))


def miscounted(g: torch.Generator, size: int) -> int:
    """How many of so many are kept, so that their share, times the size and rounded down, is not as many."""
    shares = [(n, n / size) for n in range(1, size)]
    missed = [n for n, share in shares if int(share * size) < n and int(torch.tensor(share) * size) < n]
    return missed[int(torch.randint(len(missed), (), generator=g))]


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
    for by, of in (
        (0, 0.5),
        (1, 0.0),
        (2, None),
    ):  # a number that its share times the size misses; none; a layer without a mask
        kept = (miscounted(g, 7 * 14), 12, 40)[by]
        yield control_case(g, 14, steps=2, densities=(0.5, of), kept=kept, samples=1, batch_size=1)


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
    yield control_case(g, 5, steps=2, densities=(0.5, 0.7), options=MOMENTUM, period=3, done=2, then=3)


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
        n: torch.zeros_like(m).flatten().index_fill(0, noise[n].reshape(-1).topk(int(m.sum())).indices, True).view_as(m)
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
