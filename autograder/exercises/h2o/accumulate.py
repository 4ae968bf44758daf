"""Exercise 10.2: what a token has got so far."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.h2o.accumulate_mistakes import mistakes
from autograder.exercises.h2o.fixtures import attention, left_padding, tokens
from autograder.inside.case import Case, call


def reference(scores: Tensor | None, p: Tensor) -> Tensor:
    """In float64."""
    new = p.double().sum(dim=2)
    if scores is not None:
        new = new + F.pad(scores.double(), (0, p.shape[3] - scores.shape[2]))
    return new.float()


accumulate = Exercise(
    "h2o.accumulate",
    defines="accumulate",
    title="What a token has got so far",
    minutes=8,
    difficulty=1,
    hints=(
        "A prompt and a step of decoding are the same thing: some queries give out probability, and each token adds up what it gets. New "
        "tokens begin with what these queries gave to them.",
        "Add up over the queries, dimension 2, in float32: `p.float().sum(dim=2)`. The tokens that were there before are the first ones, and "
        "get their old scores on top. Nothing is divided.",
        "`new = p.float().sum(dim=2)`; without old scores that is all. Otherwise `new[..., : scores.shape[-1]] += scores`, which changes only what "
        "you have just made.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


def shares(g: torch.Generator, batch: int, heads: int, new: int, held: int, pads: list[int] | None = None) -> Tensor:
    """(batch, heads, new, held) probabilities of the last `new` queries of a text."""
    q, k, v = tokens(g, batch, heads, heads, held, 4, 1, heavy=1)
    mask = None if pads is None else left_padding(pads, held)[:, None].expand(-1, heads, -1)
    return attention(q[:, :, held - new :], k, v, mask)[1].float()


def later(g: torch.Generator, batch: int, heads: int, new: int, held: int, pads: list[int] | None = None) -> Case:
    """A step after others: the old scores are sums that are plausible, and not sorted."""
    old = 0.1 + 5 * torch.rand(batch, heads, held - new, generator=g)
    return call(old, shares(g, batch, heads, new, held, pads))


@accumulate.stage(
    "a prompt",
    points=1,
    exposes="There are no scores yet (None). Each token gets the sum of the probabilities that all queries gave to it, (batch, heads, held).",
)
def _(g):
    yield call(None, shares(g, 1, 1, 4, 4))
    yield call(None, shares(g, 2, 3, 6, 6))
    yield call(None, shares(g, 3, 2, 1, 1))
    yield call(None, shares(g, 2, 2, 7, 7, pads=[0, 3]))  # padding gives nothing, and gets nothing
    yield call(None, shares(g, 1, 2, 150, 150))


@accumulate.stage(
    "a step of decoding",
    points=1,
    exposes="The old scores come first, and each of them gets what the new query gave to its token. The new token begins with what it gave to itself.",
)
def _(g):
    yield later(g, 1, 1, 1, 5)
    yield later(g, 2, 3, 1, 7)
    yield later(g, 3, 2, 1, 2)
    yield later(g, 2, 2, 1, 6, pads=[2, 0])
    yield later(g, 1, 4, 1, 200)


@accumulate.stage(
    "several tokens after others",
    points=1,
    exposes="A prompt may be read in pieces: the sums are the same as if it had come at once. Heads and sequences stay apart.",
)
def _(g):
    yield later(g, 2, 3, 4, 9)
    yield later(g, 1, 2, 6, 7)
    yield later(g, 3, 1, 2, 5)
    yield later(g, 2, 4, 3, 8, pads=[6, 1])


@accumulate.stage(
    "sums in float32, of old scores that stay as they are",
    points=1,
    exposes="Probabilities may be bfloat16, in which 256 + 1 is 256: add up in float32. The scores that you were given must not change, and what you "
    "return is no part of them.",
    pure=True,
)
def _(g):
    yield call(None, shares(g, 1, 2, 9, 9).bfloat16())
    first = torch.zeros(1, 2, 301, 301).index_fill(3, torch.tensor([0]), 1.0)  # all look at the first token
    yield call(None, first.bfloat16())
    yield call(400 + 3 * torch.rand(2, 1, 3, generator=g), shares(g, 2, 1, 1, 4).bfloat16())
    yield later(g, 2, 2, 2, 6)
    yield call(1e-20 * torch.rand(1, 2, 4, generator=g), 1e-20 * shares(g, 1, 2, 1, 5))  # faint ones count, too


@accumulate.accepts("the authors' way: old scores added to a slice")
def _(scores, p):
    current = p.to(torch.float32).sum(2)
    if scores is None:
        return current
    num_new_tokens = p.shape[2]
    current[:, :, :-num_new_tokens] += scores
    return current


@accumulate.accepts("padded with zeros, einsum")
def _(scores, p):
    got = torch.einsum("bhqn->bhn", p.float())
    return got if scores is None else got + F.pad(scores, (0, p.size(-1) - scores.size(-1)))


@accumulate.accepts("query by query, joined")
def _(scores, p):
    batch, heads, new, held = p.shape
    before = torch.zeros(batch, heads, 0) if scores is None else scores.clone()
    total = torch.cat([before, torch.zeros(batch, heads, held - before.shape[-1])], dim=-1)
    for i in range(new):
        total = total + p[:, :, i].float()
    return total
