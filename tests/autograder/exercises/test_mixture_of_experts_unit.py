"""Unit 08: what its exercises take for right is what the library does, and its inputs are what they claim to be."""

import pytest
import torch
import torch.nn.functional as F
import worked

from autograder.exercises import find
from autograder.exercises.mixture_of_experts import fixtures
from autograder.exercises.mixture_of_experts.capacity import NAMES, expert_capacity
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


def routed(least=-1e9, out=-torch.inf, epsilon=0.0, probabilities=lambda z: z.softmax(dim=-1)):
    """Who holds logits within a limit, puts a number for -inf, or adds a small one to the sum."""

    def answer(logits, k, renormalise):
        z = logits.float().clamp(min=least)
        weights, experts = probabilities(torch.where(logits.isinf(), out, z)).topk(k, dim=-1)
        return experts, weights / (weights.sum(dim=-1, keepdim=True) + epsilon) if renormalise else weights

    return answer


def by_exponentials_in_float64(z):
    powers = z.double().exp()
    return (powers / powers.sum(dim=-1, keepdim=True)).float()


def by_log_sum_exp(logits, k, renormalise):
    best, experts = logits.float().topk(k, dim=-1)
    return experts, (best - (best if renormalise else logits.float()).logsumexp(dim=-1, keepdim=True)).exp()


def queued(dtype):
    def answer(experts, n_experts, capacity):
        hot = F.one_hot(experts.mT.flatten(-2), n_experts).to(dtype)
        position = (hot.cumsum(dim=-2) * hot).sum(dim=-1)
        return (position <= capacity).unflatten(-1, experts.mT.shape[-2:]).mT

    return answer


def listed(key):
    def answer(experts, n_experts, kept=None):
        flat = experts.flatten()
        choices = key(flat * len(flat) + torch.arange(len(flat))).argsort(stable=True)
        choices = choices if kept is None else choices[kept.flatten()[choices]]
        return choices, flat[choices].bincount(minlength=n_experts)

    return answer


def combined(worth=lambda weight: torch.ones_like(weight, dtype=torch.bool)):
    def answer(outputs, choices, weights):
        weight = weights.flatten()[choices]
        kept = worth(weight)
        rows = outputs[kept] * weight[kept][:, None]
        return torch.zeros(len(weights), outputs.shape[1]).index_add(0, choices[kept] // weights.shape[1], rows)

    return answer


SUBTLE = {
    "-100 for -inf": ("route", routed(out=-100.0)),
    "logits held above -700": ("route", routed(least=-700.0)),
    "1e-6 in the sum": ("route", routed(epsilon=1e-6)),
    "exponentials in float64": ("route", routed(probabilities=by_exponentials_in_float64)),
    "names with spaces": (
        "capacity",
        lambda *sizes: expert_capacity(*sizes[:-1], sizes[-1] if sizes[-1] is None else sizes[-1].strip()),
    ),
    "beginnings of names": (
        "capacity",
        lambda *sizes: expert_capacity(
            *sizes[:-1], next((n for n in NAMES if sizes[-1] and n.startswith(sizes[-1])), sizes[-1])
        ),
    ),
    "counted in float16": ("keep", queued(torch.float16)),
    "sorted by float16": ("dispatch", listed(torch.Tensor.half)),
    "no gradient for a weight of 0": ("combine", combined(worth=lambda weight: weight != 0)),
}


@pytest.mark.parametrize("seed", ["public", "a secret"])
@pytest.mark.parametrize("name", SUBTLE)
def test_subtle_mistakes_are_rejected(name, seed):
    id, wrong = SUBTLE[name]
    assert worked.first_difference(find(f"mixture_of_experts.{id}"), wrong, seed) is not None


def test_without_their_faults_they_are_right():
    rights = {"route": routed(), "keep": queued(torch.int16), "dispatch": listed(lambda key: key), "combine": combined()}
    for id, answer in {**rights, "capacity": expert_capacity}.items():
        assert worked.first_difference(find(f"mixture_of_experts.{id}"), answer) is None


@pytest.mark.parametrize("seed", ["public", "a secret"])
def test_the_log_of_the_sum_may_be_subtracted(seed):
    assert worked.first_difference(find("mixture_of_experts.route"), by_log_sum_exp, seed) is None
