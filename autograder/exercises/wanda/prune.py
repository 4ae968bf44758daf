"""Exercise 5.3: prune every output by itself."""

import math

import numpy as np
import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises import counts
from autograder.exercises.wanda.fixtures import WIDTHS, clear, norms, redraw
from autograder.exercises.wanda.prune_mistakes import drop, mistakes
from autograder.inside.case import Case, call
from sparsity_edu.weights import wanda


def wanda_prune(W: Tensor, norm: Tensor, sparsity: float) -> Tensor:
    return wanda.prune(W, norm, sparsity)


prune = Exercise(
    "wanda.prune",
    defines="wanda_prune",
    title="Prune every output by itself",
    minutes=10,
    difficulty=2,
    hints=(
        "As in magnitude pruning, with two changes: the score is Wanda's, and every row is ranked by itself, so that each "
        "loses the same number.",
        "`argsort(dim=1)` ranks each row; its first `int(sparsity * cols)` columns are the positions that go, for all "
        "rows at once. `scatter` writes a value to positions along a dimension and, without the underscore, makes a copy.",
        "Check the sparsity first. With `order = wanda_score(W, norm).argsort(dim=1, stable=True)` the rest is the "
        "corrected pseudo-code: `W.scatter(dim=1, index=order[:, :count], value=0)`.",
    ),
    reference=wanda_prune,
    rules=Rules(tolerance=0),
    misconceptions=mistakes,
    forbids=("torch.nn.utils.prune", "torch.ao.pruning"),
)


def prune_case(
    g: torch.Generator,
    rows: int,
    cols: int,
    sparsity: float,
    change=lambda W: W,
    size: float = 1.0,
    accept=lambda W, norm, sparsity: True,
) -> Case:
    """Rows of unequal scale, so that rows which compete with each other show."""

    def draw():
        scale = 4 ** torch.rand(rows, 1, generator=g)
        return change(torch.randn(rows, cols, generator=g) * scale), norms(g, cols) * size

    def is_clear(drawn):
        return clear(wanda.score(*drawn), int(sparsity * cols)) and accept(*drawn, sparsity)

    return call(*redraw(draw, is_clear), sparsity)


@prune.stage(
    "each row loses its weights of smallest score",
    points=1,
    exposes="In every row the weights with the smallest |W_ij| * norm_j become zero; the others keep their values.",
)
def _(g):
    yield prune_case(g, 2, 4, 0.5)
    yield prune_case(g, 3, 10, 0.3)
    yield prune_case(g, 9, 8, 0.5)


@prune.stage(
    "exactly int(sparsity * cols) in each row",
    points=1,
    exposes="The weights of one row (one output) compete with each other and with nobody else, and int(sparsity * cols) of them go: "
    "rounded down, in every row.",
)
def _(g):
    for rows, cols, sparsity in [
        (7, 50, 0.45),
        (6, 7, 0.7),
        (5, 9, 0.3),
        (3, 3, 0.1),
        (4, 11, 0.9),
        (2, 6, 0.0),
        (12, 30, 0.98),
    ]:
        yield prune_case(g, rows, cols, sparsity)
    for accept in (counts.just_below, counts.in_between):
        (cols,), sparsity = counts.draw(g, WIDTHS, accept)
        yield prune_case(g, 4, cols, sparsity)
    yield prune_case(g, 2, 300, 0.4)
    yield prune_case(g, 300, 3, 0.4)


def is_lost_in_rounding(W: Tensor, norm: Tensor, sparsity: float) -> bool:
    """Whether other weights go where scores have the dtype of W."""
    return not torch.equal(drop(W, norm, sparsity, lambda W, norm: W.abs() * norm.to(W.dtype)), drop(W, norm, sparsity))


@prune.stage(
    "returns a copy in the dtype of W, whatever was zero before",
    points=1,
    exposes="W and norm stay as they are, the result has the shape and dtype of W. Weights that are zero already and those of a dead input "
    "(norm 0) have score 0: they are the first to go, and they count.",
    pure=True,
)
def _(g):
    yield prune_case(g, 5, 8, 0.5, lambda W: W.double() / 3)
    yield prune_case(g, 4, 9, 0.4, lambda W: W.half(), size=1e5)  # norms that float16 cannot hold
    yield prune_case(g, 6, 30, 0.5, lambda W: W.bfloat16(), accept=is_lost_in_rounding)
    yield prune_case(g, 4, 9, 0.4, size=1e-12)
    yield prune_case(g, 4, 9, 0.4, lambda W: 1e-12 * W)
    endless = torch.where(torch.arange(9) == 4, torch.inf, 1.0)  # a score may be infinite: its weight is the last to go
    yield call(
        *redraw(lambda: (torch.randn(5, 9, generator=g), norms(g, 9) * endless), lambda d: clear(wanda.score(*d), 5)), 0.6
    )
    few_zeros = (torch.rand(6, 12, generator=g).argsort(dim=1) > 3).float()  # four in each row
    yield prune_case(g, 6, 12, 0.6, lambda W: W * few_zeros)
    dead = torch.tensor([1.0, 1, 0, 1, 1, 1, 0, 1, 1, 1])
    yield call(
        *redraw(lambda: (torch.randn(7, 10, generator=g), norms(g, 10) * dead), lambda d: clear(wanda.score(*d), 5)), 0.55
    )
    yield call(torch.randn(3, 8, generator=g), norms(g, 8) * (torch.arange(8) != 5), 0.1)  # int(0.8) = 0: not even these go


@prune.stage(
    "refuses a sparsity outside [0, 1)",
    points=1,
    exposes="A ValueError for a sparsity below 0, of 1 or above, or NaN.",
)
def _(g):
    for sparsity in (1.0, 1.5, -0.1, math.nan):
        yield call(torch.randn(3, 4, generator=g), norms(g, 4), sparsity)


@prune.accepts("the official inner loop")
def _(W, norm, sparsity_ratio):
    if not 0 <= sparsity_ratio < 1:
        raise ValueError(sparsity_ratio)
    scaler_row = norm**2
    W = W.clone()
    W_metric = torch.abs(W) * torch.sqrt(scaler_row.reshape((1, -1)))
    W_mask = torch.zeros_like(W_metric) == 1
    sort_res = torch.sort(W_metric, dim=-1, stable=True)
    indices = sort_res[1][:, : int(W_metric.shape[1] * sparsity_ratio)]
    W_mask.scatter_(1, indices, True)
    W[W_mask] = 0
    return W


@prune.accepts("threshold per row by kthvalue")
def _(W, norm, sparsity):
    if not (sparsity >= 0 and sparsity < 1):
        raise ValueError("bad sparsity")
    k = int(W.shape[1] * sparsity)
    if k == 0:
        return W.clone()
    squared = W.double() ** 2 * norm.double() ** 2
    return torch.where(squared > squared.kthvalue(k, dim=1, keepdim=True).values, W, 0.0)


@prune.accepts("numpy, row by row")
def _(W, norm, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError(sparsity)
    pruned = W.double().numpy()  # numpy has no bfloat16
    pruned = pruned.copy() if W.dtype == torch.float64 else pruned
    for row in pruned:
        row[np.argsort(np.abs(row) * norm.numpy())[: int(sparsity * row.size)]] = 0
    return torch.from_numpy(pruned).to(W.dtype)
