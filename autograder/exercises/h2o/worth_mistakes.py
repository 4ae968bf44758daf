"""Mistakes of exercise 10.3."""

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def neighbours(scores: Tensor, kv_heads: int) -> Tensor:
    """(batch, kv_heads, group, held)."""
    return scores.unflatten(1, (kv_heads, -1))


def choose(shared: Tensor, group: str) -> Tensor:
    if group not in ("sum", "first"):
        raise ValueError(group)
    return shared.sum(dim=2) if group == "sum" else shared[:, :, 0].clone()


def mistaken(
    name: str, says: str, *, split=neighbours, pool=choose, queries=lambda positions, seen: seen - positions, then=None
):
    def wrong(scores, kv_heads, group="sum", positions=None, seen=None):
        pooled = pool(split(scores, kv_heads), group)
        if positions is None:
            return pooled
        return then(pooled, positions, seen) if then else pooled / queries(positions, seen)

    mistakes(name, says)(wrong)


mistaken(
    "heads in turns",
    "You put query heads 0, kv_heads, 2 kv_heads, ... together. Heads that share keys are neighbours: 0 to group - 1, then the next group.",
    split=lambda scores, kv_heads: scores.unflatten(1, (-1, kv_heads)).transpose(1, 2),
)
mistaken(
    "mean over the group",
    "You took the mean over the group. It makes the same choice, but the scores here are sums.",
    pool=lambda shared, group: shared.mean(dim=2) if group == "sum" else choose(shared, group),
)
mistaken(
    "largest of the group",
    "You took the largest score of the group. Add them up.",
    pool=lambda shared, group: shared.amax(dim=2) if group == "sum" else choose(shared, group),
)
mistaken(
    "the sum whatever the group",
    'You added up in any case. "first" means the first query head of each group alone.',
    pool=lambda shared, group: choose(shared, group) * 0 + shared.sum(dim=2),
)
mistaken(
    "the first whatever the group",
    "You took the first query head of each group in any case. Unless asked otherwise, all of them count.",
    pool=lambda shared, group: choose(shared, group) * 0 + shared[:, :, 0],
)
mistaken(
    "the last of the group",
    'You took the last query head of each group. "first" is the first.',
    pool=lambda shared, group: shared[:, :, -1].clone() if group == "first" else choose(shared, group),
)
mistaken(
    "unknown groups pass",
    "You let any word pass. A group that is neither of the two is a mistake in writing, and should be told with a ValueError.",
    pool=lambda shared, group: shared[:, :, 0].clone() if group == "first" else shared.sum(dim=2),
)
mistaken(
    "summed over all heads",
    "You added up over all query heads. Each head of keys has its own group, and keeps tokens of its own.",
    pool=lambda shared, group: (
        shared.sum(dim=(1, 2))[:, None].expand(-1, shared.shape[1], -1).clone() if group == "sum" else choose(shared, group)
    ),
)
mistaken(
    "not its own query",
    "You divided by seen - 1 - position: the token's own query counts as well. For the newest token you divide by 0.",
    queries=lambda positions, seen: (seen - 1 - positions).clamp(min=1),
)
mistaken(
    "one query too many",
    "You divided by seen - position + 1. The last token, at position seen - 1, was seen by one query: its own.",
    queries=lambda positions, seen: seen - positions + 1,
)
mistaken(
    "by position",
    "You divided by position + 1, which is how many keys its query SAW. What counts is how many queries could see the token: those from its own on.",
    queries=lambda positions, seen: positions + 1,
)
mistaken(
    "by the whole text",
    "You divided all scores by the length of the text. That changes no choice: divide each by the queries that could see that token.",
    queries=lambda positions, seen: torch.full_like(positions, seen),
)
mistaken(
    "by place in the cache",
    "You went by the places in the cache. Tokens in between have gone, but their queries did look: go by positions in the text.",
    queries=lambda positions, seen: positions.shape[-1] - torch.arange(positions.shape[-1]),
)
mistaken(
    "as if nothing came later",
    "You took the last position that is held for the end of the text. The text has `seen` tokens, even if the last one is not held.",
    queries=lambda positions, seen: positions.amax(dim=-1, keepdim=True) + 1 - positions,
)
mistaken(
    "positions of the first head",
    "You used the positions of the first head for all. Every head holds tokens of its own.",
    queries=lambda positions, seen: seen - positions[:, :1],
)
mistaken(
    "multiplied",
    "You multiplied with the number of queries. Divide: a late token that few queries have seen must not be punished for that.",
    then=lambda pooled, positions, seen: pooled * (seen - positions),
)
mistaken(
    "positions ignored",
    "You made no use of the positions. Where they are given, scores are divided by the number of queries that could see the token.",
    then=lambda pooled, positions, seen: pooled,
)


@mistakes(
    "scores themselves come back",
    "With one query head for each head of keys you return the very tensor that you were given, or a part of it. Who changes it changes the sums: return a copy.",
)
def _(scores, kv_heads, group="sum", positions=None, seen=None):
    pooled = choose(neighbours(scores, kv_heads), group) if group != "first" else neighbours(scores, kv_heads)[:, :, 0]
    return pooled if positions is None else pooled / (seen - positions)


@mistakes(
    "in place",
    "The result is right, but the scores that you were given have changed: they go on being added to. `x / n` makes a new tensor, `x /= n` does not.",
)
def _(scores, kv_heads, group="sum", positions=None, seen=None):
    size = scores.shape[1] // kv_heads
    if positions is not None:
        scores /= (seen - positions).repeat_interleave(size, dim=1)
    return choose(neighbours(scores, kv_heads), group)
