"""Products with 2:4 weights on a CPU: a compiled loop that reads 0.5625 of the bytes (of 16-bit numbers; 0.53 of float32).

A CPU adds up several outputs at once. So the weights that two kept inputs of every four have lie side by side for all outputs,
and each output says with two bits which of the four inputs a weight is for: a vector register picks among four numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparsity_edu.kernels.compiled import FAST, KINDS, ORDERED, Loops, array, can_run, number, part, prange, rounded
from sparsity_edu.storage import TwoFour

BLOCK, ALIGNED = 2048, 64  # columns of a task: their sums stay in the nearest cache; of which multiples are taken
WIDE = 512  # outputs from which on the loop is no slower than a dense product


@dataclass(frozen=True)
class Columns24:
    """Two values of every four inputs and which two they are, as many inputs by outputs: a CPU's order of `Packed24`.

    A byte holds two groups: i0 | i1 << 2 of the even one in its lower half, of the odd one in the upper.
    """

    values: Tensor  # (K / 2, N), float32 or bfloat16
    codes: Tensor  # uint8 (K / 8, N)

    @classmethod
    def of(cls, W: Tensor) -> Columns24:
        """From a 2:4 matrix.

        Args:
            W: (N, K), float32 or bfloat16, at most 2 non-zeros in every 4 neighbours of a row, K a multiple of 8.

        Raises:
            ValueError: `W` has another dtype or shape, or a group holds more than 2 non-zeros.
        """
        if W.ndim != 2 or W.dtype not in KINDS or W.shape[1] % 8:
            raise ValueError(f"W must be (N, K) in float32 or bfloat16, K a multiple of 8, got {tuple(W.shape)} in {W.dtype}")
        encoded = TwoFour.encode(W)
        return cls(encoded.values.T.contiguous(), encoded.indices.view(W.shape[0], W.shape[1] // 8).T.contiguous())

    @property
    def shape(self) -> tuple[int, int]:
        """Of the dense matrix, (N, K)."""
        return self.values.shape[1], 2 * self.values.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.values.nbytes + self.codes.nbytes

    def dense(self) -> Tensor:
        """The dense matrix (N, K)."""
        return TwoFour(self.values.T.contiguous(), self.codes.T.flatten(), self.shape).decode()


def can_multiply(W: Tensor) -> bool:
    """Whether a matrix (N, K) can be stored and multiplied so here."""
    return W.shape[1] % 8 == 0 and can_run(W.detach())


def is_fast(W: Tensor) -> bool:
    """Whether that is faster than torch's dense product: `benchmarks/kernels_cpu.py packed` measures it.

    To pick inputs takes as long as to read 16 bits, so that only float32 gains; and few outputs leave short rows to read.
    """
    return W.dtype == torch.float32 and len(W) >= WIDE and can_multiply(W)


def gemv(W: Columns24, x: Tensor) -> Tensor:
    """y = x W^T, token by token.

    Args:
        W: the weights.
        x: (..., K), in their dtype.

    Returns:
        (..., N), accumulated in float32 and rounded once.
    """
    (N, K), x = W.shape, x.contiguous()
    y = x.new_empty(*x.shape[:-1], N)
    tokens, addresses = x.numel() // K, (KINDS[x.dtype], W.values.data_ptr(), W.codes.data_ptr(), x.data_ptr(), y.data_ptr())
    threads = torch.get_num_threads()
    blocks = threads * -(-N // (threads * BLOCK))
    width = -(-N // (blocks * ALIGNED)) * ALIGNED
    _add_groups(tokens * K * N // 2, *addresses, tokens, K, N, width)
    return y


@Loops
def _add_groups(kind, values_at, codes_at, x_at, y_at, tokens, K, N, width):
    """y = x W^T: values (K / 2, N), codes (K / 8, N), x (tokens, K), y (tokens, N)."""
    values, codes = array(kind, values_at, (K // 2, N)), array(np.uint8(0), codes_at, (K // 8, N))
    x, y = array(kind, x_at, (tokens, K)), array(kind, y_at, (tokens, N))
    blocks = (N + width - 1) // width
    for task in prange(tokens * blocks):
        token, low = task // blocks, task % blocks * width
        _add_pairs(values, codes, x[token], low, y[token, low : min(low + width, N)])


@part(ORDERED)
def _add_pairs(values, codes, x, low, y):
    """y = x W^T, of some columns from `low` on: eight inputs at a time, of which each output has four weights."""
    sums, width, first = np.zeros(len(y), np.float32), np.uint64(len(y)), np.uint64(low)
    for i in range(len(codes)):
        k, row = 8 * i, np.uint64(4 * i)
        p, q, r, s = number(x[k]), number(x[k + 1]), number(x[k + 2]), number(x[k + 3])
        t, u, v, w = number(x[k + 4]), number(x[k + 5]), number(x[k + 6]), number(x[k + 7])
        for j in range(width):
            column = first + j
            code = np.uint32(codes[np.uint64(i), column])
            sums[j] += (
                _pick(code & np.uint32(3), p, q, r, s) * number(values[row, column])
                + _pick((code >> np.uint32(2)) & np.uint32(3), p, q, r, s) * number(values[row + np.uint64(1), column])
                + _pick((code >> np.uint32(4)) & np.uint32(3), t, u, v, w) * number(values[row + np.uint64(2), column])
                + _pick(code >> np.uint32(6), t, u, v, w) * number(values[row + np.uint64(3), column])
            )
    for j in range(width):
        y[j] = rounded(y[j], sums[j])


@part(FAST, inline="always")
def _pick(i, a, b, c, d):
    """The i-th of four; as arithmetic without branches, which all lanes of a vector can do at once."""
    low = b if i & np.uint32(1) else a
    high = d if i & np.uint32(1) else c
    return high if i & np.uint32(2) else low
