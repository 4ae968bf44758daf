"""Mistakes of exercise 6.3, and the right answer that they vary."""

import torch
import torch.nn.functional as F

from autograder.checking.exercise import Mistakes
from sparsity_edu.weights import magnitude


def steps_(
    training,
    masks,
    steps,
    before=lambda training, masks: magnitude.apply_(training.model, masks),
    between=lambda training, masks: None,
    after=lambda training, masks: magnitude.apply_(training.model, masks),
    optimizer=None,
    batch=lambda training, first: training.batch(),
    zero_grad=True,
    schedule=True,
    loss=F.cross_entropy,
    training_mode=True,
):
    """Right by default; `between` comes after backward and before the optimiser's step."""
    optimizer = optimizer or training.optimizer
    if training_mode:
        training.model.train()
    before(training, masks)
    first = None
    for _ in range(steps):
        first = batch(training, first)
        inputs, labels = first
        if zero_grad:
            optimizer.zero_grad()
        loss(training.model(inputs), labels).backward()
        between(training, masks)
        optimizer.step()
        after(training, masks)
        if schedule:
            training.scheduler.step()


mistakes = Mistakes()


def mask_gradients(training, masks):
    for name, mask in masks.items():
        training.model.get_submodule(name).weight.grad.mul_(mask)


def frozen_where(zero):
    """The widely copied way to hold zeros: no gradient where the weight looks pruned."""

    def between(training, masks):
        for name, parameter in training.model.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1:
                parameter.grad = torch.where(zero(parameter.detach()), 0.0, parameter.grad)

    return between


def nothing(training, masks):
    pass


def mistake(name: str, says: str, **changed):
    mistakes(name, says)(lambda training, masks, steps: steps_(training, masks, steps, **changed))


mistake(
    "negative weights frozen",
    "You freeze whatever is below a small number, `weight < EPS`, and so every negative weight with what is gone. This line has been "
    "copied from one implementation to the next. The mask says what is gone; no value does.",
    between=frozen_where(lambda W: W < 1e-6),
)
mistake(
    "zeros frozen",
    "You freeze every weight that is (nearly) zero. A kept weight may be zero and has to train: ask the mask, not the value.",
    between=frozen_where(lambda W: W.abs() < 1e-6),
)
mistake(
    "masks forgotten",
    "The masks are not used after the first step, or never: the network is dense again. Its accuracy looks fine, so count zeros.",
    after=nothing,
)
mistake("masks never used", "You train the dense network: `masks` does nothing in your code.", before=nothing, after=nothing)
mistake(
    "gradient masked only",
    "You masked the gradients only. Momentum and Adam's moments from earlier steps, and weight decay, move the weights all the same.",
    between=mask_gradients,
    after=nothing,
)
mistake(
    "not zero in the first step",
    "You put the zeros back after each step, but the first forward pass sees the weights as they came: set them to zero before the loop too.",
    before=nothing,
)
mistake(
    "masks inverted",
    "You zero the weights where the mask is True. True = kept: zero where ~mask.",
    before=lambda t, m: magnitude.apply_(t.model, {n: ~k for n, k in m.items()}),
    after=lambda t, m: magnitude.apply_(t.model, {n: ~k for n, k in m.items()}),
)
mistake(
    "first layer only",
    "Only the first layer is masked: apply every mask. (A return inside the loop? named_children, which does not find nested layers?)",
    before=lambda t, m: magnitude.apply_(t.model, dict(list(m.items())[:1])),
    after=lambda t, m: magnitude.apply_(t.model, dict(list(m.items())[:1])),
)
mistake(
    "no schedule",
    "The scheduler never steps, so that the learning rate stays as it is: training.scheduler.step() after each step.",
    schedule=False,
)
mistake("no zero_grad", "The gradients of the step before are still there: call optimizer.zero_grad() first.", zero_grad=False)
mistake(
    "gradients deleted before the step",
    "You call zero_grad between backward and optimizer.step(), which then has nothing to step with. It comes before backward.",
    between=lambda training, masks: training.optimizer.zero_grad(),
)
mistake(
    "scheduler before the optimiser",
    "The scheduler steps before the optimiser does, so that every step has the learning rate of the next: optimizer.step() first.",
    between=lambda training, masks: training.scheduler.step(),
    schedule=False,
)
mistake(
    "zeros put back before the step",
    "You zero before optimizer.step(), which then moves what is gone once more: zero after it.",
    between=lambda training, masks: magnitude.apply_(training.model, masks),
    after=nothing,
)
mistake(
    "summed loss",
    "Your loss is a sum over the batch. F.cross_entropy averages by default; so should you.",
    loss=lambda outputs, labels: F.cross_entropy(outputs, labels, reduction="sum"),
)
mistake(
    "softmax before cross-entropy",
    "You take a softmax before F.cross_entropy, which takes one itself: give it the model's outputs as they are.",
    loss=lambda outputs, labels: F.cross_entropy(outputs.softmax(dim=1), labels),
)
mistake(
    "evaluation mode",
    "The model is still in the evaluation mode in which somebody measured its accuracy: BatchNorm neither uses the batch nor learns. "
    "Call model.train().",
    training_mode=False,
)
mistake(
    "one batch for all steps",
    "You draw one batch and use it in every step. Call training.batch() inside the loop.",
    batch=lambda training, first: first or training.batch(),
)
mistake(
    "inputs and labels of two batches",
    "You call training.batch() twice in a step, for the inputs and for the labels: they belong to different samples. It returns both.",
    batch=lambda training, first: (training.batch()[0], training.batch()[1]),
)


def random_batch(training, first):
    chosen = torch.randint(len(training.inputs), (training.batch_size,))
    return training.inputs[chosen], training.labels[chosen]


mistake(
    "own batches",
    "You draw the batches yourself. training.batch() draws them with the training's own generator, which is what makes a ticket and its "
    "controls see the same data.",
    batch=random_batch,
)


@mistakes(
    "masked at the end",
    "You zero the weights once, after all steps. In between the network trains with weights that are gone, and leans on them.",
)
def _(training, masks, steps):
    steps_(training, masks, steps, after=nothing)
    magnitude.apply_(training.model, masks)


@mistakes(
    "zero_grad at the end of a step",
    "You call zero_grad after each step. When you are called, the gradients of an earlier training may still be there: call it before backward.",
)
def _(training, masks, steps):
    def after(training, masks):
        magnitude.apply_(training.model, masks)
        training.optimizer.zero_grad()

    steps_(training, masks, steps, zero_grad=False, after=after)


@mistakes(
    "not zero after the last step",
    "You zero before each forward pass, and not after the last step: the optimiser has moved what is gone once more.",
)
def _(training, masks, steps):
    def batch(training, first):
        magnitude.apply_(training.model, masks)
        return training.batch()

    steps_(training, masks, steps, batch=batch, after=nothing)


@mistakes(
    "hooks left",
    "A hook of yours is still on the model or the optimiser when you have returned, and holds these zeros in every later training, of other "
    "connections too. Keep the handle, and handle.remove() it.",
)
def _(training, masks, steps):
    for name, mask in masks.items():
        training.model.get_submodule(name).weight.register_hook(lambda gradient, mask=mask: gradient * mask)
    steps_(training, masks, steps)


@mistakes(
    "schedule once",
    "The scheduler steps once per call. Its unit is a step of the optimiser: training.scheduler.step() inside the loop.",
)
def _(training, masks, steps):
    steps_(training, masks, steps, schedule=False)
    training.scheduler.step()


@mistakes(
    "new optimiser",
    "You make an optimiser of your own. Momentum and learning rate are part of the training: use training.optimizer.",
)
def _(training, masks, steps):
    own = torch.optim.SGD(training.model.parameters(), lr=0.1)
    steps_(training, masks, steps, optimizer=own)


@mistakes(
    "others frozen",
    "Only layers with a mask are trained. Those without one are not pruned, and train as always; so do all biases.",
)
def _(training, masks, steps):
    names = {f"{name}.weight" for name in masks}

    def between(training, masks):
        for name, parameter in training.model.named_parameters():
            if masks and name not in names:
                parameter.grad = None

    steps_(training, masks, steps, between=between)


@mistakes(
    "new parameters",
    "You put a new nn.Parameter in the layer's place, but the optimiser goes on training the old one: change the weight in place, under "
    "torch.no_grad().",
)
def _(training, masks, steps):
    def replace(training, masks):
        for name, mask in masks.items():
            layer = training.model.get_submodule(name)
            layer.weight = torch.nn.Parameter(layer.weight.detach() * mask)

    steps_(training, masks, steps, before=replace, after=replace)


@mistakes(
    "chooses again",
    "You choose the mask anew after every step, among the weights as they are then. A ticket's mask is fixed before its training begins.",
)
def _(training, masks, steps):
    def again(training, masks):
        for name, mask in masks.items():
            W = training.model.get_submodule(name).weight.detach()
            gone = W.abs().flatten().argsort()[: int((~mask).sum())]
            W.view(-1)[gone] = 0

    steps_(training, masks, steps, after=again)
