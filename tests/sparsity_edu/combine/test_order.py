"""Either order: what is calibrated sees what it should see, and nothing else."""

import pytest
import torch
from torch.nn import functional as F

from sparsity_edu.combine.order import combine, magnitude_threshold, without_small
from sparsity_edu.weights import wanda

G = torch.Generator().manual_seed(0)
W1, W2, X = torch.randn(16, 12, generator=G), torch.randn(10, 16, generator=G), torch.randn(20, 12, generator=G)


def test_weights_first_takes_thresholds_of_what_pruned_layers_read():
    found = combine(W1, W2, X, 0.5, 0.4, "weights")
    assert torch.equal(found.W1, wanda.prune(W1, X.norm(dim=0), 0.5))
    H = F.silu(X @ found.W1.T)
    assert torch.equal(found.W2, wanda.prune(W2, H.norm(dim=0), 0.5))
    assert (found.t1, found.t2) == (magnitude_threshold(X, 0.4), magnitude_threshold(H, 0.4))


def test_activations_first_prunes_on_what_is_left():
    found = combine(W1, W2, X, 0.5, 0.4, "activations")
    assert (found.t1, found.t2) == (magnitude_threshold(X, 0.4), magnitude_threshold(F.silu(X @ W1.T), 0.4))
    left = without_small(X, found.t1)
    assert torch.equal(found.W1, wanda.prune(W1, left.norm(dim=0), 0.5))
    H = without_small(F.silu(left @ found.W1.T), found.t2)
    assert torch.equal(found.W2, wanda.prune(W2, H.norm(dim=0), 0.5))


def test_with_one_technique_alone_the_order_does_not_matter_for_matrices():
    for settings in ((0.0, 0.4), (0.5, 0.0)):
        first, second = (combine(W1, W2, X, *settings, first) for first in ("weights", "activations"))
        assert torch.equal(first.W1, second.W1)
        assert torch.equal(first.W2, second.W2)


def test_half_precision_is_kept_and_not_worked_in():
    half = [x.bfloat16() for x in (W1, W2, X)]
    found, wide = combine(*half, 0.5, 0.4, "weights"), combine(*(x.float() for x in half), 0.5, 0.4, "weights")
    assert found.W1.dtype == found.W2.dtype == torch.bfloat16
    assert torch.equal(found.W1.float(), wide.W1)
    assert torch.equal(found.W2.float(), wide.W2)
    assert found.t2 == wide.t2


def test_thresholds_count_down():
    x = torch.tensor([[-3.0, 1.0], [2.0, -4.0]])
    assert [magnitude_threshold(x, level) for level in (0.0, 0.24, 0.25, 0.5, 0.99)] == [0.0, 0.0, 1.0, 2.0, 3.0]
    assert without_small(x, 2.0).tolist() == [[-3.0, 0.0], [0.0, -4.0]]


@pytest.mark.parametrize(
    ("settings", "message"), [((0.5, 1.0, "weights"), "level must"), ((0.5, 0.5, "both"), "first must be")]
)
def test_what_is_not_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        combine(W1, W2, X, *settings)
