"""What predictors learn from: the right states, before the norm, of the right block, and the labels of what the block needs."""

import pytest
import torch
from decoders import read, small_model, text

from sparsity_edu.activations import dejavu
from sparsity_edu.activations.labels import chosen
from sparsity_edu.activations.predictor import Predictor


@torch.no_grad()
def what_blocks_see(model, ids):
    """By transformers' own hidden states, and by what layers read: block inputs, MLP inputs, head outputs, gates, products."""
    layers = range(model.config.num_hidden_layers)
    names = ["post_attention_layernorm", "self_attn.o_proj", "mlp.down_proj", "mlp.gate_proj"]
    seen = read(model, [f"model.layers.{l}.{name}" for l in layers for name in names], ids)
    hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
    found = []
    for l in layers:
        norm, heads, products, x = (seen[f"model.layers.{l}.{name}"].flatten(0, 1) for name in names)
        gate = model.model.layers[l].mlp.gate_proj(x)
        found.append({"block": hidden[l].flatten(0, 1), "mlp": norm, "heads": heads, "products": products, "gate": gate})
    return found


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize(
    ("lookahead", "heads", "neurons"),
    [("training", ("block", 1), ("mlp", 0)), ("accuracy", ("block", 1), ("block", 0)), ("latency", ("block", 1), ("mlp", 1))],
)
def test_examples_by_convention(family, lookahead, heads, neurons):
    model, ids = small_model(family, act="relu"), text(3, 10)
    seen = what_blocks_see(model, ids)
    found = {(kind, l): (x, y) for kind, l, x, y in dejavu.examples(model, ids, lookahead, heads=0.5, progress=False)}
    wanted = {}
    for kind, (point, back) in (("heads", heads), ("neurons", neurons)):
        for l in range(back, 3):
            if kind == "heads":
                norms = seen[l]["heads"].unflatten(-1, (6, 8)).square().sum(-1)
                y = norms >= norms.sort(dim=-1, descending=True).values[:, 2:3]
            else:
                y = seen[l]["gate"].relu() > 0
            wanted[kind, l] = (seen[l - back][point], y)
    assert found.keys() == wanted.keys()
    for key, (x, y) in wanted.items():
        torch.testing.assert_close(found[key][0], x)
        assert torch.equal(found[key][1], y)
    assert 0.2 < found["neurons", 2][1].float().mean() < 0.8


def test_neurons_of_a_model_in_which_none_is_zero():
    model, ids = small_model("mistral"), text(3, 10)
    seen = what_blocks_see(model, ids)
    found = {(kind, l): y for kind, l, _, y in dejavu.examples(model, ids, neurons=0.25, progress=False)}
    assert torch.equal(found["neurons", 1], chosen(seen[1]["products"].abs(), 14))
    with pytest.raises(ValueError, match=r"neurons must be a share where activations are none of ReLU's, .* got silu"):
        next(dejavu.examples(model, ids, progress=False))
    with pytest.raises(ValueError, match="lookahead must be one of training, accuracy, latency, got 'none'"):
        next(dejavu.examples(model, ids, "none", neurons=0.25))
    model.config.model_type = "gemma2"
    with pytest.raises(ValueError, match=r"model must be of a family built as Llama is .*, got gemma2"):
        next(dejavu.examples(model, ids, neurons=0.25))


def test_predictors_of_a_model(tmp_path):
    model, ids = small_model(act="relu"), text(8, 32)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    predictors, curves = dejavu.fit(model, ids, "latency", rank=16, heads=0.5, epochs=4, batch=64, seed=5, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert curves.keys() == {(kind, l) for kind in ("heads", "neurons") for l in (1, 2)}
    assert curves["neurons", 1][-1].loss < curves["neurons", 1][0].loss
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    again, _ = dejavu.fit(model, ids, "latency", rank=16, heads=0.5, epochs=4, batch=64, seed=5, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(predictors.parameters(), again.parameters(), strict=True))
    predictors.save(tmp_path / "predictors.safetensors")
    loaded = dejavu.Predictors.load(tmp_path / "predictors.safetensors")
    assert loaded.lookahead == "latency"
    states = torch.randn(2, 5, 42)
    selectors = loaded.selectors(heads=2, neurons={2: 7})
    assert selectors.keys() == {("heads", 1), ("heads", 2), ("neurons", 2)}
    for key, selector in predictors.selectors(heads=2, neurons={2: 7}).items():
        assert torch.equal(selector(states), selectors[key](states))
        assert (selector(states).sum(-1) == (2 if key[0] == "heads" else 7)).all()
    measured = dejavu.measure(model, selectors, ids, "latency", heads=0.5, progress=False)
    assert measured.keys() == selectors.keys()
    assert measured["neurons", 2].sparsity == pytest.approx(1 - 7 / 56)


def test_a_perfect_predictor_is_measured_as_one():
    model, ids = small_model(act="relu"), text()
    oracle = dejavu.oracle(model)
    assert oracle.keys() == {("neurons", l) for l in range(3)}
    for perfect in dejavu.measure(model, oracle, ids, "training", progress=False).values():
        assert (perfect.recall, perfect.precision) == (1, 1)
        assert perfect.sparsity == perfect.true_sparsity
    assert all(early.recall < 1 for early in dejavu.measure(model, oracle, ids, "accuracy", progress=False).values())
    mask = torch.arange(56) < 14
    (same,) = dejavu.measure(model, dejavu.static({("neurons", 2): mask}), ids, "training", progress=False).values()
    assert same.sparsity == 0.75


def test_the_conventions_of_opt():
    predictors = dejavu.Predictors("accuracy")
    for layer in range(8):
        predictors.add("heads", layer, Predictor(4, 2, 96))
    k = {layer: 24 for layer in range(5, 8)}
    assert predictors.selectors(heads=k).keys() == {("heads", layer) for layer in range(5, 8)}
    with pytest.raises(ValueError, match="lookahead must be one of"):
        dejavu.Predictors("next")
