"""A model that skips small inputs is one whose small inputs are zeroed; thresholds come from what dense layers read."""

import copy
import json
import math

import pytest
import torch
from authors import TealDistribution, teal_sparsify
from decoders import FAMILIES, read, small_model, text
from torch import nn
from transformers import DynamicCache

from sparsity_edu.activations import teal
from sparsity_edu.activations.decoding import decoding_perplexity
from sparsity_edu.activations.histogram import Histogram, Quantiles
from sparsity_edu.activations.plan import Plan
from sparsity_edu.kernels.sparse_gemv import SharedProduct, ThresholdLinear

PROJECTIONS = 7


def test_sparsify_is_strict_and_leaves_its_argument_alone():
    x = torch.tensor([[1.0, -0.5, 0.25, -2.0], [0.5, 0.50001, 0.0, -0.4]])[None]
    before = x.clone()
    expected = torch.tensor([[1.0, 0, 0, -2.0], [0, 0.50001, 0, 0]])[None]
    assert torch.equal(teal.sparsify(x, 0.5), expected)
    assert torch.equal(x, before)
    assert torch.equal(teal.sparsify(x, 0.0), x)
    assert torch.equal(teal.sparsify(x[0, 0], 0.5, "none"), expected[0, 0])


@pytest.mark.parametrize("tokens", [1, 2, 3, 10, 11])
def test_the_last_half_of_a_prompt(tokens):
    x = torch.randn(2, tokens, 6, generator=torch.Generator().manual_seed(tokens))
    assert torch.equal(teal.sparsify(x, 0.7, "last_half"), teal_sparsify(x, 0.7))
    assert torch.equal(teal.sparsify(x, 0.7, "none"), x if tokens > 1 else teal.sparsify(x, 0.7))
    with pytest.raises(ValueError, match=r"prefill must be one of all, last_half, none, got 'half'"):
        teal.sparsify(x, 0.7, "half")


@pytest.mark.parametrize("family", FAMILIES)
def test_thresholds_come_from_what_dense_layers_read(family):
    model, ids = small_model(family), text()
    before = copy.deepcopy(model.state_dict())
    distributions = teal.calibrate(model, ids, progress=False)
    inputs = read(model, teal.linear_layers(model), ids)
    assert list(distributions) == list(inputs)
    assert len(distributions) == PROJECTIONS * 3
    for name, x in inputs.items():
        assert distributions[name].counts.sum() == x.numel()
        expected = TealDistribution(x).threshold(0.4)
        assert teal.thresholds(distributions, {name: 0.4}) == {name: pytest.approx(expected, rel=1e-2, abs=1e-4)}
    attention = "model.layers.1.self_attn."
    assert distributions[f"{attention}q_proj"] is distributions[f"{attention}v_proj"]
    assert distributions[f"{attention}q_proj"] is not distributions[f"{attention}o_proj"]
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    plain = teal.calibrate(model, ids, "quantile", progress=False)
    for name, x in inputs.items():
        assert float((x.abs() <= plain[name].threshold(0.4)).float().mean()) == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize(
    ("family", "prefill"),
    [(family, "last_half") for family in FAMILIES] + [("llama", "all"), ("qwen2", "none")],
)
def test_a_model_writes_what_one_does_whose_small_inputs_are_zeroed(family, prefill):
    model, ids = small_model(family), text(1, 11, seed=3)
    options = dict(max_new_tokens=8, do_sample=False, pad_token_id=0, output_logits=True, return_dict_in_generate=True)
    dense = model.generate(ids, **options)
    distributions = teal.calibrate(model, text(), progress=False)
    levels = {name: 0.2 + 0.05 * (i % 7) for i, name in enumerate(distributions)}
    limits = teal.thresholds(distributions, levels)
    handles = []
    for name, limit in limits.items():

        def zero(_, args, limit=limit):
            x = args[0]
            first = {"all": 0, "last_half": x.shape[1] - x.shape[1] // 2, "none": x.shape[1]}[prefill] if x.shape[1] > 1 else 0
            return (torch.cat([x[:, :first], x[:, first:] * (x[:, first:].abs() > limit)], dim=1),)

        handles.append(model.get_submodule(name).register_forward_pre_hook(zero))
    expected = model.generate(ids, **options)
    for handle in handles:
        handle.remove()
    layers = dict(teal.linear_layers(model))
    with teal.applied(model, limits, prefill=prefill) as used:
        assert used == limits
        assert all(isinstance(model.get_submodule(name), ThresholdLinear) for name in limits)
        got = model.generate(ids, **options)
    assert torch.equal(got.sequences, expected.sequences)
    for ours, theirs, plain in zip(got.logits, expected.logits, dense.logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert prefill == "none" or not torch.allclose(ours, plain, atol=1e-2)
    assert all(model.get_submodule(name) is layer for name, layer in layers.items())


def test_a_sparsity_is_calibrated_first():
    model, ids = small_model(), text()
    expected = teal.thresholds(teal.calibrate(model, ids, progress=False), 0.5)
    assert teal.apply_(model, 0.5, ids, progress=False) == expected
    assert {product.prefill for product in model.modules() if isinstance(product, SharedProduct)} == {"last_half"}
    layer = model.model.layers[1].mlp.gate_proj
    assert layer.threshold == expected["model.layers.1.mlp.gate_proj"]
    assert layer.product is model.model.layers[1].mlp.up_proj.product  # the same input, the same threshold: one product
    with pytest.raises(ValueError, match="model must be dense"):
        teal.apply_(model, expected)
    teal.remove_(model)
    assert not any(isinstance(layer, ThresholdLinear) for layer in model.modules())


def test_a_plan_is_read_as_it_was_written(tmp_path):
    model = small_model()
    limits = {name: 0.1 / 3 + i for i, name in enumerate(teal.linear_layers(model))}
    plan = Plan(limits, dict.fromkeys(limits, 0.3), "none", {"model": "small", "sparsity": 0.3})
    plan.save(tmp_path)  # a folder: beside its checkpoint
    assert Plan.load(tmp_path) == plan
    assert Plan.load(tmp_path / "thresholds.json") == plan
    assert teal.apply_(model, Plan.load(tmp_path / "thresholds.json")) == limits
    assert {product.prefill for product in model.modules() if isinstance(product, SharedProduct)} == {"none"}


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        "\xff",
        '{"thresholds": [], "levels": {}, "prefill": "all", "about": {}}',
        '{"thresholds": {}, "levels": {}, "about": {}}',
    ],
)
def test_a_file_that_is_no_plan(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"path must be a file of thresholds that Plan.save wrote, got .*a.json"):
        Plan.load(tmp_path / "a.json")


@pytest.mark.parametrize("number", ["0.1", None, float("inf"), True])
def test_a_plan_of_what_are_no_numbers(tmp_path, number):
    with pytest.raises(ValueError, match=r"thresholds must be finite numbers, got .* for 'a'"):
        Plan({"a": number})
    (tmp_path / "a.json").write_text(json.dumps({"thresholds": {"a": number}, "levels": {}, "prefill": "all", "about": {}}))
    with pytest.raises(ValueError, match="thresholds must be finite numbers"):
        Plan.load(tmp_path / "a.json")
    with pytest.raises(ValueError, match="prefill must be one of all, last_half, none, got 'some'"):
        Plan({}, prefill="some")


def test_what_is_refused():
    model, ids = small_model(), text()
    refused = [
        (lambda: teal.apply_(model, 1.0, ids), r"sparsity must be in \[0, 1\), got 1.0"),
        (lambda: teal.apply_(model, 0.5), "calibration must be given for a sparsity"),
        (lambda: teal.apply_(model, {}, ids), "calibration must be left out where thresholds are given"),
        (lambda: teal.apply_(model, {"lm_head": 0.1}), "must name linear layers of the model's blocks, got 'lm_head'"),
        (lambda: teal.calibrate(model, ids, "mean"), "rule must be one of histogram, quantile, got 'mean'"),
        (lambda: teal.calibrate(model, torch.ones(1, 300, dtype=torch.int64)), "calibration must be at most the model's 256"),
        (lambda: teal.calibrate(nn.Linear(3, 4), ids), "model must be a decoder whose blocks hold linear layers, got Linear"),
        (lambda: teal.thresholds({}, {"a": 0.5}), "sparsity must name layers that were calibrated, got 'a'"),
        (lambda: teal.apply_(model, {}, prefill="half"), "prefill must be one of"),
    ]
    for call, sentence in refused:
        with pytest.raises(ValueError, match=sentence):
            call()
    assert not any(isinstance(layer, ThresholdLinear) for layer in model.modules())


def test_rules_are_of_one_kind():
    x = torch.randn(1000)
    assert Histogram.of(x).threshold(0.0) == Quantiles.of(x).threshold(0.0) == 0.0


@pytest.mark.parametrize("family", ["llama", "mistral, sliding"])
def test_the_perplexity_of_decoding(family):
    """Token by token after a dense prompt, and all at once."""
    model, ids = small_model(family), text(2, 13, seed=5)
    limits = teal.thresholds(teal.calibrate(model, text(), progress=False), 0.6)
    losses = []
    with teal.applied(model, limits, prefill="none"), torch.no_grad():
        for row in ids:
            cache = DynamicCache()
            model(input_ids=row[None, :7], past_key_values=cache)
            for i in range(7, 12):
                logits = model(input_ids=row[None, i : i + 1], past_key_values=cache).logits[0, 0]
                losses.append(float(-logits.log_softmax(-1)[row[i + 1]]))
    with teal.applied(model, limits):
        found = decoding_perplexity(model, torch.cat([ids.flatten(), ids[0, :5]]), 13)
    assert math.log(found) == pytest.approx(sum(losses) / 10, rel=1e-4)
    assert found != pytest.approx(decoding_perplexity(model, ids.flatten(), 13), rel=1e-2)
    for window, length in ((3, 26), (27, 26)):
        with pytest.raises(ValueError, match="window must be at least 4 and at most the 26 tokens"):
            decoding_perplexity(model, ids.flatten()[:length], window)
