"""What stands for `autograder` beside student code has every name that a notebook uses, and judges nothing."""

import pytest

import autograder
from autograder.inside import package


def test_all_that_a_notebook_imports_is_there():
    assert all(hasattr(package, name) for name in autograder.__all__)


def test_whatever_a_learner_left_in_a_notebook_does_not_end_it(capsys):
    assert package.check("magnitude.prune", len) is None
    assert package.check.needs("magnitude.prune", "magnitude.global") is None
    assert package.progress() is package.progress("magnitude") is None
    assert capsys.readouterr().out == "magnitude.prune is judged outside of this notebook.\n"


def test_there_are_no_inputs_of_hidden_calls():
    with pytest.raises(RuntimeError, match="while a notebook is judged"):
        package.check.inputs("magnitude.prune")
