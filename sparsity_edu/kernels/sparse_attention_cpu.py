"""`sparse_attention` on a CPU, compiled by numba: bounds and chosen pages are read once, where they are.

Torch would copy the pages, and turn numbers of 16 bits into copies of 32.
"""

import numpy as np
import torch
from torch import Tensor

from sparsity_edu.kernels.compiled import Loops, can_run, number, numbers, prange

__all__ = ["can_run", "decode", "score_pages"]

PAGES = 64  # of a task


def score_pages(queries: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`page_scores` of queries (batch, kv_heads, group, head_dim): float32, (batch, kv_heads, group, pages)."""
    scores = torch.empty(*queries.shape[:3], low.shape[2])
    _score(low.numel(), *(_flat(x) for x in (queries.float(), low, high, scores)))
    return scores


def decode(queries: Tensor, keys: Tensor, values: Tensor, pages: Tensor, page: int, scale: float, rows: Tensor) -> Tensor:
    """`sparse_decode` of queries (batch, lists, group, head_dim), with rows given."""
    y = torch.empty(queries.shape)
    given = (_flat(x) for x in (queries.float() * scale, keys, values, pages.long()))
    _attend(pages.numel() * page * keys.shape[3], *given, rows.numpy(), keys.shape[1], page, _flat(y))
    return y.to(queries.dtype)


def _flat(x: Tensor) -> np.ndarray:
    """The first two dimensions as one."""
    return numbers(x.flatten(0, 1))


@Loops
def _score(q, low, high, scores):
    """q (heads, group, dim), low and high (heads, pages, dim), scores (heads, group, pages)."""
    heads, group, dim = q.shape
    pages = low.shape[1]
    blocks = (pages + PAGES - 1) // PAGES
    most, least = np.maximum(q, np.float32(0)), np.minimum(q, np.float32(0))
    for task in prange(heads * blocks):
        head, block = task // blocks, task % blocks
        for page in range(block * PAGES, min(pages, (block + 1) * PAGES)):
            for g in range(group):
                total = np.float32(0)
                for d in range(dim):
                    total += most[head, g, d] * number(high[head, page, d]) + least[head, g, d] * number(low[head, page, d])
                scores[head, g, page] = total


@Loops
def _attend(q, k, v, pages, rows, kv_heads, page, y):
    """q and y (lists, group, dim), k and v (batch * kv_heads, tokens, dim), pages (lists, n), rows (batch, 3)."""
    lists, group, dim = q.shape
    per_head = lists // len(k)  # lists of a head of keys
    for item in prange(lists):
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
                    total += q[item, g, d] * number(k[head, token[i], d])
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
                    y[item, g, d] += w * number(v[head, token[i], d])
