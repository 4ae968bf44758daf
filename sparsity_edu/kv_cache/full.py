"""Nothing is forgotten: every token's keys and values, with room for those to come."""

import torch
from torch import Tensor, nn

from sparsity_edu.kv_cache.policy import PolicyCache, PolicyLayer, dense_attention

ROOM = 256  # tokens


class FullLayer(PolicyLayer):
    """One layer of `FullCache`."""

    is_croppable = True

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write into room that is there; a cache that grew by copying itself would read and write all of it at every step."""
        end = self.seen + k.shape[2]
        for name, new in (("keys", k), ("values", v)):
            room = with_room(getattr(self, name), new, self.seen, end)
            room[:, :, self.seen : end] = new
            setattr(self, name, room)
        return self.keys[:, :, :end], self.values[:, :, :end]

    def attend(self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **kwargs) -> Tensor:
        return dense_attention(module, query, keys, values, mask, **kwargs)

    @property
    def kept(self) -> Tensor:
        return torch.arange(self.seen, device=self.keys.device).expand(len(self.keys), 1, -1)

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove > 0:
            raise ValueError(f"tokens_to_remove must be -n to take n tokens back, got {tokens_to_remove}")
        self.seen += tokens_to_remove

    @property
    def bytes_read(self) -> int:
        batch, heads, _, dim = self.keys.shape
        return batch * heads * self.seen * (dim + self.values.shape[3]) * self.keys.element_size()


class FullCache(PolicyCache):
    """Keys and values of all tokens, for comparison. There is room for some more: an eighth, 16 to 256 tokens."""

    def __init__(self) -> None:
        super().__init__(FullLayer)


def with_room(held: Tensor | None, new: Tensor, used: int, needed: int) -> Tensor:
    """A tensor (batch, heads, `needed` or more, channels) that begins with the first `used` of `held`, if there is one."""
    if held is not None and held.shape[2] >= needed:
        return held
    room = min(ROOM, max(16, needed // 8))
    larger = new.new_zeros(*new.shape[:2], needed + room, new.shape[3])
    if held is not None:
        larger[:, :, :used] = held[:, :, :used]
    return larger
