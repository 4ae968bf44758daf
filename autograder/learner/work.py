"""A learner's own copies of the notebooks, such as work/02_magnitude/magnitude.ipynb: nobody works in the release.

    there is no copy              it is made of notebooks/, or of the work that somebody has done there
    the release is as it was      the copy is not touched
    the release has changed       the copy's answers are put on it, and the copy as it was is kept beside

A copy's metadata say which release it came from, and what text each cell of that had. A cell with such a text is the course's,
and gives way to what the course says now. Any other is the learner's: it goes to the new notebook or stays in the kept one. A
cell that the learner has changed and the course has not stays as the learner has it.
"""

import hashlib
import json
import os
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import date
from difflib import SequenceMatcher
from itertools import count
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from autograder.intake.folders import IGNORED
from autograder.intake.reading import clean_text, read_notebook
from autograder.intake.rebuild import grade_id_of, place_answers, released_notebook
from autograder.lessons.layout import EXPERIMENT, holds_work, notebook_path

WORK = "work"  # the folder, which git ignores


class _Left(Exception):
    """Why something is left as it is, as a sentence."""


@dataclass(frozen=True)
class Origin:
    """What a copy came from, in hashes."""

    release: str | None = None  # of the release; None: an editor has dropped it
    cells: dict[str, str] = field(default_factory=dict)  # of the text of each of the release's cells, by its id
    taken: str | None = None  # of the file in notebooks/ that somebody had worked in, if the copy was made of that

    @classmethod
    def of(cls, released: NotebookNode, taken: str | None = None) -> "Origin":
        """The origin of a copy of a release.

        Args:
            released: the notebook as it was released.
            taken: as in the field.

        Returns:
            The origin.
        """
        return cls(release_hash(released), {cell.id: cell_hash(cell) for cell in released.cells}, taken)

    @classmethod
    def read(cls, notebook: NotebookNode) -> "Origin":
        """The origin that a copy's metadata tell."""
        match notebook.get("metadata"):
            case {"sparsity_edu": {"release": str(release), "cells": list(cells), "taken": None | str() as taken}}:
                pairs = [cell for cell in cells if isinstance(cell, list) and len(cell) == 2]
                return cls(release, {str(id): str(text) for id, text in pairs}, taken)
        return cls()

    def written_in(self, notebook: NotebookNode) -> NotebookNode:
        """A copy of a notebook whose metadata tell this origin."""
        copy = deepcopy(notebook)
        told = {"release": self.release, "cells": [list(pair) for pair in self.cells.items()], "taken": self.taken}
        copy.metadata["sparsity_edu"] = told  # Jupyter keeps metadata that it does not know, but sorts names
        return copy

    def wrote(self, cell: NotebookNode) -> bool:
        """Whether a cell has a text of the release, and is not the learner's."""
        return cell_hash(cell) in self.cells.values()


def release_hash(released: NotebookNode) -> str:
    """The hash of what matters of a release: another one means that copies are out of date."""
    points = [float(cell.metadata.nbgrader.get("points", 0)) if grade_id_of(cell) else 0.0 for cell in released.cells]
    tags = [cell.metadata.get("tags", []) for cell in released.cells]
    return _hash(json.dumps([list(map(cell_hash, released.cells)), points, tags]).encode())


def cell_hash(cell: NotebookNode) -> str:
    """The hash of a cell's text."""
    return _hash(f"{cell.cell_type}\n{_text(cell)}".encode())


def prepare(root: Path, unit: str, today: date | None = None) -> list[str]:
    """See to it that there is a copy of a unit's notebook to work in, on the release as it is now. What is there is never lost.

    Args:
        root: the course folder.
        unit: the unit.
        today: for the name of a notebook that is kept.

    Returns:
        A sentence for each thing that happened or could not happen; none if all is as it was.

    Raises:
        OSError: a file could not be written.
    """
    release, source, copy = (notebook_path(root / folder, unit) for folder in ("notebooks", "solutions", WORK))
    for folder in (root / WORK, copy.parent):
        if os.path.lexists(folder) and not folder.is_dir():
            return [f"{folder.relative_to(root)} is not a folder, so that no notebook can be put there"]
    try:
        if not os.path.lexists(copy):
            said = [_make(copy, release, source)]
        elif copy.is_symlink() or not copy.is_file():
            raise _Left(f"{_name(copy)} is {'a link' if copy.is_symlink() else 'no file'}; it is left as it is")
        else:
            said = _renew(copy, release, today or date.today())
    except _Left as reason:
        said = [str(reason)]
    return said + _copy_other_files(release, copy)


def carry_over(old: NotebookNode, origin: Origin, released: NotebookNode) -> tuple[NotebookNode, list[NotebookNode]]:
    """A new release with a learner's answers in it, and the code cells that they added.

    Args:
        old: the learner's notebook.
        origin: what it came from.
        released: the new release.

    Returns:
        The new notebook; and those of the learner's cells whose text is not in it: notes, changed experiments, second answers.
    """
    mine = _written_in(old, origin)
    released = _with_changes(mine, origin, released)
    answered = {grade_id_of(cell) for cell in mine}
    graded = {grade_id_of(cell): cell for cell in released.cells}
    texts = {cell_hash(cell): cell for cell in released.cells}
    heirs = _heirs(origin, released)
    cells = []
    for cell in old.cells:
        name, text = grade_id_of(cell), cell_hash(cell)
        if name is None and text in texts:
            cells.append(texts[text])
        elif not origin.wrote(cell):
            cells += [cell] if _text(cell) and not _is_experiment(cell) else []
        elif name not in answered or name is None:  # the course's: its heir marks the place of what the learner wrote after it
            heir = heirs.get(text) if name is None else graded.get(name)
            cells += [heir] if heir else []
    new, _ = place_answers(NotebookNode(cells=cells), released)
    carried = set(map(_text, new.cells))
    return new, [cell for cell in mine if _text(cell) not in carried]


def _with_changes(mine: list[NotebookNode], origin: Origin, released: NotebookNode) -> NotebookNode:
    """A release with the learner's text in cells that the learner has changed and the course has not; answers are not meant."""
    changed = {cell.id: cell for cell in mine if not grade_id_of(cell)}
    new = deepcopy(released)
    for cell in new.cells:
        if cell.id in changed and not grade_id_of(cell) and origin.cells.get(cell.id) == cell_hash(cell):
            cell.source = changed[cell.id].source
    return new


def _make(copy: Path, release: Path, source: Path) -> str:
    """Make the copy of the release or, if somebody has worked there, of their work."""
    found = _read(release)
    released = released_notebook(source) if source.is_file() else None
    if holds_work(found) or (released and _has_answers(found, released)):
        taken = _hash(release.read_bytes())
        origin = Origin.of(released, taken) if released else Origin("", {}, taken)
        _write(copy, _as_bytes(origin.written_in(found)))
        told = f"somebody has worked in {_name(release)}: that is copied to {_name(copy)}, to go on there"
        return f"{told} (git checkout {_name(release)} makes it the release again)"
    _write(copy, _as_bytes(Origin.of(found).written_in(found)))
    return f"copied to {_name(copy)}"


def _renew(copy: Path, release: Path, today: date) -> list[str]:
    """Put the copy on the release, if that is another one now."""
    old, released = _read(copy), _read(release)
    origin = Origin.read(old)
    is_on_it = _has_all(old, released) if origin.release is None else origin.release == release_hash(released)
    if is_on_it or origin.taken == _hash(release.read_bytes()):
        return []
    if holds_work(released):
        raise _Left(f"somebody has worked in {_name(release)}, which is not looked at; {_name(copy)} is yours")
    if list(map(cell_hash, old.cells)) == list(origin.cells.values()):
        _write(copy, _as_bytes(Origin.of(released).written_in(released)))
        return [f"{_name(copy)} is the corrected notebook now; you had not changed the one before"]
    new, left = carry_over(old, origin, released)
    kept = _keep(copy, today)
    _write(copy, _as_bytes(Origin.of(released).written_in(new)))
    answers = [cell for cell in _written_in(new, Origin.of(released)) if _is_answer(cell)]
    with_answers = f", with your {len(answers)} answer{'s' * (len(answers) > 1)}" if answers else ""
    said = [f"{_name(copy)} is the corrected notebook now{with_answers}; the one before is kept as {kept.name}"]
    said += [f"not on the new one: {_listed(left, released)}"] if left else []
    if beside := _changed_by_both(old, origin, new):
        said.append(f"changed by you and by the course: {len(beside)} cell{'s' * (len(beside) > 1)}; yours stand above")
    if reworded := _reworded(answers, origin, released):
        said.append(f"the course has changed {', '.join(reworded)}: compare your answer with {_name(release)}")
    said += [f"{_exercise(cell)} is gone from the unit, your answer is kept as code" for cell in _orphans(old, origin, new)]
    return said


def _written_in(notebook: NotebookNode, origin: Origin) -> list[NotebookNode]:
    """The cells that are the learner's."""
    return [cell for cell in notebook.cells if _text(cell) and not origin.wrote(cell)]


def _changed_by_both(old: NotebookNode, origin: Origin, new: NotebookNode) -> list[NotebookNode]:
    """Code cells of the release that the learner has changed, and that are on the new one as cells of their own."""
    extras = {_text(cell) for cell in new.cells if cell.id.startswith("extra-")}
    mine = [cell for cell in _written_in(old, origin) if cell.id in origin.cells and not grade_id_of(cell)]
    return [cell for cell in mine if _text(cell) in extras]


def _reworded(answers: list[NotebookNode], origin: Origin, released: NotebookNode) -> list[str]:
    """Exercises with an answer whose stub, which has the docstring, is another one than it was."""
    stubs = {grade_id_of(cell): cell for cell in released.cells if _is_answer(cell)}
    answered = set(map(grade_id_of, answers)) & set(origin.cells)
    return [_exercise(stub) for name, stub in stubs.items() if name in answered and origin.cells[name] != cell_hash(stub)]


def _heirs(origin: Origin, released: NotebookNode) -> dict[str, NotebookNode]:
    """For texts of the old release, the cell of the new one that has the same text or else stands in the same place."""
    cells, before, texts = released.cells, list(origin.cells.values()), list(map(cell_hash, released.cells))
    heirs = {}
    for what, i, i_end, j, j_end in SequenceMatcher(None, before, texts, autojunk=False).get_opcodes():
        if what == "replace":
            heirs |= zip(before[i:i_end], cells[j:j_end], strict=False)
    return {text: cell for text, cell in heirs.items() if not grade_id_of(cell)} | dict(zip(texts, cells, strict=True))


def _has_answers(notebook: NotebookNode, released: NotebookNode) -> bool:
    """Whether an answer is no longer the stub, though nothing may have been run."""
    stubs = {grade_id_of(cell): _text(cell) for cell in released.cells if _is_answer(cell)}
    return any(_text(cell) != stubs.get(grade_id_of(cell), _text(cell)) for cell in notebook.cells)


def _has_all(notebook: NotebookNode, released: NotebookNode) -> bool:
    """Whether a notebook has every cell of a release: what an editor leaves to go by that has dropped the origin."""
    there = {grade_id_of(cell) or cell_hash(cell) for cell in notebook.cells}
    return all((grade_id_of(cell) or cell_hash(cell)) in there for cell in released.cells)


def _listed(cells: list[NotebookNode], released: NotebookNode) -> str:
    """What a learner's cells are: notes and experiments by their number, the others by exercise."""
    graded = {grade_id_of(cell): cell for cell in released.cells if grade_id_of(cell)}
    named = [cell for cell in cells if grade_id_of(cell) in graded]
    notes = sum(1 for cell in cells if cell not in named and cell.cell_type != "code")
    counts = {"note": notes, "changed experiment": len(cells) - len(named) - notes}
    listed = [f"{n} {what}{'s' * (n > 1)}" for what, n in counts.items() if n]
    for cell in named:
        is_answer = _is_answer(graded[grade_id_of(cell)])
        listed.append(f"{'another answer to' if is_answer else 'what you changed in the check of'} {_exercise(cell)}")
    return ", ".join(listed)


def _orphans(old: NotebookNode, origin: Origin, new: NotebookNode) -> list[NotebookNode]:
    """The learner's answers that were carried over, but not as answers: the new release does not have their exercise."""
    names = set(map(grade_id_of, new.cells))
    extras = {_text(cell) for cell in new.cells if not grade_id_of(cell)}
    answers = [cell for cell in _written_in(old, origin) if _is_answer(cell)]
    return [cell for cell in answers if grade_id_of(cell) not in names and _text(cell) in extras]


def _copy_other_files(release: Path, copy: Path) -> list[str]:
    """Copy what else is in the release's folder and not in the copy's."""
    copied = []
    for path in sorted(release.parent.rglob("*")):
        name = path.relative_to(release.parent)
        target = copy.parent / name
        if path != release and path.is_file() and not IGNORED & set(name.parts) and not os.path.lexists(target):
            _write(target, path.read_bytes())
            copied.append(str(name))
    return [f"copied, too: {', '.join(copied)}"] if copied else []


def _keep(copy: Path, today: date) -> Path:
    """Keep a notebook beside itself, under a name that is free."""
    data = copy.read_bytes()
    for n in count(1):
        kept = copy.with_name(f"{copy.stem}.before-{today}{f'-{n}' * (n > 1)}{copy.suffix}")
        if not os.path.lexists(kept):
            _write(kept, data)
            return kept
        if kept.is_file() and kept.read_bytes() == data:  # by a run that was stopped right after it
            return kept


def _read(path: Path) -> NotebookNode:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise _Left(f"{_name(path)} is missing") from None
    except OSError as error:
        raise _Left(f"{_name(path)} cannot be read: {error.strerror}") from None
    reading = read_notebook(data)
    if reading.notes:
        wrong = f"{_name(path)} is damaged and left as it is ({'; '.join(reading.notes)})"
        raise _Left(f"{wrong}; {'rename it' if WORK in path.parts[-3:] else f'git checkout {_name(path)}'} and run this again")
    notebook = nbformat.v4.reads(data.decode())
    for cell in notebook.cells:
        cell.setdefault("metadata", NotebookNode())
    return notebook


def _as_bytes(notebook: NotebookNode) -> bytes:
    return f"{nbformat.v4.writes(notebook)}\n".encode()


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _text(cell: NotebookNode) -> str:
    return (clean_text(cell.source) or "").strip()


def _is_answer(cell: NotebookNode) -> bool:
    return grade_id_of(cell) is not None and not cell.metadata.nbgrader.get("grade")


def _is_experiment(cell: NotebookNode) -> bool:
    tags = cell.metadata.get("tags")
    return isinstance(tags, list) and EXPERIMENT in tags


def _exercise(cell: NotebookNode) -> str:
    """The id of a cell's exercise, as `check` knows it."""
    return grade_id_of(cell).removesuffix("-check").replace("-", ".", 1)


def _name(notebook: Path) -> str:
    return "/".join(notebook.parts[-3:])
