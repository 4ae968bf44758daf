"""Unit 15: its fixtures against the library, and its kernels against dense products."""

import pytest
import torch

from autograder.exercises.two_four.fixtures import packed, two_four, unpacked
from sparsity_edu.kernels import packed24


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("N", "K", "least"), [(1, 16, 2), (5, 48, 0), (33, 80, 1)])
def test_the_independent_packing_is_the_library_s(N, K, least, dtype):
    W = two_four(torch.Generator().manual_seed(N), N, K, least=least, dtype=dtype)
    values, codes = packed(W)
    theirs = packed24.pack(W)
    assert torch.equal(values, theirs.values)
    assert torch.equal(codes, theirs.codes)
    assert torch.equal(unpacked(values, codes), W)


@pytest.mark.parametrize(("N", "K", "T"), [(1, 16, 1), (37, 80, 5), (16, 272, 8)])
def test_the_reference_kernel_is_a_dense_product(N, K, T):
    pytest.importorskip("triton")
    from autograder.exercises.two_four import kernels

    g = torch.Generator().manual_seed(T)
    W, x = two_four(g, N, K, least=0), torch.randn(T, K, generator=g).half()
    want = (x.double() @ W.double().T).half()
    torch.testing.assert_close(kernels.few(*packed(W), x), want, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(kernels.split(*packed(W), x[0]), want[0], rtol=1e-3, atol=1e-3)
