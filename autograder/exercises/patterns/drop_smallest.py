"""Exercise 1.1: the one rule: drop the smallest of a group."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.patterns.fixtures import drawn
from autograder.inside.case import call
from sparsity_edu import patterns


def drop_smallest(score: Tensor, count: int) -> Tensor:
    return patterns.drop_smallest(score, count)


drop = Exercise(
    "patterns.drop_smallest",
    defines="drop_smallest",
    title="The one rule: drop the smallest of a group",
    minutes=15,
    difficulty=1,
    hints=(
        "Sorting a group gives an order of its positions, from the smallest score to the largest. The first `count` of "
        "them go. You need the positions, not the sorted scores.",
        "`score.argsort(dim=-1, stable=True)` gives these positions for all groups at once. `stable` is the rule for "
        "equal scores: the earlier one comes first. (A threshold, `score > limit`, would drop too many where scores are "
        "equal.) Then the mask becomes False at the first `count` positions of each group: `scatter` writes to positions "
        "along a dimension.",
        "Begin with a mask of ones, `torch.ones_like(score, dtype=torch.bool)`, and with `order` from the argsort. The "
        "result is the mask's `.scatter(-1, order[..., :count], False)`.",
    ),
    reference=drop_smallest,
)


@drop.stage(
    "drops the smallest scores of one group",
    points=1,
    exposes="Of n scores the `count` smallest become False, the others True. A score is compared as it is, sign included.",
)
def _(g):
    for shift in (0.0, -1.0):
        n = drawn(g, 7, 14)
        yield call(torch.randn(n, generator=g) + shift, drawn(g, 2, n - 2))
    yield call(torch.rand(9, generator=g), 1)
    yield call(torch.cat([torch.zeros(1), -torch.rand(8, generator=g)])[torch.randperm(9, generator=g)], 6)  # a zero that stays


@drop.stage(
    "treats every group along the last dimension by itself",
    points=1,
    exposes="score is (..., n): every slice along the last dimension is a group of its own, whatever is in front of it.",
)
def _(g):
    yield call(torch.randn(4, 7, generator=g) * torch.tensor([[1.0], [100.0], [0.01], [10.0]]), 3)  # rows of unequal scale
    yield call(torch.randn(3, 2, 10, generator=g), 4)
    yield call(torch.randn(2, 3, 2, drawn(g, 5, 9), generator=g), 2)
    yield call(torch.randn(9, 5, generator=g).T, 2)  # not contiguous, so .view() may fail
    yield call(torch.randn(2, 3, 8, generator=g).transpose(0, 1), 5)


@drop.stage(
    "drops any count, from none to all, of any floating dtype, and leaves score alone",
    points=1,
    exposes="count = 0 keeps everything and count = n drops everything; scores are compared in their own dtype, also in bfloat16, which "
    "numpy does not know, and float64, of which float32 would round the difference away; score itself must not change.",
    pure=True,
)
def _(g):
    score = torch.randn(3, 6, generator=g)
    for count in (0, 1, 5, 6):
        yield call(score, count)
    yield call(torch.randn(11, generator=g, dtype=torch.float64), 0)
    yield call(1 + 1e-9 * torch.randn(2, 30, generator=g, dtype=torch.float64), drawn(g, 9, 20))
    for dtype in (torch.float16, torch.bfloat16):
        yield call(torch.randperm(40, generator=g).view(5, 8).to(dtype) - 20, 3)


@drop.stage(
    "breaks ties by position: the earlier goes first",
    points=1,
    exposes="Exactly `count` go, also among equal scores: the one with the smaller index goes first. A stable ascending sort gives that "
    "order, `argsort(dim=-1, stable=True)`; without `stable=True` torch promises none.",
)
def _(g):
    yield call(torch.ones(3, drawn(g, 8, 12)), 3)
    yield call(torch.randint(-1, 3, (5, 14), generator=g).float(), 6)
    yield call(torch.randint(0, 3, (2, 60), generator=g).float(), 25)
    yield call(torch.relu(torch.randn(4, 12, generator=g)), 4)  # many zeros, as in a matrix that was pruned before
    yield call((torch.rand(2, 500, generator=g) + 100) * 1e-20, 200)  # close is not equal: rounding or a jitter would show
    infinite = torch.randint(-2, 2, (4, 12), generator=g).float() / torch.randint(0, 2, (4, 12), generator=g)
    yield call(infinite.nan_to_num(0.0, torch.inf, -torch.inf), 5)  # no number may stand for "gone already"
    yield call(torch.full((2, 10), torch.inf), drawn(g, 3, 7))


def rank(score: Tensor) -> Tensor:
    """0 for the smallest of its group, then 1, 2, ..."""
    return score.argsort(dim=-1, stable=True).argsort(dim=-1)


@drop.misconception(
    "inverted", "Your mask is True where an entry goes. In this course True = kept: return the opposite (`~mask`)."
)
def _(score, count):
    return rank(score) < count


@drop.misconception(
    "keeps count", "You kept `count` entries. `count` is how many go; n - count stay, and the mask has `count` False."
)
def _(score, count):
    return rank(score) >= score.shape[-1] - count


@drop.misconception(
    "drops the largest", "The largest scores went. A score says how much an entry matters: the small ones are dropped."
)
def _(score, count):
    return rank(score) < score.shape[-1] - count


@drop.misconception(
    "argsort is no rank",
    "`score.argsort() >= count` compares the wrong numbers: argsort gives, for each rank, the *position* that has it, not the rank of "
    "each position. Use the first `count` positions as indices (scatter), or argsort twice.",
)
def _(score, count):
    return score.argsort(dim=-1, stable=True) >= count


@drop.misconception(
    "one ranking for everything",
    "You ranked all entries together, so that one group loses many and another none. Every slice along the last dimension loses exactly "
    "`count`: sort with dim=-1 instead of flattening.",
)
def _(score, count):
    groups = score.numel() // score.shape[-1]
    return (rank(score.flatten()) >= count * groups).view(score.shape)


@drop.misconception(
    "along the first dimension",
    "You sorted along dim 0. The groups lie along the last dimension: dim=-1 (the default of argsort).",
)
def _(score, count):
    return rank(score.movedim(0, -1)).movedim(-1, 0) >= count


@drop.misconception(
    "by magnitude",
    "You ranked |score|. Here a score is already an importance: -5 is less important than 1. (Magnitude pruning passes `W.abs()` in.)",
)
def _(score, count):
    return rank(score.abs()) >= count


@drop.misconception(
    "float mask", "Your mask holds 0.0 and 1.0. A mask is boolean in this course (dtype=torch.bool, True = kept)."
)
def _(score, count):
    return (rank(score) >= count).float()


@drop.misconception(
    "index -1",
    "With count = 0 your threshold is entry -1 of the sorted scores, the largest, and everything goes. Python counts negative indices "
    "from the end: treat 0 by itself, or use the first `count` positions instead of a threshold.",
)
def _(score, count):
    return score > score.sort(dim=-1).values[..., count - 1, None]


@drop.misconception(
    "too many on a tie",
    "Scores equal to the threshold all go with `score > threshold`, so that more than `count` may go. Drop positions, not values.",
)
def _(score, count):
    if count == 0:
        return torch.ones_like(score, dtype=torch.bool)
    return score > score.sort(dim=-1).values[..., count - 1, None]


@drop.misconception(
    "too few on a tie",
    "Scores equal to the threshold all stay with `score >= threshold`, so that fewer than `count` may go. Drop positions, not values.",
)
def _(score, count):
    if count == score.shape[-1]:
        return torch.zeros_like(score, dtype=torch.bool)
    return score >= score.sort(dim=-1).values[..., count, None]


@drop.misconception(
    "later first",
    "Of equal scores you drop the later one. The course drops the earlier one first, as an ascending stable sort does (a descending sort, "
    "read from its end, does the opposite).",
)
def _(score, count):
    order = score.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1) < score.shape[-1] - count


@drop.misconception(
    "topk on a tie",
    "topk does not promise which of several equal scores it takes. A stable sort does: argsort(stable=True) keeps them in order.",
)
def _(score, count):
    mask = torch.ones_like(score, dtype=torch.bool)
    return mask.scatter(-1, score.topk(count, dim=-1, largest=False).indices, False)


@drop.misconception(
    "score overwritten", "You wrote into `score`. Whoever called you may still need it: work on `score.clone()`."
)
def _(score, count):
    mask = rank(score) >= count
    score[~mask] = float("inf")
    return mask


@drop.misconception(
    "in float32",
    "You compare in float32, which rounds float64 scores: two that differ become equal. Compare scores in the dtype they have.",
)
def _(score, count):
    return rank(score.float()) >= count


@drop.misconception(
    "infinity as a mark",
    "You overwrite a score with infinity when it goes, but a score may be infinite itself: it then goes twice, or stays in a tie. Keep a "
    "mask of what is gone beside the scores.",
)
def _(score, count):
    left, kept = score.clone(), torch.ones_like(score, dtype=torch.bool)
    for _ in range(count):
        first = left.argmin(-1, keepdim=True)
        kept.scatter_(-1, first, False)
        left.scatter_(-1, first, float("inf"))
    return kept


@drop.accepts("argsort of argsort")
def _(score, count):
    return score.sort(dim=-1, stable=True).indices.sort(dim=-1).indices >= count


@drop.accepts("plain Python, one group at a time")
def _(score, count):
    def one(group):
        gone = sorted(range(len(group)), key=lambda i: (group[i], i))[:count]
        return [i not in gone for i in range(len(group))]

    kept = [one(group) for group in score.reshape(-1, score.shape[-1]).tolist()]
    return torch.tensor(kept).reshape(score.shape)


@drop.accepts("a partial sort: below the threshold, and the first of those that equal it")
def _(score, count):
    if count == 0:
        return torch.full(score.shape, True)
    limit = score.kthvalue(count, dim=-1, keepdim=True).values
    below, equal = score < limit, score == limit
    return ~below & ~(equal & (equal.cumsum(-1) <= count - below.sum(-1, keepdim=True)))


@drop.accepts("counting who is smaller")
def _(score, count):
    other, own = score.unsqueeze(-2), score.unsqueeze(-1)  # (..., 1, n), (..., n, 1)
    earlier = torch.ones(score.shape[-1], score.shape[-1], dtype=torch.bool).tril(-1)
    smaller = (other < own) | ((other == own) & earlier)
    return smaller.sum(-1) >= count


@drop.accepts("removing the smallest again and again")
def _(score, count):
    kept = torch.ones(score.shape, dtype=torch.bool)
    for _ in range(count):
        smallest = score.masked_fill(~kept, float("inf")).amin(-1, keepdim=True)
        first = (kept & (score == smallest)).int().argmax(-1, keepdim=True)
        kept.scatter_(-1, first, False)
    return kept
