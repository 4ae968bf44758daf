"""A window over the most recent tokens, with the first few kept as sinks: StreamingLLM.

Softmax has to put its weight somewhere. Models learn to put what no token deserves on the first one, so a window that has moved
past it breaks them, and keeping it mends that. Xiao et al. 2023, "Efficient streaming language models with attention sinks".
"""

from functools import partial

from torch import Tensor

from sparsity_edu.kv_cache.eviction import EvictingLayer
from sparsity_edu.kv_cache.policy import PolicyCache


class WindowLayer(EvictingLayer):
    """One layer of `WindowCache`."""

    def worth(self) -> Tensor:
        """The oldest are the sinks; the window is protected."""
        return -self.columns_held().float()


class WindowCache(PolicyCache):
    """Keys and values of the first `sinks` tokens and of the most recent ones; all heads keep the same.

    Source: Xiao et al. 2023, sec. 3.2; the authors' `StartRecentKVCache`, which reads a prompt in full before it forgets.
    """

    def __init__(self, budget: int, sinks: int = 4, positions: str = "true") -> None:
        """Make an empty cache.

        Args:
            budget: tokens held between steps, sinks included.
            sinks: how many of the first tokens stay (StreamingLLM: 4); 0 for a plain window. Padding does not count.
            positions: "true", keys stay rotated at their positions in the text (the streaming form of H2O aside, every cache
                that evicts in `transformers` and kvpress), or "cache", queries and keys are rotated by their place among the
                tokens that are held, so that no distance is larger than the cache (StreamingLLM); for models that rotate as
                Llama does, others are refused in `generate`.

        Raises:
            ValueError: an argument is not allowed.
        """
        if not 0 <= sinks <= budget:
            raise ValueError(f"sinks must be from 0 to the budget of {budget} tokens, got {sinks}")
        layer = partial(WindowLayer, budget, budget - sinks, positions)
        layer()  # says now what is wrong
        super().__init__(layer)
