"""Exercise 5.1: the running norm of the inputs."""

import numpy as np
import torch
from torch import Tensor, nn

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.wanda.fixtures import inputs
from autograder.inside.case import script


class InputNorm:
    """Keeps all that it is given, and computes from it when asked: whatever runs must give the same."""

    def __init__(self, cols: int) -> None:
        self.cols = cols
        self.batches: list[Tensor] = []  # (sequences, tokens, cols) each

    def add(self, X: Tensor) -> None:
        self.batches.append(X if X.ndim == 3 else X[None])

    def norm(self) -> Tensor:
        return (self.squares().sum(dim=0) / self.sequences().sum()).sqrt().float()

    def squares(self) -> Tensor:
        """(batches, cols): the sum of squares over all tokens of each batch."""
        return torch.stack([X.double().square().sum(dim=(0, 1)) for X in self.batches])

    def sequences(self) -> Tensor:
        """(batches, 1)."""
        return torch.tensor([[float(len(X))] for X in self.batches])

    def tokens(self) -> Tensor:
        """(all tokens, cols)."""
        return torch.cat([X.double().flatten(0, 1) for X in self.batches])


norm = Exercise(
    "wanda.norm",
    defines="InputNorm",
    title="The running norm of the inputs",
    minutes=15,
    difficulty=1,
    hints=(
        "Keep what can be added up: the sum of squares of each input, and the number of sequences. The norm itself is "
        "worked out when it is asked for.",
        "A batch of three dimensions adds as many sequences as its first dimension has, a matrix adds one. All tokens of "
        "all sequences go into the same sum. Square in float32: in float16 the square of 256 is infinite already.",
        "`X.float().reshape(-1, cols)` puts all tokens below each other; `.square().sum(dim=0)` of this is added. In "
        "`norm` return `(squares / sequences).sqrt()`, a new tensor, and change nothing of what you keep.",
    ),
    reference=InputNorm,
    rules=Rules(exact_zeros=True),
)


@norm.stage(
    "one sequence: the root of the sum of squares over its tokens",
    points=1,
    exposes="For every feature square the inputs of all tokens, add them up, take the root: a float32 tensor of shape (cols,).",
)
def _(g):
    yield script(3, calls=[("add", inputs(g, 1, 4, 3)), ("norm",)])
    yield script(5, calls=[("add", inputs(g, 1, 9, 5)), ("norm",)])
    yield script(2, calls=[("add", inputs(g, 1, 2100, 2)), ("norm",)])
    yield script(140, calls=[("add", inputs(g, 1, 3, 140)), ("norm",)])


@norm.stage(
    "several sequences: divides by their number",
    points=1,
    exposes="Add up the squares over all tokens of all sequences, divide by the number of sequences (not of tokens), take the root.",
)
def _(g):
    yield script(4, calls=[("add", inputs(g, 3, 5, 4)), ("norm",)])
    yield script(6, calls=[("add", inputs(g, 7, 2, 6, scale=5)), ("norm",)])
    yield script(2, calls=[("add", inputs(g, 300, 1, 2)), ("norm",)])


@norm.stage(
    "batches of unequal size count as if they came at once",
    points=1,
    exposes="Every sequence has the same weight, in whatever batch it came: keep the sum of squares and the number of sequences, or a mean "
    "that you rescale by old count / new count.",
)
def _(g):
    yield script(5, calls=[("add", inputs(g, n, 6, 5, scale=3.0**i)) for i, n in enumerate((2, 1, 3))] + [("norm",)])
    yield script(3, calls=[("add", inputs(g, n, t, 3, scale=1 + i)) for i, (n, t) in enumerate(((4, 3), (1, 8)))] + [("norm",)])
    many = [("add", inputs(g, 1 + i % 3, 2 + i % 4, 3, scale=1.5**i)) for i in range(9)]
    yield script(3, calls=[*many, ("norm",)])


@norm.stage(
    "asked at any time, for (tokens, cols) and for half precision too",
    points=1,
    exposes="norm() changes nothing and may be called between batches; a 2-D X is one sequence; squares of float16 inputs are taken in "
    "float32, as 300 squared is more than float16 can hold; a feature that is always 0 has norm 0, one that is faint has not. X stays.",
    pure=True,
)
def _(g):
    batches = [("add", inputs(g, n, 4, 5, scale=2.0**i)) for i, n in enumerate((1, 3, 2))]
    yield script(5, calls=[step for batch in batches for step in (batch, ("norm",), ("norm",))])
    yield script(
        4, calls=[("add", inputs(g, 6, 4)), ("add", inputs(g, 2, 3, 4)), ("norm",), ("add", inputs(g, 9, 4)), ("norm",)]
    )
    half = [inputs(g, n, 5, 3).clamp(-2, 2).mul(200).half() for n in (2, 1)]
    yield script(3, calls=[("add", half[0]), ("add", half[1]), ("norm",)])
    yield script(4, calls=[("add", inputs(g, *shape, 4).half()) for shape in ((6,), (2, 3), (5,))] + [("norm",)])
    for size in (1e-14, 1e9):
        yield script(3, calls=[("add", inputs(g, 2, 5, 3, scale=size)), ("norm",)])
    sometimes = torch.tensor([1.0, 0.0, 1.0, 0.0])
    yield script(4, calls=[("add", inputs(g, 2, 3, 4) * sometimes), ("add", inputs(g, 3, 3, 4) * sometimes), ("norm",)])


def mistaken(says_name: str, says: str, of):
    """A mistake in what is computed of the inputs."""

    class Mistaken(InputNorm):
        def norm(self) -> Tensor:
            return of(self).float()

    norm.misconception(says_name, says)(Mistaken)


mistaken(
    "mean magnitude",
    "You averaged |x|. Wanda takes the l2 norm: square, add up, take the root; a few large inputs then count for more.",
    lambda kept: kept.tokens().abs().mean(dim=0),
)
mistaken(
    "l1 norm",
    "You added up |x| without squares: that is the l1 norm. Wanda takes the l2 norm.",
    lambda kept: kept.tokens().abs().sum(dim=0),
)
mistaken(
    "largest magnitude",
    "You took the largest |x| of all tokens. The norm takes all tokens: square, add up, take the root.",
    lambda kept: kept.tokens().abs().amax(dim=0),
)
mistaken(
    "standard deviation",
    "You took the standard deviation, which subtracts the mean. An input that is always 10 is large, though it never varies.",
    lambda kept: kept.tokens().std(dim=0),
)
mistaken(
    "no root",
    "You return the mean of squares: the root is missing.",
    lambda kept: kept.squares().sum(dim=0) / kept.sequences().sum(),
)
mistaken(
    "sum before the square",
    "You added the inputs up and squared the sum. Inputs of opposite sign then cancel: square each one first.",
    lambda kept: (
        torch.stack([X.double().sum(dim=(0, 1)) for X in kept.batches]).square().sum(dim=0) / kept.sequences().sum()
    ).sqrt(),
)
mistaken(
    "mean over sequences first",
    "You averaged the inputs of different sequences before you squared them. They are different texts, and cancel: square first.",
    lambda kept: torch.stack([X.double().mean(dim=0).square().sum(dim=0) for X in kept.batches]).sum(dim=0).sqrt(),
)
mistaken(
    "sum over sequences",
    "You did not divide by the number of sequences. That changes no mask, but the norm then grows with every batch.",
    lambda kept: kept.squares().sum(dim=0).sqrt(),
)
mistaken(
    "mean over tokens",
    "You divided by the number of tokens. That changes no mask, but here the mean is over sequences: sum over the tokens of a sequence.",
    lambda kept: (kept.tokens().square().mean(dim=0)).sqrt(),
)
mistaken(
    "last batch only",
    "You return the norm of the last batch. Calibration text comes in many batches, and all of them count.",
    lambda kept: (kept.squares()[-1] / kept.sequences()[-1]).sqrt(),
)
mistaken(
    "mean of norms",
    "You averaged the norms of the batches. Average the squares, weighted by sequences, and take the root once, at the end.",
    lambda kept: (kept.squares() / kept.sequences()).sqrt().mean(dim=0),
)
mistaken(
    "unweighted batches",
    "You averaged the batches' mean squares as if all batches were of one size. A batch of three sequences counts three times.",
    lambda kept: (kept.squares() / kept.sequences()).mean(dim=0).sqrt(),
)
mistaken(
    "counts batches",
    "You divided by the number of batches. Divide by the number of sequences: X.shape[0] for a 3-D X.",
    lambda kept: kept.squares().mean(dim=0).sqrt(),
)
mistaken(
    "mean not rescaled",
    "You added each batch's share to a mean without rescaling what was there: first multiply it by old count / new count.",
    lambda kept: (kept.squares() / kept.sequences().cumsum(dim=0)).sum(dim=0).sqrt(),
)
mistaken(
    "norm of the tokens",
    "You took the norm of each token, over its features. What is wanted is the norm of each feature, over the tokens: shape (cols,).",
    lambda kept: kept.tokens().square().sum(dim=1).sqrt(),
)


@norm.misconception(
    "2-D counts tokens",
    "A 2-D X is one sequence of many tokens; you counted its tokens as sequences. Start with `if X.ndim == 2: X = X[None]`.",
)
class _(InputNorm):
    def add(self, X):
        super().add(X if X.ndim == 3 else X[:, None])


@norm.misconception(
    "squares in half precision",
    "You squared in the inputs' own precision: 300 squared is infinite in float16. Call `X.float()` first.",
)
class _(InputNorm):
    def squares(self):
        return torch.stack([X.square().sum(dim=(0, 1)).float() for X in self.batches]).double()


@norm.misconception(
    "root in place",
    "norm() replaces the sum of squares by its root, so that the next call takes the root of a root. Asking must change nothing.",
)
class _(InputNorm):
    def __init__(self, cols):
        self.mean, self.n = torch.zeros(cols), 0

    def add(self, X):
        X = X if X.ndim == 3 else X[None]
        self.mean = (self.mean * self.n + X.float().square().sum(dim=(0, 1))) / (self.n + len(X))
        self.n += len(X)

    def norm(self):
        self.mean = self.mean.sqrt()
        return self.mean


@norm.misconception(
    "squares in place",
    "The norms are right, but the inputs that you were given have changed: X.float() is X itself where X is float32 already, and square_() or "
    "`X *= X` writes into it. The layer that reads them needs them as they were: X.square().",
)
class _(InputNorm):
    def add(self, X):
        super().add(X.clone())
        X.float().square_()


@norm.misconception(
    "starts again",
    "norm() throws away what was collected, so that the next batches start from nothing. Asking must change nothing.",
)
class _(InputNorm):
    def norm(self):
        value, self.batches = super().norm() if self.batches else torch.zeros(self.cols), []
        return value


@norm.accepts("the official WrappedGPT")
class _:
    def __init__(self, cols):
        self.layer = nn.Linear(cols, 1)
        self.columns = self.layer.weight.data.shape[1]
        self.scaler_row = torch.zeros(self.columns)
        self.nsamples = 0

    def add(self, inp):
        if len(inp.shape) == 2:
            inp = inp.unsqueeze(0)
        tmp = inp.shape[0]
        if len(inp.shape) == 3:
            inp = inp.reshape((-1, inp.shape[-1]))
        inp = inp.t()
        self.scaler_row *= self.nsamples / (self.nsamples + tmp)
        self.nsamples += tmp
        inp = inp.type(torch.float32)
        self.scaler_row += torch.norm(inp, p=2, dim=1) ** 2 / self.nsamples

    def norm(self):
        return torch.sqrt(self.scaler_row)


@norm.accepts("sum and count")
class _:
    def __init__(self, cols):
        self.total, self.count = torch.zeros(cols, dtype=torch.float64), 0

    def add(self, X):
        self.count += X.shape[0] if X.dim() == 3 else 1
        self.total = self.total + torch.einsum("...c,...c->c", X.double(), X.double())

    def norm(self):
        return torch.sqrt(self.total / self.count).to(torch.float32)


@norm.accepts("numpy, sequence by sequence")
class _:
    def __init__(self, cols):
        self.cols, self.rows = cols, []

    def add(self, X):
        for sequence in X.numpy().astype(np.float64).reshape(-1, *X.shape[-2:]):
            self.rows.append([sum(value * value for value in sequence[:, j]) for j in range(self.cols)])

    def norm(self):
        return torch.tensor(np.sqrt(np.mean(self.rows, axis=0)), dtype=torch.float32)
