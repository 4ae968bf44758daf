"""Exercise 17.3: one budget for several techniques."""

import itertools
import math

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.combination.allocate_mistakes import FINE, mistakes, searched
from autograder.exercises.combination.fixtures import redraw, some
from autograder.inside.case import Case, call
from autograder.inside.prices import Prices

allocate = Exercise(
    "combination.allocate",
    defines="allocate",
    title="One budget for several techniques",
    minutes=15,
    difficulty=2,
    hints=(
        "Try all combinations of settings. First see whether one is within the budget, then ask what it costs, then compare it with the best so far.",
        "`itertools.product` gives the combinations in lexicographic order, for any number of techniques. Two candidates are compared by cost, then damage, then "
        "order: that is how Python compares tuples.",
        "For each `settings` of `itertools.product(*(range(len(losses)) for losses in damage))` take `hurt = sum(losses[i] for losses, i in zip(damage, settings))`; "
        "if `hurt <= budget`, append `(cost(settings), hurt, settings)` to a list. The answer is `min(found)[-1]`; where the list is empty, raise a ValueError.",
    ),
    reference=searched,
    misconceptions=mistakes,
)


def damages(g: torch.Generator, *sizes: int, helpful: bool = False) -> list[list[float]]:
    """Damages by technique and setting, in steps of 1 / 1024, so that sums are exact in whatever order."""

    def of(size: int) -> list[float]:
        rest = [FINE * some(g, -150 if helpful else 20, 300) for _ in range(size - 1)]
        return [0.0, *(rest if helpful else sorted(rest))]

    return [of(size) for size in sizes]


def prices(g: torch.Generator, damage: list[list[float]], steps: int = 10**6, least: int = 10**6) -> Tensor:
    """Costs that are nearly a sum over techniques, of which more damage saves more, in whole steps."""
    table = torch.zeros([len(losses) for losses in damage], dtype=torch.float64)
    for i, losses in enumerate(damage):
        saved = torch.tensor(losses, dtype=torch.float64) * (0.5 + torch.rand(len(losses), generator=g))
        table -= saved.view([-1 if j == i else 1 for j in range(len(damage))])
    table = table * (0.7 + 0.6 * torch.rand(table.shape, generator=g))
    table = (table - table.min()) / (table.max() - table.min())
    return least + (steps * table).round().to(torch.int64)


def case(g: torch.Generator, draw, accept=lambda table, damage, budget, best: True, watched: bool = False) -> Case:
    """Of what is drawn until it is accepted; `watched`: with what cost is asked for."""

    def fine(drawn) -> bool:
        try:
            return accept(*drawn, searched(Prices(drawn[0]).build([]), *drawn[1:]))
        except ValueError:
            return False

    table, damage, budget = redraw(draw, fine)
    return call(Prices(table, watched), damage, budget, changes=(0,) if watched else ())


def within(damage, budget):
    """(damage, settings) of what is within the budget, in lexicographic order."""
    every = itertools.product(*(range(len(losses)) for losses in damage))
    return [(hurt, s) for s in every if (hurt := sum(losses[i] for losses, i in zip(damage, s, strict=True))) <= budget]


def in_doubt(table, damage, budget, best) -> bool:
    """Whether settings with more damage than the best are within the budget, and none of the techniques is at an end."""
    hurt = sum(losses[i] for losses, i in zip(damage, best, strict=True))
    return hurt < max(within(damage, budget))[0] and sum(i > 0 for i in best) > 1


def drawn(g: torch.Generator, *sizes: int, **options):
    def draw():
        damage = damages(g, *sizes, **options)
        return prices(g, damage), damage, FINE * (some(g, 200, 400) + 0.5)  # no sum is just the budget

    return draw


@allocate.stage(
    "the cheapest within the budget",
    points=1,
    exposes="Of all combinations whose damages sum to at most the budget, the cheapest counts: not the one that a greedy search ends at, nor the one that uses most of "
    "the budget.",
)
def _(g):
    yield case(g, drawn(g, 4, 5), in_doubt)
    yield case(g, drawn(g, 3, 4, 3), lambda *of: in_doubt(*of) and of[3][1] == 3)  # which the first technique has not
    yield case(g, drawn(g, 5, 3, 4), lambda *of: in_doubt(*of) and of[3][2] > 0)


@allocate.stage(
    "equal costs, and just the budget",
    points=1,
    exposes="A sum that equals the budget is within it. Of equal costs the least damage counts, and of equal damages the first settings in lexicographic order. Bytes "
    "are whole numbers, however large.",
)
def _(g):
    def just():
        damage = damages(g, 4, 4, 3)
        return prices(g, damage), damage, FINE * some(g, 200, 500)

    def sums_to_it(table, damage, budget, best):
        return sum(losses[i] for losses, i in zip(damage, best, strict=True)) == budget

    yield case(g, just, sums_to_it)

    def just_not():
        table, damage, budget = redraw(just, lambda drawn: sums_to_it(*drawn, searched(Prices(drawn[0]).build([]), *drawn[1:])))
        return table, damage, budget - 2.0**-20

    yield case(g, just_not)

    def coarse(few: int):
        damage = [[0.0, *(64 * FINE * (1 + i // few) for i in range(3))] for _ in range(3)]
        table = 10**6 + torch.randint(5, (4, 4, 4), generator=g)  # a dozen for each cost
        return table, damage, 64 * FINE * some(g, 3, 5)

    def tied(again: bool):
        def accept(table, damage, budget, best):
            rows = [(int(table[s]), hurt, s) for hurt, s in within(damage, budget)]
            alike = [row for row in rows if row[0] == int(table[best])]
            least = [row for row in alike if row[1] == min(alike, key=lambda row: row[1])[1]]
            most = max(alike, key=lambda row: row[1])
            if len({best, alike[0][2], alike[-1][2], most[2]}) < 4 or (len(least) > 1) != again:
                return False
            lowest = min(reversed(least), key=lambda row: sum(row[2]))
            return not again or (least[-1] != alike[-1] and lowest[2] not in (best, least[-1][2]))

        return accept

    yield case(g, lambda: coarse(1), tied(False))
    yield case(g, lambda: coarse(2), tied(True))
    damage = damages(g, 4, 3)
    yield call(Prices(prices(g, damage, 40, 4 * 10**9)), damage, 1.0)


@allocate.stage(
    "any number of techniques, any damages",
    points=1,
    exposes="There may be one technique or more, each with settings of its own number. A setting may lower the loss, and so make room for another technique, or for a "
    "budget below 0. If nothing is within the budget, raise a ValueError.",
)
def _(g):
    def more_is_dearer(table, damage, budget, best):
        more = (s for hurt, s in within(damage, budget) if s != best and all(i >= j for i, j in zip(s, best, strict=True)))
        return any(best) and any(more)

    yield case(g, drawn(g, 7), more_is_dearer)
    yield case(g, drawn(g, 2, 2, 3, 4, 2), lambda *of: more_is_dearer(*of) and of[3][3] > 1)

    def needs_help(table, damage, budget, best):
        """Part of the damages, from the front, exceeds the budget, and so does each end alone."""
        found = [losses[i] for losses, i in zip(damage, best, strict=True)]
        return found[0] > budget and found[-1] < 0

    yield case(g, drawn(g, 4, 3, 4, helpful=True), needs_help)

    def helps_first(table, damage, budget, best):
        """No sum from the front exceeds the budget, though the sum of sizes does."""
        found = [losses[i] for losses, i in zip(damage, best, strict=True)]
        return sum(map(abs, found)) > budget >= max(itertools.accumulate(found))

    yield case(g, drawn(g, 4, 3, 4, helpful=True), helps_first)

    def below():
        damage = damages(g, 3, 4, helpful=True)
        return prices(g, damage), damage, -FINE * (some(g, 30, 90) + 0.5)

    yield case(g, below, lambda table, damage, budget, best: len(within(damage, budget)) > 1)
    damage = damages(g, 3, 3)
    yield call(Prices(prices(g, damage)), damage, -FINE * some(g, 1, 5))


@allocate.stage(
    "no cost asked for in vain",
    points=1,
    exposes="cost takes long: it is called once for each combination within the budget, and not for others. damage stays as it is.",
    pure=True,
)
def _(g):
    def few(table, damage, budget, best):
        rows = within(damage, budget)
        return 5 < len(rows) < table.numel() / 2 and max(rows)[1] != best

    yield case(g, drawn(g, 4, 4, 3), few, watched=True)
    yield case(g, drawn(g, 5, 3), few, watched=True)


@allocate.accepts("sorted by damage")
def _(cost, damage, budget):
    within = [
        (sum(map(list.__getitem__, damage, settings)), settings)
        for settings in itertools.product(*map(range, map(len, damage)))
    ]
    within = sorted(row for row in within if row[0] <= budget)
    if not within:
        raise ValueError("nothing is within the budget")
    return min(within, key=lambda row: cost(row[1]))[1]  # the first of equal costs


@allocate.accepts("technique by technique, by recursion")
def _(cost, damage, budget):
    def combinations(i, settings, hurt):
        if i == len(damage):
            if hurt <= budget:
                yield settings, hurt
            return
        for setting, more in enumerate(damage[i]):
            yield from combinations(i + 1, (*settings, setting), hurt + more)

    best = None
    for settings, hurt in combinations(0, (), 0.0):
        found = cost(settings), hurt
        if best is None or found < best[0]:
            best = found, settings
    if best is None:
        raise ValueError(f"budget too small: {budget}")
    return best[1]


@allocate.accepts("numbers of combinations, damages in tensors")
def _(cost, damage, budget):
    sizes, settings = [len(losses) for losses in damage], []
    for number in range(math.prod(sizes)):
        digits = []
        for size in reversed(sizes):
            number, digit = divmod(number, size)
            digits.insert(0, digit)
        settings.append(tuple(digits))
    sums = torch.zeros(1, dtype=torch.float64)
    for losses in damage:
        sums = (sums[:, None] + torch.tensor(losses, dtype=torch.float64)).flatten()
    costs = torch.tensor([cost(s) if fits else 2**62 for s, fits in zip(settings, sums <= budget, strict=True)])
    if not (sums <= budget).any():
        raise ValueError("no combination fits")
    hurt = torch.where(costs == costs.min(), sums, torch.inf)
    return settings[int((hurt == hurt.min()).nonzero()[0])]
