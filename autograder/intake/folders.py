"""Looks into a folder that anybody may have filled: which files are in it, and what is in a file.

Only plain files are ever read. Each path is opened folder by folder, no step following a link or waiting for a FIFO, and what a
file is gets asked of the opened file: nothing can be swapped in between.
"""

import errno
import os
import re
import stat
import unicodedata
from pathlib import Path, PurePosixPath

from autograder.intake.reading import Caps

Parts = tuple[str, ...]  # a path, name by name
IGNORED = {".ipynb_checkpoints", "__pycache__", "__MACOSX"}  # what nbgrader does not copy either, or macOS adds
NOTEBOOK = re.compile(r"\.ipynb(\.(txt|json))*$", re.IGNORECASE)  # browsers and mail programs add an ending
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


def may_act(path: Parts, is_folder: bool) -> bool:
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
                    is_notebook = bool(NOTEBOOK.search(entry.name))
                    try:
                        if has_odd_letters(entry.name):
                            raise Refused("a name with letters that cannot be shown")
                        is_folder = entry.is_dir(follow_symlinks=False)
                        if may_act(path, is_folder):
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


def has_odd_letters(name: str) -> bool:
    """Whether a name holds control characters, ones that change the direction of text, or bytes that are not UTF-8."""
    return any(unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for letter in name)


def shown(*path: str) -> str:
    """A path as a note may show it: short, and nothing in it that a page or a terminal could take for more than text."""
    text = "".join(letter if letter.isalnum() or letter in " ._-+=()/," else "?" for letter in "/".join(path))
    return text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}"
