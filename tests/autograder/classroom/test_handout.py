"""What students get: it works by itself, and has no answers but what checks compare with."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile

import nbformat
import pytest

from autograder.classroom.handout import GRADING, is_handout, needed, without_other_answers, write, write_zip
from autograder.exercises import UNITS
from autograder.lessons.layout import notebook_path, without_outputs
from tests.courses import ROOT

HANDED = ["02_magnitude", "04_sparsegpt"]
ANSWER = """
import sys, autograder, sparsity_edu
from autograder import check, progress
def magnitude_prune(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError(sparsity)
    out = W.clone().flatten()
    out[key(W).flatten().argsort()[: int(sparsity * W.numel())]] = 0
    return out.reshape(W.shape)
key = abs
print(autograder.__file__, sparsity_edu.__file__)
print(check("magnitude.prune", magnitude_prune))
key = lambda W: W
print(check("magnitude.prune", magnitude_prune))
print(progress())
"""


@pytest.fixture(scope="module")
def handout(tmp_path_factory):
    """The folder of a handout."""
    folder = tmp_path_factory.mktemp("students") / "handout"
    write(ROOT, HANDED, folder)
    return folder


def alone(folder, *command, **environment):
    """Run Python in a folder, with nothing of this project but what lies there."""
    settings = os.environ | {"PYTHONPATH": str(folder), "SPARSITY_EDU_PROGRESS": str(folder.parent / "progress")} | environment
    done = subprocess.run([sys.executable, *command], cwd=folder, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_check_runs_there(handout):
    first, *told = alone(handout, "-c", ANSWER).splitlines()
    assert first == f"{handout}/autograder/__init__.py {handout}/sparsity_edu/__init__.py"
    told = "\n".join(told)
    assert "✓ magnitude.prune - Prune one matrix by magnitude: 4 of 4 points" in told
    assert "✗ magnitude.prune" in told
    assert "why:" in told  # mistakes are recognised
    assert "compare with" not in told  # neither explanations nor the list of what to compare with are handed out
    assert re.findall(r"^\d\d_\w+", told, re.MULTILINE) == HANDED  # no other unit is spoken of


def test_notebooks_are_copied_to_work_and_found_there_again(handout):
    program = ["-c", "import sys\nfrom autograder.learner.commands import main\nmain()", "work"]
    assert alone(handout, *program).count("copied to work/") == len(HANDED)
    assert "copied" not in alone(handout, *program)
    assert notebook_path(handout / "work", HANDED[0]).is_file()
    assert re.findall(r"^\| \[(\d\d) ", (handout / "work" / "start.md").read_text(encoding="utf-8"), re.MULTILINE) == [
        "02",
        "04",
    ]
    assert not is_handout(handout)  # somebody works there: it is not to be replaced


def test_the_notebooks_are_the_release(handout):
    for unit in HANDED:
        mine, released = (nbformat.read(notebook_path(place / "notebooks", unit), as_version=4) for place in (handout, ROOT))
        assert [cell.source for cell in mine.cells] == [cell.source for cell in released.cells]
        assert mine.cells == without_outputs(mine).cells


def test_no_solutions_no_lessons_and_nothing_that_grades(handout):
    names = {str(path.relative_to(handout)) for path in handout.rglob("*") if path.is_file() and "work" not in path.parts}
    rooms = {name.split("/")[1] for name in names if name.startswith("autograder/") and name.count("/") > 1}
    assert rooms == {"checking", "exercises", "inside", "intake", "learner", "lessons"}
    assert {name.split("/")[2] for name in names if name.startswith("autograder/exercises/") and name.count("/") > 2} == {
        "magnitude",
        "sparsegpt",
        "patterns",
    }
    assert [name for name in names if name.startswith("autograder/exercises/patterns/")] == [
        "autograder/exercises/patterns/fixtures.py"
    ]
    assert not [name for name in names if re.search(r"solutions|lesson\.py|secret|/build\.py|/source\.py|nbgrader", name)]
    texts = [
        (handout / name).read_text(encoding="utf-8")
        for name in names
        if name.endswith((".py", ".ipynb", ".md", ".sh", ".toml"))
    ]
    marker = "### BEGIN SOLUTION"
    assert [text for text in texts if marker in text and f'"{marker}" in' not in text] == []  # progress.py looks for it
    assert [text for text in texts if ".accepts(" in text and '@prune.accepts("by threshold")' not in text] == []


def test_what_is_installed_is_what_is_imported(handout):
    project = tomllib.loads((handout / "pyproject.toml").read_text())["project"]
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) < set(whole["dependencies"])
    names = {re.split(r"[<>=; ]", requirement)[0] for requirement in project["dependencies"]}
    assert names & GRADING == set()
    for path in handout.rglob("*.py"):
        at_once = re.findall(r"^(?:import|from) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert {name.replace("_", "-") for name in at_once} & GRADING == set(), path


def test_the_two_commands_are_plain_shell(handout):
    for name in ("setup.sh", "lab.sh"):
        assert subprocess.run(["sh", "-n", handout / name], timeout=30).returncode == 0
        assert b"\r" not in (handout / name).read_bytes()
    assert '"$PWD/course/lab"' in (handout / "lab.sh").read_text()  # opens the start page
    assert (handout / "course" / "lab" / "jupyter_lab_config.json").is_file()
    assert "02_magnitude/magnitude.ipynb" in (handout / "README.md").read_text()
    assert "{" not in (handout / "README.md").read_text()


def test_every_unit_can_be_handed_out(tmp_path):
    write(ROOT, list(UNITS), tmp_path / "all")
    listed = alone(tmp_path / "all", "-c", "from autograder.exercises import *\nprint(len(all_exercises()), *UNITS)").split()
    assert listed[1:] == list(UNITS)
    lines = {line.strip() for unit in UNITS for cell in _code(unit) for line in cell.splitlines()}
    imports = sorted(line for line in lines if re.match(r"(from|import) (autograder|sparsity_edu)\b.*[^(]$", line))
    alone(tmp_path / "all", "-c", "\n".join(imports))


def _code(unit):
    cells = json.loads(notebook_path(ROOT / "notebooks", unit).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_a_zip_gives_one_folder(handout, tmp_path):
    write_zip(handout, tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"handout"}


def test_right_answers_in_other_styles_are_taken_out():
    stage = '@x.stage("a")\ndef _(g):\n    yield 1\n'
    other = '@x.accepts("by (b)")\ndef _(W):\n    return W\n\n\ny = x.accepted["by (b)"]\n'
    assert without_other_answers(f"{stage}\n\n{other}") == stage


def test_a_unit_brings_what_its_notebook_uses():
    few = {path.name for path in needed(["02_magnitude"], [])}
    more = {path.name for path in needed(["02_magnitude"], ["from sparsity_edu.weights import wanda"])}
    assert "wanda.py" not in few
    assert {"wanda.py", "magnitude.py", "check.py"} <= more


def test_a_folder_with_something_else_is_not_overwritten(tmp_path, autograder, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    code, _, error = autograder("handout", "2", "--to", tmp_path / "mine", "--force")
    assert (code, "must be a new folder" in error) == (1, True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    assert autograder("handout", "2", "--to", tmp_path / "new")[0] == 0
    code, _, error = autograder("handout", "2", "--to", tmp_path / "new")
    assert (code, "--force overwrites it" in error) == (1, True)
    assert autograder("handout", "2", "04", "--to", tmp_path / "new", "--force", "--zip")[0] == 0
    assert (tmp_path / "new.zip").is_file()
