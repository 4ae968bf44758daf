"""Exercise 5.4: Wanda in groups of neighbours."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.wanda.fixtures import clear, norms, redraw
from autograder.inside.case import Case, call
from sparsity_edu import patterns
from sparsity_edu.weights import wanda


def wanda_n_m(W: Tensor, norm: Tensor, n: int, m: int) -> Tensor:
    return wanda.prune(W, norm, pattern=f"{n}:{m}")


n_m = Exercise(
    "wanda.n_m",
    defines="wanda_n_m",
    title="Wanda in groups of neighbours",
    minutes=10,
    difficulty=2,
    hints=(
        "As before, but m neighbours compete instead of a whole row. Give each group a dimension of its own, and rank "
        "along that.",
        "`unflatten(1, (-1, m))` of the scores is (rows, cols / m, m). n counts what is kept, so `m - n` of each group "
        "go. `.flatten(1)` brings a mask back to (rows, cols).",
        "The ValueError first. Then `groups.argsort(dim=-1, stable=True)[..., : m - n]` are the positions that go. A "
        "boolean tensor like `groups`, False everywhere, gets True there with `scatter(-1, ..., True)`; flattened, it is "
        "the mask for `W.masked_fill(gone, 0)`.",
    ),
    reference=wanda_n_m,
    rules=Rules(tolerance=0),
    forbids=("torch.nn.utils.prune", "torch.ao.pruning"),
)


def n_m_case(
    g: torch.Generator,
    rows: int,
    cols: int,
    n: int,
    m: int,
    change=lambda W: W,
    size: float | Tensor = 1.0,
    rounded: bool = False,
) -> Case:
    """`size` is that of the norms, or (cols,); with `rounded`, other weights go where scores have the dtype of W."""

    def draw():
        return change(torch.randn(rows, cols, generator=g)), norms(g, cols) * size

    def is_clear(drawn):
        of_half = patterns.n_m((drawn[0].abs() * drawn[1].to(drawn[0].dtype)).float(), n, m)
        lost = not torch.equal(of_half, patterns.n_m(wanda.score(*drawn), n, m))
        return clear(wanda.score(*drawn).unflatten(1, (-1, m)), m - n) and (lost or not rounded)

    return call(*redraw(draw, is_clear), n, m)


@n_m.stage(
    "2:4 by score",
    points=1,
    exposes="Of every 4 neighbours in a row the 2 with the largest |W_ij| * norm_j stay, the other 2 become zero.",
)
def _(g):
    yield n_m_case(g, 2, 8, 2, 4)
    yield n_m_case(g, 5, 12, 2, 4)
    yield n_m_case(g, 9, 8, 2, 4)


@n_m.stage(
    "any n and m: n counts what is kept",
    points=1,
    exposes="n of every m stay, so m - n go. At 2:4 and 4:8 the two are the same number; at 1:4 and 3:4 they are not. n = m is allowed, and "
    "keeps all. W stays as it is.",
    pure=True,
)
def _(g):
    for rows, cols, n, m in [(3, 8, 1, 4), (5, 12, 3, 4), (3, 16, 4, 8), (4, 10, 2, 5), (2, 9, 2, 3), (3, 6, 6, 6)]:
        yield n_m_case(g, rows, cols, n, m)
    # int((1 - n / m) * m) is not m - n, nor int((m - n) / m * m), or int(n / m * m) is not n
    for some in (((4, 5), (8, 10), (5, 12), (16, 20)), ((7, 22), (10, 23)), ((15, 22), (13, 23))):
        n, m = some[int(torch.randint(len(some), (), generator=g))]
        yield n_m_case(g, 3, 2 * m, n, m)
    yield n_m_case(g, 2, 300, 2, 4)
    yield n_m_case(g, 300, 4, 2, 4)
    yield n_m_case(g, 3, 8, 1, 4, lambda W: W.half(), size=1e6)  # norms that float16 cannot hold
    yield n_m_case(g, 4, 16, 3, 4, lambda W: W.bfloat16(), rounded=True)
    yield n_m_case(g, 3, 9, 1, 3, size=1e-12)
    yield n_m_case(g, 3, 9, 1, 3, lambda W: 1e-12 * W)
    yield n_m_case(g, 4, 8, 1, 4, size=torch.where(torch.arange(8) % 4 == 1, torch.inf, 1.0))  # the last to go
    some_zeros = (torch.rand(5, 3, 4, generator=g).argsort(dim=-1) > 1).float().flatten(1)  # two in each group
    yield n_m_case(g, 5, 12, 1, 4, lambda W: W * some_zeros)
    yield n_m_case(g, 4, 6, 2, 3, lambda W: W.T.contiguous().T.double() / 3)


@n_m.stage(
    "refuses what has no n:m mask",
    points=1,
    exposes="A ValueError for n > m, and for a number of columns that m does not divide: a group must not run over the end of a row.",
)
def _(g):
    for rows, cols, n, m in [(3, 8, 5, 4), (3, 8, 9, 8), (4, 6, 2, 4), (3, 7, 1, 4)]:
        yield call(torch.randn(rows, cols, generator=g), norms(g, cols), n, m)


def check_n_m(W, n, m):
    if n > m or W.shape[1] % m:
        raise ValueError("n, m")


def grouped(W, norm, n, m, score=wanda.score):
    check_n_m(W, n, m)
    return W.masked_fill(~patterns.n_m(score(W, norm), n, m), 0)


@n_m.misconception(
    "n zeros",
    "You made n zeros in every group. In n:m, n is what is *kept*. The official code's `prunen` is the number of zeros; at 2:4 and 4:8 you "
    "cannot tell, at 1:4 you can.",
)
def _(W, norm, n, m):
    check_n_m(W, n, m)
    return W.masked_fill(~patterns.drop_smallest(wanda.score(W, norm).unflatten(1, (-1, m)), n).flatten(1), 0)


@n_m.misconception("magnitude", "You ranked |W| alone. Rank |W_ij| * norm_j, as without groups.")
def _(W, norm, n, m):
    return grouped(W, norm, n, m, lambda W, norm: W.abs())


@n_m.misconception("signed", "You ranked W_ij * norm_j with its sign. The score is |W_ij| * norm_j.")
def _(W, norm, n, m):
    return grouped(W, norm, n, m, lambda W, norm: W * norm)


@n_m.misconception(
    "norm only", "You ranked the inputs only, so that the same columns go in every row. The weight has a say too."
)
def _(W, norm, n, m):
    check_n_m(W, n, m)
    return W.masked_fill(~patterns.n_m(norm.expand(W.shape), n, m), 0)


@n_m.misconception("norm squared", "You ranked |W_ij| * norm_j^2, which weighs the inputs twice.")
def _(W, norm, n, m):
    return grouped(W, norm, n, m, lambda W, norm: W.abs() * norm**2)


@n_m.misconception(
    "prunes the largest", "You removed the largest scores of every group. The small ones are the ones that are not missed."
)
def _(W, norm, n, m):
    return grouped(W, norm, n, m, lambda W, norm: -wanda.score(W, norm))


@n_m.misconception(
    "down the columns",
    "Your groups run down a column. They lie along a row: neighbours in the input dimension, the one a dot product sums over.",
)
def _(W, norm, n, m):
    check_n_m(W, n, m)
    padded = F.pad(wanda.score(W, norm).T, (0, -W.shape[0] % m), value=float("inf"))
    return W.masked_fill(~patterns.n_m(padded, n, m)[:, : W.shape[0]].T, 0)


@n_m.misconception(
    "strided groups",
    "Your groups are entries far apart: `unflatten(1, (m, -1))` puts every (cols / m)-th entry together. Neighbours are `(-1, m)`.",
)
def _(W, norm, n, m):
    check_n_m(W, n, m)
    groups = wanda.score(W, norm).unflatten(1, (m, -1)).transpose(1, 2)
    return W.masked_fill(~patterns.drop_smallest(groups, m - n).transpose(1, 2).flatten(1), 0)


@n_m.misconception(
    "whole row",
    "The total is right, but whole rows compete: some groups keep 3, some 1. Every group must keep exactly n.",
)
def _(W, norm, n, m):
    check_n_m(W, n, m)
    return W.masked_fill(~patterns.drop_smallest(wanda.score(W, norm), W.shape[1] // m * (m - n)), 0)


@n_m.misconception(
    "first group only",
    "Only the first group of each row is pruned: shift the indices that you find in a group by the column where the group begins.",
)
def _(W, norm, n, m):
    check_n_m(W, n, m)
    kept = patterns.n_m(wanda.score(W, norm), n, m)
    kept[:, m:] = True
    return W.masked_fill(~kept, 0)


@n_m.misconception(
    "indices not shifted",
    "You use the indices found in a group as if they were columns: all groups' zeros land in the first m columns. Add the column where the "
    "group begins, as the official code does (`ii + topk(...)[1]`).",
)
def _(W, norm, n, m):
    check_n_m(W, n, m)
    kept = patterns.n_m(wanda.score(W, norm), n, m).unflatten(1, (-1, m)).all(dim=1)  # (rows, m)
    return W.masked_fill(~F.pad(kept, (0, W.shape[1] - m), value=True), 0)


@n_m.misconception(
    "infinity as a mark",
    "You mark what goes by a score of infinity. A score may be infinite itself, and its weight is the last to go: keep a mask.",
)
def _(W, norm, n, m):
    check_n_m(W, n, m)
    groups = wanda.score(W, norm).unflatten(1, (-1, m))
    for _ in range(m - n):
        groups.scatter_(-1, groups.argmin(dim=-1, keepdim=True), torch.inf)
    return W.masked_fill(groups.flatten(1).isinf(), 0)


@n_m.misconception("returns the mask", "You returned the mask. Return the weights with the pruned ones set to zero.")
def _(W, norm, n, m):
    check_n_m(W, n, m)
    return patterns.n_m(wanda.score(W, norm), n, m)


@n_m.misconception("returns the score", "You returned the scores that survive. What stays are the weights, unchanged.")
def _(W, norm, n, m):
    check_n_m(W, n, m)
    score = wanda.score(W, norm)
    return score.masked_fill(~patterns.n_m(score, n, m), 0).to(W.dtype)


@n_m.misconception("in place", "You changed W itself. Whoever called you may still need it: work on W.clone().")
def _(W, norm, n, m):
    return W.copy_(grouped(W, norm, n, m))


@n_m.misconception("n > m passes", "You check the columns but not n: keeping 5 of 4 makes no sense.")
def _(W, norm, n, m):
    if W.shape[1] % m:
        raise ValueError("cols")
    return grouped(W, norm, min(n, m), m)


@n_m.misconception(
    "groups run over the end of a row",
    "You accept a row that m does not divide: after `reshape(-1, m)` a group may hold the end of one row and the start of the next. "
    "Raise a ValueError if W.shape[1] % m.",
)
def _(W, norm, n, m):
    if n > m or W.numel() % m:
        raise ValueError("n, m")
    score = wanda.score(W, norm)
    return W.masked_fill(~patterns.drop_smallest(score.reshape(-1, m), m - n).view(W.shape), 0)


@n_m.accepts("the official inner loop")
def _(W, norm, n, m):
    if n > m or W.shape[1] % m:
        raise ValueError("n:m")
    prune_n, prune_m = m - n, m
    W = W.clone()
    W_metric = torch.abs(W) * torch.sqrt((norm**2).reshape((1, -1)))
    W_mask = torch.zeros_like(W_metric) == 1
    for ii in range(W_metric.shape[1]):
        if ii % prune_m == 0:
            tmp = W_metric[:, ii : (ii + prune_m)].float()
            W_mask.scatter_(1, ii + torch.topk(tmp, prune_n, dim=1, largest=False)[1], True)
    W[W_mask] = 0
    return W


@n_m.accepts("largest by topk")
def _(W, norm, n, m):
    rows, cols = W.shape
    if cols % m != 0 or n > m:
        raise ValueError(f"cannot make {n}:{m} of {cols} columns")
    keep = (W.double() * norm).abs().reshape(-1, m).topk(n, dim=1).indices
    flat = W.reshape(-1, m)
    return torch.zeros_like(flat).scatter(1, keep, flat.gather(1, keep)).reshape(rows, cols)


@n_m.accepts("numpy, group by group")
def _(W, norm, n, m):
    if not 1 <= n <= m or W.shape[1] % m:
        raise ValueError("n:m")
    gone = np.zeros(W.shape, dtype=bool)
    for row, weights in zip(gone, W.double().numpy(), strict=True):  # numpy has no bfloat16
        for start in range(0, len(row), m):
            group = np.abs(weights[start : start + m]) * norm.numpy()[start : start + m]
            row[start + np.argsort(group)[: m - n]] = True
    return W.masked_fill(torch.from_numpy(gone), 0)
