"""Which files a result depends on: what changes a notebook's hash, and what does not."""

import importlib.util
import shutil
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import autograder
from autograder.lessons.sources import closure, fingerprint, imports, what_it_does

PROJECT = Path(autograder.__file__).parents[1]
CELL = "from sparsity_edu.weights import wanda\nfrom autograder import check\nx = 1"


def test_a_closure_holds_what_is_imported_at_any_distance_and_nothing_else():
    found = closure("sparsity_edu.weights.wanda")
    assert {"sparsity_edu.weights.wanda", "sparsity_edu.patterns"} <= set(found)
    assert found["sparsity_edu.patterns"] == PROJECT / "sparsity_edu" / "patterns.py"
    assert not [name for name in found if name.startswith("autograder") or "sparsegpt" in name]
    assert closure("torch", "no_such_module", "sparsity_edu.no_such_module") == {}


def test_imports_are_found_wherever_they_stand():
    source = "import os, autograder.cli\ndef f():\n    from sparsity_edu.weights import wanda as w\n    from math import pi"
    assert set(imports(source)) == {"autograder.cli", "sparsity_edu.weights", "sparsity_edu.weights.wanda"}


@pytest.mark.parametrize(
    ("source", "other"),
    [
        ("x = 1", "# why\nx  =  1  # because\n"),
        ('def f():\n    """One."""\n    return 1', 'def f():\n    """Two.\n\n    Three."""\n    return 1'),
        ('class A:\n    """One."""', 'class A:\n    """Two."""'),
        ('"""One."""\nimport os', '"""Two."""\nimport os'),
    ],
)
def test_comments_docstrings_and_layout_do_nothing(source, other):
    assert what_it_does(source) == what_it_does(other)


@pytest.mark.parametrize(
    ("source", "other"), [("x = 1", "x = 2"), ("f('a')", "f('b')"), ("def f():\n    return 'a'", "def f():\n    return 'b'")]
)
def test_everything_else_does_something(source, other):
    assert what_it_does(source) != what_it_does(other)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the project, in which files can be changed."""
    for package in ("autograder", "sparsity_edu"):
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    real = importlib.util.find_spec

    def in_the_copy(name, *args):
        spec = real(name, *args)
        if spec and spec.origin and Path(spec.origin).is_relative_to(PROJECT):
            return ModuleSpec(name, None, origin=str(tmp_path / Path(spec.origin).relative_to(PROJECT)))
        return spec

    monkeypatch.setattr(importlib.util, "find_spec", in_the_copy)
    return tmp_path


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "text", "counts"),
    [
        ("sparsity_edu/weights/wanda.py", "\nx = 1\n", True),
        ("sparsity_edu/weights/wanda.py", "\n# x = 1\n", False),
        ("sparsity_edu/patterns.py", "\nx = 1\n", True),  # which wanda imports
        ("autograder/checking/compare.py", "\nx = 1\n", True),  # which its checks use
        ("sparsity_edu/weights/sparsegpt.py", "\nx = 1\n", False),
        ("autograder/judge/store.py", "\nx = 1\n", False),
    ],
)
def test_a_changed_file_counts_if_it_is_used_and_does_something_else(copy, file, text, counts):
    before = fingerprint([CELL], ["autograder.learner.check"])
    append(copy / file, text)
    assert (fingerprint([CELL], ["autograder.learner.check"]) != before) == counts


def test_changed_weights_count(copy):
    for weights in (copy / "sparsity_edu" / "models").rglob("*.safetensors"):
        before = fingerprint([CELL], [])
        weights.write_bytes(weights.read_bytes() + b"1")
        assert fingerprint([CELL], []) != before


def test_cells_count_in_their_order():
    cells = ["x = 1", "y = 2"]
    assert len({fingerprint(code, []) for code in (cells, cells[::-1], cells[:1], ["x = 1\ny = 2"])}) == 4
