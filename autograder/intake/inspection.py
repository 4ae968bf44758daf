"""Says what of a submission's folder can be handed on: which notebook counts, which files beside it, and why the rest does not.

A notebook of the right name comes first. One without answers gives way to one that has some; and where a folder has none, one
is looked for in its zips.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path, PurePosixPath

import nbformat

from autograder.intake.archives import NotAZip, members
from autograder.intake.cells import Release, read_cells
from autograder.intake.folders import IGNORED, NOTEBOOK, Parts, Refused, has_odd_letters, listing, may_act, read_file, shown
from autograder.intake.reading import DECODER, Caps, read_notebook

ANSWERED, RELEASED, OTHER = 2, 1, 0  # what a notebook is: one of the unit with something done in it, without, or another one


@dataclass
class Finding:
    """What of a submission's folder can be handed on."""

    notebook: bytes | None = None  # one that nbgrader reads; None: there is nothing to grade
    modified: int | None = None  # when its file was, in nanoseconds since 1970
    extras: list[Parts] = field(default_factory=list)  # other files
    unpacked: dict[Parts, bytes] = field(default_factory=dict)  # other files from the zip that the notebook was in
    notes: list[str] = field(default_factory=list)
    is_fine: bool = False  # the folder can stay as it is


@dataclass(frozen=True)
class _Candidate:
    """A file that may be the notebook that counts."""

    path: Parts  # in the submission's folder
    inside: Parts = ()  # in the zip at `path`
    data: bytes | None = None  # what of it is to be graded
    notes: tuple[str, ...] = ()
    modified: int = 0
    is_whole: bool = False  # whether the file was as it should be
    kind: int = OTHER

    @property
    def name(self) -> str:
        return f"{shown(*self.inside)} in {shown(*self.path)}" if self.inside else shown(*self.path)


@dataclass
class _Search:
    """Looks for the notebook that counts."""

    base: Path
    folder: Parts
    canonical: str
    released: bytes
    caps: Caps
    files: dict[Parts, os.stat_result]
    made: str | None

    def __post_init__(self) -> None:
        self.right = (self.canonical,)
        self.others = sorted(filter(self.is_notebook, self.files), key=self.unlikeness)
        self.zips: dict[Parts, dict[Parts, bytes]] = {}  # those that were opened
        self.notes: list[str] = []  # on what could not be read
        self.why = "missing or cannot be read"

    def is_notebook(self, path: Parts) -> bool:
        return bool(NOTEBOOK.search(path[-1])) and path != self.right and not IGNORED & set(path)

    def unlikeness(self, path: Parts) -> tuple:
        wanted, stem = PurePosixPath(self.canonical).stem.lower(), NOTEBOOK.sub("", path[-1]).lower()
        ratio = SequenceMatcher(None, wanted, stem, autojunk=False).ratio()
        return len(path), -ratio, -self.files[path].st_mtime_ns if path in self.files else 0

    def best(self) -> _Candidate | None:
        """Of all candidates in their order, the first of the best kind."""
        found: list[_Candidate] = []
        for candidate in self.candidates():
            if candidate.data is None:
                self.notes += candidate.notes if not found else ()
                continue
            if candidate.path == self.right:
                self.why = "another notebook" if candidate.kind == OTHER else "without answers"
            found.append(candidate)
            if candidate.kind == ANSWERED:
                break
        return max(found, key=lambda candidate: candidate.kind, default=None)

    def candidates(self) -> Iterator[_Candidate]:
        """The notebook of the right name, those of others, and those in zips; each is read when it is asked for."""
        others = self.others[: self.caps.attempts]
        if os.path.lexists(self.base.joinpath(*self.folder, self.canonical)):  # the listing may have stopped before it
            right = self.read(self.right)
            if right.data is not None and hashlib.sha256(right.data).hexdigest() == self.made:
                likely = [path for path in others if PurePosixPath(self.canonical).stem.lower() in path[-1].lower()]
                others = [path for path in others if path not in likely]
                for candidate in map(self.read, likely):
                    self.why = "what an earlier submission was made into"
                    yield candidate
            yield right
        yield from map(self.read, others)
        zips = [path for path in self.files if path[-1].lower().endswith(".zip") and not IGNORED & set(path)]
        for path in sorted(zips, key=self.unlikeness)[: self.caps.attempts]:
            yield from self.unpacked(path)
        texts = [path for path in self.files if path[-1].lower().endswith((".json", ".txt")) and path not in self.others]
        yield from (found for path in sorted(texts, key=self.unlikeness)[: self.caps.attempts] for found in self.hidden(path))

    def read(self, path: Parts) -> _Candidate:
        try:
            data, status = read_file(self.base, (*self.folder, *path), self.caps.notebook)
        except Refused as problem:
            return _Candidate(path, notes=(f"{shown(*path)} was refused: it is {problem}",))
        return self.candidate(data, status.st_mtime_ns, path)

    def candidate(self, data: bytes, modified: int, path: Parts, inside: Parts = ()) -> _Candidate:
        if data == self.released:
            return _Candidate(path, inside, data, (), modified, True, RELEASED)
        reading = read_notebook(data, self.caps)
        kind = kind_of(reading.data, self.released) if reading.data is not None else OTHER
        return _Candidate(path, inside, reading.data, tuple(reading.notes), modified, reading.data == data, kind)

    def hidden(self, path: Parts) -> Iterator[_Candidate]:
        """The notebook that a file with a name of another kind is, if it is one."""
        found = self.read(path)
        if found.data is not None and found.kind != OTHER:
            yield found

    def unpacked(self, path: Parts) -> Iterator[_Candidate]:
        """The notebooks in a zip."""
        try:
            data, status = read_file(self.base, (*self.folder, *path), self.caps.file)
            self.zips[path] = members(data, self.caps)
        except (Refused, NotAZip) as problem:
            yield _Candidate(path, notes=(f"{shown(*path)} was not opened: it is {problem}",))
            return
        for inside in sorted(filter(self.is_notebook_inside, self.zips[path]), key=self.unlikeness)[: self.caps.attempts]:
            yield self.candidate(self.zips[path][inside], status.st_mtime_ns, path, inside)

    def is_notebook_inside(self, path: Parts) -> bool:
        return self.is_notebook(path) or path == self.right


def inspect(
    base: Path,
    folder: Parts,
    canonical: str,
    released: bytes,
    caps: Caps,
    made: str | None = None,
    ours: Mapping[str, bytes] | None = None,
) -> Finding:
    """What of a submission can be handed on, and what is wrong with it.

    Args:
        base: a folder of ours.
        folder: the submission's, below it.
        canonical: the name that the notebook must have.
        released: the notebook as students got it.
        caps: how much may be in the folder.
        made: SHA-256 of the notebook that intake itself put there; one handed in later under a similar name comes before it.
        ours: what the course hands out beside the notebook, by name: figures. Who hands in a whole folder brings them along.

    Returns:
        The finding; nothing was changed.
    """
    try:
        files, refused, is_full = listing(base, folder, caps)
    except Refused as problem:
        return Finding(notes=[f"the submission's folder was refused: it is {problem}"])
    search = _Search(base, folder, canonical, released, caps, files, made)
    taken, right = search.best(), (canonical,)
    refused.pop(right, None)  # told already
    for name, content in (ours or {}).items():
        if (name,) in refused and _holds(base, (*folder, name), content):
            del refused[name,]
    found = Finding(notes=search.notes)
    if taken:
        found.notebook, found.modified = taken.data, taken.modified
        found.notes += taken.notes
        if (taken.path, taken.inside) != (right, ()):
            found.notes.append(f"{taken.name} was taken as {canonical}, which is {search.why}")
    else:
        found.notes = found.notes or [f"the submission holds no notebook {canonical}"]

    room = caps.total - len(found.notebook or b"")
    for path in sorted(files, key=lambda path: (files[path].st_size, path)):
        is_notebook = NOTEBOOK.search(path[-1]) or (taken and path == taken.path)
        if is_notebook or path[-1].endswith(".pyc") or IGNORED & set(path):
            continue
        room -= files[path].st_size
        problem = f"beyond {caps.total / 1e6:g} MB in all" if room < 0 else None
        if path == ("timestamp.txt",):
            problem = problem or _wrong_time(base, (*folder, *path))
        if problem:
            refused[path] = problem
        elif not is_full:
            found.extras.append(path)
    if found.notebook is None:
        found.extras = []  # nobody needs them beside the released notebook
    elif taken.inside:
        content = search.zips[taken.path]
        found.unpacked = _beside(content, taken.inside, found.extras, caps)
        if left := len(content) - 1 - len(found.unpacked):
            found.notes.append(f"left out: {left} of the files in {shown(*taken.path)}")
    if is_full:
        found.notes.append(f"the submission holds more than {caps.files} files and folders; only its notebook was taken")
    if refused:
        found.notes.append("left out: " + _some([f"{shown(*path)} ({problem})" for path, problem in refused.items()]))
    if others := [path for path in search.others if taken is None or path != taken.path]:
        found.notes.append(f"{_some([shown(*path) for path in others])} not graded: only {canonical} is")
    is_as_it_lies = taken is not None and taken.path == right and taken.is_whole
    found.is_fine = is_as_it_lies and not refused and not is_full
    return found


def _holds(base: Path, path: Parts, content: bytes) -> bool:
    """Whether a file is what the course handed out."""
    try:
        return read_file(base, path, len(content))[0] == content
    except Refused:
        return False


def kind_of(notebook: bytes, released: bytes) -> int:
    """What a notebook is to a unit.

    Args:
        notebook: one that can be read.
        released: the unit's, as students got it.

    Returns:
        `ANSWERED`, `RELEASED` or `OTHER`; the first if nobody can tell.
    """
    release = _release(released)
    if release is None:
        return ANSWERED
    cells = [cell for cell in read_cells(DECODER.decode(notebook.decode("utf-8-sig")), release) if cell.kind == "code"]
    if any(cell.is_own for cell in cells):
        return ANSWERED if any(cell.home is not None for cell in cells) or not release.answers else OTHER
    return RELEASED


@lru_cache(maxsize=32)
def _release(released: bytes) -> Release | None:
    try:
        return Release(nbformat.reads(released.decode(), as_version=4))
    except Exception:  # no notebook
        return None


def _beside(content: dict[Parts, bytes], notebook: Parts, extras: list[Parts], caps: Caps) -> dict[Parts, bytes]:
    """What of a zip lies beside the notebook in it, and may be handed on."""
    where, room, beside = notebook[:-1], caps.total, {}
    taken = {path[0] for path in extras} | {"timestamp.txt"}  # no student's word goes before the time that is known
    for path in sorted(content, key=lambda path: len(content[path])):
        name, room = path[len(where) :], room - len(content[path])
        is_near = path[: len(where)] == where and name[0] not in taken and not IGNORED & set(name)
        is_file = not NOTEBOOK.search(name[-1]) and not may_act(name, False) and not any(map(has_odd_letters, name))
        if is_near and is_file and len(content[path]) <= caps.file and len(name) <= caps.folders and room >= 0:
            beside[name] = content[path]
    return beside


def _wrong_time(base: Path, path: Parts) -> str | None:
    from nbgrader.utils import parse_utc  # nbgrader's pages for the whole class fail at a time that this cannot read

    try:
        text = read_file(base, path, 100)[0].decode()
        time = parse_utc(text.strip())
    except Exception:  # dateutil raises all kinds
        return "no time can be read from it"
    tomorrow = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
    is_possible = re.search(r"\d{4}", text) and datetime(2000, 1, 1) < time < tomorrow
    return None if is_possible else "a time before 2000 or in the future"


def _some(texts: list[str]) -> str:
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
