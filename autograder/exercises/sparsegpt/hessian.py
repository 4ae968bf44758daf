"""Exercise 4.1: the Hessian that all rows share, as a running average."""

import math

import numpy as np
import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.sparsegpt import definition
from autograder.exercises.sparsegpt.fixtures import inputs
from autograder.exercises.sparsegpt.hessian_mistakes import mistakes
from autograder.inside.case import script


class Hessian:
    def __init__(self, cols: int):
        self.batches: list[Tensor] = []

    def add(self, X: Tensor) -> None:
        self.batches.append(X)

    def value(self) -> Tensor:
        return definition.hessian(self.batches).float()


hessian = Exercise(
    "sparsegpt.hessian",
    defines="Hessian",
    title="One Hessian for all rows",
    minutes=15,
    difficulty=1,
    hints=(
        "Keep two things: the average so far, and the number of sequences in it. A batch of b sequences changes what the "
        "sum is divided by, from n to n + b.",
        "An average over n becomes its part of one over n + b by the factor n / (n + b), and the new tokens come in with "
        "2 / (n + b). All tokens go into one sum, but n counts *sequences*: an input of two dimensions is one sequence, "
        "whatever its length.",
        "`if X.ndim == 2: X = X[None]`, and `x = X.float().flatten(0, 1)` is (all tokens, cols). The new H is `H * (n / "
        "(n + b)) + 2 / (n + b) * x.T @ x` with `b = len(X)`; then count. Make a new tensor: somebody may still hold what "
        "`value` gave before.",
    ),
    reference=Hessian,
    rules=Rules(exact_zeros=True),
    misconceptions=mistakes,
)


def batches(g: torch.Generator, cols: int, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[tuple]:
    """("add", X) for each (sequences, tokens) or (tokens,), each batch twice as large as the one before."""
    mixed = [inputs(g, *shape, cols) * 2.0**i for i, shape in enumerate(shapes)]
    return [("add", X.to(dtype)) for X in mixed]


@hessian.stage(
    "one sequence: twice the sum of x x^T over its tokens",
    points=1,
    exposes="After one sequence, value() is 2 * X^T X: a (cols, cols) matrix that sums over the tokens.",
)
def _(g):
    yield script(3, calls=[*batches(g, 3, (1, 4)), ("value",)])
    yield script(7, calls=[*batches(g, 7, (1, 5)), ("value",)])  # fewer tokens than columns
    yield script(2, calls=[*batches(g, 2, (1, 2100)), ("value",)])
    yield script(140, calls=[*batches(g, 140, (1, 3)), ("value",)])


@hessian.stage(
    "n counts sequences, not tokens",
    points=1,
    exposes="(3, 5, cols) are 3 sequences: divide the sum by 3. (5, cols) is one sequence of 5 tokens.",
)
def _(g):
    yield script(4, calls=[*batches(g, 4, (3, 5)), ("value",)])
    yield script(6, calls=[*batches(g, 6, (11,)), ("value",)])
    yield script(2, calls=[*batches(g, 2, (300, 1)), ("value",)])


@hessian.stage(
    "a running average over batches of unequal size",
    points=2,
    exposes="After several add() the result is that of all sequences together, each counting the same, whatever batch it came in; and the "
    "inputs stay as they were.",
    pure=True,
)
def _(g):
    yield script(5, calls=[*batches(g, 5, (2, 7), (1, 7), (3, 7)), ("value",)])
    yield script(4, calls=[*batches(g, 4, (1, 9), (4, 3)), ("value",), *batches(g, 4, (6,), (2, 5)), ("value",), ("value",)])
    yield script(3, calls=[*batches(g, 3, (1, 4), (2, 3), (5,), (1, 6), (3, 2), (2, 4), (1, 3)), ("value",)])


@hessian.stage(
    "float32 whatever the inputs are",
    points=1,
    exposes="Inputs may be float16, in which a sum of squares overflows or loses digits, or float64: convert to float32 first. They may be "
    "faint or huge, and those of a dead feature give zeros: nothing is rounded, added or cut off.",
)
def _(g):
    X = inputs(g, 2, 40, 6)
    yield script(6, calls=[("add", (X * 100).half()), ("add", X.half()), ("value",)])
    yield script(6, calls=[*batches(g, 6, (2, 8), (1, 8), dtype=torch.float64), ("value",)])
    for dtype in (torch.float16, torch.float64):
        yield script(5, calls=[*batches(g, 5, (7,), (2, 4), (6,), dtype=dtype), ("value",)])
    for size in (1e-9, 1e9):
        yield script(4, calls=[("add", size * inputs(g, 2, 6, 4, dead=(1,))), ("value",)])


@hessian.accepts("the authors' add_batch")
class _:
    def __init__(self, cols):
        self.columns = cols
        self.H = torch.zeros((self.columns, self.columns))
        self.nsamples = 0

    def add(self, inp):
        if len(inp.shape) == 2:
            inp = inp.unsqueeze(0)
        tmp = inp.shape[0]
        if len(inp.shape) == 3:
            inp = inp.reshape((-1, inp.shape[-1]))
        inp = inp.t()
        self.H *= self.nsamples / (self.nsamples + tmp)
        self.nsamples += tmp
        inp = math.sqrt(2 / self.nsamples) * inp.float()
        self.H += inp.matmul(inp.t())

    def value(self):
        return self.H.clone()


@hessian.accepts("numpy, a sum divided on demand")
class _:
    def __init__(self, cols):
        self.total, self.count = np.zeros((cols, cols)), 0

    def add(self, X):
        self.count += X.shape[0] if X.ndim == 3 else 1
        x = X.double().numpy().reshape(-1, X.shape[-1])
        self.total += np.einsum("ti,tj->ij", x, x)

    def value(self):
        return torch.from_numpy(2 * self.total / self.count).float()


@hessian.accepts("sequence after sequence")
class _:
    def __init__(self, cols):
        self.H, self.n = torch.zeros(cols, cols), 0

    def add(self, X):
        for sequence in X.float().reshape(-1, *X.shape[-2:]):
            new = sum(2 * torch.outer(x, x) for x in sequence)
            self.H = self.H + (new - self.H) / (self.n + 1)
            self.n += 1

    def value(self):
        return self.H.clone()
