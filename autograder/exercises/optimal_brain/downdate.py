"""Exercise 3.6: the inverse without a weight."""

import torch

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.optimal_brain.fixtures import inverse, redraw
from autograder.inside.case import call
from sparsity_edu.weights import optimal_brain

downdate = Exercise(
    "optimal_brain.downdate",
    defines="downdate",
    title="The inverse without a weight",
    minutes=10,
    difficulty=2,
    hints=(
        "It is one step of Gaussian elimination: subtract an outer product of column q and row q, so that both become zero.",
        "What to subtract is the outer product of `Hinv[:, q]` and `Hinv[q, :]`, over `Hinv[q, q]`. The difference is a "
        "new matrix, and the old one stays as it is. Rounding may leave 1e-17 where a 0 belongs.",
        "Subtract `torch.outer(Hinv[:, q], Hinv[q, :]) / Hinv[q, q]`, then write exact zeros into row q and column q of "
        "the result.",
    ),
    reference=optimal_brain.downdate,
    rules=Rules(tolerance=1e-8, exact_zeros=True),
)


@downdate.stage(
    "gives the inverse of the remaining Hessian",
    points=1,
    exposes="What is left, without row and column q, is the inverse of H without row and column q: all entries change.",
)
def _(g):
    for d, q, pivot in (
        (3, 1, 4),
        (8, 5, 4),
        (8, 5, 4),
        (13, 0, 2),
        (6, 5, 4),
        (140, 131, 4),
        (7, 2, 2.0**-90),
        (5, 0, 2.0**90),
    ):
        Hinv = inverse(g, d)
        Hinv /= Hinv[q, q].clone()  # a pivot that is a power of 2: row and column q come out as exact zeros
        yield call(Hinv * pivot, q)
    yield call(torch.rand(1, 1, generator=g).double() + 1, 0)


def leaves_rest(Hinv, q: int) -> bool:
    """Whether rounding leaves something in row or column q, in whatever order one computes; in both in the usual one."""
    column, row, pivot = Hinv[:, q], Hinv[q], Hinv[q, q]
    usual, root = torch.outer(column, row) / pivot, row / pivot.sqrt()
    rests = [Hinv - usual, Hinv - torch.outer(root, root), Hinv - torch.outer(column / pivot, row)]
    return all(bool(rest[:, q].any()) for rest in rests) and bool(rests[0][q].any())


@downdate.stage(
    "works again and again, and on a copy",
    points=1,
    exposes="Weights removed earlier keep their zeros, row and column q are exactly 0 (not 1e-17), and Hinv itself does not change.",
    pure=True,
)
def _(g):
    for d, gone, q in ((9, (2, 7), 4), (12, (0, 1, 5, 6, 11), 10), (10, (3,), 9)):
        yield call(redraw(lambda d=d, gone=gone: inverse(g, d, gone=gone), lambda Hinv, q=q: leaves_rest(Hinv, q)), q)
    yield call(inverse(g, 5, gone=(0, 2, 3)), 1)


def cleared(Hinv, q):
    Hinv = Hinv.clone()
    Hinv[q, :] = Hinv[:, q] = 0
    return Hinv


@downdate.misconception(
    "only crossed out",
    "You set row and column q to zero, no more. That is the inverse of a Hessian whose weight q may still move: subtract the outer "
    "product first.",
)
def _(Hinv, q):
    return cleared(Hinv, q)


@downdate.misconception(
    "unchanged", "You returned H^-1 as it was: the weight that is gone can still move, and be chosen again."
)
def _(Hinv, q):
    return Hinv.clone()


@downdate.misconception(
    "not divided by the pivot",
    "The outer product has to be divided by [H^-1]_qq, so that row and column q come out as zero by themselves.",
)
def _(Hinv, q):
    return cleared(Hinv - torch.outer(Hinv[:, q], Hinv[q]), q)


@downdate.misconception(
    "divided by the square",
    "You divided by the square of [H^-1]_qq. Once is right: row and column q then come out as zero by themselves.",
)
def _(Hinv, q):
    return cleared(Hinv - torch.outer(Hinv[:, q], Hinv[q]) / Hinv[q, q] ** 2, q)


@downdate.misconception(
    "plus", "You add the outer product. The inverse shrinks when a weight goes: fewer can make up for others."
)
def _(Hinv, q):
    return cleared(Hinv + torch.outer(Hinv[:, q], Hinv[q]) / Hinv[q, q], q)


@downdate.misconception(
    "only the diagonal",
    "You updated the diagonal only. The saliencies are then right, but the weights move along the old columns.",
)
def _(Hinv, q):
    return cleared(Hinv - torch.diag(Hinv[:, q] ** 2 / Hinv[q, q]), q)


@downdate.misconception(
    "own pivots",
    "You divided each row by its own diagonal entry. All are divided by the same number, [H^-1]_qq.",
)
def _(Hinv, q):
    return cleared(Hinv - (torch.outer(Hinv[:, q], Hinv[q]) / Hinv.diagonal()[:, None]).nan_to_num(), q)


@downdate.misconception(
    "only one direction",
    "You only subtract a multiple of column q from each column once and leave the lower triangle: the result must be symmetric.",
)
def _(Hinv, q):
    upper = cleared(Hinv - torch.outer(Hinv[:, q], Hinv[q]) / Hinv[q, q], q).triu()
    return upper + Hinv.tril(-1)


@downdate.misconception(
    "smaller matrix",
    "You removed row and column q from the matrix. It keeps its shape, with zeros there, so that positions keep their meaning.",
)
def _(Hinv, q):
    here = [i for i in range(len(Hinv)) if i != q]
    return optimal_brain.downdate(Hinv, q)[here][:, here]


@downdate.misconception(
    "one on the diagonal",
    "You wrote a 1 on the diagonal at q, as one does to keep a matrix invertible. Here zeros say that the weight is gone.",
)
def _(Hinv, q):
    Hinv = optimal_brain.downdate(Hinv, q)
    Hinv[q, q] = 1
    return Hinv


@downdate.misconception(
    "infinity on the diagonal",
    "You wrote infinity on the diagonal at q, so that the weight is not chosen again. The saliency is w^2 *divided* by it; zeros say that "
    "the weight is gone.",
)
def _(Hinv, q):
    Hinv = optimal_brain.downdate(Hinv, q)
    Hinv[q, q] = torch.inf
    return Hinv


@downdate.misconception("row only", "Row q is zero, column q is not quite: rounding leaves 1e-17 there. Write zeros into both.")
def _(Hinv, q):
    Hinv = optimal_brain.downdate(Hinv, q)
    Hinv[:, q] = Hinv.diagonal() * 1e-17
    Hinv[q, :] = 0
    return Hinv


@downdate.misconception(
    "not exactly zero",
    "Row and column q are zero up to rounding only. The next step divides by what is left there: write zeros into both.",
)
def _(Hinv, q):
    Hinv = optimal_brain.downdate(Hinv, q)
    Hinv[:, q] = Hinv[q, :] = 1e-17
    return Hinv


@downdate.misconception(
    "in place",
    "You changed the matrix that you were given. Whoever called you may need it: `Hinv = Hinv - ...` makes a copy, `Hinv -= ...` does not.",
)
def _(Hinv, q):
    return Hinv.copy_(optimal_brain.downdate(Hinv, q))


@downdate.misconception(
    "the Hessian crossed out",
    "You treated the argument as H: crossed out row and column, and inverted. It is the inverse already.",
)
def _(Hinv, q):
    here = torch.tensor([i for i in range(len(Hinv)) if i != q and Hinv[i, i] != 0], dtype=torch.long)
    result = torch.zeros_like(Hinv)
    result[here[:, None], here] = torch.linalg.inv(Hinv[here[:, None], here])
    return result


@downdate.misconception(
    "epsilon in the denominator",
    "You add a small number to [H^-1]_qq, which is large where the inverse itself is small. It is never 0: q is not gone yet.",
)
def _(Hinv, q):
    return cleared(Hinv - torch.outer(Hinv[:, q], Hinv[q]) / (Hinv[q, q] + 1e-12), q)


@downdate.misconception(
    "small taken for zero",
    "You clear whatever is small, to be rid of what rounding leaves. How small an entry is depends on the units of the loss: clear row and "
    "column q, and nothing else.",
)
def _(Hinv, q):
    left = optimal_brain.downdate(Hinv, q)
    return left.masked_fill(left.abs() < 1e-12, 0)


# wrong formulas as they come, without zeros written into row and column q
@downdate.misconception(
    "not divided by the pivot, nothing written",
    "The outer product has to be divided by [H^-1]_qq: look at row and column q of your result, which should come out as 0.",
)
def _(Hinv, q):
    return Hinv - torch.outer(Hinv[:, q], Hinv[q])


@downdate.misconception(
    "divided by the square, nothing written",
    "You divided by the square of [H^-1]_qq: look at row and column q of your result, which should come out as 0.",
)
def _(Hinv, q):
    return Hinv - torch.outer(Hinv[:, q], Hinv[q]) / Hinv[q, q] ** 2


@downdate.misconception(
    "plus, nothing written",
    "You add the outer product: row and column q of your result have doubled, where they should come out as 0.",
)
def _(Hinv, q):
    return Hinv + torch.outer(Hinv[:, q], Hinv[q]) / Hinv[q, q]


@downdate.accepts("inverted anew")
def _(Hinv, q):
    before = Hinv.diagonal() != 0
    positions = before.nonzero().flatten()
    H = torch.linalg.inv(Hinv[positions][:, positions])
    stay = positions != q
    result = torch.zeros_like(Hinv)
    left = positions[stay]
    result[left[:, None], left] = torch.linalg.inv(H[stay][:, stay])
    return result


@downdate.accepts("as in the official Optimal Brain Compression")
def _(Hinv, q):
    row = Hinv[q, :].clone()
    row /= torch.sqrt(row[q])
    Hinv = Hinv - row.unsqueeze(1) @ row.unsqueeze(0)
    Hinv[q] = 0
    Hinv.T[q] = 0
    return Hinv


@downdate.accepts("loops")
def _(Hinv, q):
    H, d = Hinv.numpy(), len(Hinv)
    return torch.tensor(
        [[0.0 if q in (i, j) else H[i, j] - H[i, q] * H[q, j] / H[q, q] for j in range(d)] for i in range(d)],
        dtype=torch.float64,
    )
