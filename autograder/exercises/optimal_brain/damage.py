"""Exercise 3.2: Optimal Brain Damage."""

import math

import numpy as np
import torch

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.optimal_brain.fixtures import weights
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
    rules=Rules(tolerance=1e-6, exact_zeros=True),
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


@damage.stage(
    "refuses a negative curvature, and returns a copy",
    points=1,
    exposes="A ValueError if an entry of h is negative, whatever its weight (0 is fine: the loss is flat there): a saliency below zero would "
    "say that deleting the weight lowers the loss, which the derivation, made at a minimum, cannot say. w and h stay as they were.",
    pure=True,
)
def _(g):
    w, h = weights_and_curvature(g, 10)
    yield call(w, h, count=4)
    yield call(w.float(), h.float(), count=3)
    somewhere = torch.arange(10) == torch.randint(10, (), generator=g)
    yield call(w, h.masked_fill(somewhere, 0), count=4)
    negative = torch.where(somewhere, -h, h)
    yield call(w, negative, count=4)
    yield call(w, negative, max_increase=1.0)
    yield call(w.masked_fill(somewhere, 0), negative, count=2)


def delete(w, h, count, max_increase, score=lambda w, h: h * w**2, cost=lambda w, h: h * w**2 / 2, check=True, beyond=0):
    """`obd_prune` with its parts exchangeable, for mistakes in one part."""
    if check and (h < 0).any():
        raise ValueError("h must not be negative")
    order = score(w, h).argsort(stable=True)
    k = len(w) if count is None else count
    if max_increase is not None:
        k = min(k, int((cost(w, h)[order].cumsum(0) <= max_increase).sum()) + beyond)
    pruned = w.clone()
    pruned[order[:k]] = 0
    return pruned


@damage.misconception(
    "magnitude", "You ranked by the weights alone. That is unit 02: the curvature says how much the loss minds."
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, score=lambda w, h: w.abs())


@damage.misconception(
    "curvature alone", "You ranked by the curvature alone. A tiny weight may go even where the loss is steep."
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, score=lambda w, h: h)


@damage.misconception(
    "not squared",
    "You multiplied h with |w| (or squared both, which ranks the same). The loss is quadratic around its minimum: the step from w to 0 "
    "counts squared.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, score=lambda w, h: h * w.abs(), cost=lambda w, h: h * w.abs() / 2)


@damage.misconception(
    "signed weights", "Your saliency keeps the sign of w, so negative weights go first. It is h w^2 / 2, which has no sign."
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, score=lambda w, h: h * w, cost=lambda w, h: h * w / 2)


@damage.misconception(
    "divided by the curvature",
    "You divided by h. The loss rises by 1/2 h w^2; a division belongs to the *inverse* Hessian, which comes later.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, score=lambda w, h: w**2 / h, cost=lambda w, h: w**2 / h / 2)


@damage.misconception("deletes the largest", "You deleted the weights of largest saliency, those that the loss minds most.")
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, score=lambda w, h: -h * w**2)


@damage.misconception("keeps the count", "You kept `count` weights. `count` is how many are deleted.")
def _(w, h, count=None, max_increase=None):
    return delete(w, h, None if count is None else len(w) - count, max_increase)


@damage.misconception("returns the mask", "You returned a mask. Return the weights, with zeros where they are deleted.")
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase) != 0


@damage.misconception(
    "half left out",
    "The ranking is right, but you expect twice the rise: the second term of a Taylor expansion is *half* the curvature times the step "
    "squared.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, cost=lambda w, h: h * w**2)


@damage.misconception(
    "each for itself",
    "You compared each saliency with max_increase for itself. The rises of all deleted weights add up: it is their sum that must stay below.",
)
def _(w, h, count=None, max_increase=None):
    allowed = len(w) if max_increase is None else int((h * w**2 / 2 <= max_increase).sum())
    return delete(w, h, min(allowed, len(w) if count is None else count), None)


@damage.misconception(
    "less than",
    "You wrote < where <= belongs: a removal with which the sum is exactly max_increase is still allowed.",
)
def _(w, h, count=None, max_increase=None):
    allowed = len(w) if max_increase is None else int(((h * w**2 / 2).sort().values.cumsum(0) < max_increase).sum())
    return delete(w, h, min(allowed, len(w) if count is None else count), None)


@damage.misconception(
    "stops one too late",
    "You stop after the removal that exceeds max_increase. Ask before you delete: the sum must not exceed it.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, beyond=1)


@damage.misconception(
    "zero is no limit",
    "You wrote `if count` or `if max_increase`: in Python 0 is false, so a limit of 0 counts as no limit. Write `is not None`.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count or None, max_increase or None)


@damage.misconception(
    "no limit, no deletion",
    "Without a limit you delete nothing. None means no limit: all weights may go.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, 0 if count is None and max_increase is None else count, max_increase)


@damage.misconception(
    "count overrides", "Where both limits are given, you look at `count` only. The tighter of the two decides."
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase if count is None else None)


@damage.misconception(
    "budget overrides", "Where both limits are given, you look at `max_increase` only. The tighter of the two decides."
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count if max_increase is None else None, max_increase)


@damage.misconception(
    "zeros counted extra",
    "Weights that were 0 already are not among your `count`. They have saliency 0 and are the first to go: `count` entries are 0 afterwards.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, None if count is None else min(len(w), count + int((w == 0).sum())), max_increase)


@damage.misconception(
    "negative accepted",
    "You use a negative curvature as it is: its weight has a negative saliency and goes first. Raise a ValueError: at a minimum there is "
    "none.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, check=False)


@damage.misconception(
    "zero curvature refused",
    "You refuse a curvature of 0 too. That only says that the loss does not mind this weight, which happens; refuse h < 0, not h <= 0.",
)
def _(w, h, count=None, max_increase=None):
    if (h <= 0).any():
        raise ValueError("h must not be negative")
    return delete(w, h, count, max_increase)


@damage.misconception(
    "negative saliency refused",
    "You look for negative saliencies. Where w is 0 the saliency is 0 whatever h is: look at h itself.",
)
def _(w, h, count=None, max_increase=None):
    if (h * w**2 < 0).any():
        raise ValueError("h must not be negative")
    return delete(w, h, count, max_increase, check=False)


@damage.misconception(
    "absolute curvature",
    "You made a negative curvature positive, which nobody would notice. It is a sign that h is not what OBD assumes: raise a ValueError.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h.abs(), count, max_increase)


@damage.misconception("in place", "You changed w itself. Work on w.clone(): the caller still compares with the weights before.")
def _(w, h, count=None, max_increase=None):
    return w.copy_(delete(w, h, count, max_increase))


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
