"""Mistakes of exercise 5.7, and the right answer that they vary."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes


def shares(score: Tensor) -> Tensor:
    """(rows, cols): the share of its row's total that goes with a score and all smaller ones."""
    ordered, order = score.double().sort(dim=1)
    return torch.zeros_like(ordered).scatter(1, order, ordered.cumsum(dim=1) / ordered.sum(dim=1, keepdim=True))


def search(share: Tensor, sparsity: float, high=0.8, alpha=0.4, width=1e-3, tolerance=1e-3) -> Iterator[float]:
    """The alphas that bisection tries."""
    low = 0.0
    while True:
        yield alpha
        reached = float((share <= alpha).float().mean())
        if abs(reached - sparsity) <= tolerance or high - low < width:
            return
        low, high = (low, alpha) if reached > sparsity else (alpha, high)
        alpha = (low + high) / 2


def bisect(score, sparsity, share=shares, **options):
    """`variant_mask` with its parts exchangeable, for mistakes in one part."""
    of_row = share(score)
    *_, alpha = search(of_row, sparsity, **options)
    return of_row > alpha


mistakes = Mistakes()


@mistakes(
    "plain Wanda",
    "Every row loses the same number: that is Wanda without the variant. Here every row gives up the same share of its total score.",
)
def _(score, sparsity):
    gone = score.argsort(dim=1)[:, : int(sparsity * score.shape[1])]
    return torch.ones_like(score, dtype=torch.bool).scatter(1, gone, False)


@mistakes("alpha is 0.4", "You stop at the first alpha. 0.4 is where the search begins: bisect until the sparsity is reached.")
def _(score, sparsity):
    return shares(score) > 0.4


@mistakes(
    "alpha is the sparsity",
    "You used the sparsity as alpha. Giving up half of the weights costs less than half of the score, as the smallest go: search alpha.",
)
def _(score, sparsity):
    return shares(score) > sparsity


@mistakes(
    "one sum for all rows",
    "You took the share of the whole matrix. Each row has its own sum: `score.sum(dim=1, keepdim=True)`.",
)
def _(score, sparsity):
    def share(score):
        ordered, order = score.double().flatten().sort()
        return torch.zeros_like(ordered).scatter(0, order, ordered.cumsum(dim=0) / ordered.sum()).view_as(score)

    return bisect(score, sparsity, share)


@mistakes("not sorted", "You added up the scores in the order of the columns. Sort each row first: the smallest go.")
def _(score, sparsity):
    return bisect(score, sparsity, lambda score: score.double().cumsum(dim=1) / score.double().sum(dim=1, keepdim=True))


@mistakes(
    "in sorted order",
    "Your mask belongs to the sorted scores. Bring it back to the columns' own order, with the indices that sort returns.",
)
def _(score, sparsity):
    return bisect(score, sparsity).gather(1, score.argsort(dim=1))


@mistakes("largest first", "You added up from the largest score downwards, so that the largest go. Sort upwards.")
def _(score, sparsity):
    def share(score):
        return 1 - shares(score) + score.double() / score.double().sum(dim=1, keepdim=True)

    return bisect(score, sparsity, share)


@mistakes(
    "threshold of the largest",
    "You compare each score with alpha times the row's largest. It is the sum of the scores that go which is compared, with the row's sum.",
)
def _(score, sparsity):
    return bisect(score, sparsity, lambda score: score.double() / score.double().amax(dim=1, keepdim=True))


@mistakes(
    "one more in each row",
    "The score with which the sum exceeds the share goes too. `at most` means cumsum <= alpha * sum, that score included in the cumsum.",
)
def _(score, sparsity):
    return bisect(score, sparsity, lambda score: shares(score) - score.double() / score.double().sum(dim=1, keepdim=True))


@mistakes(
    "borders swapped",
    "You move the wrong border: where the mask is too sparse, alpha is too large and becomes the upper border.",
)
def _(score, sparsity):
    low, alpha, high = 0.0, 0.4, 0.8
    while True:
        mask = shares(score) > alpha
        reached = float((~mask).float().mean())
        if abs(reached - sparsity) <= 1e-3 or high - low < 1e-3:
            return mask
        low, high = (alpha, high) if reached > sparsity else (low, alpha)
        alpha = (low + high) / 2


@mistakes(
    "from 0 to 1",
    "You search between 0 and 1, beginning in the middle. The authors' search, and this one, goes from 0 to 0.8 and begins at 0.4; where it "
    "stops depends on that.",
)
def _(score, sparsity):
    return bisect(score, sparsity, high=1.0, alpha=0.5)


@mistakes(
    "a row at a time",
    "You search an alpha for every row, so that every row reaches the sparsity. There is one alpha for the whole matrix.",
)
def _(score, sparsity):
    return torch.cat([bisect(row[None], sparsity) for row in score])


@mistakes(
    "exact count at the end",
    "You found the exact count instead of stopping within 0.001. The result of the search is the mask of its last alpha.",
)
def _(score, sparsity):
    share = shares(score).flatten()
    mask = torch.ones_like(share, dtype=torch.bool)
    mask[share.argsort()[: int(sparsity * len(share))]] = False
    return mask.view_as(score)


@mistakes(
    "searches on",
    "You search until the borders meet, also when the sparsity is reached already. Stop at the first alpha within 0.001.",
)
def _(score, sparsity):
    return bisect(score, sparsity, tolerance=-1.0)


@mistakes(
    "stops early", "You stop when the borders are 0.01 apart, or when the sparsity is within 0.01. Both numbers are 0.001 here."
)
def _(score, sparsity):
    return bisect(score, sparsity, tolerance=0.01, width=0.01)


@mistakes(
    "relative tolerance",
    "You stop within 0.001 times the sparsity. It is the difference itself that is compared with 0.001.",
)
def _(score, sparsity):
    return bisect(score, sparsity, tolerance=1e-3 * sparsity)


@mistakes(
    "small number in the sum",
    "You add a small number to the sum of a row, or leave small scores out. The sum is never 0, and scores may all be tiny: only shares count.",
)
def _(score, sparsity):
    total = score.double().sum(dim=1, keepdim=True)
    return bisect(score, sparsity, lambda score: shares(score) * total / (total + 1e-8))


@mistakes(
    "one too few in each row",
    "The largest score that may still go stays: with threshold = the largest score whose cumsum is at most alpha * sum, remove "
    "score <= threshold, not <.",
)
def _(score, sparsity):
    def share(score):
        """Of the next larger score of the row; the largest never goes."""
        ordered, order = score.double().sort(dim=1)
        following = torch.roll(ordered.cumsum(dim=1) / ordered.sum(dim=1, keepdim=True), -1, dims=1)
        following[:, -1] = math.inf
        return torch.zeros_like(ordered).scatter(1, order, following)

    return bisect(score, sparsity, share)


@mistakes(
    "mask of the alpha before",
    "You return the mask of the alpha before the last: compute the mask after moving alpha, then look whether to stop.",
)
def _(score, sparsity):
    alphas = [0.4, *search(shares(score), sparsity)]
    return shares(score) > alphas[-2]


@mistakes("score squared", "You added up squared scores. The variant adds up the scores themselves, |W_ij| |X_j|.")
def _(score, sparsity):
    return bisect(score, sparsity, lambda score: shares(score**2))


@mistakes("inverted", "Your mask is True where a weight goes. In this course True = kept.")
def _(score, sparsity):
    return ~bisect(score, sparsity)


@mistakes("float mask", "Your mask holds 0.0 and 1.0. A mask is boolean in this course (True = kept).")
def _(score, sparsity):
    return bisect(score, sparsity).float()
