"""`check`, as a learner and as nbgrader calls it."""

import functools
import json
from dataclasses import asdict

import pytest
import torch

from autograder import check
from autograder.exercises import find
from autograder.learner import progress
from autograder.learner.report import to_html
from autograder.learner.solved import Solved

ID = "magnitude.prune"
RIGHT = find(ID).reference


def misconception(name):
    return next(mistake.wrong for mistake in find(ID).misconceptions if mistake.name == name)


@pytest.fixture(autouse=True)
def nobody_else(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSITY_EDU_PROGRESS", str(tmp_path))
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)


def test_a_right_answer_is_remembered_and_the_unit_shown():
    verdict = check(ID, RIGHT)
    assert verdict.passed
    assert verdict.progress == progress.of_unit("02_magnitude")
    assert verdict.progress["done"] == 1
    assert progress.best(ID) == verdict.points == find(ID).points


def test_a_wrong_answer_says_why_and_takes_nothing_away():
    check(ID, RIGHT)
    verdict = check(ID, misconception("signed"))
    assert not verdict.passed
    assert "ranked W, not |W|" in repr(verdict)
    assert "ranked W, not |W|" in verdict._repr_html_()
    assert progress.best(ID) == find(ID).points


def test_checking_twice_gives_the_same():
    wrong = misconception("row by row")
    assert repr(check(ID, wrong)) == repr(check(ID, wrong))


def test_check_prints_nothing_and_leaves_the_random_state(capsys):
    state = torch.get_rng_state()
    check("magnitude.masked_step", find("magnitude.masked_step").reference)
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr() == ("", "")


class Callable:
    def __call__(self, W, sparsity):
        return RIGHT(W, sparsity)


@pytest.mark.parametrize(
    "answer", [Callable(), functools.partial(RIGHT), torch.no_grad()(RIGHT), lambda W, sparsity: RIGHT(W, sparsity)]
)
def test_whatever_can_be_called_is_a_function(answer):
    assert check(ID, answer).passed


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        (None, "an object of type NoneType"),
        (0.5, "an object of type float"),
        (torch.zeros(2, 2), "an object of type Tensor"),
        ("magnitude_prune", "an object of type str"),
        (Callable, "the class Callable"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_sentence(answer, given):
    with pytest.raises(TypeError) as error:
        check(ID, answer)
    assert str(error.value) == f"magnitude.prune checks the function magnitude_prune itself, got {given}"


@pytest.mark.parametrize(
    ("id", "advice"),
    [
        ("magnitude.prun", "did you mean magnitude.prune"),
        ("prune", "magnitude.prune"),
        ("02_magnitude.prune", "did you mean magnitude.prune"),
        ("zzz", "the units are 01_patterns, 02_magnitude"),
        (None, "the units are"),
        (RIGHT, ""),
    ],
)
def test_an_unknown_id_is_told_with_its_neighbours(id, advice):
    with pytest.raises(ValueError, match="unknown exercise") as error:
        check(id, RIGHT)
    assert advice in str(error.value)
    assert "\n" not in str(error.value)


def test_nbgrader_gets_points_and_the_student_the_verdict(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    monkeypatch.setattr("IPython.display.display", lambda value, metadata: shown.append((value, metadata)))
    points = check(ID, misconception("no check"))
    (verdict, metadata), *rest = shown
    assert rest == []
    assert points == verdict.points == find(ID).points - 1
    of_the_learner = {"progress": {}, "inputs": "", "solved": asdict(Solved())}
    assert json.loads(json.dumps(metadata))["verdict"] | of_the_learner == json.loads(json.dumps(verdict.to_dict()))
    assert "any sparsity" in to_html(verdict)
    assert list(tmp_path.iterdir()) == []  # a grader's machine remembers nothing of it


def test_the_package_gives_what_notebooks_import_and_nothing_else():
    import autograder
    from autograder.inside import sanitizer
    from autograder.sanitizer import watch  # notebooks released before December 2026

    assert autograder.watch is watch is sanitizer.watch
    assert set(autograder.__all__) == {"check", "progress", "watch"}
    with pytest.raises(AttributeError, match="no attribute 'chek'"):
        _ = autograder.chek
