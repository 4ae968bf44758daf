"""Puts a submission back on the released notebook, so that nothing but the student's own answers differs from it.

Deleted, duplicated, reordered or retagged cells are repaired, not punished: stock nbgrader stops grading the whole class at one
duplicated cell. Every repair is told in a note at the top, which the student reads in the feedback.
"""

from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor

from autograder.lessons.source import EXPERIMENT, with_stubs, without_outputs


def rebuild(submitted: NotebookNode, released: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """The released notebook with a submission's answers in it.

    Solution cells are taken by their grade_id, the first copy of each. Code cells that the student added or changed are kept,
    right after the released cell they follow. Everything else, check cells above all, is as it was released. Experiments are
    marked to be skipped: no points depend on them.

    Args:
        submitted: the student's notebook.
        released: the notebook as students got it.

    Returns:
        The rebuilt notebook, and a sentence per repair.
    """
    by_id = {cell.id: cell for cell in released.cells}
    by_source = {_text(cell): cell for cell in released.cells}  # editors that drop cell ids keep the text
    answers: dict[str, str] = {}
    extras: dict[str | None, list[str]] = {}  # code of the student, by the released cell it follows
    repairs, last = [], None
    for cell in submitted.cells:
        name = _grade_id(cell)
        if name is None:
            home = by_id.get(cell.get("id")) or by_source.get(_text(cell))
            if home is not None and not _grade_id(home):
                last = home.id
            if cell.cell_type == "code" and cell.source.strip() and (home is None or _is_changed(cell, home)):
                extras.setdefault(last, []).append(cell.source)
        elif name in answers:
            repairs.append(f"{name} was there more than once; the first copy counts")
        elif name in by_id:  # a cell's id is its grade_id, see autograder.lessons.source
            answers[name] = cell.source
            last = name
            if cell.cell_type != by_id[name].cell_type:
                repairs.append(f"{name} had become a {cell.cell_type} cell; it is code again")

    cells = [_extra(source, None, i) for i, source in enumerate(extras.get(None, []))]
    for cell in map(deepcopy, released.cells):
        name = _grade_id(cell)
        if name and name not in answers:
            what = "it is as released" if cell.metadata.nbgrader.grade else "it counts as not started"
            repairs.append(f"{name} was missing; {what}")
        elif name and not cell.metadata.nbgrader.grade:
            cell.source = answers[name]
        elif name and cell.source != answers[name]:
            repairs.append(f"{name} had been changed; it is as released")
        if EXPERIMENT in cell.metadata.get("tags", []):
            cell.metadata.tags = [*cell.metadata.tags, "skip-execution"]
        cells.append(cell)
        cells += [_extra(source, cell.id, i) for i, source in enumerate(extras.get(cell.id, []))]
    if repairs:
        note = "**Repaired before grading:**\n\n" + "\n".join(f"- {repair}" for repair in repairs)
        cells.insert(0, new_markdown_cell(note, id="repairs"))
    rebuilt = deepcopy(released)
    rebuilt.cells = cells
    return rebuilt, repairs


class RebuildOnRelease(NbGraderPreprocessor):
    """`rebuild` as the first of nbgrader's sanitize preprocessors."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """Rebuild a submission; nbgrader calls this with the submitted notebook."""
        course, names = CourseDirectory(parent=self), resources["nbgrader"]
        # not from notebooks/, where somebody may have worked: the source with its solutions cleared is what was released
        folder = course.format_path(course.source_directory, ".", names["assignment"])
        source = nbformat.read(Path(folder) / f"{names['notebook']}.ipynb", as_version=4)
        rebuilt, repairs = rebuild(nb, without_outputs(with_stubs(source)))
        for repair in repairs:
            self.log.warning("%s: %s", names["student"], repair)
        return rebuilt, resources


def _grade_id(cell: NotebookNode) -> str | None:
    metadata = cell.metadata.get("nbgrader")
    name = metadata.get("grade_id") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else None


def _text(cell: NotebookNode) -> tuple[str, str]:
    return cell.cell_type, cell.source.strip()


def _is_changed(cell: NotebookNode, home: NotebookNode) -> bool:
    return _text(cell) != _text(home) and EXPERIMENT not in home.metadata.get("tags", []) and not _grade_id(home)


def _extra(source: str, after: str | None, index: int) -> NotebookNode:
    return new_code_cell(source, id=f"extra-{index}-{after or 'top'}"[:64])
