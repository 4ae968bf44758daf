"""Exercise 13.5: the choice."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.deja_vu.choose_mistakes import mistakes
from autograder.exercises.deja_vu.fixtures import normal, some
from autograder.inside.case import Case, call


def reference(logits: Tensor, k: int) -> Tensor:
    """Every unit by itself: chosen if fewer than k come before it."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    mine, other = logits[:, :, None], logits[:, None, :]
    place = torch.arange(logits.shape[1])
    before = (other > mine) | ((other == mine) & (place < place[:, None]))
    return before.sum(dim=-1) < k


choose = Exercise(
    "deja_vu.choose",
    defines="choose",
    title="The choice",
    minutes=8,
    difficulty=2,
    hints=(
        "Each token gets its own k units, those with its largest logits. No probability is asked for. What needs a thought "
        "is which of equal logits come first.",
        "`topk` does not say which of equal values it takes. A sort that is stable does: equal ones stay in the order that "
        "they had. Take its first k places of each token, and write True there.",
        "`best = logits.sort(dim=-1, descending=True, stable=True).indices[:, :k]`, then `torch.zeros_like(logits, "
        "dtype=torch.bool).scatter(-1, best, True)`; and a ValueError if `k < 1`.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


def drawn(g: torch.Generator, tokens: int, units: int, shift: float = 0.0) -> Tensor:
    """Logits; tokens lean to one side."""
    return normal(g, tokens, units, size=2.0) + normal(g, tokens, 1) + shift


def case(g: torch.Generator, tokens: int, units: int, k: int, shift: float = 0.0, steps: float = 0.0) -> Case:
    """In `steps` many logits are equal."""
    logits = drawn(g, tokens, units, shift)
    return call((logits / steps).round() * steps if steps else logits, k)


@choose.stage(
    "the k largest of each token",
    points=1,
    exposes="Every token has exactly k units, those with its largest logits, whatever other tokens have, whether or not they "
    "are positive, and however large or small.",
)
def _(g):
    yield case(g, 7, 11, 3)
    yield case(g, 20, 6, 2)
    yield case(g, 5, 40, 9, shift=-4.0)
    yield case(g, 6, 13, 5, shift=5.0)
    yield case(g, 300, 5, 1)
    yield case(g, 300, 40, 10)
    yield case(g, 3, 1100, some(g, 100, 400))
    yield case(g, 1, 14, 4)
    yield call(60 * drawn(g, 8, 20), 5)  # probabilities would be 1, or 0, for several
    sizes = 10.0 ** torch.linspace(-20, 20, 9)[:, None]  # too small for any epsilon, too large for any stand-in of -inf
    yield call(sizes * drawn(g, 9, 13, shift=-4.0), 6)


@choose.stage(
    "of equal logits the first",
    points=1,
    exposes="Of equal logits those of units with lower numbers are chosen, and never more than k.",
)
def _(g):
    yield case(g, 30, 12, 4, steps=1.0)
    yield case(g, 10, 300, 40, steps=0.5)
    yield call(torch.full((4, 9), -1.5), 3)
    yield case(g, 40, 20, 10, steps=2.0)


@choose.stage(
    "any k from 1 on",
    points=1,
    exposes="A k above the number of units chooses all of them. One below 1 is a ValueError.",
)
def _(g):
    yield case(g, 4, 7, 7)
    yield case(g, 4, 7, 12)
    yield case(g, 60, 6, 2)
    yield case(g, 5, 9, 0)
    yield case(g, 5, 9, -2)


@choose.stage(
    "a mask of its own",
    points=1,
    exposes="The mask is boolean, of new memory, and the logits stay as they are.",
    pure=True,
)
def _(g):
    yield case(g, 9, 8, 3)
    yield case(g, 13, 17, 5, steps=1.0)


@choose.accepts("argsort of the negative, which keeps the order of equal ones")
def _(logits, k):
    if k < 1:
        raise ValueError("k")
    order = torch.argsort(-logits, dim=-1, stable=True)
    mask = torch.zeros(logits.shape).bool()
    mask[torch.arange(len(logits))[:, None], order[:, :k]] = True
    return mask


@choose.accepts("all above the k-th largest, then the first of those that are equal to it")
def _(logits, k):
    if k <= 0:
        raise ValueError(k)
    k = min(k, logits.shape[-1])
    limit = logits.topk(k, dim=-1).values[:, -1:]
    above, equal = logits > limit, logits == limit
    return above | (equal & (equal.cumsum(dim=-1) <= k - above.sum(dim=-1, keepdim=True)))


@choose.accepts("ranks")
def _(logits, k):
    if not k >= 1:
        raise ValueError(f"{k} units")
    order = logits.sort(dim=1, descending=True, stable=True)[1]
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    return ranks.lt(k)


@choose.accepts("in lists")
def _(logits, k):
    if k < 1:
        raise ValueError
    rows = []
    for token in logits.tolist():
        best = set(sorted(range(len(token)), key=token.__getitem__, reverse=True)[:k])
        rows.append([unit in best for unit in range(len(token))])
    return torch.tensor(rows)
