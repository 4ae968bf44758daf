"""The cheapest settings, against a search by hand, and what the search asks for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity_edu.combine.allocation import allocate


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(-4, 8), max_size=3), min_size=1, max_size=3),
    st.integers(-6, 16),
    st.integers(0, 5**64 - 1),
)
def test_nothing_within_the_budget_is_cheaper(rest, budget, prices):
    damage = [[0, *losses] for losses in rest]
    asked = []

    def cost(chosen):
        asked.append(chosen)
        return prices // 5 ** sum(4**i * setting for i, setting in enumerate(chosen)) % 5

    def hurt(chosen):
        return sum(losses[i] for losses, i in zip(damage, chosen, strict=True))

    if sum(map(min, damage)) > budget:
        with pytest.raises(ValueError, match="budget must be at least the least damage"):
            allocate(cost, damage, budget)
        return
    best = allocate(cost, damage, budget)
    assert len(set(asked)) == len(asked)
    assert all(hurt(chosen) <= budget for chosen in asked)
    tried = list(asked)
    assert min((cost(chosen), hurt(chosen), chosen) for chosen in tried) == (cost(best), hurt(best), best)


def test_all_that_is_within_the_budget_is_tried():
    asked = []
    assert allocate(lambda s: asked.append(s) or -sum(s), [[0, 1, 2], [0, 1]], 2) == (1, 1)
    assert asked == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
