"""The cells of a submission: which released cell each comes from, which exercise it answers, what belongs together.

A student sees one notebook, in which cells run one after the other. Editors split cells and paste them with their metadata, or
drop the metadata of all; people write an answer above its stub, below its check, or all of them in one cell. What they saw run
is what counts.
"""

from dataclasses import dataclass

from nbformat import NotebookNode

from autograder.intake.code import PIECES, bound, is_unwritten, joined, parsed, seems_to_define, used
from autograder.intake.reading import clean_text
from autograder.lessons.layout import EXPERIMENT

PARSED = 200_000  # characters of a submission that are looked at closely; in further cells, what seems to be so is believed


@dataclass(eq=False)
class Cell:
    """What of a submitted cell is looked at. Its source is all that can get into the rebuilt notebook."""

    kind: str
    source: str
    name: str | None  # the grade_id
    home: NotebookNode | None  # the released cell of the same id or text
    ran: int | None = None  # Jupyter's count when it was run last
    reach: int = -1  # the furthest released cell above it that is no answer
    ahead_of: str | None = None  # the released cell that it has to run before, wherever it stands

    @property
    def is_own(self) -> bool:
        """Whether it holds code that is not the course's; what somebody has changed in an experiment does not count."""
        if self.kind != "code" or not self.source.strip():
            return False
        is_experiment = self.home is not None and EXPERIMENT in self.home.metadata.get("tags", [])
        return self.home is None or (self.source.strip() != self.home.source.strip() and not is_experiment)


class Release:
    """The released notebook: its answers and checks by grade_id, and where they stand."""

    def __init__(self, notebook: NotebookNode) -> None:
        self.cells = notebook.cells
        self.order = {cell.id: i for i, cell in enumerate(self.cells)}
        graded = {grade_id_of(cell): cell for cell in self.cells if grade_id_of(cell)}
        self.checks = {name: cell for name, cell in graded.items() if cell.metadata.nbgrader.grade}
        self.answers = {name: cell for name, cell in graded.items() if name not in self.checks}
        self.first_code = next((i for i, cell in enumerate(self.cells) if cell.cell_type == "code"), 0)

    def check_of(self, answer: str) -> str | None:
        """The grade_id of the check that follows an answer."""
        after = self.order[self.answers[answer].id]
        return next((name for name, cell in self.checks.items() if self.order[cell.id] > after), None)

    def is_unwritten(self, cell: Cell) -> bool:
        """Whether a cell that has the name of an answer is none: empty, or still the stub."""
        return not cell.source.strip() or is_unwritten(cell.source, self.answers[cell.name].source)

    def stands_above(self, cell: Cell, answer: str) -> bool:
        """Whether a cell stands above the check of an answer."""
        check = self.checks.get(self.check_of(answer))
        return check is None or cell.reach < self.order[check.id]


def submitted_cells(notebook: NotebookNode, release: Release) -> tuple[list[Cell], list[str]]:
    """The cells of a submission, with the exercises that they answer.

    Args:
        notebook: a submission, whatever it holds.
        release: what it is put on.

    Returns:
        The cells in their order, those put together that only make sense together; and a sentence for each that was not simply
        what it said.
    """
    cells = read_cells(notebook, release)
    _name_by_home(cells)
    cells, repairs = _mended(cells, release)
    reach = -1
    for cell in cells:
        cell.reach = reach
        if cell.home is not None and grade_id_of(cell.home) not in release.answers:
            reach = max(reach, release.order[cell.home.id])
    repairs += _recognise(cells, release)
    for name in release.answers:
        _order(cells, name, release)
    return cells, repairs


def grade_id_of(cell: dict) -> str | None:
    """The grade_id in a cell's metadata, whatever these hold; None if there is none."""
    metadata = cell.get("metadata")
    nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    name = nbgrader.get("grade_id") if isinstance(nbgrader, dict) else None
    return name if isinstance(name, str) else None


def read_cells(notebook: NotebookNode, release: Release) -> list[Cell]:
    """The cells that hold text, with the released cells they come from. Nothing in the notebook has a type to rely on."""
    by_id = {cell.id: cell for cell in release.cells}
    by_name = release.answers | release.checks
    by_text = {(cell.cell_type, cell.source.strip()): cell for cell in release.cells}  # editors that drop ids keep the text
    read, cells = [], notebook.get("cells") if isinstance(notebook, dict) else None
    for cell in cells if isinstance(cells, list) else []:
        kind, source = (cell.get("cell_type"), clean_text(cell.get("source"))) if isinstance(cell, dict) else (None, None)
        if source is None or kind not in ("code", "markdown", "raw"):
            continue
        id, name, ran = cell.get("id"), grade_id_of(cell), cell.get("execution_count")
        home = by_name.get(name) or (by_id.get(id) if isinstance(id, str) else None) or by_text.get((kind, source.strip()))
        read.append(Cell(kind, source, name if name in by_name else None, home, ran if isinstance(ran, int) else None))
    return read


def _name_by_home(cells: list[Cell]) -> None:
    """Give back their grade_ids to cells that lost them, by id or text."""
    present = {cell.name for cell in cells}
    for cell in cells:
        name = grade_id_of(cell.home) if cell.name is None and cell.home is not None else None
        if name not in present:
            cell.name = name
            present.add(name)


def _mended(cells: list[Cell], release: Release) -> tuple[list[Cell], list[str]]:
    """The cells, those as one that were split in the middle of a function, and a sentence for each of these."""
    mended, repairs, room, at = [], [], PARSED, 0
    while at < len(cells):
        run = _run(cells, at, release)
        room -= sum(len(cell.source) for cell in run) if len(run) > 1 else 0
        is_split = len(run) > 1 and run[0].name is not None and run[0].name == run[1].name
        source, count = joined([cell.source for cell in run], is_split) if len(run) > 1 and room >= 0 else ("", 1)
        first = cells[at]
        if count > 1:
            name = next((cell.name for cell in run[:count] if cell.name), None)
            first = Cell("code", source, name, first.home, run[count - 1].ran)
            repairs.append(f"{name or 'code'} was split into {count} cells that make sense together only; it is one cell again")
        mended.append(first)
        at += count
    return mended, repairs


def _run(cells: list[Cell], at: int, release: Release) -> list[Cell]:
    """A cell, and what follows it directly that may have been part of it: cells of the same grade_id, or of none."""
    run = cells[at : at + 1]
    for cell in cells[at + 1 : at + 1 + PIECES]:
        names = {each.name for each in (*run, cell)} - {None}
        homes = [each.home for each in (*run, cell) if each.home is not None]
        may_be = all(each.kind == "code" for each in (*run, cell)) and all(
            grade_id_of(home) in release.answers for home in homes
        )
        if not may_be or len(names) > 1 or (len(run) > 1 and run[0].name == run[1].name != cell.name):
            break
        run.append(cell)
    return run


def _recognise(cells: list[Cell], release: Release) -> list[str]:
    """Find the answers that stand in other cells than their own: by what these define.

    A cell that an editor has robbed of its grade_id gets it back. One that stands below the check of what it answers, or above
    all of the course's code, gets that of the first exercise that it answers, and so its place. Any other stays where it is,
    above the check that needs it.

    Returns:
        A sentence for each.
    """
    present = {cell.name for cell in cells}
    answered = {cell.name for cell in cells if cell.name in release.answers and not release.is_unwritten(cell)}
    sought: dict[str, str] = {}  # grade_id by the name that its answer defines
    for name, stub in release.answers.items():
        sought = dict.fromkeys(seems_to_define(stub.source), name) | sought if name not in answered else sought
    repairs, room = [], PARSED
    for cell in sorted(cells, key=lambda cell: cell.kind != "code") if sought else []:  # text that is Python: if no code is
        is_free = cell.name is None and cell.home is None
        if not (is_free or (cell.is_own and cell.name not in release.checks)) or not sought.keys() & seems_to_define(
            cell.source
        ):
            continue
        room -= len(cell.source)
        found = {sought[name] for name in sought.keys() & _defines(cell, room >= 0)} - {cell.name}
        if not found:
            continue
        first = next(name for name in release.answers if name in found)
        is_lost, is_below = is_free and first not in present, not release.stands_above(cell, first)
        settled = {name for name in found if release.stands_above(cell, name)}
        if is_lost or is_below or (is_free and cell.reach < release.first_code):
            if is_below:
                _bring(cells, cell, first, release)
            if is_free:
                cell.name = first
            else:  # it runs in its own place too
                cells.append(Cell(cell.kind, cell.source, first, release.answers[first]))
            settled.add(first)
            what = "had lost its nbgrader metadata; it" if is_lost else "was answered in another cell; that"
            repairs.append(f"{first} {what} was recognised by what it defines")
        sought = {defined: name for defined, name in sought.items() if name not in settled}
    return repairs


def _bring(cells: list[Cell], moved: Cell, answer: str, release: Release) -> None:
    """Let what a cell uses of those around it, helpers and imports, run before it where it is moved to."""
    answers = {name for stub in release.answers.values() for name in seems_to_define(stub.source)}
    near = [cell for cell in cells if cell.is_own and cell.name is None and cell.home is None and cell is not moved]
    trees = {cell: parsed(cell.source) for cell in near if not release.stands_above(cell, answer)}
    trees = {cell: tree for cell, tree in trees.items() if tree is not None and not bound(tree) & answers}
    tree = parsed(moved.source)
    needed, more = used(tree) if tree is not None else set(), True
    while more:
        more = [cell for cell, tree in trees.items() if cell.ahead_of is None and bound(tree) & needed]
        for cell in more:
            cell.ahead_of = release.answers[answer].id
            needed |= used(trees[cell])


def _defines(cell: Cell, is_parsed: bool) -> set[str]:
    """The names that a cell defines at its top level; of code that is not Python or not parsed, those it seems to define."""
    tree = parsed(cell.source) if is_parsed else None
    if tree is not None:
        return bound(tree)
    return seems_to_define(cell.source) if cell.kind == "code" else set()


def _order(cells: list[Cell], answer: str, release: Release) -> None:
    """Let further cells of an answer run before its check that stand below it, but ran before, or are only helpers."""
    check = release.check_of(answer)
    counts = [cell.ran for cell in cells if cell.name == check and cell.ran]
    for cell in (cell for cell in cells if cell.name == answer and check):
        ran_before = bool(cell.ran and counts and cell.ran < max(counts))
        if not release.stands_above(cell, answer) and (ran_before or not _defines_answer(cell, release)):
            cell.ahead_of = release.checks[check].id


def _defines_answer(cell: Cell, release: Release) -> bool:
    return bool(seems_to_define(cell.source) & seems_to_define(release.answers[cell.name].source))


def chosen(copies: list[Cell], release: Release) -> Cell | None:
    """Of the cells with the name of one answer, the one that counts: the last that defines it above the check.

    Args:
        copies: cells of one name, in their order.
        release: the release.

    Returns:
        The cell; None if there is none. Where nothing above the check defines the answer, it is one below.
    """
    written = [cell for cell in copies if not release.is_unwritten(cell)]
    written = [cell for cell in written if cell.kind == "code"] or written
    defining = [cell for cell in written if _defines_answer(cell, release)]
    above = [cell for cell in defining if release.stands_above(cell, cell.name) or cell.ahead_of]
    return next((group[-1] for group in (above, defining, written) if group), copies[0] if copies else None)
