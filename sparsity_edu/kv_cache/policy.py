"""How a cache of our own lives in `transformers`: it keeps what it wants, and attends to it itself.

    model.set_attn_implementation(ATTENTION)
    model.generate(ids, past_key_values=H2OCache(512))

A model hands its new keys and values to the cache (`update`), and what it gets back to an attention function. Ours, registered
as `ATTENTION`, finds the cache by the keys and lets it attend; other caches, and no cache, get `scaled_dot_product_attention`.
Masks are made for all tokens that were ever seen, so they say of every kept token, by its column, whether it is padding or out
of a window of the model. What attends to all that was seen is the call that `transformers` makes itself, to the last bit.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "kv_cache"  # for `set_attn_implementation` and `from_pretrained(..., attn_implementation=)`
POSITIONS = ("true", "cache")
NOT_PLAIN = {"softcap": "Gemma 2", "s_aux": "GPT-OSS", "position_bias": "T5"}  # what else goes into a softmax, and whose


class PolicyLayer(CacheLayerMixin):
    """What one layer of a model keeps. A policy says in `append` and `attend` what goes, and what is looked at.

    A column is the place of a token in the whole text with its padding, which masks go by.
    """

    is_sliding = is_compileable = is_croppable = False
    state: tuple[str, ...] = ("keys", "values", "positions")  # tensors of a batch, None where there is nothing yet

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Forget the text; what was chosen at the start stays."""
        for name in self.state:
            setattr(self, name, None)  # keys and values: (batch, heads, held, head_dim)
        self.seen = 0  # tokens, padding included
        self.waiting = False  # for attention
        self.is_initialized = False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Take in new keys and values, (batch, kv_heads, q, head_dim) each, and give all that attention may look at."""
        self.lazy_initialization(key_states, value_states)
        keys, values = self.append(key_states, value_states)
        self.seen += key_states.shape[2]
        self.waiting = True
        keys = keys.view_as(keys)  # a tensor of its own: what knows its layer is not held by the layer
        keys.policy = self
        return keys, values

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New tokens behind those held."""
        join = (lambda old, new: new.clone()) if self.keys is None else (lambda old, new: torch.cat([old, new], dim=2))
        self.keys, self.values = join(self.keys, k), join(self.values, v)
        return self.keys, self.values

    @abstractmethod
    def attend(self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **kwargs) -> Tensor:
        """Attention of the newest tokens, (batch, q, heads, head_dim), over all that is held."""

    @property
    @abstractmethod
    def kept(self) -> Tensor:
        """int64 (batch, 1 or heads, held): the columns of the tokens that are held, ascending."""

    @property
    def bytes_held(self) -> int:
        """All that is allocated: keys, values, and what the policy remembers."""
        kept = (getattr(self, name) for name in self.state)
        return sum(x.numel() * x.element_size() for x in kept if x is not None)

    @property
    @abstractmethod
    def bytes_read(self) -> int:
        """What the newest token had to read of keys, values and bounds: once, but where query heads choose pages for each."""

    def get_seq_length(self) -> int:
        return self.seen  # not what is held: positions and masks follow from it

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def each(self, change: Callable[[Tensor], Tensor]) -> None:
        for name in self.state:
            if getattr(self, name) is not None:
                setattr(self, name, change(getattr(self, name)))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.each(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.each(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self.each(lambda x: x[indices.to(x.device)])

    def crop(self, tokens_to_remove: int) -> None:
        kind = type(self).__name__
        raise NotImplementedError(f"{kind} cannot take tokens back: what it forgot is gone")


class PolicyCache(Cache):
    """A cache whose layers are all made by one function; bytes are sums over layers."""

    def __init__(self, layer: Callable[[], PolicyLayer]) -> None:
        super().__init__(layer_class_to_replicate=layer)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if any(layer.waiting for layer in self.layers):
            needed = f'call model.set_attn_implementation("{ATTENTION}") first, and take a new cache'
            raise RuntimeError(f"the model does not let the cache attend: {needed}")
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def activate_past_recording(self) -> None:
        """What assisted generation calls before it begins."""
        if not self.layer_class_to_replicate().is_croppable:
            kind, wants = type(self).__name__, "which reads guesses side by side and takes tokens back"
            raise NotImplementedError(f"{kind} is not for assisted generation, {wants}")
        super().activate_past_recording()

    @property
    def bytes_held(self) -> int:
        """All that is allocated now."""
        return sum(layer.bytes_held for layer in self.layers)

    @property
    def bytes_read(self) -> int:
        """What the newest token had to read of keys, values and bounds."""
        return sum(layer.bytes_read for layer in self.layers)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs
) -> tuple[Tensor, None]:
    """The attention function: the layer that keeps the keys attends.

    Args:
        module: the model's attention.
        query: (batch, heads, q, head_dim), rotated.
        key: what `update` gave, (batch, kv_heads, held, head_dim).
        value: likewise.
        attention_mask: (batch, 1, q, seen), True (or 0, of floating-point numbers) = attend; None where all is causal.
        kwargs: scaling, dropout, position_ids and what else a model hands on.

    Returns:
        (batch, q, heads, head_dim), and no probabilities.

    Raises:
        ValueError: the model's attention is no plain softmax of scaled products.
    """
    for name, family in NOT_PLAIN.items():
        if kwargs.get(name) is not None:
            plain = "a plain softmax of scaled products"
            raise ValueError(f"the attention of a model must be {plain}, got {type(module).__name__} with {name} (as {family})")
    layer = getattr(key, "policy", None)
    if layer is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    layer.waiting = False
    return layer.attend(module, query, key, value, attention_mask, **kwargs), None


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)  # under the same name, or padding would be ignored


@contextmanager
def attending(model: nn.Module) -> Iterator[None]:
    """The model with our attention, for a while."""
    before = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def dense_attention(module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **kwargs) -> Tensor:
    """(batch, q, heads, head_dim): attention over all keys, with a mask of (batch, 1, kv_heads or heads, q, held)."""
    group, q, n = query.shape[1] // keys.shape[1], query.shape[2], keys.shape[2]
    if mask is None and 1 < q < n:  # a model hands a mask then
        mask = torch.ones(q, n, dtype=torch.bool, device=query.device).tril(n - q)[None, None]
    if mask is not None and mask.shape[1] not in (1, query.shape[1]):
        mask = mask.repeat_interleave(group, dim=1)
    if group != getattr(module, "num_key_value_groups", 1):  # keys of each query head
        module = SimpleNamespace(num_key_value_groups=group, is_causal=getattr(module, "is_causal", True))
    return sdpa_attention_forward(module, query, keys, values, mask, **kwargs)[0]


def is_visible(mask: Tensor) -> Tensor:
    """A mask in booleans, True = attend."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
