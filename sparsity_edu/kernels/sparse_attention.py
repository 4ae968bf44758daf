"""Attention of one new token over a part of a long cache: the tokens of some pages, not of all.

A step of decoding reads the whole cache, once. Quest keeps of each page of 16 tokens the smallest and the largest key, channel
by channel: from them, a sixteenth of the cache, it says which pages can matter for this query, and only these are read.

    page_bounds      the smallest and the largest key of each page
    page_scores      what no token of a page can exceed
    sparse_decode    attention over the pages that are chosen, in splits that run side by side

On a GPU, and in the interpreter, kernels do it (sparse_attention_kernels.py); on a CPU, in float32 and bfloat16, compiled loops
(sparse_attention_cpu.py); torch does it in other dtypes, and on devices that neither knows.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsity_edu.kernels import sparse_attention_cpu as loops
from sparsity_edu.kernels.devices import processors, runs_kernels


def page_bounds(keys: Tensor, page: int = 16) -> tuple[Tensor, Tensor]:
    """The smallest and the largest key of each page, channel by channel.

    Args:
        keys: (batch, kv_heads, tokens, head_dim).
        page: tokens of a page; the last page may have fewer.

    Returns:
        low and high, (batch, kv_heads, pages, head_dim) each.

    Source: Tang et al. 2024, Quest: Query-aware sparsity for efficient long-context LLM inference, section 3.2.
    """
    full = keys.shape[2] // page * page
    parts = [keys[:, :, :full].unflatten(2, (-1, page)), keys[:, :, None, full:]]  # (batch, kv_heads, pages, page, head_dim)
    low, high = zip(*(part.aminmax(dim=3) for part in parts if part.numel()), strict=True)
    return torch.cat(low, dim=2), torch.cat(high, dim=2)


def page_scores(q: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """An upper bound on the product of a query with any key of a page: sum over d of max(q_d low_d, q_d high_d).

    Args:
        q: (batch, heads, head_dim), of one token, contiguous.
        low: (batch, kv_heads, pages, head_dim), contiguous; heads is a multiple of kv_heads.
        high: likewise.

    Returns:
        float32 (batch, heads, pages), not scaled.

    Raises:
        ValueError: shapes or dtypes do not fit, or a tensor is not contiguous.

    Source: Tang et al. 2024, algorithm 1.
    """
    queries = _grouped(q, low, "low")
    if (high.shape, high.dtype, high.device) != (low.shape, low.dtype, low.device):
        wanted, got = (f"{tuple(x.shape)} in {x.dtype} on {x.device}" for x in (low, high))
        raise ValueError(f"high must be like low, {wanted}, got {got}")
    batch, kv_heads, pages, dim = low.shape
    if not runs_kernels(q):
        if loops.can_run(q):
            return loops.score_pages(queries, low, high).view(*q.shape[:2], pages)
        least, most, queries = low.float(), high.float(), queries.float()
        # a positive q_d takes the largest key, a negative one the smallest
        scores = queries.clamp(min=0) @ most.mT + queries.clamp(max=0) @ least.mT
        return scores.view(*q.shape[:2], pages)
    from sparsity_edu.kernels import sparse_attention_kernels as kernels

    scores = q.new_empty(*q.shape[:2], pages, dtype=torch.float32)
    each = 32 if q.is_cuda else 256
    if scores.numel():
        kernels.score_pages[(batch * kv_heads, -(-pages // each))](
            queries, _contiguous(low, "low"), _contiguous(high, "high"), scores, pages,
            QUERIES=queries.shape[2], WIDTH=dim, PAGES=each, DIM=_power_of_two(dim), num_warps=4,
        )  # fmt: skip
    return scores


def sparse_decode(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    page: int = 16,
    scale: float | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """softmax(q K^T scale) V over the tokens of chosen pages, for one query token.

    The tokens of each list of pages are split among programs. A split returns the largest score it has seen, and sums relative
    to it; a second kernel weights the splits by exp(its largest - the largest of all) and divides once, so no exponential can
    overflow.

    Args:
        q: (batch, heads, head_dim), contiguous.
        keys: (batch, kv_heads, tokens, head_dim), contiguous; heads is a multiple of kv_heads.
        values: likewise.
        pages: int32 or int64 (batch, heads, n) or (batch, kv_heads, n): different pages of each head, or one list for all heads
            that share their keys, which then are read once; -1 is no page.
        page: tokens of a page; the last page of the cache may have fewer.
        scale: of the scores. Default: 1 / sqrt(head_dim).
        rows: int64 (batch, 3), of each sequence where its page 0 begins, the first token that may be attended to, and the end.
            Default: 0, 0, tokens. Sequences that are padded on the left begin later; keys may have room behind their end.

    Returns:
        (batch, heads, head_dim) in the dtype of q; 0 where a list has no page.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or a tensor is not contiguous.

    Source: Tang et al. 2024, section 3.3; the splits are those of Dao et al. 2023, Flash-Decoding.
    """
    queries = _grouped(q, keys, "keys")
    if (values.shape, values.dtype, values.device) != (keys.shape, keys.dtype, keys.device):
        wanted, got = (f"{tuple(x.shape)} in {x.dtype} on {x.device}" for x in (keys, values))
        raise ValueError(f"values must be like keys, {wanted}, got {got}")
    batch, kv_heads, tokens, dim = keys.shape
    heads, n = q.shape[1], pages.shape[-1]
    fits = pages.ndim == 3 and pages.shape[0] == batch and pages.shape[1] in (heads, kv_heads) and pages.device == q.device
    if not fits or pages.is_floating_point():
        wanted = f"({batch}, {heads} or {kv_heads}, n) of whole numbers on {q.device}"
        raise ValueError(f"pages must be {wanted}, got {tuple(pages.shape)} in {pages.dtype} on {pages.device}")
    if rows is not None and (rows.shape, rows.dtype, rows.device) != ((batch, 3), torch.int64, q.device):
        got = f"{tuple(rows.shape)} in {rows.dtype} on {rows.device}"
        raise ValueError(f"rows must be ({batch}, 3) in torch.int64 on {q.device}, got {got}")
    scale = dim**-0.5 if scale is None else scale
    queries = q.view(batch, pages.shape[1], heads // pages.shape[1], dim)  # those of a list
    if not runs_kernels(q):
        rows = torch.tensor([[0, 0, tokens]], device=q.device).expand(batch, 3) if rows is None else rows
        decode = loops.decode if loops.can_run(q) else _decode_in_torch
        return decode(queries, keys, values, pages, page, scale, rows).view_as(q)
    import triton.language as tl

    from sparsity_edu.kernels import sparse_attention_kernels as kernels

    lists, group = batch * pages.shape[1], queries.shape[2]
    step = 64 if q.is_cuda else 256
    wanted = -(-4 * processors(q.device) // max(1, lists)) if q.is_cuda else 3
    share = max(step, -(-n * page // wanted // step) * step)  # tokens of a split
    splits = max(1, -(-n * page // share))
    tops, masses = (torch.empty(lists * group, splits, device=q.device) for _ in range(2))
    sums, y, wide = torch.empty(lists * group, splits, dim, device=q.device), torch.empty_like(q), _power_of_two(dim)
    multiply_in = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}.get(q.dtype, tl.float32) if q.is_cuda else tl.float32
    kernels.attend_split[(lists, splits)](
        queries, _contiguous(keys, "keys"), _contiguous(values, "values"), _contiguous(pages, "pages"),
        None if rows is None else _contiguous(rows, "rows"), tops, masses, sums,
        scale, tokens, kv_heads, pages.shape[1] // kv_heads, n, share,
        QUERIES=group, WIDTH=dim, PAGE=page, ROWS=max(16, _power_of_two(group)), TOKENS=step, DIM=wide, MULTIPLY_IN=multiply_in,
        num_warps=4,
    )  # fmt: skip
    kernels.combine_splits[(lists * group,)](
        tops, masses, sums, y, splits, WIDTH=dim, SPLITS=_power_of_two(splits), DIM=wide, num_warps=4
    )
    return y


def _decode_in_torch(
    queries: Tensor, keys: Tensor, values: Tensor, pages: Tensor, page: int, scale: float, rows: Tensor
) -> Tensor:
    """Copies the pages; an embedding is the fastest way to copy rows that lie apart."""
    batch, kv_heads, tokens, dim = keys.shape
    lists = pages.shape[1]
    begin, first, end = rows.reshape(batch, 3, 1, 1).unbind(dim=1)
    inside = torch.arange(page, device=pages.device)
    token = begin + (pages.long()[..., None] * page + inside).flatten(2)  # (batch, lists, n * page)
    there = (pages >= 0).repeat_interleave(page, dim=2) & (token >= first) & (token < end)
    head = torch.arange(batch * lists, device=pages.device).view(batch, lists, 1) // (lists // kv_heads)  # of keys
    row = head * tokens + token.clamp(0, tokens - 1)
    k, v = (F.embedding(row, cache.reshape(-1, dim)) for cache in (keys, values))
    scores = (queries.float() @ k.float().mT * scale).masked_fill(~there[:, :, None], -torch.inf)
    weights = scores.softmax(dim=-1).nan_to_num(0.0) if not there.any(dim=-1).all() else scores.softmax(dim=-1)
    return (weights @ v.float()).to(queries.dtype)


def _grouped(q: Tensor, keys: Tensor, name: str) -> Tensor:
    """q as (batch, kv_heads, queries of a head of keys, head_dim), once it is known to fit."""
    if (
        q.ndim != 3
        or keys.ndim != 4
        or keys.shape[0] != q.shape[0]
        or keys.shape[3] != q.shape[2]
        or q.shape[1] % keys.shape[1]
    ):
        wanted = "(batch, kv_heads, .., head_dim) with heads a multiple of kv_heads"
        raise ValueError(f"{name} must be {wanted} for q (batch, heads, head_dim) = {tuple(q.shape)}, got {tuple(keys.shape)}")
    if q.dtype != keys.dtype or q.device != keys.device:
        raise ValueError(f"{name} must be in {q.dtype} on {q.device} as q is, got {keys.dtype} on {keys.device}")
    return _contiguous(q, "q").view(q.shape[0], keys.shape[1], -1, q.shape[2])


def _contiguous(x: Tensor, name: str) -> Tensor:
    if not x.is_contiguous():
        raise ValueError(f"{name} must be contiguous: call {name}.contiguous() first")
    return x


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
