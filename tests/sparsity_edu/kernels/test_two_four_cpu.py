"""The compiled product with 2:4 weights: any shape, any threads, the same numbers as the dense matrix."""

import pytest
import torch
from torch import nn

from sparsity_edu.kernels import two_four, two_four_cpu
from sparsity_edu.kernels.compiled import numba
from sparsity_edu.kernels.two_four import TwoFourLinear
from sparsity_edu.kernels.two_four_cpu import Columns24, gemv
from sparsity_edu.patterns import n_m

pytestmark = pytest.mark.skipif(numba is None, reason="numba is not installed")


def two_four_matrix(N, K, dtype=torch.float32, seed=0):
    W = torch.randn(N, K, generator=torch.Generator().manual_seed(seed))
    return W.masked_fill(~n_m(W.abs(), 2, 4), 0).to(dtype)


@pytest.mark.parametrize(
    ("N", "K", "tokens"), [(1, 8, ()), (3, 16, (1,)), (65, 24, (2, 3)), (2100, 40, (5,)), (700, 1024, (1, 1))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_is_that_of_the_dense_matrix(N, K, tokens, dtype):
    W, x = two_four_matrix(N, K, dtype), torch.randn(*tokens, K).to(dtype)
    packed = Columns24.of(W)
    assert torch.equal(packed.dense(), W)
    assert packed.nbytes == W.numel() // 2 * W.itemsize + W.numel() // 8
    y, expected = gemv(packed, x), x.double() @ W.double().T
    assert y.shape == expected.shape
    assert y.dtype == dtype
    scale = (x.double().abs() @ W.double().abs().T).max()
    assert (y.double() - expected).abs().max() <= scale * (1e-6 if dtype == torch.float32 else 4e-3)


def test_all_pairs_of_places_in_both_halves_of_a_byte():
    pairs = torch.combinations(torch.arange(4))
    W = torch.zeros(36, 8)
    for i, (first, second) in enumerate((a, b) for a in pairs for b in pairs):
        W[i, first], W[i, second + 4] = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 8.0])
    x = torch.tensor([1.0, 10, 100, 1000, 1e4, 1e5, 1e6, 1e7])
    assert torch.equal(gemv(Columns24.of(W), x), W @ x)


def test_rows_with_fewer_than_two_numbers_and_what_is_not_finite():
    W = torch.zeros(4, 8)
    W[1, 3], W[2, 5], W[3, 0] = 2.0, float("inf"), float("nan")
    y = gemv(Columns24.of(W), torch.ones(8))
    assert y[:3].tolist() == [0, 2, float("inf")]
    assert y[3].isnan()


@pytest.mark.parametrize(
    "W",
    [torch.ones(4, 8), two_four_matrix(4, 12), two_four_matrix(4, 8).half(), two_four_matrix(4, 8)[0]],
    ids=["dense", "columns", "float16", "vector"],
)
def test_other_matrices_are_refused(W):
    with pytest.raises(ValueError, match=r"^W must "):
        Columns24.of(W)


def test_a_layer_multiplies_so_and_is_dense_again_afterwards(monkeypatch):
    layer = nn.Linear(64, 600)
    with torch.no_grad():
        layer.weight.copy_(two_four_matrix(600, 64))
    sparse = TwoFourLinear.of(layer)
    assert isinstance(sparse.packed, Columns24)
    called = []
    monkeypatch.setattr(two_four_cpu, "gemv", lambda W, x: called.append(x.shape) or gemv(W, x))
    for tokens in (1, 8, 9):
        x = torch.randn(2, tokens // 2 + 1, 64) if tokens == 9 else torch.randn(tokens, 64)
        with torch.no_grad():
            torch.testing.assert_close(sparse(x), layer(x), rtol=1e-5, atol=1e-5)
    assert len(called) == 2  # more tokens are multiplied by the dense matrix
    torch.testing.assert_close(sparse.dense().weight, layer.weight, rtol=0, atol=0)


def test_gradients_reach_the_inputs():
    packed, x = Columns24.of(two_four_matrix(16, 8)), torch.randn(8, requires_grad=True)
    two_four.gemv(packed, x).sum().backward()
    torch.testing.assert_close(x.grad, packed.dense().sum(dim=0))


def test_only_wide_layers_in_float32_are_said_to_be_fast():
    assert two_four.is_fast(torch.zeros(two_four_cpu.WIDE, 8))
    assert not two_four.is_fast(torch.zeros(two_four_cpu.WIDE - 1, 8))
    assert not two_four.is_fast(torch.zeros(two_four_cpu.WIDE, 8, dtype=torch.bfloat16))
    assert not two_four.is_fast(torch.zeros(two_four_cpu.WIDE, 12))
