"""Exercise 3.2: Optimal Brain Damage."""

import math

import numpy as np
import torch

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.optimal_brain.damage_mistakes import mistakes
from autograder.exercises.optimal_brain.fixtures import redraw, weights
from autograder.inside.case import call
from sparsity_edu.weights import optimal_brain


def obd_prune(w, h, count=None, max_increase=None):
    if (h < 0).any():
        raise ValueError("h must not be negative")
    within = optimal_brain.damage_saliency(w, h).sort().values.cumsum(0) <= (math.inf if max_increase is None else max_increase)
    return optimal_brain.damage(w, h, min(int(within.sum()), len(w) if count is None else count))


damage = Exercise(
    "optimal_brain.damage",
    defines="obd_prune",
    title="Optimal Brain Damage",
    minutes=10,
    difficulty=1,
    hints=(
        "Saliencies simply add up, so the cheapest weights to delete are those of smallest saliency. Sort once; what is "
        "left to find is how many of the sorted ones go.",
        "Each limit allows a number of its own, and the smallest of these counts: all d weights; `count`, if it is given; "
        "and what fits under `max_increase`, for which you need the running sum (`cumsum`) of the *sorted* saliencies. A "
        "limit may be 0: ask `is not None`.",
        "`saliency = h * w.square() / 2`, `order = saliency.argsort()`. What fits is the number of True in "
        "`saliency[order].cumsum(0) <= max_increase`. On a clone of w, `order[:k]` becomes zero. And first of all: a "
        "ValueError if an entry of h is negative.",
    ),
    reference=obd_prune,
    rules=Rules(tolerance=0),
    misconceptions=mistakes,
)


def weights_and_curvature(g: torch.Generator, d: int, gone: tuple[int, ...] = ()):
    """Large weights tend to lie where the curvature is small, so that neither magnitude nor curvature alone decides."""
    w = weights(g, d, gone)
    h = (torch.rand(d, generator=g) + 0.1).double() / w.abs().clamp(min=0.3) ** 2.5
    return w, h


def budget(w, h, count: int) -> float:
    """A rise of the loss that pays for `count` removals and half of the next."""
    cost = optimal_brain.damage_saliency(w, h).sort().values.cumsum(0)
    return float(cost[count - 1] + cost[count]) / 2 if count else float(cost[0]) / 2


@damage.stage(
    "deletes the weights of smallest saliency",
    points=1,
    exposes="The saliency is 1/2 h_qq w_q^2: a large weight may go where the loss is flat. The deleted weights are 0, the others stay as "
    "they are.",
)
def _(g):
    yield call(*weights_and_curvature(g, 8), count=3)
    yield call(*weights_and_curvature(g, 31), count=12)
    yield call(*weights_and_curvature(g, 40), count=33)
    yield call(*weights_and_curvature(g, 1500), count=700)
    w, h = weights_and_curvature(g, 40)
    yield call(1e-12 * w, h, 21)  # no saliency is too small to count
    w[30], h[30] = w[5], h[5] * (1 - 1e-10)  # the two are the same in float32
    yield call(w, h, count=int((h * w**2 <= h[30] * w[30] ** 2).sum()))


@damage.stage(
    "stops when the loss would rise too much",
    points=1,
    exposes="The saliencies of all deleted weights together, 1/2 h w^2 each, must not exceed max_increase. The half counts here.",
)
def _(g):
    for d, count in ((9, 4), (25, 14), (25, 6)):
        w, h = weights_and_curvature(g, d)
        yield call(w, h, max_increase=budget(w, h, count))
    w = torch.tensor([2.0, -1.0, 0.5, -4.0, 1.0])
    h = torch.tensor([4.0, 1.0, 8.0, 2.0, 24.0])  # saliencies 8, 1/2, 1, 16, 12
    yield call(w, h, max_increase=1.5)  # spent to the last digit
    yield call(w.double(), h.double(), None, 1.5 - 1e-14)
    w, h = weights_and_curvature(g, 25)
    yield call(1e-12 * w, h, max_increase=1e-24 * budget(w, h, 10))
    yield call(w, h, max_increase=math.inf)


@damage.stage(
    "honours both limits, and zero",
    points=1,
    exposes="With both limits the tighter one decides, without any all weights go. A limit of 0 is a limit, not a missing one; weights that "
    "are 0 already cost nothing and are the first of the count.",
)
def _(g):
    w, h = weights_and_curvature(g, 20)
    yield call(w, h, count=5, max_increase=budget(w, h, 11))
    yield call(w, h, count=13, max_increase=budget(w, h, 7))
    yield call(w, h, count=0)
    yield call(w, h, max_increase=0.0)
    yield call(w, h, count=20)
    yield call(w, h)
    w, h = weights_and_curvature(g, 15, gone=(2, 7, 11))
    yield call(w, h, count=6)
    yield call(w, h, max_increase=budget(w, h, 8))
    w[4] = 1e-9  # next to nothing, and not nothing
    yield call(w, h, count=3)
    yield call(w, h, max_increase=0.0)


@damage.stage(
    "refuses a negative curvature, and returns a copy",
    points=1,
    exposes="A ValueError if an entry of h is negative, whatever its weight (0 is fine: the loss is flat there): a saliency below zero would "
    "say that deleting the weight lowers the loss, which the derivation, made at a minimum, cannot say. w and h stay as they were.",
    pure=True,
)
def _(g):
    def ranks_apart(drawn):
        """Whether h |w| takes others."""
        w, h = drawn
        return set((h * w.abs()).argsort()[:4].tolist()) != set(optimal_brain.damage_saliency(w, h).argsort()[:4].tolist())

    w, h = redraw(lambda: weights_and_curvature(g, 10), ranks_apart)
    yield call(w, h, count=4)
    yield call(w.float(), h.float(), count=3)
    somewhere = torch.arange(10) == torch.randint(10, (), generator=g)
    yield call(w, h.masked_fill(somewhere, 0), count=4)
    negative = torch.where(somewhere, -h, h)
    yield call(w, negative, count=4)
    yield call(w, negative, max_increase=1.0)
    yield call(w, negative, count=0)
    yield call(w, negative, max_increase=0.0)
    yield call(w, torch.where(somewhere, -1e-30, h), count=4)
    yield call(w, h.masked_fill(somewhere, -0.0), count=4)  # which is not less than 0
    yield call(w.masked_fill(somewhere, 0), negative, count=2)


@damage.accepts("one by one")
def _(w, h, count=None, max_increase=None):
    if h.min() < 0:
        raise ValueError(f"negative curvature {h.min()}")
    w, spent = w.clone(), 0.0
    for gone, q in enumerate((h * w * w).argsort().tolist()):
        spent += float(h[q] * w[q] ** 2) / 2
        if (count is not None and gone >= count) or (max_increase is not None and spent > max_increase):
            break
        w[q] = 0
    return w


@damage.accepts("numpy, by threshold")
def _(w, h, count=None, max_increase=None):
    if np.any(h.numpy() < 0):
        raise ValueError("h")
    saliency = 0.5 * h.numpy() * w.numpy() ** 2
    ordered = np.sort(saliency)
    k = len(ordered) if count is None else count
    if max_increase is not None:
        k = min(k, np.searchsorted(np.cumsum(ordered), max_increase, side="right"))
    if k == 0:
        return w.clone()
    return torch.from_numpy(np.where(saliency <= ordered[k - 1], np.zeros_like(w.numpy()), w.numpy()))


@damage.accepts("topk and a mask, for Parameters too")
def _(w, h, count=None, max_increase=None):
    if bool((h < 0).sum()):
        raise ValueError("h has negative entries")
    saliency = h.mul(w.square()).div(2)
    values, order = saliency.topk(len(w), largest=False)
    allowed = torch.ones(len(w), dtype=torch.bool)
    if count is not None:
        allowed &= torch.arange(len(w)) < count
    if max_increase is not None:
        allowed &= values.cumsum(0) <= max_increase
    return torch.nn.Parameter(w.clone().index_fill_(0, order[allowed], 0.0))
