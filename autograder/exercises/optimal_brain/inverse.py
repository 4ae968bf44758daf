"""Exercise 3.4: the inverse Hessian, one sample at a time."""

import numpy as np
import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.optimal_brain.fixtures import correlated
from autograder.inside.case import call


def inverse_hessian(g, alpha):
    """By the Woodbury identity in the space of the samples, or directly: not the recursion, and as exact for small alpha."""
    g, (P, d) = g.double(), g.shape
    if d > P:
        inner = torch.linalg.inv(P * alpha * torch.eye(P, dtype=torch.float64) + g @ g.T)
        return (torch.eye(d, dtype=torch.float64) - g.T @ inner @ g) / alpha
    return torch.linalg.inv(g.T @ g / P + alpha * torch.eye(d, dtype=torch.float64))


inverse = Exercise(
    "optimal_brain.inverse_hessian",
    defines="inverse_hessian",
    title="The inverse Hessian, one sample at a time",
    minutes=15,
    difficulty=2,
    hints=(
        "Begin with a matrix whose inverse you know, alpha times the identity, and add one sample after the other. Each "
        "of them changes the inverse by one outer product; no matrix is ever inverted.",
        "For a row g_k the vector `v = Hinv @ g_k` is used twice: the outer product of v with itself is the numerator, "
        "and `P + g_k @ v` the denominator. P is the number of *all* samples, the same in every step. Everything is in "
        "float64, from the first line on.",
        "Start with `torch.eye(d, dtype=torch.float64) / alpha`. Then, for each `g_k` in `g.double()`, subtract "
        "`torch.outer(v, v) / (P + g_k @ v)`.",
    ),
    reference=inverse_hessian,
)


@inverse.stage(
    "inverts the Hessian of one sample",
    points=1,
    exposes="With one sample H is alpha I + g g^T, and one step of the recursion, started at I / alpha, inverts it.",
)
def _(g):
    yield call(correlated(g, 1, 3), 0.5)
    yield call(correlated(g, 1, 5), 0.02)
    yield call(correlated(g, 1, 5), 30.0)
    yield call(correlated(g, 1, 1), 0.3)


@inverse.stage(
    "averages over several samples",
    points=1,
    exposes="H is alpha I plus the *mean* of the outer products, so P stands in the denominator of every step, and each step starts from "
    "the inverse of the step before.",
)
def _(g):
    yield call(correlated(g, 2, 4), 0.1)
    yield call(correlated(g, 23, 6), 0.01)
    yield call(correlated(g, 23, 6), 0.01)
    yield call(correlated(g, 300, 4), 0.5)
    yield call(correlated(g, 3, 130), 2.0)
    yield call(correlated(g, 5, 11) + 0.5, 0.03)  # fewer samples than weights: without alpha there is no inverse


@inverse.stage(
    "stays exact for a small alpha",
    points=1,
    exposes="In float32 the first steps cancel nearly all digits of 1 / alpha: compute in float64, whatever g is, and return float64.",
    pure=True,
)
def _(g):
    yield call(correlated(g, 31, 7).float(), 1e-3)
    yield call(correlated(g, 40, 12).float(), 1e-6)
    yield call(correlated(g, 40, 9), 1e-8)
    yield call(correlated(g, 5, 11).float(), 1e-8)
    yield call(2e-6 * correlated(g, 9, 6), 1e-8)  # small vectors, and not nothing beside alpha
    yield call(10 + 1e-3 * correlated(g, 20, 6), 1e-6)  # float32 has half of the digits of what differs


def recursion(g, alpha, dtype=torch.float64, P=None, sign=-1, start=None, denominator=lambda P, g, v: P + g @ v, outer=None):
    """`inverse_hessian` with its parts exchangeable, for mistakes in one part."""
    P = len(g) if P is None else P
    Hinv = torch.eye(g.shape[1], dtype=dtype) / alpha if start is None else start
    for g_k in g.to(dtype):
        v = Hinv @ g_k
        product = torch.outer(v, v) if outer is None else outer(v, g_k)
        Hinv = Hinv + sign * product / denominator(P, g_k, v)
    return Hinv


@inverse.misconception(
    "P is missing",
    "You have 1 in the denominator instead of P. That inverts alpha I + the *sum* of the outer products: the damping is then P times too "
    "small against the curvature.",
)
def _(g, alpha):
    return recursion(g, alpha, P=1)


@inverse.misconception(
    "counts the samples as they come",
    "The P in your denominator grows from sample to sample. It is the number of all samples in every step.",
)
def _(g, alpha):
    Hinv = torch.eye(g.shape[1], dtype=torch.float64) / alpha
    for k, g_k in enumerate(g.double(), start=1):
        v = Hinv @ g_k
        Hinv = Hinv - torch.outer(v, v) / (k + g_k @ v)
    return Hinv


@inverse.misconception(
    "starts at alpha I",
    "You start from alpha I. That is H before the first sample; its inverse is I / alpha.",
)
def _(g, alpha):
    return recursion(g, alpha, start=torch.eye(g.shape[1], dtype=torch.float64) * alpha)


@inverse.misconception(
    "starts at I", "You start from I, as if alpha were 1. H before the first sample is alpha I, and its inverse I / alpha."
)
def _(g, alpha):
    return recursion(g, alpha, start=torch.eye(g.shape[1], dtype=torch.float64))


@inverse.misconception(
    "plus",
    "You add the outer product. More curvature in H means less in its inverse: subtract.",
)
def _(g, alpha):
    return recursion(g, alpha, sign=1)


@inverse.misconception(
    "denominator without the gradient",
    "Your denominator is P alone. It is P + g^T H^-1 g, with the inverse from the step before.",
)
def _(g, alpha):
    return recursion(g, alpha, denominator=lambda P, g_k, v: P)


@inverse.misconception(
    "squared norm in the denominator",
    "Your denominator is P + g^T g. It is P + g^T H^-1 g, with the inverse from the step before.",
)
def _(g, alpha):
    return recursion(g, alpha, denominator=lambda P, g_k, v: P + g_k @ g_k)


@inverse.misconception(
    "g g^T subtracted",
    "You subtract g g^T. What is subtracted is (H^-1 g)(H^-1 g)^T.",
)
def _(g, alpha):
    return recursion(g, alpha, outer=lambda v, g_k: torch.outer(g_k, g_k))


@inverse.misconception(
    "always from the first inverse",
    "Every step uses the first inverse, I / alpha. A step needs the inverse that the step before has made.",
)
def _(g, alpha):
    Hinv = torch.eye(g.shape[1], dtype=torch.float64) / alpha
    for g_k in g.double():
        v = g_k / alpha
        Hinv = Hinv - torch.outer(v, v) / (len(g) + g_k @ v)
    return Hinv


@inverse.misconception(
    "gradient of the mean",
    "You averaged the gradients first and used the mean. The mean of outer products is not the outer product of the mean, which knows one "
    "direction only.",
)
def _(g, alpha):
    return recursion(g.double().mean(dim=0, keepdim=True), alpha)


@inverse.misconception(
    "centred",
    "You subtracted the mean from the gradients, as for a covariance. The Hessian is the mean of the outer products as they are.",
)
def _(g, alpha):
    return inverse_hessian(g - g.mean(dim=0), alpha)


@inverse.misconception(
    "first sample left out", "The first sample does not take part: does your loop begin at 1, or take g[0] for the start?"
)
def _(g, alpha):
    return recursion(g[1:], alpha, P=len(g))


@inverse.misconception(
    "last sample left out", "The last sample does not take part: range(P - 1), or a loop that returns too early?"
)
def _(g, alpha):
    return recursion(g[:-1], alpha, P=len(g))


@inverse.misconception("returns H", "You return H itself. What OBS needs is its inverse.")
def _(g, alpha):
    return g.double().T @ g.double() / len(g) + alpha * torch.eye(g.shape[1], dtype=torch.float64)


@inverse.misconception(
    "diagonal only",
    "You inverted the diagonal of H. That is OBD once more: what makes OBS is that the weights know of each other.",
)
def _(g, alpha):
    return torch.diag(1 / (g.double().square().mean(dim=0) + alpha))


@inverse.misconception(
    "no damping",
    "alpha is missing: you inverted the mean of the outer products alone, which has no inverse when there are fewer samples than weights.",
)
def _(g, alpha):
    return torch.linalg.pinv(g.double().T @ g.double() / len(g))


@inverse.misconception(
    "damping relative",
    "You scaled alpha by the mean of H's diagonal, as SparseGPT does (unit 04). Here alpha is added as it is.",
)
def _(g, alpha):
    return inverse_hessian(g, alpha * g.double().square().mean())


@inverse.misconception(
    "inverse divided by P",
    "You divided the inverse by P. Of the two terms of H only the sum of outer products has the factor 1/P, alpha I has not.",
)
def _(g, alpha):
    return recursion(g, alpha, P=1) / len(g)


@inverse.misconception(
    "inverse times P",
    "You multiplied the inverse of the summed H by P. Then alpha is divided by P too: only the sum of outer products has the factor 1/P.",
)
def _(g, alpha):
    return recursion(g, alpha, P=1) * len(g)


@inverse.misconception(
    "float32",
    "You compute in the dtype of g. In float32 the steps cancel nearly all digits of 1 / alpha and the result is noise: use g.double().",
)
def _(g, alpha):
    return recursion(g, alpha, dtype=g.dtype)


@inverse.misconception(
    "float64 too late",
    "The result is float64, but it was computed in float32, whose digits were lost by then: convert g before the first step.",
)
def _(g, alpha):
    return recursion(g, alpha, dtype=g.dtype).double()


@inverse.misconception(
    "g in float32",
    "You convert g to float32 before you compute. Where it comes in float64, that rounds away in what its rows differ: g.double().",
)
def _(g, alpha):
    return recursion(g.float(), alpha)


@inverse.misconception(
    "inverse of the Cholesky factor",
    "You return the inverse of the Cholesky factor L of H. H is L L^T, so that its inverse is L^-T L^-1: torch.cholesky_inverse(L).",
)
def _(g, alpha):
    H = g.double().T @ g.double() / len(g) + alpha * torch.eye(g.shape[1], dtype=torch.float64)
    return torch.linalg.inv(torch.linalg.cholesky(H))


@inverse.accepts("the recursion, in place")
def _(g, alpha):
    P, d = g.shape
    Hinv = torch.zeros(d, d, dtype=torch.float64)
    Hinv.fill_diagonal_(1 / alpha)
    for k in range(P):
        v = Hinv @ g[k].double()
        Hinv -= v[:, None] * v[None, :] / (P + g[k].double() @ v)
    return Hinv


@inverse.accepts("as WoodFisher does it, gradients divided by the root of P")
def _(g, alpha):
    Hinv = np.eye(g.shape[1]) / alpha
    for g_k in g.numpy().astype(np.float64) / np.sqrt(len(g)):
        v = Hinv.dot(g_k)
        Hinv -= np.outer(v, v) / (1 + g_k.dot(v))
    return torch.from_numpy(Hinv)


@inverse.accepts("inverted at once")
def _(g, alpha):
    G = g.to(torch.float64)
    return torch.linalg.solve(
        torch.einsum("ki,kj->ij", G, G) / G.shape[0] + alpha * torch.eye(G.shape[1]), torch.eye(G.shape[1]).double()
    )
