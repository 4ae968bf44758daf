"""Several caches in one pass of a model: they are given the same prompt, or each has its rows of a batch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsity_edu.kv_cache.policy import PolicyCache, PolicyLayer


class _OnePromptLayer(PolicyLayer):
    """Hands a prompt to a layer of each cache."""

    state = ()

    def __init__(self, layers: list[PolicyLayer]) -> None:
        self.layers = layers
        super().__init__()

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.given = [layer.update(k, v) for layer in self.layers]
        return k, v

    def attend(self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **kwargs) -> Tensor:
        for layer, given in zip(self.layers, self.given, strict=True):
            layer.waiting = False
            out = layer.attend(module, query, *given, mask, **kwargs)  # the same of each: a prompt is read in full
        self.given = None
        return out

    @property
    def kept(self) -> Tensor:
        return self.layers[0].kept

    @property
    def bytes_read(self) -> int:
        return self.layers[0].bytes_read


def of_one_prompt(caches: Sequence[PolicyCache]) -> PolicyCache:
    """A cache that fills empty ones with the same prompt.

    Args:
        caches: empty ones, which read a prompt in full. They get their layers, and hold the prompt afterwards.

    Returns:
        The cache, for one step.
    """

    def layer() -> _OnePromptLayer:
        for cache in caches:
            cache.layers.append(cache.layer_class_to_replicate())
        return _OnePromptLayer([cache.layers[-1] for cache in caches])

    return PolicyCache(layer)


class _BesideLayer(PolicyLayer):
    """Gives each of several layers its rows of a batch."""

    state = ()

    def __init__(self, layers: list[PolicyLayer], rows: int) -> None:
        self.layers, self.rows = layers, rows
        super().__init__()
        self.seen = layers[0].seen

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        parts = zip(self.layers, k.split(self.rows), v.split(self.rows), strict=True)
        self.given = [layer.update(*some) for layer, *some in parts]
        return k, v

    def attend(self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **kwargs) -> Tensor:
        outs = []
        for layer, some, given in zip(self.layers, query.split(self.rows), self.given, strict=True):
            layer.waiting = False
            outs.append(layer.attend(module, some, *given, mask, **kwargs))
        self.given = None
        return torch.cat(outs)

    @property
    def kept(self) -> Tensor:
        return torch.cat([layer.kept for layer in self.layers])

    @property
    def bytes_read(self) -> int:
        return sum(layer.bytes_read for layer in self.layers)


def side_by_side(caches: Sequence[PolicyCache], rows: int) -> PolicyCache:
    """A cache of a batch in which each of several ones has its rows.

    Args:
        caches: which hold the same number of tokens, and get one at a time, without padding.
        rows: of each cache.

    Returns:
        The cache, for rows * len(caches) sequences.
    """
    layers = iter(range(len(caches[0].layers)))

    def layer() -> _BesideLayer:
        i = next(layers)
        return _BesideLayer([cache.layers[i] for cache in caches], rows)

    whole = PolicyCache(layer)
    whole.layers = [layer() for _ in range(len(caches[0].layers))]  # they know how many tokens came before
    return whole
