"""Reads a lesson (jupytext py:percent) and renders it as nbgrader's source notebook, solutions included, not yet executed."""

import ast
import hashlib
import linecache
import symtable
import textwrap
from pathlib import Path

import jupytext
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from autograder.checking.exercise import Exercise
from autograder.exercises import exercises_of, find, number_of
from autograder.lessons import elsewhere
from autograder.lessons.layout import EXPERIMENT, grade_id

HINTS = ("Hint", "Next hint: the key step", "Last hint: nearly the code")  # what is clicked on


def render(root: Path, unit: str) -> nbformat.NotebookNode:
    """The notebook of a unit: the lesson's cells, with header and check cells made from the exercise declarations.

    Args:
        root: the course folder.
        unit: one of `UNITS`.

    Returns:
        A notebook without outputs, with nbgrader's metadata and cell ids that depend only on the lesson.

    Raises:
        ValueError: the lesson does not name each exercise of its unit exactly once and in order, or a cell lacks its solution.
        FileNotFoundError: the unit has no lesson.
    """
    path = root / "course" / unit / "lesson.py"
    if not path.is_file():
        raise FileNotFoundError(f"unit {unit} has no lesson: {path.relative_to(root)} is missing")
    lesson = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    named = [cell.metadata["exercise"] for cell in lesson.cells if "exercise" in cell.metadata]
    declared = [exercise.id for exercise in exercises_of(unit)]
    if named != declared:
        raise ValueError(f"{path.name} of {unit} must name each exercise once and in order: {declared}, got {named}")

    cells = []
    for cell in lesson.cells:
        if "exercise" in cell.metadata:
            cells += _exercise_cells(find(cell.metadata["exercise"]), cell.source)
        elif cell.cell_type == "markdown":
            cells.append(new_markdown_cell(cell.source))
        else:
            cells.append(new_code_cell(cell.source, metadata={"tags": cell.metadata.get("tags", [])}))
    _begin_experiments(unit, cells)
    cells[1:1] = elsewhere.cells(root, unit)
    _set_ids(unit, cells)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def _exercise_cells(exercise: Exercise, solution: str) -> list[nbformat.NotebookNode]:
    if not ("### BEGIN SOLUTION" in solution and "### END SOLUTION" in solution):
        raise ValueError(f"the cell of {exercise.id} must mark its solution with ### BEGIN SOLUTION and ### END SOLUTION")
    name = grade_id(exercise)
    header = (
        f"### Exercise {number_of(exercise.id)}: {exercise.title}\n\n"
        f"**{exercise.points:g} points** · about {exercise.minutes} minutes · "
        f"difficulty {'●' * exercise.difficulty}{'○' * (3 - exercise.difficulty)}\n\n" + _unfolding(exercise.hints)
    )
    return [
        new_markdown_cell(header),
        new_code_cell(solution, metadata={"nbgrader": _nbgrader(name, solution=True)}),
        new_code_cell(
            f'check("{exercise.id}", {exercise.defines})',
            metadata={"nbgrader": _nbgrader(f"{name}-check", points=exercise.points)},
        ),
    ]


def _unfolding(hints: tuple[str, ...]) -> str:
    """Hints as markdown: each one, once it is open, shows the next one to open."""
    opened = (f"<details><summary>{title}</summary>\n\n{hint}\n\n" for title, hint in zip(HINTS, hints, strict=True))
    return "".join(opened) + "\n".join(["</details>"] * len(hints))


def _begin_experiments(unit: str, cells: list[nbformat.NotebookNode]) -> None:
    """Have each experiment say at its very beginning which of the exercises that it uses are still to be done."""
    needed = {exercise.defines: {exercise.id} for exercise in exercises_of(unit)}  # by name: the exercises before it is there
    for cell in (cell for cell in cells if cell.cell_type == "code" and "nbgrader" not in cell.metadata):
        reads, makes = _names(cell.source)
        used = set().union(*(needed.get(name, set()) for name in reads))
        if EXPERIMENT not in cell.metadata.tags:  # it runs without them, but a function that it makes may not: pack_2_4
            functions = [part for part in ast.parse(cell.source).body if isinstance(part, ast.FunctionDef)]
            calls = {part.name: _names(ast.unparse(part))[0] for part in functions}
            needed |= {name: set().union(*(needed.get(other, set()) for other in calls.get(name, ()))) for name in makes}
        else:
            needed |= dict.fromkeys(makes, used)
            if used:
                ids = ", ".join(f'"{exercise.id}"' for exercise in exercises_of(unit) if exercise.id in used)
                lines = textwrap.wrap(f"check.needs({ids})", 100, subsequent_indent=" " * len("check.needs("))
                cell.source = "\n".join([*lines, "", cell.source])


def _names(code: str) -> tuple[set[str], set[str]]:
    """The names that code takes from cells before it, and those that it leaves to cells after it."""
    cell = symtable.symtable(code, "cell", "exec")
    makes = {symbol.get_name() for symbol in cell.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    reads, waiting = set(), [cell]
    while waiting:
        scope = waiting.pop()
        waiting += scope.get_children()
        reads |= {s.get_name() for s in scope.get_symbols() if s.is_referenced() and (scope is cell or s.is_global())}
    return reads - makes, makes


def _nbgrader(name: str, solution: bool = False, points: float | None = None) -> dict:
    graded = points is not None
    metadata = {"grade": graded, "grade_id": name, "locked": graded, "schema_version": 3, "solution": solution, "task": False}
    return metadata | ({"points": points} if graded else {})


def _set_ids(unit: str, cells: list[nbformat.NotebookNode]) -> None:
    seen: dict[str, int] = {}
    for cell in cells:
        text = (
            cell.metadata.get("nbgrader", {}).get("grade_id")
            or hashlib.sha256(f"{unit}/{cell.source}".encode()).hexdigest()[:12]
        )
        seen[text] = seen.get(text, 0) + 1
        cell.id = text if seen[text] == 1 else f"{text}-{seen[text]}"


def run_cells(notebook: nbformat.NotebookNode) -> dict:
    """Run a notebook's code cells in this process as a learner would, all but checks and experiments, going on after errors.

    Args:
        notebook: as made by `render`, with solutions or stubs.

    Returns:
        What the cells have defined.
    """
    import matplotlib

    matplotlib.use("Agg")
    namespace: dict = {"__name__": "__main__"}
    for cell in notebook.cells:
        is_check = cell.metadata.get("nbgrader", {}).get("grade")
        if cell.cell_type == "code" and not is_check and EXPERIMENT not in cell.metadata.get("tags", []):
            name = f"<{cell.id} {hash(cell.source):x}>"  # triton reads a kernel's source when it runs, by this name
            linecache.cache[name] = len(cell.source), None, cell.source.splitlines(keepends=True), name
            try:
                exec(compile(cell.source, name, "exec"), namespace)
            except Exception as error:
                namespace.setdefault("__errors__", []).append((cell.id, error))
    return namespace
