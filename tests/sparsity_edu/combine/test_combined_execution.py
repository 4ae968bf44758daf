"""A model that runs as its recipe says: the products, the numbers, the bytes, and nothing left behind."""

import pytest
import torch

from sparsity_edu import models
from sparsity_edu.activations import teal
from sparsity_edu.activations.plan import Plan
from sparsity_edu.combine import Made, Recipe, running
from sparsity_edu.combine import execution as module
from sparsity_edu.kernels.two_four import TwoFourLinear
from sparsity_edu.models.layers import prunable_layers
from sparsity_edu.weights.driver import prune_

IDS = torch.arange(3, 30)[None]


@pytest.fixture
def tiny():
    return models.load("tiny")


def made_of(tiny, pruned=False, level=None, kernels="auto", prefill="all", **sections):
    """Pruned at 2:4 and with a threshold that a known share of inputs stays below."""
    if pruned:
        prune_(tiny.model, "magnitude", pattern="2:4", progress=False)
    plan = None
    if level is not None:
        names = prunable_layers(tiny.model)
        plan = Plan(dict.fromkeys(names, 0.3), dict.fromkeys(names, level), prefill)
    return Made(tiny.model, tiny.tokenizer, Recipe.of({"kernels": kernels} | sections), plan)


def all_fast(monkeypatch):
    monkeypatch.setattr(module, "is_fast", lambda W: True)


@torch.no_grad()
def logits(model, ids=IDS):
    return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize(
    ("pruned", "level", "kernels", "product", "read"),
    [
        (False, None, "auto", "dense", 1.0),
        (False, 0.3, "auto", "skip", 0.7),
        (True, None, "auto", "2:4", 0.53125),
        (True, 0.3, "auto", "2:4", 0.53125),
        (True, 0.6, "auto", "skip", 0.4),
        (True, 0.6, "dense", "dense", 1.0),
    ],
)
def test_each_projection_has_the_product_that_reads_least(pruned, level, kernels, product, read, tiny, monkeypatch):
    all_fast(monkeypatch)
    found = module.uses(made_of(tiny, pruned, level, kernels))
    assert set(found) == set(prunable_layers(tiny.model))
    assert {use.product for use in found.values()} == {product}
    assert [use.read for use in found.values()] == pytest.approx([read] * len(found))


def test_a_product_that_is_not_faster_here_is_not_taken_and_that_is_said(tiny, monkeypatch):
    monkeypatch.setattr(module, "is_fast", lambda W: False)
    (use,) = {(use.product, use.why) for use in module.uses(made_of(tiny, pruned=True)).values()}
    assert use == ("dense", "nothing to skip; 2:4, but no product here is faster with it packed")


@pytest.mark.parametrize("product", ["skip", "2:4", "dense"])
def test_all_products_give_the_same_numbers(product, tiny, monkeypatch):
    """Pruned weights and small inputs taken for zeros, whichever of them is not read."""
    all_fast(monkeypatch)
    level, kernels = {"skip": (0.9, "auto"), "2:4": (0.1, "auto"), "dense": (0.9, "dense")}[product]
    made = made_of(tiny, True, level, kernels)
    with teal.applied(tiny.model, made.plan.thresholds, prefill="all"):
        expected, one = logits(tiny.model), logits(tiny.model, IDS[:, :1])
    with running(made) as run:
        assert {use.product for use in run.uses.values()} == {product}
        torch.testing.assert_close(logits(tiny.model), expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(logits(tiny.model, IDS[:, :1]), one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("product", ["2:4", "dense"])
def test_of_a_prompt_only_the_last_half_skips(product, tiny, monkeypatch):
    all_fast(monkeypatch)
    made = made_of(tiny, True, 0.1, {"2:4": "auto", "dense": "dense"}[product], prefill="last_half")
    with teal.applied(tiny.model, made.plan.thresholds, prefill="last_half"):
        expected = logits(tiny.model)
    with running(made):
        torch.testing.assert_close(logits(tiny.model), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("level", [None, 0.1, 0.9])
def test_the_model_is_as_it_was_afterwards(level, tiny, monkeypatch):
    all_fast(monkeypatch)
    made = made_of(tiny, True, level)
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    attention = tiny.model.config._attn_implementation
    for error in (None, ZeroDivisionError):
        try:
            with running(made):
                logits(tiny.model)
                if error:
                    raise error
        except ZeroDivisionError:
            pass
        after = tiny.model.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert tiny.model.config._attn_implementation == attention
        assert not any(part._forward_pre_hooks for part in tiny.model.modules())


@torch.no_grad()
def test_bytes_are_those_of_what_is_held_and_read(tiny, monkeypatch):
    all_fast(monkeypatch)
    model = tiny.model
    blocks = sum(layer.weight.nbytes for layer in prunable_layers(model).values())
    everything = sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    with running(made_of(tiny)) as run:
        model(input_ids=IDS[:, :1])
        assert run.traffic.per_step == run.traffic.dense == run.bytes_held == everything  # the head is the table: all is read
    with running(made_of(tiny, True)) as run:
        assert run.bytes_held == everything - blocks + blocks * 34 // 64
        model(input_ids=IDS[:, :1])
        assert run.traffic.per_step == run.bytes_held
        assert run.traffic.dense == everything
    with running(made_of(tiny, level=0.9)) as run:
        wanted, read = 0, {}

        def note(layer, args, name):
            read[name] = (args[0].abs() > 0.3).any(dim=0).sum().item() * layer.product.sizes[layer.place] * 4

        handles = [
            layer.register_forward_pre_hook(lambda layer, args, name=name: note(layer, args, name))
            for name, layer in model.named_modules()
            if name in run.uses
        ]
        for ids in (IDS[:, :9], IDS[:, :1], IDS[:1, 1:2].repeat(3, 1)):  # a prompt does not count
            read.clear()
            model(input_ids=ids)
            wanted += sum(read.values()) if ids.shape[1] == 1 else 0
        for handle in handles:
            handle.remove()
        assert run.traffic.steps == 2
        assert run.traffic.per_step == pytest.approx(everything - blocks + wanted / 2)
        assert run.bytes_held == everything
        run.traffic.start()
        assert run.traffic.per_step != run.traffic.per_step


@torch.no_grad()
def test_several_texts_read_what_any_of_them_needs(tiny):
    with running(made_of(tiny, level=0.5)) as run:
        rows = []
        for ids in (IDS[:, :1], IDS[:, 5:6]):
            run.traffic.start()
            tiny.model(input_ids=ids)
            rows.append(run.traffic.chosen)
        run.traffic.start()
        tiny.model(input_ids=torch.cat([IDS[:, :1], IDS[:, 5:6]]))
        assert max(rows) < run.traffic.chosen < sum(rows)


@torch.no_grad()
def test_the_cache_is_the_recipes(tiny):
    ids = IDS[:, :24]
    for policy, budget in (("window", 8), ("sinks", 8), ("h2o", 8), ("quest", 16)):
        with running(made_of(tiny, cache={"policy": policy, "budget": budget})) as run:
            cache = run.new_cache()
            tiny.model(input_ids=ids, past_key_values=cache)
            tiny.model(input_ids=ids[:, :1], past_key_values=cache)
            assert cache.layers[0].kept.shape[-1] == (25 if policy == "quest" else budget)
            assert run.new_cache() is not cache
    with running(made_of(tiny)) as run:
        cache = run.new_cache()
        tiny.model(input_ids=ids, past_key_values=cache)
        assert cache.bytes_read == tiny.model.config.num_hidden_layers * 24 * 2 * tiny.model.config.num_key_value_heads * (
            tiny.model.config.hidden_size // tiny.model.config.num_attention_heads
        ) * 4  # fmt: skip


def test_thresholds_of_another_model_are_refused(tiny):
    made = Made(tiny.model, tiny.tokenizer, Recipe(), Plan({"model.layers.99.mlp.up_proj": 0.1}))
    with pytest.raises(ValueError, match=r"thresholds must be of the model's layers, got 'model\.layers\.99"), running(made):
        pass


def test_a_packed_layer_is_one(tiny, monkeypatch):
    all_fast(monkeypatch)
    with running(made_of(tiny, True)):
        assert isinstance(tiny.model.model.layers[0].mlp.up_proj, TwoFourLinear)
