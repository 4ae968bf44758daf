"""Exercise 7.2: heads, group by group."""

import math

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.minitron.fixtures import clear, redraw
from autograder.inside.case import Case, call


def best_heads(channels: Tensor, heads: int, kv_heads: int, keep: int) -> tuple[Tensor, Tensor]:
    if keep % kv_heads or not kv_heads <= keep <= heads:
        raise ValueError(f"keep must be a multiple of the {kv_heads} key-value heads and at most {heads}, got {keep}")
    scores = channels.double().view(heads, -1).square().sum(dim=1).sqrt()
    return scores.float(), chosen(scores, heads, kv_heads, keep)


def chosen(scores: Tensor, heads: int, kv_heads: int, keep: int) -> Tensor:
    """As many of the best of each group of neighbours, ascending."""
    size, from_each = heads // kv_heads, keep // kv_heads
    kept = [i + size * k for k in range(kv_heads) for i in scores[size * k : size * (k + 1)].topk(from_each).indices.tolist()]
    return torch.tensor(sorted(kept))


heads = Exercise(
    "minitron.heads",
    defines="best_heads",
    title="Heads, group by group",
    minutes=12,
    difficulty=2,
    hints=(
        "Put the channels of a head into a row: the norm of the row is its score. Then put the heads of a group into a "
        "row, and choose equally many in each.",
        "`channels.reshape(heads, -1)` has a head in each row, and `scores.view(kv_heads, -1)` a group. `argsort(dim=1, "
        "descending=True)` ranks within the groups. Its indices count from the beginning of the group: add the number of "
        "the group's first head.",
        "The ValueError first. Of the argsort keep the first `keep // kv_heads` columns, add `torch.arange(kv_heads)[:, "
        "None] * (heads // kv_heads)`, flatten, and sort.",
    ),
    reference=best_heads,
)


def heads_case(
    g: torch.Generator, heads: int, kv_heads: int, head_dim: int, keep: int, scale: float = 1.0, close: bool = False
) -> Case:
    """Groups of unequal strength, so that heads which compete across groups show; heads of a few strong or many weak channels.

    With `close`, the last that stays and the first that goes of every group differ by so little that only float32 tells.
    """
    size, from_each = heads // kv_heads, keep // kv_heads

    def draw():
        group = 2.0 ** (2 * torch.randperm(kv_heads, generator=g)).float() if 1 < kv_heads < heads else torch.ones(kv_heads)
        of_head = group.repeat_interleave(size)[:, None] * (0.5 + torch.rand(heads, 1, generator=g))
        peaked = torch.exp(2 * torch.rand(heads, 1, generator=g) * torch.randn(heads, head_dim, generator=g))
        return of_head * peaked

    def is_clear(channels):
        if not sensible:
            return True
        scores = channels.norm(dim=-1)
        places = scores.view(kv_heads, -1).argsort(dim=1, descending=True)[:, :from_each].sort(dim=1).values
        differ = kv_heads == 1 or from_each == size or bool((places != places[0]).any())  # groups keep other places each
        return differ and clear(scores.view(kv_heads, -1), from_each) and clear(scores, keep)

    sensible = kv_heads <= keep <= heads and keep % kv_heads == 0
    channels = scale * redraw(draw, is_clear)
    if close:
        scores = channels.norm(dim=-1)
        for k in range(kv_heads):
            order = size * k + scores[size * k : size * (k + 1)].argsort(descending=True)
            last, first = order[from_each - 1], order[from_each]
            apart = 1 + 1e-4 * (1 + torch.rand((), generator=g))
            # now the one that comes first by number stays, now the other: a tie would go wrong in one group
            last, first = sorted((last, first), reverse=bool(k % 2))
            channels[last] = channels[first].roll(1) * apart
    return call(channels.flatten(), heads, kv_heads, keep)


@heads.stage(
    "scores heads by the l2 norm of their channels",
    points=1,
    exposes="Head h has the channels h * head_dim to (h + 1) * head_dim - 1; its score is the l2 norm of theirs. All heads stay here, so the "
    "second result is 0, 1, 2, ...",
)
def _(g):
    yield heads_case(g, 3, 1, 4, 3)
    yield heads_case(g, 5, 5, 2, 5)
    yield heads_case(g, 6, 2, 7, 6)
    yield heads_case(g, 4, 2, 1, 4)
    yield heads_case(g, 3, 1, 1100, 3)
    yield heads_case(g, 4, 2, 3, 4, scale=1e-8)


@heads.stage(
    "keeps the best of one group, in ascending order",
    points=1,
    exposes="One key-value head, one group: the `keep` heads with the largest scores, as int64 indices from small to large.",
)
def _(g):
    yield heads_case(g, 7, 1, 3, 4)
    yield heads_case(g, 9, 1, 5, 3)
    yield heads_case(g, 8, 1, 2, 1)
    yield heads_case(g, 6, 1, 1, 2)
    yield heads_case(g, 7, 1, 4, 3, scale=1e-8)
    channels = heads_case(g, 5, 1, 3, 4).args[0] * torch.ones(5).index_fill(
        0, torch.randint(5, (1,), generator=g), 0
    ).repeat_interleave(3)
    yield call(channels, 5, 1, 4)  # one of the five never fires:
    yield call(channels, 5, 1, 5)  # it can stay all the same


@heads.stage(
    "as many from each group",
    points=2,
    exposes="Heads that share a key-value head are neighbours: the first heads // kv_heads are group 0, and so on. Each group keeps its own best "
    "keep // kv_heads, and the indices count the heads of the whole block.",
)
def _(g):
    yield heads_case(g, 12, 3, 5, 6)
    yield heads_case(g, 10, 2, 3, 6)
    yield heads_case(g, 8, 4, 3, 4)
    yield heads_case(g, 15, 3, 2, 9)
    yield heads_case(g, 12, 2, 4, 4)
    yield heads_case(g, 160, 4, 2, 100)
    yield heads_case(g, 24, 6, 3, 12, close=True)


@heads.stage(
    "refuses what no group can give",
    points=1,
    exposes="keep must be a multiple of kv_heads, from kv_heads to heads: otherwise raise ValueError.",
    pure=True,
)
def _(g):
    yield heads_case(g, 6, 3, 4, 4)
    yield heads_case(g, 6, 3, 2, 9)
    yield heads_case(g, 6, 3, 2, 0)
    yield heads_case(g, 6, 3, 4, -3)
    yield heads_case(g, 6, 3, 5, 3)


def checked(heads, kv_heads, keep):
    if keep % kv_heads or not kv_heads <= keep <= heads:
        raise ValueError("keep")


def mistaken(name: str, says: str, score=lambda C: C.norm(dim=1), choose=chosen):
    """A mistake in the score, of channels (heads, head_dim), or in the choice."""

    def wrong(channels, heads, kv_heads, keep):
        checked(heads, kv_heads, keep)
        scores = score(channels.view(heads, -1))
        return scores, choose(scores, heads, kv_heads, keep)

    globals()["heads"].misconception(name, says)(wrong)


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


@heads.misconception("no error", "Where keep cannot be shared among the groups, or is too large or 0, raise ValueError.")
def _(channels, heads, kv_heads, keep):
    scores = channels.view(heads, -1).norm(dim=1)
    kept = grouped(scores, kv_heads, keep // kv_heads) + offsets(heads, kv_heads)
    return scores, kept.flatten().sort().values


@heads.misconception(
    "zero refused, negative numbers not",
    "You refuse keep = 0, but not a negative multiple of kv_heads: keep is at least kv_heads.",
)
def _(channels, heads, kv_heads, keep):
    if keep % kv_heads or keep == 0 or keep > heads:
        raise ValueError("keep")
    scores = channels.view(heads, -1).norm(dim=1)
    kept = grouped(scores, kv_heads, keep // kv_heads) + offsets(heads, kv_heads)
    return scores, kept.flatten().sort().values


@heads.misconception(
    "multiples only",
    "You look whether keep is a multiple of kv_heads, but not whether it is from kv_heads to heads.",
)
def _(channels, heads, kv_heads, keep):
    if keep % kv_heads:
        raise ValueError("keep")
    scores = channels.view(heads, -1).norm(dim=1)
    kept = grouped(scores, kv_heads, keep // kv_heads) + offsets(heads, kv_heads)
    return scores, kept.flatten().sort().values


@heads.accepts("official code: argsort in each query group")
def _(channels, num_attention_heads, num_query_groups, max_num_attention_heads):
    if max_num_attention_heads % num_query_groups or not 0 < max_num_attention_heads <= num_attention_heads:
        raise ValueError("not a multiple")
    scores = torch.linalg.vector_norm(channels.view(num_attention_heads, -1), ord=2, dim=1)
    per_group = num_attention_heads // num_query_groups
    attn_head_ranking_per_group = torch.argsort(scores.view(num_query_groups, per_group), dim=1, descending=True)
    attn_head_ranking_global = attn_head_ranking_per_group + torch.arange(0, num_attention_heads, per_group)[:, None]
    return scores, attn_head_ranking_global[:, : max_num_attention_heads // num_query_groups].flatten().sort().values


@heads.accepts("plain Python")
def _(channels, heads, kv_heads, keep):
    if keep not in range(kv_heads, heads + 1, kv_heads):
        raise ValueError(keep)
    values, d = channels.tolist(), len(channels) // heads
    scores = [math.hypot(*values[h * d : (h + 1) * d]) for h in range(heads)]
    kept = []
    for start in range(0, heads, heads // kv_heads):
        group = range(start, start + heads // kv_heads)
        kept += sorted(group, key=scores.__getitem__, reverse=True)[: keep // kv_heads]
    return torch.tensor(scores), torch.tensor(sorted(kept))


@heads.accepts("numpy, by rank within the group")
def _(channels, heads, kv_heads, keep):
    if keep < kv_heads or keep > heads or keep / kv_heads != keep // kv_heads:
        raise ValueError("keep")
    scores = np.linalg.norm(channels.numpy().reshape(heads, -1), axis=1)
    rank = np.argsort(np.argsort(-scores.reshape(kv_heads, -1), axis=1), axis=1)
    return torch.from_numpy(scores), torch.from_numpy(np.flatnonzero(rank.ravel() < keep // kv_heads))
