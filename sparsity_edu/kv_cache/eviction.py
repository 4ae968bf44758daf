"""Caches that forget: which tokens stay, and what a layer does with those that go.

    select   of the older tokens those with the largest scores, and the most recent ones
    evict    keys, values, positions and scores of the others go, together

A step attends first, to what was held and to its own tokens, and forgets afterwards: at most `budget` tokens of a head are held
between steps, one more takes part in a step of decoding, and a prompt is read in full.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from sparsity_edu.kv_cache.attention import check_rotation, probabilities, rotary_frequencies, rotate
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
    """Holds `budget` tokens of each head between steps.

    The tokens that stay after a prompt are in order. From then on a new token takes the place of the one that goes, so that
    nothing is copied: `positions` says whose slot is whose.
    """

    watches = False  # whether `learn` wants to know of attention

    def __init__(self, budget: int, recent: int, positions: str = "true") -> None:
        check_budget(budget, recent)
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
        self.budget, self.recent, self.by_place = budget, recent, positions == "cache"
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.newest = None  # key and value of a token that has no slot yet

    @abstractmethod
    def worth(self) -> Tensor:
        """(batch, 1 or heads, held): tokens that are worth least go first; of the held, in the order of slots."""

    def learn(self, attention: Tensor) -> None:
        """What tokens got from the newest queries, float32 (batch, heads, held), the newest token last."""

    def columns_held(self) -> Tensor:
        """(batch, 1 or heads, held): the column of each slot."""
        if self.positions is not None:
            return self.positions
        return torch.arange(self.seen, device=self.keys.device).expand(len(self.keys), 1, -1)

    @property
    def kept(self) -> Tensor:
        return self.columns_held().sort(dim=-1).values

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.positions is None:
            return super().append(k, v)
        k, v = (x.repeat_interleave(self.keys.shape[1] // x.shape[1], dim=1) for x in (k, v))  # heads may keep their own
        if k.shape[2] == 1:
            self.newest = k, v
            return k, v
        self.keep(self.positions.argsort(dim=-1))  # in order, for `select`
        self.positions = self.columns(k.shape[2], self.seen + k.shape[2])
        return super().append(k, v)

    def columns(self, new: int, end: int) -> Tensor | None:
        """(batch, 1 or heads, held + new): the columns of the held tokens and of `new` ones, of which the last is end - 1."""
        if self.positions is None:
            return None
        newest = torch.arange(end - new, end, device=self.positions.device).expand(*self.positions.shape[:2], -1)
        return torch.cat([self.positions, newest], dim=2)

    def attend(self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **kwargs) -> Tensor:
        one = self.newest is not None
        columns = self.columns(1, self.seen) if one else self.positions
        if mask is not None and columns is not None:  # of what is held
            mask = mask.expand(len(keys), columns.shape[1], -1, -1)
            mask = mask.gather(3, columns[:, :, None].expand(-1, -1, query.shape[2], -1))
        if one:
            return self.replace(module, query, columns, None if mask is None else is_visible(mask), **kwargs)
        if self.by_place and columns is not None:
            visible = None if mask is None else is_visible(mask)[:, :, -1]
            turn, own = self.turns(module, query, columns, visible, kwargs["position_ids"])
            query, keys = rotate(query, own), rotate(keys, turn)
        out = dense_attention(module, query, keys, values, mask, **kwargs)
        self.looked_at = keys.shape[2]
        visible = None if mask is None else is_visible(mask)
        if self.watches:
            blocks = probabilities(query, keys, kwargs["scaling"], visible)
            self.learn(sum(p.sum(dim=2) for _, p in blocks))  # a query that is padding sees nothing
        if keys.shape[2] > self.budget:
            worth = self.worth()
            dead = None if visible is None else _for_heads(~visible[:, :, -1], worth.shape[1])
            self.keep(select(worth, self.budget, self.recent, dead))
        return out

    def keep(self, idx: Tensor) -> None:
        """Of all that is held only some slots, (batch, 1 or heads, kept)."""
        if self.positions is None:
            slots = torch.arange(self.keys.shape[2], device=idx.device)
            self.positions = slots.expand(len(self.keys), idx.shape[1], -1)
        there = [name for name in self.state if getattr(self, name) is not None]
        for name, kept in zip(there, evict(idx, *(getattr(self, name) for name in there)), strict=True):
            setattr(self, name, kept)

    def replace(
        self, module: nn.Module, query: Tensor, columns: Tensor, visible: Tensor | None, scaling: float, **kwargs
    ) -> Tensor:
        """A step of decoding: attend to the held tokens and the newest, which then takes the slot of the one that goes."""
        (k, v), keys = self.newest, self.keys
        batch, heads, held, dim = keys.shape
        k_stored = k
        if self.by_place:
            live = None if visible is None else visible[:, :, 0]
            turn, own = self.turns(module, query, columns, live, kwargs["position_ids"])
            query, keys, k = rotate(query, own), rotate(keys, turn[:, :, :-1]), rotate(k, turn[:, :, -1:])
        q = query.reshape(batch, heads, -1, dim)  # (batch, heads of keys, group, head_dim)
        scores = torch.cat([q @ keys.mT, q @ k.mT], dim=-1).float() * scaling
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        p = scores.softmax(dim=-1)
        weights = p.to(v.dtype)
        out = weights[..., :-1] @ self.values + weights[..., -1:] * v
        self.looked_at = held + 1
        if self.watches:
            self.learn(p.flatten(1, 2))
        self.positions = columns  # for `worth`
        worth = self.worth()
        if visible is not None:
            worth = worth.masked_fill(_for_heads(~visible[:, :, 0], worth.shape[1]), -torch.inf)
        goes = worth.masked_fill(columns >= self.seen - self.recent, torch.inf).argmin(dim=-1, keepdim=True)
        sure = self.recent > 0  # or the newest may be the one that goes
        _put_(self.keys, k_stored, goes, sure)
        _put_(self.values, v, goes, sure)
        for name in self.state[2:]:  # positions, and what belongs to tokens like them
            x = getattr(self, name)
            kept = x[:, :, :-1].clone(memory_format=torch.contiguous_format)
            setattr(self, name, _put_(kept, x[:, :, -1:], goes, sure))
        self.newest = None
        return out.reshape(batch, 1, -1, out.shape[-1])

    def turns(
        self, module: nn.Module, query: Tensor, columns: Tensor, live: Tensor | None, position_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Angles from true positions to places among the held tokens, of keys and of queries. Turning adds up: a key that came
        rotated at position 70 and stands at place 5 is turned back by 65."""
        check_rotation(module.config)
        q, heads = query.shape[2], query.shape[1]
        frequencies, _ = rotary_frequencies(module.config, query.shape[-1], query.device)
        padding = self.seen - 1 - position_ids[:, -1]  # (batch,) or (1,): columns before position 0
        order = columns.argsort(dim=-1)
        live = torch.ones_like(columns) if live is None else live.long()
        place = torch.empty_like(columns).scatter_(2, order, live.gather(2, order).cumsum(dim=-1) - 1)
        back = (place - (columns - padding[:, None, None]))[..., None] * frequencies  # (batch, 1 or heads, held, dim / 2)
        return back, _for_heads(back[:, :, -q:], heads)  # a query stands where its own key does

    @property
    def bytes_read(self) -> int:
        batch, heads, _, dim = self.keys.shape
        return batch * heads * self.looked_at * (dim + self.values.shape[3]) * self.keys.element_size()


def _for_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, 1, ...) as it is, or each of its heads as often as it has a group; (batch, heads, ...) then."""
    return x if x.shape[1] in (1, heads) else x.repeat_interleave(heads // x.shape[1], dim=1)


def _put_(x: Tensor, new: Tensor, slot: Tensor, sure: bool) -> Tensor:
    """Write a token (batch, heads, 1, ..) into a slot of each head (batch, 1 or heads, 1); it may be behind all unless sure."""
    idx = slot.expand(*x.shape[:2], 1)
    idx = idx[..., None].expand_as(new) if x.ndim == 4 else idx
    if not sure:
        inside = idx.clamp(max=x.shape[2] - 1)
        new, idx = torch.where(idx == inside, new, x.gather(2, inside)), inside
    return x.scatter_(2, idx, new)
