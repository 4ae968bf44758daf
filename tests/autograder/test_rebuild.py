"""A submission is put back on the released notebook; nothing the student did elsewhere reaches nbgrader."""

from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

from autograder.judge.rebuild import rebuild
from autograder.lessons.source import EXPERIMENT, course_root, render, with_stubs

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


def test_the_first_copy_of_a_duplicated_answer_counts(submitted):
    copy = deepcopy(cell_of(submitted, ANSWER))
    copy.id, copy.source = "copy", "def magnitude_prune(W, sparsity): return 'the copy'"
    submitted.cells.insert(position(submitted, ANSWER) + 1, copy)
    rebuilt, repairs = rebuild(submitted, RELEASED)
    assert "'mine'" in cell_of(rebuilt, ANSWER).source
    assert not any("the copy" in cell.source for cell in rebuilt.cells)
    assert "more than once" in repairs[0]
    assert repairs[0] in rebuilt.cells[0].source  # the student reads it in the feedback
    assert [cell.id for cell in rebuilt.cells[1:]] == [cell.id for cell in RELEASED.cells]


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
