"""Which of the files in a folder is the notebook that counts, whatever people and programs call it."""

import io
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from autograder.intake.inspection import inspect
from autograder.intake.reading import Caps

NAME = "magnitude.ipynb"
ABOUT = {"solution": True, "grade": False, "locked": False, "schema_version": 3, "task": False}
STUB = "def prune(W):\n    raise NotImplementedError()"


def notebook(answer=STUB, grade_id="prune", **metadata):
    cells = [new_code_cell("import torch", id="setup")]
    cells.append(new_code_cell(answer, id=grade_id, metadata={"nbgrader": {"grade_id": grade_id, **ABOUT}}))
    return nbformat.writes(new_notebook(cells=cells, metadata=metadata)).encode()


RELEASED = notebook()
MINE = notebook("def prune(W):\n    return W")
SAVED_AGAIN = notebook(language_info={"name": "python"}) + b"\n"  # untouched, and not the same bytes
OTHER = notebook("def column(W):\n    return W", "column").replace(b"torch", b"math").replace(b'"setup"', b'"else"')
CAPS = Caps(file=100_000, total=300_000, files=20, folders=3)


def zipped(**files):
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.fixture
def look(tmp_path):
    def made(files, caps=CAPS):
        for name, data in files.items():
            path = tmp_path / "ada" / Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return inspect(tmp_path, ("ada",), NAME, RELEASED, caps)

    return made


@pytest.mark.parametrize("untouched", [RELEASED, SAVED_AGAIN])
@pytest.mark.parametrize(
    "name", ["magnitude (1).ipynb", "magnitude-Copy1.ipynb", "Copy of magnitude.ipynb", "solved.ipynb", "magnitude.IPYNB",
             "magnitude-checkpoint.ipynb", "magnitude.ipynb.txt", "magnitude.ipynb.json", "magnitude.json", "magnitude.txt"]
)  # fmt: skip
def test_a_notebook_with_answers_comes_before_one_without(look, untouched, name):
    found = look({NAME: untouched, name: MINE})
    assert found.notebook == MINE
    assert found.notes[0] == f"{name} was taken as {NAME}, which is without answers"
    assert not found.is_fine


@pytest.mark.parametrize(
    "name", ["magnitude.ipynb.txt", "magnitude.ipynb.json", "magnitude.IPYNB", "m.ipynb.json.txt", "magnitude.json"]
)
def test_an_ending_that_a_program_added_is_no_harm(look, name):
    found = look({name: MINE, "notes.txt": b"text", "data.json": b"{}"})
    assert (found.notebook, found.notes) == (MINE, [f"{name} was taken as {NAME}, which is missing or cannot be read"])
    assert sorted(found.extras) == [("data.json",), ("notes.txt",)]


@pytest.mark.parametrize(("first", "second"), [(MINE, MINE), (MINE, RELEASED), (SAVED_AGAIN, RELEASED), (SAVED_AGAIN, OTHER)])
def test_the_right_name_counts_where_the_other_is_no_better(look, first, second):
    found = look({NAME: first, "magnitude (1).ipynb": second})
    assert (found.notebook, found.is_fine) == (first, True)
    assert found.notes == [f"magnitude (1).ipynb not graded: only {NAME} is"]


def test_the_notebook_of_another_unit_does_not_come_first(look):
    found = look({NAME: OTHER, "x.ipynb": MINE})
    assert found.notebook == MINE
    assert found.notes[0] == f"x.ipynb was taken as {NAME}, which is another notebook"


@pytest.mark.parametrize("inside", [NAME, "02_magnitude/magnitude.ipynb", "magnitude (1).ipynb", "Copy of it.IPYNB"])
@pytest.mark.parametrize("beside", [{}, {NAME: SAVED_AGAIN}])
def test_a_notebook_in_a_zip_is_found(look, inside, beside):
    where = inside.rpartition("/")[0]
    content = {inside: MINE, f"{where}/helper.py".lstrip("/"): b"x = 1", "__MACOSX/._magnitude.ipynb": b"x"}
    found = look({"hand-in.zip": zipped(**content), **beside})
    assert found.notebook == MINE
    assert found.notes[0].startswith(f"{inside} in hand-in.zip was taken as {NAME}")
    assert (found.unpacked, found.extras) == ({("helper.py",): b"x = 1"}, [])


def test_of_several_in_a_zip_the_one_with_answers_counts(look):
    found = look({"all.zip": zipped(**{NAME: RELEASED, "a.ipynb": OTHER, "magnitude (1).ipynb": MINE})})
    assert found.notebook == MINE


def test_a_zip_beside_an_answered_notebook_is_a_file_like_others(look):
    found = look({NAME: MINE, "data.zip": b"not even a zip"})
    assert (found.is_fine, found.notebook, found.extras) == (True, MINE, [("data.zip",)])


PAGES = {
    NAME: MINE,
    "index.html": b"<script>",
    "a.svg": b"x",
    "timestamp.txt": b"soon",
    "a\u202eb.txt": b"x",
    "other/x.txt": b"1",
}


def test_only_what_is_dead_comes_out_of_a_zip(look):
    found = look({"all.zip": zipped(**PAGES)})
    assert found.unpacked == {("other", "x.txt"): b"1"}
    assert found.notes[-1] == "left out: 4 of the files in all.zip"


def with_flag(data):
    """The zip as if it were encrypted."""
    at = data.index(b"PK\x01\x02")
    return data[: at + 8] + b"\x01" + data[at + 9 :]


ZIPS = {
    "a zip with a zip in it": zipped(**{NAME: MINE, "inner.ZIP": zipped(a=b"1")}),
    "a zip with a path that leads out of it": zipped(**{f"../{NAME}": MINE}),
    "a zip of more than 20 files and folders": zipped(**{NAME: MINE}, **{str(i): b"" for i in range(20)}),
    "a zip of more than 0.3 MB": zipped(**{"a.csv": bytes(400_000), NAME: MINE}),
    "not a zip, or a damaged one": zipped(**{NAME: MINE})[:-30],
    "a zip that only its maker can open": with_flag(zipped(**{NAME: MINE})),
}


@pytest.mark.parametrize("problem", ZIPS)
def test_a_zip_that_is_no_ordinary_one_is_not_opened(look, problem):
    found = look({"all.zip": ZIPS[problem]})
    assert found.notebook is None
    assert found.notes[0] == f"all.zip was not opened: it is {problem}"


def test_a_zip_without_a_notebook(look):
    found = look({"all.zip": zipped(**{"a.csv": b"1"})})
    assert (found.notebook, found.notes) == (None, [f"the submission holds no notebook {NAME}"])
