"""Exercise 11.3: pages within a budget."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.quest.fixtures import drawn, some_scores
from autograder.exercises.quest.select_pages_mistakes import mistakes, selected
from autograder.inside.case import call


def reference(scores: Tensor, budget: int, page: int = 16) -> Tensor:
    return selected(scores, budget, page)


select = Exercise(
    "quest.select",
    defines="select_pages",
    title="Pages within a budget",
    minutes=12,
    difficulty=2,
    hints=(
        "How many pages may be read? One of them is the last one, in any case. The others are the best among all *but* the last.",
        "`count = budget // page`, or all pages if there are fewer. Rank the pages before the last with a *stable* sort, largest "
        "first: it leaves equal scores in their order. Take `count - 1`, add the last page, and sort the numbers of pages.",
        "`count = min(budget // page, pages)`; `best = scores[:, :-1].argsort(dim=-1, descending=True, stable=True)[:, : count - "
        "1]`; `last = torch.full((len(scores), 1), pages - 1)`; then `torch.cat([best, last], dim=-1).sort(dim=-1).values`. "
        "Before all that the ValueError, if `budget < page`.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


@select.stage(
    "the best pages",
    points=1,
    exposes="budget tokens are budget // page pages, those with the largest scores. The numbers of pages are int64, ascending, for each head its own.",
)
def _(g):
    yield call(some_scores(g, 1, 9, last="most"), 12, 4)
    yield call(some_scores(g, 3, 12, last="most"), 20, 4)
    yield call(some_scores(g, 4, 30, last="most"), 48)
    yield call(some_scores(g, 2, 300, last="most"), 55, 5)
    yield call(-50 + some_scores(g, 2, 8, last="most"), 9, 3)  # all are negative
    yield call(1e-20 * some_scores(g, 2, 8, last="most"), 9, 3)
    ranks = torch.cat([torch.rand(2, 19, generator=g).argsort(dim=-1), torch.full((2, 1), 19)], dim=1)
    yield call(1 + 2.0**-23 * ranks, 28, 4)  # they differ in the last digit


@select.stage(
    "the last page always",
    points=1,
    exposes="The last page is read whatever its score, as one of budget // page. With a budget of one page it is the only one.",
)
def _(g):
    yield call(some_scores(g, 2, 9, last="least"), 12, 4)
    yield call(some_scores(g, 3, 25, last="least"), 80)
    yield call(some_scores(g, 4, 20, last="most"), 20, 5)
    yield call(some_scores(g, 3, 20), 20, 5)
    yield call(some_scores(g, 2, 10), 3, 3)
    yield call(some_scores(g, 3, 7, last="least"), 16, 8)
    yield call(100 + some_scores(g, 2, 8, last="least"), 12, 4)
    yield call(1e12 * some_scores(g, 2, 8, last="least"), 12, 4)
    yield call(1e12 * some_scores(g, 2, 8, last="least"), 7, 4)


@select.stage(
    "any budget",
    points=1,
    exposes="A budget of 23 tokens holds 5 pages of 4. If it holds all pages, they are all read. If it does not hold a page: a ValueError.",
)
def _(g):
    yield call(some_scores(g, 2, 11), 23, 4)
    yield call(some_scores(g, 2, 11), 21, 4)
    yield call(some_scores(g, 3, 9), 16 * 4 + drawn(g, 9, 15))
    yield call(some_scores(g, 2, 6), 30, 5)  # exactly
    yield call(some_scores(g, 3, 6), 999, 4)
    yield call(some_scores(g, 2, 6), 29, 5)  # all but one
    yield call(some_scores(g, 2, 1), 16)  # a short text
    yield call(some_scores(g, 2, 2), 47, 3)
    yield call(some_scores(g, 2, 9), drawn(g, 4, 6), 7)
    yield call(some_scores(g, 2, 1), 6, 7)  # also where there is one page only


@select.stage(
    "equal scores",
    points=1,
    exposes="Among equal scores the earlier page comes first. The scores stay as they were.",
    pure=True,
)
def _(g):
    yield call(torch.zeros(2, 50), 40, 4)
    yield call(torch.randint(3, (3, 200), generator=g).float(), 160, 4)
    yield call(torch.randint(2, (2, 40), generator=g).float() - 5, 18, 2)
    repeated = some_scores(g, 2, 12).repeat(1, 3)  # a text that comes three times
    yield call(torch.cat([repeated, repeated[:, :1]], dim=1), 28, 4)
    yield call(some_scores(g, 3, 15, last="most"), 24, 4)


@select.accepts("topk of scores that are made different")
def _(scores, budget, page=16):
    if budget < page:
        raise ValueError(f"a budget of {budget} tokens holds no page of {page}")
    pages = scores.shape[1]
    rank = scores.double().unique(return_inverse=True)[1] * pages - torch.arange(pages)  # no two are equal
    rank[:, -1] = rank.max() + 1
    return rank.topk(min(budget // page, pages), dim=-1).indices.sort(dim=-1).values


@select.accepts("a mask, and its places")
def _(scores, budget, page=16):
    count = min(budget // page, scores.shape[1])
    if count == 0:
        raise ValueError("no page")
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    mask[:, -1] = True
    order = torch.sort(scores[:, :-1], dim=1, descending=True, stable=True).indices
    mask[:, :-1].scatter_(1, order[:, : count - 1], True)
    return mask.nonzero()[:, 1].view(len(scores), count)


@select.accepts("in lists")
def _(scores, budget, page=16):
    if page > budget:
        raise ValueError("budget")
    rows = []
    for row in scores.tolist():
        order = sorted(range(len(row) - 1), key=lambda i: row[i], reverse=True)  # stable, also in reverse
        rows.append(sorted([*order[: budget // page - 1], len(row) - 1]))
    return torch.tensor(rows)


@select.accepts("the last page's score set to infinity on a copy")
def _(scores, budget, page=16):
    if budget // page < 1:
        raise ValueError("budget")
    copy = scores.clone()
    copy[:, -1] = float("inf")
    first = torch.argsort(-copy, dim=-1, stable=True)[:, : budget // page]
    return torch.sort(first)[0]
