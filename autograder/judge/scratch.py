"""Folders of a run in the temporary directory; what a killed run has left there goes with the next one."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from multiprocessing.util import Finalize
from pathlib import Path

PREFIX = "autograder-"
LOCKED = ".locked"  # in a folder whose process holds the lock, or is dead
FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC  # no other program inherits the lock


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder in the temporary directory that nobody else may enter, for as long as it is used."""
    remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    descriptor = os.open(folder, FLAGS)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # released by a kill
        (folder / LOCKED).touch()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Let temporary files of this process, and of those that it starts, lie in one private folder, which goes when it ends."""
    before, said = tempfile.tempdir, os.environ.get("TMPDIR")
    folder = _of_process(os.getpid())
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        os.environ.pop("TMPDIR") if said is None else os.environ.update(TMPDIR=said)


@lru_cache(1)
def _of_process(number: int) -> Path:
    """The folder of this process. multiprocessing remembers one in it until its own end, which comes at priority -100."""
    resources = ExitStack()
    Finalize(None, resources.close, exitpriority=-200)
    return resources.enter_context(private_folder())


def remove_leftovers() -> None:
    """Remove private folders of this user's whose process is gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            descriptor = os.open(folder, FLAGS)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process lives
                if os.fstat(descriptor).st_uid == os.geteuid() and (folder / LOCKED).exists():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
