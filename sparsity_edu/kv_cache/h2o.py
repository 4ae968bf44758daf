"""H2O, the heavy-hitter oracle: forget the tokens that attention has looked at least.

    score    s_j = sum over all queries so far of the probability that they gave to token j
    select   the tokens with the largest scores, and the most recent ones (eviction.py)
    evict    keys, values and scores of the others, for good

Zhang et al. 2023, "H2O: Heavy-hitter oracle for efficient generative inference of large language models". Of what goes by that
name this is the form that really drops (`H2OKVCache_LayerWise` of the authors' code; a prompt is one step). Others:

    utils_hh          masks, drops nothing: a step sees the budget, its own token included; here it sees one token more
    utils_lm_eval     scores over all queries, later ones too, and a band of recent tokens; the published lm-eval numbers
    h2o_flexgen       a new token starts with score 0, and takes the place of the one with the smallest score
    llama-cookbook    the window's length includes the heavy hitters
    kvpress           scores divided by the number of queries, once, after the prompt, without a window of recent tokens
"""

from functools import partial

import torch
from torch import Tensor

from sparsity_edu.kv_cache.eviction import EvictingLayer
from sparsity_edu.kv_cache.policy import PolicyCache

GROUPS = ("sum", "mean", "first", "each")


def accumulate(scores: Tensor | None, attention: Tensor) -> Tensor:
    """Add the attention of new queries to the scores of the keys that they saw.

    Args:
        scores: (batch, heads, n - q) of the keys before, or None at the start.
        attention: probabilities (batch, heads, q, n) of q new queries; the last q keys are their own.

    Returns:
        float32 (batch, heads, n). Sequences of a batch are apart (the authors' code sums over them, its issue 14).

    Source: Zhang et al. 2023, def. 4.1 and algorithm 1.
    """
    new = attention.float().sum(dim=2)
    if scores is not None:
        new[..., : scores.shape[-1]] += scores
    return new


def pool(scores: Tensor, kv_heads: int, group: str) -> Tensor:
    """Scores by query head as scores by what is kept together.

    Args:
        scores: (batch, heads, n).
        kv_heads: heads of keys; query heads h * g to (h + 1) * g - 1 share head h of keys.
        group: "sum" over the query heads that share a head of keys, or their "mean" (kvpress: the same choice, other numbers),
            or the "first" of them (llama-cookbook), or "each" by itself (KVCache-Factory, which repeats keys first).

    Returns:
        (batch, kv_heads, n), or for "each" `scores` as they are.

    Raises:
        ValueError: the group is unknown.
    """
    if group not in GROUPS:
        raise ValueError(f"group must be one of {', '.join(GROUPS)}, got {group!r}")
    if group == "each":
        return scores
    shared = scores.unflatten(1, (kv_heads, -1))  # (batch, kv_heads, group, n)
    return {"sum": shared.sum(dim=2), "mean": shared.mean(dim=2), "first": shared[:, :, 0]}[group]


def per_query(scores: Tensor, positions: Tensor, seen: int) -> Tensor:
    """Scores divided by the number of queries that could see the token: it mends the bias of sums to early tokens.

    Args:
        scores: (batch, heads, n).
        positions: int64, broadcast to (batch, heads, n): the place of each token in the text, from 0.
        seen: tokens of the text so far.

    Returns:
        (batch, heads, n).

    Source: kvpress, `ObservedAttentionPress`.
    """
    return scores / (seen - positions)


class H2OLayer(EvictingLayer):
    """One layer of `H2OCache`."""

    watches = True
    state = ("keys", "values", "positions", "scores")

    def __init__(self, budget: int, recent: int, group: str, normalize: bool, positions: str) -> None:
        self.group, self.normalize = group, normalize
        super().__init__(budget, recent, positions)

    def learn(self, attention: Tensor) -> None:
        new = pool(attention, self.keys.shape[1], self.group)
        self.scores = accumulate(self.scores, new[:, :, None])

    def worth(self) -> Tensor:
        return per_query(self.scores, self.columns_held(), self.seen) if self.normalize else self.scores


class H2OCache(PolicyCache):
    """Keys and values of the tokens that attention has looked at most, and of the most recent ones, by head."""

    def __init__(
        self,
        budget: int,
        recent: int | None = None,
        *,
        group: str = "sum",
        normalize: bool = False,
        positions: str = "true",
    ) -> None:
        """Make an empty cache.

        Args:
            budget: tokens that each head holds between steps, recent ones included.
            recent: how many of them are the most recent ones, which no score can evict. Default: half (as in the paper).
            group: whose attention counts where query heads share a head of keys: "sum", "mean", "first" or "each", see `pool`.
                The authors' code has no shared heads. With "each" every query head keeps tokens of its own, and the cache is
                larger by the size of the group.
            normalize: divide scores by the number of queries that could see the token (kvpress); the authors do not.
            positions: "true", keys stay rotated at their positions in the text (the authors' `H2OLlamaAttention`), or "cache",
                queries and keys are rotated by their place among the tokens that are held (`H2OLlamaAttention_streaming`), for
                models that rotate as Llama does.

        Raises:
            ValueError: an argument is not allowed.
        """
        recent = budget - budget // 2 if recent is None else recent
        layer = partial(H2OLayer, budget, recent, group, normalize, positions)
        pool(torch.zeros(1, 1, 1), 1, group)
        layer()  # says now what is wrong
        super().__init__(layer)
