"""`autograder try` and `mutants`, as a person calls them."""

import json
from pathlib import Path

import pytest

from autograder.checking.exercise import Misconception
from autograder.checking.score import score_object
from autograder.exercises import UNITS, exercises_of, find
from autograder.inside.runner import run
from autograder.learner import attempt, progress
from autograder.lessons.layout import course_root

RIGHT = """
import torch

def magnitude_prune(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("no")
    pruned = W.flatten().clone()
    pruned[W.abs().flatten().argsort()[: int(sparsity * W.numel())]] = 0
    return pruned.view(W.shape)
"""
SIGNED = RIGHT.replace("W.abs().flatten()", "W.flatten()")


@pytest.fixture(autouse=True)
def nobody_else(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSITY_EDU_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setenv("MPLBACKEND", "agg")


@pytest.fixture
def try_(autograder, tmp_path):
    """Tries the text of a file."""

    def command(text, *options, id="magnitude.prune"):
        file = tmp_path / "answer.py"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return autograder("try", id, file, *options)

    return command


@pytest.mark.parametrize(
    "text",
    [
        RIGHT,
        "from __future__ import annotations\n" + RIGHT,
        "\ufeff" + RIGHT,
        "# -*- coding: latin-1 -*-\n# caf\xe9".encode("latin-1") + RIGHT.encode(),
        RIGHT.replace("\n", "\r\n"),
        RIGHT + "\nif __name__ == '__main__':\n    raise SystemExit('only as a program')\n",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n" + RIGHT,
        RIGHT.replace("def magnitude_prune", "def other") + "\nmagnitude_prune = lambda W, sparsity: other(W, sparsity)\n",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Pruner:\n    k: int = 0\n    def __call__(self, W, sparsity):\n        return other(W, sparsity)\n"
        + RIGHT.replace("def magnitude_prune", "def other")
        + "\nmagnitude_prune = Pruner()\n",
    ],
)
def test_a_right_file_gets_full_marks(try_, text):
    code, out, err = try_(text)
    assert code == 0, out + err
    assert out.startswith("✓ magnitude.prune - Prune one matrix by magnitude: 4 of 4 points\n")


def test_a_wrong_file_gets_its_sentence_and_exit_code_2(try_):
    code, out, err = try_(SIGNED)
    assert (code, err) == (2, "")
    assert "You ranked W, not |W|" in out
    assert "1 of 4 points" in out


def test_json_holds_stages_and_misconception(try_):
    code, out, _ = try_(SIGNED, "--json")
    data = json.loads(out)
    assert code == 2
    assert (data["id"], data["points"], data["max_points"], data["passed"]) == ("magnitude.prune", 1, 4, False)
    assert data["misconception"] == "signed"
    signed = next(mistake.wrong for mistake in find("magnitude.prune").misconceptions if mistake.name == "signed")
    assert data == json.loads(json.dumps(score_object(find("magnitude.prune"), signed).to_dict()))
    assert json.loads(try_(RIGHT, "--json")[1])["passed"] is True


def test_json_stands_alone_on_stdout_whatever_the_file_prints(try_):
    noisy = "import sys\nprint('{at import')\n" + SIGNED + "    # end\nsys.stderr.write('to stderr')\n"
    noisy = noisy.replace("    pruned =", "    print('in the call', file=sys.stderr)\n    print('<b>')\n    pruned =")
    code, out, err = try_(noisy, "--json")
    assert code == 2
    assert json.loads(out)["stages"][0]["problem"]["printed"] == "in the call\n<b>\n"
    assert "{at import" in err


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise NotImplementedError", "not started"),
        ("pass", "got None (is there a return?)"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise KeyError('a')", "KeyError: 'a', in line 2: raise KeyError('a')"),
        ("return [W", None),
        ("while True: pass", "took longer than 0.2 seconds (an endless loop?), in line 2: while True: pass"),
        ("return (x for x in [W])", "got an object of type generator"),
        ("return W.numpy()", "got a numpy array of shape (4, 5)"),
    ],
)
def test_what_goes_wrong_in_the_function_is_part_of_the_verdict(try_, monkeypatch, body, says):
    monkeypatch.setattr(run, "__defaults__", (0.2,))
    code, out, err = try_(f"def magnitude_prune(W, sparsity):\n    {body}\n")
    assert "Traceback" not in out + err
    if says is None:
        assert (code, out) == (1, "")
    else:
        assert code == 2
        assert says in out


@pytest.mark.parametrize("signature", ["", "W", "W, sparsity, more", "*, W, sparsity"])
def test_wrong_parameters_are_part_of_the_verdict(try_, signature):
    code, out, _ = try_(f"def magnitude_prune({signature}):\n    return 1\n")
    assert code == 2
    assert "TypeError: magnitude_prune()" in out


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must define magnitude_prune for magnitude.prune, and does not"),
        ("def prune(W, sparsity):\n    return W", "must define magnitude_prune for magnitude.prune, and does not"),
        ("magnitude_prune = 0.5", "checks the function magnitude_prune itself, got an object of type float"),
        ("class magnitude_prune: pass", "checks the function magnitude_prune itself, got the class magnitude_prune"),
        ("def magnitude_prune(W sparsity):", "fails when it is run: SyntaxError: invalid syntax"),
        ("  x = 1\n y = 2", "fails when it is run: IndentationError"),
        (b"x = 'caf\xe9'", "fails when it is run: SyntaxError: (unicode error) 'utf-8' codec can't decode"),
        (b"\x00\x01", "fails when it is run"),
        ("import no_such_module", "fails when it is run: ModuleNotFoundError: No module named 'no_such_module'"),
        ("import sys\nsys.exit('bye [/red] [bold]')", "fails when it is run: SystemExit: bye [/red] [bold]"),
        ("raise ValueError", "fails when it is run: ValueError"),
        ("raise ValueError('first\\nsecond')", "fails when it is run: ValueError: first"),
        ("1 / 0", "fails when it is run: ZeroDivisionError: division by zero"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_file_that_gives_no_answer_is_told_in_one_sentence(try_, tmp_path, text, sentence, options):
    code, out, err = try_(text, *options)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("id", "file", "sentence"),
    [
        ("magnitude.prun", "a.py", "unknown exercise 'magnitude.prun'; did you mean magnitude.prune"),
        ("", "a.py", "unknown exercise ''; the units are 01_patterns, 02_magnitude"),
        ("magnitude.prune", "a.py", "file must be a Python file, got a.py, which is not there"),
        ("magnitude.prune", ".", "file must be a Python file, got ., which is a folder"),
        ("magnitude.prune", "[red]x[/blue].py", "got [red]x[/blue].py, which is not there"),
        ("magnitude.prune", "a.ipynb", "file must be a Python file, got a.ipynb: run the check in the notebook itself"),
    ],
)
def test_an_unknown_exercise_or_file_is_told_in_one_sentence(autograder, tmp_path, monkeypatch, id, file, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ipynb").write_text("{}")
    code, out, err = autograder("try", id, file)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_trying_a_file_is_no_progress(try_):
    try_(RIGHT)
    assert progress.best("magnitude.prune") == 0


@pytest.fixture
def course(monkeypatch):
    """The working folder is the course's."""
    monkeypatch.chdir(course_root(Path(__file__).parent))


def test_mutants_counts_rejected_and_recognised(autograder, course):
    code, out, _ = autograder("mutants", UNITS[1], "--json")
    report = json.loads(out)
    total = sum(len(exercise.misconceptions) for exercise in exercises_of(UNITS[1]))
    assert code == 0
    assert report["rejected"] == report["total"] == total
    assert report["recognised"] >= 0.8 * total
    assert [row["id"] for row in report["exercises"]] == [exercise.id for exercise in exercises_of(UNITS[1])]
    for row in report["exercises"]:
        assert (row["survivors"], row["stub_points"]) == ([], 0)
        assert row["rejected"] == row["total"] == len(find(row["id"]).misconceptions)
        assert row["recognised"] == row["total"] - len(row["unrecognised"])


@pytest.mark.parametrize(
    ("mistakes", "stub", "code", "cells"),
    [
        (["linear", "square"], "stub", 0, ["2", "2", "2", "0 points", ""]),
        (["linear", "right"], "stub", 2, ["1", "1", "2", "0 points", "right"]),
        (["linear", "square"], "right", 2, ["2", "2", "2", "3 points", ""]),
    ],
)
def test_mutants_tells_what_gets_away(autograder, course, monkeypatch, mistakes, stub, code, cells):
    exercise = find("magnitude.schedule")
    others = [Misconception("right", "", exercise.reference), Misconception("stub", "", lambda *_: None)]
    known = {mistake.name: mistake for mistake in [*exercise.misconceptions, *others]}
    monkeypatch.setattr(exercise, "misconceptions", [known[name] for name in mistakes])
    asked = []
    monkeypatch.setattr(attempt, "exercises_of", lambda unit: asked.append(unit) or ((exercise,) if unit == UNITS[1] else ()))
    monkeypatch.setattr(attempt, "run_cells", lambda notebook: print("an example") or {exercise.defines: known[stub].wrong})
    got, out, _ = autograder("mutants")
    assert asked == list(UNITS)
    assert "an example" not in out
    assert got == code
    row = next(line for line in out.splitlines() if "magnitude.schedule" in line)
    assert [cell.strip() for cell in row[1:-1].split("│")] == ["magnitude.schedule", *cells]


def test_mutants_of_an_unknown_unit(autograder, course):
    code, out, err = autograder("mutants", "magnitud")
    assert (code, out) == (1, "")
    assert err.startswith("error: unit must be one of 01_patterns, 02_magnitude")


def test_mutants_needs_a_course(autograder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = autograder("mutants")
    assert (code, out) == (1, "")
    assert err.startswith("error: no course")
