"""The products on a CPU, compiled: the chosen rows are read once, where they are, and a sum is one thread's.

`threshold`, `columns` and `rows` are all that cpu.py uses. Arguments are as there; W is contiguous, and of the dtype of x.
Sums are in float32, in the order of the rows, for any number of threads, and are rounded once.
"""

import numpy as np
import torch
from torch import Tensor

from sparsity_edu.kernels.compiled import FAST, KINDS, ORDERED, Loops, array, number, part, prange, rounded

BLOCK = 2048  # columns whose sums stay in the nearest cache while rows are added
ALIGNED = 32  # columns: a block begins where a line of the cache does


def threshold(W: Tensor, x: Tensor, thresholds: tuple[float, ...], sizes: tuple[int, ...]) -> Tensor:
    """`gemv_threshold`: (..., K) to (..., N)."""
    (K, N), (*leading, _), x = W.shape, x.shape, x.contiguous()
    y, first = x.new_empty(*leading, N), 0
    tokens, addresses = y.numel() // N, (KINDS[x.dtype], W.data_ptr(), x.data_ptr(), y.data_ptr())
    if len(sizes) > 1 and len(set(thresholds)) == 1:
        thresholds, sizes = thresholds[:1], (N,)
    for limit, size in zip(thresholds, sizes, strict=True):
        _add_large(tokens * K * size, *addresses, tokens, K, N, limit, first, first + size, _width(size))
        first += size
    return y


def columns(W: Tensor, idx: Tensor, x: Tensor, count: Tensor | None, group: int) -> Tensor:
    """`gemv_columns`: (tokens, n * group) to (tokens, N)."""
    (K, N), (tokens, most), x, idx = W.shape, x.shape, x.contiguous(), idx.long().contiguous()
    y, n = x.new_empty(tokens, N), most if count is None else int(count) * group
    addresses = KINDS[x.dtype], W.data_ptr(), x.data_ptr(), y.data_ptr(), idx.data_ptr()
    if not _add_chosen(tokens * n * N, *addresses, tokens, K, N, n, most, group, _width(N)):
        raise _not_there(idx, K, group)
    return y


def rows(W: Tensor, idx: Tensor, x: Tensor, count: Tensor | None, group: int) -> Tensor:
    """`gemv_rows`: (tokens, K) to (tokens, n * group)."""
    (N, K), tokens, most, x, idx = W.shape, len(x), len(idx) * group, x.contiguous(), idx.long().contiguous()
    y, n = (x.new_empty(tokens, most), most) if count is None else (x.new_zeros(tokens, most), int(count) * group)
    addresses = KINDS[x.dtype], W.data_ptr(), x.data_ptr(), y.data_ptr(), idx.data_ptr()
    if not _multiply(tokens * n * K, *addresses, tokens, K, N, n, most, group):
        raise _not_there(idx, N, group)
    return y


def _width(columns: int) -> int:
    """Of blocks of columns: as many for each thread, none of them wider than BLOCK."""
    threads = torch.get_num_threads()
    blocks = threads * -(-columns // (threads * BLOCK))
    return -(-columns // (blocks * ALIGNED)) * ALIGNED


def _not_there(idx: Tensor, K: int, group: int) -> IndexError:
    return IndexError(f"idx must be of groups of rows of W, 0 to {K // group - 1}, got {int(idx.min())} to {int(idx.max())}")


@part(FAST)
def _rows_of(idx, n, group, K, chosen):
    """The n rows that indices of groups stand for, into `chosen`; whether W has all of them, of K."""
    for i in range(n):
        if not 0 <= idx[i // group] < K // group:
            return False
        chosen[i] = idx[i // group] * group + i % group
    return True


# Rows by weights: sums of rows


@Loops
def _add_large(kind, W_at, x_at, y_at, tokens, K, N, limit, first, end, width):
    """y[:, first:end] = x W, of inputs above the limit: W (K, N), x (tokens, K), y (tokens, N)."""
    W, x, y = array(kind, W_at, (K, N)), array(kind, x_at, (tokens, K)), array(kind, y_at, (tokens, N))
    rows, weights, counts = np.empty((tokens, K), np.uint64), np.empty((tokens, K), np.float32), np.empty(tokens, np.int64)
    for token in range(tokens):
        n = 0
        for k in range(K):  # the next one overwrites what is too small
            value = number(x[token, k])
            rows[token, n], weights[token, n] = k, value
            n += abs(value) > np.float32(limit)
        counts[token] = n
    blocks = (end - first + width - 1) // width
    for task in prange(tokens * blocks):
        token, low = task // blocks, first + task % blocks * width
        n = counts[token]
        _add_rows(W, rows[token, :n], weights[token, :n], low, y[token, low : min(low + width, end)])


@Loops
def _add_chosen(kind, W_at, x_at, y_at, idx_at, tokens, K, N, n, most, group, width):
    """y = x W[rows], of the first n: W (K, N), x (tokens, most), y (tokens, N), idx (most // group,). False: no such rows."""
    W, x, y = array(kind, W_at, (K, N)), array(kind, x_at, (tokens, most)), array(kind, y_at, (tokens, N))
    rows, weights = np.empty(n, np.uint64), np.empty((tokens, n), np.float32)
    if not _rows_of(array(0, idx_at, (most // group,)), n, group, K, rows):
        return False
    for token in range(tokens):
        for i in range(n):
            weights[token, i] = number(x[token, i])
    blocks = (N + width - 1) // width
    for task in prange(tokens * blocks):
        token, low = task // blocks, task % blocks * width
        _add_rows(W, rows, weights[token], low, y[token, low : min(low + width, N)])
    return True


@part(ORDERED)
def _add_rows(W, rows, weights, low, y):
    """y = weights W[rows], of some columns from `low` on.

    Eight rows at a time: sums are read and written once for all of them. Indices have no sign, for of one that has numba would
    ask at every step whether it counts from the end.
    """
    sums, width, column = np.zeros(len(y), np.float32), np.uint64(len(y)), np.uint64(low)
    eights = len(rows) // 8 * 8
    for i in range(0, eights, 8):
        a, b, c, d, e, f, g, h = (
            rows[i], rows[i + 1], rows[i + 2], rows[i + 3], rows[i + 4], rows[i + 5], rows[i + 6], rows[i + 7]
        )  # fmt: skip
        p, q, r, s, t, u, v, w = (
            weights[i], weights[i + 1], weights[i + 2], weights[i + 3],
            weights[i + 4], weights[i + 5], weights[i + 6], weights[i + 7],
        )  # fmt: skip
        for j in range(width):
            k = column + j
            sums[j] += (
                p * number(W[a, k]) + q * number(W[b, k]) + r * number(W[c, k]) + s * number(W[d, k])
                + t * number(W[e, k]) + u * number(W[f, k]) + v * number(W[g, k]) + w * number(W[h, k])
            )  # fmt: skip
    for i in range(eights, len(rows)):
        for j in range(width):
            sums[j] += weights[i] * number(W[rows[i], column + j])
    for j in range(width):
        y[j] = rounded(y[j], sums[j])


# Rows by an input: a number for each row


@Loops
def _multiply(kind, W_at, x_at, y_at, idx_at, tokens, K, N, n, most, group):
    """y[:, :n] = x W[rows]^T: W (N, K), x (tokens, K), y (tokens, most), idx (most // group,). False: no such rows."""
    W, x, y = array(kind, W_at, (N, K)), array(kind, x_at, (tokens, K)), array(kind, y_at, (tokens, most))
    rows = np.empty(n, np.int64)
    if not _rows_of(array(0, idx_at, (most // group,)), n, group, N, rows):
        return False
    for i in prange(n):
        for token in range(tokens):
            y[token, i] = rounded(y[token, i], _dot(W[rows[i]], x[token]))
    return True


@part(FAST)
def _dot(w, x):
    total = np.float32(0)
    for k in range(len(x)):
        total += number(w[k]) * number(x[k])
    return total
