"""The products on a CPU in torch alone, by calls that read the chosen rows where they are, or copy few at a time.

`threshold`, `columns`, `rows` and `compact_` are all that cpu.py uses. Arguments are as there.
"""

import functools
import math
import warnings

import torch
from torch import Tensor

BAG = 2**20  # bytes of rows that a CPU sums at a time: they stay in a core's cache while it goes from columns to columns


def threshold(W: Tensor, x: Tensor, thresholds: tuple[float, ...], sizes: tuple[int, ...]) -> Tensor:
    """`gemv_threshold`: (..., K) to (..., N)."""
    if len(set(thresholds)) == 1:
        thresholds, sizes = thresholds[:1], W.shape[1:]
    parts = []
    for token in x.reshape(x.shape[:-1].numel(), len(W)):
        magnitude, first = token.abs().float(), 0
        for limit, size in zip(thresholds, sizes, strict=True):
            chosen = (magnitude > limit).nonzero().view(-1)
            parts.append(_weighted_rows(W, chosen, token.index_select(0, chosen), first, first + size))
            first += size
    return _joined(parts, x, W.shape[1])


def columns(W: Tensor, idx: Tensor, x: Tensor, count: Tensor | None, group: int) -> Tensor:
    """`gemv_columns`: (tokens, n * group) to (tokens, N)."""
    chosen, N = _rows_of(idx, count, group), W.shape[1]
    return _joined([_weighted_rows(W, chosen, token[: len(chosen)], 0, N) for token in x], x, N)


def rows(W: Tensor, idx: Tensor, x: Tensor, count: Tensor | None, group: int) -> Tensor:
    """`gemv_rows`: (tokens, K) to (tokens, n * group).

    For several tokens, or in 16 bits, the chosen rows are copied few at a time: they are multiplied while they are in the
    cache, and memory is read once.
    """
    chosen, y = _rows_of(idx, count, group), x.new_zeros(len(x), len(idx) * group)
    if len(x) == 1 and W.dtype == torch.float32 and len(chosen):
        y[0, : len(chosen)] = _sampled(W, chosen, x)
        return y
    few = W.new_empty(max(1, 2 * BAG // (W.shape[1] * W.itemsize)), W.shape[1])
    right = x[0] if len(x) == 1 else x.T  # a product with a vector is the faster one
    for start in range(0, len(chosen), len(few)):
        some = chosen[start : start + len(few)]
        copied = torch.index_select(W, 0, some, out=few[: len(some)])
        y[:, start : start + len(some)] = (copied @ right).view(len(some), -1).T
    return y


def compact_(mask: Tensor, idx: Tensor, count: Tensor) -> None:
    """`compact`, into idx and count."""
    chosen = mask.nonzero().squeeze(1)
    idx[: len(chosen)], count[0] = chosen, len(chosen)


# Rows by weights: sums of rows


def _weighted_rows(W: Tensor, chosen: Tensor, weights: Tensor, first: int, end: int) -> Tensor:
    """weights @ W[chosen, first:end], in any dtype.

    Sums that were rounded to 16 bits should not be added: a bag is all rows there, and a block of columns for each thread.
    """
    if W.dtype == torch.float32 and end - first == W.shape[1]:
        return _sum_of_rows(W, chosen, weights)
    if not len(chosen):
        return W.new_zeros(end - first)
    width, places = _blocks_of_rows(*W.shape, first, end, torch.get_num_threads())
    which = places.index_select(1, chosen)  # (blocks, n)
    starts = _starts(which.numel(), len(chosen))
    return _bags(W.view(-1, width), which.view(-1), starts, weights.repeat(len(which))).view(-1)


def _sum_of_rows(W: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """weights @ W[chosen] in float32, without a copy of these rows: an embedding bag with weights reads each where it is.

    A thread sums bags of a few rows, and the sums of bags are added.
    """
    n, threads = len(chosen), torch.get_num_threads()
    if not n:
        return W.new_zeros(W.shape[1])
    rounds = -(-n * W.shape[1] * W.itemsize // (threads * BAG))
    return _bags(W, chosen, _starts(n, -(-n // (threads * rounds))), weights).sum(dim=0)


def _bags(table: Tensor, which: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """What functional.embedding_bag calls, after checks of its own. Mode 0 is the sum."""
    return torch.embedding_bag(table, which, starts, mode=0, per_sample_weights=weights)[0]


@functools.lru_cache(maxsize=4096)
def _starts(n: int, step: int) -> Tensor:
    return torch.arange(0, n, step)


@functools.lru_cache(maxsize=256)
def _blocks_of_rows(K: int, N: int, first: int, end: int, pieces: int) -> tuple[int, Tensor]:
    """Of W as (K * N / width, width): the width, and where the blocks of columns first:end of each row stand, (blocks, K)."""
    width = math.gcd(first, end, N)
    width //= max(count for count in range(1, pieces + 1) if width % count == 0)
    return width, torch.arange(K) * (N // width) + torch.arange(first // width, end // width)[:, None]


def _joined(parts: list[Tensor], x: Tensor, N: int) -> Tensor:
    """Parts of tokens, one after the other, as the (..., N) of x."""
    return (parts[0] if len(parts) == 1 else torch.cat([x.new_empty(0), *parts])).view(*x.shape[:-1], N)


# Rows by an input: a number for each row


def _sampled(W: Tensor, chosen: Tensor, x: Tensor) -> Tensor:
    """x @ W[chosen].T without a copy: as chosen entries of a matrix product, which torch computes one by one.

    Each row of that product is one thread's: x once for each, and a share of the entries.
    """
    low, high = chosen.aminmax()
    if low < 0 or high >= len(W):
        raise IndexError(f"idx must be of rows of W, 0 to {len(W) - 1}, got {int(low)} to {int(high)}")
    _csr_is_beta()
    n, threads = len(chosen), torch.get_num_threads()
    ends = torch.tensor([n * thread // threads for thread in range(threads + 1)])
    # its indices need not ascend, as they should in a CSR matrix: nothing but this product sees it
    entries = torch.sparse_csr_tensor(ends, chosen, W.new_zeros(n), (threads, len(W)), check_invariants=False)
    return torch.sparse.sampled_addmm(entries, x.expand(threads, -1), W.T, beta=0.0).values()


@functools.cache
def _csr_is_beta() -> None:
    """Torch warns of it, once in a process: now, unheard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [0.0], check_invariants=True)


def _rows_of(idx: Tensor, count: Tensor | None, group: int) -> Tensor:
    """The rows that indices of groups stand for."""
    chosen = idx if count is None else idx[: int(count)]
    return (chosen.long()[:, None] * group + torch.arange(group)).flatten()
