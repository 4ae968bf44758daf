"""The front against its definition, point by point."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity_edu.combine.front import front

NUMBERS = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf, -math.inf, math.nan])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12))
def test_who_is_on_it_is_beaten_by_nobody(points):
    costs, losses = (torch.tensor([point[k] for point in points], dtype=torch.float64) for k in (0, 1))
    there = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]

    def beaten(i):
        return any(all(a <= b for a, b in zip(points[j], points[i], strict=True)) and points[j] != points[i] for j in there)

    expected = sorted((i for i in there if not beaten(i)), key=lambda i: (points[i][0], i))
    found = front(costs, losses)
    assert found.dtype == torch.int64
    assert found.tolist() == expected


def test_costs_may_be_bytes():
    costs = torch.tensor([4_000_000_001, 4_000_000_000, 4_000_000_002])
    assert front(costs, torch.tensor([1.0, 2.0, 1.0])).tolist() == [1, 0]


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((2, 2), (2, 2)), ((), ())])
def test_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match=r"costs and losses must be \(points,\)"):
        front(*map(torch.zeros, shapes))
