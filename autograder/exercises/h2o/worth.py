"""Exercise 10.3: what a score is worth."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.h2o.worth_mistakes import mistakes
from autograder.inside.case import Case, call


def reference(
    scores: Tensor, kv_heads: int, group: str = "sum", positions: Tensor | None = None, seen: int | None = None
) -> Tensor:
    """Head of keys by head of keys, in float64."""
    size = scores.shape[1] // kv_heads
    counting = {"sum": size, "first": 1}.get(group)  # how many query heads of each group
    if counting is None:
        raise ValueError(group)
    starts = range(0, scores.shape[1], size)
    pooled = torch.stack([scores[:, h : h + counting].double().sum(dim=1) for h in starts], dim=1)
    queries = 1 if positions is None else seen - positions
    return (pooled / queries).float()


worth = Exercise(
    "h2o.worth",
    defines="worth",
    title="What a score is worth",
    minutes=10,
    difficulty=2,
    hints=(
        "Two questions that the paper leaves open. Whose attention counts, where several query heads share a head of keys and can only "
        "keep a token together? And how is a late token to be compared with an early one, that many more queries have seen?",
        "Query heads that share a head of keys are neighbours, so split dimension 1 into (kv_heads, group size). How many queries could see a "
        "token at position p of a text of `seen` tokens? Its own one, and all that came after it.",
        '`shared = scores.unflatten(1, (kv_heads, -1))`; for "sum" `shared.sum(dim=2)`, for "first" `shared[:, :, 0]`. With positions divide by '
        "`seen - positions`: the last token, at position seen - 1, was seen by one query.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


def sums(g: torch.Generator, batch: int, heads: int, held: int) -> Tensor:
    """(batch, heads, held) scores, on the whole falling, as sums are."""
    return torch.rand(batch, heads, held, generator=g).add(0.05) * torch.linspace(4, 0.5, held)


def kept(g: torch.Generator, batch: int, kv_heads: int, held: int, seen: int) -> Tensor:
    """(batch, kv_heads, held) positions of a text of `seen` tokens, ascending, the last token among them."""
    older = torch.rand(batch, kv_heads, seen - 1, generator=g).argsort(dim=-1)[..., : held - 1].sort(dim=-1).values
    return torch.cat([older, torch.full((batch, kv_heads, 1), seen - 1)], dim=-1)


def worth_case(
    g: torch.Generator, batch: int, heads: int, kv_heads: int, held: int, *group: str, seen: int = 0, keyword: bool = False
) -> Case:
    """With `seen`, normalised; `group` may be left out."""
    scores = sums(g, batch, heads, held)
    options = {"positions": kept(g, batch, kv_heads, held, seen), "seen": seen} if seen else {}
    return call(scores, kv_heads, group=group[0], **options) if keyword else call(scores, kv_heads, *group, **options)


@worth.stage(
    "the sum over query heads that share keys",
    points=1,
    exposes="With heads / kv_heads = group, the scores of query heads 0 to group - 1 add up to those of the first head of keys, and so on: (batch, "
    "kv_heads, held).",
)
def _(g):
    yield worth_case(g, 1, 4, 2, 3)
    yield worth_case(g, 2, 6, 2, 5)
    yield worth_case(g, 2, 6, 3, 4, "sum")
    yield worth_case(g, 1, 5, 1, 7)
    yield worth_case(g, 3, 9, 3, 40, "sum", keyword=True)


@worth.stage(
    "other groups",
    points=1,
    exposes='"first" takes the scores of the first query head of each group. With as many heads as kv_heads the scores come back as they are. Any '
    "other word is a ValueError.",
)
def _(g):
    yield worth_case(g, 2, 6, 3, 4, "first")
    yield worth_case(g, 1, 6, 2, 5, "first", keyword=True)
    yield worth_case(g, 2, 3, 3, 6, "first")
    yield worth_case(g, 2, 4, 4, 5, "sum")
    yield worth_case(g, 1, 4, 2, 3, "each")
    yield worth_case(g, 1, 3, 3, 3, "Sum")
    yield worth_case(g, 1, 3, 1, 3, "mean")
    yield worth_case(g, 2, 4, 2, 3, "max", seen=7)


@worth.stage(
    "for each query that could see it",
    points=2,
    exposes="With positions, the pooled scores are divided by the number of queries that could see the token: a token at position p of a text of `seen` "
    "tokens was seen by its own query and by all later ones. Heads hold different tokens, and positions differ.",
)
def _(g):
    yield worth_case(g, 1, 2, 2, 5, seen=5)  # nothing has gone yet
    yield worth_case(g, 2, 6, 3, 4, seen=9)
    yield worth_case(g, 2, 6, 2, 7, "sum", seen=30)
    yield worth_case(g, 3, 4, 2, 6, "first", seen=11)
    yield worth_case(g, 1, 3, 3, 1, seen=1)
    yield worth_case(g, 1, 4, 1, 5, seen=5000)
    yield call(sums(g, 2, 4, 3), 2, "sum", torch.tensor([[[0, 4, 7]], [[1, 2, 6]]]).repeat(1, 2, 1), 12)  # the newest has gone
    yield call(sums(g, 2, 4, 6), 2, "first", kept(g, 2, 2, 6, 50_000), 131_073)  # more than half precision counts to


@worth.stage(
    "scores stay as they are",
    points=1,
    exposes="Sums go on being added to, so they must not change, and what you return is a tensor of its own.",
    pure=True,
)
def _(g):
    yield worth_case(g, 2, 3, 3, 5)
    yield worth_case(g, 2, 6, 3, 5, "first")
    yield worth_case(g, 1, 4, 4, 5, "first", seen=8)
    yield worth_case(g, 2, 4, 2, 5, seen=20)


@worth.accepts("by reshape, the mean times the group")
def _(scores, kv_heads, group="sum", positions=None, seen=None):
    batch, heads, held = scores.shape
    split = scores.reshape(batch, kv_heads, heads // kv_heads, held)
    match group:
        case "sum":
            pooled = split.mean(2) * split.shape[2]
        case "first":
            pooled = split.select(2, 0).clone()
        case _:
            raise ValueError(f"unknown group {group}")
    return pooled if positions is None else pooled * (seen - positions).float().reciprocal()


@worth.accepts("with steps: scores[:, ::group], as llama-cookbook")
def _(scores, kv_heads, group="sum", positions=None, seen=None):
    size = scores.shape[1] // kv_heads
    if group == "first":
        out = scores[:, ::size] + 0.0
    elif group == "sum":
        out = sum(scores[:, i::size] for i in range(size)) + 0.0
    else:
        raise ValueError("group")
    if positions is not None:
        ages = seen - 1 - positions
        out = out / (ages + 1)
    return out


@worth.accepts("head by head")
def _(scores, kv_heads, group="sum", positions=None, seen=None):
    if group not in {"sum", "first"}:
        raise ValueError(group)
    size, rows = scores.shape[1] // kv_heads, []
    for h in range(kv_heads):
        mine = scores[:, h * size : (h + 1) * size]
        row = mine.sum(dim=1) if group == "sum" else mine[:, 0].clone()
        rows.append(row if positions is None else torch.div(row, seen - positions[:, h]))
    return torch.stack(rows, dim=1)
