"""Puts a submission back on the released notebook, so that nothing but the student's own answers differs from it.

Deleted, duplicated, reordered or retagged cells are repaired, not punished: stock nbgrader stops grading the whole class at one
duplicated cell. Every repair is told in a note at the top, which the student reads in the feedback.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from autograder.intake.reading import clean_text
from autograder.lessons.layout import EXPERIMENT, with_stubs, without_outputs

DEFINES = re.compile(r"^(?:(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)|(\w+)[ \t]*(?::[^=\n]*)?=(?!=))", re.MULTILINE)
PARSED = 200_000  # characters of a submission; in further cells, what seems to define something is believed to


@dataclass
class _Cell:
    """What of a submitted cell is looked at. Its source is all that can get into the rebuilt notebook."""

    kind: str
    source: str
    name: str | None  # the grade_id
    home: NotebookNode | None  # the released cell of the same id or text


def rebuild(submitted: NotebookNode, released: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """The notebook that is graded: the released one with a submission's answers in it.

    Experiments are marked to be skipped: no points depend on them.

    Args:
        submitted: the student's notebook; whatever it holds, this does not raise.
        released: the notebook as students got it.

    Returns:
        The rebuilt notebook, and a sentence per repair.
    """
    rebuilt, repairs = place_answers(submitted, released)
    for cell in rebuilt.cells:
        if EXPERIMENT in cell.metadata.get("tags", []):
            cell.metadata.tags = [*cell.metadata.tags, "skip-execution"]
    if repairs:
        note = "**Repaired before grading:**\n\n" + "\n".join(f"- {repair}" for repair in repairs)
        rebuilt.cells.insert(0, new_markdown_cell(note, id="repairs"))
        rebuilt.metadata["repairs"] = repairs  # for reports
    return rebuilt, repairs


def place_answers(submitted: NotebookNode, released: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """The released notebook with somebody's answers in it.

    Solution cells are taken by their grade_id, the first copy of each; where an editor has dropped the grade_ids, by what they
    define. Code cells that were added or changed are kept, right after the released cell they follow. Everything else, check
    cells above all, is as it was released.

    Args:
        submitted: the notebook with the answers; whatever it holds, this does not raise.
        released: the notebook to put them on.

    Returns:
        A copy of the released notebook with the answers, and a sentence for each that was not simply where it belongs.
    """
    cells = list(_submitted(submitted, released))
    repairs = _recognise(cells, released)
    graded = {grade_id_of(cell): cell for cell in released.cells if grade_id_of(cell)}
    answers: dict[str, str] = {}
    extras: dict[str | None, list[str]] = {}  # code of the student, by the released cell it follows
    last = None
    for cell in cells:
        if cell.name in answers:
            again = f"{cell.name} was there more than once; the first copy counts"
            repairs += [] if again in repairs else [again]
        elif cell.name is not None:
            answers[cell.name], last = cell.source, cell.name  # a cell's id is its grade_id, see autograder.lessons.source
            if cell.kind != "code":
                repairs.append(f"{cell.name} had become a {cell.kind} cell; it is code again")
        else:
            last = cell.home.id if cell.home is not None else last
            if cell.kind == "code" and cell.source.strip() and (cell.home is None or _is_changed(cell)):
                extras.setdefault(last, []).append(cell.source)

    placed = deepcopy(released)
    frame, placed.cells = placed.cells, [_extra(source, None, i) for i, source in enumerate(extras.get(None, []))]
    code = chain((answers[name] for name in answers if not graded[name].metadata.nbgrader.grade), *extras.values())
    defined = {name for source in code for name in seems_to_define(source)}
    for cell in frame:
        name = grade_id_of(cell)
        if name and cell.metadata.nbgrader.grade:
            if answers.get(name, cell.source) != cell.source:
                repairs.append(f"{name} had been changed; it is as released")
            elif name not in answers:
                repairs.append(f"{name} was missing; it is as released")
        elif name:
            is_elsewhere = bool(defined & seems_to_define(cell.source))
            counts = "what another cell defines counts" if is_elsewhere else "it counts as not started"
            if name not in answers:
                repairs.append(f"{name} was missing; {counts}")
            elif not answers[name].strip():
                repairs.append(f"{name} was empty; {counts}")
            cell.source = answers.get(name, "" if is_elsewhere else cell.source)
        placed.cells += [cell, *(_extra(source, cell.id, i) for i, source in enumerate(extras.get(cell.id, [])))]
    return placed, repairs


def released_notebook(source: Path) -> NotebookNode:
    """A unit's notebook as students got it.

    Not from notebooks/, where somebody may have worked: the source with its solutions cleared is what was released.

    Args:
        source: nbgrader's source notebook of the unit.

    Returns:
        The notebook, without outputs. It is read once until its file changes, and shared: do not change it.

    Raises:
        FileNotFoundError: the unit has no source notebook.
    """
    return _read(source, source.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _read(path: Path, modified: int) -> NotebookNode:
    return without_outputs(with_stubs(nbformat.read(path, as_version=4)))


def _submitted(notebook: NotebookNode, released: NotebookNode) -> Iterator[_Cell]:
    """The cells of a submission that hold text, with the released cells they come from. Nothing in it has a type to rely on."""
    by_id = {cell.id: cell for cell in released.cells}
    by_text = {(cell.cell_type, cell.source.strip()): cell for cell in released.cells}  # editors that drop ids keep the text
    names = {grade_id_of(cell) for cell in released.cells} - {None}
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    for cell in cells if isinstance(cells, list) else []:
        kind, source = (cell.get("cell_type"), clean_text(cell.get("source"))) if isinstance(cell, dict) else (None, None)
        if source is None or kind not in ("code", "markdown", "raw"):
            continue
        id, name = cell.get("id"), grade_id_of(cell)
        home = by_id.get(id) if isinstance(id, str) else None
        yield _Cell(kind, source, name if name in names else None, home or by_text.get((kind, source.strip())))


def _recognise(cells: list[_Cell], released: NotebookNode) -> list[str]:
    """Give back their grade_ids to cells that lost them: by id or text, answers also by what they define.

    Returns:
        A sentence for each answer recognised by what it defines.
    """
    present = {cell.name for cell in cells}
    for cell in cells:
        name = grade_id_of(cell.home) if cell.name is None and cell.home is not None else None
        if name not in present:
            cell.name = name
            present.add(name)
    lost = {}  # grade_id by the name that its answer defines
    for cell in released.cells:
        name = grade_id_of(cell)
        if name and name not in present and not cell.metadata.nbgrader.grade:
            lost |= dict.fromkeys(seems_to_define(cell.source), name)
    repairs, room = [], PARSED
    for cell in sorted(cells, key=lambda cell: cell.kind != "code") if lost else []:  # text that is Python: only if no code is
        if cell.name is None and cell.home is None:
            sought = {defined: name for defined, name in lost.items() if name not in present}
            defined = sought.keys() & seems_to_define(cell.source)
            if defined:
                room -= len(cell.source)
                defined &= _defines(cell, is_parsed=room >= 0)
            if defined:
                cell.name = min(sought[each] for each in defined)
                present.add(cell.name)
                repairs.append(f"{cell.name} had lost its nbgrader metadata; it was recognised by what it defines")
    return repairs


def seems_to_define(source: str) -> set[str]:
    """The functions, classes and constants that code defines at its top level, also of code with syntax errors."""
    return {name for pair in DEFINES.findall(source) for name in pair if name}


def _defines(cell: _Cell, is_parsed: bool) -> set[str]:
    """The names that a cell defines at its top level; of code that is not Python or not parsed, those it seems to define."""
    try:
        if not is_parsed:
            raise ValueError("not parsed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about "\d" and the like
            body = ast.parse(cell.source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return seems_to_define(cell.source) if cell.kind == "code" else set()
    named = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in body if isinstance(node, ast.AnnAssign) and node.value]
    return named | {target.id for target in targets if isinstance(target, ast.Name)}


def grade_id_of(cell: dict) -> str | None:
    """The grade_id in a cell's metadata, whatever these hold; None if there is none."""
    metadata = cell.get("metadata")
    nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    name = nbgrader.get("grade_id") if isinstance(nbgrader, dict) else None
    return name if isinstance(name, str) else None


def _is_changed(cell: _Cell) -> bool:
    return cell.source.strip() != cell.home.source.strip() and EXPERIMENT not in cell.home.metadata.get("tags", [])


def _extra(source: str, after: str | None, index: int) -> NotebookNode:
    return new_code_cell(source, id=f"extra-{index}-{after or 'top'}"[:64])
