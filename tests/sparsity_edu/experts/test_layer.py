"""The mixture layer against transformers' Mixtral, Switch and DeepSeek-V3 on random weights: values and gradients."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import DeepseekV3Config, MixtralConfig, SwitchTransformersConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersSparseMLP

from sparsity_edu.experts.layer import MixtureLayer, experts_read, run_experts, size
from sparsity_edu.experts.losses import jitter
from sparsity_edu.experts.routing import group_limited, positions, top_k

D, F_, E = 20, 12, 6  # all dimensions differ


def make(route, seed=0, **options):
    layer = MixtureLayer(D, F_, E, route, generator=torch.Generator().manual_seed(seed), **options)
    for parameter in layer.parameters():
        parameter.data *= 15  # answers and logits of the order of 1
    return layer


def tokens(*shape, seed=1):
    return torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed)) + 0.3


def compare(layer, theirs, pairs, x, tolerance=1e-5):
    """Values, and gradients of input and weights; pairs: of the layer's parameters and theirs."""
    probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    results = []
    for call, parameters in ((lambda x: layer(x)[0], [a for a, _ in pairs]), (theirs, [b for _, b in pairs])):
        own = x.clone().requires_grad_()
        y = call(own * 1)  # no leaf: Switch in transformers scales its input in place
        results.append([y, *torch.autograd.grad((y * probe).sum(), [own, *parameters])])
    for mine, other in zip(*results, strict=True):
        other = other.reshape(mine.shape)
        assert other.abs().max() > 0.1
        torch.testing.assert_close(mine, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_equals_mixtral(k, implementation):
    layer = make(partial(top_k, k=k, renormalise=True))
    config = MixtralConfig(hidden_size=D, intermediate_size=F_, num_local_experts=E, num_experts_per_tok=k)
    config._experts_implementation = implementation
    block = MixtralSparseMoeBlock(config)
    block.load_state_dict({"gate.weight": layer.router, "experts.gate_up_proj": layer.up, "experts.down_proj": layer.down})
    pairs = [(layer.up, block.experts.gate_up_proj), (layer.down, block.experts.down_proj)]
    if k > 1:  # a single weight is 1 and has no gradient
        pairs.append((layer.router, block.gate.weight))
    compare(layer, block, pairs, tokens(3, 17))


@pytest.mark.parametrize("capacity", [2, 5, 64])
def test_equals_switch_which_drops_in_each_sequence(capacity):
    layer = make(partial(top_k, k=1, renormalise=False), kind="relu", capacity=capacity)
    config = SwitchTransformersConfig(
        d_model=D, d_ff=F_, num_experts=E, expert_capacity=capacity, router_jitter_noise=0.0, dropout_rate=0.0
    )
    block = SwitchTransformersSparseMLP(config).eval()
    state = {"router.classifier.weight": layer.router}
    for e in range(E):
        state |= {f"experts.expert_{e}.wi.weight": layer.up[e], f"experts.expert_{e}.wo.weight": layer.down[e]}
    block.load_state_dict(state)
    x = tokens(3, 17)
    compare(layer, block, [(layer.router, block.router.classifier.weight)], x)
    for e in range(E):
        expert = block.experts[f"expert_{e}"]
        probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(e))
        [mine] = torch.autograd.grad((layer(x)[0] * probe).sum(), layer.up)
        theirs = torch.autograd.grad((block(x) * probe).sum(), expert.wi.weight, allow_unused=True)[0]
        torch.testing.assert_close(mine[e], torch.zeros_like(mine[e]) if theirs is None else theirs, atol=1e-5, rtol=1e-5)

    y, routing = layer(x)
    dropped = positions(routing.experts, E)[..., 0] >= capacity  # (sequences, tokens)
    assert dropped.any() == (capacity < 17)
    assert (y[dropped] == 0).all()
    assert (y[~dropped] != 0).any(-1).all()
    one_group = layer(x.flatten(0, 1))[0].view_as(x)
    assert torch.equal(one_group, y) == (capacity == 64)  # a group of 51 tokens drops more


def test_equals_deepseek_v3_with_groups_bias_and_a_shared_expert():
    bias = torch.tensor([0.3, -0.2, 0.1, -0.9, 0.5, -0.4])
    route = partial(group_limited, k=3, bias=bias, groups=3, top_groups=2, scale=2.5, eps=1e-20)
    layer = make(route, shared=2 * F_)
    config = DeepseekV3Config(
        hidden_size=D, num_attention_heads=4, moe_intermediate_size=F_, n_shared_experts=2, n_routed_experts=E,
        num_local_experts=E, num_experts_per_tok=3, n_group=3, topk_group=2, routed_scaling_factor=2.5,
    )  # fmt: skip
    block = DeepseekV3MoE(config)
    shared_gate, shared_up = layer.shared_up.chunk(2)
    block.load_state_dict(
        {
            "gate.weight": layer.router,
            "gate.e_score_correction_bias": bias,
            "experts.gate_up_proj": layer.up,
            "experts.down_proj": layer.down,
            "shared_experts.gate_proj.weight": shared_gate,
            "shared_experts.up_proj.weight": shared_up,
            "shared_experts.down_proj.weight": layer.shared_down,
        }
    )
    pairs = [
        (layer.router, block.gate.weight),
        (layer.up, block.experts.gate_up_proj),
        (layer.down, block.experts.down_proj),
        (layer.shared_down, block.shared_experts.down_proj.weight),
    ]
    compare(layer, block, pairs, tokens(2, 19))


def by_hand(layer, x, routing, kept):
    """A loop over tokens, in float64."""
    y = torch.zeros_like(x, dtype=torch.float64)
    for t in range(len(x)):
        for j, e in enumerate(routing.experts[t].tolist()):
            if kept[t, j]:
                gate, up = (layer.up[e].double() @ x[t].double()).chunk(2)
                y[t] += routing.weights[t, j].double() * (layer.down[e].double() @ (gate * gate.sigmoid() * up))
    return y


@pytest.mark.parametrize("order", ["choices", "tokens"])
def test_equals_a_loop_over_tokens_when_some_are_dropped(order):
    layer = make(partial(top_k, k=3, renormalise=True), capacity=4, order=order)
    x = tokens(15)
    y, routing = layer(x)
    kept = positions(routing.experts, E, order=order) < 4
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(y.double(), by_hand(layer, x, routing, kept), atol=1e-5, rtol=1e-5)


def test_only_what_is_routed_is_computed():
    layer, x = make(partial(top_k, k=2, renormalise=True)), tokens(31)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 31 * size(D, F_, E, 2).flops

    layer = make(partial(top_k, k=1, renormalise=False), kind="relu", shared=F_)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 31 * size(D, F_, E, 1, kind="relu", shared=F_).flops
    for k in (1, 4):
        counted = size(D, F_, E, k, kind="relu", shared=F_)
        assert counted.parameters == sum(parameter.numel() for parameter in layer.parameters())
    assert size(4096, 14336, 8, 2).parameters * 32 == 45_098_205_184  # Mixtral 8x7B's 45 billion in experts and routers


def test_the_router_may_read_something_else():
    layer, x = make(partial(top_k, k=2, renormalise=True)), tokens(40)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(3))
    y, routing = layer(x, jitter(x, noise, eps=0.4))
    expected = layer.route(F.linear(jitter(x, noise, eps=0.4), layer.router))
    assert torch.equal(routing.experts, expected.experts)
    assert not torch.equal(routing.experts, layer(x)[1].experts)
    everything = torch.ones_like(routing.experts, dtype=torch.bool)
    torch.testing.assert_close(y.double(), by_hand(layer, x, routing, everything), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1])
def test_few_tokens_and_experts_without_any(count):
    layer = make(partial(top_k, k=2, renormalise=True))
    x = tokens(count).requires_grad_()
    y, routing = layer(x)
    assert y.shape == (count, D)
    y.sum().backward()
    used = routing.experts.flatten().tolist()
    assert len(used) == 2 * count
    given = torch.zeros(E) if layer.up.grad is None else layer.up.grad.abs().sum((1, 2))
    assert given.nonzero().flatten().tolist() == sorted(used)


def test_all_dropped():
    layer = make(partial(top_k, k=2, renormalise=True), capacity=0, shared=F_)
    x = tokens(9)
    y, _ = layer(x)
    y.sum().backward()
    gate, up = (x @ layer.shared_up.T).chunk(2, dim=-1)
    torch.testing.assert_close(y, F.silu(gate) * up @ layer.shared_down.T)
    without = make(partial(top_k, k=2, renormalise=True), capacity=0)
    assert (without(x)[0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_runs_in_any_dtype(dtype):
    layer, x = make(partial(top_k, k=2, renormalise=True)), tokens(2, 11)
    y = make(partial(top_k, k=2, renormalise=True)).to(dtype)(x.to(dtype))[0]
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), layer(x)[0], atol=0.3 if dtype == torch.bfloat16 else 1e-4, rtol=0.05)


def test_runs_under_autocast_and_routes_in_float32_there():
    layer, x = make(partial(top_k, k=2, renormalise=True)), tokens(23)
    with torch.autocast("cpu", torch.bfloat16):
        y, routing = layer(x)
        y.float().sum().backward()
    assert torch.equal(routing.weights, layer(x)[1].weights)
    assert layer.up.grad.isfinite().all()


def test_an_input_of_other_strides_is_the_same_input_and_is_not_changed():
    layer = make(partial(top_k, k=2, renormalise=True))
    x = tokens(7, 5)
    kept = x.clone()
    y = layer(x.transpose(0, 1))[0]
    torch.testing.assert_close(y.transpose(0, 1), layer(x)[0])
    assert torch.equal(x, kept)


def test_experts_get_their_own_tokens():
    up, down = torch.ones(3, 2, 1), torch.tensor([1.0, 10.0, 100.0])[:, None, None].expand(3, 1, 2)
    x = torch.tensor([[1.0], [2.0], [3.0]])
    assert run_experts(x, [1, 0, 2], up, down, "relu").flatten().tolist() == [2.0, 400.0, 600.0]


def test_experts_read_is_the_mean_over_random_choices():
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(4000, 5, 8, generator=generator).topk(2).indices  # (batches, tokens, k)
    distinct = torch.zeros(4000, 8).scatter_(1, chosen.flatten(1), 1).sum(1).mean().item()
    assert experts_read(5, 8, 2) == pytest.approx(distinct, abs=0.05)
    assert experts_read(1, 8, 2) == pytest.approx(2)
    assert experts_read(1000, 8, 2) == pytest.approx(8)


def test_refuses():
    with pytest.raises(ValueError, match="kind must be swiglu or relu, got 'gelu'"):
        make(None, kind="gelu")
    for call in (
        lambda: size(4, 4, 4, 2, kind="gelu"),
        lambda: run_experts(torch.zeros(0, 1), [], *torch.zeros(2, 0, 1, 1), "gelu"),
    ):
        with pytest.raises(ValueError, match="kind must be swiglu or relu, got 'gelu'"):
            call()
    with pytest.raises(ValueError, match="capacity must be at least 0, got -1"):
        make(None, capacity=-1)
