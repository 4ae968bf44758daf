"""The command line `sparsity-edu`."""

import math
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sparsity_edu import models
from sparsity_edu.cli import app
from sparsity_edu.data import python_docs
from sparsity_edu.models import smollm2

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
        (["perplexity", "nosuch"], 'name must be "tiny", "smollm2", a folder, or a model on the Hugging Face hub'),
        (["perplexity", "tiny", "--windows", "9999"], "count must be from 1 to the text's"),
        (["fetch"], "smollm2 cannot be fetched; tried the Hugging Face hub"),
        (["fetch", "tiny"], 'name must be "smollm2"'),
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
