"""Whatever a notebook file holds, what comes out is the same bytes, or a valid notebook, or nothing and the reason."""

import json
from copy import deepcopy

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from autograder.intake.reading import Caps, read_notebook

ANSWER = "def answer():\n    return 'mine, ä €'"
CELLS = [
    new_markdown_cell("# Title", id="title"),
    new_code_cell(ANSWER, id="answer", metadata={"nbgrader": {"grade_id": "answer"}}),
    new_code_cell("check('answer', answer)", id="check", outputs=[new_output("stream", text="fine\n")], execution_count=1),
]
NOTEBOOK = new_notebook(cells=CELLS)
TEXT = nbformat.writes(NOTEBOOK)


def read(data, caps=None):
    return read_notebook(data.encode() if isinstance(data, str) else data, caps)


def sources(reading):
    notebook = nbformat.reads(reading.data.decode("utf-8"), as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    return [cell.source for cell in notebook.cells]


def with_cells(*cells, **others):
    return json.dumps(json.loads(TEXT) | {"cells": list(cells)} | others)


BIG = nbformat.writes(new_notebook(cells=[new_code_cell("1", outputs=[new_output("stream", text="x" * 5_000_000)])]))
FINE = {
    "as Jupyter writes it": TEXT,
    "CRLF": TEXT.replace("\n", "\r\n"),
    "on one line": json.dumps(json.loads(TEXT)),
    "format 4.4": nbformat.writes(nbformat.from_dict(json.loads(TEXT) | {"nbformat_minor": 4})),
    "no cells": nbformat.writes(new_notebook()),
    "large outputs": BIG,
    "unknown metadata": with_cells(metadata={"colab": {"provenance": []}, "vscode": float("nan")}),
    "emoji": nbformat.writes(new_notebook(cells=[new_code_cell("'🙂'")])),
}


@pytest.mark.parametrize("name", FINE)
def test_what_nbgrader_reads_is_handed_on_byte_for_byte(name):
    reading = read(FINE[name])
    assert reading.data == FINE[name].encode()
    assert reading.notes == []


ENCODED = {
    "byte-order mark": TEXT.encode("utf-8-sig"),
    "UTF-16": TEXT.encode("utf-16"),
    "not saved as UTF-8": TEXT.replace("€", "e").encode("latin-1"),
    "NUL": TEXT.encode().replace(b"answer()", b"ans\0wer()").replace(b"{", b"\0{"),
}


@pytest.mark.parametrize("name", ENCODED)
def test_other_encodings_are_read(name):
    reading = read(ENCODED[name])
    assert name in reading.notes[0]
    assert sources(reading)[1].replace("mine, ä e", "mine, ä €") == ANSWER


@pytest.mark.parametrize("cells", [0, 1, 2])
def test_the_cells_before_a_cut_are_saved(cells):
    starts = [i for i in range(len(TEXT)) if TEXT.startswith("\n  {\n", i)]
    reading = read(TEXT[: starts[cells] + 20])
    assert "cut off" in (reading.notes[0] if cells else "cut off")
    assert sources(reading) == [cell.source for cell in CELLS[:cells]] if cells else reading.data is None


def test_every_cut_is_survived():
    for end in range(0, len(TEXT), 7):
        reading = read(TEXT[:end])
        assert reading.notes
        assert reading.data is None or sources(reading) == [cell.source for cell in CELLS][: len(sources(reading))]


def conflict(ours, theirs, base=""):
    middle = f"||||||| base\n{base}" if base else ""
    return TEXT.replace('    "def answer():\\n",\n', f"<<<<<<< HEAD\n{ours}{middle}=======\n{theirs}>>>>>>> theirs\n")


OURS, THEIRS = '    "def answer():  # ours\\n",\n', '    "def answer():  # theirs\\n",\n'


@pytest.mark.parametrize(
    ("text", "side", "answer"),
    [
        (conflict(OURS, THEIRS), "first", "ours"),
        (conflict(OURS, THEIRS, base=OURS), "first", "ours"),
        (conflict("nonsense\n", THEIRS), "second", "theirs"),
        (conflict(OURS, THEIRS).replace("\n", "\r\n"), "first", "ours"),
    ],
)
def test_one_side_of_a_merge_conflict_is_taken(text, side, answer):
    reading = read(text)
    assert f"the {side} side" in reading.notes[0]
    assert f"# {answer}" in sources(reading)[1]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"cells": [' + "[" * 100_000,
        "]" * 1000 + '"cells": [' + '{"a": ' * 100_000,
        '" "cells": [' + '{"a": ' * 100_000,  # quotes that pair up otherwise when read from the cells on
        with_cells({"cell_type": "code", "source": "", "metadata": {"a": json.loads("[" * 99 + "]" * 99)}, "outputs": []}),
    ],
)
def test_deep_nesting_is_found_before_it_is_parsed(text):
    reading = read(text)
    assert reading.data is None
    assert "nested more than 50" in reading.notes[0] or "not JSON" in reading.notes[0]


def test_brackets_in_strings_are_no_nesting():
    text = nbformat.writes(new_notebook(cells=[new_code_cell("'" + "[{" * 1000 + '\\"' + "[" * 100)]))
    assert read(text).notes == []


@pytest.mark.parametrize("text", ['{"cells": [' + "[]," * 5000 + "[]]}", '{"cells": [], "x": [' + "1," * 5000 + "1]}"])
def test_very_many_values_are_refused(text):
    reading = read(text, Caps(containers=1000, values=4000))
    assert reading.data is None
    assert "holds more than" in reading.notes[0]


@pytest.mark.parametrize("text", ["", " \n", "\0\0"])
def test_an_empty_file_is_called_so(text):
    assert read(text).notes == ["the notebook is an empty file"]


@pytest.mark.parametrize(
    "text", ["hello", "[]", "3", '"text"', "null", "{}", '{"cells": 3}', '{"cells": {}}', '{"worksheets": 3}', "NaN"]
)
def test_what_is_no_notebook_is_called_so(text):
    reading = read(text)
    assert reading.data is None
    assert "not" in reading.notes[0]


def test_huge_numbers_are_no_harm():
    reading = read(with_cells(*json.loads(TEXT)["cells"], other="?").replace('"?"', "9" * 5000))
    assert sources(reading)[1] == ANSWER
    assert reading.notes


def test_format_3_is_converted():
    old = nbformat.v4.downgrade(nbformat.reads(nbformat.writes(NOTEBOOK), as_version=4))
    reading = read(json.dumps(old))
    assert "old format" in reading.notes[0]
    assert sources(reading)[1:] == [cell.source for cell in CELLS[1:]]


@pytest.mark.parametrize("bad", [3, None, "text", [], {}, {"cell_type": "code"}, {"cell_type": ["code"], "source": ""}])
def test_a_cell_that_is_none_costs_no_other(bad):
    reading = read(with_cells(bad, *json.loads(TEXT)["cells"]))
    assert sources(reading) == [cell.source for cell in CELLS]
    assert reading.notes[0].startswith("1 of the notebook's cells")


@pytest.mark.parametrize(("key", "value"), [("source", 3), ("source", [3]), ("source", None), ("cell_type", "applet")])
def test_a_cell_without_usable_text_is_dropped(key, value):
    cells = json.loads(TEXT)["cells"]
    cells[0][key] = value
    assert sources(read(with_cells(*cells))) == [cell.source for cell in CELLS[1:]]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metadata", "text"),
        ("metadata", None),
        ("outputs", 3),
        ("outputs", [3]),
        ("attachments", [1]),
        ("id", ["a"]),
    ],
)
def test_a_cell_keeps_its_text_when_the_rest_is_broken(key, value):
    cells = json.loads(TEXT)["cells"]
    cells[1][key] = value
    reading = read(with_cells(*cells))
    assert reading.notes
    assert sources(reading) == [cell.source for cell in CELLS]
    kept = json.loads(reading.data)["cells"][1]["metadata"].get("nbgrader")
    assert kept == (None if key == "metadata" else {"grade_id": "answer"})


def test_cells_over_the_caps_are_left_out():
    text = nbformat.writes(new_notebook(cells=[new_code_cell("x" * i) for i in range(1, 8)]))
    assert len(sources(read(text, Caps(cells=5)))) == 5
    assert sources(read(text, Caps(source=3))) == ["x", "xx", "xxx"]


def test_what_was_repaired_needs_no_second_repair():
    data = read(TEXT[:-200]).data
    assert read(data).data == data
    assert read(data).notes == []


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["code", "markdown", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "data", "nbgrader", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = ["cell_type", "source", "metadata", "outputs", "id", "attachments", "execution_count", "input"]
cells = st.fixed_dictionaries({"cell_type": st.sampled_from(["code", "markdown", "raw", "heading"]) | values}) | values
cells |= st.dictionaries(st.sampled_from(keys), values)
whole = {
    "nbformat": st.integers(1, 6) | values,
    "nbformat_minor": values,
    "metadata": values,
    "cells": st.lists(cells) | values,
}
edited = st.tuples(st.sampled_from(range(3)), st.sampled_from(keys), values).map(
    lambda edit: (
        json.loads(TEXT)
        | {"cells": [c | {edit[1]: edit[2]} if i == edit[0] else c for i, c in enumerate(json.loads(TEXT)["cells"])]}
    )
)
contents = st.fixed_dictionaries({}, optional=whole | {"worksheets": values}) | edited | values
files = (
    contents.map(lambda content: json.dumps(content).encode())
    | st.binary()
    | st.text().map(lambda text: text.encode("utf-8", "replace"))
)


@settings(max_examples=300, deadline=None)
@given(files)
def test_no_file_raises_and_what_is_handed_on_is_read_by_nbgrader(data):
    reading = read(data)
    if reading.data is None:
        assert reading.notes
        return
    notebook = nbformat.reads(reading.data.decode("utf-8"), as_version=4)
    nbformat.validator.normalize(deepcopy(notebook))  # what nbconvert does next
    assert (reading.data == data) == (not reading.notes)
    if reading.notes:
        nbformat.validate(notebook)
        assert read(reading.data) == type(reading)(reading.data, [])
