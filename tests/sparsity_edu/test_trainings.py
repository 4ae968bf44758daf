"""The record of trainings: who is trained, and what stays of an earlier record."""

import json
import sys

import pytest

from sparsity_edu.models import trainings

KINDS = {"one": 1, "two": 2}


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Calls the script with arguments; gives the record, and what was trained."""
    made = []

    def train(kind, seed, steps, tick):
        made.append((kind, seed, steps))
        tick()
        return {"seed": seed, "value": 10 * kind + seed, "steps": steps}

    def command(*arguments):
        made.clear()
        monkeypatch.setattr(sys, "argv", ["script", *arguments])
        path = tmp_path / "record.json"
        trainings.run("What it does.", "a.script", path, KINDS, train, str, {"context": 7}, seeds=2, steps=5)
        return json.loads(path.read_text()), made

    return command


def test_every_kind_is_trained_with_every_seed(script):
    record, made = script()
    assert made == [(1, 0, 5), (2, 0, 5), (1, 1, 5), (2, 1, 5)]
    assert {name: [run["value"] for run in runs] for name, runs in record["runs"].items()} == {"one": [10, 11], "two": [20, 21]}
    assert (record["command"], record["context"], record["threads"]) == ("python -m a.script --seeds 2 --steps 5", 7, 1)


def test_what_is_made_again_takes_its_place_and_the_rest_stays(script, tmp_path):
    before, _ = script()
    before["runs"]["one"][0]["value"] = before["runs"]["two"][0]["value"] = -1
    (tmp_path / "record.json").write_text(json.dumps(before))
    record, made = script("two")
    assert made == [(2, 0, 5), (2, 1, 5)]
    assert {name: [run["value"] for run in runs] for name, runs in record["runs"].items()} == {"one": [-1, 11], "two": [20, 21]}


def test_a_record_of_other_steps_is_not_mixed_with(script, capsys):
    script()
    with pytest.raises(SystemExit):
        script("two", "--steps", "9")
    assert "record.json is of 'python -m a.script --seeds 2 --steps 5': delete it" in capsys.readouterr().err


def test_an_unknown_kind_is_refused_before_anything_is_trained(script, capsys):
    with pytest.raises(SystemExit):
        script("three")
    assert "kind must be one of 'one', 'two', got 'three'" in capsys.readouterr().err
