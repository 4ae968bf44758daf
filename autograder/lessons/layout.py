"""Where a unit's files are, how its cells are marked, and a notebook's other forms: with stubs, without outputs."""

from copy import deepcopy
from pathlib import Path

import nbformat

from autograder.checking.exercise import Exercise

HANDOUT = "handout.json"  # lies in the folder that students were given
EXPERIMENT = "experiment"  # tag of cells that measure something and are never graded
ELSEWHERE = "elsewhere"  # tag of cells that are for Colab and Binder alone


def course_root(start: Path | None = None) -> Path:
    """The course folder that `start` (default: the working directory) lies in.

    Args:
        start: where to begin looking upwards.

    Returns:
        The folder with nbgrader_config.py and course/, or that of a handout.

    Raises:
        FileNotFoundError: there is none.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / HANDOUT).is_file() or ((folder / "nbgrader_config.py").is_file() and (folder / "course").is_dir()):
            return folder
    raise FileNotFoundError(
        f"no course (a folder with nbgrader_config.py and course/) at or above {start}; change into a clone of it"
    )


def notebook_path(folder: Path, unit: str) -> Path:
    """Where a unit's notebook lies: `folder/02_magnitude/magnitude.ipynb`."""
    return folder / unit / f"{unit.split('_', 1)[1]}.ipynb"


def grade_id(exercise: Exercise) -> str:
    """The nbgrader id of an exercise's solution cell; nbgrader allows letters, digits, _ and - only."""
    return exercise.id.replace(".", "-")


def with_stubs(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook as nbgrader releases it: solutions replaced by stubs.

    Args:
        notebook: as made by `render`.

    Returns:
        A copy.
    """
    from nbgrader.preprocessors import ClearSolutions

    return ClearSolutions().preprocess(deepcopy(notebook), {})[0]


def without_outputs(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy of a notebook as if it had never been run."""
    bare = deepcopy(notebook)
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return bare


def holds_work(notebook: nbformat.NotebookNode) -> bool:
    """Whether somebody has run cells of a notebook that is released without outputs."""
    return any(cell.cell_type == "code" and (cell.get("execution_count") or cell.get("outputs")) for cell in notebook.cells)
