"""Reading through a cache: what does a model lose that forgets? And caches of one's own, which are taught in the course.

losses     of texts that are read token by token, through several caches side by side
OwnCache   lets a class with a method `step` be the cache of a model
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from sparsity_edu.kv_cache.policy import PolicyCache, PolicyLayer, attending, is_visible
from sparsity_edu.kv_cache.together import of_one_prompt, side_by_side


@torch.no_grad()
def losses(model: nn.Module, texts: Tensor, caches: Sequence[PolicyCache], prompt: int, progress: bool = True) -> Tensor:
    """The loss of each token after a prompt, which is read in full; then every token comes by itself, and the cache forgets.

    All caches read in one batch, and the prompt is read once: what a model does beside attention costs little more
    for many rows.

    Args:
        model: a `transformers` decoder, in eval mode.
        texts: token ids (texts, tokens).
        caches: empty ones. They hold the texts afterwards.
        prompt: tokens that are read in the first step, at least 1.
        progress: show a progress bar over the tokens.

    Returns:
        float32 (caches, texts, tokens - prompt), in nats: what the model did not expect of each token after the prompt.

    Raises:
        ValueError: the prompt leaves no token, or there is no cache.
    """
    n = texts.shape[1]
    if not 0 < prompt < n or not caches:
        raise ValueError(f"prompt must be from 1 to {n - 1} tokens, read by a cache or more, got {prompt} and {len(caches)}")
    texts = texts.to(model.device)
    step = partial(model, use_cache=True, logits_to_keep=1)
    with attending(model):
        first = step(texts[:, :prompt], past_key_values=of_one_prompt(caches)).logits  # (texts, 1, vocabulary)
        logits, beside, found = first.repeat(len(caches), 1, 1), side_by_side(caches, len(texts)), []
        for i in tqdm(range(prompt, n), desc="reading", unit="token", disable=not progress):
            rows = texts[:, i].repeat(len(caches))
            found.append(F.cross_entropy(logits[:, -1].float(), rows, reduction="none"))
            if i < n - 1:
                logits = step(rows[:, None], past_key_values=beside).logits
    return torch.stack(found, dim=1).view(len(caches), len(texts), n - prompt)


class Steps(Protocol):
    """What one layer of an `OwnCache` is made of."""

    def step(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Take in new tokens, let their queries attend to all that is held, and forget.

        Args:
            q: (batch, heads, new, head_dim), rotated; products are divided by sqrt(head_dim).
            k: (batch, kv_heads, new, head_dim), rotated.
            v: (batch, kv_heads, new, channels).
            mask: boolean (batch, new), False for padding; None if there is none.

        Returns:
            (batch, heads, new, channels).
        """

    def positions(self) -> Tensor:
        """int64 (batch, 1 or kv_heads, held), ascending."""


class OwnLayer(PolicyLayer):
    """One layer of `OwnCache`."""

    state = ()

    def __init__(self, make: Callable[[], Steps]) -> None:
        self.make = make
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.own = self.make()

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v

    def attend(self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **kwargs) -> Tensor:
        real = None if mask is None else is_visible(mask)[:, 0, -1, -query.shape[2] :].clone()  # who keeps it, keeps no more
        return self.own.step(query, keys, values, real).to(query.dtype).transpose(1, 2)

    @property
    def kept(self) -> Tensor:
        return self.own.positions()

    @property
    def bytes_held(self) -> int:
        return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in _tensors(vars(self.own))}.values())

    @property
    def bytes_read(self) -> int:
        raise NotImplementedError("what a class of one's own reads is not known")


def _tensors(value) -> Iterator[Tensor]:
    """All that are in a value, in lists and dicts as well."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


class OwnCache(PolicyCache):
    """A cache whose layers are objects of a class of one's own, for models without a window (SmolLM2, Llama)."""

    def __init__(self, make: Callable[[], Steps]) -> None:
        """Make an empty cache.

        Args:
            make: makes what one layer of a model keeps, such as `lambda: HeavyHitterCache(64, 32)`.
        """
        super().__init__(lambda: OwnLayer(make))
