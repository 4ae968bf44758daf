"""Exercise 6.3: train what is left."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.lottery_tickets.fixtures import exactly, masks_for, training
from autograder.exercises.lottery_tickets.train_mistakes import mistakes, steps_
from autograder.inside.case import call, script
from autograder.inside.recipes import Module


def train_(training, masks, steps):
    steps_(training, masks, steps)


train = Exercise(
    "lottery_tickets.train",
    defines="train_",
    title="Train what is left",
    minutes=15,
    difficulty=2,
    hints=(
        "It is the training loop that you know, and zeros are written at two places: once before the first step, as what "
        "is gone may hold anything, and after every step of the optimiser.",
        "A small function inside that writes the zeros helps, since you need it twice: in place, under `torch.no_grad()`, "
        "and by the masks, never by the values. The scheduler is stepped after the optimiser, and the model is put into "
        "training mode first.",
        "`model.train()` and the zeros; then, `steps` times: `training.batch()`, `zero_grad`, "
        "`F.cross_entropy(model(inputs), labels).backward()`, the optimiser's `step`, the zeros, the scheduler's `step`. "
        "The zeros are `model.get_submodule(name).weight.masked_fill_(~mask, 0)` for each mask.",
    ),
    reference=train_,
    rules=Rules(tolerance=1e-5, exact_zeros=True),
    forbids=("torch.nn.utils.prune",),
    misconceptions=mistakes,
)


def train_case(g: torch.Generator, *hidden: int, steps: int, densities=(), times=1, **settings):
    recipe = training(g, *hidden, **settings)
    return call(recipe, masks_for(g, recipe, *densities) if densities else {}, steps, changes=(0,), times=times)


MOMENTUM = {"lr": 0.1, "momentum": 0.9}


@train.stage(
    "makes ordinary steps where nothing is masked",
    points=1,
    exposes="Each step draws a batch with training.batch(), and makes zero_grad, cross-entropy, backward and optimizer.step().",
)
def _(g):
    yield train_case(g, 6, steps=1)
    yield train_case(g, 6, steps=23)
    yield train_case(g, 5, steps=4, options=MOMENTUM, done=3)
    yield train_case(g, 6, 5, steps=3, optimizer="Adam", options={"lr": 0.02}, done=2)


@train.stage(
    "steps the schedule, in training mode",
    points=1,
    exposes="After every step of the optimiser comes one of the scheduler; and model.train() first, as whoever measured the accuracy has "
    "left the model in evaluation mode, where BatchNorm does not learn.",
)
def _(g):
    yield train_case(g, 6, steps=7, options=MOMENTUM, period=3)
    yield train_case(g, 6, steps=5, period=2, factor=0.2, done=3, times=2)
    yield train_case(g, 5, 6, steps=3, norm=True, evaluating=True, done=2)


@train.stage(
    "what is gone is zero, in every step and with any optimiser",
    points=2,
    exposes="Masked weights are exactly zero in every forward pass, from the first one on, and after the last step: momentum, Adam's moments "
    "and weight decay move them all the same, so they are put back after each step. The masks stay as they are.",
    pure=True,
)
def _(g):
    yield train_case(g, 6, steps=1, densities=(0.5, 0.6))
    yield train_case(g, 8, steps=4, densities=(0.3, 0.5), options=MOMENTUM, done=4, period=5)
    yield train_case(g, 6, 5, steps=3, densities=(0.4, 0.6, 0.7), optimizer="AdamW", options={"lr": 0.02}, done=3)
    weight_decay = {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.1}
    yield train_case(g, 6, 5, steps=3, densities=(0.5, None, 0.5), options=weight_decay, done=2, times=2, norm=True)


@train.stage(
    "the masks say what is gone, and all else trains",
    points=1,
    exposes="Kept weights train whatever their value: negative ones, small ones, and those that are exactly zero. So do biases and "
    "layers without a mask; and if the training goes on without masks later, all weights do: nothing of yours, such as a hook, is left.",
)
def _(g):
    yield train_case(g, 7, 6, steps=3, densities=(None, 0.5, None), options=MOMENTUM, done=2)
    for kind, options in (("SGD", MOMENTUM), ("Adam", {"lr": 0.02})):
        recipe = training(g, 8, optimizer=kind, options=options)
        masks = masks_for(g, recipe, 0.5, 0.6)
        first = recipe.model.arguments[0].state["weight"]
        first[masks["0"] & (torch.rand(first.shape, generator=g) < 0.3)] = 0.0
        first *= masks["0"]
        yield call(recipe, masks, 4, changes=(0,))
    recipe = training(g, 6, kernels=True, options=MOMENTUM)
    yield call(recipe, {"1": exactly(g, 2, 1, 1, 3)} | masks_for(g, recipe, 0.5, None), 3, changes=(0,))
    recipe = training(g, 7)  # the last layer has the shape of the first, and its name ends in that of the first
    square = Module("Linear", (7, 7), {"weight": torch.randn(7, 7, generator=g) / 3, "bias": torch.randn(7, generator=g)})
    twin = Module("Linear", (7, 7), {"weight": torch.randn(7, 7, generator=g) / 3, "bias": torch.randn(7, generator=g)})
    model = Module("Sequential", (square, Module("ReLU"), Module("Sequential", (twin,))))
    yield call(replace(recipe, model=model), {"0": exactly(g, 25, 7, 7)}, 2, changes=(0,))
    recipe = training(g, 6, 5)
    yield script(recipe, masks_for(g, recipe, 0.5, 0.4, 0.6), 2, calls=[(0, 2)])


@train.accepts("the authors' code: multiplied before every forward pass")
def _(training, masks, steps):
    def apply_mask():
        for name, param in training.model.named_parameters():
            if name.removesuffix(".weight") in masks:
                param.data *= masks[name.removesuffix(".weight")]

    training.model.train()
    apply_mask()
    for _ in range(steps):
        examples, labels = training.batch()
        training.optimizer.zero_grad()
        apply_mask()
        loss = torch.nn.CrossEntropyLoss()(training.model(examples), labels)
        loss.backward()
        training.optimizer.step()
        training.scheduler.step()
    apply_mask()


@train.accepts("gradients and weights, through the state dict")
def _(training, masks, steps):
    def zero():
        state = training.model.state_dict()
        training.model.load_state_dict(
            state | {f"{n}.weight": state[f"{n}.weight"].masked_fill(~m, 0) for n, m in masks.items()}
        )

    for module in training.model.modules():
        module.train()
    zero()
    for _ in range(steps):
        x, y = training.batch()
        loss = -F.log_softmax(training.model(x), dim=1).gather(1, y[:, None]).mean()
        for parameter, gradient in zip(
            training.model.parameters(), torch.autograd.grad(loss, list(training.model.parameters())), strict=True
        ):
            parameter.grad = gradient
        for name, mask in masks.items():
            training.model.get_submodule(name).weight.grad *= mask
        training.optimizer.step()
        zero()
        training.scheduler.step()


@train.accepts("a hook of the optimiser")
def _(training, masks, steps):
    layers = dict(training.model.named_modules())

    @torch.no_grad()
    def hold(*_):
        for name, mask in masks.items():
            layers[name].weight.copy_(torch.where(mask, layers[name].weight, 0.0))

    training.model.train(True)
    hold()
    handle = training.optimizer.register_step_post_hook(hold)
    for _ in range(steps):
        inputs, labels = training.batch()
        training.model.zero_grad()
        F.nll_loss(F.log_softmax(training.model(inputs), dim=-1), labels).backward()
        training.optimizer.step()
        training.scheduler.step()
    handle.remove()
