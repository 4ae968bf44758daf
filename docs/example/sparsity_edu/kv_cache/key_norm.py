"""Key norms: forget the tokens whose keys are longest.

    score    s_j = -|k_j|          |k_j|: l2 norm of the key of token j
    select   the tokens with the largest scores, and the most recent ones (eviction.py)

Queries tend to look at tokens with short keys. So what attention will want can be told without looking at attention at all.
Devoto et al. 2024, "A simple and effective L2 norm-based strategy for KV cache compression".
"""

from functools import partial

import torch
from torch import Tensor

from sparsity_edu.kv_cache.eviction import EvictingLayer
from sparsity_edu.kv_cache.policy import PolicyCache


def score(keys: Tensor) -> Tensor:
    """How much a token is worth, -|k_j|.

    Args:
        keys: (batch, kv_heads, tokens, head_dim).

    Returns:
        float32 (batch, kv_heads, tokens).

    Source: Devoto et al. 2024, sec. 3.
    """
    return -keys.float().norm(dim=-1)


class KeyNormLayer(EvictingLayer):
    """One layer of `KeyNormCache`."""

    def worth(self) -> Tensor:
        """The newest token of a step of decoding has no slot yet."""
        keys = self.keys if self.newest is None else torch.cat([self.keys, self.newest[0]], dim=2)
        return score(keys)


class KeyNormCache(PolicyCache):
    """Keys and values of the tokens with the shortest keys, and of the most recent ones, by head."""

    def __init__(self, budget: int, recent: int | None = None) -> None:
        """Make an empty cache.

        Args:
            budget: tokens that each head holds between steps, recent ones included.
            recent: how many of them are the most recent ones. Default: half.

        Raises:
            ValueError: an argument is not allowed.
        """
        layer = partial(KeyNormLayer, budget, budget - budget // 2 if recent is None else recent)
        layer()  # says now what is wrong
        super().__init__(layer)
