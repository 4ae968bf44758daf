"""Exercise 4.3: remove weights of one column, and let the columns to its right make up for them."""

import numpy as np
import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.sparsegpt import definition
from autograder.exercises.sparsegpt.fixtures import hessian, triangular, weights
from autograder.inside.case import call


def remove_from_column(W: Tensor, U: Tensor, j: int, keep: Tensor) -> tuple[Tensor, Tensor]:
    rest = U.double()[j:, j:]
    first = (rest.T @ rest)[0]  # of the inverse of H[j:, j:]
    gone = W.double()[:, j].masked_fill(keep, 0)
    changed = W.double().clone()
    changed[:, j:] -= torch.outer(gone / first[0], first)
    changed[:, j] = W[:, j].masked_fill(~keep, 0)
    return changed.to(W.dtype), (gone / first[0].sqrt()).to(W.dtype)


column = Exercise(
    "sparsegpt.column",
    defines="remove_from_column",
    title="Remove, and make up for it",
    minutes=10,
    difficulty=1,
    hints=(
        "In a row that loses its weight everything from column j on moves, by a multiple of row j of U. In a row that "
        "keeps it the multiple is 0. So one outer product moves all rows.",
        "The multiple e is `W[:, j] / U[j, j]`, and 0 where `keep` is True. Subtract the outer product of e and `U[j, "
        "j:]` from columns j and up, on a clone. Column j is then zero up to rounding only: write it anew, from W and "
        "`keep`.",
        "`e = (W[:, j] / U[j, j]).masked_fill(keep, 0)`, `changed[:, j:] -= torch.outer(e, U[j, j:])`, and column j of "
        "`changed` is `W[:, j].masked_fill(~keep, 0)`.",
    ),
    reference=remove_from_column,
    rules=Rules(tolerance=1e-5, exact_zeros=True),
)


def case(
    g: torch.Generator,
    rows: int,
    cols: int,
    j: int,
    kept: float,
    dtype: torch.dtype = torch.float32,
    size: float = 1.0,
    strength: float = 1.0,
    zeros: float = 0.0,
):
    """One column of a matrix, of which about a share is kept, but neither none nor all (unless it is 0 or 1)."""
    keep = torch.randperm(rows, generator=g) < round(kept * rows)
    W = size * weights(g, rows, cols).to(dtype) * (torch.rand(rows, cols, generator=g) >= zeros)
    H = hessian(g, cols, size=strength)
    return call(W, definition.factor(H, 0.02).to(dtype), j, keep)


@column.stage(
    "the first column goes, the others make up for it",
    points=1,
    exposes="With e = W[:, 0] / U[0, 0], every row changes by -e_i * U[0, :]: column 0 becomes zero, exactly, the others compensate.",
)
def _(g):
    yield case(g, 2, 3, 0, kept=0)
    yield case(g, 9, 6, 0, kept=0)
    yield case(g, 4, 5, 0, kept=0, strength=1e20)


@column.stage(
    "any column: those to its left do not move",
    points=1,
    exposes="Row j of U, from the diagonal on, says how the columns to the right move. What is left of j is finished.",
)
def _(g):
    yield case(g, 3, 4, 1, kept=0)
    yield case(g, 8, 7, 4, kept=0)
    yield case(g, 5, 6, 5, kept=0)  # nobody to the right is left to compensate
    yield call(weights(g, 2, 150), triangular(g, 150), 3, torch.zeros(2, dtype=torch.bool))


@column.stage(
    "only the rows that lose their weight",
    points=1,
    exposes="keep is True where the weight stays: such a row does not change at all, and its e is 0. In the others a weight that is 0 "
    "already moves like any other.",
)
def _(g):
    yield case(g, 4, 3, 1, kept=0.5)
    yield case(g, 11, 6, 2, kept=0.3)
    yield case(g, 7, 5, 3, kept=0.8)
    yield case(g, 6, 4, 0, kept=1)
    yield case(g, 9, 7, 2, kept=0.5, size=1e-25)  # small is not zero
    yield case(g, 8, 9, 4, kept=0.5, zeros=0.4)
    yield case(g, 300, 3, 1, kept=0.5)


@column.stage(
    "returns copies in the dtype of W",
    points=1,
    exposes="W, U and keep must not change; the results have the dtype of W, and are computed in it.",
    pure=True,
)
def _(g):
    yield case(g, 6, 8, 3, kept=0.5)
    yield case(g, 7, 5, 1, kept=0.4, dtype=torch.float64)
    yield case(g, 5, 6, 2, kept=0.4, dtype=torch.float64, size=1e-60)


def remove(W, U, j, keep, error=lambda w, d: w / d, row=lambda U, j: U[j, j:], sign=-1, exact=True, masked=True, start=None):
    """`remove_from_column` with its parts exchangeable, for mistakes in one part."""
    e = error(W[:, j], U[j, j])
    if masked:
        e = e.masked_fill(keep, 0)
    changed = W.clone()
    changed[:, j if start is None else start :] += sign * torch.outer(e, row(U, j))
    if exact:
        changed[:, j] = W[:, j] * keep
    return changed, e


@column.misconception(
    "divided by the square",
    "Your e is w / U_jj^2. The score divides by the square, the update does not: row j of U already carries one factor U_jj, and the other "
    "is in e.",
)
def _(W, U, j, keep):
    return remove(W, U, j, keep, error=lambda w, d: w / d**2)


@column.misconception(
    "not divided",
    "Your e is the weight itself. With e = w / U_jj the update e * U[j, j] takes off exactly w; without, too much or too little.",
)
def _(W, U, j, keep):
    return remove(W, U, j, keep, error=lambda w, d: w)


@column.misconception(
    "returns the weight",
    "The matrix is right, but your second result is the weight that went. Return e, the weight divided by U[j, j].",
)
def _(W, U, j, keep):
    return remove(W, U, j, keep)[0], W[:, j].masked_fill(keep, 0)


@column.misconception(
    "returns the cost",
    "The matrix is right, but you return e squared, the cost. e itself is needed to bring later columns up to date.",
)
def _(W, U, j, keep):
    changed, e = remove(W, U, j, keep)
    return changed, e**2


@column.misconception("wrong sign", "The other columns move the wrong way: subtract e * U[j, j:].")
def _(W, U, j, keep):
    return remove(W, U, j, keep, sign=1)


@column.misconception("no compensation", "Column j is zeroed and nothing else moves. That is what magnitude pruning does.")
def _(W, U, j, keep):
    return remove(W, U, j, keep, sign=0)


@column.misconception(
    "column of U",
    "You used column j of U, which is zero below the diagonal and belongs to the columns left of j. Take row j: U[j, j:].",
)
def _(W, U, j, keep):
    return remove(W, U, j, keep, row=lambda U, j: U[:, j], start=0)


@column.misconception(
    "the whole inverse",
    "You used row j of the full inverse, U^T U, as OBS does: it moves the columns left of j too, which are finished, some of them pruned. The "
    "inverse of H[j:, j:] is needed, and row j of U holds it.",
)
def _(W, U, j, keep):
    inverse = U.T @ U
    changed = W - torch.outer(W[:, j].masked_fill(keep, 0) / inverse[j, j], inverse[j])
    changed[:, j] = W[:, j] * keep
    return changed, W[:, j].masked_fill(keep, 0) / inverse[j, j].sqrt()


@column.misconception(
    "keep ignored", "All rows are changed. Where keep is True the weight stays, and with it the whole row: e is 0 there."
)
def _(W, U, j, keep):
    return remove(W, U, j, torch.zeros_like(keep))


@column.misconception("keep inverted", "You remove where keep is True. True = kept.")
def _(W, U, j, keep):
    return remove(W, U, j, ~keep)


@column.misconception(
    "kept rows compensate too",
    "The kept weights stay, but the columns to the right move in all rows: e must be 0 where the weight stays.",
)
def _(W, U, j, keep):
    return remove(W, U, j, keep, masked=False)


@column.misconception(
    "e where the weight stays", "The matrix is right, but e is not 0 where the weight stays. Nothing was removed there."
)
def _(W, U, j, keep):
    return remove(W, U, j, keep)[0], W[:, j] / U[j, j]


@column.misconception(
    "only nearly zero",
    "The removed weights are not exactly zero: w - (w / d) * d leaves some 1e-9 behind. Write the zeros yourself.",
)
def _(W, U, j, keep):
    nearly = torch.full_like(W[:, j], 1e-9) * W[:, j].abs().max()
    changed, e = remove(W, U, j, keep)
    changed[:, j] = torch.where(keep, W[:, j], nearly)
    return changed, e


@column.misconception(
    "small taken for zero",
    "You set everything small to zero, or round. Small weights that stay are lost: write zeros into column j, where keep is False, and nowhere "
    "else.",
)
def _(W, U, j, keep):
    changed, e = remove(W, U, j, keep)
    return changed.masked_fill(changed.abs() < 1e-5, 0), e


@column.misconception(
    "zeros stay zero",
    "Weights that were 0 before stay 0: you take them for removed. In a row that loses a weight they move like the others.",
)
def _(W, U, j, keep):
    changed, e = remove(W, U, j, keep)
    return changed.masked_fill(W == 0, 0), e


@column.misconception(
    "one column late", "Your update begins at column j + 1 but with U[j, j:]: every column gets its neighbour's share."
)
def _(W, U, j, keep):
    return remove(W, U, j, keep, row=lambda U, j: U[j, j:-1], start=j + 1)


@column.misconception(
    "next column only", "Only column j + 1 makes up for the loss. All columns to the right do, each by its entry of U[j, j:]."
)
def _(W, U, j, keep):
    return remove(W, U, j, keep, row=lambda U, j: U[j, j : j + 2].new_tensor([*U[j, j : j + 2], *([0] * (len(U) - j - 2))]))


@column.misconception("in place", "W itself has changed. Work on W.clone().")
def _(W, U, j, keep):
    changed, e = remove(W, U, j, keep)
    W.copy_(changed)
    return W, e


@column.misconception("only the matrix", "You return the matrix alone. Return two things: the matrix, and e.")
def _(W, U, j, keep):
    return remove(W, U, j, keep)[0]


@column.accepts("the authors' lines")
def _(W, U, j, keep):
    W1, mask1 = W.clone(), ~keep
    w = W1[:, j]
    d = U[j, j]
    q = w.clone()
    q[mask1] = 0
    err1 = (w - q) / d
    W1[:, j:] -= err1.unsqueeze(1).matmul(U[j, j:].unsqueeze(0))
    W1[:, j] = q
    return W1, err1


@column.accepts("a row at a time")
def _(W, U, j, keep):
    changed, e = W.clone(), torch.zeros_like(W[:, j])
    for i in range(len(W)):
        if not keep[i]:
            e[i] = W[i, j] / U[j, j]
            changed[i, j] = 0
            changed[i, j + 1 :] -= e[i] * U[j, j + 1 :]
    return changed, e


@column.accepts("numpy")
def _(W, U, j, keep):
    W, row = W.numpy(), U[j].numpy()
    e = np.where(keep, 0, W[:, j] / row[j]).astype(W.dtype)
    changed = W - np.outer(e, row)  # row j of U is zero left of j
    changed[~keep.numpy(), j] = 0
    return [torch.from_numpy(changed), torch.from_numpy(e)]


@column.accepts("from the inverse of the rest")
def _(W, U, j, keep):
    rest = U[j:, j:].double()
    inverse = rest.T @ rest
    w = W[:, j].double() * ~keep
    changed = W.double().clone()
    changed[:, j:] -= w[:, None] * inverse[0] / inverse[0, 0]
    changed[:, j].masked_fill_(~keep, 0)
    return changed.to(W.dtype), (w / inverse[0, 0].sqrt()).to(W.dtype)
