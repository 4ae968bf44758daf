"""Exercise 5.2: the score."""

import numpy as np
import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.wanda.fixtures import norms
from autograder.inside.case import call
from sparsity_edu.weights import wanda


def wanda_score(W: Tensor, norm: Tensor) -> Tensor:
    return wanda.score(W, norm)


score = Exercise(
    "wanda.score",
    defines="wanda_score",
    title="The score",
    minutes=5,
    difficulty=1,
    hints=(
        "The norm belongs to an input, and inputs are the columns of W: each column is multiplied by its own norm.",
        "A tensor of shape (cols,) lies along the last dimension of (rows, cols) by itself: no loop and no reshape. "
        "Convert W to float32 *before* you multiply.",
        "It is one line: `W.float()`, its absolute value, times `norm`.",
    ),
    reference=wanda_score,
    rules=Rules(exact_zeros=True),
)


@score.stage(
    "weight's magnitude times the norm of its input",
    points=1,
    exposes="s_ij = |W_ij| * norm_j: column j of W is multiplied by the norm of input j, and the sign goes.",
)
def _(g):
    yield call(torch.randn(2, 3, generator=g), norms(g, 3))
    yield call(torch.randn(5, 8, generator=g) * 0.1, norms(g, 8))


@score.stage(
    "for square matrices and in float32",
    points=1,
    exposes="norm_j goes with column j also where rows and columns are as many; a float16 W gives float32 scores (do not round the norm to "
    "float16); a dead input (norm 0) gives scores of exactly 0, a faint one does not; W and norm stay as they are.",
    pure=True,
)
def _(g):
    yield call(torch.randn(6, 6, generator=g), norms(g, 6))
    yield call(torch.randn(4, 7, generator=g).half(), norms(g, 7) * 1e4)
    yield call(torch.randn(5, 3, generator=g).bfloat16(), norms(g, 3))
    yield call(torch.randn(3, 5, generator=g), norms(g, 5) * torch.tensor([1.0, 0, 1, 1, 0]))  # dead inputs
    yield call(1e-15 * torch.randn(4, 6, generator=g), 1e-8 * norms(g, 6))
    yield call(torch.randn(4, 6, generator=g).bfloat16() * 1e20, norms(g, 6))  # more than float16 holds
    yield call(torch.randn(3, 5, generator=g), norms(g, 5) * torch.tensor([1.0, 1, torch.inf, 1, 1]))
    for rows, cols in ((1, 7), (300, 2), (2, 1100), (5, 1)):
        yield call(torch.randn(rows, cols, generator=g), norms(g, cols))


def mistaken(name: str, says: str, wrong):
    score.misconception(name, says)(wrong)


mistaken(
    "signed",
    "You left the sign of W in. A weight of -3 matters as much as one of 3: the score is |W_ij| * norm_j.",
    lambda W, norm: W.float() * norm,
)
mistaken(
    "along the rows",
    "You gave each row a norm. A row of W is an output; norm_j belongs to input j, that is to column j: `W.abs() * norm`.",
    lambda W, norm: W.float().abs() * norm[:, None],
)
mistaken(
    "norm squared",
    "You multiplied by the square of the norm. |W| norm^2 weighs the input twice: it is neither this score nor its square.",
    lambda W, norm: W.float().abs() * norm**2,
)
mistaken(
    "weight squared",
    "You squared the weight but not the norm. Square both or none; Wanda squares none.",
    lambda W, norm: W.float() ** 2 * norm,
)
mistaken(
    "score squared",
    "You returned the square of the score. That ranks the weights alike, but the score here is |W_ij| * norm_j.",
    lambda W, norm: (W.float() * norm) ** 2,
)
mistaken(
    "root of the norm",
    "You took the root of the norm. `norm` is the root already: InputNorm has taken it.",
    lambda W, norm: W.float().abs() * norm.sqrt(),
)
mistaken("magnitude", "You returned |W|: the inputs are missing. Multiply by norm.", lambda W, norm: W.float().abs())
mistaken("sum", "You added the norm to |W|. It multiplies: |W_ij x_j| = |W_ij| |x_j|.", lambda W, norm: W.float().abs() + norm)
mistaken(
    "divided",
    "You divided by the norm. The larger its input, the more a weight matters.",
    lambda W, norm: W.float().abs() / norm,
)
mistaken(
    "norm normalised",
    "You divided the norm by its sum or its largest entry. That changes no mask, but the score is |W_ij| * norm_j as it is.",
    lambda W, norm: W.float().abs() * (norm / norm.max()),
)
mistaken(
    "row of W normalised",
    "You divided each row of W by its norm. That is another method (and changes nothing within a row).",
    lambda W, norm: W.float().abs() / W.float().norm(dim=1, keepdim=True) * norm,
)
mistaken(
    "per column",
    "You returned one number for each input. Every weight has its own score: (rows, cols).",
    lambda W, norm: W.float().abs().sum(dim=0) * norm,
)
mistaken(
    "product W x",
    "You multiplied matrix and vector. The score is entry by entry: every weight with the norm of its own input, shape (rows, cols).",
    lambda W, norm: W.float().abs() @ norm,
)
mistaken(
    "epsilon",
    "You add a small number to the norm, or raise it to one. Nothing is divided here: an input that was always 0 has norm 0 and score 0.",
    lambda W, norm: W.float().abs() * (norm + 1e-8),
)
mistaken(
    "small taken for zero",
    "You set small scores to 0, or round. They are small beside others only: where all inputs are faint, all scores are.",
    lambda W, norm: (W.float().abs() * norm).masked_fill(W.float().abs() * norm < 1e-8, 0),
)
mistaken(
    "bfloat16 through float16",
    "You bring bfloat16 through float16, which ends at 65504: those weights become infinite. W.float() holds both.",
    lambda W, norm: (W.half() if W.dtype == torch.bfloat16 else W).float().abs() * norm,
)
mistaken(
    "rounded to half precision",
    "You computed in the precision of W. float16 cannot hold a norm above 65504 and rounds the others: compute in float32.",
    lambda W, norm: (W.abs() * norm.to(W.dtype)).float(),
)


@score.accepts("einsum")
def _(W, norm):
    return torch.einsum("rc,c->rc", W.float(), norm).abs()


@score.accepts("the official line")
def _(W, scaler):
    scaler_row = scaler**2
    return torch.abs(W.data) * torch.sqrt(scaler_row.reshape((1, -1)))


@score.accepts("diagonal matrix, numpy")
def _(W, norm):
    return torch.from_numpy(np.abs(W.float().numpy()) @ np.diag(norm.numpy()))
