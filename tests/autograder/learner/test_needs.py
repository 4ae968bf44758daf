"""An experiment that is run too early says so at once."""

import ast
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from autograder import check
from autograder.exercises import UNITS, exercises_of, find, number_of
from autograder.learner.needs import NotDone
from autograder.lessons.layout import EXPERIMENT, course_root
from autograder.lessons.source import _begin_experiments, render
from tests.ran import solved, stubs

ROOT = course_root(Path(__file__).parent)


def experiments(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if EXPERIMENT in cell.metadata.get("tags", [])]


def begin(source: str) -> str:
    """The call at the head of an experiment; no cell that needs nothing has one."""
    return source.split("\n\n")[0] if source.startswith("check.needs(") else ""


@pytest.mark.parametrize("unit", UNITS)
def test_with_stubs_each_experiment_names_what_is_to_be_done_and_with_solutions_none(unit):
    heads = [begin(source) for source in experiments(render(ROOT, unit))]
    assert any(heads)
    for head in filter(None, heads):
        exec(head, solved(unit))
        named = [exercise for exercise in exercises_of(unit) if f'"{exercise.id}"' in head]
        for namespace in (stubs(unit), {"check": check}):
            with pytest.raises(NotDone) as error:
                exec(head, namespace)
            assert all(f"{number_of(exercise.id)} ({exercise.defines})" in str(error.value) for exercise in named)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("unit", UNITS)
def test_every_exercise_that_an_experiment_names_is_asked_for_before_anything_is_done(unit):
    for source in experiments(render(ROOT, unit)):
        names = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
        used = [exercise.id for exercise in exercises_of(unit) if exercise.defines in names]
        assert [id for id in used if f'"{id}"' not in begin(source)] == []


def cells(*sources: str) -> list[nbformat.NotebookNode]:
    """Sources as cells; those that begin with # are experiments."""
    return [new_code_cell(s, metadata={"tags": [EXPERIMENT] if s.startswith("#") else []}) for s in sources]


def test_an_experiment_needs_what_the_cells_need_that_it_builds_on():
    made = cells(
        "def helper(W):\n    return magnitude_prune(W, 0.5)",
        "# an experiment\nresults = [cubic_sparsity(t, 0, 1, 1.0) for t in range(3)]",
        "# a second\nhelper(W)",
        "# a third\nprint(results)",
        "# a fourth\nresults = 3\nprint(results)",
        "# a fifth\nmagnitude_prune = print\nmagnitude_prune()",
        "# a sixth\ndef f(cubic_sparsity):\n    return cubic_sparsity",
    )
    _begin_experiments("02_magnitude", made)
    asked = [begin(cell.source).removeprefix("check.needs(").rstrip(")") for cell in made]
    assert asked == ["", '"magnitude.schedule"', '"magnitude.prune"', '"magnitude.schedule"', "", "", ""]


class Written:
    def __init__(self):
        pass

    def decode(self):
        raise NotImplementedError


def stub(W):
    """The contract."""
    # YOUR CODE HERE
    raise NotImplementedError()


def half_done(W):
    W = W + 1
    raise NotImplementedError()


def refuses(W):
    if W is None:
        raise NotImplementedError("no W")
    return W


@pytest.mark.parametrize("thing", [stub, half_done, Written, None])
def test_what_is_not_written(thing):
    with pytest.raises(NotDone) as error:
        exec('check.needs("patterns.bitmap")', {"check": check, "Bitmap": thing})
    assert str(error.value) == "This experiment uses exercise 1.4 (Bitmap): do that first."


@pytest.mark.parametrize("thing", [refuses, lambda W: W, print, dict, eval("lambda W: W"), 3])
def test_what_is_written(thing):
    exec('check.needs("patterns.bitmap")', {"check": check, "Bitmap": thing})


def test_several_are_one_sentence():
    with pytest.raises(
        NotDone, match=r"uses exercises 2\.2 \(magnitude_prune\), 2\.5 \(cubic_sparsity\) and 2\.6 \(.*do these first"
    ):
        exec('check.needs("magnitude.prune", "magnitude.schedule", "magnitude.iterative")', {"check": check})


def test_a_notebook_shows_the_sentence_only():
    with pytest.raises(NotDone) as error:
        exec('check.needs("magnitude.prune")', {"check": check})
    assert error.value._render_traceback_() == [str(error.value)]


def test_numbers_are_those_of_the_notebook():
    assert number_of("sparse_gemv.gather") == "16.7"
    assert find("sparse_gemv.gather") is exercises_of("16_sparse_gemv")[6]
