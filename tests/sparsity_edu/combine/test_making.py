"""A recipe applied: the right steps in the right order, saved, and the same tokens in a fresh process."""

import inspect
import subprocess
import sys

import pytest
import torch

from sparsity_edu import combine, models
from sparsity_edu.activations import teal
from sparsity_edu.combine import Recipe, making
from sparsity_edu.data import python_docs
from sparsity_edu.weights.driver import prune_

SHORT = {"windows": 2, "window": 64}


def recipe(**sections):
    return Recipe.of(sections | {"calibration": SHORT})


def windows(tokenizer):
    return models.tokens(tokenizer, python_docs("calibration"), 128).view(2, 64)


def test_thresholds_are_those_of_the_pruned_model():
    made = combine.make(
        models.load("tiny"),
        recipe(weights={"method": "wanda", "sparsity": 0.5}, activations={"sparsity": 0.4, "prefill": "all"}),
        progress=False,
    )
    model, tokenizer = models.load("tiny")
    prune_(model, "wanda", 0.5, calibration=windows(tokenizer), progress=False)
    for name, weight in model.state_dict().items():
        assert torch.equal(made.model.state_dict()[name], weight)
    assert made.plan.thresholds == teal.thresholds(teal.calibrate(model, windows(tokenizer), progress=False), 0.4)
    assert set(made.plan.levels.values()) == {0.4}
    assert made.plan.prefill == "all"
    dense = teal.calibrate(models.load("tiny").model, windows(tokenizer), progress=False)
    assert made.plan.thresholds != teal.thresholds(dense, 0.4)


def test_another_part_of_the_text_gives_other_thresholds():
    wanted = {"activations": {"sparsity": 0.4}, "calibration": {"windows": 1, "window": 64, "first": 1}}
    made = combine.make(models.load("tiny"), Recipe.of(wanted), progress=False)
    model, tokenizer = models.load("tiny")
    histograms = teal.calibrate(model, windows(tokenizer)[1:], progress=False)
    assert made.plan.thresholds == teal.thresholds(histograms, 0.4)


def test_greedy_levels_differ_from_layer_to_layer():
    tiny = models.load("tiny")
    made = combine.make(tiny, recipe(activations={"sparsity": 0.5, "allocation": "greedy", "step": 0.5}), progress=False)
    assert len(set(made.plan.levels.values())) > 1


def test_a_cut_model_is_smaller_and_dense():
    tiny = models.load("tiny")
    before = sum(p.numel() for p in tiny.model.parameters())
    made = combine.make(tiny, recipe(weights={"method": "shrink", "params": 2_000_000, "distill": 1}), progress=False)
    after = sum(p.numel() for p in made.model.parameters())
    assert 1_500_000 < after <= 2_000_000 < before
    assert before == sum(p.numel() for p in tiny.model.parameters())
    assert made.plan is None


def test_without_weights_and_activations_nothing_is_read(monkeypatch):
    monkeypatch.setattr(making, "_windows", lambda *_: pytest.fail("a text is read"))
    tiny = models.load("tiny")
    made = combine.make(tiny, recipe(cache={"policy": "h2o", "budget": 8}))
    assert made.model is tiny.model
    assert made.plan is None


def written(made):
    ids = torch.arange(40)[None]
    with combine.running(made) as run:
        out = made.model.generate(ids, past_key_values=run.new_cache(), max_new_tokens=12, do_sample=False, pad_token_id=0)
    return out[0].tolist()


THREE = {
    "weights": {"method": "magnitude", "pattern": "2:4"},
    "activations": {"sparsity": 0.4},
    "cache": {"policy": "h2o", "budget": 16},
}


def test_a_fresh_process_writes_the_same_tokens(tmp_path):
    made = combine.make(models.load("tiny"), recipe(**THREE), progress=False)
    assert set(made.save(tmp_path)) == {"2:4", "dense"}
    code = f"""
import torch
from sparsity_edu import combine
torch.set_num_threads({torch.get_num_threads()})
made = combine.load({str(tmp_path)!r})
{inspect.getsource(written)}
print(made.recipe.digest(), *written(made))
"""
    fresh = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert fresh.split() == [recipe(**THREE).digest(), *map(str, written(made))]


def test_a_checkpoint_for_transformers_is_read_back_with_its_recipe(tmp_path):
    made = combine.make(models.load("tiny"), recipe(**THREE), progress=False)
    assert made.save(tmp_path, pack=False) == {}
    again = combine.load(tmp_path)
    assert (again.recipe, again.plan) == (made.recipe, made.plan)
    assert all(torch.equal(made.model.state_dict()[name], tensor) for name, tensor in again.model.state_dict().items())
    assert models.load(tmp_path).model.config.vocab_size == made.model.config.vocab_size


def test_models_without_a_recipe_are_dense():
    made = combine.load("tiny")
    assert made.recipe == Recipe()
    assert made.plan is None


def test_a_folder_that_lost_its_thresholds_is_refused(tmp_path):
    combine.make(models.load("tiny"), recipe(activations={"sparsity": 0.4}), progress=False).save(tmp_path)
    (tmp_path / "thresholds.json").unlink()
    with pytest.raises(ValueError, match=r"must hold thresholds\.json, for its recipe skips inputs"):
        combine.load(tmp_path)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"calibration": {"windows": 10**6}}, "calibration must end within the "),
        ({"calibration": {"window": 10**6}}, r"calibration\.window must be "),
        ({"weights": {"method": "shrink", "params": 10**9}}, r"weights\.params must be less than the model's 2,6"),
    ],
)
def test_what_does_not_fit_the_model_is_named(sections, sentence):
    wanted = {"weights": {"method": "magnitude", "sparsity": 0.5}, "calibration": SHORT} | sections
    with pytest.raises(ValueError, match=sentence):
        combine.make(models.load("tiny"), Recipe.of(wanted), progress=False)


def test_a_calibration_text_of_ones_own(tmp_path):
    text = tmp_path / "own.txt"
    text.write_text("for each item in the list, return the first key of the dictionary that holds it. " * 40)
    wanted = {"activations": {"sparsity": 0.4}, "calibration": SHORT | {"text": str(text)}}
    own = combine.make(models.load("tiny"), Recipe.of(wanted), progress=False)
    assert own.plan.thresholds != combine.make(models.load("tiny"), recipe(activations={"sparsity": 0.4})).plan.thresholds
    text.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"calibration\.text must be a text file in UTF-8"):
        combine.make(models.load("tiny"), Recipe.of(wanted), progress=False)
