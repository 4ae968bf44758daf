"""The Triton kernels behind `sparse_attention`: scores of pages, and attention over some of the tokens, split and combined."""

import triton
import triton.language as tl


@triton.jit
def score_pages(
    q, low, high, scores, pages,
    QUERIES: tl.constexpr, WIDTH: tl.constexpr, PAGES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """scores = sum over d of max(q low, q high): no token of a page can have a larger product with q.

    q (kv_heads, QUERIES, WIDTH), low and high (kv_heads, pages, WIDTH), scores float32 (kv_heads, QUERIES, pages), all
    row-major; DIM is WIDTH or the next power of two. Grid (kv_heads, pages / PAGES): bounds are read once for all the queries
    that share a head of keys.
    """
    head = tl.program_id(0).to(tl.int64)
    page, d = tl.program_id(1) * PAGES + tl.arange(0, PAGES), tl.arange(0, DIM)
    inside = (page[:, None] < pages) & (d[None, :] < WIDTH)
    at = (head * pages + page[:, None]) * WIDTH + d[None, :]
    least = tl.load(low + at, mask=inside, other=0.0).to(tl.float32)  # (PAGES, DIM)
    most = tl.load(high + at, mask=inside, other=0.0).to(tl.float32)
    for i in tl.static_range(QUERIES):
        query = tl.load(q + (head * QUERIES + i) * WIDTH + d, mask=d < WIDTH, other=0.0).to(tl.float32)
        bound = tl.sum(tl.maximum(query[None, :] * least, query[None, :] * most), axis=1)
        tl.store(scores + (head * QUERIES + i) * pages + page, bound, mask=page < pages)


@triton.jit
def attend_split(
    q, k, v, chosen, rows, tops, masses, sums, scale, tokens, kv_heads, lists, entries, share,
    QUERIES: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, DIM: tl.constexpr, MULTIPLY_IN: tl.constexpr,
):  # fmt: skip
    """Attention of the QUERIES of one list of pages over a share of its tokens, not yet divided by the sum of weights.

    q (heads, QUERIES, WIDTH): a head for each list of pages; k and v (kv_heads, tokens, WIDTH), with `lists` lists to a
    kv_head; chosen int32 or int64 (heads, entries): pages of PAGE tokens, -1 for none; rows int64 (sequences, 3): where pages
    begin, the first token that is attended to, and the end, or none; all row-major. Of each query the largest score in tops
    and the sum of the weights exp(score - top) in masses (heads, QUERIES, splits), the weighted values in sums (.., splits,
    WIDTH), float32. ROWS is QUERIES, at least 16: a tensor core's tile has no fewer. Grid (heads, splits).
    """
    head, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i, d = tl.arange(0, ROWS), tl.arange(0, DIM)
    given = (i[:, None] < QUERIES) & (d[None, :] < WIDTH)
    queries = tl.load(q + (head * QUERIES + i[:, None]) * WIDTH + d[None, :], mask=given, other=0.0).to(MULTIPLY_IN)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS, DIM), tl.float32)
    begin, first, end = 0, 0, tokens
    if rows is not None:
        row = rows + head // (kv_heads * lists) * 3
        begin, first, end = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    for start in range(split * share, min(split * share + share, entries * PAGE), TOKENS):
        slot = start + tl.arange(0, TOKENS)
        page = tl.load(chosen + head * entries + slot // PAGE, mask=slot < entries * PAGE, other=-1)
        token = begin + page.to(tl.int64) * PAGE + slot % PAGE
        there = (page >= 0) & (token >= first) & (token < end)
        at = (head // lists * tokens + token[:, None]) * WIDTH + d[None, :]
        inside = there[:, None] & (d[None, :] < WIDTH)
        keys = tl.load(k + at, mask=inside, other=0.0).to(MULTIPLY_IN)  # (TOKENS, DIM)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where(there[None, :], scores, float("-inf"))  # (ROWS, TOKENS)
        higher = tl.maximum(top, tl.max(scores, axis=1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)  # no token yet: -inf - -inf would be NaN
        weights, shrink = tl.exp(scores - finite[:, None]), tl.exp(top - finite)
        values = tl.load(v + at, mask=inside, other=0.0).to(MULTIPLY_IN)
        mass = mass * shrink + tl.sum(weights, axis=1)
        total = total * shrink[:, None] + tl.dot(weights.to(MULTIPLY_IN), values, input_precision="ieee")
        top = higher
    out = (head * QUERIES + i) * tl.num_programs(1) + split
    tl.store(tops + out, top, mask=i < QUERIES)
    tl.store(masses + out, mass, mask=i < QUERIES)
    tl.store(sums + out[:, None] * WIDTH + d[None, :], total, mask=given)


@triton.jit
def combine_splits(tops, masses, sums, y, splits, WIDTH: tl.constexpr, SPLITS: tl.constexpr, DIM: tl.constexpr):
    """y (queries, WIDTH): the splits of each query, weighted as if all scores had been seen at once. Grid (queries,)."""
    query, split, d = tl.program_id(0).to(tl.int64), tl.arange(0, SPLITS), tl.arange(0, DIM)
    top = tl.load(tops + query * splits + split, mask=split < splits, other=float("-inf"))
    highest = tl.max(top, axis=0)
    weight = tl.exp(top - tl.where(highest == float("-inf"), 0.0, highest))  # of a split without tokens: 0
    mass = tl.sum(weight * tl.load(masses + query * splits + split, mask=split < splits, other=0.0), axis=0)
    inside = (split[:, None] < splits) & (d[None, :] < WIDTH)
    parts = tl.load(sums + (query * splits + split[:, None]) * WIDTH + d[None, :], mask=inside, other=0.0)
    total = tl.sum(weight[:, None] * parts, axis=0)
    y_row = total / tl.where(mass == 0.0, 1.0, mass)  # a query that attends to nothing gives 0
    tl.store(y + query * WIDTH + d, y_row.to(y.dtype.element_ty), mask=d < WIDTH)
