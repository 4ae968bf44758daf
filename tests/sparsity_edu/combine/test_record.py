"""The record that unit 17 draws is of the recipes as they are, and its bytes are those of the formulas."""

import json

import pytest

from sparsity_edu.combine import Recipe
from sparsity_edu.combine.costs import step_bytes
from sparsity_edu.combine.evaluation import RECORD, read
from sparsity_edu.combine.recipe import FOLDER

PATHS = sorted([*FOLDER.glob("*.toml"), *FOLDER.with_name("other_texts").glob("*.toml")])
ROWS = {row.digest: row for row in read(RECORD)}
DENSE = ROWS[Recipe().digest()]
# of SmolLM2-135M: 30 layers, 576 wide, 9 heads and 3 of keys and values of 64, 1,536 neurons
NARROW = 30 * 2 * 576 * 192  # keys and values, for which a packed product is no faster
IN_BLOCKS = NARROW + 30 * (2 * 576 * 576 + 3 * 576 * 1536)
KV = 30 * 2 * 3 * 64


def row(name):
    return ROWS[Recipe.load(FOLDER / f"{name}.toml").digest()]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_each_recipe_was_asked_the_same(path):
    found = ROWS[Recipe.load(path).digest()]
    assert found.questions == DENSE.questions
    assert found.questions.startswith("smollm2, float32")
    assert len(found.losses) == 8


def test_other_texts_change_nothing_but_the_text():
    for path in FOLDER.with_name("other_texts").glob("*.toml"):
        here, there = Recipe.load(FOLDER / f"{path.stem[:-2]}.toml").data(), Recipe.load(path).data()
        assert here.pop("name") != there.pop("name")
        assert here["calibration"].pop("first") != there["calibration"].pop("first")
        assert json.dumps(here) == json.dumps(there)


@pytest.mark.parametrize(
    ("name", "stored", "skipped"), [("two-four", "2:4", 0), ("skip-40", "dense", 0.4), ("skip-50", "dense", 0.5)]
)
def test_weights_are_read_as_predicted(name, stored, skipped):
    whole = NARROW if stored == "2:4" else 0
    rest = DENSE.weights_read - 4 * (IN_BLOCKS - whole)
    told, _ = step_bytes(IN_BLOCKS - whole, stored, skipped, 1, 0, KV, itemsize=4)
    assert row(name).weights_read == pytest.approx(rest + told, rel=0.02)


def test_zeros_without_a_pattern_are_read_and_not_stored():
    half = row("half")
    assert half.weights_read == DENSE.weights_read
    assert half.disk == pytest.approx(DENSE.weights_read - 4 * IN_BLOCKS + (2 + 1 / 8) * IN_BLOCKS, rel=0.01)


def test_a_full_cache_is_read_whole():
    assert DENSE.cache_read == pytest.approx((1024 + 32) * KV * 4, rel=0.03)
