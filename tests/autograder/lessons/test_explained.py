"""Explained solutions: a section for each exercise, and other ways to write an answer, which get full marks as well."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from autograder.checking.score import score_object
from autograder.exercises import UNITS, exercises_of, find, unit_of
from autograder.lessons.layout import EXPERIMENT, course_root, grade_id
from autograder.lessons.source import render, run_cells

ROOT = course_root(Path(__file__).parent)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections(unit):
    """What a unit's explained.md says, by heading."""
    text = (ROOT / "course" / unit / "explained.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


EXPLAINED = [unit for unit in UNITS if (ROOT / "course" / unit / "explained.md").exists()]
OTHER_WAYS = [
    pytest.param(id, code, id=f"{unit}-{id}-{i}")
    for unit in EXPLAINED
    for id, text in sections(unit).items()
    for i, code in enumerate(PYTHON.findall(text), 1)
]


@pytest.mark.parametrize("unit", EXPLAINED)
def test_every_exercise_is_explained_in_words(unit):
    explained = sections(unit)
    assert list(explained) == [exercise.id for exercise in exercises_of(unit)]
    for id, text in explained.items():
        assert len(PYTHON.sub("", text).split()) >= 20, id
        assert text.count("```") == 2 * len(PYTHON.findall(text)), f"{id}: code that nothing checks"


@pytest.mark.parametrize(("id", "code"), OTHER_WAYS)
def test_another_way_to_write_it_gets_full_marks(id, code):
    exercise, cells = find(id), cells_that_define(unit_of(id))
    place = [cell.id for cell in cells].index(grade_id(exercise))
    names = run_cells(new_notebook(cells=[*cells[:place], new_code_cell(code)]))
    assert exercise.defines in names, names["__errors__"]
    verdict = score_object(exercise, names[exercise.defines])
    assert verdict.passed, f"{verdict}"


@cache
def cells_that_define(unit):
    """A lesson's solutions, and of its other cells what they import and define: nothing is computed, loaded or drawn."""
    cells = [c for c in render(ROOT, unit).cells if c.cell_type == "code" and EXPERIMENT not in c.metadata.get("tags", [])]
    for cell in cells:
        if "nbgrader" not in cell.metadata:
            cell.source = "\n".join(ast.unparse(part) for part in ast.parse(cell.source).body if defines(part))
    return cells


def defines(part):
    inside = [type(node) for node in ast.walk(part)]
    return isinstance(part, ast.FunctionDef) or ast.Import in inside or ast.ImportFrom in inside or ast.Call not in inside
