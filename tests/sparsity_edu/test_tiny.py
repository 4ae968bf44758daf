"""The tiny model that ships: as good as its record says, hurt by pruning, healed by retraining."""

import copy
import json

import pytest
import torch

from sparsity_edu.data import python_docs
from sparsity_edu.models import load, perplexity, tokens
from sparsity_edu.models.loading import TINY
from sparsity_edu.models.train_tiny import BATCH, LEARNING_RATE, SEED, STEPS, WEIGHT_DECAY, make_model
from sparsity_edu.weights import magnitude

WINDOW = 256


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture(scope="module")
def held_out(tiny):
    return tokens(tiny.tokenizer, python_docs("validation"), 8 * WINDOW)


def test_it_is_as_good_as_its_record_says(tiny):
    record = json.loads((TINY / "training.json").read_text())["validation"]
    text = tokens(tiny.tokenizer, python_docs("validation"), 8 * 512)
    assert perplexity(tiny.model, text, 512, progress=False) < 1.5 * record["perplexity"]
    assert record["bits_per_byte"] < 2


def test_the_training_script_makes_this_model(tiny):
    made, shipped = make_model().state_dict(), tiny.model.state_dict()
    assert {name: W.shape for name, W in made.items()} == {name: W.shape for name, W in shipped.items()}
    record = json.loads((TINY / "training.json").read_text())
    assert record["parameters"] == tiny.model.num_parameters()
    script = {"steps": STEPS, "batch": BATCH, "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "seed": SEED}
    assert {name: record["hyperparameters"][name] for name in script} == script


def test_it_is_small():
    assert sum(path.stat().st_size for path in TINY.iterdir()) < 8e6


def test_pruning_hurts_and_a_short_retraining_heals(tiny, held_out):
    """Measured at length by benchmarks/tiny.py."""
    dense = perplexity(tiny.model, held_out, WINDOW, progress=False)
    model = copy.deepcopy(tiny.model)
    masks = magnitude.prune_(model, 0.6)
    pruned = perplexity(model, held_out, WINDOW, progress=False)
    assert pruned > 1.2 * dense

    text = tokens(tiny.tokenizer, python_docs("train"), 1000 * WINDOW).view(1000, WINDOW)
    picked = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[: 20 * 4].view(20, 4)  # 20 steps of 4 windows
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    magnitude.hold_(optimizer, model, masks)
    for batch in text[picked]:
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    healed = perplexity(model, held_out, WINDOW, progress=False)
    assert healed < dense + 0.5 * (pruned - dense)
    assert all((model.get_submodule(name).weight[~mask] == 0).all() for name, mask in masks.items())
