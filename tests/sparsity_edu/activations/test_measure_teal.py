"""What the record of TEAL is made of."""

import json

import pytest
from decoders import small_model, text

from sparsity_edu.activations import allocation, measure_teal, teal
from sparsity_edu.activations.decoding import decoding_perplexity
from sparsity_edu.activations.measure_teal import PARTS, RECORD, SPARSITIES, SPEED, costs, in_turns, levels_of
from sparsity_edu.models import perplexity


def test_costs_are_those_of_all_tokens_and_of_decoding():
    model, ids = small_model(), text()
    limits = teal.thresholds(teal.calibrate(model, ids, progress=False), 0.5)
    found = costs(model, limits, ids.flatten(), 8)
    with teal.applied(model, limits, prefill="all"):
        assert found[0] == pytest.approx(perplexity(model, ids.flatten(), 8, progress=False))
    with teal.applied(model, limits, prefill="last_half"):
        assert found[1] == pytest.approx(decoding_perplexity(model, ids.flatten(), 8))
    nothing = costs(model, dict.fromkeys(limits, 0.0), ids.flatten(), 8)
    assert nothing[0] == pytest.approx(perplexity(model, ids.flatten(), 8, progress=False), rel=1e-4)


def test_levels_are_the_nearest_of_each_block():
    paths = [
        [allocation.Row(share, 0.0, {f"{block}.q_proj": level}, None) for share, level in ((0.0, 0.0), (0.3, 0.4), (0.8, 1.2))]
        for block in range(2)
    ]
    searched = [allocation.BlockLevels({}, 0.0, 0.0, 0.0, path) for path in paths]
    assert levels_of(searched, 0.4) == {"0.q_proj": 0.4, "1.q_proj": 0.4}
    assert levels_of(searched, 0.7) == {"0.q_proj": 1.0, "1.q_proj": 1.0}


def test_times_are_the_least_of_all_turns(monkeypatch):
    model, ids = small_model(), text()
    distributions = teal.calibrate(model, ids, progress=False)
    took = iter([3.0, 9.0, 2.0, 1.0, 9.0, 4.0])
    monkeypatch.setattr(measure_teal, "decoding_seconds", lambda *args: next(took))
    turns = []
    best = in_turns(model, distributions, ids[:1], [0.5], 2, 2, lambda: turns.append(1))
    assert best == {None: 1.0, 0.5: 2.0}
    assert len(turns) == 4


def test_the_record_that_ships_is_whole():
    record = json.loads(RECORD.read_text())
    assert record["command"] == "python -m sparsity_edu.activations.measure_teal"
    assert {"seed", "threads", "python", "torch", "transformers", "model", "calibration"} <= record.keys()
    assert tuple(record["parts"]) == PARTS
    parts = record["parts"]
    assert all(part["seconds"] > 0 for part in parts.values())
    assert [row["sparsity"] for row in parts["levels"]["results"]] == list(SPARSITIES)
    assert all(len(row["levels"]) == record["layers"] for row in parts["levels"]["results"])
    assert [row["sparsity"] for row in parts["perplexity"]["results"]] == [0.0, *(s for s in SPARSITIES for _ in range(2))]
    assert len(parts["alone"]["results"]) == 7
    assert len(parts["speed"]["results"]) == 2 * (1 + len(SPEED))
