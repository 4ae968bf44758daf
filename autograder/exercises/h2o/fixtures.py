"""Queries, keys and values that the exercises of unit 10 work on, and attention by the formula."""

import math

import torch
from torch import Tensor

CLEAR = 1e-3  # how far apart scores are of which one goes: no rounding decides


def tokens(
    g: torch.Generator, batch: int, heads: int, kv_heads: int, n: int, dim: int, v_dim: int, heavy: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (batch, heads, n, dim), keys and values (batch, kv_heads, n, ..) of a text.

    Of random ones the first tokens would have the largest sums. So each head of keys has `heavy` tokens in the middle, others
    than the next head's, at which all queries look: their products are larger by about 4 before they are scaled.
    """
    q, k = (torch.randn(batch, h, n, dim, generator=g) for h in (heads, kv_heads))
    v = torch.randn(batch, kv_heads, n, v_dim, generator=g)
    u = torch.randn(batch, kv_heads, 1, dim, generator=g)
    u = 2 * u / u.norm(dim=-1, keepdim=True)
    late = (0.2 + 0.6 * torch.rand(batch, kv_heads, heavy, generator=g)) * n  # where they stand
    looked_at = torch.zeros(batch, kv_heads, n).scatter_(2, late.long(), 1.0)
    k = k + looked_at[..., None] * u * math.sqrt(dim) / 2
    return q + u.repeat_interleave(heads // kv_heads, dim=1), k, v


def left_padding(pads: list[int], n: int) -> Tensor:
    """(batch, n) boolean, False for so many first tokens of each row."""
    return torch.arange(n) >= torch.tensor(pads)[:, None]


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What exercise 10.1 asks for, in float64."""
    new, held, group = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    seen = (torch.arange(held) <= torch.arange(held - new, held)[:, None]).expand(*k.shape[:2], new, held)
    if mask is not None:
        seen = seen & mask[:, :, None]
    own = torch.arange(q.shape[1]) // group  # the head of keys of each query head
    products = q.double() @ k.double()[:, own].mT / math.sqrt(q.shape[3])
    p = products.masked_fill(~seen[:, own], -torch.inf).softmax(dim=-1).nan_to_num(0.0)
    return p @ v.double()[:, own], p


def stay(scores: Tensor, budget: int, recent: int, mask: Tensor | None = None) -> Tensor:
    """What exercise 10.4 asks for, of one row of ranks: the newest, then what has most; of equal scores the later stays."""
    n = scores.shape[-1]
    rank = scores.double() if mask is None else scores.double().masked_fill(~mask, -torch.inf)
    rank = rank.masked_fill(torch.arange(n) >= n - recent, torch.inf)
    return rank.argsort(dim=-1, stable=True)[..., max(0, n - budget) :].sort(dim=-1).values


def is_clear(scores: Tensor, budget: int, recent: int, mask: Tensor | None = None) -> bool:
    """Whether in each head the least score that stays is not close to the largest that goes; equal scores are not close."""
    n = scores.shape[-1]
    if n <= budget or budget == recent:
        return True
    keep = torch.zeros(scores.shape, dtype=torch.bool).scatter_(2, stay(scores, budget, recent, mask), True)
    older = torch.arange(n) < n - recent
    alive = scores if mask is None else torch.where(mask, scores, -1e9)  # padding is far off
    stays = torch.where(keep & older, alive, torch.inf).amin(dim=-1)
    goes = torch.where(~keep, alive, -torch.inf).amax(dim=-1)
    scale = torch.where(alive > -1e8, alive, 0.0).abs().amax(dim=-1)
    return bool(((stays - goes > CLEAR * scale) | (stays == goes)).all())
