"""Routing against transformers' routers, hand-counted capacities, and loops over tokens."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DeepseekV2Config, DeepseekV3Config, MixtralConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

from sparsity_edu.experts.routing import (
    capacity,
    combine,
    dispatch,
    group_limited,
    positions,
    renormalised,
    router_logits,
    top_k,
)


def inputs(tokens=37, d=12, E=8, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, d, generator=generator) + 0.5
    return x, scale * torch.randn(E, d, generator=generator), generator


def gradients(output, *of):
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(9))
    return torch.autograd.grad((output * probe).sum(), of)


@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_equals_mixtrals_router(k):
    x, W, _ = inputs()
    router = MixtralTopKRouter(MixtralConfig(hidden_size=12, num_local_experts=8, num_experts_per_tok=k))
    router.load_state_dict({"weight": W})
    x.requires_grad_()
    logits, weights, experts = router(x)
    mine = W.clone().requires_grad_()
    routing = top_k(router_logits(x, mine), k, renormalise=True)
    assert torch.equal(routing.experts, experts)
    torch.testing.assert_close(routing.weights, weights, atol=1e-6, rtol=0)
    torch.testing.assert_close(routing.probs, logits.softmax(-1))
    for a, b in zip(gradients(routing.weights, x, mine), gradients(weights, x, router.weight), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_renormalised_weights_are_a_softmax_over_the_chosen_logits():
    x, W, _ = inputs()
    z = router_logits(x, W)
    routing = top_k(z, 3, renormalise=True)
    torch.testing.assert_close(routing.weights, z.gather(-1, routing.experts).softmax(-1))
    plain = top_k(z, 3, renormalise=False)
    torch.testing.assert_close(plain.weights, z.softmax(-1).gather(-1, plain.experts))
    torch.testing.assert_close(top_k(z, 3, renormalise=False, scale=16.0).weights, 16 * plain.weights)


def test_renormalising_a_single_choice_leaves_nothing_to_learn_from():
    x, W, _ = inputs()
    W.requires_grad_()
    z = router_logits(x, W)
    routing = top_k(z, 1, renormalise=True)
    assert (routing.weights == 1).all()
    [gone] = torch.autograd.grad(routing.weights.sum(), W, retain_graph=True)
    assert gone.abs().max() < 1e-6
    [left] = torch.autograd.grad(top_k(z, 1, renormalise=False).weights.sum(), W)
    assert left.abs().max() > 0.1


def test_half_precision_is_routed_in_float32():
    x, W, _ = inputs()
    z = router_logits(x.bfloat16(), W.bfloat16())
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, x.bfloat16().float() @ W.bfloat16().float().T)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(router_logits(x.bfloat16(), W.bfloat16()), z)
    assert top_k(z.bfloat16(), 2, renormalise=True).weights.dtype == torch.float32
    assert top_k(z.double(), 2, renormalise=True).weights.dtype == torch.float64


def deepseek_v3(E, k, groups, top_groups, renormalise=True):
    config = DeepseekV3Config(
        hidden_size=12, num_local_experts=E, n_routed_experts=E, num_experts_per_tok=k, n_group=groups, topk_group=top_groups,
        routed_scaling_factor=2.5, norm_topk_prob=renormalise,
    )  # fmt: skip
    return DeepseekV3TopkRouter(config)


@pytest.mark.parametrize(("E", "k", "groups", "top_groups"), [(16, 4, 4, 2), (8, 3, 2, 1), (12, 5, 1, 1), (24, 6, 8, 4)])
@pytest.mark.parametrize("renormalise", [True, False])
def test_equals_deepseek_v3s_gate(E, k, groups, top_groups, renormalise):
    x, W, generator = inputs(E=E, scale=0.4)
    bias = torch.randn(E, generator=generator) * 0.3 - 0.8  # mostly below 0: what is left out must not become 0
    router = deepseek_v3(E, k, groups, top_groups, renormalise)
    router.load_state_dict({"weight": W, "e_score_correction_bias": bias})
    x.requires_grad_()
    _, weights, experts = router(x)
    mine = W.clone().requires_grad_()
    routing = group_limited(
        router_logits(x, mine),
        k,
        bias=bias,
        groups=groups,
        top_groups=top_groups,
        renormalise=renormalise,
        scale=2.5,
        eps=1e-20,
    )
    order, theirs = routing.experts.argsort(-1), experts.argsort(-1)  # transformers does not sort the k
    assert torch.equal(routing.experts.gather(-1, order), experts.gather(-1, theirs))
    torch.testing.assert_close(routing.weights.gather(-1, order), weights.gather(-1, theirs), atol=1e-6, rtol=0)
    for a, b in zip(
        gradients(routing.weights.gather(-1, order), x, mine),
        gradients(weights.gather(-1, theirs), x, router.weight),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def deepseeks_gate(z, k, bias, groups, top_groups, scale):
    """The authors' code, a token at a time."""
    s = z.sigmoid()
    for token in s:
        selection = token if bias is None else token + bias
        parts = selection.view(groups, -1)
        if bias is None:
            scores = [part.max() for part in parts]
        else:
            scores = [part.sort(descending=True).values[:2].sum() for part in parts]
        best = sorted(range(groups), key=lambda g: -scores[g])[:top_groups]
        size = len(token) // groups
        allowed = [e for e in range(len(token)) if e // size in best]
        experts = sorted(allowed, key=lambda e: -selection[e])[:k]
        weights = token[experts]
        yield experts, (weights / weights.sum() * scale).tolist()


@pytest.mark.parametrize("biased", [True, False])
def test_equals_deepseeks_own_gate_with_bias_and_without(biased):
    x, W, generator = inputs(E=16, scale=0.4)
    bias = torch.randn(16, generator=generator) * 0.3 if biased else None
    z = router_logits(x, W)
    score = "top-2 sum" if biased else "max"
    routing = group_limited(z, 3, bias=bias, groups=4, top_groups=2, group_score=score, scale=2.5)
    expected = list(deepseeks_gate(z, 3, bias, 4, 2, 2.5))
    assert routing.experts.tolist() == [experts for experts, _ in expected]
    torch.testing.assert_close(routing.weights, torch.tensor([weights for _, weights in expected]))
    other = group_limited(z, 3, bias=bias, groups=4, top_groups=2, group_score="max" if biased else "top-2 sum", scale=2.5)
    assert not torch.equal(other.experts, routing.experts)


def test_equals_deepseek_v2s_gate():
    x, W, _ = inputs(E=16, scale=0.4)
    config = DeepseekV2Config(
        hidden_size=12, num_attention_heads=4, n_routed_experts=16, num_local_experts=16, num_experts_per_tok=3, n_group=4,
        topk_group=2, topk_method="group_limited_greedy", routed_scaling_factor=16.0, norm_topk_prob=False,
    )  # fmt: skip
    router = DeepseekV2TopkRouter(config)
    router.load_state_dict({"weight": W})
    _, weights, experts = router(x[None])
    routing = group_limited(
        router_logits(x, W), 3, groups=4, top_groups=2, group_score="max", score="softmax", renormalise=False, scale=16.0
    )
    order, theirs = routing.experts.argsort(-1), experts.argsort(-1)
    assert torch.equal(routing.experts.gather(-1, order), experts.gather(-1, theirs))
    torch.testing.assert_close(routing.weights.gather(-1, order), weights.gather(-1, theirs), atol=1e-5, rtol=0)


def test_a_bias_chooses_but_does_not_weigh():
    z = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    routing = group_limited(z, 2, bias=torch.tensor([-9.0, 0.0, 0.0, 9.0]))
    assert routing.experts.tolist() == [[3, 1]]
    s = z.sigmoid()[0, [3, 1]]
    torch.testing.assert_close(routing.weights[0], s / s.sum())


# Capacity


@pytest.mark.parametrize(
    ("rounding", "tokens", "E", "factor", "k", "C"),
    [
        ("mesh", 100, 8, 1.25, 1, 15),  # 15.6 down
        ("mesh", 100, 8, 1.25, 2, 15),  # k is left to the factor
        ("mesh", 8, 8, 1.0, 1, 4),  # the minimum
        ("mesh", 6, 2, 9.0, 1, 6),  # no more than there are
        ("flaxformer", 100, 8, 1.25, 1, 16),  # 15.6
        ("flaxformer", 36, 8, 1.0, 1, 4),  # 4.5 goes to the even neighbour
        ("flaxformer", 44, 8, 1.0, 1, 6),  # so does 5.5
        ("deepspeed", 100, 8, 1.0, 1, 13),  # 12.5 up
        ("deepspeed", 100, 8, 1.0, 2, 25),
        ("deepspeed", 100, 2, 1.1, 1, 55),  # in double precision 50 * 1.1 is above 55
        ("deepspeed", 3, 8, 1.0, 1, 4),
        ("megatron", 100, 2, 1.1, 1, 56),
        ("megatron", 100, 8, 1.0, 2, 25),
        ("megatron", 3, 8, 1.0, 1, 1),
    ],
)
def test_capacities_by_hand(rounding, tokens, E, factor, k, C):
    assert capacity(tokens, E, factor, rounding, k=k) == C
    assert type(capacity(tokens, E, factor, rounding, k=k)) is int


def test_the_least_capacity_can_be_chosen():
    assert capacity(8, 8, 1.0, "mesh", minimum=1) == 1
    assert capacity(8, 8, 1.0, "megatron", minimum=4) == 4


# Positions


def queues(experts, turns, E):
    """A loop: whoever's turn it is takes the next place."""
    places = torch.full(experts.shape, -1)
    for g in range(len(experts)):
        filled = [0] * E
        for t, j in turns[g]:
            places[g, t, j] = filled[experts[g, t, j]]
            filled[experts[g, t, j]] += 1
    return places


@st.composite
def choices(draw):
    groups, tokens, E = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 5))
    k = draw(st.integers(1, E))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    return torch.rand(groups, tokens, E, generator=generator).topk(k).indices, E, generator


@settings(max_examples=60, deadline=None)
@given(choices(), st.sampled_from(["choices", "tokens"]), st.booleans())
def test_positions_equal_a_loop_over_tokens(made, order, prioritised):
    experts, E, generator = made
    groups, tokens, k = experts.shape
    priority = torch.randint(0, 4, (groups, tokens), generator=generator) if prioritised else None  # with ties
    turns = []
    for g in range(groups):
        line = sorted(range(tokens), key=lambda t: -priority[g, t] if prioritised else 0)
        by_choice = [(t, j) for j in range(k) for t in line]
        turns.append(by_choice if order == "choices" else [(t, j) for t in line for j in range(k)])
    assert torch.equal(positions(experts, E, order=order, priority=priority), queues(experts, turns, E))


@settings(max_examples=30, deadline=None)
@given(choices())
def test_the_most_probable_come_first_whatever_their_rank(made):
    experts, E, generator = made
    priority = torch.rand(experts.shape, generator=generator)
    turns = []
    for g in range(len(experts)):
        pairs = [(t, j) for t in range(experts.shape[1]) for j in range(experts.shape[2])]
        turns.append(sorted(pairs, key=lambda pair: -priority[g, pair[0], pair[1]]))
    assert torch.equal(positions(experts, E, order="priority", priority=priority), queues(experts, turns, E))


@pytest.mark.parametrize("shape", [(0, 2), (2, 0, 2), (0, 3, 2)])
def test_nobody_queues(shape):
    nobody = torch.empty(shape, dtype=torch.int64)
    assert positions(nobody, 4).shape == shape
    assert positions(nobody, 4, priority=torch.empty(shape[:-1])).shape == shape
    assert positions(nobody, 4, order="priority", priority=torch.empty(shape)).shape == shape
    assert dispatch(nobody, 4).counts.tolist() == [0] * 4


def test_second_choices_wait_for_all_first_ones():
    experts = torch.tensor([[0, 1], [1, 0], [0, 1]])
    assert positions(experts, 2).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert positions(experts, 2, order="tokens").tolist() == [[0, 0], [1, 1], [2, 2]]
    assert positions(experts, 2, priority=torch.tensor([0.1, 0.2, 0.3])).tolist() == [[1, 2], [0, 2], [0, 1]]


# Dispatch and combine


@settings(max_examples=60, deadline=None)
@given(choices(), st.integers(0, 4))
def test_dispatch_and_combine_equal_a_loop_over_tokens(made, C):
    experts, E, generator = made
    groups, tokens, k = experts.shape
    x = torch.randn(groups * tokens, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(groups, tokens, k, generator=generator, dtype=torch.float64)
    matrices = torch.randn(E, 3, 3, generator=generator, dtype=torch.float64)
    kept = positions(experts, E) < C
    to = dispatch(experts, E, kept)
    parts = x.index_select(0, to.tokens).split(to.counts.tolist())
    y = combine(torch.cat([part @ M for part, M in zip(parts, matrices, strict=True)]), to, weights)

    expected = torch.zeros_like(x)
    for t in range(groups * tokens):
        g, i = divmod(t, tokens)
        for j in range(k):
            if kept[g, i, j]:
                expected[t] += weights[g, i, j] * (x[t] @ matrices[experts[g, i, j]])
    torch.testing.assert_close(y, expected)
    lost = ~kept.any(-1).flatten()
    assert (y[lost] == 0).all()
    assert int(to.counts.sum()) == len(to.tokens) == int(kept.sum())
    assert (to.counts <= groups * C).all()


def test_an_experts_tokens_are_in_order():
    to = dispatch(torch.tensor([[2, 0], [0, 1], [2, 1]]), 4)
    assert to.tokens.tolist() == [0, 1, 1, 2, 0, 2]
    assert to.choices.tolist() == [1, 2, 3, 5, 0, 4]
    assert to.counts.tolist() == [2, 2, 2, 0]


def test_both_answers_of_a_token_count_even_when_one_expert_gives_both():
    to = dispatch(torch.tensor([[1, 1]]), 2)
    assert combine(torch.ones(2, 1), to, torch.tensor([[0.25, 0.5]])).item() == 0.75


def test_answers_are_summed_in_float32():
    to = dispatch(torch.tensor([[0, 1, 2]]), 3)
    y = combine(torch.tensor([[256.0], [1.0], [1.0]], dtype=torch.bfloat16), to, torch.tensor([[1.0, 0.75, 0.75]]))
    assert y.dtype == torch.bfloat16
    assert y.item() == 258  # 257.5; in bfloat16, 256 + 0.75 is 256, twice


def test_weights_after_dropping():
    weights = torch.tensor([[0.6, 0.3], [0.6, 0.3], [0.6, 0.3]])
    kept = torch.tensor([[True, True], [False, True], [False, False]])
    torch.testing.assert_close(renormalised(weights, kept), torch.tensor([[2 / 3, 1 / 3], [0.0, 1.0], [0.0, 0.0]]))
    torch.testing.assert_close(renormalised(weights, eps=0.1), torch.tensor([[0.6, 0.3]] * 3))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: top_k(torch.zeros(3, 4), 5, renormalise=True), "k must be from 1 to the 4 experts that can be chosen, got 5"),
        (lambda: top_k(torch.zeros(3, 4), 0, renormalise=True), "got 0"),
        (lambda: group_limited(torch.zeros(3, 8), 5, groups=4, top_groups=2), "from 1 to the 4 experts that can be chosen"),
        (lambda: group_limited(torch.zeros(3, 8), 2, groups=3), "groups must divide the 8 experts"),
        (lambda: group_limited(torch.zeros(3, 8), 1, groups=8), "at least 2 experts in a group"),
        (lambda: group_limited(torch.zeros(3, 8), 2, bias=torch.zeros(7)), r"bias must be \(8,\), got shape \(7,\)"),
        (lambda: group_limited(torch.zeros(3, 8), 2, score="relu"), "score must be"),
        (lambda: group_limited(torch.zeros(3, 8), 2, group_score="mean"), "group_score must be"),
        (lambda: capacity(8, 2, 1.0, "switch"), "rounding must be one of mesh, flaxformer, deepspeed, megatron, got 'switch'"),
        (lambda: capacity(8, 2, math.inf, "mesh"), "factor finite"),
        (lambda: capacity(0, 2, 1.0, "mesh"), "at least 1"),
        (lambda: positions(torch.zeros(3, 2, dtype=torch.int64), 4, order="random"), "order must be one of"),
        (lambda: positions(torch.zeros(3, 2, dtype=torch.int64), 4, order="priority"), "got .3, 2. and None"),
        (lambda: positions(torch.zeros(3, 2, dtype=torch.int64), 4, priority=torch.zeros(3, 2)), r"priority \(3,\)"),
        (lambda: positions(torch.tensor([[4], [0]]), 4), r"experts must be in \[0, 4\), got 0 to 4"),
        (lambda: positions(torch.tensor([[[0]], [[-1]]]), 4), r"experts must be in \[0, 4\), got -1 to 0"),
        (lambda: dispatch(torch.tensor([[1], [2]]), 2), r"experts must be in \[0, 2\), got 1 to 2"),
        (lambda: dispatch(torch.tensor([[1], [0]]), 2, torch.tensor([True, False])), "kept must have the shape of experts"),
    ],
)
def test_refuses(call, says):
    with pytest.raises(ValueError, match=says):
        call()
