"""Exercise 5.7: the paper's variant."""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.wanda.fixtures import redraw
from autograder.exercises.wanda.variant_mistakes import bisect, mistakes, search, shares
from autograder.inside.case import Case, call
from sparsity_edu.weights import wanda


def variant_mask(score: Tensor, sparsity: float) -> Tensor:
    return wanda.variant_mask(score, sparsity)


variant = Exercise(
    "wanda.variant",
    defines="variant_mask",
    title="The paper's variant",
    minutes=20,
    difficulty=3,
    hints=(
        "There are two parts: the mask for a given alpha, which takes only sums of sorted scores, and the search for "
        "alpha, which halves an interval.",
        "Sort every row. The running sum of a sorted row, over the sum of the row, rises to 1; what is at most alpha "
        "goes. Remember the order of the sort, to bring the mask back to the columns' own places. In the search mind the "
        "order: measure over the whole matrix, stop?, move a border, halve.",
        "`ordered, order = score.sort(dim=1)`, `share = ordered.cumsum(dim=1) / score.sum(dim=1, keepdim=True)`, `gone = "
        "share <= alpha`. The way back: `torch.ones_like(gone).scatter(1, order, ~gone)`. Stop when `abs(reached - "
        "sparsity) <= 0.001 or high - low < 0.001`. If it is too sparse `high` becomes alpha, otherwise `low` does; the "
        "next alpha is in the middle.",
    ),
    reference=variant_mask,
    misconceptions=mistakes,
)


def is_clear(score: Tensor, sparsity: float) -> bool:
    """Whether no rounding changes what bisection does, and every row has something to give up at every alpha."""
    share = shares(score)
    return all(
        float((share - alpha).abs().min()) > 1e-5 and float(share.amin(dim=1).max()) < alpha
        for alpha in search(share, sparsity)
    )


def scores(g: torch.Generator, rows: int, cols: int, spread: float = 1.0) -> Tensor:
    """Rows of unequal scale and unequal spread, as the variant is about those."""
    spreads = spread * torch.linspace(0.2, 1.2, rows)[:, None]
    return torch.exp(spreads * torch.randn(rows, cols, generator=g) + 2 * torch.rand(rows, 1, generator=g))


def different(*masks: Tensor) -> bool:
    return not any(torch.equal(a, b) for a, b in combinations(masks, 2))


def bisection_case(
    g: torch.Generator,
    rows: int,
    cols: int,
    sparsity: float | None,
    accept: Callable = lambda *_: True,
    spread: float = 1.0,
    size: float = 1.0,
) -> Case:
    """Without a sparsity: the one that alpha = 0.4 gives."""

    def draw():
        score = size * scores(g, rows, cols, spread)
        return score, float((shares(score) <= 0.4).double().mean()) if sparsity is None else sparsity

    return call(*redraw(draw, lambda drawn: is_clear(*drawn) and accept(*drawn)))


@variant.stage(
    "gives up 40 % of each row's total score, where that is the sparsity asked for",
    points=1,
    exposes="In every row the smallest scores go, as many as together make up at most alpha times the row's sum, however small that is. "
    "These cases are right at the first alpha, 0.4.",
)
def _(g):
    yield bisection_case(g, 3, 8, None)
    yield bisection_case(g, 6, 20, None, spread=1.5)
    yield bisection_case(g, 4, 9, None, size=1e-20)  # only shares count
    yield bisection_case(g, 5, 9, None, spread=0.5, size=1e12)
    yield bisection_case(g, 2, 300, None)
    yield bisection_case(g, 100, 5, None, spread=0.5)


@variant.stage(
    "finds alpha by bisection",
    points=2,
    exposes="Too sparse: alpha is too large, it becomes the upper border; otherwise the lower. The next alpha is halfway between the borders, "
    "which begin at 0 and 0.8, until the sparsity is within 0.001.",
)
def _(g):
    def takes_long(score, sparsity):
        return len(list(search(shares(score), sparsity))) > 3

    def depends_on_the_search(score, sparsity):
        """Large enough that several masks are within 0.001, and that other searches end at others, each at its own; so do others of its tolerance."""
        searches = ({}, {"alpha": 0.2}, {"high": 1.0, "alpha": 0.5}, {"high": 0.9, "alpha": 0.45})
        ends = [bisect(score, sparsity, **options) for options in searches]
        others = [bisect(score, sparsity, tolerance=tolerance) for tolerance in (5e-4, 1e-4, 2e-3)]
        return different(*ends) and all(different(ends[0], end) for end in others)

    yield bisection_case(g, 8, 50, 0.5, takes_long)
    yield bisection_case(g, 10, 60, 0.7, takes_long, spread=1.5)
    yield bisection_case(g, 9, 40, 0.6, takes_long, spread=2.0)
    yield bisection_case(g, 30, 120, 0.5, depends_on_the_search)


@variant.stage(
    "stops also where no alpha fits",
    points=1,
    exposes="A small matrix has few sparsities, and above 0.8 of the sum nothing is tried: stop when the borders are less than 0.001 apart, and "
    "return the mask of the last alpha.",
    pure=True,
)
def _(g):
    def ends_narrow(score, sparsity):
        """A search that stops at twice the width ends at another mask, and so does a coarse one."""
        coarser = {"width": 2e-3}, {"width": 0.01, "tolerance": 0.01}
        return all(different(bisect(score, sparsity), bisect(score, sparsity, **limits)) for limits in coarser)

    yield bisection_case(g, 3, 9, 0.52)
    yield bisection_case(g, 5, 7, 0.55)
    yield bisection_case(g, 4, 11, 0.62, ends_narrow, spread=1.5)
    yield bisection_case(g, 4, 30, 0.95, spread=0.5)


@variant.accepts("the official return_given_alpha and its loop")
def _(W_metric, sparsity_ratio):
    def return_given_alpha(alpha, sort_res, W_metric, tmp_metric, sum_before):
        thres_cumsum = sum_before * alpha
        sort_mask = tmp_metric <= thres_cumsum.reshape((-1, 1))
        thres = torch.gather(sort_res[0], dim=1, index=sort_mask.sum(dim=1, keepdims=True) - 1)
        W_mask = W_metric <= thres
        cur_sparsity = (W_mask == True).sum() / W_mask.numel()  # noqa: E712
        return W_mask, cur_sparsity

    sort_res = torch.sort(W_metric, dim=-1, stable=True)
    tmp_metric = torch.cumsum(sort_res[0], dim=1)
    sum_before = W_metric.sum(dim=1)
    alpha = 0.4
    alpha_hist = [0.0, 0.8]
    W_mask, cur_sparsity = return_given_alpha(alpha, sort_res, W_metric, tmp_metric, sum_before)
    while (torch.abs(cur_sparsity - sparsity_ratio) > 0.001) and (alpha_hist[1] - alpha_hist[0] >= 0.001):
        if cur_sparsity > sparsity_ratio:
            alpha_new = (alpha + alpha_hist[0]) / 2.0
            alpha_hist[1] = alpha
        else:
            alpha_new = (alpha + alpha_hist[1]) / 2.0
            alpha_hist[0] = alpha
        alpha = alpha_new
        W_mask, cur_sparsity = return_given_alpha(alpha, sort_res, W_metric, tmp_metric, sum_before)
    return ~W_mask


@variant.accepts("recursion, row by row, in numpy")
def _(score, sparsity):
    def at(alpha):
        keep = np.ones(tuple(score.shape), dtype=bool)
        for row, kept in zip(score.numpy().astype(np.float64), keep, strict=True):
            order = np.argsort(row)
            kept[order[np.cumsum(row[order]) <= alpha * row.sum()]] = False
        return keep

    def look(low, alpha, high):
        keep = at(alpha)
        off = 1 - keep.mean() - sparsity
        if math.fabs(off) <= 0.001 or high - low < 0.001:
            return torch.from_numpy(keep)
        return look(low, (low + alpha) / 2, alpha) if off > 0 else look(alpha, (alpha + high) / 2, high)

    return look(0.0, 0.4, 0.8)


@variant.accepts("a fixed number of halvings, broken off")
def _(score, sparsity):
    ordered, order = torch.sort(score, dim=1)
    low, high = torch.tensor(0.0), torch.tensor(0.8)
    for _ in range(40):
        alpha = (low + high) / 2
        gone = ordered.cumsum(1) <= alpha * score.sum(1, keepdim=True)
        if (gone.float().mean() - sparsity).abs() <= 0.001 or high - low < 0.001:
            break
        if gone.float().mean() > sparsity:
            high = alpha
        else:
            low = alpha
    return torch.empty_like(gone).scatter_(1, order, ~gone)
