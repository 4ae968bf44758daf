"""A submission is put back on the released notebook; nothing the student did elsewhere reaches nbgrader."""

import os
import time
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

from autograder.intake.rebuild import rebuild, released_notebook
from autograder.lessons.layout import EXPERIMENT, course_root, notebook_path, with_stubs
from autograder.lessons.source import render

RELEASED = with_stubs(render(course_root(Path(__file__).parent), "02_magnitude"))
ANSWER, CHECK = "magnitude-prune", "magnitude-prune-check"


@pytest.fixture
def submitted():
    notebook = deepcopy(RELEASED)
    cell_of(notebook, ANSWER).source = "def magnitude_prune(W, sparsity): return 'mine'"
    return notebook


def cell_of(notebook, id):
    return next(cell for cell in notebook.cells if cell.id == id)


def position(notebook, id):
    return [cell.id for cell in notebook.cells].index(id)


def test_an_untampered_submission_keeps_its_answers_and_needs_no_repair(submitted):
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert repairs == []
    assert [cell.source for cell in rebuilt.cells] == [cell.source for cell in submitted.cells]
    nbformat.validate(rebuilt)


def test_all_copies_of_an_answer_run_and_the_last_one_has_its_place(submitted):
    first = deepcopy(cell_of(submitted, ANSWER))
    first.id, first.source = "copy", "def magnitude_prune(W, sparsity): return 'the first try'"
    submitted.cells.insert(position(submitted, ANSWER), first)
    rebuilt, repairs = rebuild(submitted, RELEASED)
    at = position(rebuilt, ANSWER)
    assert ["the first try" in cell.source for cell in rebuilt.cells[at - 1 : at + 1]] == [True, False]
    assert "'mine'" in rebuilt.cells[at].source
    assert repairs == [f"{ANSWER} was there more than once; all of it runs, in its order"]
    assert repairs[0] in rebuilt.cells[0].source  # the student reads it in the feedback
    assert [cell.id for cell in rebuilt.cells[1:] if not cell.id.startswith("extra-")] == [cell.id for cell in RELEASED.cells]


@pytest.mark.parametrize(("gone", "sentence"), [(ANSWER, "counts as not started"), (CHECK, "as released")])
def test_deleted_cells_come_back(submitted, gone, sentence):
    submitted.cells = [cell for cell in submitted.cells if cell.id != gone]
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert cell_of(rebuilt, gone).source == cell_of(RELEASED, gone).source
    assert len(repairs) == 1
    assert sentence in repairs[0]


def test_a_changed_check_is_as_released(submitted):
    cell_of(submitted, CHECK).source = "4.0"
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert cell_of(rebuilt, CHECK).source == cell_of(RELEASED, CHECK).source
    assert "had been changed" in repairs[0]


def test_tags_and_points_are_as_released(submitted):
    check = cell_of(submitted, CHECK)
    check.metadata.tags = ["skip-execution"]
    check.metadata.nbgrader.points = 100
    check.metadata.nbgrader.grade = False
    rebuilt, _ = rebuild(submitted, RELEASED)
    assert cell_of(rebuilt, CHECK).metadata == cell_of(RELEASED, CHECK).metadata


def test_an_answer_turned_into_markdown_is_code_again(submitted):
    cell = cell_of(submitted, ANSWER)
    index = position(submitted, ANSWER)
    submitted.cells[index] = new_markdown_cell(cell.source, id=ANSWER, metadata=cell.metadata)
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert cell_of(rebuilt, ANSWER).cell_type == "code"
    assert "'mine'" in cell_of(rebuilt, ANSWER).source
    assert "markdown" in repairs[0]


def test_reordered_cells_are_in_order_again(submitted):
    submitted.cells.reverse()
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert [cell.id for cell in rebuilt.cells] == [cell.id for cell in RELEASED.cells]
    assert repairs == []


def test_code_that_the_student_added_stays_where_it_was(submitted):
    submitted.cells.insert(position(submitted, ANSWER), new_code_cell("import math", id="mine"))
    submitted.cells.insert(0, new_code_cell("import numpy as np", id="first"))
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert repairs == []
    assert rebuilt.cells[0].source == "import numpy as np"
    assert rebuilt.cells[position(rebuilt, ANSWER) - 1].source == "import math"
    nbformat.validate(rebuilt)


def test_imports_added_to_the_setup_cell_survive(submitted):
    setup = next(cell for cell in submitted.cells if cell.cell_type == "code")
    setup.source += "\nimport itertools"
    rebuilt, _ = rebuild(submitted, RELEASED)
    index = position(rebuilt, setup.id)
    assert rebuilt.cells[index].source == cell_of(RELEASED, setup.id).source
    assert rebuilt.cells[index + 1].source.endswith("import itertools")


def test_experiments_are_skipped_and_their_changes_dropped(submitted):
    for cell in submitted.cells:
        if EXPERIMENT in cell.metadata.get("tags", []):
            cell.source = "while True: pass"
    rebuilt, _ = rebuild(submitted, RELEASED)
    experiments = [cell for cell in rebuilt.cells if EXPERIMENT in cell.metadata.get("tags", [])]
    assert experiments
    assert all("skip-execution" in cell.metadata.tags for cell in experiments)
    assert not any("while True" in cell.source for cell in rebuilt.cells)


def test_lost_cell_ids_and_metadata_of_plain_cells_are_no_harm(submitted):
    for i, cell in enumerate(submitted.cells):
        cell.id = f"other-{i}"  # what editors do that rewrite ids
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert repairs == []
    assert [cell.source for cell in rebuilt.cells] == [cell.source for cell in submitted.cells]


@pytest.mark.parametrize("metadata", ["text", {"grade_id": 3}, {"grade_id": "unknown"}, {}, {"schema_version": 99}])
def test_foreign_nbgrader_metadata_does_not_survive(submitted, metadata):
    submitted.cells.append(new_code_cell("1 + 1", metadata={"nbgrader": metadata}))
    rebuilt, _ = rebuild(submitted, RELEASED)
    assert [c.metadata.nbgrader.grade_id for c in rebuilt.cells if "nbgrader" in c.metadata] == [
        c.metadata.nbgrader.grade_id for c in RELEASED.cells if "nbgrader" in c.metadata
    ]


def test_nothing_of_the_inputs_is_changed(submitted):
    before, released = deepcopy(submitted), deepcopy(RELEASED)
    rebuild(submitted, RELEASED)
    assert submitted == before
    assert released == RELEASED


def without_metadata(notebook):
    """What an editor leaves that keeps neither cell metadata nor ids."""
    for i, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = {}, f"x{i}"
    return notebook


def test_answers_without_metadata_are_recognised_by_what_they_define(submitted):
    rebuilt, repairs = rebuild(without_metadata(submitted), RELEASED)
    assert "'mine'" in cell_of(rebuilt, ANSWER).source
    assert repairs == [f"{ANSWER} had lost its nbgrader metadata; it was recognised by what it defines"]  # the others are stubs
    assert [cell.id for cell in rebuilt.cells[1:]] == [cell.id for cell in RELEASED.cells]


@pytest.mark.parametrize(
    "source",
    [
        "async def magnitude_prune(W, s): return 1",
        "class magnitude_prune: pass",
        "magnitude_prune = lambda W, s: W",
        "magnitude_prune: object = print",
        "%matplotlib inline\ndef magnitude_prune(W, s): return 1",
        "def magnitude_prune(W, s):\n    return (",
        "import math\ndef helper(): pass\ndef magnitude_prune(W, s): return 1\n" + "#" * 300_000,
    ],
)
def test_any_way_to_define_the_name_is_recognised(submitted, source):
    cell_of(submitted, ANSWER).source = source
    rebuilt, _ = rebuild(without_metadata(submitted), RELEASED)
    assert cell_of(rebuilt, ANSWER).source == source
    assert sum(cell.source == source for cell in rebuilt.cells) == 1


def test_only_a_definition_at_the_top_level_is_recognised(submitted):
    cell_of(
        submitted, ANSWER
    ).source = "text = '''\ndef magnitude_prune(W, s): pass\n'''\nif text:\n    def magnitude_prune(): pass"
    rebuilt, _ = rebuild(without_metadata(submitted), RELEASED)
    assert any(cell.id.startswith("extra") and "text = " in cell.source for cell in rebuilt.cells)


def test_the_first_definition_without_metadata_counts_and_the_second_stays_behind_it(submitted):
    submitted.cells.append(new_code_cell("def magnitude_prune(W, sparsity): return 'later'"))
    rebuilt, _ = rebuild(without_metadata(submitted), RELEASED)
    assert "'mine'" in cell_of(rebuilt, ANSWER).source
    assert "'later'" in rebuilt.cells[-1].source


def test_a_cell_of_its_own_goes_before_one_that_defines_the_same(submitted):
    submitted.cells.insert(0, new_code_cell("def magnitude_prune(W, sparsity): return 'scratch'"))
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert "'mine'" in cell_of(rebuilt, ANSWER).source
    assert repairs == []


def test_an_answer_is_recognised_by_its_cell_id(submitted):
    cell_of(submitted, ANSWER).metadata = {}
    cell_of(submitted, ANSWER).source = "from mine import *"
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert cell_of(rebuilt, ANSWER).source == "from mine import *"
    assert repairs == []


@pytest.mark.parametrize(
    ("kind", "source", "counts"), [("markdown", "", True), ("raw", "", True), ("markdown", "```python\n", False)]
)
def test_an_answer_that_is_text_and_lost_its_metadata_counts_if_it_is_python(submitted, kind, source, counts):
    cell = cell_of(submitted, ANSWER)
    cell.cell_type, cell.source = kind, source + cell.source
    rebuilt, repairs = rebuild(without_metadata(submitted), RELEASED)
    assert (f"{ANSWER} had become a {kind} cell; it is code again" in repairs) is counts
    assert ("'mine'" in cell_of(rebuilt, ANSWER).source) is counts


def test_text_that_defines_the_name_does_not_go_before_code(submitted):
    submitted.cells.insert(0, new_markdown_cell("def magnitude_prune(W, sparsity): return 'text'"))
    rebuilt, _ = rebuild(without_metadata(submitted), RELEASED)
    assert "'mine'" in cell_of(rebuilt, ANSWER).source


@pytest.mark.parametrize(
    "lines", [["def f():\r\n", "    return 1\0\r\n"], "def f():\r    return 1\r", "def f():\n    return 1\n"]
)
def test_sources_are_text_with_plain_line_ends(submitted, lines):
    cell_of(submitted, ANSWER).source = lines
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert cell_of(rebuilt, ANSWER).source == "def f():\n    return 1\n"
    assert repairs == []


def test_half_a_surrogate_pair_can_be_written(submitted):
    cell_of(submitted, ANSWER).source = "x = '\ud800'"
    rebuilt, _ = rebuild(submitted, RELEASED)
    assert nbformat.writes(rebuilt).encode("utf-8")


def test_an_emptied_answer_stays_empty_and_is_told(submitted):
    cell_of(submitted, ANSWER).source = " \n"
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert not cell_of(rebuilt, ANSWER).source.strip()
    assert repairs == [f"{ANSWER} was empty; it counts as not started"]


def test_no_stub_overrides_an_answer_in_a_cell_of_another_purpose(submitted):
    setup = next(cell for cell in submitted.cells if cell.cell_type == "code")
    setup.source += "\n" + cell_of(submitted, ANSWER).source
    submitted.cells = [cell for cell in submitted.cells if cell.id != ANSWER]
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert repairs == [f"{ANSWER} was missing; what another cell defines counts"]
    assert cell_of(rebuilt, ANSWER).source == ""
    assert any("'mine'" in cell.source for cell in rebuilt.cells[: position(rebuilt, ANSWER)])


def test_code_under_a_foreign_grade_id_is_the_students_own(submitted):
    submitted.cells.append(new_code_cell("1 + 1", metadata={"nbgrader": {"grade_id": "of-another-unit"}}))
    rebuilt, _ = rebuild(submitted, RELEASED)
    assert rebuilt.cells[-1].source == "1 + 1"


def test_many_copies_are_told_once(submitted):
    submitted.cells += [deepcopy(cell_of(submitted, ANSWER)) for _ in range(2000)]
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert len(repairs) == 1
    assert len(rebuilt.cells) == len(RELEASED.cells) + 1


GARBAGE = [
    None,
    3,
    "text",
    ["text"],
    {"grade_id": ["x"]},
    {"nbgrader": {"grade_id": ["x"]}},
    {"nbgrader": [], "tags": {"a": 1}},
]


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("key", ["id", "cell_type", "metadata", "source", "outputs", "attachments"])
def test_no_type_in_a_cell_is_trusted(submitted, key, value):
    check = cell_of(submitted, CHECK)
    check[key] = value
    submitted.cells.append(deepcopy(check))
    submitted.cells += [value, {key: value}]
    rebuilt, _ = rebuild(submitted, RELEASED)
    nbformat.validate(rebuilt)
    assert "'mine'" in cell_of(rebuilt, ANSWER).source
    assert cell_of(rebuilt, CHECK) == cell_of(RELEASED, CHECK)


@pytest.mark.parametrize("notebook", [*GARBAGE, {"cells": 3}, {"cells": {"a": 1}}])
def test_what_is_no_notebook_counts_as_not_started(notebook):
    rebuilt, _ = rebuild(notebook, RELEASED)
    assert rebuilt.cells[1:] == [
        cell if EXPERIMENT not in cell.metadata.get("tags", []) else rebuilt.cells[i + 1]
        for i, cell in enumerate(RELEASED.cells)
    ]


def test_nothing_but_code_gets_through(submitted):
    mark = "<script>mine</script>"
    submitted.metadata = {"kernelspec": {"name": mark, "display_name": mark}, "title": mark}
    submitted.cells.append(new_markdown_cell(mark))
    for cell in submitted.cells:
        cell.metadata["name"], cell["attachments"] = mark, {mark: {}}
        cell["outputs"] = [{"output_type": "display_data", "data": {"text/html": mark}, "metadata": {}}]
    cell_of(submitted, ANSWER).cell_type = mark
    rebuilt, _ = rebuild(submitted, RELEASED)
    assert mark not in nbformat.writes(rebuilt)


def test_ten_times_the_cells_take_about_ten_times_as_long(submitted):
    def seconds(count):
        notebook = deepcopy(submitted)
        notebook.cells += [new_code_cell(f"def f{i}(): return magnitude_prune\n" * 20, id=f"m{i}") for i in range(count)]
        without_metadata(notebook)
        start = time.perf_counter()
        rebuild(notebook, RELEASED)
        return time.perf_counter() - start

    seconds(200)
    assert seconds(2000) < 40 * max(seconds(200), 0.005)


def test_the_released_notebook_is_read_once_until_it_changes(tmp_path):
    (tmp_path / "solutions" / "02_magnitude").mkdir(parents=True)
    path = notebook_path(tmp_path / "solutions", "02_magnitude")
    nbformat.write(render(course_root(Path(__file__).parent), "02_magnitude"), path)
    first = released_notebook(notebook_path(tmp_path / "solutions", "02_magnitude"))
    assert [cell.source for cell in first.cells] == [cell.source for cell in RELEASED.cells]
    assert released_notebook(notebook_path(tmp_path / "solutions", "02_magnitude")) is first
    nbformat.write(nbformat.v4.new_notebook(metadata=first.metadata, cells=first.cells[:3]), path)
    os.utime(path, ns=(1, 1))
    assert len(released_notebook(notebook_path(tmp_path / "solutions", "02_magnitude")).cells) == 3
