"""Mistakes of exercise 11.3."""

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def ranked(scores: Tensor) -> Tensor:
    """The pages, largest score first, and of equal scores the earlier page."""
    return (
        torch.tensor([sorted(range(len(row)), key=lambda i: (-row[i], i)) for row in scores.tolist()]).view(scores.shape).long()
    )


def selected(
    scores: Tensor,
    budget: int,
    page: int = 16,
    *,
    count=lambda budget, page, pages: min(budget // page, pages),
    rank=ranked,
    after=lambda chosen, scores: chosen,
) -> Tensor:
    """With exchangeable parts, for mistakes in one part."""
    heads, pages = scores.shape
    if budget < page:
        raise ValueError(f"budget must hold a page of {page} tokens, got {budget}")
    n = count(budget, page, pages)
    last = torch.full((heads, 1), pages - 1)
    best = rank(scores[:, :-1])[:, : n - 1] if pages > 1 else last[:, :0]
    return after(torch.cat([best, last], dim=1).sort(dim=1).values, scores)


def mistaken(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda scores, budget, page=16: selected(scores, budget, page, **parts))


mistaken(
    "a budget of pages",
    "You took the budget for a number of pages. It is one of tokens: budget // page pages.",
    count=lambda budget, page, pages: min(budget, pages),
)
mistaken(
    "the last page on top",
    "You read budget // page pages and the last one besides. It is one of them: the budget is what a step may read.",
    count=lambda budget, page, pages: min(budget // page + 1, pages),
)
mistaken(
    "rounded up",
    "You rounded budget / page up. The pages have to fit into the budget: 23 tokens hold 5 pages of 4.",
    count=lambda budget, page, pages: min(-(-budget // page), pages),
)
mistaken(
    "rounded",
    "You rounded budget / page to the nearest number. The pages have to fit into the budget: 23 tokens hold 5 pages of 4.",
    count=lambda budget, page, pages: min(int(budget / page + 0.5), pages),
)
mistaken(
    "three pages at least",
    "You read three pages at least, as the authors' evaluation code does. A budget of two pages is two pages, as in their kernels.",
    count=lambda budget, page, pages: min(max(3, budget // page), pages),
)
mistaken(
    "one page too few",
    "You read one page less than the budget holds.",
    count=lambda budget, page, pages: min(max(1, budget // page - 1), pages),
)
mistaken(
    "the smallest scores",
    "You took the pages with the smallest scores. The largest can matter most.",
    rank=lambda s: ranked(-s),
)
mistaken(
    "by magnitude",
    "You ranked by |score|. A score far below 0 says that no key of the page matters.",
    rank=lambda s: ranked(s.abs()),
)
mistaken(
    "later pages first",
    "Among equal scores you took the later page. The earlier one comes first.",
    rank=lambda s: s.shape[1] - 1 - ranked(s.flip(1)),
)
mistaken(
    "topk",
    "You took the largest scores with `topk` or a sort that is not stable: which of several equal ones it takes is left to chance. "
    "Among equal scores the earlier page comes first: sort with `stable=True`.",
    rank=lambda s: s.topk(s.shape[1], dim=1).indices if s.shape[1] < 17 else _unstable(s),
)
mistaken(
    "the most recent pages",
    "You read the most recent pages, whatever their scores. That is a window.",
    rank=lambda s: torch.arange(s.shape[1] - 1, -1, -1).expand(s.shape),
)
mistaken(
    "the same for all heads",
    "All heads read the same pages in your result, by the sum of their scores. Each head chooses for itself.",
    rank=lambda s: ranked(s.sum(dim=0, keepdim=True).expand_as(s)),
)
mistaken("not sorted", "You return the pages by score. They are to be ascending: sort them.", after=lambda chosen, scores: chosen.gather(
    1, scores.gather(1, chosen).argsort(dim=1, descending=True, stable=True)))  # fmt: skip
mistaken(
    "descending", "You sorted the pages descending. They are to be ascending.", after=lambda chosen, scores: chosen.flip(1)
)
mistaken("int32", "Your pages are int32. They are int64, as indices are in torch.", after=lambda chosen, scores: chosen.int())
mistaken(
    "a mask",
    "You returned a mask over all pages. Asked for are the numbers of those that are read.",
    after=lambda chosen, scores: torch.zeros(scores.shape, dtype=torch.bool).scatter(1, chosen, True),
)
mistaken(
    "the first page always",
    "You always read the first page as well. That may be wise, but nothing said so: only the last page is read whatever its score.",
    after=lambda chosen, scores: torch.cat([chosen[:, :1] * 0, chosen[:, 1:]], dim=1) if chosen.shape[1] > 1 else chosen,
)
mistaken(
    "the first page instead of the last",
    "You always read the first page. It is the last one that is read whatever its score: the newest token is in it.",
    after=lambda chosen, scores: (
        scores.shape[1] - 1 - selected(scores.flip(1), 1, 1).expand_as(chosen) * 0 - chosen.flip(1)
        if chosen.shape[1] == 1
        else selected(scores.roll(-1, dims=1), chosen.shape[1], 1).add(1).remainder(scores.shape[1]).sort(dim=1).values
    ),
)


def _unstable(scores: Tensor) -> Tensor:
    """As a sort that is not stable may leave equal scores."""
    return torch.stack([row.topk(len(row)).indices for row in scores])


@mistakes(
    "the last page like any other",
    "You chose by score alone. The last page holds the newest tokens, its bounds are still growing, and it is read in any case.",
)
def _(scores, budget, page=16):
    if budget < page:
        raise ValueError("budget")
    return ranked(scores)[:, : budget // page].sort(dim=1).values


@mistakes(
    "the last page twice",
    "You took the best of all pages and added the last one: where it was among them, it is there twice. Choose among the pages before it.",
)
def _(scores, budget, page=16):
    if budget < page:
        raise ValueError("budget")
    count = min(budget // page, scores.shape[1])
    last = torch.full((len(scores), 1), scores.shape[1] - 1)
    return torch.cat([ranked(scores)[:, : count - 1], last], dim=1).sort(dim=1).values


@mistakes(
    "16 whatever the page",
    "You divide the budget by 16. How many tokens a page has is an argument.",
)
def _(scores, budget, page=16):
    return selected(scores, budget, 16)


@mistakes("a page of another length", "If page is left out it is 16, as in the first line that you were given.")
def _(scores, budget, page=8):
    return selected(scores, budget, page)


@mistakes(
    "a page in any case",
    "A budget that holds no page is refused: a ValueError if budget < page. You read a page all the same.",
)
def _(scores, budget, page=16):
    return selected(scores, max(budget, page), page)


@mistakes(
    "an empty list",
    "A budget that holds no page is refused: a ValueError if budget < page. You return an empty list, over which there is no softmax.",
)
def _(scores, budget, page=16):
    return selected(scores, budget, page) if budget >= page else torch.zeros(len(scores), 0, dtype=torch.int64)


@mistakes(
    "-1 where there is none",
    "Your result has budget // page columns also where there are fewer pages. If the budget holds all pages, return all.",
)
def _(scores, budget, page=16):
    chosen = selected(scores, budget, page)
    return torch.nn.functional.pad(chosen, (0, budget // page - chosen.shape[1]), value=-1)


@mistakes(
    "tokens instead of pages",
    "You return the first token of each page. Asked for are the numbers of pages.",
)
def _(scores, budget, page=16):
    return selected(scores, budget, page) * page


@mistakes(
    "in place",
    "The pages are right, but you changed the scores that you were given: `scores[:, -1] = ...` does. Work on a copy.",
)
def _(scores, budget, page=16):
    chosen = selected(scores, budget, page)
    scores[:, -1] = torch.inf
    return chosen
