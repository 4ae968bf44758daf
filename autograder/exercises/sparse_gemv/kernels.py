"""Triton kernels behind the exercises: the references, right answers in other styles, and what goes wrong.

Imported when one of them is used, so that the declarations can be read where there is no triton.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsity_edu.kernels import sparse_gemv as library


@triton.jit
def part_of_rows(
    W, x, out, threshold, tokens, K, N, share,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, ADD: tl.constexpr, MISTAKE: tl.constexpr,
):  # fmt: skip
    """Sums of W[k] x[token, k] over a share of the rows k, of which only those with a large |x[k]| are read.

    W (K, N), x (tokens, K). ADD says where the sums go: "no" stores them in out (splits, tokens, N), "atomic" adds them to
    out (tokens, N), "race" does so by a load and a store, "first stores" atomically but for the first part;
    "atomic parts" adds them to out (splits, tokens, N). Grid (N / COLS, splits). MISTAKE names what is done wrong, or is empty.
    """
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    split = tl.program_id(1)
    token = tl.arange(0, TOKENS)
    exact: tl.constexpr = tl.float16 if MISTAKE == "float16" else tl.float32
    total = tl.zeros((TOKENS, COLS), exact)
    first, step = split * share, 1
    end = min(first + share, K)
    if MISTAKE == "no tail of rows":
        end = first + share // ROWS * ROWS
    if MISTAKE == "interleaved":
        first, step, end = split, tl.num_programs(1), K
    for start in range(first, end, ROWS * step):
        row = start + step * tl.arange(0, ROWS)
        there = row < end
        if MISTAKE == "past the share":
            there = row < K
        given = (token[:, None] < tokens) & there[None, :]
        v = tl.load(x + token[:, None] * K + row[None, :], mask=given, other=0.0)  # (TOKENS, ROWS)
        if MISTAKE == "inputs without other":
            v = tl.load(x + token[:, None] * K + row[None, :], mask=given)
        size = v.to(tl.float32)
        if MISTAKE != "no abs":
            size = tl.abs(size)
        above = size > threshold
        if MISTAKE == "at the threshold":
            above = size >= threshold
        if MISTAKE == "not below":
            above = (size <= threshold) == 0
        if MISTAKE == "small ones":
            above = size < threshold
        if MISTAKE != "inputs without other":
            above = above & given
        live = tl.max(above.to(tl.int32), axis=0) > 0  # (ROWS,)
        if MISTAKE == "every token":
            live = tl.sum(above.to(tl.int32), axis=0) == tokens
        if MISTAKE == "first token decides":
            live = tl.max(tl.where(token[:, None] == 0, above.to(tl.int32), 0), axis=0) > 0
        if MISTAKE == "mean of tokens":
            live = tl.sum(size, axis=0) > threshold * tokens
        if MISTAKE == "dense":
            live = there
        counted = tl.where(above, v, 0.0)
        if MISTAKE == "neighbours' inputs":
            counted = tl.where(live[None, :] & given, v, 0.0)
        if MISTAKE == "inputs as they are":
            counted = v
        if MISTAKE == "weights alone":
            counted = above.to(tl.float16)
        at = row[:, None] * N + cols[None, :]
        if MISTAKE == "row-major":
            at = cols[None, :] * K + row[:, None]
        inside = live[:, None] & (cols[None, :] < N)
        if MISTAKE == "no column mask":
            inside = live[:, None] & (cols[None, :] >= 0)
        w = tl.load(W + at, mask=inside) if MISTAKE == "no other" else tl.load(W + at, mask=inside, other=0.0)
        products = tl.sum(counted.to(exact)[:, :, None] * w.to(exact)[None, :, :], axis=1)  # (TOKENS, COLS)
        if MISTAKE == "tokens in one sum":
            products = tl.zeros((TOKENS, COLS), exact) + tl.sum(products, axis=0)[None, :]
        if MISTAKE == "last block only":
            total = products
        else:
            total += products
    part = split if ADD == "no" or ADD == "atomic parts" else 0
    place = out + (part * tokens + token[:, None]) * N + cols[None, :]
    if MISTAKE == "no split in the index":
        place = out + token[:, None] * N + cols[None, :]
    fits = (token[:, None] < tokens) & (cols[None, :] < N)
    if MISTAKE == "no store mask":
        fits = (token[:, None] < tokens) & (cols[None, :] >= 0)
    total = total.to(out.dtype.element_ty)
    if ADD == "atomic" or ADD == "atomic parts" or (ADD == "first stores" and split > 0):
        tl.atomic_add(place, total, mask=fits)
    elif ADD == "race":
        tl.store(place, tl.load(place, mask=fits, other=0.0) + total, mask=fits)
    else:
        tl.store(place, total, mask=fits)


@triton.jit
def add_parts(partials, y, splits, size, SPLITS: tl.constexpr, BLOCK: tl.constexpr, MISTAKE: tl.constexpr):
    """y (size,) = sum of partials (splits, size) over splits. Grid (size / BLOCK,)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exact: tl.constexpr = tl.float16 if MISTAKE == "float16" else tl.float32
    total = tl.zeros((BLOCK,), exact)
    limit = splits
    if MISTAKE == "left-over splits":
        limit = splits // SPLITS * SPLITS
    if MISTAKE == "first block only":
        limit = SPLITS
    for start in range(0, limit, SPLITS):
        split = start + tl.arange(0, SPLITS)
        inside = (split[:, None] < splits) & (at[None, :] < size)
        if MISTAKE == "no split mask":
            inside = (split[:, None] >= 0) & (at[None, :] < size)
        if MISTAKE == "no column mask":
            inside = (split[:, None] < splits) & (at[None, :] >= 0)
        place = split[:, None] * size + at[None, :]
        if MISTAKE == "columns apart":
            place = at[None, :] * splits + split[:, None]
        if MISTAKE == "no other":
            some = tl.load(partials + place, mask=inside)
        else:
            some = tl.load(partials + place, mask=inside, other=0.0)
        if MISTAKE == "parts in float16":
            some = some.to(tl.float16).to(tl.float32)
        if MISTAKE == "last block only":
            total = tl.sum(some.to(exact), axis=0)
        else:
            total += tl.sum(some.to(exact), axis=0)
        if MISTAKE == "rounded every step":
            total = total.to(tl.float16).to(tl.float32)
    if MISTAKE == "mean":
        total = total / splits
    fits = at < size
    if MISTAKE == "no store mask":
        fits = at >= 0
    tl.store(y + at, total.to(y.dtype.element_ty), mask=fits)


@triton.jit
def add_one_part(partials, y, size, BLOCK: tl.constexpr, ADD: tl.constexpr):
    """One program for each part and block of outputs, grid (size / BLOCK, splits); the parts meet in y (size,)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    part = tl.load(partials + tl.program_id(1) * size + at, mask=at < size, other=0.0).to(y.dtype.element_ty)
    if ADD == "atomic":
        tl.atomic_add(y + at, part, mask=at < size)
    else:
        tl.store(y + at, tl.load(y + at, mask=at < size, other=0.0) + part, mask=at < size)


@triton.jit
def rows_one_by_one(W, x, out, threshold, K, N, share, COLS: tl.constexpr):
    """As `part_of_rows` for one token, a row at a time: an input that is small skips its row by an `if`. out (splits, N)."""
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    split = tl.program_id(1)
    total = tl.zeros((COLS,), tl.float32)
    for row in range(split * share, min(split * share + share, K)):
        v = tl.load(x + row).to(tl.float32)
        if tl.abs(v) > threshold:
            total += v * tl.load(W + row * N + cols, mask=cols < N, other=0.0).to(tl.float32)
    tl.store(out + split * N + cols, total, mask=cols < N)


@triton.jit
def chosen_rows(
    W, idx, count, x, y, n, N, K, ROWS: tl.constexpr, COLS: tl.constexpr, MISTAKE: tl.constexpr,
):  # fmt: skip
    """y[m] = W[idx[m]] x for m < count, 0 for the others up to n. W (N, K). Grid (n / ROWS,)."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    chosen = m < tl.load(count)
    if MISTAKE == "padded entries":
        chosen = m < n
    known = chosen
    if MISTAKE == "padded with 0":
        chosen = m < n
    row = tl.load(idx + m) if MISTAKE == "no bound of the list" else tl.load(idx + m, mask=known, other=0)
    if MISTAKE == "row m":
        row = m
    exact: tl.constexpr = tl.float16 if MISTAKE == "float16" else tl.float32
    total = tl.zeros((ROWS,), exact)
    limit = K
    if MISTAKE == "left-over inputs":
        limit = K // COLS * COLS
    for start in range(0, limit, COLS):
        cols = start + tl.arange(0, COLS)
        inside = chosen[:, None] & (cols[None, :] < K)
        if MISTAKE == "no column mask":
            inside = chosen[:, None] & (cols[None, :] >= 0)
        v = tl.load(x + cols, mask=cols < K, other=0.0).to(exact)
        at = row[:, None] * K + cols[None, :]
        if MISTAKE == "input-major":
            at = cols[None, :] * N + row[:, None]
        w = tl.load(W + at, mask=inside) if MISTAKE == "no other" else tl.load(W + at, mask=inside, other=0.0)
        products = w.to(exact) * v[None, :]
        if MISTAKE == "last block only":
            total = tl.sum(products, axis=1)
        else:
            total += tl.sum(products, axis=1)
        if MISTAKE == "total in float16":
            total = total.to(tl.float16).to(tl.float32)
    total = tl.where(known, total, 0.0)
    if MISTAKE == "only what counts":
        tl.store(y + m, total.to(y.dtype.element_ty), mask=known)
    elif MISTAKE == "scattered":
        tl.store(y + row, total.to(y.dtype.element_ty), mask=known)
    else:
        tl.store(y + m, total.to(y.dtype.element_ty), mask=m < n)


def parts(W, x, threshold, splits, mistake="", rows=0, cols=128, kind=torch.float32, share=None, add="no") -> Tensor:
    """(splits, tokens, N) for x (tokens, K)."""
    (K, N), tokens = W.shape, len(x)
    rows = rows or rows_for(K)
    out = torch.empty(splits, tokens, N, dtype=kind)
    if mistake == "threshold in float16":
        threshold = torch.tensor(threshold).half().item()
    share = share or triton.cdiv(K, splits)
    blocks = N // cols if mistake == "left-over columns" else triton.cdiv(N, cols)
    if mistake == "no split in the index":
        out.zero_()
    padded = triton.next_power_of_2(tokens)
    part_of_rows[(blocks, splits)](
        W, x, out, threshold, tokens, K, N, share, TOKENS=padded, ROWS=rows, COLS=cols, ADD=add, MISTAKE=mistake
    )
    return out


def rows_for(K: int) -> int:
    """Rows of a block: more where there are many, for the interpreter takes its time for each block."""
    return 32 if K < 600 else 256


def parts_of_one(W, x, threshold, splits, mistake="", **how) -> Tensor:
    """(splits, N) for x (K,)."""
    return parts(W, x[None], threshold, splits, mistake, **how)[:, 0]


def added(partials, mistake="", splits=0, block=0, kind=torch.float16) -> Tensor:
    """(size,) for partials (splits, size)."""
    n, size = partials.shape
    splits, block = splits or (8 if n < 200 else 256), block or (64 if size < 1000 else 1024)
    y = torch.empty(size, dtype=kind)
    blocks = size // block if mistake == "left-over columns" else triton.cdiv(size, block)
    add_parts[(blocks,)](partials, y, n, size, SPLITS=splits, BLOCK=block, MISTAKE=mistake)
    return y


def added_by_many(partials, add="atomic", kind=torch.float32) -> Tensor:
    """(size,), a program for each part."""
    splits, size = partials.shape
    y = torch.zeros(size, dtype=kind)
    add_one_part[(triton.cdiv(size, 64), splits)](partials, y, size, BLOCK=64, ADD=add)
    return y.half()


def two_stages(W, x, threshold, mistake="", splits=2, rows=0, cols=128, kind=torch.float16) -> Tensor:
    """(tokens, N) for x (tokens, K)."""
    partials = parts(W, x, threshold, splits, mistake, rows, cols)
    if mistake == "parts in float16":
        partials = partials.half()
    return added(partials.view(splits, -1), kind=kind).view(len(x), -1)


def in_one(
    W, x, threshold, mistake="", splits=2, add="atomic", buffer=torch.zeros, kind=torch.float32, rows=0, cols=128
) -> Tensor:
    """(N,) for x (K,): one kernel, whose programs add to the result."""
    K, N = W.shape
    rows = rows or rows_for(K)
    y = buffer(N, dtype=kind)
    if mistake == "threshold in float16":
        threshold = torch.tensor(threshold).half().item()
    blocks = N // cols if mistake == "left-over columns" else triton.cdiv(N, cols)
    share = K // splits if mistake == "left-over rows" else triton.cdiv(K, splits)
    part_of_rows[(blocks, splits)](W, x, y, threshold, 1, K, N, share, TOKENS=1, ROWS=rows, COLS=cols, ADD=add, MISTAKE=mistake)
    return y if mistake == "keeps float32" else y.half()


def one_by_one(W, x, threshold, splits, cols=256) -> Tensor:
    """(splits, N) for x (K,)."""
    K, N = W.shape
    out = torch.empty(splits, N)
    rows_one_by_one[(triton.cdiv(N, cols), splits)](W, x, out, threshold, K, N, triton.cdiv(K, splits), COLS=cols)
    return out


def gathered(W, idx, count, x, mistake="", rows=0, cols=0, kind=torch.float16) -> Tensor:
    """(n,) for idx (n,), of which `count` (1,) mean anything."""
    (N, K), n = W.shape, len(idx)
    rows, cols = rows or (16 if n < 200 else 256), cols or (64 if K < 1000 else 1024)
    y = torch.empty(n, dtype=kind)
    if mistake == "scattered":
        y = torch.zeros(N, dtype=kind)
    blocks = n // rows if mistake == "left-over rows" else triton.cdiv(n, rows)
    chosen_rows[(blocks,)](W, idx, count, x, y, n, N, K, ROWS=rows, COLS=cols, MISTAKE=mistake)
    return y


def by_the_library(W, x, threshold, atomic) -> Tensor:
    """(tokens, N) for x (tokens, K), or (N,) for (K,)."""
    return library.gemv_threshold(W, x, threshold, atomic=atomic)


def rows_by_the_library(W, idx, count, x) -> Tensor:
    """(n,) for idx (n,)."""
    return library.gemv_rows(W, idx, x, count=count)
