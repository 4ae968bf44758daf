"""Exercise 4.4: one block: who goes is decided once, then column after column is removed."""

import math

import numpy as np
import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises import counts
from autograder.exercises.sparsegpt import definition
from autograder.exercises.sparsegpt.block_mistakes import mistakes
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
    misconceptions=mistakes,
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
