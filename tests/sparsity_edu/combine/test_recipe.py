"""A recipe is plain data: read back as it was written, and wrong in one sentence."""

import json

import pytest

from sparsity_edu.combine import Recipe
from sparsity_edu.combine.recipe import Activations, Cache, Calibration, Weights

WHOLE = Recipe(
    "all",
    Weights("sparsegpt", pattern="2:4"),
    Activations(0.4, "greedy", 0.2, "all"),
    Cache("quest", 64),
    Calibration("notes.txt", 2, 128, 3),
    "dense",
)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        WHOLE,
        Recipe("cut", Weights("shrink", params=10**6, distill=3)),
        Recipe("half", Weights("wanda", sparsity=0.5)),
    ],
    ids=lambda recipe: recipe.name,
)
def test_what_is_saved_is_loaded(recipe, tmp_path):
    recipe.save(tmp_path)
    assert Recipe.load(tmp_path) == recipe
    assert Recipe.load(tmp_path / "recipe.toml") == recipe
    (tmp_path / "same.json").write_text(json.dumps(recipe.data()))
    assert Recipe.load(tmp_path / "same.json") == recipe


def test_a_recipe_without_a_name_has_that_of_its_file(tmp_path):
    (tmp_path / "mine.toml").write_text("[cache]\npolicy = 'h2o'\nbudget = 8\n")
    assert Recipe.load(tmp_path / "mine.toml") == Recipe("mine", cache=Cache("h2o", 8))


def test_a_digest_tells_what_is_done_and_not_what_it_is_called():
    assert Recipe("a", WHOLE.weights).digest() == Recipe("b", WHOLE.weights).digest()
    others = {
        Recipe().digest(),
        WHOLE.digest(),
        Recipe("a", Weights("sparsegpt", pattern="4:8")).digest(),
        Recipe("a", kernels="dense").digest(),
        Recipe("a", cache=Cache("quest", 64)).digest(),
        Recipe("a", cache=Cache("quest", 65)).digest(),
        Recipe("a", calibration=Calibration(first=1)).digest(),
    }
    assert len(others) == 7
    assert Recipe.of({"calibration": {"windows": 8}, "kernels": "auto"}).digest() == Recipe().digest()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("weights = 3", "weights must be a table, got 3"),
        ("[wieghts]", "wieghts is not known; did you mean weights?"),
        ("[cache]\npolicy='h2o'\nbudget=8\npages=3", "cache.pages is not known; allowed are policy, budget"),
        ("[cache]\npolicy='h2o'", "cache.budget must be given"),
        ("[cache]\npolicy='lru'\nbudget=8", "cache.policy must be one of window, sinks, h2o, quest, got 'lru'"),
        ("[cache]\npolicy='quest'\nbudget=15", "cache.budget must be a whole number of at least 16 for quest, got 15"),
        ("[cache]\npolicy='h2o'\nbudget=8.0", "cache.budget must be a whole number of at least 1 for h2o, got 8.0"),
        ("[cache]\npolicy='h2o'\nbudget=true", "cache.budget must be a whole number of at least 1 for h2o, got True"),
        ("[activations]\nsparsity=1.5", "activations.sparsity must be a number in [0, 1), got 1.5"),
        ("[activations]\nsparsity=nan", "activations.sparsity must be a number in [0, 1), got nan"),
        ("[activations]\nsparsity='0.5'", "activations.sparsity must be a number in [0, 1), got '0.5'"),
        ("[activations]\nsparsity=0.5\nprefill='half'", "activations.prefill must be one of all, last_half, none, got 'half'"),
        ("[weights]\nmethod='sparsegpt'", "weights.sparsity or pattern must be given for sparsegpt, one of them, got neither"),
        ("[weights]\nmethod='wanda'\npattern='2;4'", 'weights.pattern must be "n:m"'),
        ("[weights]\nmethod='wanda'\npattern=24", "weights.pattern must be a text such as \"2:4\", got 24"),
        ("[weights]\nmethod='shrink'\nsparsity=0.5", "weights.params must be given for shrink"),
        ("[weights]\nmethod='wanda'\nsparsity=0.5\ndistill=3", "weights.distill must be left out for wanda"),
        ("[weights]\nmethod=['wanda']\nsparsity=0.5", "weights.method must be one of"),
        ("kernels='fast'", "kernels must be one of auto, dense, got 'fast'"),
        ("name=''", "name must be a line of text, at most 80 characters, got ''"),
        ('name="a\\u001b[2J"', "name must be"),
        ("[calibration]\nwindow=3", "calibration.window must be a whole number of at least 4, got 3"),
        ("weights", "must be TOML in UTF-8"),
        ("#" * 100_001, "must be a recipe of at most 100,000 bytes, got a longer file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(text, sentence, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^mine\.toml") as raised:
        Recipe.load(path)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["[1, 2]", "nonsense", '{"weights": null}', "[" * 10_000, b"\xff\xfe"])
def test_json_that_is_no_recipe_is_refused(text, tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"^mine\.json"):
        Recipe.load(path)
