"""Puts a submission back on the released notebook, so that nothing but the student's own answers differs from it.

Deleted, duplicated, split, reordered or retagged cells are repaired, not punished: stock nbgrader stops grading the whole class
at one duplicated cell. Every repair is told in a note at the top, which the student reads in the feedback.
"""

import re
from collections import defaultdict
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from autograder.intake.cells import Cell, Release, chosen, grade_id_of, read_cells, submitted_cells
from autograder.intake.code import own_part, seems_to_define
from autograder.intake.folders import shown
from autograder.lessons.layout import EXPERIMENT, with_stubs, without_outputs

TITLE = re.compile(r"^# (\d\d) · (.+)$", re.MULTILINE)


def rebuild(submitted: NotebookNode, released: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """The notebook that is graded: the released one with a submission's answers in it.

    Experiments are marked to be skipped: no points depend on them.

    Args:
        submitted: the student's notebook; whatever it holds, this does not raise.
        released: the notebook as students got it.

    Returns:
        The rebuilt notebook, and a sentence per repair.
    """
    if other := another(submitted, released):
        rebuilt, repairs = deepcopy(released), [other]
    else:
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

    Solution cells are taken by their grade_id; where an editor has dropped the grade_ids, by what they define. Of several with
    one grade_id, the last that answers above the check counts, and the others run where they stand. Code cells that were added
    or changed are kept, right after the released cell they follow. Everything else is as it was released; what somebody has
    written into the cell of a check runs before it.

    Args:
        submitted: the notebook with the answers; whatever it holds, this does not raise.
        released: the notebook to put them on.

    Returns:
        A copy of the released notebook with the answers, and a sentence for each that was not simply where it belongs.
    """
    release = Release(released)
    cells, repairs = submitted_cells(submitted, release)
    by_name = defaultdict(list)
    for cell in cells:
        by_name[cell.name].append(cell)
    answers = {name: chosen(by_name[name], release) for name in release.answers}
    ahead, behind = _around(cells, answers, release)

    placed = deepcopy(released)
    frame, placed.cells = placed.cells, _extras(behind[None], "top")
    for cell in frame:
        name = grade_id_of(cell)
        if name in release.checks:
            repairs += _of_check(name, by_name[name], cell)
        elif name and (answer := answers[name]) is not None:
            cell.source = answer.source
            repairs += _of_answer(answer, by_name[name], release)
        placed.cells += [*_extras(ahead[cell.id], f"before-{cell.id}"), cell, *_extras(behind[cell.id], cell.id)]
    return placed, repairs + _settle(placed, answers, release)


def another(submitted: NotebookNode, released: NotebookNode) -> str:
    """What another notebook a submission is; empty if it is one of this unit, or answers one of its exercises.

    Args:
        submitted: the student's notebook, whatever it holds.
        released: the unit's.

    Returns:
        A sentence, or nothing.
    """
    release = Release(released)
    cells = read_cells(submitted, release)
    code = [cell.source for cell in cells if cell.kind == "code" and cell.source.strip()]
    if not code or not release.answers or any(cell.name or (cell.home and grade_id_of(cell.home)) for cell in cells):
        return ""
    title, own = (_title(texts) for texts in ([cell.source for cell in cells], [cell.source for cell in released.cells]))
    if title and (own is None or title[1] != own[1]):
        return f"this is the notebook of unit {title[1]} ({shown(title[2])}); nothing of it counts here"
    wanted = {name for stub in release.answers.values() for name in seems_to_define(stub.source)}
    is_answered = any(wanted & seems_to_define(source) for source in code)
    return "" if is_answered else "this is the notebook of something else: it holds none of this unit's exercises"


def _title(texts: list[str]) -> re.Match | None:
    return next(filter(None, map(TITLE.search, texts)), None)


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


def _around(cells: list[Cell], answers: dict[str, Cell | None], release: Release) -> tuple[dict, dict]:
    """The student's further code: what runs right ahead of a released cell, and what stands right behind one, by its id."""
    ahead, behind = defaultdict(list), defaultdict(list)
    checks = {name: _check(cells, name, release) for name in release.checks}
    seen = {(name, cell.source) for name, cell in answers.items() if cell}
    last = None
    for cell in cells:
        if cell.name in release.checks:
            place = release.checks[cell.name].id
            if own := own_part(cell.source, "check") if cell.is_own else "":
                (ahead[place] if checks[cell.name] is cell else behind[last]).append(own)
            last = place if checks[cell.name] is cell else last
        elif cell.name and answers[cell.name] is cell:
            last = release.answers[cell.name].id if release.stands_above(cell, cell.name) else last
        elif cell.name:
            if cell.is_own and not release.is_unwritten(cell) and (cell.name, cell.source) not in seen:
                (ahead[cell.ahead_of] if cell.ahead_of else behind[last]).append(cell.source)
            seen.add((cell.name, cell.source))
        else:
            last = cell.home.id if cell.home is not None and not grade_id_of(cell.home) else last
            if cell.is_own:
                (ahead[cell.ahead_of] if cell.ahead_of else behind[last]).append(cell.source)
    return ahead, behind


def _check(cells: list[Cell], name: str, release: Release) -> Cell | None:
    """Of the cells of one check, the one that is as released, or else the last."""
    copies = [cell for cell in cells if cell.name == name]
    return next((cell for cell in copies if not cell.is_own), copies[-1] if copies else None)


def _of_check(name: str, copies: list[Cell], released: NotebookNode) -> list[str]:
    if not copies:
        return [f"{name} was missing; it is as released"]
    said = [f"{name} was there more than once; it is as released"] if len(copies) > 1 else []
    changed = [cell for cell in copies if cell.source != released.source]
    if any(cell.is_own and own_part(cell.source, "check") for cell in changed):
        return [*said, f"{name} had been changed; it is as released, and what else was defined there is a cell of its own"]
    return said or [f"{name} had been changed; it is as released" for _ in changed]


def _of_answer(answer: Cell, copies: list[Cell], release: Release) -> list[str]:
    said = [f"{answer.name} had become a {answer.kind} cell; it is code again"] if answer.kind != "code" else []
    if len(copies) > 1:
        others = {cell.source for cell in copies if cell.is_own and not release.is_unwritten(cell)} - {answer.source}
        counts = "all of it runs, in its order" if others else "one of them counts"
        said.append(f"{answer.name} was there more than once; {counts}")
    return said


def _settle(placed: NotebookNode, answers: dict[str, Cell | None], release: Release) -> list[str]:
    """Take away stubs of what other cells define, and say what was not begun: in place."""
    repairs, defined = [], set()
    own = {name for name, cell in answers.items() if cell and not release.is_unwritten(cell)}
    places = {cell.id: cell for cell in placed.cells}
    for cell in placed.cells:
        if cell.id.startswith("extra-") or cell.id in own:
            defined |= seems_to_define(cell.source)
        for name in (name for name in answers if name not in own and release.check_of(name) == grade_id_of(cell) is not None):
            is_elsewhere = bool(defined & seems_to_define(release.answers[name].source))
            was = "missing" if answers[name] is None else "empty" if not answers[name].source.strip() else "as released"
            if is_elsewhere:
                places[name].source = ""
            if is_elsewhere or was != "as released":
                counts = "what another cell defines counts" if is_elsewhere else "it counts as not started"
                repairs.append(f"{name} was {was}; {counts}")
    return repairs


def _extras(sources: list[str], where: str) -> list[NotebookNode]:
    return [new_code_cell(source, id=f"extra-{i}-{where}"[:64]) for i, source in enumerate(sources)]
