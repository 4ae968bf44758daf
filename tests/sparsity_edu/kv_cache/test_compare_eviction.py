"""The script that compares what caches lose, on a small model, and the record that ships."""

import json

import pytest
import torch
import torch.nn.functional as F
from small_models import VOCABULARY, small_model

from sparsity_edu import models
from sparsity_edu.kv_cache import compare_eviction, needle
from sparsity_edu.kv_cache.compare_eviction import BUDGETS, LINES, POLICIES, RECORD, TEXTS, find, read, windows


def test_texts_are_read_through_every_cache():
    model = small_model()
    ids = torch.randint(1, VOCABULARY, (2, 61), generator=torch.Generator().manual_seed(1))
    rows = read(model, ids, list(POLICIES), (0.2, 1.0), prompt=20, progress=False)
    assert [(row["policy"], row["budget"]) for row in rows] == [("full", 1.0), *((n, b) for n in POLICIES for b in (0.2, 1.0))]
    with torch.no_grad():
        expected = F.cross_entropy(model(ids).logits[:, 19:-1].flatten(0, 1), ids[:, 20:].flatten()).item()
    by_key = {(row["policy"], row["budget"]): row for row in rows}
    for (_, budget), row in by_key.items():
        assert sum(row["by text"]) / 2 == pytest.approx(row["loss"], abs=2e-4)
        assert (abs(row["loss"] - expected) < 2e-3) == (budget == 1.0)  # whatever the policy
        assert len(row["left"]) == 10
        assert sum(row["left"]) / 10 == pytest.approx(0.2 if budget < 1 else 1.0, abs=1e-3)
    assert by_key["window", 0.2]["left"] == [0.0] * 8 + [1.0] * 2
    assert by_key["window + 4 sinks", 0.2]["left"] == [0.6667, *[0.0] * 7, 0.3333, 1.0]
    firsts = [by_key[name, 0.2]["first"] for name in ("window", "window + 1 sink", "H2O without the first token")]
    assert firsts == [0.0, 1.0, 0.0]
    assert by_key["H2O", 0.2]["left"] != by_key["H2O normalised", 0.2]["left"]


def test_lines_are_asked_for_through_every_cache(monkeypatch):
    asked = []

    def ask(model, hidden, caches):
        asked.append([len(one.context) for one in hidden])
        yield from ([i % 2 == 0] * len(hidden) for i, _ in enumerate(caches))

    monkeypatch.setattr(compare_eviction, "ask", ask)
    rows = find(None, models.load("tiny").tokenizer, ["H2O", "window"], (0.5,), lines=7, span=100, seed=2)
    assert [len(part) for part in asked] == [5, 2]
    assert {(row["policy"], row["budget"]): row["found"] for row in rows} == {
        ("full", 1.0): [True] * 7,
        ("H2O", 0.5): [False] * 7,
        ("window", 0.5): [True] * 7,
    }
    assert needle.ask is not ask


def test_texts_are_spread_over_the_whole():
    tokenizer = models.load("tiny").tokenizer
    parts = windows(tokenizer, 3, 50)
    ids = models.tokens(tokenizer, compare_eviction.python_docs("validation"))
    assert torch.equal(parts[0], ids[:50])
    assert torch.equal(parts[2], ids[-50:])
    assert torch.equal(parts[1], ids[(len(ids) - 50) // 2 :][:50])


def test_the_record_is_complete():
    record = json.loads(RECORD.read_text())
    assert record["command"].startswith("python -m sparsity_edu.kv_cache.compare_eviction")
    loss, retrieval = record["loss"], record["retrieval"]
    keys = [("full", 1.0), *((name, share) for name in POLICIES for share in BUDGETS)]
    assert [(row["policy"], row["budget"]) for row in loss["caches"]] == keys
    assert all(len(row["by text"]) == TEXTS for row in loss["caches"])
    assert all(len(row["found"]) == LINES for row in retrieval["caches"])
    assert loss["seconds"] > 0 < retrieval["seconds"]
