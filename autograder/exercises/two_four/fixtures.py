"""What the exercises on 2:4 are checked with: matrices of all group patterns, and an independent packing."""

import torch
from torch import Tensor


def two_four(g: torch.Generator, N: int, K: int, most: int = 2, least: int = 2, dtype: torch.dtype = torch.float16) -> Tensor:
    """(N, K) with `least` to `most` non-zeros in every 4, of either sign, none close to zero."""
    place = torch.rand(N, K // 4, 4, generator=g).argsort(-1)  # a permutation of 0..3 per group
    count = torch.randint(least, most + 1, (N, K // 4, 1), generator=g)
    sign = torch.randint(0, 2, (N, K), generator=g) * 2 - 1
    values = (0.25 + torch.rand(N, K, generator=g)) * sign
    return values.masked_fill((place >= count).view(N, K), 0).to(dtype)


def places_of(W: Tensor) -> Tensor:
    """(N, K / 4, 2): of each group the non-zeros, and what of 2, 3, 0, 1 is free first where there are not two."""
    nonzero = W.unflatten(1, (-1, 4)) != 0
    rank = nonzero * 10 - torch.tensor([2, 3, 0, 1])  # the larger, the sooner it is stored
    return rank.argsort(dim=-1, descending=True)[..., :2].sort(-1).values


def words_of(places: Tensor) -> Tensor:
    """int16 (N, K / 16): four groups to a word, the first in the lowest bits, the lower place in the lower two of its four."""
    nibbles = (places[..., 0] + 4 * places[..., 1]).unflatten(1, (-1, 4))
    words = (nibbles * torch.tensor([1, 16, 256, 4096])).sum(-1)
    return torch.where(words >= 2**15, words - 2**16, words).to(torch.int16)


def packed(W: Tensor) -> tuple[Tensor, Tensor]:
    """Values (N, K / 2) and words int16 (N, K / 16)."""
    places = places_of(W)
    return W.unflatten(1, (-1, 4)).gather(2, places).flatten(1), words_of(places)


def unpacked(values: Tensor, codes: Tensor, order=(0, 1, 2, 3), swap: bool = False) -> Tensor:
    """The dense matrix (N, K); with nibbles of a word in another order, or with the halves of a nibble swapped, a wrong one."""
    nibbles = (codes.long()[..., None] >> 4 * torch.tensor(order) & 15).flatten(1)  # (N, K/4)
    places = torch.stack([nibbles >> 2, nibbles & 3] if swap else [nibbles & 3, nibbles >> 2], dim=-1)
    groups = values.new_zeros(*nibbles.shape, 4).scatter_(-1, places, values.unflatten(1, (-1, 2)))
    return groups.flatten(1)
