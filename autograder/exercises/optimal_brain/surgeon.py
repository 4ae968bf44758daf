"""Exercise 3.7: Optimal Brain Surgeon."""

import math

import torch

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.optimal_brain.fixtures import inverse, weights
from autograder.inside.case import call
from sparsity_edu.weights import optimal_brain


def obs_prune(w, Hinv, count=None, max_increase=None):
    alive = Hinv.diagonal() != 0
    count = int(alive.sum()) if count is None else count
    done = optimal_brain.surgeon(w, Hinv, count, max_increase, alive)
    return done.w, done.removed


surgeon = Exercise(
    "optimal_brain.surgeon",
    defines="obs_prune",
    title="Optimal Brain Surgeon",
    minutes=15,
    difficulty=3,
    hint="`while` there are weights left (`Hinv.diagonal().any()`) and fewer than `count` are removed: `moved, q = obs_step(w, Hinv)`; what "
    "it costs is `w[q]**2 / Hinv[q, q] / 2` with the weights *before* the step; if that and what was spent before exceed `max_increase`, "
    "stop without taking the step; otherwise take `moved` and the downdated inverse.",
    reference=obs_prune,
    rules=Rules(tolerance=1e-7, exact_zeros=True),
)


def budget(w, Hinv, count: int) -> float:
    """A rise of the loss that pays for `count` removals and half of the next."""
    done = optimal_brain.surgeon(w, Hinv, count + 1, alive=Hinv.diagonal() != 0)
    return sum(done.increases[:count]) + done.increases[count] / 2


@surgeon.stage(
    "removes weights one after another",
    points=2,
    exposes="Each removal starts from the weights and the inverse that the one before has left: choose, move, downdate, repeat. `removed` "
    "lists the positions in this order.",
)
def _(g):
    for d, count in ((4, 2), (10, 5), (24, 19), (24, 12)):
        yield call(weights(g, d), inverse(g, d), count=count)


@surgeon.stage(
    "stops when the loss would rise too much",
    points=1,
    exposes="The expected rises, 1/2 w_q^2 / [H^-1]_qq each, are added up; a removal that would bring the sum above max_increase is not made.",
)
def _(g):
    for d, count in ((7, 2), (18, 6), (18, 13)):
        w, Hinv = weights(g, d), inverse(g, d)
        yield call(w, Hinv, max_increase=budget(w, Hinv, count))
    w = torch.tensor([2.0, -1.0, 0.5, -4.0, 1.0], dtype=torch.float64)
    H = torch.tensor([4.0, 1.0, 8.0, 2.0, 32.0], dtype=torch.float64)  # diagonal; the rises are 8, 1/2, 1, 16, 16
    yield call(w, torch.diag(1 / H), max_increase=1.5)  # spent to the last digit


@surgeon.stage(
    "honours both limits, zero, and weights that are gone",
    points=1,
    exposes="The tighter limit decides; a limit of 0 is a limit; without a count all weights may go, and those with zeros in H^-1 are gone "
    "already: they are neither counted nor listed. w and Hinv do not change.",
    pure=True,
)
def _(g):
    w, Hinv = weights(g, 16), inverse(g, 16)
    yield call(w, Hinv, count=4, max_increase=budget(w, Hinv, 9))
    yield call(w, Hinv, count=11, max_increase=budget(w, Hinv, 6))
    yield call(w, Hinv, count=0)
    yield call(w, Hinv, max_increase=0.0)
    gone = (1, 5, 6, 12)
    w, Hinv = weights(g, 14, gone), inverse(g, 14, gone=gone)
    yield call(w, Hinv, count=6)
    yield call(w, Hinv, max_increase=budget(w, Hinv, 7))
    yield call(w, Hinv, max_increase=1e9)
    yield call(w, Hinv)


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


@surgeon.misconception(
    "no downdate",
    "The inverse stays as it was, so weights that are gone move again: count the zeros of your result. Downdate after each removal.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, downdate=lambda Hinv, q: Hinv)


@surgeon.misconception(
    "masked instead of downdated",
    "You zero the weights that are gone after each step, or cross out their rows and columns, but the rest of the inverse stays as it was: "
    "the others move as if the removed weights still helped. Downdate the inverse.",
)
def _(w, Hinv, count=None, max_increase=None):
    def move(w, Hinv, q):
        return optimal_brain.surgeon_step(w, Hinv, q).masked_fill(w == 0, 0)

    return operate(w, Hinv, count, max_increase, move=move, downdate=lambda Hinv, q: Hinv)


@surgeon.misconception(
    "order fixed at the start",
    "You ranked all weights once. After each removal the others have moved and the inverse has changed: choose anew every time.",
)
def _(w, Hinv, count=None, max_increase=None):
    first = (w**2 / Hinv.diagonal()).clone()
    return operate(w, Hinv, count, max_increase, choose=lambda w, Hinv: first)


@surgeon.misconception(
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


@surgeon.misconception(
    "nothing moves",
    "Weights go, but the others never move (or you downdate first, and column q is zero by then). The surgeon's point is that the others make "
    "up for it: move, then downdate.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, move=lambda w, Hinv, q: w.index_fill(0, torch.tensor([q]), 0))


@surgeon.misconception(
    "magnitude",
    "You choose the smallest weight each time. The updates are right; the choice is w_q^2 / [H^-1]_qq.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, choose=lambda w, Hinv: w.abs())


@surgeon.misconception(
    "times the inverse",
    "Your score multiplies with [H^-1]_qq. It divides: where the inverse is large, the others can stand in.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, choose=lambda w, Hinv: w**2 * Hinv.diagonal())


@surgeon.misconception(
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


@surgeon.misconception(
    "sorted", "You sorted the removed positions. `removed` tells the order of the removals, cheapest first choice first."
)
def _(w, Hinv, count=None, max_increase=None):
    moved, removed = obs_prune(w, Hinv, count, max_increase)
    return moved, sorted(removed)


@surgeon.misconception(
    "half left out",
    "You expect twice the rise: a removal raises the loss by *half* of w_q^2 / [H^-1]_qq. The lecture's slides leave the half out; a "
    "stop by loss needs it.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, cost=lambda w, Hinv, q: float(w[q] ** 2 / Hinv[q, q]))


@surgeon.misconception(
    "each for itself",
    "You compare each rise with max_increase for itself. The loss keeps what the earlier removals have cost: compare the sum.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, together=False)


@surgeon.misconception(
    "less than",
    "You stop when the sum reaches max_increase. A removal with which it is exactly max_increase is still allowed: stop when it is more.",
)
def _(w, Hinv, count=None, max_increase=None):
    below = None if max_increase is None else math.nextafter(max_increase, -math.inf)
    return operate(w, Hinv, count, below)


@surgeon.misconception(
    "stops one too late",
    "You stop after the removal that brings the sum above max_increase. Ask before the step, and do not take it.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, beyond=True)


@surgeon.misconception(
    "cost after the step",
    "You compute the cost after the step, from a w_q that is 0 by then: nothing ever seems to cost anything. Take it before.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase, cost=lambda w, Hinv, q: 0.0)


@surgeon.misconception(
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


@surgeon.misconception(
    "zero is no limit",
    "You wrote `if count` or `if max_increase`: in Python 0 is false, so a limit of 0 counts as no limit. Write `is not None`.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count or None, max_increase or None)


@surgeon.misconception(
    "no limit, no removal",
    "Without a limit you remove nothing. None means no limit: all weights that are not gone yet go.",
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, 0 if count is None and max_increase is None else count, max_increase)


@surgeon.misconception(
    "count overrides", "Where both limits are given, you look at `count` only. The tighter of the two decides."
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count, max_increase if count is None else None)


@surgeon.misconception(
    "budget overrides", "Where both limits are given, you look at `max_increase` only. The tighter of the two decides."
)
def _(w, Hinv, count=None, max_increase=None):
    return operate(w, Hinv, count if max_increase is None else None, max_increase)


@surgeon.misconception(
    "gone weights counted",
    "Weights that were gone before are counted in `count`. `count` is how many this call removes.",
)
def _(w, Hinv, count=None, max_increase=None):
    gone = int((Hinv.diagonal() == 0).sum())
    return operate(w, Hinv, None if count is None else max(0, count - gone), max_increase)


@surgeon.misconception(
    "gone weights listed",
    "`removed` lists weights that were gone before this call. Only those removed now belong there.",
)
def _(w, Hinv, count=None, max_increase=None):
    moved, removed = operate(w, Hinv, count, max_increase)
    return moved, (Hinv.diagonal() == 0).nonzero().flatten().tolist() + removed


@surgeon.misconception("in place", "You changed w itself. Your caller still needs the weights before: work on a copy.")
def _(w, Hinv, count=None, max_increase=None):
    moved, removed = operate(w, Hinv, count, max_increase)
    return w.copy_(moved), removed


@surgeon.accepts("all removed at once, solved for anew")
def _(w, Hinv, count=None, max_increase=None):
    here = [q for q in range(len(w)) if Hinv[q, q] != 0]
    H = torch.linalg.inv(Hinv[here][:, here])
    start, removed = w[here], []

    def without(S):
        """The best weights without those of S, and the rise of the loss."""
        T = [i for i in range(len(here)) if i not in S]
        move = torch.zeros(len(here), dtype=w.dtype)
        move[S] = -start[S]
        if T:
            move[T] = torch.linalg.solve(H[T][:, T], H[T][:, S] @ start[S])
        return start + move, move @ H @ move / 2

    while len(removed) < len(here) and (count is None or len(removed) < count):
        trials = {i: without([*removed, i])[1] for i in range(len(here)) if i not in removed}
        best = min(trials, key=trials.get)
        if max_increase is not None and trials[best] > max_increase:
            break
        removed.append(best)
    result = w.clone()
    if removed:
        result[here] = without(removed)[0]
    for i in removed:
        result[here[i]] = 0
    return result, [here[i] for i in removed]


@surgeon.accepts("in the style of the official Optimal Brain Compression")
def _(w, Hinv, count=None, max_increase=None):
    w, Hinv = w.clone(), Hinv.clone()
    mask = torch.diag(Hinv) == 0
    removed, losses = torch.zeros(0, dtype=torch.long), 0.0
    for _ in range(int((~mask).sum())):
        if count is not None and len(removed) == count:
            break
        diag = torch.diag(Hinv)
        scores = w**2 / diag
        scores[mask] = float("inf")
        j = torch.argmin(scores)
        losses = losses + scores[j] / 2
        if max_increase is not None and losses > max_increase:
            break
        row = Hinv[j, :].clone()
        d = diag[j].clone()
        w -= row * (w[j] / d)
        mask[j] = True
        w[mask] = 0
        Hinv -= torch.outer(row / torch.sqrt(d), row / torch.sqrt(d))
        removed = torch.cat([removed, j[None]])
    return w, removed.tolist()


@surgeon.accepts("recursive, on smaller and smaller matrices")
def _(w, Hinv, count=None, max_increase=None):
    here = (Hinv.diagonal() != 0).nonzero().flatten()
    if len(here) == 0 or count == 0:
        return w.clone(), ()
    small, values = Hinv[here][:, here], w[here]
    rises = values**2 / small.diagonal() / 2
    i = int(rises.argmin())
    if max_increase is not None and rises[i] > max_increase:
        return w.clone(), ()
    moved, rest = w.clone(), small - small[:, [i]] @ small[[i]] / small[i, i]
    moved[here] = values - small[i] * values[i] / small[i, i]
    moved[here[i]] = 0
    stay = torch.arange(len(here)) != i
    left = torch.zeros_like(Hinv)
    left[here[stay][:, None], here[stay]] = rest[stay][:, stay]
    limits = (None if count is None else count - 1, None if max_increase is None else max_increase - float(rises[i]))
    final, later = deep(moved, left, *limits)
    return final, (int(here[i]), *later)


deep = surgeon.accepted["recursive, on smaller and smaller matrices"]
