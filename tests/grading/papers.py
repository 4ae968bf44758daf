"""What a submission of the attack suite is made of: a registry, and the paper that each one writes on.

    @submission("always-equal objects", points=8, says="an object of type Yes")
    def _(paper):
        paper.answer("prune", '''...''')

A paper starts as an ordinary, honest one: the released notebook with the right answers to four exercises, worth `HONEST`
points, and two that were not begun. An attack replaces some of them; if it succeeded, it would show as other points.
"""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

from autograder.lessons.layout import notebook_path, with_stubs, without_outputs

UNIT = "02_magnitude"
NOTEBOOK = notebook_path(Path(), UNIT).name
POINTS = {"sparsity": 2, "prune": 4, "global": 3, "masked_step": 4, "schedule": 3, "iterative": 4}
ANSWERED = ("sparsity", "prune", "global", "schedule")
HONEST = sum(POINTS[name] for name in ANSWERED)  # 12
PRUNED_NOTHING = "✗ magnitude.prune - Prune one matrix by magnitude: 0 of 4 points"
SHAM = {  # answers that are wrong in every case
    "sparsity": "def weight_sparsity(model):\n    return 2.0",
    "prune": "def magnitude_prune(W, sparsity):\n    return W + 1",
    "global": "def global_masks(weights, sparsity):\n    return {}",
    "schedule": "def cubic_sparsity(step, start, end, final, initial=0.0):\n    return 2.0",
}


@dataclass(frozen=True)
class Submission:
    """One submission, and what has to become of it."""

    name: str
    points: float  # in nbgrader's gradebook
    says: tuple[str, ...]  # parts of what is told: in notes, flags, verdicts, or on the feedback page
    write: Callable[["Paper"], None]
    folder: str  # its name as it was handed in
    student: str  # the id in the gradebook
    hangs: bool  # whether it uses up its time


REGISTRY: list[Submission] = []


def submission(name: str, points: float, says=(), folder: str = "", student: str = "", hangs: bool = False) -> Callable:
    """Declare a submission; decorates what writes it.

    Args:
        name: what it is, in words.
        points: what nbgrader's gradebook must hold in the end.
        says: what must be told of it in the report or the feedback: a text, or several.
        folder: the name of the student's folder, if it is part of the attack.
        student: the id that such a student must have in the gradebook.
        hangs: whether it uses up the time that it has, of which it then gets little.
    """

    def declare(write: Callable) -> Callable:
        id = re.sub(r"\W+", "-", name).strip("-").lower()
        texts = (says,) if isinstance(says, str) else tuple(says)
        REGISTRY.append(Submission(name, points, texts, write, folder or id, student or folder or id, hangs))
        return write

    return declare


class Paper:
    """A submission while it is written.

    In all code and text, ROOT stands for the course folder, PORT for that of a service on this machine, and TOKEN for a word by
    which processes of the run can be found.
    """

    def __init__(self, root: Path, student: str, words: dict[str, str]) -> None:
        self.root, self.words = root, words
        self.folder = root / "grading" / "submitted" / student / UNIT
        solved = nbformat.read(notebook_path(root / "solutions", UNIT), as_version=4)
        self.solutions = {cell.id: _unmarked(cell.source) for cell in solved.cells}
        self.notebook = without_outputs(with_stubs(solved))
        self.released = {cell.id: cell.source for cell in self.notebook.cells}
        self.data: bytes | None = None  # of the notebook's file, if it is not simply `notebook`
        self.name = NOTEBOOK
        self.honest(*ANSWERED)

    def cell(self, id: str) -> nbformat.NotebookNode:
        """A cell by the name of its exercise ("prune"), that of its check ("prune-check"), or its id."""
        return next(cell for cell in self.notebook.cells if cell.id in (id, f"magnitude-{id}"))

    def at(self, id: str) -> int:
        """The position of a cell."""
        return self.notebook.cells.index(self.cell(id))

    def honest(self, *names: str) -> None:
        """Answer exercises rightly."""
        for name in names:
            self.cell(name).source = self.solutions[f"magnitude-{name}"]

    def sham(self, *names: str) -> None:
        """Answer exercises wrongly."""
        for name in names:
            self.cell(name).source = SHAM[name]

    def blank(self, *names: str) -> None:
        """Leave exercises as they were released."""
        for name in names:
            self.cell(name).source = self.released[f"magnitude-{name}"]

    def answer(self, name: str, source: str) -> None:
        """Answer an exercise so."""
        self.cell(name).source = dedent(source).strip()

    def first(self, source: str) -> None:
        """Add a code cell above all others."""
        self.notebook.cells.insert(0, new_code_cell(dedent(source).strip()))

    def after(self, id: str, source: str, text: bool = False) -> None:
        """Add a code cell, or one of text, after another."""
        new = new_markdown_cell if text else new_code_cell
        self.notebook.cells.insert(self.at(id) + 1, new(dedent(source).strip()))

    def file(self, name: str, content: bytes | str = "") -> Path:
        """Put a file beside the notebook."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else self._filled(dedent(content)).encode())
        return path

    def json(self) -> dict:
        """The notebook as it is in its file."""
        content = deepcopy(self.notebook)
        for cell in content.cells:
            cell.source = self._filled(cell.source).splitlines(keepends=True)
        return content

    def text(self) -> str:
        """The text of the notebook's file, as Jupyter writes it."""
        return json.dumps(self.json(), indent=1, ensure_ascii=False) + "\n"

    def save(self) -> None:
        """Write the notebook, unless something else lies in its place."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / self.name
        if self.name and not path.exists() and not path.is_symlink():
            path.write_bytes(self.text().encode() if self.data is None else self.data)

    def _filled(self, text: str) -> str:
        return re.sub(r"\b(ROOT|PORT|TOKEN)\b", lambda word: self.words[word[0]], text)


def _unmarked(source: str) -> str:
    return "\n".join(line for line in source.split("\n") if "### BEGIN" not in line and "### END" not in line)
