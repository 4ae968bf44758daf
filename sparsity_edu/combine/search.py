"""An open-ended search for the best recipe within a budget of bytes: predict, measure what looks best, learn, go on.

    1. measure each setting of each technique alone
    2. predict all combinations: losses add up, and pairs of techniques add something of their own
    3. measure the combination within the budget of which the least loss is predicted, and learn what pairs add; again

The first prediction is that errors add up. With damages d_i of the settings alone, a pair adds g_ij d_i d_j: techniques that hurt
hurt more together, or less, and by how much is fitted to what was measured. Bytes of weights and of the cache are predicted too:
weights and inputs share one saving (execution.py), a smaller model saves a share of both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from sparsity_edu.combine.evaluation import Row
from sparsity_edu.combine.recipe import SHRINK, Recipe

Setting = tuple[str, dict | None]  # a name, and a section of a recipe; None: without the technique
SECTIONS = ("weights", "activations", "cache")

GRID: dict[str, list[Setting]] = {
    "weights": [
        ("2:4", {"method": "sparsegpt", "pattern": "2:4"}),
        ("wanda 30 %", {"method": "wanda", "sparsity": 0.3}),
        ("cut to 110 M", {"method": "shrink", "params": 110_000_000}),
    ],
    "activations": [(f"skip {level:.0%}".replace("%", " %"), {"sparsity": level}) for level in (0.2, 0.3, 0.4, 0.5)],
    "cache": [(f"quest {budget}", {"policy": "quest", "budget": budget}) for budget in (64, 128, 256)],
}


@dataclass(frozen=True)
class Candidate:
    """A combination, and what is predicted of it."""

    recipe: Recipe
    names: tuple[str, ...]  # of the settings that are not "without"
    loss: float
    read: float  # bytes of a token


def combinations(grid: Mapping[str, Sequence[Setting]]) -> dict[tuple[str, ...], Recipe]:
    """All recipes of a grid, the dense one first, by the names of their settings."""
    found = {}
    for chosen in itertools.product(*([("", None), *grid.get(section, ())] for section in SECTIONS)):
        names = tuple(name for name, data in chosen if data is not None)
        sections = {section: data for section, (_, data) in zip(SECTIONS, chosen, strict=True) if data is not None}
        found[names] = Recipe.of({"name": ", ".join(names) or "dense"} | sections)
    return found


def predict(recipes: Mapping[tuple[str, ...], Recipe], rows: Mapping[tuple[str, ...], Row]) -> list[Candidate]:
    """Loss and bytes of all combinations of which each part was measured alone.

    Args:
        recipes: from `combinations`.
        rows: what was measured, by the same names; the dense model and parts alone among them.

    Returns:
        Candidates in the order of `recipes`; those that were measured have what was measured.
    """
    dense = rows[()]
    kind = {name: section for names, recipe in recipes.items() if len(names) == 1 for name, section in [(names[0], _section(recipe))]}
    damage = {name: rows[(name,)].loss - dense.loss for name in kind if (name,) in rows}
    pairs = list(itertools.combinations(SECTIONS, 2))

    def terms(names: tuple[str, ...]) -> list[float]:
        """d_i d_j of each pair of techniques, 0 where one is not there."""
        by_kind = {kind[name]: damage[name] for name in names}
        return [by_kind.get(a, 0.0) * by_kind.get(b, 0.0) for a, b in pairs]

    known = [names for names in rows if len(names) > 1 and all(name in damage for name in names)]
    gains = torch.zeros(len(pairs), dtype=torch.float64)
    if known:
        left = [rows[names].loss - dense.loss - sum(damage[name] for name in names) for names in known]
        A, b = torch.tensor([terms(names) for names in known], dtype=torch.float64), torch.tensor(left, dtype=torch.float64)
        ridge = 1e-6 * torch.eye(len(pairs), dtype=torch.float64)  # a pair that was not seen adds nothing
        gains = torch.linalg.solve(A.T @ A + ridge, A.T @ b)
    found = []
    for names, recipe in recipes.items():
        if names in rows:
            found.append(Candidate(recipe, names, rows[names].loss, rows[names].read))
        elif all(name in damage for name in names):
            beyond = sum(gain * term for gain, term in zip(gains.tolist(), terms(names), strict=True))
            loss = dense.loss + sum(damage[name] for name in names) + beyond
            found.append(Candidate(recipe, names, loss, _bytes(recipe, [rows[(name,)] for name in names], dense)))
    return found


def _section(recipe: Recipe) -> str:
    return next(section for section in SECTIONS if getattr(recipe, section) is not None)


def _bytes(recipe: Recipe, alone: Sequence[Row], dense: Row) -> float:
    """Of a token: weights and inputs share one saving, but of a smaller model both are a share; the cache has its own."""
    shares = [row.weights_read / dense.weights_read for row in alone]
    is_cut = recipe.weights is not None and recipe.weights.method == SHRINK
    weights = torch.tensor(shares).prod().item() if is_cut else min(shares, default=1.0)
    cache = torch.tensor([row.cache_read / dense.cache_read for row in alone]).prod().item()
    return weights * dense.weights_read + cache * dense.cache_read


def search(
    measure: Callable[[Recipe], Row], budget: float, rounds: int, grid: Mapping[str, Sequence[Setting]] = GRID
) -> Iterator[tuple[Candidate, Row]]:
    """Measure the dense model and all parts alone, then so many combinations, the most promising one next.

    Args:
        measure: gives the row of a recipe; one that keeps rows (`evaluation.in_turn`) makes the search go on where it was.
        budget: bytes that a token may read.
        rounds: combinations to measure beyond the parts.
        grid: settings of each section.

    Yields:
        What was predicted and what was measured, as it comes; of the dense model and the parts both are the same.
    """
    recipes, rows = combinations(grid), {}
    for names, recipe in recipes.items():
        if len(names) < 2:
            rows[names] = measure(recipe)
            yield Candidate(recipe, names, rows[names].loss, rows[names].read), rows[names]
    for _ in range(rounds):
        waiting = [one for one in predict(recipes, rows) if one.names not in rows and one.read <= budget]
        if not waiting:
            return
        best = min(waiting, key=lambda one: one.loss)
        rows[best.names] = measure(best.recipe)
        yield best, rows[best.names]
