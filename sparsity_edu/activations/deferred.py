"""A cache that lets keys and values wait: a head that a token skips is filled in when it is next needed.

The head that skips a token now may attend to it later. So the token's input is kept, and its keys and values are worked out
then. After 16 tokens all heads are filled, and the inputs let go. Deja Vu's code for latency does the same (`x_cache`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

WAITING = 16  # tokens, the most

# heads (n,), inputs (tokens, hidden), cosines and sines (tokens, head_dim) to keys and values (n, tokens, head_dim) each
Project = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class DeferredLayer(DynamicLayer):
    """Keys and values of one layer; of one sequence, tokens may be missing from some of its heads."""

    is_croppable = False

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._forget()

    def _forget(self) -> None:
        self.inputs: list[tuple[Tensor, Tensor, Tensor]] = []  # of the last tokens, each (1, channels)
        self.missing: Tensor | None = None  # bool (kv_heads, len(inputs))

    def reset(self) -> None:
        super().reset()
        self._forget()

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Take in keys and values of all heads, (batch, kv_heads, tokens, head_dim)."""
        if self.inputs:
            raise RuntimeError("keys and values of skipped heads must be filled in before a dense step: call fill")
        return super().update(key_states, value_states, *args, **kwargs)

    def defer(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Take in a token whose keys and values are not known yet.

        Args:
            x: (1, hidden), what its key and value projections read.
            cos: (1, head_dim), of its rotation.
            sin: likewise.
        """
        room = self.keys.new_zeros(*self.keys.shape[:2], 1, self.keys.shape[3])
        self.keys, self.values = torch.cat([self.keys, room], dim=2), torch.cat([self.values, room], dim=2)
        new = torch.ones(self.keys.shape[1], 1, dtype=torch.bool)
        self.missing = new if self.missing is None else torch.cat([self.missing, new], dim=1)
        self.inputs.append((x, cos, sin))

    def fill(self, heads: list[int] | None, project: Project) -> None:
        """Work out what heads are missing.

        Args:
            heads: those that are needed; None, or any when 16 tokens wait: all.
            project: makes keys and values, rotated. Called once for all heads that are missing the same tokens.
        """
        if not self.inputs:
            return
        if heads is None or len(self.inputs) >= WAITING:
            heads = range(self.keys.shape[1])
        alike: dict[tuple[bool, ...], list[int]] = {}
        for head in heads:
            alike.setdefault(tuple(self.missing[head].tolist()), []).append(head)
        before = self.keys.shape[2] - len(self.inputs)
        for pattern, same in alike.items():
            tokens = [i for i, is_missing in enumerate(pattern) if is_missing]
            if not tokens:
                continue
            h = torch.tensor(same, device=self.keys.device)
            k, v = project(h, *(torch.cat([self.inputs[i][part] for i in tokens]) for part in range(3)))
            place = torch.tensor(tokens, device=h.device) + before
            self.keys[0, h[:, None], place], self.values[0, h[:, None], place] = k, v
            self.missing[same] = False
        if not self.missing.any():
            self._forget()

    def crop(self, tokens_to_remove: int) -> None:
        raise NotImplementedError("DeferredCache is not for assisted generation, which takes tokens back")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._only_full()
        super().reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._only_full()
        super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        self._only_full()
        super().batch_select_indices(indices)

    def _only_full(self) -> None:
        if self.inputs:
            raise NotImplementedError("DeferredCache is for one sequence while keys and values wait")


class DeferredCache(Cache):
    """What `model.generate` takes as `past_key_values` while blocks run on few heads."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=DeferredLayer)
