"""Exercise 7.2: heads, group by group."""

import math

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.minitron.fixtures import clear, redraw
from autograder.exercises.minitron.heads_mistakes import chosen, mistakes
from autograder.inside.case import Case, call


def best_heads(channels: Tensor, heads: int, kv_heads: int, keep: int) -> tuple[Tensor, Tensor]:
    if keep % kv_heads or not kv_heads <= keep <= heads:
        raise ValueError(f"keep must be a multiple of the {kv_heads} key-value heads and at most {heads}, got {keep}")
    scores = channels.double().view(heads, -1).square().sum(dim=1).sqrt()
    return scores.float(), chosen(scores, heads, kv_heads, keep)


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
    misconceptions=mistakes,
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
