"""An open-ended search for the best recipe within a budget of bytes: predict, measure what looks best, learn, go on.

    1. measure each technique alone, in each of its settings
    2. predict all combinations: damages add up, and pairs of techniques add something of their own
    3. measure the combination within the budget that is predicted to be best, and learn what pairs add; again

The loss that is predicted is that of the dense model, plus the damages d_i of the parts, plus g_ij d_i d_j for each pair of
techniques: those that hurt hurt more together, or less. What was measured tells g; before, it is 0. Bytes are predicted too:
weights and inputs share one saving (execution.py), the cache has its own, and a smaller model saves a share of everything.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from sparsity_edu.combine.evaluation import Row
from sparsity_edu.combine.recipe import SHRINK, TECHNIQUES, Recipe

PAIRS = tuple(itertools.combinations(TECHNIQUES, 2))

Parts = tuple[Recipe, ...]  # of a combination, at most one for each technique


@dataclass(frozen=True)
class Candidate:
    """A combination, and what is predicted of it; of one that was measured, what was measured."""

    recipe: Recipe
    parts: Parts
    loss: float
    read: float  # bytes of a token


def technique(recipe: Recipe) -> str | None:
    """The technique of a recipe that has just one, None of others."""
    return recipe.techniques[0] if len(recipe.techniques) == 1 else None


def combinations(recipes: Iterable[Recipe]) -> dict[Parts, Recipe]:
    """All combinations of recipes that have one technique each, the dense model first and then by the number of parts.

    Args:
        recipes: several for a technique are its settings. Recipes of several techniques, and dense ones, are left out.

    Returns:
        By parts, in the order of `TECHNIQUES`: the recipe that does all of it.

    Raises:
        ValueError: no recipe has one technique, or they are not calibrated alike or not run with the same kernels.
    """
    settings = {name: [recipe for recipe in recipes if technique(recipe) == name] for name in TECHNIQUES}
    parts = [recipe for alike in settings.values() for recipe in alike]
    if not parts:
        raise ValueError("recipes must have some of one technique: weights, activations or cache")
    if len({(one.calibration, one.kernels) for one in parts}) > 1:
        raise ValueError("recipes of one technique must have the same calibration and kernels, to be combined")

    def together(chosen: Parts) -> Recipe:
        name = ", ".join(part.name for part in chosen) or "dense"
        return Recipe(
            name if len(name) <= 80 else f"{name[:79]}…",
            **{technique(part): getattr(part, technique(part)) for part in chosen},
            calibration=parts[0].calibration,
            kernels=parts[0].kernels,
        )

    every = itertools.product(*((*alike, None) for alike in settings.values()))
    found = sorted((tuple(part for part in chosen if part) for chosen in every), key=len)
    return {chosen: together(chosen) for chosen in found}


def predict(recipes: Mapping[Parts, Recipe], rows: Mapping[Parts, Row]) -> list[Candidate]:
    """Loss and bytes of all combinations.

    Args:
        recipes: from `combinations`.
        rows: what was measured, the dense model and each part alone among it.

    Returns:
        Candidates in the order of `recipes`.
    """
    dense = rows[()]

    def damages(parts: Parts) -> dict[str, float]:
        return {technique(part): rows[(part,)].loss - dense.loss for part in parts}

    def products(parts: Parts) -> list[float]:
        """d_i d_j of each pair, 0 of techniques that are not there."""
        d = damages(parts)
        return [d.get(i, 0.0) * d.get(j, 0.0) for i, j in PAIRS]

    def beyond(parts: Parts) -> float:
        """What was measured beyond the sum of the damages."""
        return rows[parts].loss - dense.loss - sum(damages(parts).values())

    def predicted(parts: Parts) -> float:
        added = sum(g * product for g, product in zip(gains, products(parts), strict=True))
        return dense.loss + sum(damages(parts).values()) + added

    gains = _fit([(products(parts), beyond(parts)) for parts in rows if len(parts) > 1])
    return [
        Candidate(recipe, parts, rows[parts].loss, rows[parts].read)
        if parts in rows
        else Candidate(recipe, parts, predicted(parts), _bytes(parts, rows))
        for parts, recipe in recipes.items()
    ]


def _fit(seen: Sequence[tuple[list[float], float]]) -> list[float]:
    """The g of each pair, by ridge regression: about 3 is expected, and that a loss is off by 0.01."""
    seen = [(products, value) for products, value in seen if math.isfinite(sum(products) + value)]
    if not seen:
        return [0.0] * len(PAIRS)
    A, b = (torch.tensor(column, dtype=torch.float64) for column in zip(*seen, strict=True))
    return torch.linalg.solve(A.T @ A + (0.01 / 3) ** 2 * torch.eye(len(PAIRS), dtype=torch.float64), A.T @ b).tolist()


def _bytes(parts: Parts, rows: Mapping[Parts, Row]) -> float:
    """Of a token: of weights the smaller share of pruned ones and skipped inputs, but of a smaller model's inputs a share."""
    dense, alone = rows[()], [rows[(part,)] for part in parts]
    weights = [row.weights_read / dense.weights_read for row in alone]
    is_cut = any(part.weights is not None and part.weights.method == SHRINK for part in parts)
    of_weights = math.prod(weights) if is_cut else min(weights)
    of_cache = math.prod(row.cache_read / dense.cache_read for row in alone)
    return of_weights * dense.weights_read + of_cache * dense.cache_read


def search(
    measure: Callable[[Recipe], Row], recipes: Iterable[Recipe], budget: float, rounds: int
) -> Iterator[tuple[Candidate, Row]]:
    """Measure the dense model and each part alone, then so many combinations, the most promising one next.

    Args:
        measure: gives the row of a recipe; one that keeps rows (`evaluation.once`) makes the search go on where it was.
        recipes: of one technique each, see `combinations`.
        budget: bytes that a token may read.
        rounds: combinations to measure beyond the parts.

    Yields:
        What was predicted and what was measured, as it comes; of the dense model and the parts both are the same.

    Raises:
        ValueError: see `combinations`.
    """
    every, rows = combinations(recipes), {}
    for parts, recipe in every.items():
        if len(parts) < 2:
            rows[parts] = measure(recipe)
            yield Candidate(recipe, parts, rows[parts].loss, rows[parts].read), rows[parts]
    for _ in range(rounds):
        waiting = [one for one in predict(every, rows) if one.parts not in rows and one.read <= budget]
        if not waiting:
            return
        best = min(waiting, key=lambda one: one.loss)
        rows[best.parts] = measure(best.recipe)
        yield best, rows[best.parts]
