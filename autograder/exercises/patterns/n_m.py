"""Exercise 1.2: n:m: groups of neighbours."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.patterns.fixtures import drawn
from autograder.inside.case import call
from sparsity_edu import patterns


def n_m_mask(score: Tensor, n: int, m: int) -> Tensor:
    return patterns.n_m(score, n, m)


n_m = Exercise(
    "patterns.n_m",
    defines="n_m_mask",
    title="n:m: groups of neighbours",
    minutes=10,
    difficulty=1,
    hints=(
        "It is the same rule with other groups: m neighbours in a row. If every group had a dimension of its own, your "
        "`drop_smallest` could do the work.",
        "`score.unflatten(1, (-1, m))` has the shape (rows, cols / m, m): the groups lie along the last dimension. n "
        "stay, so how many go? `.flatten(1)` makes rows of the groups again.",
        "First the two errors: `n > m`, and `score.shape[1] % m` not 0. Then call `drop_smallest(groups, m - n)` with the "
        "unflattened scores, and `.flatten(1)` on the mask that it gives.",
    ),
    reference=n_m_mask,
    forbids=("torch.ao.pruning",),
)


@n_m.stage(
    "keeps the 2 largest of every 4 neighbours",
    points=1,
    exposes="A group is m neighbours in one row; every group keeps exactly two.",
)
def _(g):
    yield call(torch.randn(2, 8, generator=g), 2, 4)
    yield call(torch.randn(drawn(g, 5, 8), 4 * drawn(g, 3, 6), generator=g) - 0.5, 2, 4)
    yield call(torch.rand(3, 20, generator=g).cumsum(dim=1), 2, 4)  # a row that grows: groups by stride would show
    yield call(with_zeros(g, 4, 12, group=4), 2, 4)


@n_m.stage(
    "any n and m: n counts what is kept",
    points=1,
    exposes="n of every m stay, so m - n go. At 2:4 the two are the same number; at 1:4 they are not.",
    pure=True,
)
def _(g):
    for n, m, rows, groups in [
        (1, 4, 3, 2),
        (3, 4, 5, 3),
        (4, 8, 3, 2),
        (2, 5, 4, 2),
        (2, 3, 2, 3),
        (1, 1, 2, 3),
        (6, 6, 1, 1),
    ]:
        yield call(torch.randn(rows, m * groups, generator=g), n, m)
    m = drawn(g, 9, 14)
    yield call(torch.randn(drawn(g, 2, 5), m * drawn(g, 2, 5), generator=g), drawn(g, 2, m - 1), m)
    yield call(torch.randn(6, 4, generator=g).T, 2, 3)  # not contiguous
    for dtype in (torch.float16, torch.bfloat16):
        yield call(torch.randperm(32, generator=g).view(2, 16).to(dtype) - 15.5, 1, 8)
    yield call(1 + 1e-9 * torch.randn(3, 40, generator=g, dtype=torch.float64), 3, 8)  # float32 would round
    infinite = torch.randn(4, 3, 7, generator=g)  # one infinite score per group
    infinite[..., drawn(g, 0, 7)] = torch.tensor([[torch.inf], [-torch.inf], [torch.inf], [-torch.inf]])
    yield call(infinite.flatten(1), 3, 7)


@n_m.stage(
    "refuses what has no n:m mask",
    points=1,
    exposes="A ValueError for n > m, and for a number of columns that m does not divide: a group must not run over the end of a row. "
    "What fits is not refused.",
)
def _(g):
    m = drawn(g, 4, 9)
    yield call(torch.randn(3, 2 * m, generator=g), m + 1, m)
    yield call(torch.randn(3, 8, generator=g), 9, 8)
    yield call(torch.randn(4, 6, generator=g), 2, 4)  # 24 entries: divisible by 4, but no row is
    yield call(torch.randn(m, 2 * m + drawn(g, 1, m), generator=g), 1, m)
    yield call(torch.randn(3, 4, generator=g), 2, 8)  # a group longer than a row
    yield call(torch.randn(3, 3 * m, generator=g), m, m)


def with_zeros(g: torch.Generator, rows: int, cols: int, group: int) -> Tensor:
    """Negative scores and one zero in every group: the largest, which stays."""
    groups = -torch.rand(rows, cols // group, group, generator=g) - 0.1
    largest = torch.randint(group, (*groups.shape[:2], 1), generator=g)
    return groups.scatter(-1, largest, 0.0).flatten(1)


def check_n_m(score, n, m):
    if n > m or score.shape[1] % m:
        raise ValueError("n, m")


def grouped(score, n, m):
    """`n_m_mask`, for mistakes in what goes in or comes out."""
    check_n_m(score, n, m)
    return patterns.drop_smallest(score.unflatten(1, (-1, m)), m - n).flatten(1)


@n_m.misconception(
    "n zeros",
    "You made n zeros in every group. In n:m, n is what is *kept* (2:4: at most 2 non-zeros in 4). At 2:4 you cannot tell; at 1:4 you "
    "can. SparseGPT's and Wanda's code have the same trap: their `prunen` is the number of zeros.",
)
def _(score, n, m):
    check_n_m(score, n, m)
    return grouped(score, m - n, m)


@n_m.misconception("keeps the smallest", "You kept the n smallest scores of every group. The large ones matter: they stay.")
def _(score, n, m):
    return grouped(-score, n, m)


@n_m.misconception("inverted", "Your mask is True where an entry goes. In this course True = kept.")
def _(score, n, m):
    return ~grouped(score, n, m)


@n_m.misconception(
    "down the columns",
    "Your groups run down a column. They lie along a row: neighbours in the input dimension, the one a dot product sums over.",
)
def _(score, n, m):
    check_n_m(score, n, m)
    padded = F.pad(score.T, (0, -score.shape[0] % m), value=float("inf"))
    return grouped(padded, n, m)[:, : score.shape[0]].T


@n_m.misconception(
    "strided groups",
    "Your groups are entries far apart: `unflatten(1, (m, -1))` puts every (cols / m)-th entry together. Neighbours are `(-1, m)`.",
)
def _(score, n, m):
    check_n_m(score, n, m)
    return patterns.drop_smallest(score.unflatten(1, (m, -1)).transpose(1, 2), m - n).transpose(1, 2).flatten(1)


@n_m.misconception(
    "whole row", "The total is right, but whole rows compete: some groups keep 3, some 1. Every group must keep exactly n."
)
def _(score, n, m):
    check_n_m(score, n, m)
    return patterns.drop_smallest(score, score.shape[1] // m * (m - n))


@n_m.misconception("by magnitude", "You ranked |score|. A score is already an importance: compare it as it is, sign included.")
def _(score, n, m):
    return grouped(score.abs(), n, m)


@n_m.misconception(
    "n > m passes", "You check the columns but not n: keeping 5 of 4 makes no sense. Raise a ValueError if n > m."
)
def _(score, n, m):
    if score.shape[1] % m:
        raise ValueError("cols")
    return grouped(score, min(n, m), m)


@n_m.misconception("n = m refused", "You refuse n = m. It is allowed and keeps everything; only n > m makes no sense.")
def _(score, n, m):
    if n >= m:
        raise ValueError("n, m")
    return n_m_mask(score, n, m)


@n_m.misconception(
    "groups run over the end of a row",
    "You accept a row that m does not divide: after `reshape(-1, m)` a group may hold the end of one row and the start of the next. "
    "Raise a ValueError if score.shape[1] % m.",
)
def _(score, n, m):
    if n > m or score.numel() % m:
        raise ValueError("n, m")
    return patterns.drop_smallest(score.reshape(-1, m), m - n).view(score.shape)


@n_m.misconception(
    "mask from the scores",
    "You set the scores that go to zero and keep what is not zero, so that a kept score of 0 is lost. Write the mask itself.",
)
def _(score, n, m):
    mask = n_m_mask(score, n, m)
    return mask & (score != 0)


@n_m.misconception(
    "in float32",
    "You compare in float32, which rounds float64 scores: two that differ become equal. Compare scores in the dtype they have.",
)
def _(score, n, m):
    return grouped(score.float(), n, m)


@n_m.accepts("largest by topk")
def _(score, n, m):
    rows, cols = score.shape
    if cols % m != 0 or n > m:
        raise ValueError(f"cannot make {n}:{m} of {cols} columns")
    groups = score.reshape(-1, m)
    mask = torch.zeros(groups.shape, dtype=torch.bool)
    mask[torch.arange(len(groups))[:, None], groups.topk(n, dim=1).indices] = True
    return mask.reshape(rows, cols)


@n_m.accepts("group after group, as SparseGPT's code does")
def _(score, n, m):
    if n > m or score.shape[-1] % m:
        raise ValueError("n and m do not fit")
    mask = torch.ones(score.shape) == 1
    for start in range(0, score.shape[-1], m):
        block = score[:, start : start + m]
        if n < m:
            mask.scatter_(1, start + torch.topk(block, m - n, dim=1, largest=False)[1], False)
    return mask


@n_m.accepts("counting who is larger")
def _(score, n, m):
    if n > m:
        raise ValueError("n > m")
    if score.size(1) % m != 0:
        raise ValueError("columns")
    groups = score.reshape(score.size(0), -1, m)
    larger = (groups[..., None, :] > groups[..., None]).sum(-1)  # how many in its group are larger
    return (larger < n).reshape(score.shape)


@n_m.accepts("numpy partition")
def _(score, n, m):
    if not 1 <= n <= m or score.shape[1] % m:
        raise ValueError("n:m")
    groups = score.double().numpy().reshape(score.shape[0], -1, m)
    smallest_kept = np.partition(groups, m - n, axis=-1)[..., m - n, None]
    return torch.from_numpy((groups >= smallest_kept).reshape(tuple(score.shape)))
