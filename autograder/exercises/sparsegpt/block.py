"""Exercise 4.4: one block: who goes is decided once, then column after column is removed."""

import math

import numpy as np
import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises import counts
from autograder.exercises.sparsegpt import definition, variants
from autograder.exercises.sparsegpt.fixtures import SIZES, clear, hessian, weights
from autograder.inside.case import call


def prune_block(B: Tensor, U: Tensor, sparsity: float) -> tuple[Tensor, Tensor]:
    H = torch.linalg.inv(U.double().T @ U.double())
    result = definition.walk(B, H, B.shape[1], definition.threshold(sparsity))
    return result.pruned.to(B.dtype), result.errors.to(B.dtype)


block = Exercise(
    "sparsegpt.block",
    defines="prune_block",
    title="One block of columns",
    minutes=15,
    difficulty=2,
    hints=(
        "First the mask, once, for the whole block. Then the columns from left to right, with your `remove_from_column`. "
        "The mask does not change any more; the weights do.",
        "Divide B by the diagonal of U, which lies along the columns by itself, and square. The threshold is one number: "
        "of all scores, sorted, the one at index `int(n * sparsity)`; what is *larger* stays. In the loop hand on the "
        "block as the columns before have left it.",
        "`score = (B / U.diagonal()) ** 2`, `threshold = score.flatten().sort().values[int(score.numel() * sparsity)]`, "
        "`keep = score > threshold`. Begin with `pruned = B` and E zero; for each j, `remove_from_column(pruned, U, j, "
        "keep[:, j])` gives the next `pruned`, and column j of E.",
    ),
    reference=prune_block,
    rules=Rules(tolerance=1e-4, exact_zeros=True),
)


def case(
    g: torch.Generator,
    rows: int,
    cols: int,
    sparsity: float,
    make=hessian,
    dtype: torch.dtype = torch.float32,
    size: float | Tensor = 1.0,
    damping: float = 0.02,
    zero: bool = False,
):
    """`size` is that of the weights, or (cols,); with a `zero`, one of them is exactly 0, in the last column."""

    def draw():
        B = weights(g, rows, cols)
        if zero:
            row = int(torch.randint(rows, (), generator=g))
            B[row, 0] *= 1e-3  # goes as well, and moves the other: E is 0 at neither
            B[row, -1] = 0
        return B * (size if isinstance(size, Tensor) else 1), make(g, cols)

    B, H = clear(draw, cols, definition.threshold(sparsity), damping)
    B = B.to(dtype) * (1 if isinstance(size, Tensor) else size)
    return call(B, definition.factor(H, damping).to(dtype), sparsity)


@block.stage(
    "inputs all alike: the smallest weights go, one more than int(n * sparsity)",
    points=1,
    exposes="Where U is a multiple of the identity, all that counts is the size of a weight: everything up to and including the score at "
    "index int(n * sparsity) of the sorted ones goes, rows and columns all together.",
)
def _(g):
    def alike(g, cols):
        return 4 * torch.eye(cols)

    yield case(g, 2, 4, 0.5, alike)
    yield case(g, 5, 7, 0.35, alike)
    yield case(g, 4, 6, 0.0, alike)
    yield case(g, 3, 5, 0.9, alike)
    for sizes, accept in ((SIZES, counts.just_below), (SIZES, counts.in_between), (((301, 2), (270, 3)), counts.in_between)):
        (rows, cols), sparsity = counts.draw(g, sizes, accept)
        yield case(g, rows, cols, sparsity, alike)


@block.stage(
    "inputs of unequal size: the score divides by the square of U's diagonal",
    points=1,
    exposes="Where U is diagonal there is nothing to compensate with yet; a weight's score is W^2 / U_jj^2.",
)
def _(g):
    def uncorrelated(g, cols):
        return torch.diag(10 ** (torch.rand(cols, generator=g) * 1.5))

    yield case(g, 3, 5, 0.5, uncorrelated)
    yield case(g, 7, 9, 0.62, uncorrelated)
    yield case(g, 6, 4, 0.3, uncorrelated)

    loud = torch.tensor([1.0, 1, 1e14, 1])  # an input so strong that the smallest weights count most

    def unequal(g, cols):
        return uncorrelated(g, cols) * loud**2

    yield case(g, 5, 4, 0.4, unequal, size=1 / loud, damping=0.0)


@block.stage(
    "real inputs: what stays makes up for what goes",
    points=2,
    exposes="The mask is chosen once, before anything moves. Then column after column, from left to right: its e comes from weights that "
    "earlier columns have moved, and moves all columns to its right.",
)
def _(g):
    yield case(g, 3, 4, 0.5)
    yield case(g, 11, 8, 0.5)
    yield case(g, 7, 12, 0.73)
    yield case(g, 13, 10, 0.2)
    yield case(g, 5, 9, 0.4, zero=True)
    yield case(g, 2, 131, 0.5)


@block.stage(
    "returns copies in the dtype of B",
    points=1,
    exposes="B and U must not change; both results are (rows, cols), in the dtype of B, and so are the scores.",
    pure=True,
)
def _(g):
    yield case(g, 9, 7, 0.45)
    yield case(g, 8, 8, 0.5, size=1e-15)  # small is not zero
    yield case(g, 6, 9, 0.6, dtype=torch.float64)
    yield case(g, 5, 8, 0.4, dtype=torch.float64, size=1e-60)


def wrong(B, U, sparsity, choose=None, **parts):
    choose = choose or (lambda scores: variants.published(scores, sparsity))
    return variants.prune(B, U, B.shape[1], choose, block_size=B.shape[1], **parts)


@block.misconception(
    "score not squared",
    "Your score divides by U_jj. The first entry of the inverse of H[j:, j:] is U_jj^2, so that is what W^2 is divided by.",
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, score=lambda w, d: w**2 / d)


@block.misconception("|W| / U_jj^2", "You divide |W| by U_jj squared. Both are squared, W^2 / U_jj^2, or neither.")
def _(B, U, sparsity):
    return wrong(B, U, sparsity, score=lambda w, d: w.abs() / d**2)


@block.misconception("magnitude", "You rank |W| alone. How much a removal costs depends on the inputs: divide by U_jj.")
def _(B, U, sparsity):
    return wrong(B, U, sparsity, score=lambda w, d: w**2)


@block.misconception(
    "multiplied",
    "You multiply by U_jj^2. U belongs to the inverse of H: a strong input has a small U_jj, and its weights should stay.",
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, score=lambda w, d: (w * d) ** 2)


@block.misconception(
    "diagonal of the whole inverse",
    "You divide by the diagonal of the full inverse, U^T U. Columns to the left can no longer help: U_jj^2 is the entry for what is left.",
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, diagonal=(U.T @ U).diagonal().sqrt())


@block.misconception("signed", "You rank B / U_jj with its sign, so that the most negative weights go first. Square it.")
def _(B, U, sparsity):
    return wrong(B, U, sparsity, score=lambda w, d: w / d)


@block.misconception(
    "one too few",
    "int(n * sparsity) weights go, as in unit 02. Here the published code's convention is asked for: scores up to and *including* the one "
    "at that index go, which is one more.",
)
def _(B, U, sparsity):
    count = int(B.numel() * sparsity)
    return wrong(B, U, sparsity, lambda s: variants.smallest(s.reshape(1, -1), count).view_as(s))


@block.misconception(
    "counted from 1",
    "int(n * sparsity) weights go, and one at least. The score *at index* int(n * sparsity) goes too; kthvalue counts from 1, so ask it for "
    "the int(n * sparsity) + 1 smallest.",
)
def _(B, U, sparsity):
    count = max(1, int(B.numel() * sparsity))
    return wrong(B, U, sparsity, lambda s: variants.smallest(s.reshape(1, -1), count).view_as(s))


@block.misconception(
    "counted in float32",
    "Your count is now and then one too many: in float32, or with a small number added, 100 * 0.57 is 57 or more; in Python's own numbers it "
    "is a little less. Take int(n * sparsity) of an int and a float.",
)
def _(B, U, sparsity):
    count = min(B.numel(), int(torch.tensor(sparsity) * B.numel()) + 1)
    return wrong(B, U, sparsity, lambda s: variants.smallest(s.reshape(1, -1), count).view_as(s))


@block.misconception(
    "zeros do not count",
    "A weight that is 0 already does not count among those that go. Its score is 0, so it is the first of them.",
)
def _(B, U, sparsity):
    def choose(scores):
        sought = scores.masked_fill(B == 0, math.inf)
        return variants.published(sought, sparsity) & (B != 0)

    return wrong(B, U, sparsity, choose)


@block.misconception(
    "float64 in float32",
    "Your result is right where float32 holds the numbers. B may be float64, with scores far below 1e-38: compute in the dtype of B.",
)
def _(B, U, sparsity):
    pruned, E = wrong(B.float(), U.float(), sparsity)
    return pruned.to(B.dtype), E.to(B.dtype)


@block.misconception("prunes the largest", "The largest scores go. A large score is a large cost: the small ones go.")
def _(B, U, sparsity):
    return wrong(B, U, sparsity, lambda s: variants.published(-s, sparsity))


@block.misconception(
    "row by row", "Every row has a threshold of its own. All weights of the block compete, so rows may lose unequal numbers."
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, lambda s: variants.smallest(s, int(s.shape[1] * sparsity) + 1))


@block.misconception(
    "column by column",
    "Every column has a threshold of its own. All weights of the block compete; columns may lose unequal numbers.",
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, lambda s: variants.smallest(s.T, int(s.shape[0] * sparsity) + 1).T)


@block.misconception(
    "quantile",
    "torch.quantile interpolates between two scores, so that not always int(n * sparsity) + 1 go. Sort, and take the index.",
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, lambda s: s > torch.quantile(s.flatten(), sparsity))


@block.misconception(
    "mask from moving weights",
    "You compare weights that have already moved with the threshold, column by column, so that the number that goes is left to chance. The "
    "mask of a block is chosen once, before its first column.",
)
def _(B, U, sparsity):
    threshold = (B / U.diagonal()).square().flatten().sort().values[int(B.numel() * sparsity)]
    return variants.prune(B, U, 1, lambda s: s > threshold, block_size=B.shape[1])


@block.misconception(
    "no compensation", "The right weights go, and nothing else moves. Removing a weight changes all columns to its right."
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, reach=lambda j, stop: slice(0, 0))


@block.misconception(
    "errors of the dense weights",
    "You take e from the weights as they were at the start. A weight that goes may have moved before: it has taken over from columns to its left.",
)
def _(B, U, sparsity):
    keep = variants.published((B / U.diagonal()) ** 2, sparsity)
    E = (B / U.diagonal()).masked_fill(keep, 0)
    return (B - E @ U).masked_fill(~keep, 0), E


@block.misconception(
    "zeros first",
    "You set the weights to zero before you go through the columns: there is nothing left to compensate for. The zeros come last.",
)
def _(B, U, sparsity):
    keep = variants.published((B / U.diagonal()) ** 2, sparsity)
    return B * keep, torch.zeros_like(B)


@block.misconception(
    "divided by the square in the update",
    "e is w / U_jj. The score divides by the square; the update has the second factor in U[j, j:].",
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, error=lambda w, d: w / d**2)


@block.misconception(
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


@block.misconception(
    "not divided in the update", "e is w / U_jj; you leave out the division, so that the compensation is off by that factor."
)
def _(B, U, sparsity):
    return wrong(B, U, sparsity, error=lambda w, d: w)


@block.misconception(
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


@block.misconception(
    "only nearly zero",
    "The removed weights are not exactly zero: w - (w / d) * d leaves some 1e-9 behind. Write the zeros yourself, as in remove_from_column.",
)
def _(B, U, sparsity):
    pruned, E = wrong(B, U, sparsity)
    return torch.where(E == 0, pruned, 1e-9 * B.abs().max()), E


@block.misconception("only the block", "You return the block alone. Return two things: the pruned block, and E.")
def _(B, U, sparsity):
    return wrong(B, U, sparsity)[0]


@block.misconception("in place", "B itself has changed. Work on B.clone().")
def _(B, U, sparsity):
    pruned, E = wrong(B, U, sparsity)
    B.copy_(pruned)
    return B, E


@block.accepts("the authors' loop")
def _(B, U, sparsity):
    W1 = B.clone()
    Q1, Err1, Losses1 = torch.zeros_like(W1), torch.zeros_like(W1), torch.zeros_like(W1)
    tmp = W1**2 / (torch.diag(U).reshape((1, -1))) ** 2
    thresh = torch.sort(tmp.flatten())[0][int(tmp.numel() * sparsity)]
    mask1 = tmp <= thresh
    for i in range(W1.shape[1]):
        w = W1[:, i]
        d = U[i, i]
        q = w.clone()
        q[mask1[:, i]] = 0
        Q1[:, i] = q
        Losses1[:, i] = (w - q) ** 2 / d**2
        err1 = (w - q) / d
        W1[:, i:] -= err1.unsqueeze(1).matmul(U[i, i:].unsqueeze(0))
        Err1[:, i] = err1
    return Q1, Err1


@block.accepts("each row by a triangular system")
def _(B, U, sparsity):
    V, B64 = U.double(), B.double()
    score = (B64 / V.diagonal()).abs()
    gone = score <= score.flatten().kthvalue(int(score.numel() * sparsity) + 1).values
    E = torch.zeros_like(B64)
    for i, S in enumerate(gone):
        if S.any():  # B[i, S] = (E U)[i, S] with E zero outside S
            E[i, S] = torch.linalg.solve(V[S][:, S].T, B64[i, S])
    return (B64 - E @ V).masked_fill(gone, 0).to(B.dtype), E.to(B.dtype)


@block.accepts("numpy, ranked by index")
def _(B, U, sparsity):
    W, V = B.double().numpy().copy(), U.double().numpy()
    order = np.argsort((W / np.diag(V)) ** 2, axis=None)[: math.floor(W.size * sparsity) + 1]
    gone = np.zeros(W.size, bool)
    gone[order] = True
    gone = gone.reshape(W.shape)
    E = np.zeros_like(W)
    for j in range(W.shape[1]):
        E[:, j] = np.where(gone[:, j], W[:, j] / V[j, j], 0)
        W[:, j:] -= np.outer(E[:, j], V[j, j:])
    W[gone] = 0
    return torch.from_numpy(W).to(B.dtype), torch.from_numpy(E).to(B.dtype)
