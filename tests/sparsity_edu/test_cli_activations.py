"""`sparsify` finds thresholds, and `generate --activations` writes with them."""

import json
import math
import re

import pytest
import torch
from transformers import MixtralConfig
from typer.testing import CliRunner

from sparsity_edu import kv_cache, models
from sparsity_edu.activations import allocation, teal
from sparsity_edu.activations.decoding import decoding_perplexity
from sparsity_edu.activations.plan import Plan
from sparsity_edu.cli import app
from sparsity_edu.data import python_docs

runner = CliRunner()
PROMPT = "def read(self, size):\n    "
SPARSIFY = ["sparsify", "tiny", "--windows", "2", "--window", "64"]


@pytest.fixture(scope="module")
def tiny():
    return models.load("tiny")


@pytest.fixture
def nothing_loaded(monkeypatch):
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("loaded"))


def loss_of(model, ids):
    return model(input_ids=ids, labels=ids).loss.item()


@torch.no_grad()
def test_sparsify_saves_thresholds_and_says_what_they_cost(tiny, tmp_path):
    out = tmp_path / "new" / "thresholds.json"
    result = runner.invoke(app, [*SPARSIFY, "--sparsity", "0.5", "--out", str(out)])
    assert result.exit_code == 0, result.output
    ids = models.tokens(tiny.tokenizer, python_docs("calibration"), 128).view(2, 64)
    limits = teal.thresholds(teal.calibrate(tiny.model, ids, progress=False), 0.5)
    plan = Plan.load(out)
    assert plan.thresholds == limits
    assert set(plan.levels.values()) == {0.5}
    assert plan.prefill == "last_half"
    assert plan.about["model"] == "tiny"
    validation = models.tokens(tiny.tokenizer, python_docs("validation"), 128).view(2, 64)
    dense = math.exp(loss_of(tiny.model, validation))
    with teal.applied(tiny.model, limits, prefill="all"):
        sparse = math.exp(loss_of(tiny.model, validation))
    dense_half = decoding_perplexity(tiny.model, validation.flatten(), 64)
    with teal.applied(tiny.model, limits, prefill="last_half"):
        half = decoding_perplexity(tiny.model, validation.flatten(), 64)
    for name, numbers in (("perplexity", [dense, sparse]), ("decoding  ", [dense_half, half])):
        found = re.search(rf"(?m)^{name}  dense ([\d.]+), sparse ([\d.]+), ", result.stdout).groups()
        assert [float(x) for x in found] == pytest.approx(numbers, abs=0.006)
        assert numbers[0] < numbers[1]
    row = re.search(r"(?m)^mlp\.down_proj +589,824 +0\.500 +0\.500 +0\.500 +([\d.]+)%$", result.stdout)
    assert 45 < float(row[1]) < 60
    assert max(map(len, result.stdout.replace(str(tmp_path), "").splitlines())) <= 80


def test_sparsify_searches(tiny, tmp_path):
    out = tmp_path / "thresholds.json"
    options = ["--sparsity", "0.4", "--greedy", "--step", "0.5", "--rule", "quantile", "--prefill", "all"]
    result = runner.invoke(app, [*SPARSIFY, *options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    ids = models.tokens(tiny.tokenizer, python_docs("calibration"), 128).view(2, 64)
    distributions = teal.calibrate(tiny.model, ids, "quantile", progress=False)
    found = allocation.allocate(tiny.model, ids[:1], distributions, 0.4, step=0.5, prefill="all", progress=False)
    plan = Plan.load(out)
    assert plan.levels == {name: p for block in found for name, p in block.levels.items()}
    assert plan.thresholds == teal.thresholds(distributions, plan.levels)
    assert (plan.prefill, plan.about["allocation"], plan.about["step"]) == ("all", "greedy", 0.5)
    assert len(set(plan.levels.values())) > 5
    assert re.search(r"search +error of a block beside uniform levels: median [\d.]+, less in \d+ of 12", result.stdout)


@pytest.mark.parametrize("cache", ["full", "h2o:12"])
def test_generate_writes_what_the_sparse_model_writes(tiny, tmp_path, cache):
    model, tokenizer = tiny
    ids = models.tokens(tokenizer, python_docs("calibration"), 256).view(2, 128)
    limits = teal.thresholds(teal.calibrate(model, ids, progress=False), 0.75)
    Plan(limits, prefill="none").save(tmp_path / "thresholds.json")
    given = tokenizer(PROMPT, return_tensors="pt")

    def written(sparse):
        held = kv_cache.FullCache() if cache == "full" else kv_cache.H2OCache(12)
        with kv_cache.attending(model):
            options = dict(max_new_tokens=16, do_sample=False, past_key_values=held)
            if not sparse:
                out = model.generate(**given, **options)
            else:
                with teal.applied(model, limits, prefill="none"):
                    out = model.generate(**given, **options)
        return out[0, given["input_ids"].shape[1] :].tolist()

    expected, dense = written(True), written(False)
    arguments = ["generate", "tiny", "--prompt", PROMPT, "--max-new-tokens", "16", "--cache", cache]
    result = runner.invoke(app, [*arguments, "--activations", str(tmp_path / "thresholds.json")])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(tokenizer.decode(expected, skip_special_tokens=True))
    same = next(i for i, (a, b) in enumerate(zip(expected, dense, strict=False)) if a != b)
    assert f"dense would have written other tokens after {same} of them." in result.stdout
    assert ("full would have written" in result.stdout) == (cache != "full")
    rows = re.findall(r"(?m)^(full|h2o:12|dense) +[\d.]+ +[\d.]+ +[\d,]+ +[\d,]+$", result.stdout)
    assert rows == (["full", "dense"] if cache == "full" else ["full", "h2o:12", "dense"])
    assert "in decoding only" in result.stdout
    table = result.stdout[result.stdout.index("\nprompt ") :].replace(str(tmp_path), "")
    assert max(map(len, table.splitlines())) <= 80


def test_thresholds_of_another_model_are_refused(tmp_path):
    Plan({"model.layers.50.mlp.up_proj": 0.1}).save(tmp_path / "a.json")
    result = runner.invoke(app, ["generate", "tiny", "--prompt", "a", "--activations", str(tmp_path / "a.json")])
    assert result.exit_code == 1
    needed = "error: --activations must name linear layers of the model's blocks, got 'model.layers.50.mlp.up_proj'"
    assert result.stderr.splitlines()[-1] == needed


def test_a_mixture_is_refused(tmp_path):
    from transformers import AutoModelForCausalLM

    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
    AutoModelForCausalLM.from_config(MixtralConfig(vocab_size=2048, **sizes)).save_pretrained(tmp_path / "mixture")
    models.load("tiny").tokenizer.save_pretrained(tmp_path / "mixture")
    arguments = [str(tmp_path / "mixture"), *SPARSIFY[2:], "--sparsity", "0.5", "--out", str(tmp_path / "a.json")]
    result = runner.invoke(app, ["sparsify", *arguments])
    assert result.exit_code == 1
    assert "MODEL must be a decoder whose blocks hold linear layers, got Projection" in result.stderr


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sparsity", "50", "--out", "a.json"], r"--sparsity must be in \[0, 1\) \(for 50 % say 0.5\), got 50"),
        (["--sparsity", "0.5", "--out", "a.txt"], "--out must end in one of .json, got a.txt"),
        (["--sparsity", "0.5", "--out", "a.json", "--step", "0"], r"--step must be in \(0, 1\], got 0"),
        (
            ["--sparsity", "0.5", "--out", "a.json", "--search-windows", "3"],
            "--search-windows must be at most --windows, 2, got 3",
        ),
        (["--sparsity", "0.5", "--out", "a.json", "--calibration", "no.txt"], "--calibration must be"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(arguments, sentence):
    result = runner.invoke(app, [*SPARSIFY, *arguments])
    assert result.exit_code == 1
    assert re.match(f"error: {sentence}", result.stderr.splitlines()[-1])


@pytest.mark.usefixtures("nothing_loaded")
def test_a_file_without_thresholds_is_refused_before_a_model_is_loaded(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}))
    for name, sentence in (
        ("a.json", "must be a file of thresholds that Plan.save wrote"),
        ("b.json", "cannot be read, No such"),
    ):
        result = runner.invoke(app, ["generate", "tiny", "--prompt", "a", "--activations", str(tmp_path / name)])
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: --activations {sentence}")
