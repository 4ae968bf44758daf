"""Rows of a table: what was measured, kept as it comes, and not measured again."""

import math
import sys
import types
from dataclasses import replace

import matplotlib
import pytest
import torch

from sparsity_edu import combine, kv_cache, models
from sparsity_edu.combine import Made, Recipe, evaluation, harness, packed
from sparsity_edu.combine.evaluation import Questions, Row
from sparsity_edu.data import python_docs
from sparsity_edu.kernels.roofline import Machine
from sparsity_edu.models import tokens

matplotlib.use("Agg")

TEXT = python_docs("validation")
SMALL = {"windows": 2, "window": 24, "length": 80, "trials": 2, "choices": 3, "count": 3}
MACHINE = Machine("some", 1e9, 1e12)
ROW = Row("a", "0123", "some", 12.5, 1, 2, 3, 4, 10, 11, 12, 13, 14, 1.5, 2.5, 0.1, (2.0, math.inf, 1 / 3))


@pytest.fixture(scope="module")
def tiny():
    return models.load("tiny")


@torch.no_grad()
def test_a_row_holds_what_the_model_does_and_reads(tiny, tmp_path):
    made = Made(tiny.model, tiny.tokenizer, Recipe("few", cache=combine.recipe.Cache("window", 12)))
    questions = Questions.of(tiny.tokenizer, TEXT, **SMALL)
    row = evaluation.evaluate(made, questions, MACHINE, progress=False)
    ids = tokens(tiny.tokenizer, TEXT, 48).view(2, 24)
    expected = kv_cache.reading.losses(tiny.model, ids, [kv_cache.WindowCache(12, sinks=0)], 12, progress=False)[0].mean(dim=1)
    assert row.losses == pytest.approx(expected.tolist())
    assert row.perplexity == pytest.approx(math.exp(row.loss)) == pytest.approx(math.exp(expected.mean().item()))
    assert (row.recipe, row.trials, row.items) == ("few", 2, 3)
    size = sum(p.nbytes for p in tiny.model.parameters())
    assert row.weights_read == row.weights_held == size + sum(b.nbytes for b in tiny.model.buffers())
    config = tiny.model.config
    token = config.num_hidden_layers * 2 * config.num_key_value_heads * config.hidden_size // config.num_attention_heads * 4
    assert row.cache_read == 13 * token  # the newest token attends to itself, too
    assert row.read == row.weights_read + row.cache_read
    assert row.predicted_per_s == pytest.approx(1e9 / row.read)
    assert row.tokens_per_s > 0
    made.save(tmp_path)
    assert 0 < (tmp_path / packed.FILE).stat().st_size - row.disk < 30_000


def test_bytes_on_disk_are_those_of_the_packed_model(tmp_path):
    made = combine.make(
        models.load("tiny"),
        Recipe.of({"weights": {"method": "magnitude", "sparsity": 0.6}, "calibration": {"windows": 1, "window": 32}}),
        progress=False,
    )
    sizes = made.save(tmp_path)
    assert evaluation.stored_bytes(made) == sum(size.stored for size in sizes.values())


def test_rows_come_back_from_a_file_to_the_bit_and_a_cut_one_is_left_out(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [ROW, replace(ROW, recipe='b, "c"', perplexity=math.inf, score=0.25)]
    for row in rows:
        evaluation.append(path, row)
    again = evaluation.read(path)
    assert repr(again) == repr(rows)  # NaN equals nothing
    path.write_text(path.read_text()[:-30])
    assert repr(evaluation.read(path)) == repr(rows[:1])
    assert evaluation.read(tmp_path / "none.csv") == []


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "nonsense"])
def test_another_table_is_not_continued(text, tmp_path):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(ValueError, match=r"rows\.csv must be a table of this version"):
        evaluation.read(tmp_path / "rows.csv")


def test_a_row_in_the_middle_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "rows.csv"
    for row in (ROW, ROW, ROW):
        evaluation.append(path, row)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1], "oops", lines[3]]))
    with pytest.raises(ValueError, match="in row 2"):
        evaluation.read(path)


def test_recipes_are_measured_once():
    recipes = [Recipe("a"), Recipe("b", kernels="dense"), Recipe("c")]
    known = [
        replace(ROW, digest=recipes[1].digest(), questions="these", perplexity=5.0),
        replace(ROW, digest=recipes[0].digest()),
    ]
    measured, kept = [], []

    def measure(recipe):
        measured.append(recipe.name)
        return replace(ROW, recipe=recipe.name, digest=recipe.digest(), questions="these")

    row_of = evaluation.once(measure, known, "these", kept.append)
    found = [row_of(recipe) for recipe in recipes]
    assert measured == ["a"]  # "c" is the same under another name; of other questions nothing is known
    assert [row.recipe for row in kept] == ["a"]
    assert [row.recipe for row in found] == ["a", "b", "c"]
    assert found[1].perplexity == 5.0


def test_questions_of_a_short_text_are_refused(tiny):
    with pytest.raises(ValueError, match=r"^text must have 80 tokens, got "):
        Questions.of(tiny.tokenizer, "too short", **SMALL)


def test_the_figure_has_a_point_for_each_recipe_and_a_line_for_the_front():
    rows = [
        replace(ROW, recipe=name, perplexity=p, weights_read=w)
        for name, p, w in (("a", 9, 100), ("b", 5, 300), ("c", 9.5, 200))
    ]
    (ax,) = evaluation.draw(rows, [0, 1]).axes
    line, *points = ax.lines
    assert list(line.get_ydata()) == [9, 5]
    assert [list(point.get_ydata()) for point in points] == [[9], [5], [9.5]]
    assert {text.get_text() for text in ax.texts} == {"a", "b", "c"}


def test_a_task_of_lm_eval_is_asked_of_the_running_model(tiny, monkeypatch):
    asked = {}

    class HFLM:
        def __init__(self, pretrained, tokenizer, batch_size):
            asked.update(model=pretrained, attention=pretrained.config._attn_implementation)

    def simple_evaluate(model, tasks, limit):
        asked.update(tasks=tasks, limit=limit)
        return {"results": {"arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_norm,none": 0.25}, "odd": {"bleu": 1}}}

    for name, parts in {
        "lm_eval": {"simple_evaluate": simple_evaluate}, "lm_eval.models": {}, "lm_eval.models.huggingface": {"HFLM": HFLM}
    }.items():  # fmt: skip
        module = types.ModuleType(name)
        vars(module).update(parts)
        monkeypatch.setitem(sys.modules, name, module)
    made = Made(tiny.model, tiny.tokenizer, Recipe())
    assert harness.score(made, "arc_easy", 7) == 0.25
    assert asked == {"model": tiny.model, "attention": kv_cache.ATTENTION, "tasks": ["arc_easy"], "limit": 7}
    with pytest.raises(ValueError, match="--task must be a task that lm-eval knows, got 'none'"):
        harness.score(made, "none")
    with pytest.raises(ValueError, match="--task must be measured by accuracy"):
        harness.score(made, "odd")


def test_without_lm_eval_a_task_is_refused(monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="--task needs the package lm-eval: pip install lm-eval"):
        harness.need_package()
