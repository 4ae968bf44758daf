"""Mistakes of exercise 5.3, and the right answer that they vary."""

import math

import torch

from autograder.checking.exercise import Mistakes
from sparsity_edu import patterns
from sparsity_edu.weights import wanda


def check_sparsity(sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("sparsity")


def drop(W, norm, sparsity, score=wanda.score, count=int):
    """`wanda_prune` with its parts exchangeable, for mistakes in one part."""
    check_sparsity(sparsity)
    smallest = score(W, norm).argsort(dim=1, stable=True)[:, : count(sparsity * W.shape[1])]
    return W.scatter(1, smallest, 0)


mistakes = Mistakes()


@mistakes(
    "layer-wide",
    "You let all weights of the matrix compete. Wanda compares within a row: an output whose scores are all small keeps as many weights "
    "as the others.",
)
def _(W, norm, sparsity):
    check_sparsity(sparsity)
    return W.masked_fill(~patterns.unstructured(wanda.score(W, norm), sparsity), 0)


@mistakes(
    "down the columns",
    "You compared down the columns (dim=0). There the norm is the same for all, so it has no say: compare along a row, dim=1.",
)
def _(W, norm, sparsity):
    check_sparsity(sparsity)
    return W.masked_fill(~patterns.unstructured(wanda.score(W, norm).T, sparsity, per="row").T, 0)


@mistakes("magnitude", "You ranked |W| alone: that is magnitude pruning, row by row. Rank |W_ij| * norm_j.")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: W.abs())


@mistakes("signed", "You ranked W_ij * norm_j with its sign: the most negative weights went first, although they matter most.")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: W * norm)


@mistakes("norm squared", "You ranked |W_ij| * norm_j^2, which weighs the inputs twice. Square both factors or neither.")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: W.abs() * norm**2)


@mistakes("norm only", "You ranked the inputs only: whole columns go. The weight has a say too.")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: norm.expand(W.shape))


@mistakes(
    "divides by the norm",
    "You divided by the norm, so that weights on large inputs went first. A large input makes a weight matter.",
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: W.abs() / norm)


@mistakes("prunes the largest", "You removed the largest scores. The small ones are the ones that are not missed.")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: -wanda.score(W, norm))


@mistakes(
    "keeps the sparsity",
    "You kept a fraction `sparsity` of each row. Sparsity is what goes; what stays is the density 1 - sparsity.",
)
def _(W, norm, sparsity):
    check_sparsity(sparsity)
    gone = W.shape[1] - int(sparsity * W.shape[1])
    return drop(W, norm, 0, count=lambda _: gone)


@mistakes(
    "one too many",
    "One weight too many goes in each row: with threshold = sorted[k], the test score <= threshold removes k + 1.",
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, count=lambda x: int(x) + 1)


@mistakes("rounded", "You rounded sparsity * cols to the nearest integer. Wanda rounds down: int(sparsity * cols).")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, count=round)


@mistakes("rounded up", "You rounded sparsity * cols up. Wanda rounds down: int(sparsity * cols).")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, count=math.ceil)


@mistakes(
    "quantile",
    "torch.quantile interpolates between two scores, so what falls below it is not always int(sparsity * cols). Sort the row instead.",
)
def _(W, norm, sparsity):
    check_sparsity(sparsity)
    score = wanda.score(W, norm)
    return W.masked_fill(score <= torch.quantile(score, sparsity, dim=1, keepdim=True), 0)


@mistakes(
    "each row's columns for all",
    "`W[:, indices] = 0` takes the columns of every row out of all rows. `scatter` along dim 1 takes each row's indices for that row.",
)
def _(W, norm, sparsity):
    check_sparsity(sparsity)
    pruned = W.clone()
    pruned[:, wanda.score(W, norm).argsort(dim=1, stable=True)[:, : int(sparsity * W.shape[1])]] = 0
    return pruned


@mistakes(
    "one row's columns for all",
    "You took the same columns out of every row. Each output has its own weights, hence its own mask.",
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: wanda.score(W, norm).sum(dim=0).expand(W.shape))


@mistakes(
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


@mistakes(
    "dead inputs on top",
    "You zero the weights of dead inputs in any case, as SparseGPT does. Here they have score 0 and are the first to go, but no more than "
    "int(sparsity * cols) go in a row.",
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity).masked_fill(norm == 0, 0)


@mistakes(
    "rounded to half precision",
    "You rank in the precision of W. float16 cannot hold a norm above 65504, and rounds scores until they are equal: rank in float32.",
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: W.abs() * norm.to(W.dtype))


@mistakes(
    "infinity as a mark",
    "You mark what goes by a score of infinity. A score may be infinite itself, and its weight is the last to go: keep a mask.",
)
def _(W, norm, sparsity):
    check_sparsity(sparsity)
    score = wanda.score(W, norm)
    for _ in range(int(sparsity * W.shape[1])):
        score.scatter_(1, score.argmin(dim=1, keepdim=True), math.inf)
    return W.masked_fill(score.isinf(), 0)


@mistakes(
    "counted in float32",
    "Your count is now and then one too many: in float32, or with a small number added, 100 * 0.29 is 29; in Python's own numbers it is a "
    "little less. Take int(sparsity * cols) of a float and an int.",
)
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, count=lambda x: int(torch.tensor(sparsity) * W.shape[1]))


@mistakes("returns the mask", "You returned the mask. Return the weights with the pruned ones set to zero.")
def _(W, norm, sparsity):
    return drop(W, norm, sparsity, score=lambda W, norm: wanda.score(W, norm)) != 0


@mistakes(
    "returns the score",
    "You returned the scores that survive. The score only chooses; what stays are the weights, unchanged.",
)
def _(W, norm, sparsity):
    return drop(wanda.score(W, norm), torch.ones_like(norm), sparsity).to(W.dtype)


@mistakes(
    "in place",
    "You changed W itself, as the paper's pseudo-code does. Whoever called you may still need it: work on W.clone().",
)
def _(W, norm, sparsity):
    return W.copy_(drop(W, norm, sparsity))


@mistakes("no check", "You accept any sparsity. Raise a ValueError unless 0 <= sparsity < 1.")
def _(W, norm, sparsity):
    return drop(W, norm, max(0.0, min(0.999, 0.0 if math.isnan(sparsity) else sparsity)))
