"""Exercise 4.1: the Hessian that all rows share, as a running average."""

import math

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.sparsegpt import definition
from autograder.exercises.sparsegpt.fixtures import inputs
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
    hint="Keep `H` and `n`. When b sequences come, the old sum over n sequences must become a sum over n + b: multiply `H` by "
    "`n / (n + b)`, then add `2 / (n + b) * x.T @ x` with `x = X.float().reshape(-1, cols)`. A 2-D input is one sequence: `X[None]`.",
    reference=Hessian,
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


@hessian.stage(
    "n counts sequences, not tokens",
    points=1,
    exposes="(3, 5, cols) are 3 sequences: divide the sum by 3. (5, cols) is one sequence of 5 tokens.",
)
def _(g):
    yield script(4, calls=[*batches(g, 4, (3, 5)), ("value",)])
    yield script(6, calls=[*batches(g, 6, (11,)), ("value",)])


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


@hessian.stage(
    "float32 whatever the inputs are",
    points=1,
    exposes="Inputs may be float16, in which a sum of squares overflows or loses digits, or float64: convert to float32 first.",
)
def _(g):
    X = inputs(g, 2, 40, 6)
    yield script(6, calls=[("add", (X * 100).half()), ("add", X.half()), ("value",)])
    yield script(6, calls=[*batches(g, 6, (2, 8), (1, 8), dtype=torch.float64), ("value",)])


class Running:
    """`Hessian` with its parts exchangeable, for mistakes in one part."""

    factor = 2.0

    def __init__(self, cols):
        self.H, self.n = torch.zeros(cols, cols), 0

    def sequences(self, X) -> int:
        return 1 if X.ndim == 2 else len(X)

    def keep(self, b) -> float:
        """What becomes of the old average."""
        return self.n / (self.n + b)

    def tokens(self, X) -> Tensor:
        """(tokens, cols), what is summed over."""
        return X.float().flatten(0, -2)

    def products(self, X) -> Tensor:
        x = self.tokens(X)
        return x.T @ x

    def add(self, X):
        b = self.sequences(X)
        self.H = self.H * self.keep(b)
        self.n += b
        self.H = self.H + self.factor / self.n * self.products(X)

    def value(self):
        return self.H


@hessian.misconception("factor 2 missing", "The factor 2 is missing: the second derivative of a square is 2.")
class _(Running):
    factor = 1.0


@hessian.misconception(
    "no rescaling",
    "The old average is not rescaled when a batch comes: after batches of 2 and 3 sequences, the first was divided by 2, the second by 5. "
    "Multiply the old H by n / (n + b) first.",
)
class _(Running):
    def keep(self, b):
        return 1.0


@hessian.misconception(
    "rescaled with the new n",
    "You increase n before you rescale: the old H is then multiplied by (n + b) / (n + 2 b). Rescale by n / (n + b) with n the old count.",
)
class _(Running):
    def keep(self, b):
        return (self.n + b) / (self.n + 2 * b)


@hessian.misconception(
    "last batch only", "Only the last batch counts: every add() starts over. Add to the average of those before."
)
class _(Running):
    def add(self, X):
        self.n = 0
        super().add(X)


@hessian.misconception(
    "mean of batches",
    "Every batch counts the same, so that a sequence in a small batch counts more. Weight batches by their number of sequences.",
)
class _(Running):
    seen = 0

    def add(self, X):
        fresh = Running(X.shape[-1])
        fresh.add(X)
        self.seen += 1
        self.H = self.H + (fresh.H - self.H) / self.seen


@hessian.misconception(
    "counts tokens",
    "You divide by the number of tokens. It changes no mask, but the contract (and the authors' code) counts sequences.",
)
class _(Running):
    def sequences(self, X):
        return X[..., 0].numel()


@hessian.misconception(
    "counts batches", "You count calls of add(). n counts sequences: a batch (b, tokens, cols) holds b of them."
)
class _(Running):
    def sequences(self, X):
        return 1


@hessian.misconception(
    "a 2-D input is many sequences",
    "You take the rows of a 2-D input for sequences. (tokens, cols) is one sequence: n grows by 1.",
)
class _(Running):
    def sequences(self, X):
        return len(X)


@hessian.misconception("never divided", "You return the sum over the sequences. Divide it by their number.")
class _(Running):
    def keep(self, b):
        return 1.0

    def add(self, X):
        self.H = self.H + 2 * self.products(X)


@hessian.misconception(
    "factor squared",
    "You scale x by 2 / n before the product, so that the factor is squared. Scale x by its root, or the product by 2 / n.",
)
class _(Running):
    def products(self, X):
        return self.factor / self.n * super().products(X)


@hessian.misconception(
    "mean taken off",
    "You centre the inputs: that is a covariance. H is not centred; a feature that is always 3 matters, its variance is 0.",
)
class _(Running):
    def tokens(self, X):
        x = super().tokens(X)
        return x - x.mean(dim=0)


@hessian.misconception(
    "tokens added up first",
    "You add up (or average) the tokens and take one outer product. Each token has its own x x^T; the sum comes after.",
)
class _(Running):
    def products(self, X):
        x = self.tokens(X).sum(dim=0)
        return torch.outer(x, x)


@hessian.misconception(
    "the wrong way round",
    "You multiply X X^T with the tokens in the rows of X: (tokens, tokens). The Hessian compares columns: X^T X.",
)
class _(Running):
    def products(self, X):
        x = self.tokens(X)
        return x @ x.T

    def add(self, X):
        self.n += self.sequences(X)
        self.H = self.factor / self.n * self.products(X)


@hessian.misconception(
    "diagonal only",
    "Only the diagonal is filled: that is Wanda's statistic. SparseGPT needs to know which inputs can stand in for which.",
)
class _(Running):
    def products(self, X):
        return torch.diag(super().products(X).diagonal())


@hessian.misconception(
    "summed in the inputs' dtype",
    "The products are summed in the dtype of X: in float16 that overflows above 65504, and 40 terms lose digits long before. X.float() first.",
)
class _(Running):
    def tokens(self, X):
        return X.flatten(0, -2)

    def value(self):
        return self.H.float()


@hessian.misconception("dtype of the inputs", "You return the dtype of the inputs. Statistics are float32, whatever comes in.")
class _(Running):
    def add(self, X):
        super().add(X)
        self.dtype = X.dtype

    def value(self):
        return self.H.to(self.dtype)


@hessian.misconception(
    "inputs scaled in place",
    "H is right, but the inputs that you were given have changed: X.float() is X itself where X is float32 already, and `x *= ...` writes into "
    "it. The layer that reads them needs them as they were: `x = x * ...`.",
)
class _(Running):
    def products(self, X):
        result = super().products(X)
        X *= math.sqrt(self.factor / self.n)
        return result


@hessian.misconception(
    "value() changes the state",
    "value() divides what add() has collected, in place: ask twice, or add more, and it is wrong. Return a new tensor.",
)
class _(Running):
    def add(self, X):
        self.n += self.sequences(X)
        self.H = self.H + 2 * self.products(X)

    def value(self):
        self.H /= self.n
        return self.H


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
        return self.H


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
