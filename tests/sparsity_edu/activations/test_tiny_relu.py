"""The tiny model with ReLU that ships: as good and as sparse as its record says, made by its script, and sparse by context."""

import json

import pytest
import torch
from torch import nn

from sparsity_edu.activations import dejavu
from sparsity_edu.activations.execution import masked
from sparsity_edu.activations.labels import chosen
from sparsity_edu.activations.train_tiny_relu import (
    EVALUATE_EVERY,
    HYPERPARAMETERS,
    STEPS,
    gates,
    inactive,
    look,
    make_model,
    positive_share,
    train,
)
from sparsity_edu.data import python_docs
from sparsity_edu.models import load, perplexity, tokens, train_tiny
from sparsity_edu.models.loading import TINY_RELU
from sparsity_edu.models.train_tiny import CONTEXT


@pytest.fixture(scope="module")
def tiny_relu():
    return load("tiny-relu")


@pytest.fixture(scope="module")
def record():
    return json.loads((TINY_RELU / "training.json").read_text())


@pytest.fixture(scope="module")
def held_out(tiny_relu):
    return tokens(tiny_relu.tokenizer, python_docs("validation"), 4 * CONTEXT)


def test_it_is_as_good_and_as_sparse_as_its_record_says(tiny_relu, held_out, record):
    stated = record["validation"]
    loss, shares = look(tiny_relu.model, held_out)
    assert loss < stated["loss"] + 0.4
    assert sum(shares) / len(shares) == pytest.approx(stated["inactive"], abs=0.03)
    assert stated["inactive"] >= 0.85
    assert stated["loss"] < 1.1 * load_record("tiny")["validation"]["loss"]


def load_record(name):
    return json.loads((TINY_RELU.parent / name / "training.json").read_text())


def test_the_training_script_makes_this_model(tiny_relu, record):
    made, shipped = make_model(), tiny_relu.model
    assert {name: W.shape for name, W in made.state_dict().items()} == {n: W.shape for n, W in shipped.state_dict().items()}
    assert made.config.hidden_act == shipped.config.hidden_act == "relu"
    assert record["hyperparameters"] == HYPERPARAMETERS
    assert record["parameters"] == shipped.num_parameters() == load("tiny").model.num_parameters()
    assert [point["step"] for point in record["curve"]] == list(range(0, STEPS + 1, EVALUATE_EVERY))
    assert isinstance(shipped.model.layers[0].mlp.act_fn, nn.ReLU)


def test_it_reads_as_tiny_does(tiny_relu):
    text = python_docs("validation")[:3000]
    assert torch.equal(tokens(tiny_relu.tokenizer, text), tokens(load("tiny").tokenizer, text))


def test_it_is_small():
    assert sum(path.stat().st_size for path in TINY_RELU.iterdir()) < 8e6


def test_what_the_second_loss_counts():
    seen = [torch.tensor([[1.0, -3.0]]), torch.tensor([[0.0, 2.0]])]
    assert positive_share(seen) == pytest.approx((1 / 4 + 1) / 2)
    assert positive_share([100 * g for g in seen]) == positive_share(seen)
    assert inactive(seen) == [0.5, 0.5]


def test_a_step_of_training_makes_more_zeros(tiny_relu, monkeypatch):
    monkeypatch.setattr(train_tiny, "BATCH", 1)
    monkeypatch.setattr(train_tiny, "CONTEXT", 64)
    ids = tokens(tiny_relu.tokenizer, python_docs("calibration"), 128)
    model, points = make_model(), []
    train(model, ids, ids, steps=3, every=3, coefficient=50.0, note=points.append)
    assert [point["step"] for point in points] == [0, 3]
    assert points[1]["inactive"] > points[0]["inactive"] + 0.002


@torch.no_grad()
def test_its_sparsity_is_contextual(tiny_relu, held_out):
    """The neurons that each token needs change nothing; as many that are the same for all tokens ruin it."""
    model, ids = tiny_relu.model, held_out[: 2 * CONTEXT]
    dense = perplexity(model, ids, CONTEXT, progress=False)
    calibration, masks = tokens(tiny_relu.tokenizer, python_docs("calibration"), 2 * CONTEXT).view(2, -1), {}
    for kind, layer, _, labels in dejavu.examples(model, calibration, "training", progress=False):
        if kind == "neurons":
            often = labels.float().mean(dim=0)
            masks[kind, layer] = chosen(often, round(float(often.sum())))
    with masked(model, dejavu.oracle(model), "training") as used:
        assert perplexity(model, ids, CONTEXT, progress=False) == pytest.approx(dense, rel=1e-5)
    with masked(model, dejavu.static(masks), "training") as same:
        ruined = perplexity(model, ids, CONTEXT, progress=False)
    assert same.share("neurons") == pytest.approx(used.share("neurons"), abs=0.02)
    assert used.share("neurons") < 0.15
    assert ruined > 1.2 * dense


def test_gates_are_those_of_the_last_pass(tiny_relu, held_out):
    with gates(tiny_relu.model) as seen, torch.no_grad():
        for count in (5, 9):
            tiny_relu.model(input_ids=held_out[None, :count])
            assert [g.shape for g in seen] == [(1, count, 384)] * 12
