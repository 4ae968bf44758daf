"""What of a folder is handed on: the notebook by its likeliest name, plain files within the caps, a time that is one."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from autograder.intake import folders
from autograder.intake.folders import Refused, listing, read_file, shown
from autograder.intake.inspection import inspect
from autograder.intake.reading import Caps

NAME = "magnitude.ipynb"
MINE = nbformat.writes(new_notebook(cells=[new_code_cell("mine = 1", id="answer")])).encode()
CAPS = Caps(notebook=100_000, file=1000, total=101_000, files=20, folders=3)


@pytest.fixture
def look(tmp_path):
    """Makes a folder of files, in order of age, and inspects it."""

    def made(files, caps=CAPS):
        for i, (name, data) in enumerate(files.items()):
            path = Path(os.fsdecode(os.fsencode(tmp_path / "ada") + b"/" + os.fsencode(name)))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            os.utime(path, ns=(0, i * 10**9))
        return inspect(tmp_path, ("ada",), NAME, b"released", caps)

    return made


def test_what_is_fine(look):
    found = look({NAME: MINE, "data/a.csv": b"1", "timestamp.txt": b"2025-02-03 10:11:12.5 UTC\n", ".ipynb_checkpoints/x": b""})
    assert (found.is_fine, found.notebook, found.notes) == (True, MINE, [])
    assert sorted(found.extras) == [("data", "a.csv"), ("timestamp.txt",)]


@pytest.mark.parametrize(
    "name",
    [
        "magnitude-Copy1.ipynb",
        "magnitude (1).ipynb",
        "Magnitude.ipynb",
        "magnitude_final.ipynb",
        "x.ipynb",
        "02_magnitude/magnitude.ipynb",
    ],
)
def test_a_notebook_of_another_name_is_taken(look, name):
    found = look({"a.csv": b"1", name: MINE})
    assert (found.is_fine, found.notebook, found.modified, found.extras) == (False, MINE, 10**9, [("a.csv",)])
    assert found.notes == [f"{shown(name)} was taken as {NAME}, which is missing or cannot be read"]


def test_a_checkpoint_is_not_what_somebody_handed_in(look):
    assert look({".ipynb_checkpoints/magnitude-checkpoint.ipynb": MINE}).notebook is None


def test_of_several_the_most_similar_name_counts_and_the_newest_of_equals(look):
    files = {"magnitude-Copy1.ipynb": b"{}", "magnitude-Copy2.ipynb": MINE, "notes.ipynb": b"{}", "a/magnitude.ipynb": b"{}"}
    found = look(files)
    assert found.notebook == MINE
    assert found.notes[0].startswith("magnitude-Copy2.ipynb was taken")


def test_the_right_name_goes_before_newer_copies(look):
    found = look({NAME: MINE, "magnitude-Copy1.ipynb": b"{}"})
    assert (found.is_fine, found.notebook) == (True, MINE)
    assert found.notes == [f"magnitude-Copy1.ipynb not graded: only {NAME} is"]


def test_a_copy_counts_where_the_notebook_itself_cannot_be_read(look):
    found = look({NAME: b"", "magnitude-Copy1.ipynb": MINE})
    assert (found.is_fine, found.notebook) == (False, MINE)
    assert "empty file" in found.notes[0]


def test_only_some_of_very_many_bad_notebooks_are_tried(look):
    found = look({f"{i}.ipynb": b"" for i in range(15)})
    assert found.notebook is None
    assert len(found.notes) == CAPS.attempts + 1


@pytest.mark.parametrize("name", [b"a\xff.txt", b"a\nb.txt", "a\u202etxt.py".encode(), b"a\x1b[31m.txt"])
def test_names_that_cannot_be_shown_are_left_out(look, name):
    found = look({NAME: MINE, name: b"1"})
    assert re.fullmatch(r"left out: [\w?.]+ \(a name with letters that cannot be shown\)", found.notes[0])
    assert not found.is_fine
    assert not found.extras


def test_a_name_in_a_note_is_only_text(look):
    (note,) = look({NAME: MINE, "<script>`*[x](y)&": b"1" * 2000}).notes
    assert not set("<>`*[&") & set(note)
    assert len(shown("x" * 255)) < 64


def test_folders_too_deep_are_left_out(look):
    found = look({NAME: MINE, "a/b/c/d/e.txt": b"1", "a/b/c/d2.txt": b"1"})
    assert "too many folders deep" in found.notes[0]
    assert found.extras == [("a", "b", "c", "d2.txt")]


def test_a_large_file_is_left_out(look):
    found = look({NAME: MINE, "a.bin": b"x" * 1001})
    assert "0.001 MB, more than the 0.001 MB allowed" in found.notes[0]
    assert not found.extras


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path, really_opened = tmp_path / "a.bin", folders._opened
    path.write_bytes(b"x" * 1000)

    def opened(*args):
        file = really_opened(*args)
        path.write_bytes(b"x" * 1001)
        return file

    monkeypatch.setattr(folders, "_opened", opened)
    with pytest.raises(Refused, match="growing"):
        read_file(tmp_path, ("a.bin",), 1000)


PAGES = ["index.html", "data/a.HTM", "a.xhtml", "a.mht", "picture.svg", "a.js", "a.xht", "a.xml", "a.shtml", "a.mhtml", "a.hta"]
PAGES += ["a.php", "a.php.txt", "a.PHTML", ".htaccess", "data/.user.ini", "a.svgz", "a.xsl", "a.wasm", "a", "a.txt.", "a.txt "]


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_left_out(look, name):
    found = look({NAME: MINE, name: b"<script>pwned()</script>"})
    assert found.notes == [f"left out: {name} (of a kind that may act as a page; nbgrader puts it beside its feedback)"]
    assert (found.notebook, found.extras, found.is_fine) == (MINE, [], False)


@pytest.mark.parametrize(
    ("content", "is_ours"), [(b"<svg/>", True), (b"<svg onload='pwned()'/>", False), (b"<svg/>\n", False), (b"", False)]
)
def test_the_courses_own_figures_are_no_matter_and_others_of_their_name_are(look, tmp_path, content, is_ours):
    look({NAME: MINE, "a.svg": content})
    found = inspect(tmp_path, ("ada",), NAME, b"released", CAPS, ours={"a.svg": b"<svg/>"})
    assert (found.is_fine, found.notes == [], found.extras) == (is_ours, is_ours, [])


def test_files_over_the_total_are_left_out(look):
    found = look({NAME: MINE} | {f"{i}.txt": b"x" * 1000 for i in range(10)}, Caps(total=len(MINE) + 4500))
    assert "0.txt" not in found.notes[0]
    assert len(found.extras) == 4


def test_very_many_files_are_not_even_listed(look, tmp_path, monkeypatch):
    look({NAME: MINE} | {f"{i}": b"" for i in range(500)})
    opened, really_open = [], os.open
    monkeypatch.setattr(os, "open", lambda *args, **options: opened.append(args) or really_open(*args, **options))
    found = inspect(tmp_path, ("ada",), NAME, b"released", CAPS)
    assert len(opened) < 200
    assert (found.notebook, found.extras, found.is_fine) == (MINE, [], False)
    assert "more than 20 files" in found.notes[0]


@pytest.mark.parametrize("folders", [25, 0])
def test_folders_and_files_count_alike(tmp_path, folders):
    for i in range(25):
        (tmp_path / "ada" / f"{i}").mkdir(parents=True) if folders else (tmp_path / "ada").mkdir(exist_ok=True)
    assert listing(tmp_path, ("ada",), CAPS)[2] is bool(folders)


TIMES = [
    b"",
    b"soon",
    b"12",
    b"10:00",
    b"2999-01-01",
    b"1999-01-01",
    b"\xff",
    b"2025-01-01" + b" " * 100,
    b"2025-01-01 25:00 XX",
]


@pytest.mark.parametrize("text", TIMES)
def test_a_time_that_is_none_is_left_out(look, text):
    found = look({NAME: MINE, "timestamp.txt": text})
    assert found.notes[0].startswith("left out: timestamp.txt (")
    assert not found.extras


@pytest.mark.parametrize("text", [b"2025-02-03 10:11:12.123456 UTC", b"2025-02-03 10:11:12 +0200\n", b"2025-02-03T10:11:12"])
def test_a_time_that_nbgrader_reads_stays(look, text):
    assert look({NAME: MINE, "timestamp.txt": text}).is_fine


def test_a_folder_named_like_the_timestamp_or_the_notebook(look):
    found = look({"magnitude.ipynb/x": b"1", "timestamp.txt/x": b"1", "magnitude-Copy1.ipynb": MINE})
    assert found.notebook == MINE
    assert "timestamp.txt (not a file)" in " ".join(found.notes)
    assert not found.extras
