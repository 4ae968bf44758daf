"""Mistakes of exercise 10.5."""

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def neighbours(keep: Tensor, x: Tensor) -> Tensor:
    return keep.repeat_interleave(x.shape[1] // keep.shape[1], dim=1)


def take(x: Tensor, idx: Tensor) -> Tensor:
    return x.gather(2, idx if x.ndim == 3 else idx[..., None].expand(*idx.shape, x.shape[-1]))


def mistaken(name: str, says: str, *, share=neighbours, which=lambda keep: keep, of=take, together=lambda kept: kept):
    mistakes(name, says)(lambda keep, *tensors: together([of(x, share(which(keep), x)) for x in tensors]))


mistaken(
    "the first head's for all",
    "You used the indices of the first head for all. Each head keeps tokens of its own.",
    which=lambda keep: keep[:, :1].expand_as(keep),
)
mistaken(
    "the first sequence's for all",
    "You used the indices of the first sequence for the whole batch. Every sequence keeps tokens of its own.",
    which=lambda keep: keep[:1].expand_as(keep),
)
mistaken(
    "sorted",
    "You brought the tokens into ascending order (a boolean mask does). They come in the order in which keep names them.",
    which=lambda keep: keep.sort(dim=-1).values,
)
mistaken(
    "the first ones",
    "You cut off the end of each tensor. keep says which tokens stay.",
    of=lambda x, idx: x[:, :, : idx.shape[-1]].clone(),
)
mistaken(
    "the last ones",
    "You kept the end of each tensor. keep says which tokens stay.",
    of=lambda x, idx: x[:, :, x.shape[2] - idx.shape[-1] :].clone(),
)
mistaken(
    "those that go",
    "You returned the tokens that keep does not name. It names those that stay.",
    of=lambda x, idx: take(
        x,
        torch.ones(x.shape[:3])
        .scatter(2, idx, 0.0)
        .argsort(dim=-1, descending=True, stable=True)[..., : x.shape[2] - idx.shape[-1]],
    ),
)
mistaken(
    "zeros instead of gone",
    "You set what goes to 0 and kept the size. Zeros take as much memory, and a key of zeros still gets attention: its product is 0, and exp(0) is 1.",
    of=lambda x, idx: (
        x * (m := torch.zeros(x.shape[:3], dtype=torch.bool).scatter(2, idx, True)).view(m.shape + (1,) * (x.ndim - 3))
    ),
)
mistaken(
    "one channel",
    "Only the first channel came through: gather takes as many as the index has. Expand the index over the channels.",
    of=lambda x, idx: x.gather(2, idx) if x.ndim == 3 else x.gather(2, idx[..., None]),
)
mistaken(
    "only what has channels",
    "You left tensors without channels as they are. Then keys go and scores stay, and from the next step on each score belongs to another token.",
    of=lambda x, idx: take(x, idx) if x.ndim == 4 else x.clone(),
)
mistaken(
    "only the first tensor",
    "You evicted from the first tensor only. All of them are about the same tokens.",
    together=lambda kept: kept[:1],
)
mistaken(
    "heads in turns",
    "You repeated the rows of keep in turns, 0, 1, 0, 1. Heads that share are neighbours: 0, 0, 1, 1, as `repeat_interleave` does.",
    share=lambda keep, x: keep.repeat(1, x.shape[1] // keep.shape[1], 1),
)
mistaken(
    "only as many heads as keep",
    "You returned as many heads as keep has. A tensor with more keeps them all.",
    share=lambda keep, x: keep,
)
mistaken(
    "everything as float32",
    "Your results are float32. Each tensor keeps its dtype: positions are int64, and large ones would be rounded.",
    of=lambda x, idx: take(x.float(), idx),
)
mistaken(
    "a tensor, not a list",
    "For one tensor you return it without a list. A list comes back for any number of tensors.",
    together=lambda kept: kept[0] if len(kept) == 1 else kept,
)
mistaken(
    "the other way round",
    "You return the tensors in the opposite order. They come back as they were given.",
    together=lambda kept: kept[::-1],
)
mistaken(
    "the same where all stay",
    "Where all tokens stay you return the tensors that you were given. Return copies: a cache that is added to must not change what others hold.",
    of=lambda x, idx: x if torch.equal(idx, torch.arange(x.shape[2]).expand_as(idx)) else take(x, idx),
)


@mistakes(
    "moved to the front in place",
    "You moved what stays to the front of the tensors that you were given, and return a part of them: they have changed, and no memory is freed.",
)
def _(keep, *tensors):
    for x in tensors:
        x[:, :, : keep.shape[-1]] = take(x, neighbours(keep, x))
    return [x[:, :, : keep.shape[-1]] for x in tensors]
