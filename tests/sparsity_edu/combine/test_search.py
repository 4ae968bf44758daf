"""The search against a world whose losses and bytes are known."""

import itertools
import math
from dataclasses import replace

import pytest

from sparsity_edu.combine import Recipe
from sparsity_edu.combine.evaluation import Row
from sparsity_edu.combine.search import combinations, predict, search, technique

NONE = Row("", "", "", 1, 0, 0, 0, 0, 0, 0, 1000, 0, 200, 1, 1, 0, (2.0, 4.0))  # a dense model reads 1,000 + 200 bytes


def part(name, **sections):
    return Recipe.of({"name": name} | sections)


HALF = part("half", weights={"method": "wanda", "sparsity": 0.5})
THIRD = part("third", weights={"method": "wanda", "sparsity": 0.3})
CUT = part("cut", weights={"method": "shrink", "params": 1000})
SKIP = part("skip", activations={"sparsity": 0.4})
MORE = part("more", activations={"sparsity": 0.6})
PAGES = part("pages", cache={"policy": "quest", "budget": 64})
PARTS = [HALF, THIRD, SKIP, MORE, PAGES]
DAMAGE = {"half": 0.3, "third": 0.05, "cut": 0.4, "skip": 0.1, "more": 0.35, "pages": 0.02}
SHARE = {"half": (0.55, 1), "third": (0.75, 1), "cut": (0.5, 0.6), "skip": (0.6, 1), "more": (0.4, 1), "pages": (1, 0.25)}


def world(gain=0.0):
    """Measures a recipe: what pairs of weights and inputs add is `gain` times the product of their damages."""

    def measure(recipe):
        names = recipe.name.split(", ") if recipe.name != "dense" else []
        loss = 3.0 + sum(DAMAGE[name] for name in names)
        by_kind = {technique(part): DAMAGE[part.name] for part in [*PARTS, CUT] if part.name in names}
        loss += gain * by_kind.get("weights", 0) * by_kind.get("activations", 0)
        shares = [SHARE[name][0] for name in names]
        weights = 1000 * (math.prod(shares) if "cut" in names else min(shares, default=1))
        cache = 200 * math.prod(SHARE[name][1] for name in names)
        return replace(
            NONE, recipe=recipe.name, losses=(loss - 1, loss + 1), weights_read=round(weights), cache_read=round(cache)
        )

    return measure


def test_combinations_have_at_most_one_setting_of_each_technique():
    found = combinations([*PARTS, Recipe(), part("two", activations={"sparsity": 0.1}, cache={"policy": "h2o", "budget": 4})])
    names = [tuple(one.name for one in parts) for parts in found]
    assert names[0] == ()
    assert sorted(names) == sorted(
        tuple(filter(None, chosen)) for chosen in itertools.product(("", "half", "third"), ("", "skip", "more"), ("", "pages"))
    )
    assert [len(one) for one in names] == sorted(len(one) for one in names)
    three = found[HALF, MORE, PAGES]
    assert (three.name, three.weights, three.activations, three.cache) == (
        "half, more, pages", HALF.weights, MORE.activations, PAGES.cache,
    )  # fmt: skip


def test_a_long_name_is_cut():
    long = [replace(SKIP, name="s" * 60), replace(PAGES, name="p" * 60)]
    assert max(len(recipe.name) for recipe in combinations(long).values()) == 80


def test_recipes_that_cannot_be_combined_are_refused():
    with pytest.raises(ValueError, match="recipes must have some of one technique"):
        combinations([Recipe()])
    with pytest.raises(ValueError, match="must have the same calibration and kernels"):
        combinations([SKIP, replace(HALF, kernels="dense")])


def measured(gain, *several):
    """All parts alone, and some combinations."""
    every, measure = combinations([*PARTS, CUT]), world(gain)
    return every, {parts: measure(every[parts]) for parts in every if len(parts) < 2 or parts in several}


def test_at_first_damages_add_up_and_bytes_are_those_that_execution_reads():
    every, rows = measured(0.0)
    for one in predict(every, rows):
        true = world(0.0)(one.recipe)
        assert one.loss == pytest.approx(true.loss)
        assert one.read == pytest.approx(true.read, abs=1)


def test_what_a_pair_adds_is_learned_for_its_techniques_and_no_others():
    every, rows = measured(20.0, (HALF, SKIP), (THIRD, MORE))
    found = {one.parts: one for one in predict(every, rows)}
    for parts in ((HALF, MORE), (THIRD, SKIP, PAGES)):
        true = world(20.0)(every[parts]).loss
        assert found[parts].loss == pytest.approx(true, abs=0.02)
        assert true - 3.0 - sum(DAMAGE[one.name] for one in parts) > 0.09  # what adding up would miss
    assert found[HALF, PAGES].loss == pytest.approx(3.32, abs=1e-3)
    assert found[HALF, SKIP].loss == rows[HALF, SKIP].loss


def test_a_loss_of_infinity_teaches_nothing():
    every, rows = measured(0.0, (HALF, MORE))
    rows[HALF, MORE] = replace(rows[HALF, MORE], losses=(math.inf, 1.0))
    assert all(math.isfinite(one.loss) for one in predict(every, rows) if one.parts != (HALF, MORE))


def test_the_search_measures_parts_then_what_looks_best_within_the_budget():
    seen = list(search(world(), PARTS, 700, 2))
    assert [row.recipe for _, row in seen] == [
        "dense",
        "half",
        "third",
        "skip",
        "more",
        "pages",
        "skip, pages",
        "third, skip, pages",
    ]
    assert [candidate.loss for candidate, _ in seen] == pytest.approx([row.loss for _, row in seen])


def test_the_search_learns_from_what_it_measures():
    """Weights and inputs together cost far more than their sum: of the second such pair that is predicted."""
    seen = {row.recipe: (candidate, row) for candidate, row in search(world(200.0), PARTS, 700, 5)}
    first, second = seen["third, skip, pages"], seen["third, more"]
    assert (first[0].loss, first[1].loss) == pytest.approx((3.17, 4.17))
    assert second[1].loss == pytest.approx(6.9)
    assert 5 < second[0].loss < 7


def test_the_search_ends_when_nothing_fits():
    assert len(list(search(world(), PARTS, 10, 5))) == 6
    assert len(list(search(world(), PARTS, 10**6, 100))) == 18
