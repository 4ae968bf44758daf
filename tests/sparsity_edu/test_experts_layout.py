"""How transformers lays out experts: every family against the same experts written out as linear layers."""

import pytest
import torch
from torch import nn

from sparsity_edu.models.experts_layout import inputs, is_experts, projections
from sparsity_edu.models.layers import block_weights, decoder_blocks, left_alone, prunable_layers, prunable_matrices
from tests.sparsity_edu.mixtures import CALIBRATION, EXPERTS, FAMILIES, HIDDEN, INNER, SHARED, WrittenOut, make, written_out

families = pytest.mark.parametrize("family", FAMILIES)


def experts_of(model: nn.Module) -> nn.Module:
    return next(module for module in model.modules() if is_experts(module))


@families
def test_written_out_is_the_same_model(family):
    """The ruler itself."""
    model = make(family)
    with torch.no_grad():
        for ids in CALIBRATION:
            torch.testing.assert_close(written_out(model, family)(ids).logits, model(ids).logits)


@families
def test_projections_are_views_of_what_is_multiplied(family):
    experts = experts_of(make(family))
    found, expected = projections(experts), WrittenOut(experts)
    assert len(found) == 3 * EXPERTS
    for e in range(EXPERTS):
        for name in ("gate", "up", "down"):
            weight = found[f"{e}.{name}_proj"].weight
            assert weight.shape == ((HIDDEN, INNER) if name == "down" else (INNER, HIDDEN))
            assert torch.equal(weight, getattr(expected, name)[e].weight)
            assert not weight.requires_grad
            weight.fill_(10 * e + len(name))
    for e in range(EXPERTS):
        for name in ("gate", "up", "down"):
            assert (getattr(WrittenOut(experts), name)[e].weight == 10 * e + len(name)).all()


@families
@pytest.mark.parametrize("everything", [False, True])
def test_inputs_are_those_of_the_layers_written_out(family, everything):
    experts = experts_of(make(family))
    loop = WrittenOut(experts)
    hidden = torch.randn(23, HIDDEN, dtype=torch.float64)
    chosen = torch.stack([torch.randperm(EXPERTS - 1)[:2] for _ in hidden])  # none for the last expert
    seen = {}
    for name in ("gate", "up", "down"):
        for e, layer in enumerate(getattr(loop, name)):
            layer.register_forward_pre_hook(lambda _, args, key=f"{e}.{name}_proj": seen.update({key: args[0]}))
    every = torch.arange(EXPERTS).expand(23, -1)
    with torch.no_grad():
        loop(hidden, every if everything else chosen, torch.ones(23, EXPERTS, dtype=torch.float64))
    names = {projection: name for name, projection in projections(experts).items()}
    found = {names[projection]: X for projection, X in inputs(list(names), hidden, chosen, everything)}
    assert set(found) == set(seen)
    assert len(seen) == 3 * (EXPERTS if everything else EXPERTS - 1)
    for name, X in found.items():
        torch.testing.assert_close(X, seen[name])
    assert found["2.gate_proj"] is found["2.up_proj"]


@families
def test_all_matrices_of_the_blocks_are_pruned_or_routers(family):
    model = make(family)
    blocks = decoder_blocks(model)
    matrices = prunable_matrices(model)
    expected = {
        f"model.layers.{i}.{name}": parameter
        for i, block in enumerate(written_out(model, family).model.layers)
        for name, parameter in block.named_parameters()
        if parameter.ndim == 2
    }
    routers = {
        f"model.layers.{i}.{router}.weight"
        for i, block in enumerate(blocks)
        if any(map(is_experts, block.modules()))
        for router in FAMILIES[family].routers
    }
    assert sum(layer.weight.numel() for layer in matrices.values()) == sum(
        parameter.numel() for name, parameter in expected.items() if name not in routers
    )
    assert routers
    assert routers <= set(left_alone(model))
    weights = block_weights(model)
    assert {name for name in left_alone(model) if name in weights} == routers
    assert sum(parameter.numel() for parameter in weights.values()) == sum(parameter.numel() for parameter in expected.values())


@pytest.mark.parametrize("size", [1, INNER, HIDDEN, SHARED])
@pytest.mark.parametrize("family", ["qwen2_moe", "phimoe", "deepseek_v3"])
def test_routers_are_found_whatever_their_size(family, size):
    """Also where there are as many experts as a matrix elsewhere has rows."""
    config = FAMILIES[family].config()
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if hasattr(config, name):
            setattr(config, name, size)
    config.num_experts_per_tok = 1
    if family == "deepseek_v3":
        config.n_group = config.topk_group = 1
        config.topk_method = "greedy"
    if family == "phimoe" and size == 1:
        pytest.skip("its routing needs two experts")
    layers = prunable_layers(make(family, config))
    assert not any(name.endswith(router) for name in layers for router in FAMILIES[family].routers)
    shared = {"qwen2_moe": "shared_expert.", "deepseek_v3": "shared_experts."}.get(family)
    if shared:
        assert sum(shared in name for name in layers) == 3 * 2  # in two of the three blocks
