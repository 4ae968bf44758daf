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


def faulty(w):
    y = torch.empty_like(w)
    without_mask[(triton.cdiv(len(w), 16),)](w, y, len(w), BLOCK=16)
    return y
