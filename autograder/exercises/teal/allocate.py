"""Exercise 14.6: greedy levels."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.teal import fixtures
from autograder.exercises.teal.allocate_mistakes import mistakes
from autograder.exercises.teal.fixtures import PROJECTIONS, Weights
from autograder.inside.case import Case, call

Distributions = dict[str, tuple[Tensor, Tensor]]
APART = 5e-3  # by how much of its size the least error of a step is less than the next one
NEAR = 1e-6  # inputs nearer to a threshold, as a share of it, might be on its other side in float32


def searched(x: Tensor, weights: Weights, distributions: Distributions, target: float, step: float = 0.05):
    """Levels, effective sparsity, the levels a step before, and whether another precision would have gone the same way."""
    x, weights = x.double(), fixtures.double(weights)
    dense = fixtures.block(x, weights, lambda name, h: h)
    sizes = {name: weights[name].numel() for name in distributions}
    levels, effective, clear = dict.fromkeys(distributions, 0.0), 0.0, True
    before = levels
    while effective < target:
        found = []
        for name in distributions:
            if levels[name] < 1:
                trial = levels | {name: levels[name] + step * weights["q"].numel() / sizes[name]}
                limits = {n: fixtures.limit(*distributions[n], p) for n, p in trial.items()}
                error, gap = fixtures.tried(x, weights, dense, limits)
                found.append((error, trial))
                clear &= gap > NEAR
        found.sort(key=lambda pair: pair[0])
        before, levels = levels, found[0][1]
        effective = sum(levels[name] * sizes[name] for name in sizes) / sum(sizes.values())
        clear &= len(found) < 2 or found[1][0] > (1 + APART) * found[0][0]
        if any(size != weights["q"].numel() for size in sizes.values()):  # else no size is divided by, and numbers are exact
            clear &= abs(effective - target) > 1e-4 and all(abs(p - 1) > 1e-4 for p in levels.values())
        if not clear:
            break
    return levels, effective, before, clear


def reference(
    x: Tensor, weights: Weights, distributions: Distributions, target: float, step: float = 0.05
) -> tuple[dict, float]:
    return searched(x, weights, distributions, target, step)[:2]


allocate = Exercise(
    "teal.allocate",
    defines="allocate",
    title="Greedy levels",
    minutes=20,
    difficulty=3,
    hints=(
        "One step: for each projection make a copy of the levels with this one raised, and ask block_error. Keep the copy that hurts least. Repeat until "
        "enough is skipped.",
        "A projection of twice the size rises by half of the step, so that each rise saves as much. What is skipped is the mean of the levels, weighted by "
        "size. A projection at 1 or above is not raised any more. "
        "The search ends with the first levels that skip the target or more.",
        "`size = {n: weights[n].numel() / weights['q'].numel() for n in distributions}`; in a `while effective < target:` make `trials = [levels | {n: "
        "levels[n] + step / size[n]} for n in levels if levels[n] < 1]` and take `levels = min(trials, key=error)`, where error makes thresholds of the "
        "trial's levels, `{n: threshold(*distributions[n], p) for n, p in trial.items()}`, and gives them to block_error.",
    ),
    reference=reference,
    misconceptions=mistakes,
)

WIDTHS = (12, 4, 2, 6, 17)  # hidden, heads, kv_heads, head_dim, inner
OTHERS = (10, 4, 1, 4, 26)


def case(
    g: torch.Generator,
    batch: int,
    tokens: int,
    widths: tuple[int, ...],
    target: float,
    step: float | None,  # None: the default
    names=PROJECTIONS,
    accept=lambda levels, before: True,
    faint: str = "",
) -> Case:
    given = () if step is None else (step,)

    def draw():
        weights = fixtures.layer(g, *widths)
        if faint:  # it hardly hurts
            weights[faint] *= 0.03
        x = fixtures.inputs(g, batch, tokens, widths[0])
        reads = fixtures.dense_reads(x, weights)
        return x, weights, {name: fixtures.distribution(reads[name]) for name in names}, target, *given

    def fine(drawn) -> bool:
        levels, _, before, clear = searched(*drawn)
        return clear and accept(levels, before)

    return call(*fixtures.redraw(draw, fine))


@allocate.stage(
    "one step",
    points=1,
    exposes="Each projection is raised by itself, by step / size; the rise that hurts the block least is kept. Sizes are in units of the queries' matrix.",
)
def _(g):
    for names in (PROJECTIONS, ("o", "up", "down"), ("k", "v", "gate")):
        yield case(g, 1, 24, WIDTHS, 0.01, 0.4, names)
        yield case(g, 2, 17, OTHERS, 0.01, 0.3, names)


@allocate.stage(
    "again and again",
    points=1,
    exposes="Every step tries all projections anew, on top of the levels that are there: which one hurts least changes.",
)
def _(g):
    def several(levels, before):
        return sum(p > 0 for p in levels.values()) > 1

    yield case(g, 1, 24, WIDTHS, 0.12, 0.25, accept=several)
    yield case(g, 2, 17, WIDTHS, 0.2, 0.3, ("o", "gate", "up", "down"), several)
    yield case(g, 1, 30, OTHERS, 0.15, 0.25, accept=several)
    yield case(g, 1, 24, WIDTHS, 0.046, None, ("o", "up", "down"))  # three steps of 0.0207; others do not come to as much


@allocate.stage(
    "until enough is skipped",
    points=1,
    exposes="It ends when the mean of the levels, weighted by size, is the target or more. A level may rise above 1 in a step, and counts as it is; then it "
    "is not raised again, nor if it is just 1.",
    pure=True,
)
def _(g):
    def over(levels, before):
        return max(before.values()) > 1  # and a step follows

    yield case(g, 1, 20, WIDTHS, 0.3, 0.6, ("q", "k", "v", "o"), over, "v")
    yield case(g, 1, 20, OTHERS, 0.25, 0.9, PROJECTIONS, over, "k")
    yield case(g, 2, 15, WIDTHS, 0.55, 0.55, ("k", "gate", "down"), over, "k")
    yield case(g, 1, 24, WIDTHS, 0.33, 0.4)
    # just 1, and then just the target
    yield case(g, 1, 20, WIDTHS, 0.75, 0.5, ("q", "o"), lambda levels, before: before["q"] == 1, "q")


def error_of(x: Tensor, weights: Weights, distributions: Distributions):
    """The error by levels."""
    dense = fixtures.block(x, weights, lambda name, h: h)

    def error(levels):
        limits = {name: fixtures.limit(*distributions[name], p) for name, p in levels.items()}
        sparse = fixtures.block(x, weights, lambda name, h: fixtures.sparse(h, limits[name]) if name in limits else h)
        return (dense - sparse)[:, -(x.shape[1] // 4) :].norm(dim=1).mean().item()

    return error


def zeroed(x: Tensor, t: float) -> Tensor:
    half = x.shape[1] // 2
    return torch.cat([x[:, :-half], x[:, -half:] * (x[:, -half:].abs() > t)], dim=1)


@allocate.accepts("as in the authors' code")
def _(x, weights, distributions, target, step=0.05):
    dense = fixtures.block(x, weights, lambda name, h: h)

    def calculate_error(limits):
        new = fixtures.block(x, weights, lambda name, h: zeroed(h, limits[name]) if name in limits else h)
        tokens = int(0.25 * x.size(1))
        return torch.norm(dense[:, -tokens:] - new[:, -tokens:], dim=1).mean().item()

    projs = list(distributions)
    weight = {proj: weights[proj].numel() / weights["q"].numel() for proj in projs}
    sparsities = dict.fromkeys(projs, 0.0)
    effective = 0.0
    while effective < target:
        best_error, best_proj = float("inf"), None
        for proj in projs:
            if sparsities[proj] >= 1:
                continue
            trial = dict(sparsities)
            trial[proj] += step / weight[proj]
            error = calculate_error({p: fixtures.limit(*distributions[p], s) for p, s in trial.items()})
            if error < best_error:
                best_error, best_proj = error, proj
        sparsities[best_proj] += step / weight[best_proj]
        effective = sum(sparsities[p] * weight[p] for p in projs) / sum(weight.values())
    return sparsities, effective


@allocate.accepts("min over names, by recursion")
def _(x, weights, distributions, target, step=0.05):
    error = error_of(x, weights, distributions)
    numbers = {name: weights[name].numel() for name in distributions}
    rise = {name: step * weights["q"].numel() / count for name, count in numbers.items()}

    def go_on(levels):
        effective = sum(levels[name] * count for name, count in numbers.items()) / sum(numbers.values())
        if effective >= target:
            return levels, effective

        def hurts(name):
            return error({n: p + rise[n] * (n == name) for n, p in levels.items()})

        best = min((name for name in levels if levels[name] < 1), key=hurts)
        return go_on({**levels, best: levels[best] + rise[best]})

    return go_on(dict.fromkeys(distributions, 0.0))


@allocate.accepts("levels in a tensor")
def _(x, weights, distributions, target, step=0.05):
    names, error = list(distributions), error_of(x, weights, distributions)
    share = torch.tensor([float(weights[n].numel()) for n in names], dtype=torch.float64)
    rise = step * weights["q"].numel() / share
    share = share / share.sum()
    p = torch.zeros(len(names), dtype=torch.float64)
    while (p * share).sum() < target:
        errors = torch.full((len(names),), torch.inf)
        for i in range(len(names)):
            if p[i] < 1:
                q = p.clone()
                q[i] += rise[i]
                errors[i] = error(dict(zip(names, q.tolist(), strict=True)))
        p[errors.argmin()] += rise[errors.argmin()]
    return dict(zip(names, p.tolist(), strict=True)), float((p * share).sum())
