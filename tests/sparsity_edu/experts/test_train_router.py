"""The trainings that compare remedies: what they share, what they differ in, and the record that ships."""

import json

import pytest
import torch

from sparsity_edu.experts import train_router
from sparsity_edu.experts.losses import load_balancing
from sparsity_edu.experts.train_router import BATCH, BLOCKS, CONTEXT, EXPERTS, RECORD, REMEDIES, SEEDS, STEPS, Remedy, train


@pytest.fixture(autouse=True)
def short_text(monkeypatch):
    ids = torch.randint(32, 127, (9000,), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(train_router, "text", lambda split: ids if split == "train" else ids[:5000])


@pytest.mark.parametrize("name", REMEDIES)
def test_every_remedy_trains_and_begins_like_the_others(name):
    mine, plain = (train(REMEDIES[which], seed=3, steps=3, every=3)["curve"] for which in (name, "none"))
    assert mine[0] == plain[0]
    assert mine[1]["bits"] < mine[0]["bits"]
    assert (mine == plain) == (name == "none")
    for point in mine:
        assert len(point["shares"]) == len(point["logits"]) == BLOCKS
        assert all(sum(shares) == pytest.approx(1, abs=1e-3) for shares in point["shares"])


def test_a_seed_gives_the_same_training():
    first, second, other = (train(REMEDIES["SparseMixer v1"], seed, steps=2, every=2)["curve"] for seed in (1, 1, 2))
    assert first == second != other


def test_what_a_remedy_is_given():
    seen = {"jitter": [], "balance": [], "small": [], "bias": []}

    def jitter(x, noise):
        seen["jitter"].append((x.shape, noise.shape, noise.min() >= 0, noise.max() < 1))
        return x

    def balance(routing):
        seen["balance"].append(routing)
        return load_balancing(routing.probs, routing.experts)

    def small(logits):
        seen["small"].append(logits.shape)
        return logits.sum() * 0

    def bias(before, counts):
        seen["bias"].append((before, counts))
        return before + 1

    train(Remedy(jitter=jitter, balance=balance, small=small, bias=bias), seed=0, steps=2, every=2)
    tokens = BATCH * CONTEXT
    assert {name: len(calls) for name, calls in seen.items()} == dict.fromkeys(seen, 2 * BLOCKS)  # in training alone
    assert seen["jitter"][0] == ((BATCH, CONTEXT, train_router.D),) * 2 + (True, True)
    assert [tuple(part.shape) for part in seen["balance"][0]] == [(tokens, 1), (tokens, 1), (tokens, EXPERTS)]
    assert seen["small"][0] == (tokens, EXPERTS)
    assert [before.tolist() for before, _ in seen["bias"]] == [[0.0] * EXPERTS] * BLOCKS + [[1.0] * EXPERTS] * BLOCKS
    assert all(counts.sum() == tokens for _, counts in seen["bias"])


def test_the_record_is_complete():
    record = json.loads(RECORD.read_text())
    assert record["command"].endswith(f"--seeds {SEEDS} --steps {STEPS}")
    assert list(record["runs"]) == list(REMEDIES)
    for runs in record["runs"].values():
        assert [run["seed"] for run in runs] == list(range(SEEDS))
        assert all(run["curve"][-1]["step"] == STEPS and run["seconds"] > 0 for run in runs)
