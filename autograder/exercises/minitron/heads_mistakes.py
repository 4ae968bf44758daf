"""Mistakes of exercise 7.2, and the parts that they vary."""

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes


def chosen(scores: Tensor, heads: int, kv_heads: int, keep: int) -> Tensor:
    """As many of the best of each group of neighbours, ascending."""
    size, from_each = heads // kv_heads, keep // kv_heads
    kept = [i + size * k for k in range(kv_heads) for i in scores[size * k : size * (k + 1)].topk(from_each).indices.tolist()]
    return torch.tensor(sorted(kept))


def checked(heads, kv_heads, keep):
    if keep % kv_heads or not kv_heads <= keep <= heads:
        raise ValueError("keep")


mistakes = Mistakes()


def mistaken(name: str, says: str, score=lambda C: C.norm(dim=1), choose=chosen):
    """A mistake in the score, of channels (heads, head_dim), or in the choice."""

    def wrong(channels, heads, kv_heads, keep):
        checked(heads, kv_heads, keep)
        scores = score(channels.view(heads, -1))
        return scores, choose(scores, heads, kv_heads, keep)

    mistakes(name, says)(wrong)


def grouped(scores: Tensor, kv_heads: int, from_each: int, largest: bool = True) -> Tensor:
    """(kv_heads, from_each): indices within each group, the best first."""
    return scores.view(kv_heads, -1).argsort(dim=1, descending=largest)[:, :from_each]


def offsets(heads: int, kv_heads: int) -> Tensor:
    return torch.arange(kv_heads)[:, None] * (heads // kv_heads)


mistaken(
    "mean of the channels",
    "You averaged a head's channels. A head's score is the l2 norm of theirs, in which a few strong channels count for more.",
    score=lambda C: C.mean(dim=1),
)


mistaken(
    "sum of the channels",
    "You added up a head's channels. Take the l2 norm: square, add up, root.",
    score=lambda C: C.sum(dim=1),
)


mistaken(
    "largest channel",
    "You took a head's largest channel. Its score is the l2 norm of all of them.",
    score=lambda C: C.amax(dim=1),
)


mistaken(
    "no root",
    "You return the sum of squares: the root is missing. The choice is the same, the score is not.",
    score=lambda C: C.square().sum(dim=1),
)


mistaken(
    "root of the mean square",
    "You divided by head_dim under the root. The l2 norm is the root of the sum.",
    score=lambda C: C.square().mean(dim=1).sqrt(),
)


mistaken(
    "channels of a head not neighbours",
    "You dealt the channels out in turn: channel c to head c % heads. The channels of a head are neighbours: `channels.view(heads, -1)`.",
    score=lambda C: C.flatten().view(C.shape[1], C.shape[0]).norm(dim=0),
)


mistaken(
    "one ranking for all heads",
    "You ranked all heads of the block together. Every key-value head must keep the same number of query heads: choose within each group.",
    choose=lambda scores, heads, kv_heads, keep: scores.topk(keep).indices.sort().values,
)


mistaken(
    "best first",
    "Your indices are ordered by score. The heads that stay keep their order: sort the indices, or the groups get mixed.",
    choose=lambda scores, heads, kv_heads, keep: (
        grouped(scores, kv_heads, keep // kv_heads) + offsets(heads, kv_heads)
    ).flatten(),
)


mistaken(
    "the worst stay",
    "You keep the heads with the smallest scores. `argsort` goes upwards: pass descending=True, or take the last ones.",
    choose=lambda scores, heads, kv_heads, keep: (
        (grouped(scores, kv_heads, keep // kv_heads, largest=False) + offsets(heads, kv_heads)).flatten().sort().values
    ),
)


mistaken(
    "groups dealt out in turn",
    "You took heads h, h + kv_heads, h + 2 kv_heads, ... as a group. Heads that share a key-value head are neighbours: `.view(kv_heads, -1)`.",
    choose=lambda scores, heads, kv_heads, keep: (
        (
            scores.view(-1, kv_heads).T.argsort(dim=1, descending=True)[:, : keep // kv_heads] * kv_heads
            + torch.arange(kv_heads)[:, None]
        )
        .flatten()
        .sort()
        .values
    ),
)


mistaken(
    "indices within the group",
    "Your indices count from the start of each group. Add the number of the group's first head, k * (heads // kv_heads).",
    choose=lambda scores, heads, kv_heads, keep: grouped(scores, kv_heads, keep // kv_heads).sort(dim=1).values.flatten(),
)


mistaken(
    "group's number added",
    "You added k or k * kv_heads to the indices of group k. Its first head is number k * (heads // kv_heads).",
    choose=lambda scores, heads, kv_heads, keep: (
        (grouped(scores, kv_heads, keep // kv_heads) + torch.arange(kv_heads)[:, None] * kv_heads).flatten().sort().values
    ),
)


mistaken(
    "whole groups go",
    "You keep whole groups and drop others, key-value head and all. Here all key-value heads stay, and each loses some query heads.",
    choose=lambda scores, heads, kv_heads, keep: (
        torch.cat(
            [
                scores.view(kv_heads, -1).norm(dim=1).argsort(descending=True)[:, None] * (heads // kv_heads)
                + torch.arange(heads // kv_heads)
            ]
        )
        .flatten()[:keep]
        .sort()
        .values
    ),
)


mistaken(
    "the first of each group",
    "You keep the first heads of each group without looking at their scores.",
    choose=lambda scores, heads, kv_heads, keep: (torch.arange(keep // kv_heads) + offsets(heads, kv_heads)).flatten(),
)


mistaken(
    "argsort taken for ranks",
    "argsort says which head comes first, second, ...; not which rank the first head has. Its first columns are the indices that stay.",
    choose=lambda scores, heads, kv_heads, keep: (
        (scores.view(kv_heads, -1).argsort(dim=1, descending=True) < keep // kv_heads).flatten().nonzero().flatten()
    ),
)


mistaken(
    "one choice for all groups",
    "You chose the places once, in the first group, and took the same places from every group. Each group has its own best heads.",
    choose=lambda scores, heads, kv_heads, keep: (
        (grouped(scores, kv_heads, keep // kv_heads)[:1] + offsets(heads, kv_heads)).flatten().sort().values
    ),
)


mistaken(
    "keep in each group",
    "You took `keep` heads from each group. It is the number that the whole block keeps: keep // kv_heads from each.",
    choose=lambda scores, heads, kv_heads, keep: chosen(scores, heads, kv_heads, min(keep, heads // kv_heads) * kv_heads),
)


mistaken(
    "a mask",
    "You return a mask of the heads. Return the int64 indices of those that stay, `mask.nonzero().flatten()`.",
    choose=lambda scores, heads, kv_heads, keep: torch.zeros(heads, dtype=torch.bool).index_fill(
        0, chosen(scores, heads, kv_heads, keep), True
    ),
)


mistaken(
    "those that go",
    "You return the heads that go. Return those that stay.",
    choose=lambda scores, heads, kv_heads, keep: (
        torch.ones(heads).index_fill(0, chosen(scores, heads, kv_heads, keep), 0).nonzero().flatten()
    ),
)


@mistakes("no error", "Where keep cannot be shared among the groups, or is too large or 0, raise ValueError.")
def _(channels, heads, kv_heads, keep):
    scores = channels.view(heads, -1).norm(dim=1)
    kept = grouped(scores, kv_heads, keep // kv_heads) + offsets(heads, kv_heads)
    return scores, kept.flatten().sort().values


@mistakes(
    "zero refused, negative numbers not",
    "You refuse keep = 0, but not a negative multiple of kv_heads: keep is at least kv_heads.",
)
def _(channels, heads, kv_heads, keep):
    if keep % kv_heads or keep == 0 or keep > heads:
        raise ValueError("keep")
    scores = channels.view(heads, -1).norm(dim=1)
    kept = grouped(scores, kv_heads, keep // kv_heads) + offsets(heads, kv_heads)
    return scores, kept.flatten().sort().values


@mistakes(
    "multiples only",
    "You look whether keep is a multiple of kv_heads, but not whether it is from kv_heads to heads.",
)
def _(channels, heads, kv_heads, keep):
    if keep % kv_heads:
        raise ValueError("keep")
    scores = channels.view(heads, -1).norm(dim=1)
    kept = grouped(scores, kv_heads, keep // kv_heads) + offsets(heads, kv_heads)
    return scores, kept.flatten().sort().values
