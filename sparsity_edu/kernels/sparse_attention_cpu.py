"""`sparse_attention` on a CPU, compiled by numba: bounds and chosen pages are read once, where they are.

Torch would copy the pages, and turn numbers of 16 bits into copies of 32. A bfloat16 is the upper half of a float32: it comes
in as uint16 and is shifted. Numba on a CPU has no float16.
"""

import functools
import os
import threading
from collections.abc import Callable

import numba
import numpy as np
import torch
from torch import Tensor

PAGES = 64  # of a task
ALONE = 2**18  # numbers that one thread reads in less than a tenth of a millisecond
FAST = {"reassoc", "contract", "nsz", "arcp"}  # sums in any order; infinities stay
THREADS = threading.Lock()  # for one caller at a time: numba ends a process that calls its threads from two of its own
os.register_at_fork(after_in_child=lambda: THREADS.acquire(blocking=False))  # and a forked one, which has no such threads


def can_run(x: Tensor) -> bool:
    """Whether these kernels know the numbers of a tensor."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def score_pages(queries: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`page_scores` of queries (batch, kv_heads, group, head_dim): float32, (batch, kv_heads, group, pages)."""
    scores = torch.empty(*queries.shape[:3], low.shape[2])
    _run(_score, low.numel(), *(_flat(x) for x in (queries.float(), low, high, scores)))
    return scores


def decode(queries: Tensor, keys: Tensor, values: Tensor, pages: Tensor, page: int, scale: float, rows: Tensor) -> Tensor:
    """`sparse_decode` of queries (batch, lists, group, head_dim), with rows given."""
    y = torch.empty(queries.shape)
    given = (_flat(x) for x in (queries.float() * scale, keys, values, pages.long()))
    _run(_attend, pages.numel() * page * keys.shape[3], *given, rows.numpy(), keys.shape[1], page, _flat(y))
    return y.to(queries.dtype)


def _run(loops: Callable, numbers: int, *arguments) -> None:
    """On as many threads as torch uses, or on this one: for little work others take longer to come than it takes."""
    before = torch.get_num_threads()
    threads = min(before, numba.config.NUMBA_NUM_THREADS)
    if threads == 1 or numbers < ALONE or not THREADS.acquire(blocking=False):
        _alone(loops)(*arguments)
        return
    try:
        numba.set_num_threads(threads)
        loops(*arguments)
    finally:
        if torch.get_num_threads() != before:  # the first start of numba's OpenMP sets the number for all of the process
            torch.set_num_threads(before)
        THREADS.release()


@functools.cache
def _alone(loops: Callable) -> Callable:
    return numba.njit(fastmath=FAST)(loops.py_func)


def _flat(x: Tensor) -> np.ndarray:
    """The first two dimensions as one, without gradients, bfloat16 as uint16."""
    x = x.detach().flatten(0, 1)
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


@numba.njit(inline="always")
def _number(x):
    """A float32, or the one whose upper half this is."""
    if isinstance(x, np.float32):
        return x
    return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


@numba.njit(parallel=True, fastmath=FAST, cache=True)
def _score(q, low, high, scores):
    """q (heads, group, dim), low and high (heads, pages, dim), scores (heads, group, pages)."""
    heads, group, dim = q.shape
    pages = low.shape[1]
    blocks = (pages + PAGES - 1) // PAGES
    most, least = np.maximum(q, np.float32(0)), np.minimum(q, np.float32(0))
    for task in numba.prange(heads * blocks):
        head, block = task // blocks, task % blocks
        for page in range(block * PAGES, min(pages, (block + 1) * PAGES)):
            for g in range(group):
                total = np.float32(0)
                for d in range(dim):
                    total += most[head, g, d] * _number(high[head, page, d]) + least[head, g, d] * _number(low[head, page, d])
                scores[head, g, page] = total


@numba.njit(parallel=True, fastmath=FAST, cache=True)
def _attend(q, k, v, pages, rows, kv_heads, page, y):
    """q and y (lists, group, dim), k and v (batch * kv_heads, tokens, dim), pages (lists, n), rows (batch, 3)."""
    lists, group, dim = q.shape
    per_head = lists // len(k)  # lists of a head of keys
    for item in numba.prange(lists):
        head = item // per_head
        begin, first, end = rows[head // kv_heads]
        n = 0
        token = np.empty(pages.shape[1] * page, np.int64)
        for i in range(pages.shape[1]):
            if pages[item, i] >= 0:
                start = begin + pages[item, i] * page
                for t in range(max(start, first), min(start + page, end)):
                    token[n] = t
                    n += 1
        weights = np.empty((group, n), np.float32)
        for i in range(n):
            for g in range(group):
                total = np.float32(0)
                for d in range(dim):
                    total += q[item, g, d] * _number(k[head, token[i], d])
                weights[g, i] = total
        for g in range(group):
            top = np.float32(-np.inf)
            for i in range(n):
                top = max(top, weights[g, i])
            mass = np.float32(0)
            for i in range(n):
                weights[g, i] = np.exp(weights[g, i] - top)
                mass += weights[g, i]
            for i in range(n):
                weights[g, i] /= mass
        y[item] = np.float32(0)
        for i in range(n):
            for g in range(group):
                w = weights[g, i]
                for d in range(dim):
                    y[item, g, d] += w * _number(v[head, token[i], d])
