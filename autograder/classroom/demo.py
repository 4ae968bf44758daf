"""A small class, made up and graded through nbgrader: what `make demo` shows."""

import shutil
from copy import deepcopy
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode
from nbgrader.apps import NbGraderAPI
from tqdm.auto import tqdm
from traitlets.config import Config, PyFileConfigLoader

from autograder.classroom.results import Result, results
from autograder.lessons.source import notebook_path, render, with_stubs

UNIT = "02_magnitude"


def demo(root: Path) -> list[Result]:
    """Make a class of seven submissions to unit 02 and grade it with nbgrader, feedback included.

    Args:
        root: the course folder; files go to its grading/ folder, where nbgrader expects them.

    Returns:
        The results.

    Raises:
        RuntimeError: grading/ already holds other students' submissions, or nbgrader failed; the message is its log.
    """
    config = course_config(root)
    config.CourseDirectory.release_directory = "grading/release"  # notebooks/ may hold somebody's work
    students = submissions(root)
    submitted = root / "grading" / "submitted"
    strangers = sorted(path.name for path in submitted.glob("*") if path.name not in students)
    if strangers:
        raise RuntimeError(
            f"grading/submitted/ already holds {', '.join(strangers[:3])}: the demo does not mix with a real class"
        )

    api = NbGraderAPI(config=config)
    _must(api.generate_assignment(UNIT, force=True, create=True), "generate_assignment")
    bar = tqdm(students.items(), desc="nbgrader autograde", unit="student")
    for student, notebook in bar:
        bar.set_postfix_str(student)
        path = notebook_path(submitted / student, UNIT)
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
        _must(api.autograde(UNIT, student, force=True, create=True), f"autograde of {student}")
    _must(api.generate_feedback(UNIT, force=True), "generate_feedback")
    return results(root, UNIT, config.CourseDirectory.db_url)


def course_config(root: Path) -> Config:
    """The settings in the course's nbgrader_config.py."""
    return PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()


def submissions(root: Path) -> dict[str, NotebookNode]:
    """The made-up class.

    Args:
        root: the course folder; course/02_magnitude/class/ holds the answers that differ from the solution.

    Returns:
        Notebook by student id.
    """
    solved = render(root, UNIT)
    released = with_stubs(solved)
    solutions = {cell.id: _without_markers(cell.source) for cell in solved.cells if _is_answer(cell)}
    answers = {path.stem.replace("_", "-"): _answers(path) for path in sorted((root / "course" / UNIT / "class").glob("*.py"))}
    class_ = {name: _fill(released, solutions | own) for name, own in answers.items()}
    class_["perfect"] = _fill(released, solutions)
    class_["blank"] = deepcopy(released)
    class_["deleted-and-duplicated"] = _mangled(_fill(released, solutions))
    return class_


def _without_markers(source: str) -> str:
    return "\n".join(line for line in source.split("\n") if "### BEGIN" not in line and "### END" not in line)


def _answers(path: Path) -> dict[str, str]:
    cells = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent").cells
    return {cell.metadata["exercise"].replace(".", "-"): cell.source for cell in cells if "exercise" in cell.metadata}


def _fill(released: NotebookNode, answers: dict[str, str]) -> NotebookNode:
    notebook = deepcopy(released)
    for cell in filter(_is_answer, notebook.cells):
        cell.source = answers[cell.id]
    return notebook


def _mangled(notebook: NotebookNode) -> NotebookNode:
    """A check cell deleted, a solution cell duplicated: what a slip of the hand in JupyterLab does."""
    position = next(i for i, cell in enumerate(notebook.cells) if cell.id == "magnitude-prune")
    notebook.cells.insert(position + 1, deepcopy(notebook.cells[position]))
    notebook.cells[position + 1].id = "a-copy"
    notebook.cells = [cell for cell in notebook.cells if cell.id != "magnitude-schedule-check"]
    return notebook


def _is_answer(cell: NotebookNode) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def _must(outcome: dict, what: str) -> None:
    if not outcome["success"]:
        raise RuntimeError(f"nbgrader's {what} failed:\n{outcome.get('log') or outcome.get('error')}")
