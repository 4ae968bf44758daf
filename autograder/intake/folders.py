"""Looks into a folder that anybody may have filled, and says what of it can be handed on.

Only plain files are ever read. Each path is opened folder by folder, no step following a link or waiting for a FIFO, and what a
file is gets asked of the opened file: nothing can be swapped in between.
"""

import errno
import hashlib
import os
import re
import stat
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from difflib import SequenceMatcher
from pathlib import Path, PurePosixPath

from autograder.intake.reading import Caps, read_notebook

Parts = tuple[str, ...]  # a path, name by name
IGNORED = {".ipynb_checkpoints", "__pycache__"}  # what nbgrader does not copy either
FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
REASONS = {errno.ELOOP: "a link", errno.ENOTDIR: "not a folder", errno.ENXIO: "a socket or a device", errno.ENOENT: "missing"}

# Of a submission's files only kinds that are known to be dead are handed on: nbgrader puts them beside its feedback, and a web
# server may show that to others.
DEAD = frozenset(
    ".bin .ckpt .csv .dat .gif .gz .h5 .ipynb .jpeg .jpg .json .jsonl .log .md .npy .npz .parquet .pdf .pickle .pkl .png .pt "  # noqa: SIM905
    ".pth .py .pyc .safetensors .tar .toml .tsv .txt .webp .yaml .yml .zip".split()
)
ALIVE = re.compile(r"\.(php\d?|phtml|phar|f?cgi|pl|s?html?|xhtml|asp|aspx|jsp)(\.|$)")  # some servers look inside a name too


class Refused(Exception):
    """Why a file is not read, as a noun phrase."""


@dataclass
class Finding:
    """What of a submission's folder can be handed on."""

    notebook: bytes | None = None  # one that nbgrader reads; None: there is nothing to grade
    modified: int | None = None  # when its file was, in nanoseconds since 1970
    extras: list[Parts] = field(default_factory=list)  # other files
    notes: list[str] = field(default_factory=list)
    is_fine: bool = False  # the folder can stay as it is


def inspect(base: Path, folder: Parts, canonical: str, released: bytes, caps: Caps, made: str | None = None) -> Finding:
    """What of a submission can be handed on, and what is wrong with it.

    Args:
        base: a folder of ours.
        folder: the submission's, below it.
        canonical: the name that the notebook must have.
        released: the notebook as students got it.
        caps: how much may be in the folder.
        made: SHA-256 of the notebook that intake itself put there; one handed in later under a similar name comes before it.

    Returns:
        The finding; nothing was changed.
    """
    try:
        files, refused, is_full = listing(base, folder, caps)
    except Refused as problem:
        return Finding(notes=[f"the submission's folder was refused: it is {problem}"])
    found = Finding()
    is_renamed, others = _find_notebook(found, base, folder, canonical, released, caps, files, made)
    refused.pop((canonical,), None)  # told already

    room = caps.total - len(found.notebook or b"")
    for path in sorted(files, key=lambda path: (files[path].st_size, path)):
        if path[-1].endswith((".ipynb", ".pyc")) or IGNORED & set(path):
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
    if is_full:
        found.notes.append(f"the submission holds more than {caps.files} files and folders; only its notebook was taken")
    if refused:
        found.notes.append("left out: " + _some([f"{shown(*path)} ({problem})" for path, problem in refused.items()]))
    if others:
        found.notes.append(f"{_some([shown(*path) for path in others])} not graded: only {canonical} is")
    found.is_fine = found.notebook is not None and not is_renamed and not refused and not is_full
    return found


def _find_notebook(
    found: Finding, base: Path, folder: Parts, canonical: str, released: bytes, caps: Caps, files: dict, made: str | None
) -> tuple[bool, list[Parts]]:
    """Put the notebook into a finding: the one of the right name, else the most similar name; of equals, the newest.

    Returns whether it is anything else than the file of the right name as it lies there, and the paths of other notebooks.
    """
    wanted = PurePosixPath(canonical).stem.lower()

    def unlikeness(path: Parts) -> tuple:
        ratio = SequenceMatcher(None, wanted, PurePosixPath(path[-1]).stem.lower(), autojunk=False).ratio()
        return len(path), -ratio, -files[path].st_mtime_ns

    right = (canonical,)
    others = [path for path in files if path[-1].endswith(".ipynb") and path != right and not IGNORED & set(path)]
    others.sort(key=unlikeness)
    is_there = os.path.lexists(base.joinpath(*folder, canonical))  # the listing may have stopped before it
    others_tried, before, why = others[: caps.attempts], [], "missing or cannot be read"
    with suppress(Refused):
        data = read_file(base, (*folder, *right), caps.notebook)[0]
        if data == released:
            before, why = others_tried, "as released"
        elif hashlib.sha256(data).hexdigest() == made:
            before = [path for path in others_tried if wanted in path[-1].lower()]
            why = "what an earlier submission was made into"
    for path in dict.fromkeys([*before, *([right] if is_there else []), *others_tried]):
        try:
            data, status = read_file(base, (*folder, *path), caps.notebook)
        except Refused as problem:
            found.notes.append(f"{shown(*path)} was refused: it is {problem}")
            continue
        if data == released:
            found.notebook = data
        else:
            reading = read_notebook(data, caps)
            found.notes += reading.notes
            found.notebook = reading.data
        if found.notebook is None:
            continue
        found.modified = status.st_mtime_ns
        if path != right:
            others.remove(path)
            found.notes.append(f"{shown(*path)} was taken as {canonical}, which is {why}")
        return path != right or found.notebook != data, others
    found.notes = found.notes or [f"the submission holds no notebook {canonical}"]
    return False, others


def _may_act(path: Parts, is_folder: bool) -> bool:
    """Whether a web server or a browser might do more with a file than to save or show it."""
    if IGNORED & set(path):  # not handed on
        return False
    name = path[-1].lower()
    return bool(ALIVE.search(name)) or (not is_folder and PurePosixPath(name).suffix not in DEAD)


def listing(base: Path, folder: Parts, caps: Caps) -> tuple[dict[Parts, os.stat_result], dict[Parts, str], bool]:
    """All files in a folder and the folders in it.

    Args:
        base: a folder of ours.
        folder: names below it, each of which may be anything.
        caps: after how many entries, and how deep, to stop looking.

    Returns:
        Plain files within the caps; why others were refused; and whether there is more than `caps.files`.

    Raises:
        Refused: `folder` is no folder.
    """
    files, refused, waiting, count = {}, {}, [()], 0
    while waiting:
        above = waiting.pop()
        descriptor = _open(base, (*folder, *above), os.O_DIRECTORY)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    count += 1
                    if count > caps.files:
                        return files, refused, True
                    path = (*above, entry.name)
                    is_notebook = entry.name.endswith(".ipynb")
                    try:
                        if has_odd_letters(entry.name):
                            raise Refused("a name with letters that cannot be shown")
                        is_folder = entry.is_dir(follow_symlinks=False)
                        if _may_act(path, is_folder):
                            raise Refused("of a kind that may act as a page; nbgrader puts it beside its feedback")
                        if not is_folder or path == ("timestamp.txt",) or is_notebook:
                            with _opened(base, (*folder, *path), caps.notebook if is_notebook else caps.file) as file:
                                files[path] = os.fstat(file.fileno())
                        elif len(path) > caps.folders:
                            raise Refused("too many folders deep")
                        else:
                            os.close(_open(base, (*folder, *path), os.O_DIRECTORY))  # refused now if it cannot be listed
                            waiting.append(path)
                    except Refused as problem:
                        refused[path] = str(problem)
        finally:
            os.close(descriptor)
    return files, refused, False


def read_file(base: Path, path: Parts, limit: int) -> tuple[bytes, os.stat_result]:
    """Read a plain file.

    Args:
        base: a folder of ours.
        path: names below it, each of which may be anything.
        limit: bytes it may hold.

    Returns:
        What it holds and its status.

    Raises:
        Refused: it is no plain file, has a second name (a hard link), or is over the limit.
    """
    with _opened(base, path, limit) as file:
        data = file.read(limit + 1)
        if len(data) > limit:
            raise Refused("growing while it is read")
        return data, os.fstat(file.fileno())


def _opened(base: Path, path: Parts, limit: int):
    descriptor = _open(base, path)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        problem = "a FIFO" if stat.S_ISFIFO(status.st_mode) else "not a file"
    elif status.st_nlink > 1:
        problem = "a hard link: another name of another file"
    elif status.st_size > limit:
        problem = f"{status.st_size / 1e6:.3g} MB, more than the {limit / 1e6:g} MB allowed"
    else:
        return open(descriptor, "rb")
    os.close(descriptor)
    raise Refused(problem)


def _open(base: Path, path: Parts, flags: int = 0) -> int:
    above = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for i, name in enumerate(path):
        is_last = i == len(path) - 1
        try:
            below = os.open(name, FLAGS | (flags if is_last else os.O_DIRECTORY), dir_fd=above)
        except OSError as error:
            is_link = os.path.islink(base.joinpath(*path[: i + 1]))  # for links to folders, Linux says "not a folder"
            raise Refused("a link" if is_link else REASONS.get(error.errno, "not readable")) from None
        finally:
            os.close(above)
        above = below
    return above


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


def has_odd_letters(name: str) -> bool:
    """Whether a name holds control characters, ones that change the direction of text, or bytes that are not UTF-8."""
    return any(unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for letter in name)


def shown(*path: str) -> str:
    """A path as a note may show it: short, and nothing in it that a page or a terminal could take for more than text."""
    text = "".join(letter if letter.isalnum() or letter in " ._-+=()/," else "?" for letter in "/".join(path))
    return text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}"


def _some(texts: list[str]) -> str:
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
