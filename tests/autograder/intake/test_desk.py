"""Whatever was handed in: afterwards nbgrader can read it, nothing is lost, and the notes say what was wrong."""

import io
import json
import os
import re
import signal
import socket
import tempfile
import traceback
import zipfile
from pathlib import Path

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from autograder.intake.desk import Caps, notes, take_in

UNIT, STEM, NAME = "02_magnitude", "magnitude", "magnitude.ipynb"
RELEASED = nbformat.writes(new_notebook(cells=[new_code_cell("# YOUR CODE HERE", id="answer")])).encode()
MINE = nbformat.writes(new_notebook(cells=[new_code_cell("mine = 1", id="answer")])).encode()
CUT = MINE[:-30]
CAPS = Caps(notebook=100_000, file=1000, total=101_000, files=20, folders=3)


class Class:
    """A course's grading folder; `hand_in` makes submissions."""

    def __init__(self, root):
        self.grading, self.submitted = root, root / "submitted"
        self.submitted.mkdir(exist_ok=True)

    def hand_in(self, files, student="ada"):
        folder = self.folder(student)
        for name, data in files.items():
            path = Path(os.fsdecode(os.fsencode(folder) + b"/" + os.fsencode(name)))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def folder(self, student="ada"):
        return self.submitted / student / UNIT

    def take(self, **options):
        return take_in(self.submitted, self.grading, UNIT, RELEASED, **{"caps": CAPS} | options)

    def only(self, **options):
        (intake,) = self.take(**options)
        assert notes(self.grading, UNIT, intake.student) == (intake.notes, intake.graded)
        notebook = nbformat.read(self.folder(intake.student) / NAME, as_version=4)  # nbgrader can read it
        assert self.take(**options)[0].notes == intake.notes  # and a second time changes nothing
        assert nbformat.read(self.folder(intake.student) / NAME, as_version=4) == notebook
        return intake

    def files(self, student="ada"):
        folder = self.folder(student)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def room(tmp_path):
    return Class(tmp_path)


def state(folder):
    return [(str(path), path.stat().st_mtime_ns, path.stat().st_ino) for path in sorted(folder.rglob("*"))]


def test_a_fine_submission_is_not_touched(room):
    room.hand_in({NAME: MINE, "data/a.csv": b"1", "timestamp.txt": b"2025-02-03 10:11:12.5 UTC\n", ".ipynb_checkpoints/x": b""})
    before = state(room.submitted)
    intake = room.only()
    assert state(room.submitted) == before
    assert (intake.student, intake.notes, intake.graded, intake.set_aside) == ("ada", [], True, None)
    assert not (room.grading / "set_aside").exists()


def test_other_notebooks_are_mentioned_and_lie_where_they_were(room):
    room.hand_in({NAME: MINE, "magnitude-Copy1.ipynb": b"anything"})
    before = state(room.submitted)
    assert room.only().notes == [f"magnitude-Copy1.ipynb not graded: only {NAME} is"]
    assert state(room.submitted) == before


@pytest.mark.parametrize("files", [{}, {NAME: b""}, {NAME: b"[" * 99}, {"magnitude.py": b"x"}, {NAME: b" " * 200_000}])
def test_where_nothing_can_be_graded_the_released_notebook_stands_in(room, files):
    room.hand_in(files)
    intake = room.only()
    assert not intake.graded
    assert not room.only().graded
    assert len(intake.notes) == 2
    assert intake.notes[-1] == "nothing in the submission could be graded"
    assert room.files() == {NAME: RELEASED}


def test_a_broken_notebook_is_saved_and_the_files_beside_it_stay(room):
    room.hand_in({NAME: CUT, "helper.py": b"x = 1"})
    intake = room.only()
    assert "cut off" in intake.notes[0]
    assert room.files()["helper.py"] == b"x = 1"
    assert "mine = 1" in room.files()[NAME].decode()
    assert (intake.set_aside / NAME).read_bytes() == CUT


def link(path):
    path.symlink_to("/etc/hostname")


def hard_link(path):
    path.with_name("secret").write_bytes(MINE)
    (path.parents[3] / "outside").write_bytes(MINE)
    path.with_name("secret").unlink()
    path.hardlink_to(path.parents[3] / "outside")


def unix_socket(path):
    socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))


def large(path):
    with open(path, "wb") as file:
        file.truncate(10**9)


def folder_link(path):
    path.symlink_to(path.parents[3])


REFUSED = {
    "a link": [link, folder_link],
    "a FIFO": [os.mkfifo],
    "a hard link": [hard_link],
    "a socket": [unix_socket],
    "MB, more": [large],
}
REFUSED = [(make, reason) for reason, makes in REFUSED.items() for make in makes]


@pytest.mark.parametrize(("make", "reason"), REFUSED)
@pytest.mark.parametrize("name", ["extra.txt", NAME, "timestamp.txt"])
def test_only_plain_files_are_handed_on(room, make, reason, name, monkeypatch):
    folder = room.hand_in({NAME: MINE, "fine.txt": b"1"})
    (folder / name).unlink(missing_ok=True)
    monkeypatch.chdir(folder)  # names of sockets must be short
    make(folder / name)
    mode = os.lstat(folder / name).st_mode
    intake = room.only()
    assert reason in " ".join(intake.notes)
    assert name in intake.notes[0]
    assert intake.graded is (name != NAME)
    assert room.files() == ({NAME: RELEASED} if name == NAME else {NAME: MINE, "fine.txt": b"1"})
    assert os.lstat(intake.set_aside / name).st_mode == mode


@pytest.mark.parametrize("where", ["student", "unit"])
def test_a_folder_that_is_a_link_is_not_followed(room, tmp_path, where):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / UNIT).mkdir(parents=True)
    (elsewhere / UNIT / NAME).write_bytes(MINE)
    if where == "student":
        (room.submitted / "ada").symlink_to(elsewhere)
    else:
        (room.submitted / "ada").mkdir()
        room.folder().symlink_to(elsewhere / UNIT)
    intake = room.only()
    assert not intake.graded
    assert "a link" in intake.notes[0]
    assert room.files() == {NAME: RELEASED}
    assert not (room.submitted / "ada").is_symlink()
    assert intake.set_aside.is_symlink()
    assert (elsewhere / UNIT / NAME).read_bytes() == MINE


def test_a_file_in_place_of_the_folder(room):
    (room.submitted / "ada").mkdir()
    room.folder().write_bytes(MINE)
    assert "not a folder" in room.only().notes[0]
    assert room.files() == {NAME: RELEASED}


@pytest.mark.parametrize("student", ["a,b", "=A1", "o'brien ", "ö", "a b", "a+b", "{x}", "a@b.c", "-x", "a&b;c", "学生", "🙂"])
def test_most_ids_stay(room, student):
    room.hand_in({NAME: MINE}, student.strip())
    assert room.only().student == student.strip()
    assert room.only().notes == []


ODD = [
    "a*",
    "a?",
    "[a]",
    "a\\b",
    ".a",
    " a",
    "a ",
    "a\nb",
    "a\u202eb",
    os.fsdecode(b"a\xff"),
    "<a>",
    'a"b',
    "a#b",
    "a%5Bb",
    "x" * 150,
]


@pytest.mark.parametrize("odd", ODD)
def test_an_id_that_nbgrader_cannot_handle_is_changed_and_the_work_keeps_its_place(room, odd):
    room.hand_in({NAME: MINE}, odd)
    intake = room.only()
    assert re.fullmatch(r"[\w~]+", intake.student)
    assert len(intake.student) < 100
    assert intake.graded
    assert f"changed to {intake.student}" in intake.notes[0]
    assert os.listdir(room.submitted) == [intake.student]
    assert room.files(intake.student) == {NAME: MINE}
    again = room.hand_in({NAME: MINE + b"\n"}, odd)  # handed in again under the odd name: the same student
    assert room.only(student=odd).student == intake.student
    assert not again.exists()
    assert room.files(intake.student) == {NAME: MINE + b"\n"}
    assert (next((room.grading / "set_aside" / intake.student / UNIT).iterdir()) / NAME).read_bytes() == MINE


def test_a_changed_id_is_never_that_of_another_student(room):
    room.hand_in({NAME: RELEASED}, "a~2A")
    room.hand_in({NAME: MINE}, "a*")
    assert {intake.student for intake in room.take()} == {"a~2A", "a~2A~2"}
    assert room.files("a~2A") == {NAME: RELEASED}
    assert room.files("a~2A~2") == {NAME: MINE}


def test_an_odd_id_leaves_the_students_other_units_alone(room):
    room.hand_in({NAME: MINE}, "a*")
    (room.submitted / "a*" / "01_patterns").mkdir()
    room.take()
    assert (room.submitted / "a*" / "01_patterns").is_dir()


def test_notes_stay_until_something_else_is_handed_in(room):
    folder = room.hand_in({NAME: CUT})
    first = room.only()
    assert room.take() == [first]
    (folder / NAME).write_bytes(MINE + b"\n")
    assert room.only().notes == []
    assert room.only().set_aside is None
    (folder / NAME).write_bytes(b"")
    assert not room.only().graded
    assert len(list((room.grading / "set_aside" / "ada" / UNIT).iterdir())) == 2


@pytest.mark.parametrize("first", [{f"{STEM}-Copy1.ipynb": MINE}, {NAME: CUT}, {NAME: RELEASED}, {}])
def test_a_copy_handed_in_later_replaces_what_intake_made_itself(room, first):
    folder = room.hand_in(first)
    room.take()
    later = MINE.replace(b"mine = 1", b"mine = 2")
    (folder / f"{STEM}-Copy1.ipynb").write_bytes(later)
    notes = room.only().notes
    assert room.files() == {NAME: later}
    assert len(notes) == 1
    assert f"{STEM}-Copy1.ipynb was taken as {NAME}" in notes[0]


def test_a_copy_beside_a_students_own_notebook_is_not_taken(room):
    folder = room.hand_in({f"{STEM}-Copy1.ipynb": MINE})
    room.take()
    own = MINE.replace(b"mine = 1", b"mine = 2")
    room.hand_in({NAME: own, f"{STEM}-Copy1.ipynb": MINE})
    assert room.only().notes == [f"{STEM}-Copy1.ipynb not graded: only {NAME} is"]
    assert (folder / NAME).read_bytes() == own


def test_one_student_only(room):
    room.hand_in({NAME: b""}, "ada")
    room.hand_in({NAME: b""}, "bob")
    assert [intake.student for intake in room.take(student="bob")] == ["bob"]
    assert room.files("ada") == {NAME: b""}
    (room.submitted / "readme.txt").write_text("no student")
    (room.submitted / "eve").mkdir()
    assert [intake.student for intake in room.take()] == ["ada", "bob"]


def test_whatever_fails_costs_only_the_one(room, monkeypatch):
    from autograder.intake import desk as module

    def fails(base, folder, *rest):
        if folder[0] == "bob":
            raise RecursionError("<script>")
        return inspect(base, folder, *rest)

    inspect = module.inspect
    monkeypatch.setattr(module, "inspect", fails)
    for student in ("ada", "bob", "eve"):
        room.hand_in({NAME: MINE}, student)
    intakes = {intake.student: intake for intake in room.take()}
    assert [intakes[name].graded for name in ("ada", "bob", "eve")] == [True, False, True]
    assert intakes["bob"].notes[0] == "the submission could not be taken in (RecursionError)"
    assert room.files("bob") == {NAME: RELEASED}
    assert (intakes["bob"].set_aside / NAME).read_bytes() == MINE


def test_what_cannot_even_be_moved_is_said_to_be_not_ready(room, monkeypatch):
    room.hand_in({NAME: b""})
    room.hand_in({NAME: MINE}, "bob")
    rename = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda self, to: rename(self, to) if "set_aside" not in str(to) else os.rmdir(self / "no")
    )
    ada, bob = room.take()
    assert (ada.ready, bob.ready) == (False, True)
    assert "a person has to look" in notes(room.grading, UNIT, "ada")[0][0]
    assert room.files() == {NAME: b""}


@pytest.mark.parametrize("folder", ["ada", f"ada/{UNIT}"])
@pytest.mark.parametrize(("mode", "reason"), [(0o000, "permission denied"), (0o555, "permission denied")])
def test_a_folder_that_nobody_may_change_is_said_to_be_not_ready(folder, mode, reason):
    """As somebody else than root, for whom no folder is closed."""
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o777)
        user = os.geteuid() or 65534

        def try_it():
            room = Class(Path(root) / "grading")
            room.hand_in({NAME: b"cut"})
            room.hand_in({NAME: MINE}, "bob")
            (room.submitted / folder).chmod(mode)
            for _ in range(2):  # nothing that the first one leaves is in the second one's way
                ada, bob = room.take()
                assert (ada.ready, bob.ready, bob.graded) == (False, True, True), ada
                assert reason in ada.notes[0], ada.notes
                assert notes(room.grading, UNIT, "ada") == (ada.notes, False)
            (room.submitted / folder).chmod(0o755)
            assert [intake.ready for intake in room.take()] == [True, True]

        assert as_user(user, lambda: (os.mkdir(f"{root}/grading"), try_it())) == 0


def as_user(user, what):
    """The exit code of a process of another user."""
    child = os.fork()
    if not child:
        try:
            os.setuid(user)
            what()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_notebook_from_a_zip_and_the_files_beside_it_take_the_zips_place(room):
    with zipfile.ZipFile(data := io.BytesIO(), "w") as archive:
        archive.writestr(f"{UNIT}/magnitude (1).ipynb", MINE)
        archive.writestr(f"{UNIT}/data/a.csv", b"1")
    room.hand_in({"hand-in.zip": data.getvalue(), NAME: RELEASED})
    intake = room.only()
    assert room.files() == {NAME: MINE, "data/a.csv": b"1"}
    assert (intake.graded, len(intake.notes)) == (True, 1)
    assert (intake.set_aside / "hand-in.zip").read_bytes() == data.getvalue()


def take_in_and_be_killed(room, renames):
    """In a process of its own, which is killed before one of its renames."""
    child = os.fork()
    if not child:
        left, rename = iter(range(renames)), Path.rename
        Path.rename = lambda self, to: os.kill(os.getpid(), signal.SIGKILL) if next(left, None) is None else rename(self, to)
        room.take()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_at_any_rename_loses_nothing(room, renames):
    room.hand_in({NAME: CUT, "a.txt": b"1"})
    take_in_and_be_killed(room, renames)
    intake = room.only()
    assert "cut off" in intake.notes[0]
    assert set(room.files()) == {NAME, "a.txt"}
    assert (intake.set_aside / NAME).read_bytes() == CUT
    assert [path.name for path in (room.grading / "intake" / UNIT).iterdir()] == ["ada.json"]


def test_a_kill_and_a_new_submission(room):
    room.hand_in({NAME: CUT})
    take_in_and_be_killed(room, 2)
    assert not room.folder().exists()
    room.hand_in({NAME: MINE + b"\n"})
    assert room.only().notes == []
    assert room.files() == {NAME: MINE + b"\n"}


def test_folders_on_two_file_systems_are_refused_before_anything_is_moved(room, monkeypatch):
    room.hand_in({NAME: b""})
    really, other = Path.stat, os.stat_result([0] * 10)
    monkeypatch.setattr(Path, "stat", lambda self, **options: other if self == room.submitted else really(self, **options))
    monkeypatch.setattr(Path, "is_dir", os.path.isdir)
    with pytest.raises(ValueError, match="same file system"):
        room.take()
    assert room.files() == {NAME: b""}


values = st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5)
cell = st.fixed_dictionaries(
    {}, optional={key: values | st.just("code") for key in ("cell_type", "source", "metadata", "outputs", "id")}
)
content = st.fixed_dictionaries(
    {}, optional={"cells": st.lists(cell, max_size=3) | values, "nbformat": st.integers(3, 5), "metadata": values}
)


@settings(max_examples=60, deadline=None)
@given(content.map(json.dumps).map(str.encode) | st.binary(max_size=50))
def test_any_garbage_ends_in_a_notebook_that_nbgrader_reads(tmp_path_factory, data):
    room = Class(tmp_path_factory.mktemp("grading"))
    room.hand_in({NAME: data})
    room.only()
