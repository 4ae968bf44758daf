"""The Triton kernels that sparse_gemv/launch.py launches. All skip the weights that are not needed, and accumulate in float32.

Inputs are converted to float32 as soon as they are loaded: a threshold is compared with what the input is, not with a rounded
one, and bfloat16 arithmetic is silently wrong in Triton's interpreter.
"""

import triton
import triton.language as tl


@triton.jit
def _weighted_sums(total, inputs, w, MULTIPLY_IN: tl.constexpr):
    """Adds inputs (rows, TOKENS) times w (rows, COLS): for one token each thread keeps its own sums (rows, COLS), for several
    a tensor core adds them up (TOKENS, COLS)."""
    if inputs.shape[1] == 1:
        total += inputs.to(tl.float32) * w.to(tl.float32)
    else:
        total = tl.dot(tl.trans(inputs.to(MULTIPLY_IN)), w.to(MULTIPLY_IN), total, input_precision="ieee")
    return total


@triton.jit
def _store_partials(out, total, split, tokens, N, col, inside, TOKENS: tl.constexpr):
    """To out (splits, tokens, N)."""
    token = tl.arange(0, TOKENS)
    if TOKENS == 1:
        total = tl.sum(total, axis=0, keep_dims=True)
    at = (split * tokens + token[:, None]).to(tl.int64) * N + col[None, :]
    tl.store(out + at, total, mask=(token[:, None] < tokens) & inside[None, :])


@triton.jit
def threshold_partials(
    W, x, thresholds, blocks, out, tokens, K, N, share,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, ALIGNED: tl.constexpr, MULTIPLY_IN: tl.constexpr,
    ATOMIC: tl.constexpr,
):  # fmt: skip
    """Sums of W[k] x[k] over a share of the rows k, of which only those with a large |x[k]| are read.

    W (K, N), x (tokens, K), both row-major; thresholds float32 (projections,); blocks int32 (grid 0, 3): first column, end and
    projection of each. A row is read if |x[k]| > threshold for any token. out float32 (splits, tokens, N), or for one token
    (N,), to which ATOMIC adds. TOKENS is 1, or at least 16. Grid (blocks, splits); a split has `share` rows.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    first = tl.multiple_of(tl.load(blocks + 3 * block), ALIGNED)
    end = tl.multiple_of(tl.load(blocks + 3 * block + 1), ALIGNED)  # or the mask would split wide loads
    threshold = tl.load(thresholds + tl.load(blocks + 3 * block + 2))
    token, col = tl.arange(0, TOKENS), first + tl.arange(0, COLS)
    total = tl.zeros((ROWS if TOKENS == 1 else TOKENS, COLS), tl.float32)
    for start in range(split * share, min(split * share + share, K), ROWS):
        row = start + tl.arange(0, ROWS)
        given = (row[:, None] < K) & (token[None, :] < tokens)
        # what is not there is NaN, which exceeds no threshold, not even a negative one
        inputs = tl.load(x + token[None, :] * K + row[:, None], mask=given, other=float("nan"), eviction_policy="evict_last")
        large = tl.abs(inputs.to(tl.float32)) > threshold  # (rows, tokens)
        live = tl.max(large.to(tl.int32), axis=1, keep_dims=True) > 0
        weights = W + row.to(tl.int64)[:, None] * N + col[None, :]
        w = tl.load(weights, mask=live & (col[None, :] < end), other=0.0, eviction_policy="evict_first")
        total = _weighted_sums(total, tl.where(large, inputs, 0.0), w, MULTIPLY_IN)
    if ATOMIC:
        tl.atomic_add(out + col, tl.sum(total, axis=0), mask=col < end, sem="relaxed")
    else:
        _store_partials(out, total, split, tokens, N, col, col < end, TOKENS)


@triton.jit
def column_partials(
    W, idx, count, x, out, tokens, M, N, share,
    GROUP: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, MULTIPLY_IN: tl.constexpr,
):  # fmt: skip
    """Sums of W[k] x[m] over a share of the chosen rows: m counts them, k is where they are.

    W (.., N), x (tokens, M), both row-major; idx (M / GROUP,) int32 or int64: each stands for GROUP neighbouring rows; count
    (1,) int32: how many of idx count. out float32 (splits, tokens, N). Grid (N / COLS, splits); a split has `share` rows.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    token, col = tl.arange(0, TOKENS), block * COLS + tl.arange(0, COLS)
    chosen = tl.load(count) * GROUP
    total = tl.zeros((ROWS if TOKENS == 1 else TOKENS, COLS), tl.float32)
    for start in range(split * share, min(split * share + share, chosen), ROWS):
        m = start + tl.arange(0, ROWS)
        k = tl.load(idx + m // GROUP, mask=m < chosen, other=0).to(tl.int64) * GROUP + m % GROUP
        given = (m[:, None] < chosen) & (token[None, :] < tokens)
        inputs = tl.load(x + token[None, :] * M + m[:, None], mask=given, other=0.0)  # (rows, tokens)
        inside = (m[:, None] < chosen) & (col[None, :] < N)
        w = tl.load(W + k[:, None] * N + col[None, :], mask=inside, other=0.0, eviction_policy="evict_first")
        total = _weighted_sums(total, inputs, w, MULTIPLY_IN)
    _store_partials(out, total, split, tokens, N, col, col < N, TOKENS)


@triton.jit
def add_partials(partials, y, size, splits, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """y (size,) = sum of partials float32 (splits, size) over splits, always in the same order. Grid (size / BLOCK,)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((SPLITS, BLOCK), tl.float32)
    for start in range(0, splits, SPLITS):
        split = start + tl.arange(0, SPLITS)
        inside = (split[:, None] < splits) & (at[None, :] < size)
        total += tl.load(partials + split.to(tl.int64)[:, None] * size + at[None, :], mask=inside, other=0.0)
    tl.store(y + at, tl.sum(total, axis=0).to(y.dtype.element_ty), mask=at < size)


@triton.jit
def row_products(
    W, idx, count, x, y, tokens, M, K,
    GROUP: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, MULTIPLY_IN: tl.constexpr,
):  # fmt: skip
    """y[token, m] = W[k] x[token] for the chosen rows: m counts them, k is where they are.

    W (.., K), x (tokens, K), y (tokens, M), all row-major; idx (M / GROUP,) int32 or int64: each stands for GROUP neighbouring
    rows; count (1,) int32: how many of idx count, the rest of y is 0. TOKENS is 1, or at least 16. Grid (M / ROWS,).
    """
    m, token = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, TOKENS)
    chosen = m < tl.load(count) * GROUP
    k = tl.load(idx + m // GROUP, mask=chosen, other=0).to(tl.int64) * GROUP + m % GROUP
    total = tl.zeros((ROWS, COLS if TOKENS == 1 else TOKENS), tl.float32)
    for start in range(0, K, COLS):
        col = start + tl.arange(0, COLS)
        inputs = tl.load(x + token[:, None] * K + col[None, :], mask=(token[:, None] < tokens) & (col[None, :] < K), other=0.0)
        inside = chosen[:, None] & (col[None, :] < K)
        w = tl.load(W + k[:, None] * K + col[None, :], mask=inside, other=0.0, eviction_policy="evict_first")
        if TOKENS == 1:
            total += inputs.to(tl.float32) * w.to(tl.float32)
        else:
            total = tl.dot(w.to(MULTIPLY_IN), tl.trans(inputs.to(MULTIPLY_IN)), total, input_precision="ieee")
    if TOKENS == 1:
        total = tl.sum(total, axis=1, keep_dims=True)  # (rows, tokens)
    inside = (m[:, None] < M) & (token[None, :] < tokens)
    tl.store(y + token[None, :] * M + m[:, None], total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def compact_mask(mask, idx, count, n, BLOCK: tl.constexpr):
    """Where mask (n,) is not 0, ascending, in idx int32 (n,), and how many in count int32 (1,). Grid (1,)."""
    before = 0
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        chosen = (tl.load(mask + at, mask=at < n, other=0) != 0).to(tl.int32)
        place = before + tl.cumsum(chosen, axis=0) - chosen
        tl.store(idx + place, at, mask=chosen > 0)
        before += tl.sum(chosen, axis=0)
    tl.store(count, before)
