"""Exercise 13.3: the weighted loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.deja_vu.fixtures import normal
from autograder.exercises.deja_vu.loss_mistakes import mistakes
from autograder.inside.case import Case, call


def reference(logits: Tensor, labels: Tensor, extra: float = 0.005) -> Tensor:
    """log(1 + exp(-z)) of the needed, log(1 + exp(z)) of the others, in float64."""
    z, count = logits.double(), labels.numel()
    w = int(labels.sum()) / count + extra
    zero = torch.zeros_like(z)
    missed, wrong = torch.logaddexp(zero, -z), torch.logaddexp(zero, z)
    return (torch.where(labels, missed, w * wrong).sum() / count).to(logits.dtype)


loss = Exercise(
    "deja_vu.loss",
    defines="weighted_loss",
    title="The weighted loss",
    minutes=10,
    difficulty=2,
    hints=(
        "It is binary cross entropy of each unit with a weight for each: exactly 1 where the label is True, and the same w "
        "everywhere else.",
        "Make numbers of the labels; their mean over everything, plus extra, is w. torch has binary cross entropy that takes "
        "logits, which stays exact for large ones, and a weight for each entry.",
        "`y = labels.to(logits.dtype)`; `w = y.mean() + extra`; `F.binary_cross_entropy_with_logits(logits, y, weight=y * (1 "
        "- w) + w)`.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


def case(
    g: torch.Generator, tokens: int, units: int, needed: float, *extra: float, spread=2.0, dtype=torch.float32, **more
) -> Case:
    """Some tokens and some units need more than others."""
    lean = normal(g, tokens, 1, size=0.8) + torch.linspace(-1.5, 1.5, units)[torch.randperm(units, generator=g)]
    lean = lean + normal(g, tokens, units)
    labels = lean > lean.quantile(1 - needed)
    logits = (spread * (normal(g, tokens, units) + labels.float() - 0.5)).to(dtype)
    return call(logits, labels, *extra, **more)


@loss.stage(
    "weighs what is not needed less",
    points=1,
    exposes="A needed unit weighs 1, any other w: the share of needed ones over all tokens and units, plus extra. The loss "
    "is the mean.",
)
def _(g):
    yield case(g, 6, 5, 0.3, 0.0)
    yield case(g, 9, 14, 0.1, 0.0)
    yield case(g, 200, 7, 0.2, 0.0)
    yield case(g, 4, 300, 0.6, 0.0)
    yield case(g, 1, 11, 0.3, 0.0)


@loss.stage(
    "with something extra",
    points=1,
    exposes="extra is added to the weight of units that are not needed, and to nothing else. It is 0.005 if nothing is said.",
)
def _(g):
    yield case(g, 8, 6, 0.25)
    yield case(g, 20, 9, 0.05, 0.02)
    yield case(g, 5, 12, 0.4, 0.3)
    yield case(g, 6, 7, 0.3, 0.9)  # a weight above 1
    yield call(normal(g, 7, 5), torch.zeros(7, 5, dtype=torch.bool), 0.03)  # none is needed
    yield call(normal(g, 4, 6), torch.ones(4, 6, dtype=torch.bool))
    yield case(g, 7, 8, 0.2, 0.01, dtype=torch.float64)


@loss.stage(
    "sure predictors",
    points=1,
    exposes="Logits may be large, either way: a sure mistake costs as much as its logit says.",
)
def _(g):
    yield case(g, 9, 7, 0.3, spread=150.0)
    labels = torch.rand(6, 8, generator=g) < 0.4
    labels[0, 0], labels[0, 1] = True, False
    yield call(torch.where(labels, -400.0, 400.0) + normal(g, 6, 8), labels, 0.01)


@loss.stage(
    "a gradient reaches the logits",
    points=1,
    exposes="The predictor learns through this, from sure mistakes most of all. The arguments stay as they are.",
    pure=True,
)
def _(g):
    yield case(g, 6, 9, 0.2, gradients=(0,))
    yield case(g, 5, 7, 0.3, 0.1, gradients=(0,), spread=100.0)


@loss.accepts("the authors' weights, by hand")
def _(logits, labels, extra=0.005):
    y = labels.type(logits.dtype)
    weight = y.float().mean() + extra
    weight = y * (1 - weight) + weight
    return F.binary_cross_entropy_with_logits(logits, y, weight=weight.to(logits.dtype))


@loss.accepts("two sums of softplus")
def _(logits, labels, extra=0.005):
    w = labels.double().mean().item() + extra
    needed, others = logits[labels], logits[~labels]
    return (F.softplus(-needed).sum() + w * F.softplus(others).sum()) / labels.numel()


@loss.accepts("log-sigmoid")
def _(logits, labels, extra=0.005):
    w = labels.sum() / labels.numel() + extra
    weights = torch.where(labels, torch.ones_like(logits), w)
    return -(weights * F.logsigmoid(torch.where(labels, logits, -logits))).mean()


@loss.accepts("pos_weight, times w")
def _(logits, labels, extra=0.005):
    w = labels.sum().item() / labels.numel() + extra
    plain = F.binary_cross_entropy_with_logits(logits, labels.to(logits), pos_weight=torch.tensor(1 / w, dtype=logits.dtype))
    return w * plain
