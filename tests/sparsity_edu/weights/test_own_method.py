"""A method of one's own in the walk over a model: unit 04 prunes SmolLM2 with a learner's functions."""

import pytest
import torch

from sparsity_edu.models import load
from sparsity_edu.weights import sparsegpt
from sparsity_edu.weights.driver import METHODS, Method, prune_


@pytest.fixture
def model():
    return load("tiny").model


def test_a_method_by_itself_does_what_its_name_does(model):
    windows = torch.arange(128).view(2, 64)
    named = load("tiny").model
    by_name = prune_(named, "sparsegpt", 0.5, calibration=windows, progress=False)
    by_method = prune_(model, METHODS["sparsegpt"], 0.5, calibration=windows, progress=False)
    assert by_name == by_method
    assert all(torch.equal(a, b) for a, b in zip(named.parameters(), model.parameters(), strict=True))


def test_a_method_of_ones_own_gets_matrices_statistic_and_target(model):
    seen = []

    def prune(Ws, inputs, sparsity, pattern):
        seen.append((len(Ws), inputs.n, sparsity, pattern))
        return [W * 0 for W in Ws]

    own = Method(statistic=lambda cols, device: sparsegpt.Hessian(cols), prune=prune)
    results = prune_(model, own, pattern="2:4", calibration=torch.arange(96).view(3, 32), progress=False)
    assert {result.sparsity for result in results} == {1.0}
    assert set(seen) == {(3, 3, None, "2:4"), (2, 3, None, "2:4"), (1, 3, None, "2:4")}


def test_an_unknown_name_is_refused(model):
    with pytest.raises(ValueError, match="method must be one of magnitude, wanda, sparsegpt, got 'obs'"):
        prune_(model, "obs", 0.5)
