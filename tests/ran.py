"""What the cells of a unit's notebook define, run once in a process for all tests of the unit."""

import os
from functools import cache
from pathlib import Path
from unittest.mock import patch

import nbformat

from autograder.lessons.layout import course_root, with_stubs
from autograder.lessons.source import render, run_cells

ROOT = course_root(Path(__file__).parent)


def run(notebook: nbformat.NotebookNode) -> dict:
    """What the cells define, without checks and experiments; a model that they load is the tiny one."""
    with patch.dict(os.environ, SPARSITY_EDU_FAST="1"):
        return run_cells(notebook)


@cache
def solved(unit: str) -> dict:
    """What the cells of the solution define."""
    return run(render(ROOT, unit))


@cache
def stubs(unit: str) -> dict:
    """The same of the release, in which nothing is solved."""
    return run(with_stubs(render(ROOT, unit)))
