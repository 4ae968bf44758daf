"""A course for tests about grading: unit 02 with all its exercises, and nothing that takes time.

No plots, no models, no experiment worth the name: what a unit's own cells do is tested with the unit.
"""

import shutil
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import jupytext
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from autograder.classroom import demo
from autograder.classroom.grade import ClassRun
from autograder.lessons.layout import course_root, notebook_path, with_stubs
from autograder.lessons.source import render

ROOT = course_root(Path(__file__).parent)
UNIT = demo.UNIT
SETUP = "import copy\n\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn\n\nfrom autograder import check"
EXPERIMENT = "print('an experiment with', weight_sparsity(nn.Linear(2, 2)))"


def make_course(root: Path, students: Iterable[str] = ()) -> Path:
    """A small course, whose gradebook knows the unit.

    Args:
        root: a folder that is not there yet.
        students: which of the demo's submissions are handed in.

    Returns:
        The folder.
    """
    _write_course(root)
    (root / "grading").mkdir()
    (root / "grading" / "gradebook.db").write_bytes(_gradebook())
    made = demo.submissions(root)
    for student in students:
        path = notebook_path(root / "grading" / "submitted" / student, UNIT)
        path.parent.mkdir(parents=True)
        nbformat.write(made[student], path)
    return root


def _write_course(root: Path) -> None:
    lesson = jupytext.read(ROOT / "course" / UNIT / "lesson.py", fmt="py:percent")
    exercises = [cell for cell in lesson.cells if "exercise" in cell.metadata]
    last = new_code_cell(EXPERIMENT, metadata={"tags": ["experiment"]})
    cells = [new_markdown_cell("# Magnitude"), new_code_cell(SETUP), *exercises, last]
    shutil.copytree(ROOT / "course" / UNIT, root / "course" / UNIT)
    jupytext.write(new_notebook(cells=cells), root / "course" / UNIT / "lesson.py", fmt="py:percent")
    shutil.copy(ROOT / "nbgrader_config.py", root)
    solved = render(root, UNIT)
    for folder, notebook in (("solutions", solved), ("notebooks", with_stubs(solved))):
        path = notebook_path(root / folder, UNIT)
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)


@cache
def _gradebook() -> bytes:
    """What nbgrader writes for a course without students: seconds, once for all tests of a process."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "course"
        _write_course(root)
        ClassRun(root, UNIT, demo.course_config(root)).prepare()
        return (root / "grading" / "gradebook.db").read_bytes()
