"""Mistakes of exercise 17.3, and the right answer that they vary."""

import itertools
from collections.abc import Callable

import torch

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()

FINE = 2.0**-10  # damages are multiples of it

Cost = Callable[[tuple[int, ...]], int]
Damage = list[list[float]]


def cheapest(rows: list[tuple]) -> tuple:
    """Of (cost, damage, settings), in lexicographic order of the settings."""
    best = rows[0]
    for row in rows[1:]:
        if row[:2] < best[:2]:
            best = row
    return best


def hurts(damage: Damage, settings: tuple[int, ...]) -> float:
    return sum(damage[i][setting] for i, setting in enumerate(settings))


def searched(
    cost: Cost,
    damage: Damage,
    budget: float,
    *,
    total: Callable = hurts,
    fits: Callable = lambda hurt, budget: hurt <= budget,
    every: Callable = lambda damage: itertools.product(*(range(len(losses)) for losses in damage)),
    best: Callable = cheapest,
    asked: Callable = lambda cost, settings: cost(settings),
    none: Callable | None = None,
    result: Callable = lambda row: row[2],
) -> tuple[int, ...]:
    """With its parts exchangeable, for mistakes in one part."""
    rows = []
    for settings in every(damage):
        hurt = total(damage, settings)
        if fits(hurt, budget):
            rows.append((asked(cost, settings), hurt, settings))
    if not rows:
        if none:
            return none(damage)
        raise ValueError(f"nothing is within {budget}")
    return result(best(rows))


def varied(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda *args: searched(*args, **parts))


varied(
    "below the budget", "You left out sums that equal the budget. They are within it.", fits=lambda hurt, budget: hurt < budget
)
varied(
    "each by itself",
    "You compared each damage with the budget. It is their sum that counts.",
    total=lambda damage, settings: max(damage[i][setting] for i, setting in enumerate(settings)),
)
varied(
    "sizes of damages",
    "You summed the sizes of damages. One below 0 makes room for others.",
    total=lambda damage, settings: sum(abs(damage[i][setting]) for i, setting in enumerate(settings)),
)
varied(
    "not more than one technique",
    "You tried techniques one at a time. Their combinations count.",
    every=lambda damage: (
        tuple(setting if j == i else 0 for j in range(len(damage)))
        for i, losses in enumerate(damage)
        for setting in range(len(losses))
        if setting or i == 0
    ),
)
varied(
    "as many settings for all",
    "You gave all techniques as many settings as the first one. Each has its own number.",
    every=lambda damage: itertools.product(*(range(min(len(losses), len(damage[0]))) for losses in damage)),
)
varied(
    "two techniques",
    "You combined the first two techniques only. There may be any number.",
    every=lambda damage: (s for s in itertools.product(*(range(len(losses)) for losses in damage)) if not any(s[2:])),
)
varied(
    "never without",
    "You left out setting 0. A technique may stay unused.",
    every=lambda damage: itertools.product(*(range(1, len(losses)) for losses in damage)),
    none=lambda damage: (0,) * len(damage),
)
varied("the dearest", "You return the settings that cost the most.", best=lambda rows: max(rows))
varied(
    "the least damage",
    "You return what hurts least. The least cost counts, within the budget.",
    best=lambda rows: min(rows, key=lambda r: r[1:]),
)
varied(
    "the most damage",
    "You took what uses most of the budget for the cheapest. Ask for the cost.",
    best=lambda rows: max(rows, key=lambda row: (row[1], -row[0])),
)
varied(
    "the first of equal costs",
    "Of equal costs you take the first. The one with the least damage counts.",
    best=lambda rows: min(rows, key=lambda row: row[0]),
)
varied(
    "the last of equal costs",
    "Of equal costs you take the last. The one with the least damage counts.",
    best=lambda rows: min(reversed(rows), key=lambda row: row[0]),
)
varied(
    "more damage at equal costs",
    "Of equal costs you take the most damage. The least counts.",
    best=lambda rows: min(rows, key=lambda row: (row[0], -row[1])),
)
varied(
    "the last of equal damages",
    "Of equal costs and damages you take the last. The first in lexicographic order counts.",
    best=lambda rows: min(reversed(rows), key=lambda row: row[:2]),
)
varied(
    "by the sum of settings",
    "Of equal costs and damages you take the lowest settings. The first in lexicographic order counts.",
    best=lambda rows: min(reversed(rows), key=lambda row: (*row[:2], sum(row[2]))),
)
varied(
    "costs in float32",
    "You compared costs in float32, which cannot tell billions of bytes that differ by few.",
    asked=lambda cost, settings: torch.tensor(float(cost(settings)), dtype=torch.float32).item(),
)
varied(
    "asked twice",
    "You call cost twice for the same settings. It takes long: keep what it says.",
    asked=lambda cost, settings: min(cost(settings), cost(settings)),
)
varied(
    "none for nothing",
    "If nothing is within the budget, you return None. Raise a ValueError.",
    none=lambda damage: None,
)
varied(
    "all off for nothing",
    "If nothing is within the budget, you switch all techniques off. Raise a ValueError.",
    none=lambda damage: (0,) * len(damage),
)
varied("the cost", "You return the cost. Return the settings.", result=lambda row: row[0])
varied("all of it", "You return cost and damage as well. Return the settings alone.", result=lambda row: row)
varied(
    "counted from 1",
    "You count settings from 1. Without a technique is setting 0.",
    result=lambda row: tuple(setting + 1 for setting in row[2]),
)


@mistakes("asked for all", "You call cost for settings beyond the budget. It takes long: look at the damage first.")
def _(cost, damage, budget):
    known = {settings: cost(settings) for settings in itertools.product(*(range(len(losses)) for losses in damage))}
    return searched(known.__getitem__, damage, budget)


@mistakes("asked once more", "You call cost once more for what you have chosen.")
def _(cost, damage, budget):
    chosen = searched(cost, damage, budget)
    cost(chosen)
    return chosen


@mistakes("below 0 nothing fits", "You raise an error for a budget below 0. Settings that lower the loss may be within it.")
def _(cost, damage, budget):
    if budget < 0:
        raise ValueError(f"budget must not be negative, got {budget}")
    return searched(cost, damage, budget)


@mistakes(
    "given up early",
    "You give up a combination as soon as the first damages exceed the budget. A later one may lower the sum again.",
)
def _(cost, damage, budget):
    sums = [((), 0.0)]
    for losses in damage:
        sums = [((*s, i), hurt + more) for s, hurt in sums for i, more in enumerate(losses) if hurt + more <= budget]
    if not sums:
        raise ValueError(f"nothing is within {budget}")
    return cheapest([(cost(s), hurt, s) for s, hurt in sums])[2]


@mistakes(
    "greedy",
    "You raise one technique at a time, the one that saves most. That ends beside the cheapest combination: try all of them.",
)
def _(cost, damage, budget):
    settings, known = (0,) * len(damage), {}

    def priced(s):
        if s not in known:
            known[s] = cost(s)
        return known[s]

    if budget < 0:
        raise ValueError(f"nothing is within {budget}")
    while True:
        raised = [(*settings[:i], settings[i] + 1, *settings[i + 1 :]) for i in range(len(damage))]
        fitting = [
            s
            for s in raised
            if all(k < len(losses) for k, losses in zip(s, damage, strict=True)) and hurts(damage, s) <= budget
        ]
        if not fitting or min(map(priced, fitting)) >= priced(settings):
            return settings
        settings = min(fitting, key=priced)


@mistakes("used up", "You took the lists out of damage. It must stay as it is.")
def _(cost, damage, budget):
    chosen = searched(cost, damage, budget)
    damage.clear()
    return chosen
