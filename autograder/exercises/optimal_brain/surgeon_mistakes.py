"""Mistakes of exercise 3.7, and the right answer that they vary."""

import math

import torch

from autograder.checking.exercise import Mistakes
from sparsity_edu.weights import optimal_brain


def obs_prune(w, Hinv, count=None, max_increase=None):
    alive = Hinv.diagonal() != 0
    count = int(alive.sum()) if count is None else count
    done = optimal_brain.surgeon(w, Hinv, count, max_increase, alive)
    return done.w, done.removed


def operate(
    w,
    Hinv,
    count,
    max_increase,
    *,
    choose=lambda w, Hinv: w**2 / Hinv.diagonal(),
    cost=lambda w, Hinv, q: float(w[q] ** 2 / Hinv[q, q] / 2),
    move=optimal_brain.surgeon_step,
    downdate=optimal_brain.downdate,
    beyond=False,
    together=True,
    initially=None,
):
    """`obs_prune` with its parts exchangeable, for mistakes in one part."""
    w, alive, removed, spent = w.clone(), Hinv.diagonal() != 0, [], 0.0
    alive = alive if initially is None else initially
    while alive.any() and (count is None or len(removed) < count):
        q = int(choose(w, Hinv).masked_fill(~alive, math.inf).argmin())
        rise = cost(w, Hinv, q)
        over = max_increase is not None and (spent if together else 0) + rise > max_increase
        if over and not beyond:
            break
        w, Hinv = move(w, Hinv, q), downdate(Hinv, q)
        alive = alive & (torch.arange(len(w)) != q)
        removed.append(q)
        spent += rise
        if over:
            break
    return w, removed


mistakes = Mistakes()


@mistakes(
    "no downdate",
    "The inverse stays as it was, so weights that are gone move again: count the zeros of your result. Downdate after each removal.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, downdate=lambda Hinv, q: Hinv)


@mistakes(
    "masked instead of downdated",
    "You zero the weights that are gone after each step, or cross out their rows and columns, but the rest of the inverse stays as it was: "
    "the others move as if the removed weights still helped. Downdate the inverse.",
)
def _(w, Hinv, count=None, max_increase=None):
    def move(w, Hinv, q):
        return optimal_brain.surgeon_step(w, Hinv, q).masked_fill(w == 0, 0)

    return operate(w, Hinv, count, max_increase, move=move, downdate=lambda Hinv, q: Hinv)


@mistakes(
    "order fixed at the start",
    "You ranked all weights once. After each removal the others have moved and the inverse has changed: choose anew every time.",
)
def _(w, Hinv, count=None, max_increase=None):
    first = (w**2 / Hinv.diagonal()).clone()
    return operate(w, Hinv, count, max_increase, choose=lambda w, Hinv: first)


@mistakes(
    "all updates at once",
    "You added up the updates of all removals, each computed from the first weights and inverse, then masked. They disturb each other: one "
    "after another.",
)
def _(w, Hinv, count=None, max_increase=None):
    alive = Hinv.diagonal() != 0
    saliency = (w**2 / Hinv.diagonal() / 2).masked_fill(~alive, math.inf)
    order = saliency.argsort()[: int(alive.sum())]
    k = len(order) if count is None else min(count, len(order))
    if max_increase is not None:
        k = min(k, int((saliency[order].cumsum(0) <= max_increase).sum()))
    chosen = order[:k]
    moved = w - Hinv[:, chosen] @ (w[chosen] / Hinv.diagonal()[chosen])
    moved[chosen] = 0
    return moved, chosen.tolist()


@mistakes(
    "nothing moves",
    "Weights go, but the others never move (or you downdate first, and column q is zero by then). The surgeon's point is that the others make "
    "up for it: move, then downdate.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, move=lambda w, Hinv, q: w.index_fill(0, torch.tensor([q]), 0))


@mistakes(
    "magnitude",
    "You choose the smallest weight each time. The updates are right; the choice is w_q^2 / [H^-1]_qq.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, choose=lambda w, Hinv: w.abs())


@mistakes(
    "times the inverse",
    "Your score multiplies with [H^-1]_qq. It divides: where the inverse is large, the others can stand in.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, choose=lambda w, Hinv: w**2 * Hinv.diagonal())


@mistakes(
    "positions among those left",
    "You drop rows and columns, and `removed` counts positions among the weights that were left. Keep the shape, and name positions in w.",
)
def _(w, Hinv, count=None, max_increase=None):
    moved, removed = obs_prune(w, Hinv, count, max_increase)
    left = (Hinv.diagonal() != 0).nonzero().flatten().tolist()
    positions = []
    for q in removed:
        positions.append(left.index(q))
        left.remove(q)
    return moved, positions


@mistakes("sorted", "You sorted the removed positions. `removed` tells the order of the removals, cheapest first choice first.")
def _(w, Hinv, count=None, max_increase=None):
    moved, removed = obs_prune(w, Hinv, count, max_increase)
    return moved, sorted(removed)


@mistakes(
    "half left out",
    "You expect twice the rise: a removal raises the loss by *half* of w_q^2 / [H^-1]_qq. The lecture's slides leave the half out; a "
    "stop by loss needs it.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, cost=lambda w, Hinv, q: float(w[q] ** 2 / Hinv[q, q]))


@mistakes(
    "each for itself",
    "You compare each rise with max_increase for itself. The loss keeps what the earlier removals have cost: compare the sum.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, together=False)


@mistakes(
    "less than",
    "You stop when the sum reaches max_increase. A removal with which it is exactly max_increase is still allowed: stop when it is more.",
)
def _(w, Hinv, count=None, max_increase=None):
    below = None if max_increase is None else math.nextafter(max_increase, -math.inf)
    return operate(w, Hinv, count, below)


@mistakes(
    "stops one too late",
    "You stop after the removal that brings the sum above max_increase. Ask before the step, and do not take it.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, beyond=True)


@mistakes(
    "cost after the step",
    "You compute the cost after the step, from a w_q that is 0 by then: nothing ever seems to cost anything. Take it before.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, cost=lambda w, Hinv, q: 0.0)


@mistakes(
    "cost by OBD",
    "You expect the rise of Optimal Brain Damage, 1/2 H_qq w_q^2. With the others making up for it the loss rises less: "
    "1/2 w_q^2 / [H^-1]_qq.",
)
def _(w, Hinv, count=None, max_increase=None):
    def cost(w, Hinv, q):
        here = (Hinv.diagonal() != 0).nonzero().flatten()
        i = here.tolist().index(q)
        return float(torch.linalg.inv(Hinv[here[:, None], here])[i, i] * w[q] ** 2 / 2)

    return operate(w, Hinv, count, max_increase, cost=cost)


@mistakes(
    "zero is no limit",
    "You wrote `if count` or `if max_increase`: in Python 0 is false, so a limit of 0 counts as no limit. Write `is not None`.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count or None, max_increase or None)


@mistakes(
    "no limit, no removal",
    "Without a limit you remove nothing. None means no limit: all weights that are not gone yet go.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, 0 if count is None and max_increase is None else count, max_increase)


@mistakes("count overrides", "Where both limits are given, you look at `count` only. The tighter of the two decides.")
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase if count is None else None)


@mistakes("budget overrides", "Where both limits are given, you look at `max_increase` only. The tighter of the two decides.")
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count if max_increase is None else None, max_increase)


@mistakes(
    "gone weights counted",
    "Weights that were gone before are counted in `count`. `count` is how many this call removes.",
)
def _(w, Hinv, count=None, max_increase=None):
    gone = int((Hinv.diagonal() == 0).sum())
    return operate(w, Hinv, None if count is None else max(0, count - gone), max_increase)


@mistakes(
    "gone weights listed",
    "`removed` lists weights that were gone before this call. Only those removed now belong there.",
)
def _(w, Hinv, count=None, max_increase=None):
    moved, removed = operate(w, Hinv, count, max_increase)
    return moved, (Hinv.diagonal() == 0).nonzero().flatten().tolist() + removed


@mistakes("in place", "You changed w itself. Your caller still needs the weights before: work on a copy.")
def _(w, Hinv, count=None, max_increase=None):
    moved, removed = operate(w, Hinv, count, max_increase)
    return w.copy_(moved), removed


@mistakes(
    "room for rounding",
    "You let the sum exceed max_increase by a little, for rounding. That little is much where the loss itself is small: compare the sum with "
    "max_increase as it is.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, None if max_increase is None else max_increase + 1e-9)


@mistakes(
    "zero taken for gone",
    "You take a weight that is 0 for one that is gone. Only a zero on the diagonal of H^-1 says gone; a weight that happens to be 0 costs "
    "nothing, and is the first to go.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, initially=w != 0)


@mistakes(
    "small taken for gone",
    "You take a small [H^-1]_qq for a weight that is gone. How small it is depends on the units of the loss: only an exact zero says gone.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, initially=Hinv.diagonal() > 1e-10)
