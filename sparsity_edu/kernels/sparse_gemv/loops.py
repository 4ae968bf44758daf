"""The products on a CPU, compiled: the chosen rows are read once, where they are, and a sum is one thread's.

`threshold`, `columns` and `rows` are all that cpu.py uses. Arguments are as there; W is contiguous, and of the dtype of x.
Sums are in float32, in the order of the rows, for any number of threads, and are rounded once.
"""

import numpy as np
import torch
from torch import Tensor

from sparsity_edu.kernels.compiled import FAST, ORDERED, Loops, number, numbers, part, prange

BLOCK = 2048  # columns whose sums stay in the nearest cache while rows are added
ALIGNED = 32  # columns: a block begins where a line of the cache does


def threshold(W: Tensor, x: Tensor, thresholds: tuple[float, ...], sizes: tuple[int, ...]) -> Tensor:
    """`gemv_threshold`: (..., K) to (..., N)."""
    (K, N), given = W.shape, _rows_of_floats(x)
    y, first = np.zeros((len(given), N), np.float32), 0
    if len(set(thresholds)) == 1:
        thresholds, sizes = thresholds[:1], (N,)
    for limit, size in zip(thresholds, sizes, strict=True):
        work, width = len(given) * K * size, _width(size)
        _add_large(work, numbers(W.view(-1)), given, np.float32(limit), first, first + size, width, y)
        first += size
    return _rounded(y, x)


def columns(W: Tensor, idx: Tensor, x: Tensor, count: Tensor | None, group: int) -> Tensor:
    """`gemv_columns`: (tokens, n * group) to (tokens, N)."""
    chosen, N = _chosen(idx, count, group, len(W)), W.shape[1]
    y = np.zeros((len(x), N), np.float32)
    _add_chosen(y.size * len(chosen), numbers(W.view(-1)), _rows_of_floats(x), chosen, _width(N), y)
    return _rounded(y, x)


def rows(W: Tensor, idx: Tensor, x: Tensor, count: Tensor | None, group: int) -> Tensor:
    """`gemv_rows`: (tokens, K) to (tokens, n * group)."""
    chosen = _chosen(idx, count, group, len(W))
    y = np.zeros((len(x), len(idx) * group), np.float32)
    _multiply(len(chosen) * x.numel(), numbers(W), _rows_of_floats(x), chosen, y)
    return _rounded(y, x)


def _rows_of_floats(x: Tensor) -> np.ndarray:
    """x as float32 (tokens, K)."""
    return numbers(x.reshape(x.shape[:-1].numel(), x.shape[-1]).float().contiguous())


def _rounded(y: np.ndarray, x: Tensor) -> Tensor:
    """y (tokens, N) in the dtype of x, as (..., N)."""
    return torch.from_numpy(y).to(x.dtype).view(*x.shape[:-1], y.shape[1])


def _chosen(idx: Tensor, count: Tensor | None, group: int, K: int) -> np.ndarray:
    """The rows that indices of groups stand for, int64."""
    chosen = idx.numpy() if count is None else idx.numpy()[: int(count)]
    if len(chosen) and not (chosen.min() >= 0 and chosen.max() < K // group):
        raise IndexError(f"idx must be of groups of rows of W, 0 to {K // group - 1}, got {chosen.min()} to {chosen.max()}")
    chosen = chosen.astype(np.int64)
    return chosen if group == 1 else (chosen[:, None] * group + np.arange(group)).reshape(-1)


def _width(columns: int) -> int:
    """Of blocks of columns: as many for each thread, none of them wider than BLOCK."""
    threads = torch.get_num_threads()
    blocks = threads * -(-columns // (threads * BLOCK))
    return -(-columns // (blocks * ALIGNED)) * ALIGNED


# Rows by weights: sums of rows


@Loops
def _add_large(W, x, limit, first, end, width, y):
    """y[:, first:end] += x W, of inputs above the limit: W (K * N), x (tokens, K), y (tokens, N)."""
    tokens, K = x.shape
    N = y.shape[1]
    starts, weights, counts = np.empty((tokens, K), np.uint64), np.empty((tokens, K), np.float32), np.empty(tokens, np.int64)
    for token in range(tokens):
        n = 0
        for k in range(K):  # the next one overwrites what is too small
            starts[token, n] = k * N
            weights[token, n] = x[token, k]
            n += abs(x[token, k]) > limit
        counts[token] = n
    blocks = (end - first + width - 1) // width
    for task in prange(tokens * blocks):
        token, low = task // blocks, first + task % blocks * width
        n = counts[token]
        _add_rows(W, starts[token, :n], weights[token, :n], low, y[token, low : min(low + width, end)])


@Loops
def _add_chosen(W, x, chosen, width, y):
    """y += x W[chosen]: W (K * N), x (tokens, at least n), chosen (n,), y (tokens, N)."""
    tokens, N = y.shape
    n = len(chosen)
    starts = np.empty(n, np.uint64)
    for i in range(n):
        starts[i] = chosen[i] * N
    blocks = (N + width - 1) // width
    for task in prange(tokens * blocks):
        token, low = task // blocks, task % blocks * width
        _add_rows(W, starts, x[token, :n], low, y[token, low : min(low + width, N)])


@part(ORDERED)
def _add_rows(W, starts, weights, low, sums):
    """sums += weights W[rows], of some columns from `low` on; starts say where rows begin in W.

    Eight rows at a time: sums are read and written once for all of them. Indices have no sign, for of one that has numba would
    ask at every step whether it counts from the end.
    """
    width, column = np.uint64(len(sums)), np.uint64(low)
    eights = len(starts) // 8 * 8
    for i in range(0, eights, 8):
        a, b, c, d = starts[i] + column, starts[i + 1] + column, starts[i + 2] + column, starts[i + 3] + column
        e, f, g, h = starts[i + 4] + column, starts[i + 5] + column, starts[i + 6] + column, starts[i + 7] + column
        p, q, r, s = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        t, u, v, w = weights[i + 4], weights[i + 5], weights[i + 6], weights[i + 7]
        for j in range(width):
            sums[j] += (
                p * number(W[a + j]) + q * number(W[b + j]) + r * number(W[c + j]) + s * number(W[d + j])
                + t * number(W[e + j]) + u * number(W[f + j]) + v * number(W[g + j]) + w * number(W[h + j])
            )  # fmt: skip
    for i in range(eights, len(starts)):
        a, p = starts[i] + column, weights[i]
        for j in range(width):
            sums[j] += p * number(W[a + j])


# Rows by an input: a number for each row


@Loops
def _multiply(W, x, chosen, y):
    """y = x W[chosen]^T: W (N, K), x (tokens, K), chosen (n,), y (tokens, at least n)."""
    for i in prange(len(chosen)):
        for token in range(len(x)):
            y[token, i] = _dot(W[chosen[i]], x[token])


@part(FAST)
def _dot(w, x):
    total = np.float32(0)
    for k in range(len(x)):
        total += number(w[k]) * x[k]
    return total
