"""What is beyond the sum, and how sure that is."""

import pytest
import torch

from sparsity_edu.combine.interaction import interaction

G = torch.Generator().manual_seed(0)
DENSE = 3 + torch.rand(40, generator=G)


def test_errors_that_add_up_leave_nothing():
    dense, a, b = ((64 * x).round() / 64 for x in (DENSE, DENSE + 0.3, DENSE + 0.5))
    assert interaction(dense, a, b, a + b - dense) == (0.0, 0.0)


def test_what_texts_have_in_common_drops_out():
    wide = DENSE.double()
    more = 0.1 + 0.02 * torch.randn(40, generator=G).double()
    found = interaction(wide, wide + 0.3, wide + 0.5, wide + 0.8 + more)
    other = interaction(10 * wide, 10 * wide + 0.3, 10 * wide + 0.5, 10 * wide + 0.8 + more)
    assert found.mean == pytest.approx(more.mean().item()) == other.mean
    assert found.standard_error == pytest.approx(more.std().item() / 40**0.5) == other.standard_error


def test_half_precision_is_converted_first():
    losses = [x.bfloat16() for x in (DENSE, DENSE + 0.3, DENSE + 0.5, DENSE + 0.9)]
    assert interaction(*losses) == interaction(*(x.double() for x in losses))


def test_the_error_bar_holds_what_it_says():
    hits = 0
    for _ in range(300):
        gaps = 0.05 + 0.1 * torch.randn(12, generator=G).double()
        mean, error = interaction(torch.zeros(12), torch.zeros(12), torch.zeros(12), gaps)
        hits += abs(mean - 0.05) < 2.2 * error  # Student's t with 11 degrees of freedom: 95 % within 2.2
    assert 270 < hits <= 299


@pytest.mark.parametrize("shapes", [[(1,)] * 4, [(3,), (3,), (3,), (2,)], [(3,), (1,), (3,), (3,)], [(3, 1)] * 4, [()] * 4])
def test_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match=r"losses must be \(texts,\) each, of two texts or more"):
        interaction(*map(torch.zeros, shapes))
