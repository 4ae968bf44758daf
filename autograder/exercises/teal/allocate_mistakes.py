"""Mistakes of exercise 14.6, and the right answer that they vary."""

from collections.abc import Callable

from torch import Tensor

from autograder.checking.exercise import Mistakes
from autograder.exercises.teal import fixtures
from autograder.exercises.teal.error_mistakes import measured
from autograder.exercises.teal.fixtures import Weights

mistakes = Mistakes()

Levels = dict[str, float]


def limits_of(distributions: dict, levels: Levels) -> Levels:
    return {name: fixtures.limit(*distributions[name], p) for name, p in levels.items()}


def by_queries(weights: Weights, names) -> Levels:
    return {name: weights[name].numel() / weights["q"].numel() for name in names}


def weighted(levels: Levels, size: Levels) -> float:
    return sum(levels[name] * size[name] for name in size) / sum(size.values())


def chosen(
    x: Tensor,
    weights: Weights,
    distributions: dict,
    target: float,
    step: float = 0.05,
    *,
    sizes: Callable = by_queries,
    skipped: Callable = weighted,
    rise: Callable = lambda step, size: step / size,
    best: Callable = min,
    error: Callable = measured,
    limits: Callable = limits_of,
    open_to: Callable = lambda p, rise: p < 1,
    result: Callable = lambda levels, effective: (levels, effective),
    most: int = 200,
) -> tuple[Levels, float]:
    """With its parts exchangeable, for mistakes in one part."""
    size = sizes(weights, distributions)
    levels = dict.fromkeys(distributions, 0.0)
    for _ in range(most):
        if skipped(levels, size) >= target:
            break
        names = [name for name in levels if open_to(levels[name], rise(step, size[name]))]
        if not names:
            break
        trials = [levels | {name: levels[name] + rise(step, size[name])} for name in names]
        levels = best(trials, key=lambda trial: error(x, weights, limits(distributions, trial)))
    return result(levels, skipped(levels, size))


def varied(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda *args, **options: chosen(*args, **options, **parts))


varied(
    "equal rises",
    "All your projections rise alike. A larger one saves more, so it rises by step / size.",
    rise=lambda step, size: step,
)
varied(
    "larger rises for larger ones",
    "You multiplied the step by the size. Divide, so that each rise saves as much.",
    rise=lambda step, size: step * size,
)
varied(
    "all alike",
    "You took all projections for equally large.",
    sizes=lambda weights, names: dict.fromkeys(names, 1.0),
)
varied(
    "sizes by outputs",
    "You measured a matrix by its outputs. Its size is the number of its weights.",
    sizes=lambda weights, names: {name: len(weights[name]) / len(weights["q"]) for name in names},
)
varied(
    "in units of the largest",
    "You measured sizes by the largest matrix. The unit is the queries' matrix.",
    sizes=lambda weights, names: {name: weights[name].numel() / max(weights[n].numel() for n in names) for name in names},
)
varied(
    "in units of the first",
    "You measured sizes by the first projection that has a distribution. The unit is the queries' matrix.",
    sizes=lambda weights, names: {name: weights[name].numel() / weights[next(iter(names))].numel() for name in names},
)
varied(
    "the plain mean",
    "You stop at the plain mean of the levels. It is weighted by size: that is the share of the work.",
    skipped=lambda levels, size: sum(levels.values()) / len(levels),
)
varied(
    "the sum",
    "You did not divide by the sum of the sizes.",
    skipped=lambda levels, size: sum(levels[name] * size[name] for name in size),
)
varied(
    "over the whole block",
    "You divided by all seven matrices. The mean is over the projections that have a distribution.",
    skipped=lambda levels, size: weighted(levels, size) * len(size) / 7,
)
varied("the most harm", "You keep the rise that hurts most.", best=max)
varied("the first one", "You raise the first projection that you can. Compare the errors.", best=lambda trials, key: trials[0])
varied("one step only", "You made one step. Go on until the target is reached.", most=1)
varied(
    "levels for thresholds",
    "You gave levels to block_error. It wants thresholds: those of the distributions for these levels.",
    limits=lambda distributions, levels: levels,
)
varied(
    "the same distribution for all",
    "You took all thresholds from one distribution. Each projection has its own.",
    limits=lambda d, levels: {name: fixtures.limit(*d[next(iter(d))], p) for name, p in levels.items()},
)
varied(
    "clipped",
    "You cut levels at 1. They are returned as they are, though they count as 1 for the threshold.",
    result=lambda levels, e: ({n: min(p, 1.0) for n, p in levels.items()}, e),
)
varied(
    "never above 1",
    "You raise a projection only if it stays below 1. It may exceed 1 by its last rise.",
    open_to=lambda p, rise: p + rise <= 1,
)
varied(
    "beyond 1",
    "You go on raising projections that are at 1 or above. Nothing is left to skip there.",
    open_to=lambda p, rise: True,
)
varied(
    "raised at 1",
    "You raise a projection that is at 1 already. Only those below 1 are raised.",
    open_to=lambda p, rise: p <= 1,
)
varied("the share first", "You return the share first. Levels come first.", result=lambda levels, e: (e, levels))
varied(
    "the norm of a token",
    "Your error is another one. Use block_error.",
    error=lambda x, weights, limits: measured(x, weights, limits, size=lambda gap: gap.abs().amax()),
)


@mistakes(
    "more than the target",
    "You go on until more than the target is skipped. It ends when what is skipped is the target, or more.",
)
def _(x, weights, distributions, target, step=0.05):
    return chosen(x, weights, distributions, target + 1e-9, step)


@mistakes(
    "another step",
    "Without a step yours is another one. Its default is 0.05.",
)
def _(x, weights, distributions, target, step=0.1):
    return chosen(x, weights, distributions, target, step)


@mistakes("the target", "You return the target for what is skipped. The last step may go beyond it.")
def _(x, weights, distributions, target, step=0.05):
    return chosen(x, weights, distributions, target, step)[0], target


@mistakes("stopped before", "You stop one step too early: the first levels that reach the target are returned.")
def _(x, weights, distributions, target, step=0.05):
    size, steps = by_queries(weights, distributions), 0
    while weighted(chosen(x, weights, distributions, target, step, most=steps)[0], size) < target:
        steps += 1
    return chosen(x, weights, distributions, target, step, most=steps - 1)


@mistakes(
    "ranked once",
    "You compared the projections once and raised them in that order. After a rise others hurt less: try all of them in every step.",
)
def _(x, weights, distributions, target, step=0.05):
    size = by_queries(weights, distributions)
    alone = {name: {name: step / size[name]} for name in distributions}
    order = sorted(alone, key=lambda name: measured(x, weights, limits_of(distributions, alone[name])))
    levels = dict.fromkeys(distributions, 0.0)
    while weighted(levels, size) < target:
        name = next(n for n in order if levels[n] < 1)
        levels[name] += step / size[name]
    return levels, weighted(levels, size)


@mistakes(
    "each by itself", "You tried each rise with the other projections dense. They keep the levels that they have reached."
)
def _(x, weights, distributions, target, step=0.05):
    size = by_queries(weights, distributions)
    levels = dict.fromkeys(distributions, 0.0)
    while weighted(levels, size) < target:
        trials = {n: levels[n] + step / size[n] for n in levels if levels[n] < 1}
        best = min(trials, key=lambda n: measured(x, weights, limits_of(distributions, {n: trials[n]})))
        levels[best] = trials[best]
    return levels, weighted(levels, size)


@mistakes(
    "trials pile up", "Your trials change the levels themselves, so that all projections rise in each step. Work on copies."
)
def _(x, weights, distributions, target, step=0.05):
    size = by_queries(weights, distributions)
    levels = dict.fromkeys(distributions, 0.0)
    while weighted(levels, size) < target:
        for name in levels:
            levels[name] += step / size[name]
    return levels, weighted(levels, size)


@mistakes("uniform", "All your projections have one level. The point is to let those that bear it have more.")
def _(x, weights, distributions, target, step=0.05):
    return dict.fromkeys(distributions, target), target


@mistakes("what is added", "You compared how much the error grows for each unit of a level. Compare the errors themselves.")
def _(x, weights, distributions, target, step=0.05):
    size = by_queries(weights, distributions)
    levels = dict.fromkeys(distributions, 0.0)
    while weighted(levels, size) < target:
        trials = {n: levels | {n: levels[n] + step / size[n]} for n in levels if levels[n] < 1}
        best = min(trials, key=lambda n: measured(x, weights, limits_of(distributions, trials[n])) * size[n])
        levels = trials[best]
    return levels, weighted(levels, size)
