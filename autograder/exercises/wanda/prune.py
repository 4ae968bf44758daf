"""Exercise 5.3: prune every output by itself."""

import math

import numpy as np
import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises import counts
from autograder.exercises.wanda.fixtures import WIDTHS, clear, norms, redraw
from autograder.inside.case import Case, call
from sparsity_edu import patterns
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


def check_sparsity(sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("sparsity")


def drop(W, norm, sparsity, score=wanda.score, count=int):
    """`wanda_prune` with its parts exchangeable, for mistakes in one part."""
    check_sparsity(sparsity)
    smallest = score(W, norm).argsort(dim=1, stable=True)[:, : count(sparsity * W.shape[1])]
    return W.scatter(1, smallest, 0)


@prune.misconception(
    "layer-wide",
    "You let all weights of the matrix compete. Wanda compares within a row: an output whose scores are all small keeps as many weights "
    "as the others.",
)
def _(W, norm, sparsity):
    check_sparsity(sparsity)
    return W.masked_fill(~patterns.unstructured(wanda.score(W, norm), sparsity), 0)


@prune.misconception(
    "down the columns",
    "You compared down the columns (dim=0). There the norm is the same for all, so it has no say: compare along a row, dim=1.",
)
def _(W, norm, sparsity):
    check_sparsity(sparsity)
    return W.masked_fill(~patterns.unstructured(wanda.score(W, norm).T, sparsity, per="row").T, 0)


@prune.misconception("magnitude", "You ranked |W| alone: that is magnitude pruning, row by row. Rank |W_ij| * norm_j.")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: W.abs())


@prune.misconception(
    "signed", "You ranked W_ij * norm_j with its sign: the most negative weights went first, although they matter most."
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: W * norm)


@prune.misconception(
    "norm squared", "You ranked |W_ij| * norm_j^2, which weighs the inputs twice. Square both factors or neither."
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: W.abs() * norm**2)


@prune.misconception("norm only", "You ranked the inputs only: whole columns go. The weight has a say too.")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: norm.expand(W.shape))


@prune.misconception(
    "divides by the norm",
    "You divided by the norm, so that weights on large inputs went first. A large input makes a weight matter.",
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: W.abs() / norm)


@prune.misconception("prunes the largest", "You removed the largest scores. The small ones are the ones that are not missed.")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: -wanda.score(W, norm))


@prune.misconception(
    "keeps the sparsity",
    "You kept a fraction `sparsity` of each row. Sparsity is what goes; what stays is the density 1 - sparsity.",
)
def _(W, norm, sparsity):
    check_sparsity(sparsity)
    gone = W.shape[1] - int(sparsity * W.shape[1])
    return drop(W, norm, 0, count=lambda _: gone)


@prune.misconception(
    "one too many",
    "One weight too many goes in each row: with threshold = sorted[k], the test score <= threshold removes k + 1.",
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, count=lambda x: int(x) + 1)


@prune.misconception("rounded", "You rounded sparsity * cols to the nearest integer. Wanda rounds down: int(sparsity * cols).")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, count=round)


@prune.misconception("rounded up", "You rounded sparsity * cols up. Wanda rounds down: int(sparsity * cols).")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, count=math.ceil)


@prune.misconception(
    "quantile",
    "torch.quantile interpolates between two scores, so what falls below it is not always int(sparsity * cols). Sort the row instead.",
)
def _(W, norm, sparsity):
    check_sparsity(sparsity)
    score = wanda.score(W, norm)
    return W.masked_fill(score <= torch.quantile(score, sparsity, dim=1, keepdim=True), 0)


@prune.misconception(
    "one row's columns for all",
    "You took the same columns out of every row. Each output has its own weights, hence its own mask.",
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: wanda.score(W, norm).sum(dim=0).expand(W.shape))


@prune.misconception(
    "fraction of what remains",
    "You removed a fraction of the weights that are not zero yet. Sparsity counts all weights of a row, those zeroed earlier included.",
)
def _(W, norm, sparsity):
    check_sparsity(sparsity)
    score = wanda.score(W, norm)
    rows = []
    for row, s in zip(W, score, strict=True):
        zeros = int((s == 0).sum())
        rows.append(row.scatter(0, s.argsort()[: zeros + int(sparsity * (len(s) - zeros))], 0))
    return torch.stack(rows)


@prune.misconception(
    "dead inputs on top",
    "You zero the weights of dead inputs in any case, as SparseGPT does. Here they have score 0 and are the first to go, but no more than "
    "int(sparsity * cols) go in a row.",
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity).masked_fill(norm == 0, 0)


@prune.misconception(
    "rounded to half precision",
    "You rank in the precision of W. float16 cannot hold a norm above 65504, and rounds scores until they are equal: rank in float32.",
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: W.abs() * norm.to(W.dtype))


@prune.misconception(
    "infinity as a mark",
    "You mark what goes by a score of infinity. A score may be infinite itself, and its weight is the last to go: keep a mask.",
)
def _(W, norm, sparsity):
    check_sparsity(sparsity)
    score = wanda.score(W, norm)
    for _ in range(int(sparsity * W.shape[1])):
        score.scatter_(1, score.argmin(dim=1, keepdim=True), math.inf)
    return W.masked_fill(score.isinf(), 0)


@prune.misconception(
    "counted in float32",
    "Your count is now and then one too many: in float32, or with a small number added, 100 * 0.29 is 29; in Python's own numbers it is a "
    "little less. Take int(sparsity * cols) of a float and an int.",
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, count=lambda x: int(torch.tensor(sparsity) * W.shape[1]))


@prune.misconception("returns the mask", "You returned the mask. Return the weights with the pruned ones set to zero.")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: wanda.score(W, norm)) != 0


@prune.misconception(
    "returns the score",
    "You returned the scores that survive. The score only chooses; what stays are the weights, unchanged.",
)
def _(W, norm, sparsity):
    return drop(wanda.score(W, norm), torch.ones_like(norm), sparsity).to(W.dtype)


@prune.misconception(
    "in place",
    "You changed W itself, as the paper's pseudo-code does. Whoever called you may still need it: work on W.clone().",
)
def _(W, norm, sparsity):
    return W.copy_(drop(W, norm, sparsity))


@prune.misconception("no check", "You accept any sparsity. Raise a ValueError unless 0 <= sparsity < 1.")
def _(W, norm, sparsity):
    return drop(W, norm, max(0.0, min(0.999, 0.0 if math.isnan(sparsity) else sparsity)))


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
