"""Unit 08: what its exercises take for right is what the library does, and its inputs are what they claim to be."""

import torch
import worked

from autograder.exercises.mixture_of_experts import fixtures
from sparsity_edu.experts import layer, routing


def cases(id: str):
    """(arguments, keyword arguments, what the reference gives) of every case that gives a result."""
    return ((case.args, case.kwargs, result) for case, result in worked.cases(id))


def test_who_finds_room_is_as_in_the_library():
    for args, kwargs, kept in cases("mixture_of_experts.keep"):
        experts, n_experts, capacity = args or kwargs.values()
        place = routing.positions(experts.reshape(-1, *experts.shape[-2:]), n_experts)
        assert torch.equal(kept, (place < capacity).view_as(experts))


def test_lists_are_as_in_the_library():
    for (experts, n_experts, *kept), kwargs, (choices, counts) in cases("mixture_of_experts.dispatch"):
        to = routing.dispatch(experts, n_experts, *kept, **kwargs)
        assert torch.equal(choices, to.choices)
        assert torch.equal(counts, to.counts)


def test_capacities_are_as_in_the_library():
    sizes = [(args, size) for args, _, size in cases("mixture_of_experts.capacity")]
    assert {args[4] for args, _ in sizes} == set(routing.ROUNDINGS)
    for (tokens, n_experts, k, factor, rounding), size in sizes:
        assert size == routing.capacity(tokens, n_experts, factor, rounding, k=k)


def test_costs_are_as_in_the_library():
    for (d, f, n_experts, k, tokens), kwargs, (parameters, flops, read) in cases("mixture_of_experts.cost"):
        size = layer.size(d, f, n_experts, k, **kwargs)
        assert (parameters, flops) == (size.parameters, tokens * size.flops)
        met = layer.experts_read(tokens, n_experts, k)
        assert abs(read - (parameters - (n_experts - met) * 3 * d * f)) < 1e-9 * parameters


def test_no_rounding_decides_who_is_chosen():
    g = torch.Generator().manual_seed(0)
    z = fixtures.logits(g, 200, 9, spread=3.0)
    assert (z.sort(dim=-1).values.diff(dim=-1) > 0.019).all()
    x, router, up, down = fixtures.layer(g, 3, 40, 6, 5, 7, k=3)
    assert not fixtures.in_doubt(x.flatten(0, 1), router, 3).any()
    assert (x @ router.T).topk(3).indices.max() < 6  # the last expert reads nothing
    assert (up.shape, down.shape) == ((7, 10, 6), (7, 6, 5))


def test_a_router_that_is_blind_to_a_feature():
    x, router, *_ = fixtures.layer(torch.Generator().manual_seed(0), 2, 9, 6, 5, 4, blind=True)
    assert not router[:, 1].any()
    assert not x[..., 1].any()
