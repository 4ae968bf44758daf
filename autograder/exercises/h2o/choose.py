"""Exercise 10.4: who stays."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.h2o.choose_mistakes import check, mistakes
from autograder.exercises.h2o.fixtures import is_clear, left_padding, stay
from autograder.inside.case import Case, call


def reference(scores: Tensor, budget: int, recent: int, mask: Tensor | None = None) -> Tensor:
    check(budget, recent)
    return stay(scores, budget, recent, mask)


choose = Exercise(
    "h2o.choose",
    defines="choose",
    title="Who stays",
    minutes=18,
    difficulty=2,
    hints=(
        "Cut the tokens in two: the recent ones, which stay whatever they scored, and the older ones, among which scores decide. Then "
        "bring both together in the order of the text.",
        "Sort the older ones by score, ascending and `stable`, so that of equal ones the later comes later, and take the last `budget - recent` of each "
        "row. Mind that `x[..., -0:]` is everything. Padding gets minus infinity before. If everything fits there is nothing to choose.",
        "`older = scores[..., : n - recent]`, padding `masked_fill`ed in it; `order = older.argsort(dim=-1, stable=True)`; `heavy = order[..., n - "
        "budget :].sort(dim=-1).values`, since of the n - recent older ones n - budget go; join it with `torch.arange(n - recent, n)`, expanded to all heads.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


def scored(
    g: torch.Generator, batch: int, heads: int, n: int, budget: int, recent: int, mask: Tensor | None = None, fall: float = 1.0
) -> Tensor:
    """(batch, heads, n) scores with heavy tokens anywhere, large and small ones by head; on the whole falling by `fall`."""
    while True:
        size = 10 ** (2 * torch.rand(batch, heads, 1, generator=g) - 1)
        scores = size * torch.rand(batch, heads, n, generator=g) * torch.linspace(1, fall, n)
        if is_clear(scores, budget, recent, mask):
            return scores


def choose_case(
    g: torch.Generator, batch: int, heads: int, n: int, budget: int, recent: int, pads: list[int] | None = None
) -> Case:
    """`pads` tokens of each row are padding."""
    mask = None if pads is None else left_padding(pads, n)[:, None].repeat(1, heads, 1)
    scores = scored(g, batch, heads, n, budget, recent, mask)
    return call(scores, budget, recent) if mask is None else call(scores, budget, recent, mask)


@choose.stage(
    "heavy hitters and a recent window",
    points=2,
    exposes="The last `recent` tokens stay, whatever their scores. Of the others the budget - recent with the largest scores stay. Indices are "
    "ascending, each head chooses for itself.",
)
def _(g):
    yield choose_case(g, 1, 1, 8, 4, 2)
    yield choose_case(g, 2, 3, 12, 5, 2)
    yield choose_case(g, 3, 2, 7, 6, 1)
    yield choose_case(g, 1, 4, 60, 21, 7)
    yield call(scored(g, 2, 2, 15, 6, 3, fall=0.02), 6, 3)  # as sums are: the recent ones have little
    yield call(
        scored(g, 2, 2, 15, 6, 3, fall=30.0), 6, 3
    )  # the recent ones have most: they do not count as heavy hitters as well
    yield call(1e-20 * scored(g, 2, 2, 15, 6, 3), 6, 3)  # faint ones
    yield call(1e12 * scored(g, 2, 2, 15, 6, 3, fall=0.02), 6, 3)  # large ones, yet the recent ones stay
    yield call(1 + 2.0**-23 * torch.rand(2, 3, 30, generator=g).argsort(dim=-1), 11, 4)  # they differ in the last digit


@choose.stage(
    "nothing but one of the two, and budgets that hold all",
    points=1,
    exposes="recent may be 0, then scores alone decide (mind that `x[..., -0:]` is the whole row), or the whole budget, which is a window. With no more "
    "tokens than the budget all stay. A recent that is not from 0 to the budget is a ValueError.",
)
def _(g):
    yield choose_case(g, 2, 2, 9, 4, 0)
    yield choose_case(g, 2, 2, 9, 4, 4)
    yield choose_case(g, 2, 3, 6, 6, 2)
    yield choose_case(g, 1, 2, 5, 9, 3)
    yield choose_case(g, 1, 2, 3, 9, 7)  # a window longer than the text
    yield choose_case(g, 2, 2, 8, 1, 0)
    yield choose_case(g, 2, 1, 8, 1, 1)
    yield call(torch.rand(1, 2, 9, generator=g), 4, 5)
    yield call(torch.rand(1, 2, 9, generator=g), 4, -1)
    yield call(torch.rand(1, 2, 3, generator=g), 4, 6)  # also where all would fit


@choose.stage(
    "padding goes first",
    points=1,
    exposes="Where mask is False there is no token: it goes before any real one, whatever its score, and also before a real one with score 0. It stays only where a head "
    "has too few real ones to fill the budget, and then the later padding stays.",
)
def _(g):
    yield choose_case(g, 3, 2, 10, 5, 2, pads=[0, 3, 5])
    yield choose_case(g, 2, 2, 9, 5, 2, pads=[7, 6])
    yield choose_case(g, 2, 3, 8, 4, 1, pads=[0, 0])
    mask = left_padding([4, 0], 11)[:, None].repeat(1, 3, 1)
    none = scored(g, 2, 3, 11, 7, 3, mask) * (torch.arange(11) < 4)  # what is real in row 0 has nothing
    yield call(none, 7, 3, mask)
    between = ((torch.arange(11) < 4) | (torch.arange(11) > 6)).repeat(2, 3, 1)  # padding, later than what has nothing
    yield call(torch.rand(2, 3, 11, generator=g) * ~between, 7, 2, between)
    mask = torch.rand(2, 3, 14, generator=g) < 0.6  # after an eviction: in other places for each head
    mask[..., -2:] = True
    yield call(scored(g, 2, 3, 14, 6, 2, mask), 6, 2, mask)


@choose.stage(
    "equal scores",
    points=1,
    exposes="Of equal scores the later token stays. (torch.topk promises nothing here: sort, and say that the sort is stable.) The scores stay as they "
    "were.",
    pure=True,
)
def _(g):
    yield call(torch.zeros(2, 2, 9), 4, 2)
    yield call(torch.full((1, 3, 40), 0.25), 17, 5)
    yield call(torch.randint(0, 3, (2, 3, 30), generator=g).float(), 11, 4)
    yield call(torch.randint(0, 2, (2, 2, 12), generator=g).float(), 5, 0)
    yield call(torch.randint(0, 4, (2, 2, 100), generator=g) / 4, 50, 20)
    mask = (torch.rand(2, 2, 12, generator=g) < 0.5) | (torch.arange(12) >= 9)
    yield call(torch.randint(1, 4, (2, 2, 12), generator=g).float(), 6, 3, mask)


@choose.accepts("the window raised to infinity, then one stable sort")
def _(scores, budget, recent, mask=None):
    if recent < 0 or recent > budget:
        raise ValueError(f"recent must be from 0 to {budget}, got {recent}")
    n = scores.size(-1)
    k = min(budget, n)
    ranked = scores.clone()
    if mask is not None:
        ranked[~mask] = -1.0
    ranked[..., max(0, n - recent) :] = float("inf")
    backwards = ranked.flip(-1).sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return (n - 1 - backwards).sort(dim=-1).values


@choose.accepts("a boolean mask of who stays, then nonzero")
def _(scores, budget, recent, mask=None):
    if not 0 <= recent <= budget:
        raise ValueError("recent")
    batch, heads, n = scores.shape
    if n <= budget:
        return torch.arange(n).expand(batch, heads, n).clone()
    alive = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
    order = alive[:, :, : n - recent].argsort(dim=2, stable=True)
    stays = torch.zeros(batch, heads, n, dtype=torch.bool)
    stays[:, :, n - recent :] = True
    stays.scatter_(2, order[:, :, n - budget :], True)
    return stays.nonzero()[:, 2].view(batch, heads, budget)


@choose.accepts("head by head, in lists")
def _(scores, budget, recent, mask=None):
    if recent < 0 or budget < recent:
        raise ValueError("no such window")
    batch, heads, n = scores.shape
    rows = []
    for b in range(batch):
        for h in range(heads):
            row = scores[b, h].tolist()
            real = [True] * n if mask is None else mask[b, h].tolist()
            if n <= budget:
                rows.append(list(range(n)))
                continue
            key = lambda i, row=row, real=real: (not real[i], -row[i] if real[i] else 0, -i)  # noqa: E731
            best = sorted(range(n - recent), key=key)[: budget - recent]
            rows.append(sorted(best) + list(range(n - recent, n)))
    return torch.tensor(rows).view(batch, heads, -1)
