"""Triton kernels behind the exercises: the references, right answers in other styles, and what goes wrong.

Imported when one of them is used, so that the declarations can be read where there is no triton.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from autograder.exercises.two_four.fixtures import unpacked


@triton.jit
def few_tokens(
    values, codes, x, y, N, K, x_stride, y_stride, y_step,
    TOKENS: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr, MISTAKE: tl.constexpr,
):  # fmt: skip
    """y[t, row] = sum over k of W[row, k] x[t, k], ROWS rows per program and all tokens; each input is loaded by its column.

    values (N, K/2), codes int16 (N, K/16), x (TOKENS, K) with rows x_stride apart; y[t, row] lies at t * y_stride + row * y_step.
    MISTAKE names what is done wrong, or is empty.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.arange(0, PADDED)
    exact: tl.constexpr = tl.float16 if MISTAKE == "float16" else tl.float32
    total = tl.zeros((PADDED, ROWS), exact)
    limit = K // 16
    if MISTAKE == "no tail of words":
        limit = limit // WORDS * WORDS
    for start in range(0, limit, WORDS):
        words = start + tl.arange(0, WORDS)
        inside = (rows[:, None] < N) & (words[None, :] < K // 16)
        if MISTAKE == "no row mask":
            inside = (rows[:, None] >= 0) & (words[None, :] < K // 16)
        if MISTAKE == "no word mask":
            inside = (rows[:, None] < N) & (words[None, :] >= 0)
        apart = K // 8 if MISTAKE == "rows of words too far apart" else K // 16
        code = tl.load(codes + rows[:, None] * apart + words[None, :], mask=inside, other=0)
        if MISTAKE == "a word for each nibble":
            for _ in range(3):
                code = tl.load(codes + rows[:, None] * (K // 16) + words[None, :], mask=inside, other=0)
        shifts = 4 * tl.arange(0, 4)
        if MISTAKE == "highest first":
            shifts = 12 - shifts
        if MISTAKE == "divided":
            nibble = (code.to(tl.int32)[:, :, None] // (1 << shifts)[None, None, :]) % 16
        else:
            nibble = (code.to(tl.int32)[:, :, None] >> shifts[None, None, :]) & 15
        low, high = nibble & 3, nibble >> 2
        if MISTAKE == "swapped":
            low, high = nibble >> 2, nibble & 3
        group = words[:, None] * 4 + tl.arange(0, 4)[None, :]  # (words, 4)
        at = rows[:, None, None] * (K // 2) + 2 * group[None, :, :]
        if MISTAKE == "values of neighbouring groups":
            at = rows[:, None, None] * (K // 2) + group[None, :, :]
        deep = inside[:, :, None] & (nibble >= 0)
        if MISTAKE == "no other":
            first, second = tl.load(values + at, mask=deep), tl.load(values + at + 1, mask=deep)
        else:
            first = tl.load(values + at, mask=deep, other=0.0)
            second = tl.load(values + at + 1, mask=deep, other=0.0)
        if MISTAKE == "twice":
            first = tl.load(values + at, mask=deep, other=0.0)
            second = tl.load(values + at + 1, mask=deep, other=0.0)
        if MISTAKE == "the first value for both":
            second = first
        first, second = first.to(exact), second.to(exact)
        base = 4 * group[None, :, :]
        if MISTAKE == "place as column":
            base = base * 0
        if MISTAKE == "columns of the block":
            base = base - 16 * start
        if MISTAKE == "values beside each other":
            low, high = low * 0, high * 0 + 1
        for t in range(TOKENS):
            input = x + t * x_stride
            a = tl.load(input + base + low, mask=deep, other=0.0).to(exact)
            b = tl.load(input + base + high, mask=deep, other=0.0).to(exact)
            product = tl.sum(
                tl.reshape(first * a + second * b, (ROWS, WORDS * 4)), axis=1
            )  # (rows,): each sum takes the interpreter long
            if MISTAKE == "tokens in one sum":
                total += product[None, :]
            elif MISTAKE == "last block only":
                total = tl.where(token[:, None] == t, product[None, :], total)
            else:
                total += tl.where(token[:, None] == t, product[None, :], 0.0).to(exact)
    out = y + token[:, None] * y_stride + rows[None, :] * y_step
    fits = (token[:, None] < TOKENS) & (rows[None, :] < N)
    if MISTAKE == "no store mask":
        fits = (token[:, None] < TOKENS) & (rows[None, :] >= 0)
    tl.store(out, total.to(y.dtype.element_ty), mask=fits)


@triton.jit
def dense_product(W, x, y, N, K, x_stride, y_stride, ROWS: tl.constexpr, COLS: tl.constexpr):
    """y[t, row] of a dense W, grid (N / ROWS, tokens)."""
    rows, token = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, K, COLS):
        cols = start + tl.arange(0, COLS)
        w = tl.load(W + rows[:, None] * K + cols[None, :], mask=(rows[:, None] < N) & (cols[None, :] < K), other=0.0)
        v = tl.load(x + token * x_stride + cols, mask=cols < K, other=0.0)
        total += tl.sum(w.to(tl.float32) * v.to(tl.float32)[None, :], axis=1)
    tl.store(y + token * y_stride + rows, total.to(y.dtype.element_ty), mask=rows < N)


@triton.jit
def load_and_copy(values, codes, done, y, kept, words, results, BLOCK: tl.constexpr):
    """Loads everything, and stores what was there before."""
    at = tl.arange(0, BLOCK)
    tl.load(values + at, mask=at < kept, other=0.0)
    tl.load(codes + at, mask=at < words, other=0)
    tl.store(y + at, tl.load(done + at, mask=at < results, other=0.0), mask=at < results)


@triton.jit
def split_sum(values, codes, x, y, K, WORDS: tl.constexpr, ATOMIC: tl.constexpr):
    """One row and a part of its words per program, grid (N, K / (16 WORDS)); the parts meet in y, float32."""
    row = tl.program_id(0)
    words = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    kept = tl.arange(0, 8)  # of a word
    inside = (words[:, None] < K // 16) & (kept[None, :] >= 0)
    code = tl.load(codes + row * (K // 16) + words, mask=words < K // 16, other=0).to(tl.int32)
    place = (code[:, None] >> (2 * kept)[None, :]) & 3  # two bits per kept value: no need for nibbles
    v = tl.load(values + row * (K // 2) + words[:, None] * 8 + kept[None, :], mask=inside, other=0.0)
    column = words[:, None] * 16 + (kept // 2 * 4)[None, :] + place
    product = v.to(tl.float32) * tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
    total = tl.sum(tl.sum(product, axis=1), axis=0)
    if ATOMIC:
        tl.atomic_add(y + row, total)
    else:
        tl.store(y + row, tl.load(y + row) + total)


def few(values: Tensor, codes: Tensor, x: Tensor, mistake: str = "", rows: int = 0, words: int = 0) -> Tensor:
    """(tokens, N) for x (tokens, K); in larger blocks where there is much, for the interpreter takes its time for each."""
    N, K, T = len(values), 2 * values.shape[1], len(x)
    rows, words = rows or (16 if N < 200 else 64), words or (16 if K < 200 * 16 else 64)
    y = torch.zeros(T, N, dtype=torch.float32 if mistake == "keeps float32" else x.dtype)
    x_stride = N if mistake == "tokens N apart" else K
    y_stride, y_step = (1, T) if mistake == "stored transposed" else (N, 1)
    programs = triton.cdiv(N, rows) if mistake != "rows left over" else N // rows
    padded, x = triton.next_power_of_2(T), x.contiguous()
    few_tokens[(programs,)](
        values, codes, x, y, N, K, x_stride, y_stride, y_step, TOKENS=T, PADDED=padded, ROWS=rows, WORDS=words, MISTAKE=mistake
    )
    return y


def unpacked_first(values: Tensor, codes: Tensor, x: Tensor) -> Tensor:
    """Right, and dense: torch writes the zeros out, and the kernel reads them."""
    W = unpacked(values, codes)
    (N, K), y = W.shape, torch.empty(len(x), len(W), dtype=x.dtype)
    dense_product[(triton.cdiv(N, 16), len(x))](W, x, y, N, K, K, N, ROWS=16, COLS=64)
    return y


def for_show(values: Tensor, codes: Tensor, x: Tensor) -> Tensor:
    """Right, worked out by torch; a kernel loads the weights for nothing."""
    done = (x.float() @ unpacked(values, codes).float().T).to(x.dtype)
    y, sizes = torch.empty_like(done), [tensor.numel() for tensor in (values, codes, done)]
    load_and_copy[(1,)](values, codes, done, y, *sizes, BLOCK=triton.next_power_of_2(max(sizes)))
    return y


def split(values: Tensor, codes: Tensor, x: Tensor, atomic: bool = True) -> Tensor:
    """(N,) for x (K,), by parts of rows."""
    N, K = len(values), 2 * values.shape[1]
    y = torch.zeros(N)
    split_sum[(N, triton.cdiv(K // 16, 4))](values, codes, x, y, K, WORDS=4, ATOMIC=atomic)
    return y.to(x.dtype)
