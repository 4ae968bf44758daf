"""Exercise 2.5: the cubic schedule."""

import numpy as np
import torch

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.patterns.fixtures import drawn
from autograder.inside.case import call


def cubic_sparsity(step, start, end, final, initial=0.0):
    progress = min(max((step - start) / (end - start), 0), 1)
    return final + (initial - final) * (1 - progress) ** 3


schedule = Exercise(
    "magnitude.schedule",
    defines="cubic_sparsity",
    title="The cubic schedule",
    minutes=10,
    difficulty=1,
    hints=(
        "First find how far the ramp has come, as a number from 0 to 1. Before the start it is 0, after the end it is 1.",
        "The fraction in the formula is `(step - start) / (end - start)`. Clamp it *before* you put it in: outside of [0, "
        "1] its cube is no schedule. At 0 the formula gives `initial` and at 1 it gives `final`: try yours at both ends.",
        "`progress = min(max(fraction, 0), 1)` is the clamped fraction; the formula is then `final + (initial - final) * "
        "(1 - progress) ** 3`.",
    ),
    reference=cubic_sparsity,
    rules=Rules(tolerance=1e-5, scale=1),  # float32 will do
    forbids=("torch.ao.pruning",),
)


def share(g: torch.Generator, low: int, high: int) -> float:
    """A sparsity, given in per cent, of three decimals."""
    return drawn(g, 10 * low, 10 * high) / 1000


@schedule.stage(
    "rises from 0 to the final sparsity by the cubic formula",
    points=1,
    exposes="s_t = s_f + (s_i - s_f) (1 - p)^3 with progress p from 0 to 1: steep at first, flat at the end.",
)
def _(g):
    end, final = drawn(g, 12, 40), share(g, 40, 99)
    for step in (0, 1, end // 4, end // 2, end - 1, end):
        yield call(step, 0, end, final)
    yield call(step=drawn(g, 20, 90), start=0, end=drawn(g, 100, 999), final=share(g, 40, 99))


@schedule.stage(
    "honours start and initial",
    points=1,
    exposes="Progress counts from `start`, and the ramp begins at `initial`, not at 0. It may fall, too: the formula is the same.",
)
def _(g):
    start, length = drawn(g, 5, 20), drawn(g, 25, 50)
    final, initial = share(g, 60, 99), share(g, 10, 40)
    for offset in (0, 2, length // 3, length):
        yield call(start + offset, start, start + length, final, initial=initial)
    yield call(start + drawn(g, 1, length), start, start + length, final)  # initial left out
    yield call(-3, -start, length, final, initial)  # only the difference to the start counts
    yield call(start + length // 2, start, start + length, initial, final)  # falls


@schedule.stage(
    "stays flat outside the ramp",
    points=1,
    exposes="Before `start` the sparsity is `initial`, after `end` it is `final`: without a clamp the cube runs away.",
)
def _(g):
    start = drawn(g, 8, 20)
    end, final, initial = start + drawn(g, 10, 40), share(g, 60, 99), share(g, 10, 40)
    yield call(start - drawn(g, 2, 8), start, end, final)
    yield call(start - drawn(g, 2, 8), start, end, final, initial=initial)
    yield call(end + 1, start, end, final)
    yield call(end + drawn(g, 200, 900), start, end, final, initial=initial)
    yield call(0, start, end, initial, final)  # of a ramp that falls
    yield call(end + drawn(g, 3, 9), start, end, initial, final)
    yield call(start + 1, start, start + 1, final, initial=initial)  # of one step


def ramp(step, start, end, final, initial, shape):
    progress = min(max((step - start) / (end - start), 0.0), 1.0)
    return initial + (final - initial) * shape(progress)


@schedule.misconception("linear", "Your schedule is linear. The cubic one prunes fast at first, while there is much to spare.")
def _(step, start, end, final, initial=0.0):
    return ramp(step, start, end, final, initial, lambda p: p)


@schedule.misconception(
    "cube of the progress",
    "You cubed the progress p, which starts slowly and ends in a rush. The cube belongs to what is left, (1 - p)^3.",
)
def _(step, start, end, final, initial=0.0):
    return ramp(step, start, end, final, initial, lambda p: p**3)


@schedule.misconception("square", "The exponent is 3, not 2.")
def _(step, start, end, final, initial=0.0):
    return ramp(step, start, end, final, initial, lambda p: 1 - (1 - p) ** 2)


@schedule.misconception(
    "initial ignored", "You start from 0 whatever `initial` is: the factor of the cube is (initial - final)."
)
def _(step, start, end, final, initial=0.0):
    return ramp(step, start, end, final, 0.0, lambda p: 1 - (1 - p) ** 3)


@schedule.misconception("start ignored", "Progress is (step - start) / (end - start); you measure it from step 0.")
def _(step, start, end, final, initial=0.0):
    return ramp(step, 0, end, final, initial, lambda p: 1 - (1 - p) ** 3)


@schedule.misconception("0 before the ramp", "Before `start` you return 0. The sparsity there is `initial`.")
def _(step, start, end, final, initial=0.0):
    return 0.0 if step < start else cubic_sparsity(step, start, end, final, initial)


@schedule.misconception("no clamp", "Outside the ramp the cube runs away: clamp the progress to [0, 1].")
def _(step, start, end, final, initial=0.0):
    return final + (initial - final) * (1 - (step - start) / (end - start)) ** 3


@schedule.misconception(
    "clamped at the end only", "Before `start` the progress is negative and the cube exceeds 1: clamp it at 0 too."
)
def _(step, start, end, final, initial=0.0):
    return final + (initial - final) * (1 - min((step - start) / (end - start), 1)) ** 3


@schedule.misconception(
    "never falls",
    "You take the larger of `initial` and the formula. The formula needs no such help, and with `initial` above `final` it falls.",
)
def _(step, start, end, final, initial=0.0):
    return max(initial, cubic_sparsity(step, start, end, final, initial))


@schedule.misconception("density", "You return what is kept (1 - sparsity).")
def _(step, start, end, final, initial=0.0):
    return 1 - cubic_sparsity(step, start, end, final, initial)


@schedule.accepts("expanded, with early returns")
def _(step, start, end, final, initial=0.0):
    if step <= start:
        return initial
    if step >= end:
        return final
    left = torch.tensor((end - step) / (end - start))
    return final - (final - initial) * left.pow(3)


@schedule.accepts("density, with numpy")
def _(step, start, end, final, initial=0.0):
    left = 1 - (np.float64(step) - start) / (end - start)
    density = (1 - final) + (final - initial) * left**3
    return 1 - np.where(step < start, 1 - initial, np.where(step > end, 1 - final, density))
