"""Temporary folders go with what made them, or with the next run."""

import os
import signal
import tempfile
import time

import pytest

from autograder.judge.scratch import PREFIX, private_folder, remove_leftovers, temporary_directory


@pytest.fixture(autouse=True)
def there(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def in_a_process(there):
    """A process that holds a folder, and another one in it, until it is killed."""
    child = os.fork()
    if not child:
        with temporary_directory() as folder, private_folder():
            (folder / "deep" / "er").mkdir(parents=True)
            (there / "ready").touch()
            time.sleep(60)
        os._exit(0)
    while not (there / "ready").exists():
        time.sleep(0.01)
    (there / "ready").unlink()
    return child


def kill(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_what_a_killed_run_left_goes_with_the_next(there):
    kill(in_a_process(there))
    assert len(list(there.iterdir())) == 1
    with private_folder() as folder:
        assert list(there.iterdir()) == [folder]
    assert list(there.iterdir()) == []


def test_folders_of_a_run_that_lives_stay(there):
    child = in_a_process(there)
    try:
        remove_leftovers()
        (folder,) = there.iterdir()
        assert (folder / "deep" / "er").is_dir()
    finally:
        kill(child)


def test_what_is_not_known_to_be_left_over_stays(there):
    (there / f"{PREFIX}just-made").mkdir()  # its process may be about to lock it
    (there / "elsewhere").mkdir()
    (there / "elsewhere" / ".locked").touch()
    (there / f"{PREFIX}link").symlink_to(there / "elsewhere")
    (there / "others").mkdir()
    before = sorted(there.rglob("*"))
    remove_leftovers()
    assert sorted(there.rglob("*")) == before


def test_nobody_else_may_enter():
    with private_folder() as folder:
        assert folder.stat().st_mode & 0o077 == 0


def test_temporary_files_of_others_lie_in_it_too(there, monkeypatch):
    monkeypatch.delenv("TMPDIR", raising=False)
    with temporary_directory() as folder:
        assert os.environ["TMPDIR"] == tempfile.gettempdir() == str(folder)
    assert "TMPDIR" not in os.environ
    assert tempfile.gettempdir() == str(there)
