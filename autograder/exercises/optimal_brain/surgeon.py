"""Exercise 3.7: Optimal Brain Surgeon."""

import math

import torch

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.optimal_brain.fixtures import inverse, weights
from autograder.exercises.optimal_brain.surgeon_mistakes import mistakes, obs_prune
from autograder.inside.case import call
from sparsity_edu.weights import optimal_brain

surgeon = Exercise(
    "optimal_brain.surgeon",
    defines="obs_prune",
    title="Optimal Brain Surgeon",
    minutes=15,
    difficulty=3,
    hints=(
        "You have all the parts: `obs_step` chooses and moves, `downdate` makes the next inverse. What is left is a loop "
        "and two reasons to stop.",
        "It goes on while the diagonal of `Hinv` holds anything but zeros, and while fewer than `count` are removed. With "
        "`max_increase` know the price before you pay: what the next removal costs follows from w and `Hinv` *before* the "
        "step. If the sum would be too large, stop without taking it.",
        "`while Hinv.diagonal().any() and (count is None or len(removed) < count):` begins the loop. In it `moved, q = "
        "obs_step(w, Hinv)`; add `w[q] ** 2 / Hinv[q, q] / 2` to what is spent; perhaps `break`; otherwise w becomes "
        "`moved`, `Hinv` its downdate, and q is appended. Return a clone: if nothing was removed, w is still the "
        "argument.",
    ),
    reference=obs_prune,
    rules=Rules(tolerance=1e-7, exact_zeros=True),
    misconceptions=mistakes,
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
    for d, count in ((4, 2), (10, 5), (24, 19), (24, 12), (60, 40)):
        yield call(weights(g, d), inverse(g, d), count=count)
    yield call(1e-9 * weights(g, 8), 1e-30 * inverse(g, 8), 5)


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
    yield call(w, torch.diag(1 / H), None, 1.5 - 1e-14)
    w, Hinv = 1e-9 * weights(g, 9), inverse(g, 9)
    yield call(w, Hinv, max_increase=budget(w, Hinv, 4))
    yield call(w, Hinv, max_increase=math.inf)


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
    w[3] = 0.0  # and not gone: to remove it costs nothing
    yield call(w, Hinv, count=3)
    yield call(w, Hinv, max_increase=0.0)
    yield call(torch.zeros(5).double(), torch.zeros(5, 5).double())  # all are gone


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
