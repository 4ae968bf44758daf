"""The Triton kernels behind `two_four`: for a few tokens by selection and on sparse tensor cores, for many by decompression.

All read a weight matrix W (N, K) as kept values and 2-bit indices, and accumulate in float32. Values are converted to float32
as soon as they are loaded: bfloat16 arithmetic is silently wrong in Triton's interpreter.
"""

import triton
import triton.language as tl

# D (16 rows x 8 tokens) += A (16 x 32, 2:4) B (32 x 8). A thread holds 4 registers of A, 4 of B, 4 numbers of D, and a word of
# indices that counts in the first two of every four threads (the selector, 0x0).
MMA_SP = (
    "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.{0}.{0}.f32"
    " {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9,$10,$11}}, {{$12,$13,$14,$15}}, $16, 0x0;"
)
MMA_SP_FP16, MMA_SP_BF16 = tl.constexpr(MMA_SP.format("f16")), tl.constexpr(MMA_SP.format("bf16"))


@triton.jit
def _load_words(values, codes, rows, words, N, K):
    """The weights in a tile of 16-bit index words: v0, v1 and their columns i0 < i1 in each group, (rows, words, 4 groups)."""
    inside = (rows[:, None] < N) & (words[None, :] < K // 16)  # (rows, words)
    row = rows.to(tl.int64)  # N * K may exceed 2^31
    code = tl.load(codes + row[:, None] * (K // 16) + words[None, :], mask=inside, other=0).to(tl.int32)
    nibble = (code[:, :, None] >> (4 * tl.arange(0, 4))[None, None, :]) & 15  # (rows, words, 4)
    eight = tl.arange(0, 8)  # a word stands for four groups of two values
    at = row[:, None, None] * (K // 2) + words[None, :, None] * 8 + eight[None, None, :]  # (rows, words, 8)
    v = tl.load(values + at, mask=inside[:, :, None], other=0.0)
    v0, v1 = tl.split(tl.reshape(v, (v.shape[0], v.shape[1], 4, 2)))
    return v0, v1, nibble & 3, nibble >> 2


@triton.jit
def gemv_select(values, codes, x, y, N, K, x_stride, y_stride, ROWS: tl.constexpr, WORDS: tl.constexpr):
    """y[token] = W x[token], ROWS rows per program: each kept weight picks its input among the four of its group.

    values (N, K/2), codes int16 (N, K/16), x (tokens, K), y (tokens, N), all row-major. Grid (tokens, N / ROWS): programs that
    read the same weights follow each other, and all but the first find them in the cache.
    """
    token, rows = tl.program_id(0), tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    x += token * x_stride
    total = tl.zeros((ROWS, WORDS, 4), tl.float32)
    for start in range(0, K // 16, WORDS):
        words = start + tl.arange(0, WORDS)
        v0, v1, i0, i1 = _load_words(values, codes, rows, words, N, K)
        column = words[:, None] * 16 + tl.arange(0, 16)[None, :]
        inputs = tl.load(x + column, mask=column < K, other=0.0).to(tl.float32)  # (words, 16)
        even, odd = tl.split(tl.reshape(inputs, (WORDS, 4, 2, 2)))  # of each group: x0 and x2, x1 and x3
        x0, x2 = tl.split(even[None])  # (1, words, 4 groups)
        x1, x3 = tl.split(odd[None])
        first = tl.where(i0 == 0, x0, tl.where(i0 == 1, x1, x2))  # i0 < i1: never the last
        second = tl.where(i1 == 1, x1, tl.where(i1 == 2, x2, x3))  # and never the first
        total += v0.to(tl.float32) * first + v1.to(tl.float32) * second
    out = tl.sum(tl.sum(total, axis=2), axis=1)  # (rows,)
    tl.store(y + token * y_stride + rows, out.to(y.dtype.element_ty), mask=rows < N)


@triton.jit
def gemv_mma(fragments, words, x, y, K, x_stride, y_stride, tokens, WARPS: tl.constexpr, UNROLL: tl.constexpr):
    """y = W x for up to 8 tokens on sparse tensor cores, 16 rows per program; its warps share the columns.

    fragments int32 (N/16, K/32, 32, 4): what each thread holds of each 16 x 32 piece of W, one load of 16 bytes; words int32
    (N/16, K/32, 16): its indices; see `packed24.Fragments`. x (tokens, K), y (tokens, N), row-major. WARPS * UNROLL divides
    K / 32. Grid (N / 16,). Thread 4 g + t of a warp holds rows g and g + 8 of W, and token g of x.
    """
    tile = tl.program_id(0).to(tl.int64)
    thread = tl.arange(0, 32 * WARPS)
    warp, lane = thread // 32, thread % 32
    g, t = lane // 4, lane % 4
    pieces = K // 32
    pairs = x.to(tl.pointer_type(tl.int32)) + g * (x_stride // 2) + t  # two neighbouring inputs to a word
    d0 = tl.zeros((32 * WARPS,), tl.float32)
    d1, d2, d3 = d0, d0, d0
    for start in range(0, pieces, WARPS * UNROLL):
        for u in tl.static_range(UNROLL):
            piece = start + u * WARPS + warp
            at = tile * pieces + piece
            a = tl.load(fragments + (at * 32 + lane)[:, None] * 4 + tl.arange(0, 4)[None, :])
            a02, a13 = tl.split(tl.reshape(a, (32 * WARPS, 2, 2)))
            a0, a2 = tl.split(a02)
            a1, a3 = tl.split(a13)
            e = tl.load(words + at * 16 + g * 2 + t % 2)
            b0 = tl.load(pairs + piece * 16, mask=g < tokens, other=0)
            b1 = tl.load(pairs + piece * 16 + 4, mask=g < tokens, other=0)
            b2 = tl.load(pairs + piece * 16 + 8, mask=g < tokens, other=0)
            b3 = tl.load(pairs + piece * 16 + 12, mask=g < tokens, other=0)
            d0, d1, d2, d3 = tl.inline_asm_elementwise(
                MMA_SP_BF16 if x.dtype.element_ty == tl.bfloat16 else MMA_SP_FP16,
                "=f,=f,=f,=f,r,r,r,r,r,r,r,r,f,f,f,f,r",
                [a0, a1, a2, a3, b0, b1, b2, b3, d0, d1, d2, d3, e],
                dtype=(tl.float32, tl.float32, tl.float32, tl.float32),
                is_pure=True,
                pack=1,
            )
    lane = tl.arange(0, 32)
    row, token = tile * 16 + lane // 4, lane % 4 * 2  # d0, d1: row g, tokens 2 t and 2 t + 1; d2, d3: row g + 8
    out = y + token * y_stride + row
    kind = y.dtype.element_ty
    tl.store(out, tl.sum(tl.reshape(d0, (WARPS, 32)), axis=0).to(kind), mask=token < tokens)
    tl.store(out + y_stride, tl.sum(tl.reshape(d1, (WARPS, 32)), axis=0).to(kind), mask=token + 1 < tokens)
    tl.store(out + 8, tl.sum(tl.reshape(d2, (WARPS, 32)), axis=0).to(kind), mask=token < tokens)
    tl.store(out + y_stride + 8, tl.sum(tl.reshape(d3, (WARPS, 32)), axis=0).to(kind), mask=token + 1 < tokens)


@triton.jit
def gemm_decompress(
    values, codes, x, y, tokens, N, K, x_stride, y_stride,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, WORDS: tl.constexpr, MULTIPLY_IN: tl.constexpr,
):  # fmt: skip
    """y = x W^T for many tokens: a tile of W is written out with its zeros, and multiplied like any other.

    values (N, K/2), codes int16 (N, K/16), x (tokens, K), y (tokens, N), row-major. Grid (N / ROWS, tokens / TOKENS). It reads
    fewer bytes than a dense product, but does as many multiplications and more besides. W is the left operand: as the right
    one, Triton 3.6 cannot compile it for Hopper.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    row_of_x = x + token.to(tl.int64)[None, :] * x_stride
    total = tl.zeros((ROWS, TOKENS), tl.float32)
    for start in range(0, K // 16, WORDS):
        v0, v1, i0, i1 = _load_words(values, codes, rows, start + tl.arange(0, WORDS), N, K)
        p = tl.arange(0, 4)[None, None, None, :]  # where in the group
        dense = tl.where(i0[:, :, :, None] == p, v0[:, :, :, None], tl.where(i1[:, :, :, None] == p, v1[:, :, :, None], 0.0))
        dense = tl.reshape(dense, (ROWS, WORDS * 16))
        column = start * 16 + tl.arange(0, WORDS * 16)
        inside = (column[:, None] < K) & (token[None, :] < tokens)
        inputs = tl.load(row_of_x + column[:, None], mask=inside, other=0.0)  # (columns, tokens)
        total = tl.dot(dense.to(MULTIPLY_IN), inputs.to(MULTIPLY_IN), total, input_precision="ieee")
    out = y + token.to(tl.int64)[None, :] * y_stride + rows[:, None]
    tl.store(out, total.to(y.dtype.element_ty), mask=(rows[:, None] < N) & (token[None, :] < tokens))
