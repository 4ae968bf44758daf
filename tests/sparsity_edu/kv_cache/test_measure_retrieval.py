"""What the record of retrieval and continuation is made of: budgets, what is found, and perplexities behind a text."""

import json
import math

import pytest
import torch
from small_models import VOCABULARY, small_model
from torch.nn import functional as F

from sparsity_edu.kv_cache import FullCache, QuestCache, WindowCache, attending
from sparsity_edu.kv_cache.measure_retrieval import CACHES, OF_H2O, PARTS, RECORD, continuation, retrieval, settings
from sparsity_edu.kv_cache.needle import Needle, ask

MAKE = {
    "full": lambda budget: FullCache(),
    "window": lambda budget: WindowCache(budget, 0),
    "Quest": lambda budget: QuestCache(budget, 4),
}
CHOSEN = [("full", 40), ("window", 8), ("window", 40), ("Quest", 8), ("Quest", 40)]


def test_budgets_are_shares_of_the_text():
    chosen = settings(1000, (0.25,))
    assert chosen[0] == ("full", 1000)
    assert [pair for pair in chosen if pair[0] in ("full", "H2O")] == [("full", 1000), ("H2O", 250)]
    assert [budget for name, budget in chosen if name == "Quest"] == [50, 100, 200, 500]


def test_found_is_what_asking_one_by_one_finds(monkeypatch):
    model, g = small_model(), torch.Generator().manual_seed(0)
    ids = torch.randint(1, VOCABULARY, (5, 40), generator=g)
    hidden = [Needle(row[:36], row[36:38], row[38:]) for row in ids]
    with torch.no_grad():  # the answers of the full cache are the true ones, but for the last text
        for i, needle in enumerate(hidden[:-1]):
            text = torch.cat([needle.context, needle.question])
            for _ in range(2):
                text = torch.cat([text, model(text[None]).logits[0, -1].argmax()[None]])
            hidden[i] = Needle(needle.context, needle.question, text[-2:])
    monkeypatch.setattr("sparsity_edu.kv_cache.measure_retrieval.TOGETHER", 80)  # two at a time
    answers = []
    results = retrieval(model, hidden, 40, CHOSEN, MAKE, tick=answers.append)
    assert sum(answers) == len(CHOSEN) * len(hidden)
    for result, (name, budget) in zip(results, CHOSEN, strict=True):
        alone = [next(iter(ask(model, [needle], [MAKE[name](budget)]))) for needle in hidden]
        assert (result.cache, result.budget, result.length, result.trials) == (name, budget, 40, 5)
        assert result.found == sum(right for [right] in alone)
    assert results[0].found >= 4
    assert results[0].read == results[4].read == 1.0
    assert results[1].read < 0.3


def test_perplexity_of_what_comes_behind_a_text():
    model, tail = small_model(), 7
    windows = torch.randint(1, VOCABULARY, (3, 40), generator=torch.Generator().manual_seed(1))
    found = continuation(model, windows, CHOSEN, MAKE, tail)
    with torch.no_grad(), attending(model):
        logits = model(windows).logits[:, -tail:-1]
    plain = math.exp(F.cross_entropy(logits.flatten(0, 1), windows[:, -tail + 1 :].flatten()))
    assert found["full", 40] == pytest.approx(plain, rel=1e-4)
    assert found["Quest", 40] == pytest.approx(plain, rel=1e-4)
    assert found["window", 40] == pytest.approx(plain, rel=1e-4)
    assert abs(found["window", 8] / plain - 1) > 1e-2


def test_the_record_that_ships_is_whole():
    record = json.loads(RECORD.read_text())
    assert record["command"].startswith("python -m sparsity_edu.kv_cache.measure_retrieval")
    assert {"seed", "threads", "python", "torch", "transformers", "model", "data"} <= record.keys()
    assert tuple(record["parts"]) == PARTS
    for name, part in record["parts"].items():
        assert part["seconds"] > 0
        of_h2o = {} if name == "continuation" else {"of_h2o": OF_H2O[part["tokens"]]}
        assert [(row["cache"], row["budget"]) for row in part["results"]] == settings(part["tokens"], **of_h2o)
    assert set(CACHES) == {row["cache"] for row in record["parts"]["continuation"]["results"]}
