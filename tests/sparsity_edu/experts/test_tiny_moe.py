"""The tiny mixture that ships: as good as its record says, balanced, made by its script, and a mixture layer as ours is."""

import json
from functools import partial

import pytest
import torch

from sparsity_edu.data import python_docs
from sparsity_edu.experts.layer import MixtureLayer, size
from sparsity_edu.experts.routing import top_k
from sparsity_edu.experts.train_tiny_moe import (
    COMMON,
    EXPERTS,
    HYPERPARAMETERS,
    MODELS,
    STEPS,
    TOP_K,
    WIDTH,
    active_parameters,
    balance,
    make_mixture,
    tokens_per_expert,
)
from sparsity_edu.models import load, perplexity, tokens
from sparsity_edu.models.loading import TINY_MOE
from sparsity_edu.models.train_tiny import CONTEXT


@pytest.fixture(scope="module")
def tiny_moe():
    return load("tiny-moe")


@pytest.fixture(scope="module")
def record():
    return json.loads((TINY_MOE / "training.json").read_text())


@pytest.fixture(scope="module")
def held_out(tiny_moe):
    return tokens(tiny_moe.tokenizer, python_docs("validation"), 8 * CONTEXT)


def test_it_is_as_good_as_its_record_says(tiny_moe, held_out, record):
    stated = record["models"]["mixture"]["validation"]
    assert perplexity(tiny_moe.model, held_out, CONTEXT, progress=False) < 1.5 * stated["perplexity"]
    assert stated["loss"] == pytest.approx(record["models"]["mixture"]["curve"][-1]["validation"], abs=0.01)  # as rounded


def test_it_reads_as_tiny_does(tiny_moe):
    text = python_docs("validation")[:3000]
    assert torch.equal(tokens(tiny_moe.tokenizer, text), tokens(load("tiny").tokenizer, text))


def test_the_training_script_makes_this_model(tiny_moe, record):
    made, shipped = make_mixture().state_dict(), tiny_moe.model.state_dict()
    assert {name: W.shape for name, W in made.items()} == {name: W.shape for name, W in shipped.items()}
    assert record["hyperparameters"] == HYPERPARAMETERS
    config = tiny_moe.model.config
    assert (config.num_local_experts, config.num_experts_per_tok, config.intermediate_size) == (EXPERTS, TOP_K, WIDTH)


def test_the_record_compares_equal_sizes_on_the_same_tokens(record):
    models = record["models"]
    assert list(models) == list(MODELS)
    for name, make in MODELS.items():
        made = make()
        assert models[name]["parameters"] == made.num_parameters()
        assert models[name]["active_parameters"] == active_parameters(made)
        assert [point["step"] for point in models[name]["curve"]][-1] == STEPS
    mixture, active, total = models.values()
    assert mixture["active_parameters"] == pytest.approx(active["parameters"], rel=0.01)  # the router
    assert mixture["parameters"] == pytest.approx(total["parameters"], rel=0.01)
    assert mixture["flops_per_token"] == pytest.approx(active["flops_per_token"], rel=0.01)
    assert total["flops_per_token"] > 1.8 * mixture["flops_per_token"]
    layer = size(COMMON["hidden_size"], WIDTH, EXPERTS, TOP_K)
    assert mixture["parameters"] - mixture["active_parameters"] == COMMON["num_hidden_layers"] * (
        layer.parameters - layer.active
    )


def test_no_expert_is_idle(tiny_moe, held_out, record):
    of_all = torch.tensor(record["models"]["mixture"]["validation"]["tokens_per_expert"])
    assert (of_all.sum(1) == TOP_K * record["models"]["mixture"]["validation"]["tokens"]).all()
    counts = torch.tensor(tokens_per_expert(tiny_moe.model, held_out))
    for shares in (of_all / of_all.sum(1, keepdim=True), counts / counts.sum(1, keepdim=True)):
        assert shares.min() > 0.2 / EXPERTS
        assert shares.max() < 3 / EXPERTS
    with torch.no_grad():
        out = tiny_moe.model(input_ids=held_out[None, :CONTEXT], output_router_logits=True)
    assert COMMON["num_hidden_layers"] < balance(out) < 1.5 * COMMON["num_hidden_layers"]


def test_it_is_small():
    assert sum(path.stat().st_size for path in TINY_MOE.iterdir()) < 8e6


@torch.no_grad()
def test_its_layers_are_mixture_layers(tiny_moe, held_out):
    block = tiny_moe.model.model.layers[3].mlp
    layer = MixtureLayer(COMMON["hidden_size"], WIDTH, EXPERTS, partial(top_k, k=TOP_K, renormalise=True))
    layer.load_state_dict({"router": block.gate.weight, "up": block.experts.gate_up_proj, "down": block.experts.down_proj})
    seen = []
    hook = block.register_forward_hook(lambda module, given, out: seen.extend((given[0], out)))
    tiny_moe.model(input_ids=held_out[None, :CONTEXT])
    hook.remove()
    x, y = seen
    torch.testing.assert_close(layer(x)[0], y, atol=1e-5, rtol=1e-5)
