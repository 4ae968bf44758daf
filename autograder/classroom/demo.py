"""A small class, made up and graded: what `make demo` shows."""

import os
import shutil
from copy import deepcopy
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode
from tqdm.auto import tqdm
from traitlets.config import Config, PyFileConfigLoader

from autograder.classroom.grade import ClassRun
from autograder.classroom.results import Result, results
from autograder.lessons.layout import notebook_path, with_stubs
from autograder.lessons.source import render
from autograder.sandbox.bubblewrap import available

UNIT = "02_magnitude"


def demo(root: Path) -> tuple[list[Result], bool]:
    """Make a class of seven submissions to unit 02 and grade it as `autograder grade` does.

    Args:
        root: the course folder; files go to its grading/ folder, where nbgrader expects them.

    Returns:
        The results, and whether they were judged in a sandbox: this class can be trusted, so one is not needed.

    Raises:
        RuntimeError: grading/ already holds other students' submissions, or nbgrader failed; the message is its log.
    """
    config = course_config(root)
    config.Judge.sandbox = available()
    students = submissions(root)
    submitted = root / "grading" / "submitted"
    strangers = sorted(path.name for path in submitted.glob("*") if path.name not in students)
    if strangers:
        raise RuntimeError(
            f"grading/submitted/ already holds {', '.join(strangers[:3])}: the demo does not mix with a real class; "
            "run it in another copy of the project"
        )
    for student, notebook in students.items():
        path = notebook_path(submitted / student, UNIT)
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)

    run = ClassRun(root, UNIT, config)
    run.prepare()
    questions = run.open_questions(list(students))
    judging = tqdm(run.judge_all(questions, os.cpu_count() or 1), desc="judge", unit="student", total=len(questions))
    errors = [f"{student}: {error}" for student, error in judging if error]
    for student in tqdm(students, desc="nbgrader", unit="student"):
        if error := run.autograde(student) or run.feedback(student):
            errors.append(f"{student}: {error}")
    if errors:
        raise RuntimeError("the demo could not be graded:\n" + "\n".join(errors))
    return results(root, UNIT, config.CourseDirectory.db_url), config.Judge.sandbox


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
