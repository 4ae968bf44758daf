"""Mistakes of exercise 4.1, and the right answer that they vary."""

import math

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes


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


mistakes = Mistakes()


@mistakes("factor 2 missing", "The factor 2 is missing: the second derivative of a square is 2.")
class _(Running):
    factor = 1.0


@mistakes(
    "no rescaling",
    "The old average is not rescaled when a batch comes: after batches of 2 and 3 sequences, the first was divided by 2, the second by 5. "
    "Multiply the old H by n / (n + b) first.",
)
class _(Running):
    def keep(self, b):
        return 1.0


@mistakes(
    "rescaled with the new n",
    "You increase n before you rescale: the old H is then multiplied by (n + b) / (n + 2 b). Rescale by n / (n + b) with n the old count.",
)
class _(Running):
    def keep(self, b):
        return (self.n + b) / (self.n + 2 * b)


@mistakes("last batch only", "Only the last batch counts: every add() starts over. Add to the average of those before.")
class _(Running):
    def add(self, X):
        self.n = 0
        super().add(X)


@mistakes(
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


@mistakes(
    "counts tokens",
    "You divide by the number of tokens. It changes no mask, but the contract (and the authors' code) counts sequences.",
)
class _(Running):
    def sequences(self, X):
        return X[..., 0].numel()


@mistakes("counts batches", "You count calls of add(). n counts sequences: a batch (b, tokens, cols) holds b of them.")
class _(Running):
    def sequences(self, X):
        return 1


@mistakes(
    "a 2-D input is many sequences",
    "You take the rows of a 2-D input for sequences. (tokens, cols) is one sequence: n grows by 1.",
)
class _(Running):
    def sequences(self, X):
        return len(X)


@mistakes("never divided", "You return the sum over the sequences. Divide it by their number.")
class _(Running):
    def keep(self, b):
        return 1.0

    def add(self, X):
        self.H = self.H + 2 * self.products(X)


@mistakes(
    "factor squared",
    "You scale x by 2 / n before the product, so that the factor is squared. Scale x by its root, or the product by 2 / n.",
)
class _(Running):
    def products(self, X):
        return self.factor / self.n * super().products(X)


@mistakes(
    "mean taken off",
    "You centre the inputs: that is a covariance. H is not centred; a feature that is always 3 matters, its variance is 0.",
)
class _(Running):
    def tokens(self, X):
        x = super().tokens(X)
        return x - x.mean(dim=0)


@mistakes(
    "tokens added up first",
    "You add up (or average) the tokens and take one outer product. Each token has its own x x^T; the sum comes after.",
)
class _(Running):
    def products(self, X):
        x = self.tokens(X).sum(dim=0)
        return torch.outer(x, x)


@mistakes(
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


@mistakes(
    "diagonal only",
    "Only the diagonal is filled: that is Wanda's statistic. SparseGPT needs to know which inputs can stand in for which.",
)
class _(Running):
    def products(self, X):
        return torch.diag(super().products(X).diagonal())


@mistakes(
    "summed in the inputs' dtype",
    "The products are summed in the dtype of X: in float16 that overflows above 65504, and 40 terms lose digits long before. X.float() first.",
)
class _(Running):
    def tokens(self, X):
        return X.flatten(0, -2)

    def value(self):
        return self.H.float()


@mistakes("dtype of the inputs", "You return the dtype of the inputs. Statistics are float32, whatever comes in.")
class _(Running):
    def add(self, X):
        super().add(X)
        self.dtype = X.dtype

    def value(self):
        return self.H.to(self.dtype)


@mistakes(
    "inputs scaled in place",
    "H is right, but the inputs that you were given have changed: X.float() is X itself where X is float32 already, and `x *= ...` writes into "
    "it. The layer that reads them needs them as they were: `x = x * ...`.",
)
class _(Running):
    def products(self, X):
        result = super().products(X)
        X *= math.sqrt(self.factor / self.n)
        return result


@mistakes(
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
