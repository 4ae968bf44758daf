"""Mistakes of exercise 4.4, and the right answer that they vary."""

import math

import torch

from autograder.checking.exercise import Mistakes
from autograder.exercises.sparsegpt import variants


def wrong(B, U, sparsity, choose=None, **parts):
    choose = choose or (lambda scores: variants.published(scores, sparsity))
    return variants.prune(B, U, B.shape[1], choose, block_size=B.shape[1], **parts)


mistakes = Mistakes()


@mistakes(
    "score not squared",
    "Your score divides by U_jj. The first entry of the inverse of H[j:, j:] is U_jj^2, so that is what W^2 is divided by.",
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, score=lambda w, d: w**2 / d)


@mistakes("|W| / U_jj^2", "You divide |W| by U_jj squared. Both are squared, W^2 / U_jj^2, or neither.")
def _(B, U, sparsity):
    return wrong(B, U, sparsity, score=lambda w, d: w.abs() / d**2)


@mistakes("magnitude", "You rank |W| alone. How much a removal costs depends on the inputs: divide by U_jj.")
def _(B, U, sparsity):
    return wrong(B, U, sparsity, score=lambda w, d: w**2)


@mistakes(
    "multiplied",
    "You multiply by U_jj^2. U belongs to the inverse of H: a strong input has a small U_jj, and its weights should stay.",
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, score=lambda w, d: (w * d) ** 2)


@mistakes(
    "diagonal of the whole inverse",
    "You divide by the diagonal of the full inverse, U^T U. Columns to the left can no longer help: U_jj^2 is the entry for what is left.",
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, diagonal=(U.T @ U).diagonal().sqrt())


@mistakes("signed", "You rank B / U_jj with its sign, so that the most negative weights go first. Square it.")
def _(B, U, sparsity):
    return wrong(B, U, sparsity, score=lambda w, d: w / d)


@mistakes(
    "one too few",
    "int(n * sparsity) weights go, as in unit 02. Here the published code's convention is asked for: scores up to and *including* the one "
    "at that index go, which is one more.",
)
def _(B, U, sparsity):
    count = int(B.numel() * sparsity)
    return wrong(B, U, sparsity, lambda s: variants.smallest(s.reshape(1, -1), count).view_as(s))


@mistakes(
    "counted from 1",
    "int(n * sparsity) weights go, and one at least. The score *at index* int(n * sparsity) goes too; kthvalue counts from 1, so ask it for "
    "the int(n * sparsity) + 1 smallest.",
)
def _(B, U, sparsity):
    count = max(1, int(B.numel() * sparsity))
    return wrong(B, U, sparsity, lambda s: variants.smallest(s.reshape(1, -1), count).view_as(s))


@mistakes(
    "counted in float32",
    "Your count is now and then one too many: in float32, or with a small number added, 100 * 0.57 is 57 or more; in Python's own numbers it "
    "is a little less. Take int(n * sparsity) of an int and a float.",
)
def _(B, U, sparsity):
    count = min(B.numel(), int(torch.tensor(sparsity) * B.numel()) + 1)
    return wrong(B, U, sparsity, lambda s: variants.smallest(s.reshape(1, -1), count).view_as(s))


@mistakes(
    "zeros do not count",
    "A weight that is 0 already does not count among those that go. Its score is 0, so it is the first of them.",
)
def _(B, U, sparsity):
    def choose(scores):
        sought = scores.masked_fill(B == 0, math.inf)
        return variants.published(sought, sparsity) & (B != 0)

    return wrong(B, U, sparsity, choose)


@mistakes(
    "float64 in float32",
    "Your result is right where float32 holds the numbers. B may be float64, with scores far below 1e-38: compute in the dtype of B.",
)
def _(B, U, sparsity):
    pruned, E = wrong(B.float(), U.float(), sparsity)
    return pruned.to(B.dtype), E.to(B.dtype)


@mistakes("prunes the largest", "The largest scores go. A large score is a large cost: the small ones go.")
def _(B, U, sparsity):
    return wrong(B, U, sparsity, lambda s: variants.published(-s, sparsity))


@mistakes(
    "row by row", "Every row has a threshold of its own. All weights of the block compete, so rows may lose unequal numbers."
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, lambda s: variants.smallest(s, int(s.shape[1] * sparsity) + 1))


@mistakes(
    "column by column",
    "Every column has a threshold of its own. All weights of the block compete; columns may lose unequal numbers.",
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, lambda s: variants.smallest(s.T, int(s.shape[0] * sparsity) + 1).T)


@mistakes(
    "quantile",
    "torch.quantile interpolates between two scores, so that not always int(n * sparsity) + 1 go. Sort, and take the index.",
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, lambda s: s > torch.quantile(s.flatten(), sparsity))


@mistakes(
    "mask from moving weights",
    "You compare weights that have already moved with the threshold, column by column, so that the number that goes is left to chance. The "
    "mask of a block is chosen once, before its first column.",
)
def _(B, U, sparsity):
    threshold = (B / U.diagonal()).square().flatten().sort().values[int(B.numel() * sparsity)]
    return variants.prune(B, U, 1, lambda s: s > threshold, block_size=B.shape[1])


@mistakes(
    "no compensation", "The right weights go, and nothing else moves. Removing a weight changes all columns to its right."
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, reach=lambda j, stop: slice(0, 0))


@mistakes(
    "errors of the dense weights",
    "You take e from the weights as they were at the start. A weight that goes may have moved before: it has taken over from columns to its left.",
)
def _(B, U, sparsity):
    keep = variants.published((B / U.diagonal()) ** 2, sparsity)
    E = (B / U.diagonal()).masked_fill(keep, 0)
    return (B - E @ U).masked_fill(~keep, 0), E


@mistakes(
    "zeros first",
    "You set the weights to zero before you go through the columns: there is nothing left to compensate for. The zeros come last.",
)
def _(B, U, sparsity):
    keep = variants.published((B / U.diagonal()) ** 2, sparsity)
    return B * keep, torch.zeros_like(B)


@mistakes(
    "divided by the square in the update",
    "e is w / U_jj. The score divides by the square; the update has the second factor in U[j, j:].",
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, error=lambda w, d: w / d**2)


@mistakes(
    "divided by the square, no zeros written",
    "Your e is w / U_jj^2, so that w - e U_jj is not even zero. The score divides by the square; the update has the second factor in U[j, j:].",
)
def _(B, U, sparsity):
    pruned, E = B.clone(), torch.zeros_like(B)
    keep = variants.published((B / U.diagonal()) ** 2, sparsity)
    for j in range(B.shape[1]):
        E[:, j] = (pruned[:, j] / U[j, j] ** 2).masked_fill(keep[:, j], 0)
        pruned[:, j:] -= torch.outer(E[:, j], U[j, j:])
    return pruned, E


@mistakes(
    "not divided in the update", "e is w / U_jj; you leave out the division, so that the compensation is off by that factor."
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, error=lambda w, d: w)


@mistakes(
    "zeros not kept",
    "Removed weights come back: something is added to columns that are finished. From column j on only, never to its left.",
)
def _(B, U, sparsity):
    symmetric = U + U.triu(1).T
    W, E, keep = B.clone(), torch.zeros_like(B), variants.published((B / U.diagonal()) ** 2, sparsity)
    for j in range(B.shape[1]):
        E[:, j] = (W[:, j] / U[j, j]).masked_fill(keep[:, j], 0)
        W -= torch.outer(E[:, j], symmetric[j])
    return W, E


@mistakes(
    "only nearly zero",
    "The removed weights are not exactly zero: w - (w / d) * d leaves some 1e-9 behind. Write the zeros yourself, as in remove_from_column.",
)
def _(B, U, sparsity):
    pruned, E = wrong(B, U, sparsity)
    return torch.where(E == 0, pruned, 1e-9 * B.abs().max()), E


@mistakes("only the block", "You return the block alone. Return two things: the pruned block, and E.")
def _(B, U, sparsity):
    return wrong(B, U, sparsity)[0]


@mistakes("in place", "B itself has changed. Work on B.clone().")
def _(B, U, sparsity):
    pruned, E = wrong(B, U, sparsity)
    B.copy_(pruned)
    return B, E
