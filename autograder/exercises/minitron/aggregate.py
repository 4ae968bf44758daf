"""Exercise 7.1: one score for each channel."""

import numpy as np
import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.minitron.aggregate_mistakes import ChannelScore, mistakes
from autograder.exercises.minitron.fixtures import activations
from autograder.inside.case import script

aggregate = Exercise(
    "minitron.aggregate",
    defines="ChannelScore",
    title="One score for each channel",
    minutes=12,
    difficulty=1,
    hints=(
        "Keep what can be added up: one running sum for each channel. What a batch adds is made in two steps, a mean over "
        "tokens and then squares summed over sequences.",
        "The tensors are (sequences, tokens, channels), so tokens are dimension 1. The absolute value comes before the "
        "mean, the square after it. Convert to float32 first of all.",
        "`X.float().abs().mean(dim=1)` is (sequences, channels); its `.square().sum(dim=0)` is added to the running sum. "
        "`score` returns the root of the sum, a new tensor, and leaves the sum alone.",
    ),
    reference=ChannelScore,
    rules=Rules(exact_zeros=True),
    misconceptions=mistakes,
)


def heavy(tokens: int) -> Tensor:
    """(tokens, 1) factors: the first and the last token are large, as the first of a text is, so that none can be left out."""
    return torch.ones(tokens, 1).index_fill(0, torch.tensor([0, tokens - 1]), 100.0)


@aggregate.stage(
    "one sequence: the mean magnitude over its tokens",
    points=1,
    exposes="For every channel take the absolute values of all tokens, and their mean: a float32 tensor of shape (channels,).",
)
def _(g):
    yield script(3, calls=[("add", activations(g, 1, 4, 3)), ("score",)])
    yield script(5, calls=[("add", activations(g, 1, 9, 5)), ("score",)])
    yield script(1, calls=[("add", activations(g, 1, 1, 1)), ("score",)])
    yield script(4, calls=[("add", activations(g, 1, 2100, 4) * heavy(2100)), ("score",)])


@aggregate.stage(
    "several sequences: the l2 norm over them",
    points=1,
    exposes="First the mean over the tokens of each sequence (dimension 1: the batch comes first), then square, add up over sequences, root.",
)
def _(g):
    yield script(4, calls=[("add", activations(g, 3, 5, 4)), ("score",)])
    yield script(6, calls=[("add", activations(g, 7, 2, 6, scale=5)), ("score",)])
    yield script(3, calls=[("add", activations(g, 5, 1, 3)), ("score",)])
    yield script(2, calls=[("add", activations(g, 140, 3, 2)), ("score",)])
    yield script(5, calls=[("add", activations(g, 3, 6, 5) * (torch.arange(6) % 2)[:, None]), ("score",)])  # zeros count too


@aggregate.stage(
    "batches of unequal size and length",
    points=1,
    exposes="Every sequence adds the square of its own mean, however long it is and in whatever batch it came; one root at the end.",
)
def _(g):
    yield script(
        5,
        calls=[("add", activations(g, n, t, 5, scale=3.0 ** (i % 2))) for i, (n, t) in enumerate(((2, 6), (1, 9), (3, 4)))]
        + [("score",)],
    )
    yield script(
        3, calls=[("add", activations(g, n, t, 3, scale=1 + i)) for i, (n, t) in enumerate(((4, 3), (1, 8)))] + [("score",)]
    )


@aggregate.stage(
    "asked at any time, and in half precision too",
    points=1,
    exposes="score() changes nothing and may be called between batches; means and squares of float16 activations are taken in float32, also where "
    "float32 ones follow; a channel that is always 0 has score 0, and one that is nearly 0 has not. The activations stay as they are: a hook gets "
    "the very tensor that the model goes on with.",
    pure=True,
)
def _(g):
    batches = [("add", activations(g, n, 4, 5, scale=2.0**i)) for i, n in enumerate((1, 3, 2))]
    yield script(5, calls=[step for batch in batches for step in (batch, ("score",), ("score",))])
    half = [activations(g, n, 5, 3).clamp(-2, 2).mul(300).half() for n in (2, 1)]
    yield script(3, calls=[("add", half[0]), ("add", half[1]), ("score",)])
    yield script(3, calls=[("add", half[0]), ("score",), ("add", activations(g, 4, 3, 3, scale=300)), ("score",)])
    largest = [torch.full((2, 3, 3), 6e4).half() * torch.rand(3, generator=g).add(1).div(2).half() for _ in range(2)]
    yield script(3, calls=[("add", largest[0]), ("add", largest[1]), ("score",)])
    sometimes = torch.tensor([1.0, 0.0, 1.0, 0.0])
    yield script(
        4, calls=[("add", activations(g, 2, 3, 4) * sometimes), ("add", activations(g, 3, 5, 4) * sometimes), ("score",)]
    )
    faint = 1e-11 * sometimes
    yield script(4, calls=[("add", activations(g, 2, 3, 4) * faint), ("add", activations(g, 3, 5, 4) * faint), ("score",)])


@aggregate.accepts("the official hook, which wants the sequence first")
class _:
    def __init__(self, channels):
        self._activations = None

    def add(self, X):
        input = X.transpose(0, 1)  # (tokens, sequences, channels)
        activations = input.to(torch.float32).abs().mean(dim=0)  # (sequences, channels)
        activations = activations.pow(2).sum(dim=0)
        if self._activations is None:
            self._activations = activations
        else:
            self._activations += activations

    def score(self):
        return self._activations.pow(0.5)


@aggregate.accepts("all rows kept, one norm")
class _:
    def __init__(self, channels):
        self.rows = [torch.zeros(1, channels)]

    def add(self, X):
        self.rows.extend(sequence.float().abs().mean(0, keepdim=True) for sequence in X)

    def score(self):
        return torch.linalg.vector_norm(torch.cat(self.rows), dim=0)


@aggregate.accepts("numpy, hypot by hypot")
class _:
    def __init__(self, channels):
        self.so_far = np.zeros(channels)

    def add(self, X):
        for sequence in X.numpy().astype(np.float64):
            self.so_far = np.hypot(self.so_far, np.abs(sequence).sum(axis=0) / len(sequence))

    def score(self):
        return torch.from_numpy(self.so_far).to(torch.float32)
