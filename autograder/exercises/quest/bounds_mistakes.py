"""Mistakes of exercise 11.1."""

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes
from autograder.exercises.quest.fixtures import bounds_of

mistakes = Mistakes()


def extended(low: Tensor, high: Tensor, tokens: int, keys: Tensor, page: int = 16) -> tuple[Tensor, Tensor]:
    """Token by token."""
    least, most = list(low.unbind(dim=1)), list(high.unbind(dim=1))
    for t, key in enumerate(keys.unbind(dim=1), tokens):
        if t // page == len(least):
            least.append(key)
            most.append(key)
        else:
            least[-1], most[-1] = torch.minimum(least[-1], key), torch.maximum(most[-1], key)
    return torch.stack(least, dim=1), torch.stack(most, dim=1)


def mistaken(name: str, says: str, *, before=lambda low, high, tokens, keys, page: (low, high, tokens, keys, page), after=None):
    """Something else goes in, or is made of what comes out."""

    def wrong(low, high, tokens, keys, page=16):
        made = extended(*before(low, high, tokens, keys, page))
        return after(*made) if after else made

    mistakes(name, says)(wrong)


mistaken("swapped", "You returned the largest first. low comes first, then high.", after=lambda low, high: (high, low))
mistaken(
    "magnitudes",
    "You took bounds of the magnitudes |k|. A negative key has to stay negative: the bound of a product needs the signs.",
    before=lambda low, high, tokens, keys, page: (low, high, tokens, keys.abs(), page),
)
mistaken(
    "16 whatever the page",
    "You cut pages of 16 tokens. How many a page has is an argument.",
    before=lambda low, high, tokens, keys, page: (low, high, tokens, keys, 16),
)
mistaken(
    "the newest token only",
    "You took in only the last of the new keys. All of them count: a prompt brings many at once.",
    before=lambda low, high, tokens, keys, page: (low, high, tokens, keys[:, -1:], page),
)
mistaken(
    "one for all heads",
    "Your bounds are the same for all heads. Each head of keys has its own: take the smallest over the tokens of a page, not over heads.",
    after=lambda low, high: (low.amin(dim=0, keepdim=True).expand_as(low), high.amax(dim=0, keepdim=True).expand_as(high)),
)
mistaken(
    "one for all channels",
    "You took the smallest and the largest over channels as well. Each channel has its own bounds: reduce over the tokens of a page alone.",
    after=lambda low, high: (low.amin(dim=2, keepdim=True).expand_as(low), high.amax(dim=2, keepdim=True).expand_as(high)),
)
mistaken(
    "cumulative",
    "Your bounds are those of all tokens up to the end of the page. A page's bounds are of its own tokens.",
    after=lambda low, high: (low.cummin(dim=1).values, high.cummax(dim=1).values),
)
mistaken(
    "float32",
    "Your bounds are in float32. They have the dtype of the keys: twice as many bytes would be read at every step.",
    after=lambda low, high: (low.float(), high.float()),
)
mistaken(
    "middle and half width",
    "You returned the middle of each page and half of its width. That holds the same, but asked for are the smallest and the largest.",
    after=lambda low, high: ((low + high) / 2, (high - low) / 2),
)
mistaken(
    "as one tensor",
    "You stacked the two bounds into one tensor. Return two, low and high.",
    after=lambda low, high: torch.stack([low, high]),
)


@mistakes(
    "new pages at every call",
    "New keys always begin a page in your bounds. They first fill the page that has begun, if tokens % page is not 0.",
)
def _(low, high, tokens, keys, page=16):
    return tuple(torch.cat(pair, dim=1) for pair in zip((low, high), bounds_of(keys, page), strict=True))


@mistakes(
    "the open page forgotten",
    "The open page has the bounds of its new keys alone in your result. Those that were there before count too: take the smaller of both.",
)
def _(low, high, tokens, keys, page=16):
    inside = tokens % page
    if not inside:
        return extended(low, high, tokens, keys, page)
    room = page - inside
    parts = [keys[:, :room], *(keys[:, room:].split(page, dim=1) if keys.shape[1] > room else ())]
    new = torch.stack([p.amin(dim=1) for p in parts], dim=1), torch.stack([p.amax(dim=1) for p in parts], dim=1)
    return torch.cat([low[:, :-1], new[0]], dim=1), torch.cat([high[:, :-1], new[1]], dim=1)


@mistakes(
    "all into the open page",
    "You put all new keys into the page that has begun. It takes page - tokens % page of them, and the rest begins new pages.",
)
def _(low, high, tokens, keys, page=16):
    if not tokens % page:
        return extended(low, high, tokens, keys, page)
    least, most = low.clone(), high.clone()
    least[:, -1], most[:, -1] = torch.minimum(low[:, -1], keys.amin(dim=1)), torch.maximum(high[:, -1], keys.amax(dim=1))
    return least, most


@mistakes(
    "a full page goes on",
    "With tokens % page at 0 you still add to the last page. It is full: a new one begins.",
)
def _(low, high, tokens, keys, page=16):
    if tokens % page or not tokens:
        return extended(low, high, tokens, keys, page)
    least, most = low.clone(), high.clone()
    first = keys[:, 0]
    least[:, -1], most[:, -1] = torch.minimum(low[:, -1], first), torch.maximum(high[:, -1], first)
    return extended(least, most, tokens, keys[:, 1:], page) if keys.shape[1] > 1 else (least, most)


@mistakes(
    "filled up with zeros",
    "You filled the last page up with zeros, and they are in its bounds. Where all its keys are above 0, zero becomes the smallest: "
    "the bound gets loose. Reduce over the tokens that are there.",
)
def _(low, high, tokens, keys, page=16):
    least, most = extended(low, high, tokens, keys, page)
    if (tokens + keys.shape[1]) % page:
        least, most = least.clone(), most.clone()
        least[:, -1], most[:, -1] = least[:, -1].clamp(max=0), most[:, -1].clamp(min=0)
    return least, most


@mistakes(
    "the last page lost",
    "The last page is missing where it is not full. The newest tokens are in it: it needs bounds like any other.",
)
def _(low, high, tokens, keys, page=16):
    least, most = extended(low, high, tokens, keys, page)
    full = (tokens + keys.shape[1]) // page
    return least[:, :full], most[:, :full]


@mistakes(
    "cut from the end",
    "Your pages are cut from the end, so that the first one is short. Token t is in page t // page: the last one is short.",
)
def _(low, high, tokens, keys, page=16):
    if tokens:
        return extended(low, high, tokens, keys, page)
    least, most = bounds_of(keys.flip(1), page)
    return least.flip(1), most.flip(1)


@mistakes(
    "means",
    "You keep the mean of each page. No product is held by it: a page may have one key that matters, and a mean hides it.",
)
def _(low, high, tokens, keys, page=16):
    least, most = extended(low, high, tokens, keys, page)
    first = -(-tokens // page)
    rest = keys[:, (-tokens) % page :]
    if rest.shape[1]:
        mean = torch.stack([part.float().mean(dim=1) for part in rest.split(page, dim=1)], dim=1).to(keys.dtype)
        least, most = torch.cat([least[:, :first], mean], dim=1), torch.cat([most[:, :first], mean], dim=1)
    return least, most


@mistakes(
    "whole keys",
    "You took one whole key of each page, that of the smallest or largest norm. The bounds are made channel by channel, of different keys.",
)
def _(low, high, tokens, keys, page=16):
    least, most = extended(low, high, tokens, keys, page)
    rest, first = keys[:, (-tokens) % page :], -(-tokens // page)
    if not rest.shape[1]:
        return least, most
    heads, chosen = torch.arange(len(keys)), ([], [])
    for part in rest.split(page, dim=1):
        norm = part.float().norm(dim=2)
        chosen[0].append(part[heads, norm.argmin(dim=1)])
        chosen[1].append(part[heads, norm.argmax(dim=1)])
    return tuple(
        torch.cat([old[:, :first], torch.stack(new, dim=1)], dim=1) for old, new in zip((least, most), chosen, strict=True)
    )


@mistakes(
    "the new pages alone",
    "You returned the pages that have changed. Return the bounds of all pages: those that are full stand before them, unchanged.",
)
def _(low, high, tokens, keys, page=16):
    least, most = extended(low, high, tokens, keys, page)
    return least[:, tokens // page :].clone(), most[:, tokens // page :].clone()


@mistakes(
    "in place", "The result is right, but you changed the bounds that you were given: `low[:, -1] = ...` does. Work on a copy."
)
def _(low, high, tokens, keys, page=16):
    made = extended(low, high, tokens, keys, page)
    if tokens % page:
        low[:, -1], high[:, -1] = (new[:, low.shape[1] - 1] for new in made)
    return made


@mistakes("a page of another length", "If page is left out it is 16, as in the first line that you were given.")
def _(low, high, tokens, keys, page=8):
    return extended(low, high, tokens, keys, page)
