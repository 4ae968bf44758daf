"""Builds a unit: lesson -> solutions/ (executed) -> notebooks/ (by nbgrader's generate_assignment), and figures beside them."""

import ast
import filecmp
import os
import tempfile
from copy import deepcopy
from pathlib import Path

import nbformat

from autograder.checking.score import score_declared
from autograder.exercises import exercises_of
from autograder.lessons.figures import stale_figures, write_figures
from autograder.lessons.layout import ELSEWHERE, grade_id, holds_work, notebook_path, without_outputs
from autograder.lessons.source import render
from autograder.lessons.sources import fingerprint, what_it_does

RAN_WITH = "ran with sources"  # key in an output's metadata


def build(root: Path, unit: str, force: bool = False) -> list[Path]:
    """Build one unit. What is up to date is not touched, so building twice changes nothing.

    Args:
        root: the course folder.
        unit: the unit.
        force: execute the solution even if no cell of code has changed, and replace a student notebook that somebody worked in.

    Returns:
        The files that were written.

    Raises:
        RuntimeError: the student notebook would be replaced, but somebody has worked in it.
    """
    written = []
    solution = notebook_path(root / "solutions", unit)
    fresh = render(root, unit)
    old = _read(solution) if solution.exists() else None
    outdated = old is not None and _outdated_checks(unit, old)
    if force or old is None or outdated or without_outputs(old) != fresh:
        if force or old is None or _code(old) != _code(fresh):
            execute(fresh, root)
            _record(fresh, sources_of(unit, fresh))
        else:  # text, checks and comments do not change what the experiments give, which takes long
            if outdated:
                execute(fresh, root, experiments=False)
            _take_outputs(fresh, old)
        solution.parent.mkdir(parents=True, exist_ok=True)
        _write(fresh, solution)
        written.append(solution)
    with tempfile.TemporaryDirectory() as scratch:
        made = release(root, unit, Path(scratch))
        student = notebook_path(root / "notebooks", unit)
        if not student.exists() or not filecmp.cmp(made, student, shallow=False):
            if student.exists() and not force and holds_work(_read(student)):
                raise RuntimeError(f"{student.relative_to(root)} holds somebody's work: move it away, or build with --force")
            student.parent.mkdir(parents=True, exist_ok=True)
            student.write_bytes(made.read_bytes())
            written.append(student)
    return written + write_figures(root, unit)


def stale(root: Path, unit: str) -> list[str]:
    """What of a unit no longer fits its lesson and declarations; nothing is executed or written.

    Args:
        root: the course folder.
        unit: the unit.

    Returns:
        A sentence per stale file; empty if all is up to date.
    """
    solution, student = notebook_path(root / "solutions", unit), notebook_path(root / "notebooks", unit)
    for path in (solution, student):
        if not path.exists():
            return [f"{path.relative_to(root)} is missing: run autograder build {unit}"]
    problems = []
    if without_outputs(_read(solution)) != render(root, unit):
        problems.append(f"{solution.relative_to(root)} is stale: run autograder build {unit}")
    if not all(cell.execution_count for cell in _code_cells(_read(solution)) if cell.source):
        problems.append(f"{solution.relative_to(root)} is not executed: run autograder build {unit} --force")
    if outdated := _outdated_checks(unit, _read(solution)):
        names = ", ".join(outdated)
        problems.append(f"{solution.relative_to(root)} shows outdated checks ({names}): run autograder build {unit}")
    with tempfile.TemporaryDirectory() as scratch:
        if not filecmp.cmp(release(root, unit, Path(scratch)), student, shallow=False):
            problems.append(f"{student.relative_to(root)} is stale: run autograder build {unit}")
    problems += [f"{path.relative_to(root)} is stale: run autograder build {unit}" for path in stale_figures(root, unit)]
    return problems


def execute(notebook: nbformat.NotebookNode, root: Path, fast: bool = False, experiments: bool = True) -> None:
    """Execute a notebook in place, from the top, in a kernel of its own; stops at the first error.

    Args:
        notebook: any notebook of the course.
        root: the course folder, in which it runs.
        fast: with the experiments' fast setting.
        experiments: run them, too.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    from nbclient import NotebookClient
    from tqdm.auto import tqdm

    metadata = deepcopy(notebook.metadata)
    with tempfile.TemporaryDirectory() as scratch:
        code = sum(cell.cell_type == "code" for cell in notebook.cells)
        bar = tqdm(total=code, desc="execute", unit="cell", miniters=1)  # the last cells are slow: every one is shown
        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            extra_arguments=["--log-level=ERROR"],  # kernels warn at each start that they speak TCP
            record_timing=False,
            skip_cells_with_tag="" if experiments else "experiment",
            coalesce_streams=True,
            store_widget_state=False,
            resources={"metadata": {"path": str(root)}},
            on_cell_complete=lambda **_: bar.update(),
        )
        # progress of its own: neither reads nor changes what the person at this machine has done
        settings = {"SPARSITY_EDU_PROGRESS": scratch, "SPARSITY_EDU_FAST": "1" if fast else ""}
        with bar:
            client.execute(env=os.environ | settings)
    notebook.metadata = metadata  # execution adds the version of this machine's Python
    for cell in notebook.cells:
        if cell.cell_type == "code":  # progress bars are for people who wait
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]


def verify(root: Path, unit: str) -> bool:
    """Run a unit's notebook in its fast setting, and record in the solution that it ran with today's sources.

    Args:
        root: the course folder.
        unit: the unit; its solution must be built.

    Returns:
        Whether the record has changed.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook, path = render(root, unit), notebook_path(root / "solutions", unit)
    execute(notebook, root, fast=True)
    solution, now = _read(path), sources_of(unit, notebook)
    if recorded(solution) == now:
        return False
    _record(solution, now)
    _write(solution, path)
    return True


def sources_of(unit: str, notebook: nbformat.NotebookNode) -> str:
    """A hash of all that a unit's notebook runs: its cells, what they import, and its checks."""
    modules = {exercise.stages[0].cases.__module__ for exercise in exercises_of(unit)}
    return fingerprint([cell.source for cell in _code_cells(notebook)], ["autograder.learner.check", *modules])


def recorded(solution: nbformat.NotebookNode) -> str:
    """`sources_of` a solution when it was run last; empty if nobody has written it down."""
    return _last_result(solution).metadata.get(RAN_WITH, "")


def _record(solution: nbformat.NotebookNode, sources: str) -> None:
    _last_result(solution).metadata[RAN_WITH] = sources


def _last_result(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The last check's output: a place for the record that no release has, for nbgrader clears outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return next(output for output in reversed(outputs) if output.output_type == "execute_result")


def release(root: Path, unit: str, scratch: Path) -> Path:
    """Run nbgrader's generate_assignment on solutions/, into a scratch folder and without a gradebook.

    Args:
        root: the course folder.
        unit: the unit; its solution must exist.
        scratch: an empty folder.

    Returns:
        The student notebook.

    Raises:
        RuntimeError: nbgrader refused; the message is its log.
    """
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import PyFileConfigLoader

    config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
    config.GenerateAssignment.no_database, config.SaveCells.enabled = True, False  # making a gradebook takes seconds
    config.CourseDirectory.release_directory = os.path.relpath(scratch / "release", root)
    result = NbGraderAPI(config=config).generate_assignment(unit, force=True, create=True)
    if not result["success"]:
        raise RuntimeError(f"nbgrader could not release {unit}:\n{result['log']}")
    return notebook_path(scratch / "release", unit)


def _outdated_checks(unit: str, solution: nbformat.NotebookNode) -> list[str]:
    """The exercises whose executed check does not show what it would show now: stages may change while no cell does."""
    shown = {
        cell.id: "".join(output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", []))
        for cell in solution.cells
    }
    return [
        exercise.id
        for exercise in exercises_of(unit)
        if not shown.get(f"{grade_id(exercise)}-check", "").startswith(repr(score_declared(exercise, exercise.reference)))
    ]


def _code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells that give results; where the notebook may be opened makes no difference to them."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and ELSEWHERE not in cell.metadata.get("tags", [])]


def _code(notebook: nbformat.NotebookNode) -> list[str]:
    """What the cells do in the normal setting, in which solutions are executed, whatever their comments and docstrings say."""
    trees = (_Normal().visit(ast.parse(cell.source)) for cell in _code_cells(notebook))
    return [what_it_does(ast.unparse(tree)) for tree in trees]


class _Normal(ast.NodeTransformer):
    """Code without its fast setting, and without the question whether exercises are done, which solutions are."""

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        return {"FAST": node.orelse, "not FAST": node.body}.get(ast.unparse(node.test), node)

    def visit_If(self, node: ast.If) -> ast.If | list[ast.stmt]:
        self.generic_visit(node)
        return {"FAST": node.orelse, "not FAST": node.body}.get(ast.unparse(node.test), node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        self.generic_visit(node)
        for i, part in enumerate(node.values):  # {'down' if FAST else 'up'} is a part of the text by now
            if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Constant) and part.format_spec is None:
                node.values[i] = ast.Constant(str(part.value.value))
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        self.generic_visit(node)
        return None if ast.unparse(node).startswith("check.needs(") else node


def _take_outputs(fresh: nbformat.NotebookNode, old: nbformat.NotebookNode) -> None:
    """Take over what was executed before, where the same code was not executed now."""
    for new, executed in zip(_code_cells(fresh), _code_cells(old), strict=True):
        if not new.execution_count:
            new.outputs = executed.outputs
        new.execution_count = executed.execution_count


def _is_progress(output: nbformat.NotebookNode) -> bool:
    is_widget = "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    return is_widget or (output.output_type == "stream" and output.name == "stderr")


def _read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def _write(notebook: nbformat.NotebookNode, path: Path) -> None:
    draft = path.with_suffix(".part")
    nbformat.write(notebook, draft)
    draft.replace(path)
