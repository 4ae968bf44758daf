"""`apply`, `generate --recipe`, `prune --packed`, `evaluate` and `search`."""

import re

import pytest
import torch
from typer.testing import CliRunner

from sparsity_edu import combine, models
from sparsity_edu.cli import app
from sparsity_edu.combine import evaluation
from sparsity_edu.kernels import roofline

runner = CliRunner()
RECIPE = """
[weights]
method = "magnitude"
pattern = "2:4"

[activations]
sparsity = 0.4

[cache]
policy = "h2o"
budget = 16

[calibration]
windows = 1
window = 32
"""
PROMPT = ["--prompt", "A dictionary maps keys to values. " * 8, "--max-new-tokens", "12"]
ASKED = [
    "tiny",
    "--windows",
    "1",
    "--window",
    "16",
    "--length",
    "64",
    "--trials",
    "1",
    "--choices",
    "2",
    "--count",
    "2",
]


def run(*arguments, code=0):
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout  # progress bars are not looked at


@pytest.fixture(autouse=True)
def known_machine(monkeypatch):
    """To measure one takes seconds."""
    monkeypatch.setattr(roofline, "this_machine", lambda device: roofline.Machine("some", 2e10, 1e11))


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipes" / "three.toml"
    path.parent.mkdir()
    path.write_text(RECIPE)
    return path


def text_of(output):
    """What was written: all before the facts."""
    return output.split("prompt ")[0].strip()


def test_generate_with_a_recipe_says_what_each_part_saves(recipe, tmp_path):
    output = run("generate", "tiny", *PROMPT, "--recipe", recipe)
    for kind in ("q_proj", "down_proj"):
        assert re.search(rf"^{kind} +12 +skip$", output, re.MULTILINE)
    rows = {
        name: numbers
        for name, *numbers in re.findall(r"^(weights|cache|both) +(\S+) +(\S+) +(\S+) +(\S+)%$", output, re.MULTILINE)
    }
    weights, cache, both = ([float(x) for x in rows[name]] for name in ("weights", "cache", "both"))
    assert weights[2] == pytest.approx(10.5, abs=0.1)
    assert 25 < weights[3] < 50
    assert weights[3] == pytest.approx(100 * (1 - weights[1] / weights[2]), abs=0.1)
    assert cache[1] < cache[2]
    assert both[1] == pytest.approx(weights[1] + cache[1], abs=0.02)
    assert "dense, with a full cache, it would have written" in output


def test_apply_saves_what_generate_finds_again(recipe, tmp_path):
    folder = tmp_path / "made"
    output = run("apply", "tiny", "--recipe", recipe, "--out", folder)
    assert re.search(r"^2:4 +84 +9\.4 +5\.0 +53\.1%$", output, re.MULTILINE)
    assert {path.name for path in folder.iterdir()} >= {"packed.safetensors", "recipe.toml", "thresholds.json", "config.json"}
    assert text_of(run("generate", folder, *PROMPT)) == text_of(run("generate", "tiny", *PROMPT, "--recipe", recipe))
    assert "--recipe must be left out: a recipe, 'three', was applied" in run(
        "generate", folder, *PROMPT, "--recipe", recipe, code=1
    )


def test_a_packed_checkpoint_of_prune_is_read_back_to_the_bit(tmp_path):
    options = ["--method", "magnitude", "--pattern", "2:4", "--windows", "1", "--window", "32"]
    output = run("prune", "tiny", *options, "--out", tmp_path / "packed", "--packed")
    assert re.search(r"^all +10\.5 +6\.1 +57\.\d%$", output, re.MULTILINE)
    run("prune", "tiny", *options, "--out", tmp_path / "plain")
    packed, plain = combine.load(tmp_path / "packed").model, models.load(tmp_path / "plain").model
    for name, tensor in plain.state_dict().items():
        assert torch.equal(packed.state_dict()[name], tensor)
    assert "wrote" in run("generate", tmp_path / "packed", *PROMPT)


def test_evaluate_measures_and_goes_on_where_it_was(recipe, tmp_path, monkeypatch):
    out = tmp_path / "rows.csv"
    output = run("evaluate", *ASKED, "--recipes", recipe.parent, "--out", out, "--budget", "9")
    assert re.search(r"^dense +\d+\.\d\d +[01] +[012] +10\.5 ", output, re.MULTILINE)
    assert re.search(r"^three +\d+\.\d\d +[01] +[012] +6\.1 ", output, re.MULTILINE)
    assert "On the front of perplexity and bytes, from few bytes to many: three" in output
    assert "Of recipes that read at most 9 MB for a token, best is three." in output
    assert (tmp_path / "rows.png").stat().st_size > 5000
    rows = evaluation.read(out)
    assert [row.recipe for row in rows] == ["dense", "three"]
    (recipe.parent / "four.json").write_text('{"cache": {"policy": "window", "budget": 8}}')
    made = []
    monkeypatch.setattr(combine, "make", lambda *args, make=combine.make: made.append(args[1].name) or make(*args))
    output = run("evaluate", *ASKED, "--recipes", recipe.parent, "--out", out)
    assert made == ["four"]
    assert [row.recipe for row in evaluation.read(out)] == ["dense", "three", "four"]
    assert output.index("\nfour ") < output.index("\nthree ")


def test_a_text_of_ones_own(recipe, tmp_path):
    text = tmp_path / "unseen.txt"
    text.write_text(
        "\n\n".join(f"This paragraph is about the number {i}. It has a second sentence about {i}." for i in range(40))
    )
    output = run("evaluate", *ASKED, "--recipe", recipe, "--out", tmp_path / "rows.csv", "--text", text)
    assert "unseen.txt" in output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "give recipes with --recipe FILE or --recipes FOLDER"),
        (["--recipes", "{empty}"], "--recipes must be a folder with recipes, whose files end in .toml or .json, got "),
        (["--recipe", "{right}", "--minutes", "-1"], "--minutes must be at least 0, got -1"),
        (["--recipe", "none.toml"], "--recipe cannot be read"),
        (["--recipes", "none"], "--recipes must be a folder, got none"),
        (["--recipe", "{wrong}"], "wrong.toml: cache.budget must be given"),
        (["--recipe", "{right}", "--window", "3"], "--window must be at least 4, got 3"),
        (["--recipe", "{right}", "--out", "rows.txt"], "--out must end in one of .csv"),
        (["--recipe", "{right}", "--figure", "rows.txt"], "--figure must end in one of .png"),
        (["--recipe", "{right}", "--text", "none.txt"], "--text must be a text file in UTF-8, got none.txt"),
        (["--recipe", "{right}", "--budget", "nan"], "--budget must be at least 0, got nan"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(options, sentence, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "wrong.toml").write_text("[cache]\npolicy = 'h2o'\n")
    (tmp_path / "empty").mkdir()
    paths = {"wrong": tmp_path / "wrong.toml", "right": recipe, "empty": tmp_path / "empty"}
    options = [option.format(**paths) for option in options]
    monkeypatch.chdir(tmp_path)
    output = run("evaluate", *ASKED, *options, code=1)
    assert sentence in " ".join(output.split())
    assert output.startswith("error: ")


CLASS = {
    "anna/mine.toml": 'name = "best"\n[cache]\npolicy = "window"\nbudget = 8',
    "ben/mine.json": '{"name": "best", "cache": {"policy": "h2o", "budget": 8}}',
    "cleo/mine.toml": 'name = "dense"\n[cache]\npolicy = "window"\nbudget = 9',
    "dora/mine.toml": 'name = "$\\\\frac"\n[cache]\npolicy = "h2o"\nbudget = 9',
    "emil/mine.toml": "[cache]\npolicy = 3",
    "fay/mine.toml": '[weights]\nmethod = "shrink"\nparams = 10',
    "gus/mine.toml": '[activations]\nsparsity = 0.5\n[calibration]\ntext = "/etc/hostname"',
    "hal/mine.toml": "#" * 200_000,
    "ida/notes.txt": "not a recipe",
}


def test_no_recipe_stops_those_of_the_others(tmp_path):
    folder = tmp_path / "class"
    for name, text in CLASS.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    out = tmp_path / "rows.csv"
    output = run("evaluate", *ASKED, "--recipes", folder, "--out", out, code=1)
    rows = [row.recipe for row in evaluation.read(out)]
    assert rows == ["dense", "anna/mine", "ben/mine", "cleo/mine", "$\\frac"]
    assert (tmp_path / "rows.png").stat().st_size > 5000
    output = " ".join(output.split())
    assert "left out: emil/mine: mine.toml: cache.budget must be given" in output
    assert "left out: fay/mine: " in output
    assert "left out: gus/mine: calibration.text must be python_docs in a folder of recipes, got '/etc/hostname'" in output
    assert "left out: hal/mine: mine.toml must be a recipe of at most 100,000 bytes, got a longer file" in output
    assert "error: 4 of the recipes were left out, the table holds the others" in output


def test_a_recipe_that_takes_too_long_is_left_out(recipe, tmp_path, monkeypatch):
    def endless(*args, make=combine.make):
        while args[1].name == "three":
            pass
        return make(*args)

    monkeypatch.setattr(combine, "make", endless)
    command = ["evaluate", *ASKED, "--recipe", recipe, "--out", tmp_path / "rows.csv"]
    output = run(*command, "--minutes", "0.05", code=1)
    assert "three.toml: took more than 0.05 minutes" in " ".join(output.split())
    assert [row.recipe for row in evaluation.read(tmp_path / "rows.csv")] == ["dense"]


def test_caches_and_thresholds_are_the_recipes(recipe, tmp_path):
    assert "--cache and --activations must be left out with a recipe" in run(
        "generate", "tiny", *PROMPT, "--recipe", recipe, "--cache", "h2o:8", code=1
    )


@pytest.fixture
def parts(tmp_path):
    """A folder of recipes of one technique each."""
    folder = tmp_path / "parts"
    folder.mkdir()
    calibration = "\n[calibration]\nwindows = 1\nwindow = 32\n"
    for name, section in {
        "pairs": '[weights]\nmethod = "magnitude"\npattern = "2:4"',
        "skip": "[activations]\nsparsity = 0.5",
        "window": '[cache]\npolicy = "window"\nbudget = 16',
    }.items():
        (folder / f"{name}.toml").write_text(section + calibration)
    return folder


def test_search_goes_on_where_it_was_and_saves_the_best(parts, tmp_path, monkeypatch):
    out, best = tmp_path / "rows.csv", tmp_path / "best.toml"
    command = ["search", *ASKED, "--recipes", parts, "--budget", "8", "--out", out, "--save", best]
    output = run(*command, "--rounds", "1")
    assert "3 recipes of one technique are measured, and up to 1 of 4 combinations." in output
    assert [row.recipe for row in evaluation.read(out)][:4] == ["dense", "pairs", "skip", "window"]
    assert len(evaluation.read(out)) == 5
    made = []
    monkeypatch.setattr(combine, "make", lambda *args, make=combine.make: made.append(args[1].name) or make(*args))
    output = run(*command, "--rounds", "2")
    rows = evaluation.read(out)
    assert made == [rows[-1].recipe]
    assert len(rows) == 6
    wanted = min((row for row in rows if row.read <= 8e6), key=lambda row: row.loss)
    assert f"The least loss within 8 MB, {wanted.loss:.3f}: {wanted.recipe}." in output
    assert combine.Recipe.load(best).digest() == wanted.digest
    assert (tmp_path / "rows.png").stat().st_size > 5000


def test_a_budget_that_nothing_meets(parts, tmp_path):
    output = run("search", *ASKED, "--recipes", parts, "--budget", "0.1", "--out", tmp_path / "rows.csv", "--rounds", "2")
    assert "Nothing that was measured reads at most 0.1 MB for a token." in output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--recipes", "none", "--budget", "5"], "--recipes must be a folder, got none"),
        (["--recipes", "{dense}", "--budget", "5"], "--recipes must have some of one technique"),
        (["--recipes", "{parts}", "--budget", "-1"], "--budget must be at least 0, got -1"),
        (["--recipes", "{parts}", "--budget", "5", "--rounds", "-1"], "--rounds must be at least 0, got -1"),
        (["--recipes", "{parts}", "--budget", "5", "--save", "best.json"], "--save must end in one of .toml"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_a_model_is_loaded(options, sentence, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "none.toml").write_text('name = "nothing"\n')
    monkeypatch.chdir(tmp_path)
    options = [option.format(parts=parts, dense=tmp_path / "dense") for option in options]
    assert sentence in " ".join(run("search", *ASKED, *options, code=1).split())
