"""Answers with Triton kernels, to test what is seen of them: y = 2 w, read once, twice, partly, elsewhere, or not at all."""

import torch
import triton
import triton.language as tl


@triton.jit
def twice(w, y, n, TIMES: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    for _ in range(TIMES):
        value = tl.load(w + at, mask=at < n, other=0.0)
    tl.store(y + at, 2 * value, mask=at < n)


@triton.jit
def total(w, y, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y, tl.sum(tl.load(w + at, mask=at < n, other=0.0)))


@triton.jit
def without_mask(w, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, 2 * tl.load(w + at), mask=at < n)


def right(w):
    y = torch.empty_like(w)
    twice[(triton.cdiv(len(w), 16),)](w, y, len(w), TIMES=1, BLOCK=16)
    return y


def reads_again(w):
    y = torch.empty_like(w)
    twice[(triton.cdiv(len(w), 16),)](w, y, len(w), TIMES=2, BLOCK=16)
    return y


def reads_a_part(w):
    y = 2 * w
    twice[(1,)](w, y, len(w), TIMES=1, BLOCK=16)
    return y


def reads_a_copy(w):
    return right(w.clone())


def on_the_host(w):
    return 2 * w


def decoy(w):
    twice[(1,)](w, torch.empty(1), 1, TIMES=1, BLOCK=16)
    return 2 * w


def reads_for_show(w):
    total[(1,)](w, torch.empty(1), len(w), BLOCK=64)
    return 2 * w


def faulty(w):
    y = torch.empty_like(w)
    without_mask[(triton.cdiv(len(w), 16),)](w, y, len(w), BLOCK=16)
    return y


@triton.jit
def rows_twice_as_large(w, marked, y, n, width, TIMES: tl.constexpr, ALL: tl.constexpr, BLOCK: tl.constexpr):
    row, col = tl.program_id(0), tl.arange(0, BLOCK)
    wanted = tl.load(marked + row).to(tl.int32)
    inside = (col < width) & (col * 0 + wanted + ALL > 0)
    for _ in range(TIMES):
        value = tl.load(w + row * width + col, mask=inside, other=0.0)
    tl.store(y + row * width + col, 2 * value * wanted, mask=col < width)


def some_rows(w, marked, times=1, everything=False, programs=None):
    y = torch.zeros_like(w)
    at = (programs or len(w),)
    rows_twice_as_large[at](w, marked.to(torch.int8), y, *w.shape, TIMES=times, ALL=everything, BLOCK=4)
    return y


def all_rows(w, marked):
    return some_rows(w, marked, everything=True)


def three_rows(w, marked):
    y = some_rows(w, marked, programs=8)
    y[8] = 2 * w[8]
    return y


def rows_twice(w, marked):
    return some_rows(w, marked, times=2)


def rows_on_the_host(w, marked):
    y = torch.zeros_like(w)
    y[marked] = some_rows(w[marked], torch.ones(int(marked.sum())))
    return y


@triton.jit
def add(w, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(y + at, 2 * tl.load(w + at, mask=at < n, other=0.0), mask=at < n)


def into_what_was_there(w):
    y = torch.empty_like(w)
    add[(triton.cdiv(len(w), 16),)](w, y, len(w), BLOCK=16)
    return y


@triton.jit
def copies(w, back, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(back + at, tl.load(w + at, mask=at < n, other=0.0), mask=at < n)


@triton.jit
def shows(w, done, y, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.load(w + at, mask=at < n, other=0.0)
    tl.store(y + at, tl.load(done + at, mask=at < n, other=0.0), mask=at < n)


def for_show(w):
    done, y = 2 * w, torch.empty_like(w)
    shows[(1,)](w, done, y, len(w), BLOCK=64)
    return y


def hands_back(w):
    back, y = torch.empty_like(w), torch.empty_like(w)
    copies[(1,)](w, back, len(w), BLOCK=64)
    copies[(1,)](2 * back, y, len(w), BLOCK=64)
    return y


BUFFERS = {}


def one_buffer_for_all(w):
    y = BUFFERS.setdefault(w.shape, torch.empty_like(w))
    twice[(triton.cdiv(len(w), 16),)](w, y, len(w), TIMES=1, BLOCK=16)
    return y
