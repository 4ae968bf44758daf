"""The instructors' guide: its commands run, in order, and do what it says."""

import contextlib
import csv
import io
import re
import shlex
import subprocess
import zipfile
from pathlib import Path

import nbformat
import pytest
from conftest import UNIT

from autograder.classroom import demo
from autograder.classroom.results import results as results_of
from autograder.cli import app
from autograder.lessons.layout import notebook_path
from tests.courses import ROOT, make_course

GUIDE = (ROOT / "docs" / "instructors.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- (run|file: \S+) -->\n```\w*\n(.*?)```", GUIDE, re.DOTALL)
STUDENTS = {101: "perfect", 102: "mask-lost", 103: "another-route"}


@pytest.fixture(scope="module")
def followed(tmp_path_factory, sandbox, programs):
    """A course in which somebody has done all that the guide says, and what each command printed."""
    root = make_course(tmp_path_factory.mktemp("guide") / "course")
    for name in ("pyproject.toml", "constraints.txt", "LICENSE"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    made = demo.submissions(root)
    with zipfile.ZipFile(root / "submissions.zip", "w") as archive:  # as Canvas names them
        for id, kind in STUDENTS.items():
            late = "LATE_" if id == 103 else ""
            archive.writestr(f"student{chr(id)}_{late}{id}_9{id}_magnitude.ipynb", nbformat.writes(made[kind]))
    told = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("COLUMNS", "200")
        patch.setenv("PYTHONPATH", str(ROOT))
        for kind, text in BLOCKS:
            if kind != "run":
                Path(kind.removeprefix("file: ")).write_text(text, encoding="utf-8")
            else:
                told |= {line: run(line) for line in text.splitlines()}
    return root, told


def run(line):
    """What a line of the guide prints. Our own commands run in this process, which has imported all that they need."""
    if line.startswith("autograder "):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert not app(shlex.split(line)[1:], standalone_mode=False), line
        return printed.getvalue()
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, line + done.stdout + done.stderr
    return done.stdout


def test_the_worked_example_of_due_dates(followed):
    root, _ = followed
    results = {result.student: result for result in results_of(root, UNIT, f"sqlite:///{root}/grading/gradebook.db")}
    table = re.findall(r"^\| (\d+) (\w+) .*\| ([\d.]+) of ([\d.]+) \|$", GUIDE, re.MULTILINE)
    assert len(table) == len(STUDENTS)
    for id, name, points, most in table:
        result = results[id]
        assert (result.name.split()[0], f"{result.counts:g}", f"{result.max_points:g}") == (name, points, most)
    assert [results[str(id)].late_penalty > 0 for id in STUDENTS] == [False, False, True]


def test_names_and_penalties_are_in_what_is_printed(followed):
    _, told = followed
    assert "103 (Carl Shannon)" in told["autograder grade 02"]
    assert "3.8 of 19 points are lost for being late" in told["autograder grade 02"]
    assert told["autograder explain 02 103"].startswith(f"103 (Carl Shannon), {UNIT}: 19 of 19 points, 3.8 of them lost")


def test_grades_go_back_in_the_form_of_the_roster(followed):
    with open(followed[0] / "for_canvas.csv", encoding="utf-8", newline="") as file:
        head, scale, *rows = csv.reader(file)
    assert head == ["Student", "ID", "SIS Login ID", "Section", "Unit 02 magnitude (771)"]
    assert scale[-1] == "19.0"
    assert [row[1:2] + row[-1:] for row in rows] == [["101", "19.0"], ["102", "13.0"], ["103", "15.2"], ["104", ""]]


def test_the_files_that_it_speaks_of_are_there(followed):
    root, _ = followed
    for name in ("handout.zip", "handout/setup.sh", "grades.csv", "exercises.csv", f"grading/similar/{UNIT}.html"):
        assert (root / name).is_file(), name
    assert notebook_path(root / "grading" / "feedback" / "103", UNIT).with_suffix(".html").is_file()


def test_a_second_export_does_not_overwrite(followed, autograder, monkeypatch):
    monkeypatch.chdir(followed[0])
    code, _, error = autograder("export", "02", "--to", "grades.csv")
    assert (code, "grades.csv is there already; --force overwrites it" in error) == (1, True)
    assert autograder("export", "2", "--to", "grades.csv", "--force")[0] == 0


def test_all_that_the_guide_and_the_readme_name_exists():
    commands = {command.name or command.callback.__name__ for group in _groups(app) for command in group.registered_commands}
    for text in (GUIDE, (ROOT / "README.md").read_text(encoding="utf-8")):
        used = set(re.findall(r"(?:`|^|/)autograder ([a-z]+)", text, re.MULTILINE))
        assert used <= commands
    titles = re.findall(r"^#+ (.*)$", GUIDE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles} | {""}
    for path, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", GUIDE):
        assert (ROOT / "docs" / path).exists()
        assert anchor in anchors


def _groups(group):
    return [group, *(inner.typer_instance for inner in group.registered_groups)]
