"""Exercise 18.1: the shortest keys stay."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.inside.case import call


def reference(keys: Tensor, budget: int) -> Tensor:
    if budget < 1:
        raise ValueError(f"budget must be at least 1, got {budget}")
    shortest = keys.double().square().sum(dim=-1).argsort(dim=-1)[..., :budget]  # (batch, heads, kept)
    return shortest.sort(dim=-1).values


keep = Exercise(
    "key_norm.keep",
    defines="keep",
    title="The shortest keys stay",
    minutes=10,
    difficulty=1,
    hints=(
        "How long is each key? A norm over the channels gives a number for each token of each head.",
        "Sort the tokens of a head by that number, take the first `budget`, and put these back into the order of the text.",
        "`keys.float().norm(dim=-1).argsort(dim=-1)[..., :budget]` are the tokens; one more `sort` puts them in order.",
    ),
    reference=reference,
)


def draw(g: torch.Generator, batch: int, heads: int, tokens: int, head_dim: int = 8) -> Tensor:
    """(batch, heads, tokens, head_dim) keys in any direction, whose lengths are far enough apart to compare."""
    direction = torch.nn.functional.normalize(torch.randn(batch, heads, tokens, head_dim, generator=g), dim=-1)
    length = 1 + torch.rand(batch, heads, tokens, generator=g).argsort(dim=-1)
    return direction * length[..., None]


@keep.stage(
    "each head keeps its shortest keys",
    points=2,
    exposes="Of each head the `budget` tokens with the smallest l2 norm of their key stay.",
)
def _(g):
    yield call(draw(g, 1, 1, 6), 3)
    yield call(draw(g, 2, 3, 12), 5)
    yield call(1e-3 * draw(g, 2, 2, 30), 1)


@keep.stage(
    "in the order of the text, and all where all fit",
    points=1,
    exposes="Indices are ascending. With no more tokens than the budget all stay. A budget below 1 is a ValueError.",
    pure=True,
)
def _(g):
    yield call(draw(g, 2, 2, 9), 8)
    yield call(draw(g, 2, 2, 5), 9)
    yield call(draw(g, 1, 1, 4), 0)


@keep.misconception("longest", "You kept the longest keys. Queries look at short ones: those with the smallest norm stay.")
def _(keys, budget):
    if budget < 1:
        raise ValueError("budget")
    return keys.norm(dim=-1).argsort(dim=-1, descending=True)[..., :budget].sort(dim=-1).values


@keep.misconception(
    "by length", "The right tokens, but in the order of their norms. A cache holds them in the order of the text."
)
def _(keys, budget):
    if budget < 1:
        raise ValueError("budget")
    return keys.norm(dim=-1).argsort(dim=-1)[..., :budget]


@keep.accepts("topk of what is negative")
def _(keys, budget):
    if budget < 1:
        raise ValueError("budget")
    return (-keys.norm(dim=-1)).topk(min(budget, keys.shape[2]), dim=-1).indices.sort(dim=-1).values
