"""Thresholds from histograms as the authors have them, and the plain quantile beside them."""

import pytest
import torch
from authors import TealDistribution
from hypothesis import given
from hypothesis import strategies as st

from sparsity_edu.activations.histogram import Histogram, Quantiles

LEVELS = (0.0, 1e-4, 0.01, 0.25, 0.4, 0.5, 0.77, 0.9, 0.95, 0.985, 0.999, 1.0, 1.05)


def laplace(n=60_000, shift=0.0, seed=0):
    u = torch.rand(n, generator=torch.Generator().manual_seed(seed)) - 0.5
    return -u.sign() * (1 - 2 * u.abs()).log() + shift


@pytest.mark.parametrize("shift", [0.0, 0.7, -3.0])
def test_bins_and_thresholds_are_the_authors(shift):
    x = laplace(shift=shift) ** 3
    ours, theirs = Histogram.of(x.view(3, -1, 4)), TealDistribution(x)
    assert torch.equal(ours.counts, theirs.counts.long())
    torch.testing.assert_close(ours.centers.float(), theirs.bin_centers)
    assert ours.counts[[0, -1]].tolist() == [600, 600]  # 1 % each
    for level in LEVELS:
        assert ours.threshold(level) == pytest.approx(theirs.threshold(level), rel=1e-3, abs=1e-6)


def test_it_is_the_share_asked_for_where_inputs_are_symmetric_and_not_elsewhere():
    for shift, histogram in ((0.0, 0.5), (0.7, 0.69)):
        x = laplace(200_000, shift)
        for rule, share in ((Histogram, histogram), (Quantiles, 0.5)):
            zeros = x.abs() <= rule.of(x).threshold(0.5)
            assert float(zeros.float().mean()) == pytest.approx(share, abs=0.01)


def test_the_last_bin_is_wide():
    x = laplace()
    highest = Histogram.of(x).threshold(1.0)
    assert highest < 0.7 * x.max()
    assert Histogram.of(x).threshold(2.0) == highest
    assert Quantiles.of(x).threshold(1.0) == pytest.approx(float(x.abs().max()))


@given(st.integers(1, 3000), st.integers(0, 10_000), st.integers(0, 50))
def test_quantiles_are_those_of_torch(n, level, seed):
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()
    expected = torch.quantile(x.abs().double(), level / 10_000)
    assert Quantiles.of(x).threshold(level / 10_000) == pytest.approx(float(expected) if level else 0.0, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_inputs_of_any_kind_are_counted_as_they_are(dtype):
    x = laplace(5000).to(dtype)
    assert Histogram.of(x).threshold(0.5) == Histogram.of(x.float()).threshold(0.5)
    assert Quantiles.of(x[::2]).threshold(0.5) == Quantiles.of(x[::2].float()).threshold(0.5)


def test_inputs_most_of_which_are_zero():
    x = laplace(20_000).relu() * (torch.arange(20_000) % 3 == 0)  # five of six
    assert Histogram.of(x).counts.sum() == 20_000
    assert Quantiles.of(x).threshold(0.8) == 0
    assert Quantiles.of(x).threshold(0.9) > 0
    assert Histogram.of(-x - 1).threshold(0.1) < 0  # without effect


def test_what_is_refused():
    with pytest.raises(ValueError, match="x must hold at least 100 numbers, got 99"):
        Histogram.of(torch.randn(99))
    for rule in (Histogram, Quantiles):
        with pytest.raises(ValueError, match="at least one number, got none"):
            rule.of(torch.empty(0))
        with pytest.raises(ValueError, match="finite numbers only"):
            rule.of(torch.tensor([1.0] * 200 + [float("nan")]))
        for level in (-0.1, float("nan")):
            with pytest.raises(ValueError, match="sparsity must be at least 0"):
                rule.of(torch.randn(200)).threshold(level)
