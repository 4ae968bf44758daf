"""Exercise 4.2: the Cholesky factor that holds the inverse of every column."""

import numpy as np
import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.sparsegpt import definition
from autograder.exercises.sparsegpt.fixtures import hessian, inputs
from autograder.inside.case import call


def inverse_factor(H: Tensor, damping: float = 0.01) -> Tensor:
    return definition.factor(H, damping).to(H.dtype)


factor = Exercise(
    "sparsegpt.factor",
    defines="inverse_factor",
    title="All inverses in one factor",
    minutes=15,
    difficulty=2,
    hints=(
        "Follow the three steps of the docstring in their order, on a copy of H: ones for dead inputs, then damping, then "
        "the factor.",
        "`H.diagonal()` is a view, so writing to it changes H (hence the copy). Take the mean *after* the ones are in. "
        "For the factor invert first, then factorise the inverse. (The other way round, the inverse of H's factor, gives "
        "the same product but is lower triangular.)",
        "`diagonal[diagonal == 0] = 1`, `diagonal += damping * diagonal.mean()`. "
        "`torch.cholesky_inverse(torch.linalg.cholesky(H))` is the inverse, and `torch.linalg.cholesky(..., upper=True)` "
        "of that is U.",
    ),
    reference=inverse_factor,
    rules=Rules(tolerance=1e-4),
)


@factor.stage(
    "U is upper triangular, and U^T U is the inverse of H",
    points=1,
    exposes="Without damping and dead inputs: U^T @ U @ H is the identity, and U has zeros below its (positive) diagonal.",
)
def _(g):
    yield call(hessian(g, 3) + 0.1 * torch.eye(3), damping=0.0)
    yield call(hessian(g, 7, size=4.0) + 0.2 * torch.eye(7), damping=0.0)
    yield call(hessian(g, 5, size=1e-25) + 1e-26 * torch.eye(5), damping=0.0)
    yield call(hessian(g, 67) + 0.1 * torch.eye(67), damping=0.0)


@factor.stage(
    "damping is a fraction of the mean of the diagonal",
    points=1,
    exposes="damping * mean(diag(H)) is added to every entry of the diagonal, and to nothing else; 0.01 by default.",
)
def _(g):
    yield call(hessian(g, 6, size=50.0), damping=0.3)
    yield call(hessian(g, 9, size=0.02), damping=0.1)
    yield call(hessian(g, 5, size=8.0), 0.02)
    yield call(hessian(g, 6), 1.5)
    yield call(hessian(g, 8))


@factor.stage(
    "a dead input gets a 1, before the mean is taken",
    points=1,
    exposes="Where H[j, j] is exactly 0, it becomes 1; only then is the mean of the diagonal taken. A small H[j, j] is not dead.",
)
def _(g):
    yield call(hessian(g, 4, dead=(2,)), damping=0.2)
    yield call(hessian(g, 9, dead=(0, 5, 6), size=20.0), damping=0.05)
    yield call(hessian(g, 8, dead=(1, 7), size=0.03), damping=0.1)
    faint = torch.ones(6)
    faint[3] = 1e-13
    yield call(hessian(g, 6) * faint * faint[:, None], damping=0.02)
    yield call(hessian(g, 5, dead=(1,)) + 0.1 * torch.diag(torch.arange(5) != 1), damping=0.0)


@factor.stage(
    "keeps the dtype, and H as it is",
    points=1,
    exposes="H is used again, and must not change; U has its dtype, and where that is float64, its digits too.",
    pure=True,
)
def _(g):
    yield call(hessian(g, 7, dead=(4,)), damping=0.1)
    yield call(hessian(g, 5, dead=(0,)).double(), damping=0.03)
    X = inputs(g, 20, 6).double()
    X /= X.norm(dim=0)
    X[:, 4] = X[:, 1] + 1e-3 * X[:, 4]  # float32 cannot tell them apart, float64 can
    yield call(X.T @ X, damping=0.0)


def damped(H, damping=0.01, dead=1.0, mean=lambda H: H.diagonal().mean(), everywhere=False):
    """A damped copy, with its parts exchangeable."""
    H = H.clone()
    H.diagonal()[H.diagonal() == 0] = dead
    extra = damping * mean(H)
    return H + extra if everywhere else H + torch.diag(torch.zeros(len(H), dtype=H.dtype) + extra)


def upper(H):
    """U with U^T U = H^-1."""
    return torch.linalg.cholesky(torch.linalg.inv(H.double()), upper=True).to(H.dtype)


@factor.misconception(
    "lower factor",
    "You return a lower triangular L, with L L^T the inverse: its rows hold the columns to the left. Take U = L^T, or upper=True.",
)
def _(H, damping=0.01):
    return upper(damped(H, damping)).T


@factor.misconception("factor of H", "That is the Cholesky factor of H. You need the one of its inverse.")
def _(H, damping=0.01):
    return torch.linalg.cholesky(damped(H, damping), upper=True)


@factor.misconception(
    "inverse of the factor of H",
    "You inverted the factor of H: with H = L L^T that gives an upper matrix V = L^-T with V V^T = H^-1, the wrong way round. U^T U is "
    "asked for: factor the inverse.",
)
def _(H, damping=0.01):
    return torch.linalg.inv(torch.linalg.cholesky(damped(H, damping))).T


@factor.misconception(
    "the inverse itself", "You return the inverse of H. Its rows serve a single column each; return its upper Cholesky factor."
)
def _(H, damping=0.01):
    return torch.linalg.inv(damped(H, damping))


@factor.misconception("no damping", "The diagonal is not damped: add damping * mean(diag(H)).")
def _(H, damping=0.01):
    return upper(damped(H, 0.0))


@factor.misconception(
    "absolute damping",
    "You add `damping` itself. It is a fraction of the mean of H's diagonal, so that the scale of H plays no role.",
)
def _(H, damping=0.01):
    return upper(damped(H, damping, mean=lambda H: 1.0))


@factor.misconception("fraction of the largest", "Damping is a fraction of the mean of the diagonal, not of its maximum.")
def _(H, damping=0.01):
    return upper(damped(H, damping, mean=lambda H: H.diagonal().max()))


@factor.misconception("fraction of the median", "Damping is a fraction of the mean of the diagonal, not of its median.")
def _(H, damping=0.01):
    return upper(damped(H, damping, mean=lambda H: H.diagonal().median()))


@factor.misconception(
    "mean of the whole matrix", "You took the mean of all of H. The mean of its diagonal is meant: H.diagonal().mean()."
)
def _(H, damping=0.01):
    return upper(damped(H, damping, mean=lambda H: H.mean().abs()))


@factor.misconception(
    "sum of the diagonal", "You take the trace. The mean of the diagonal is meant, the trace divided by the number of columns."
)
def _(H, damping=0.01):
    return upper(damped(H, damping, mean=lambda H: H.trace()))


@factor.misconception(
    "each by its own",
    "You add to each diagonal entry a fraction of itself (1 + damping times it). All get the same, a fraction of the mean: small entries "
    "need it most.",
)
def _(H, damping=0.01):
    return upper(damped(H, damping, mean=lambda H: H.diagonal()))


@factor.misconception(
    "added everywhere",
    "You add the damping to every entry of H. It belongs on the diagonal: H.diagonal() is a view that you may write to.",
)
def _(H, damping=0.01):
    return upper(damped(H, damping, everywhere=True))


@factor.misconception(
    "dead inputs ignored",
    "A dead input keeps the 0 on its diagonal, plus the damping. Write a 1 there first, as the authors' code does: without damping H could "
    "not be inverted at all.",
)
def _(H, damping=0.01):
    return upper(damped(H, damping, dead=0.0))


@factor.misconception(
    "damping first",
    "You damp before you look for dead inputs: none is found then, or the mean misses their ones. First the ones, then the mean.",
)
def _(H, damping=0.01):
    extra = damping * H.diagonal().mean()
    return upper(damped(H, 0.0) + extra * torch.eye(len(H), dtype=H.dtype))


@factor.misconception(
    "mean over living inputs", "Your mean leaves the dead inputs out. Their ones count, as in the authors' code."
)
def _(H, damping=0.01):
    living = H.diagonal()[H.diagonal() > 0].mean()
    return upper(damped(H, damping, mean=lambda _: living))


@factor.misconception(
    "faint taken for dead", "You take a small H[j, j] for dead. Only an input that was always 0 is: test == 0."
)
def _(H, damping=0.01):
    H = H.clone()
    H.diagonal()[H.diagonal() < 1e-5] = 1
    return upper(damped(H, damping))


@factor.misconception(
    "in place", "H itself has changed: `H.diagonal()` is a view, and `H = H` makes no copy. Work on H.clone()."
)
def _(H, damping=0.01):
    H.copy_(damped(H, damping))
    return upper(H)


@factor.misconception("always float64", "You return float64 whatever comes in. Compute as you like, and return the dtype of H.")
def _(H, damping=0.01):
    return upper(damped(H.double(), damping))


@factor.misconception("always float32", "You return float32 whatever comes in. Return the dtype of H.")
def _(H, damping=0.01):
    return upper(damped(H.float(), damping))


@factor.accepts("the authors' lines")
def _(H, damping=0.01):
    H = H.clone()
    dead = torch.diag(H) == 0
    H[dead, dead] = 1
    damp = damping * torch.mean(torch.diag(H))
    diag = torch.arange(H.shape[0])
    H[diag, diag] += damp
    H = torch.linalg.cholesky(H)
    H = torch.cholesky_inverse(H)
    return torch.linalg.cholesky(H, upper=True)


@factor.accepts("one factorisation, in reverse order")
def _(H, damping=0.01):
    H = damped(H, damping).flip(0, 1)  # H = R R^T with R upper: the factor of the flipped H, flipped back
    return torch.linalg.inv(torch.linalg.cholesky(H).flip(0, 1))


@factor.accepts("Gaussian elimination of the inverse, in numpy")
def _(H, damping=0.01):
    A = H.double().numpy().copy()
    dead = np.flatnonzero(np.diag(A) == 0)
    A[dead, dead] = 1
    rest = np.linalg.inv(A + damping * np.mean(np.diag(A)) * np.eye(len(A)))
    U = np.zeros_like(rest)
    for j in range(len(A)):
        U[j, j:] = rest[0] / np.sqrt(rest[0, 0])
        rest = rest[1:, 1:] - np.outer(rest[1:, 0], rest[0, 1:]) / rest[0, 0]
    return torch.from_numpy(U).to(H.dtype)
