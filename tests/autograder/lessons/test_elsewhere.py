"""Colab and Binder: addresses of one setting, and a first cell that installs the course in Colab and does nothing elsewhere."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

from autograder.lessons import build as builder
from autograder.lessons import elsewhere
from autograder.lessons.elsewhere import badges, repository
from autograder.lessons.layout import course_root, notebook_path
from autograder.lessons.source import render

ROOT = course_root(Path(__file__).parent)
UNIT = "05_wanda"
COLAB = "https://colab.research.google.com/github/some/course/blob/main/notebooks/05_wanda/wanda.ipynb"
BINDER = "https://mybinder.org/v2/gh/some/course/main?urlpath=lab%2Ftree%2Fnotebooks%2F05_wanda%2Fwanda.ipynb"


def configure(root, address):
    (root / "pyproject.toml").write_text(f'[tool.sparsity_edu]\nrepository = "{address}"\n')


@pytest.fixture
def course(tmp_path):
    """A course of one unit that is published somewhere, but was not yet when it was built."""
    shutil.copy(ROOT / "nbgrader_config.py", tmp_path)
    for folder in ("course", "solutions", "notebooks"):
        shutil.copytree(ROOT / folder / UNIT, tmp_path / folder / UNIT)
    configure(tmp_path, "")
    builder.build(tmp_path, UNIT)
    configure(tmp_path, "https://github.com/some/course/")
    return tmp_path


def test_addresses_are_made_of_one(tmp_path):
    assert repository(tmp_path) == badges(tmp_path, UNIT) == ""
    configure(tmp_path, "https://github.com/some/course/")
    assert badges(tmp_path, UNIT) == f"[Open in Colab]({COLAB}) [Open in Binder]({BINDER})"
    configure(tmp_path, "https://example.org")
    with pytest.raises(ValueError, match=r"must be https://github\.com/OWNER/NAME, or empty, got 'https://example\.org'"):
        repository(tmp_path)


def test_a_release_begins_with_links_and_its_first_code_installs(course, monkeypatch):
    """They are added to what is built without running anything, and no recorded run is lost."""
    monkeypatch.setattr(builder, "execute", lambda *args, **kwargs: pytest.fail("nothing that computes has changed"))
    notebook, sources = notebook_path(course / "notebooks", UNIT), builder.sources_of(UNIT, render(course, UNIT))
    before = notebook.read_bytes()
    assert "colab" not in before.decode()
    builder.build(course, UNIT)
    released = nbformat.read(notebook, as_version=4)
    opening, links, first = released.cells[:3]
    assert opening.source.startswith("# 05")
    assert links.source == badges(course, UNIT)
    assert first.cell_type == "code"
    assert '"git+https://github.com/some/course"' in first.source
    assert builder.build(course, UNIT) == []
    assert builder.stale(course, UNIT) == []
    configure(course, "")
    builder.build(course, UNIT)
    assert notebook.read_bytes() == before
    assert builder.sources_of(UNIT, render(course, UNIT)) == sources


@pytest.fixture
def first_cell(tmp_path, monkeypatch):
    """Runs it; gives the commands that it would have run."""
    called = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command))
    configure(tmp_path, "https://github.com/some/course")
    code = elsewhere.cells(tmp_path, UNIT)[1].source
    return lambda: exec(code, {}) or called


def test_the_first_cell_does_nothing_outside_of_colab(first_cell):
    assert "google.colab" not in sys.modules
    assert first_cell() == []


def test_in_colab_it_installs(first_cell, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    [command] = first_cell()
    assert command[1:] == ["-m", "pip", "install", "--quiet", "git+https://github.com/some/course"]
