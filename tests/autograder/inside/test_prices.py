"""The callback of a search: what settings cost, and which were asked for."""

import pytest
import torch

from autograder.inside.case import call
from autograder.inside.observe import observe
from autograder.inside.prices import Prices
from autograder.inside.wire import decode_case, encode

TABLE = torch.tensor([[5, 7, 2], [4_000_000_001, 1, 0]])


def test_settings_have_a_cost_and_calls_are_told_whatever_their_order():
    cost = Prices(TABLE, noted=True).build([])
    assert [cost((1, 0)), cost((0, 1)), cost((1, 0))] == [4_000_000_001, 7, 4_000_000_001]
    assert observe(cost) == [[0, 1], [1, 0], [1, 0]]


def test_calls_that_nobody_asks_about_are_not_kept():
    cost = Prices(TABLE).build([])
    cost((0, 0))
    assert observe(cost) == []


def test_it_goes_to_another_process():
    [prices] = decode_case(encode(call(Prices(TABLE, noted=True)))).args
    assert torch.equal(prices.table, TABLE)
    assert prices.noted


@pytest.mark.parametrize(
    ("settings", "error"),
    [([0, 0], TypeError), ((0.0, 0), TypeError), ((0,), ValueError), ((2, 0), ValueError), ((0, -1), ValueError)],
)
def test_what_are_no_settings_is_told(settings, error):
    with pytest.raises(error, match=r"cost takes|integer"):
        Prices(TABLE).build([])(settings)
