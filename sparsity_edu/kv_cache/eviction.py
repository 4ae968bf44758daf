"""Caches that forget: which tokens stay, and what a layer does with those that go.

    select   of the older tokens those with the largest scores, and the most recent ones
    evict    keys, values, positions and scores of the others go, together

A step attends first, to what was held and to its own tokens, and forgets afterwards: at most `budget` tokens of a head are held
between steps, one more takes part in a step of decoding, and a prompt is read in full.
"""

import torch
from torch import Tensor, nn

from sparsity_edu.kv_cache.attention import rotary_frequencies, rotate
from sparsity_edu.kv_cache.policy import POSITIONS, PolicyLayer, dense_attention, is_visible


def select(scores: Tensor, budget: int, recent: int, dead: Tensor | None = None) -> Tensor:
    """The tokens that stay: the last `recent`, whatever their scores, and of the others the `budget - recent` best.

    Args:
        scores: (batch, heads, n), of all tokens that are held; each head chooses for itself.
        budget: tokens that stay.
        recent: how many of them are the newest.
        dead: boolean (batch, 1 or heads, n), padding and the like: stays only where nothing else is left.

    Returns:
        int64 (batch, heads, min(budget, n)), ascending.

    Raises:
        ValueError: `recent` is not from 0 to `budget`.

    Source: Zhang et al. 2023, "H2O: Heavy-hitter oracle", algorithm 1; the authors' `H2OKVCache_LayerWise`.
    """
    check_budget(budget, recent)
    n = scores.shape[-1]
    if n <= budget:
        return torch.arange(n, device=scores.device).expand(scores.shape)
    older = scores[..., : n - recent]
    if dead is not None:
        older = older.masked_fill(dead[..., : n - recent], -torch.inf)
    heavy = older.topk(budget - recent, dim=-1).indices.sort(dim=-1).values
    newest = torch.arange(n - recent, n, device=scores.device).expand(*heavy.shape[:-1], recent)
    return torch.cat([heavy, newest], dim=-1)


def evict(keep: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Only the tokens that stay, of anything that belongs to tokens.

    Args:
        keep: int64 (batch, 1 or heads, kept).
        tensors: (batch, kv_heads, n) or (batch, kv_heads, n, channels). If heads is a multiple of kv_heads, each head takes
            what it keeps from the head that its group shares.

    Returns:
        New tensors (batch, heads, kept[, channels]), with memory of their own: that of the others can be freed.
    """
    kept = []
    for x in tensors:
        batch, heads = x.shape[:2]
        idx = keep.expand(batch, max(heads, keep.shape[1]), -1).reshape(batch, heads, -1)  # (batch, kv_heads, group * kept)
        idx = idx[..., None].expand(*idx.shape, x.shape[-1]) if x.ndim == 4 else idx
        kept.append(x.gather(2, idx).view(batch, -1, keep.shape[-1], *x.shape[3:]))
    return kept


def check_budget(budget: int, recent: int) -> None:
    """Raise a ValueError that says what is wrong."""
    if budget < 1:
        raise ValueError(f"budget must be at least 1 token, got {budget}")
    if not 0 <= recent <= budget:
        raise ValueError(f"recent must be from 0 to the budget of {budget} tokens, got {recent}")


class EvictingLayer(PolicyLayer):
    """Holds `budget` tokens of each head between steps."""

    def __init__(self, budget: int, recent: int, positions: str = "true") -> None:
        check_budget(budget, recent)
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
        self.budget, self.recent, self.by_place = budget, recent, positions == "cache"
        super().__init__()

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.positions is not None:
            new = torch.arange(self.seen, self.seen + k.shape[2], device=k.device)
            self.positions = torch.cat([self.positions, new.expand(*self.positions.shape[:2], -1)], dim=2)
            group = self.keys.shape[1] // k.shape[1]  # more than 1 where each query head keeps its own tokens
            k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        return super().append(k, v)

    def attend(self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **kwargs) -> Tensor:
        q = query.shape[2]
        if mask is not None and self.positions is not None:  # the columns of what is held
            mask = mask.expand(len(keys), self.positions.shape[1], -1, -1)
            mask = mask.gather(3, self.positions[:, :, None].expand(-1, -1, q, -1))
        if self.by_place and self.positions is not None:
            query, keys = self.rotated_by_place(module, query, keys, mask, kwargs["position_ids"])
        out = dense_attention(module, query, keys, values, mask, **kwargs)
        self.looked_at = keys.shape[2]
        self.observe(query, keys, mask, kwargs["scaling"])
        if keys.shape[2] > self.budget:
            self.forget(None if mask is None else ~is_visible(mask)[:, :, -1])
        return out

    @property
    def kept(self) -> Tensor:
        if self.positions is None:
            return torch.arange(self.seen, device=self.keys.device).expand(len(self.keys), 1, -1)
        return self.positions

    def observe(self, query: Tensor, keys: Tensor, mask: Tensor | None, scale: float) -> None:
        """What a policy learns from a step of attention; the mask is of what is held."""

    def choose(self, dead: Tensor | None) -> Tensor:
        """(batch, 1 or heads, budget): the held tokens that stay, ascending; `dead` (batch, 1 or heads, held) go first."""
        raise NotImplementedError

    def forget(self, dead: Tensor | None) -> None:
        keep = self.choose(dead)
        if self.positions is None:
            columns = torch.arange(self.keys.shape[2], device=keep.device)
            self.positions = columns.expand(len(self.keys), keep.shape[1], -1)
        there = [name for name in self.state if getattr(self, name) is not None]
        for name, kept in zip(there, evict(keep, *(getattr(self, name) for name in there)), strict=True):
            setattr(self, name, kept)

    def rotated_by_place(
        self, module: nn.Module, query: Tensor, keys: Tensor, mask: Tensor | None, position_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys that came rotated at their true positions, turned on to their places among what is held.

        Turning adds up: a key of position 70 at place 5 is turned back by 65.
        """
        q, heads = query.shape[1:3][::-1]
        frequencies, _ = rotary_frequencies(module.config, keys.shape[-1], keys.device)
        padding = self.seen - 1 - position_ids[:, -1]  # (batch,) or (1,): columns before position 0
        position = self.positions - padding[:, None, None]
        live = torch.ones_like(position) if mask is None else is_visible(mask)[:, :, -1].long()
        back = live.cumsum(dim=-1) - 1 - position  # (batch, 1 or heads held, held)
        keys = rotate(keys, back[..., None] * frequencies)
        own = back[..., -q:].repeat_interleave(heads // back.shape[1], dim=1)  # a query stands where its own key does
        return rotate(query, own[..., None] * frequencies), keys

    @property
    def bytes_read(self) -> int:
        batch, heads, _, dim = self.keys.shape
        return batch * heads * self.looked_at * (dim + self.values.shape[3]) * self.keys.element_size()
