"""Mistakes of exercise 10.4."""

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def check(budget: int, recent: int) -> None:
    if not 0 <= recent <= budget:
        raise ValueError(f"recent must be from 0 to {budget}, got {recent}")


def without_padding(scores: Tensor, mask: Tensor | None) -> Tensor:
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)


def last(older: Tensor, count: int) -> Tensor:
    """The places of the `count` largest; of equal ones the later."""
    return older.argsort(dim=-1, stable=True)[..., older.shape[-1] - count :]


def order(idx: Tensor) -> Tensor:
    return idx.sort(dim=-1).values


def join(heavy: Tensor, n: int, recent: int) -> Tensor:
    return torch.cat([heavy, torch.arange(n - recent, n).expand(*heavy.shape[:-1], recent)], dim=-1)


def mistaken(
    name: str,
    says: str,
    *,
    checked=check,
    alive=without_padding,
    fits=lambda n, budget: n <= budget,
    best=last,
    arrange=order,
    to=None,
    older=None,
):
    def wrong(scores, budget, recent, mask=None):
        checked(budget, recent)
        n = scores.shape[-1]
        if fits(n, budget):
            return torch.arange(n).expand(scores.shape).clone()
        scores = alive(scores, mask)
        if to:
            return to(scores, budget, recent)
        part = older(scores, recent) if older else scores[..., : n - recent]
        return join(arrange(best(part, budget - recent)), n, recent)

    mistakes(name, says)(wrong)


mistaken(
    "the window is not protected",
    "You chose the largest scores of all tokens. The most recent ones stay whatever they scored: they have had no time to collect.",
    to=lambda scores, budget, recent: order(last(scores, budget)),
)
mistaken(
    "the window alone",
    "You kept the last tokens only. Of the older ones the budget - recent with the largest scores stay as well.",
    to=lambda scores, budget, recent: (
        torch.arange(scores.shape[-1] - budget, scores.shape[-1]).expand(*scores.shape[:2], -1).clone()
    ),
)
mistaken(
    "the first tokens",
    "You kept the first tokens beside the window: these are the sinks of StreamingLLM. Heavy hitters are those with the largest scores, wherever they stand.",
    best=lambda older, count: torch.arange(count).expand(*older.shape[:2], -1),
)
mistaken(
    "the lightest",
    "You kept the smallest scores. Those go; the largest stay.",
    best=lambda older, count: last(-older, count),
)
mistaken(
    "budget heavy hitters and a window",
    "You kept `budget` heavy hitters and the window on top. The budget is for both: budget - recent heavy hitters.",
    to=lambda scores, budget, recent: join(
        order(last(scores[..., : scores.shape[-1] - recent], min(budget, scores.shape[-1] - recent))), scores.shape[-1], recent
    ),
)
mistaken(
    "the window twice",
    "You chose heavy hitters among all tokens, so that a recent one is there twice and another has no place. Choose them among the older ones.",
    to=lambda scores, budget, recent: order(join(last(scores, budget - recent), scores.shape[-1], recent)),
)
mistaken(
    "no window is everything",
    "Where recent is 0 you protect all tokens: `scores[..., -0:]` is the whole row. Count from the front: `scores[..., held - recent :]`.",
    to=lambda scores, budget, recent: join(
        order(last(scores[..., : scores.shape[-1] - recent], budget - recent)), scores.shape[-1], recent or budget
    )[..., -budget:],
)
mistaken(
    "one too few",
    "You kept one heavy hitter too few. budget - recent of them stay, the window has `recent`, and together they are `budget`.",
    best=lambda older, count: last(older, max(0, count - 1)),
)
mistaken(
    "not sorted",
    "Your heavy hitters come by score. Indices are ascending: what is kept stays in the order of the text, and the last `recent` places are the newest.",
    arrange=lambda idx: idx,
)
mistaken(
    "the window first",
    "You put the window before the heavy hitters. Indices are ascending, so the newest come last.",
    to=lambda scores, budget, recent: (
        (both := join(order(last(scores[..., : scores.shape[-1] - recent], budget - recent)), scores.shape[-1], recent)).roll(
            recent, dims=-1
        )
        if budget > recent
        else both
    ),
)
mistaken(
    "one choice for all heads",
    "You made one choice for all heads. Each keeps tokens of its own: they look at different things.",
    best=lambda older, count: last(older.sum(dim=1, keepdim=True), count).expand(-1, older.shape[1], -1),
)
mistaken(
    "one choice for the batch",
    "You made one choice for the whole batch. Sequences are different texts.",
    best=lambda older, count: last(older.sum(dim=0, keepdim=True), count).expand(older.shape[0], -1, -1),
)
mistaken(
    "-0 is everything",
    "Where no heavy hitter is wanted you keep all: `x[..., -0:]` is the whole row. Count from the front, or treat 0 by itself.",
    best=lambda older, count: older.argsort(dim=-1, stable=True)[..., -count:],
)
mistaken(
    "all tokens by score",
    "Where all tokens fit you changed their order, or dropped some. With no more tokens than the budget all stay as they are.",
    fits=lambda n, budget: False,
    to=lambda scores, budget, recent: (
        order(last(scores[..., : max(0, scores.shape[-1] - recent)], min(budget - recent, max(0, scores.shape[-1] - recent))))
        if scores.shape[-1] <= budget
        else join(order(last(scores[..., : scores.shape[-1] - recent], budget - recent)), scores.shape[-1], recent)
    ),
)
mistaken(
    "any window passes",
    "A window larger than the budget, or below 0, must be a ValueError: it can only be a mistake.",
    checked=lambda budget, recent: None,
    to=lambda scores, budget, recent: join(
        order(last(scores[..., : scores.shape[-1] - min(max(recent, 0), budget)], budget - min(max(recent, 0), budget))),
        scores.shape[-1],
        min(max(recent, 0), budget),
    ),
)
mistaken(
    "padding counts",
    "You made no use of the mask. Padding goes before any real token, whatever its score.",
    alive=lambda scores, mask: scores,
)
mistaken(
    "the opposite mask",
    "You took True for padding. In this course True means kept: False is padding.",
    alive=lambda scores, mask: without_padding(scores, None if mask is None else ~mask),
)
mistaken(
    "padding set to 0",
    "You set the scores of padding to 0. A real token may have 0 as well, and goes after padding: take minus infinity.",
    alive=lambda scores, mask: scores if mask is None else scores * mask,
)
mistaken(
    "the first head's padding",
    "You used the padding of the first head for all. After an eviction every head holds it in other places.",
    alive=lambda scores, mask: without_padding(scores, None if mask is None else mask[:, :1].expand_as(mask)),
)
mistaken(
    "of equal ones the earlier",
    "Of equal scores you kept the earlier token. The later stays: an ascending stable sort puts it last.",
    best=lambda older, count: older.argsort(dim=-1, descending=True, stable=True)[..., :count],
)
mistaken(
    "int32",
    "Your indices are int32. torch indexes with int64.",
    to=lambda scores, budget, recent: join(
        order(last(scores[..., : scores.shape[-1] - recent], budget - recent)), scores.shape[-1], recent
    ).int(),
)


@mistakes(
    "padding marked in place",
    "The result is right, but the scores that you were given have changed. They go on being added to: `masked_fill` without the underscore.",
)
def _(scores, budget, recent, mask=None):
    check(budget, recent)
    n = scores.shape[-1]
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    if n <= budget:
        return torch.arange(n).expand(scores.shape).clone()
    return join(order(last(scores[..., : n - recent], budget - recent)), n, recent)
