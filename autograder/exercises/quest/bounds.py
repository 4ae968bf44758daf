"""Exercise 11.1: the bounds of pages."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.quest.bounds_mistakes import extended, mistakes
from autograder.exercises.quest.fixtures import bounds_of, drawn, some_keys
from autograder.inside.case import Case, call


def reference(low: Tensor, high: Tensor, tokens: int, keys: Tensor, page: int = 16) -> tuple[Tensor, Tensor]:
    return extended(low, high, tokens, keys, page)


bounds = Exercise(
    "quest.bounds",
    defines="extend_bounds",
    title="The bounds of pages",
    minutes=15,
    difficulty=2,
    hints=(
        "The first new keys may belong to a page that has begun, and its bounds can only widen. The others begin new pages. "
        "The last page has as many tokens as are left.",
        "`tokens % page` tokens are in the open page; if that is 0, there is none. Of the new keys the first `page - tokens % "
        "page` complete it: take `torch.minimum` of its `low` and their `amin` over tokens. `split(page, dim=1)` cuts the rest "
        "into pages, of which the last may be shorter.",
        "`inside = tokens % page`. If it is not 0: `joined, keys = keys[:, : page - inside], keys[:, page - inside :]`, and the "
        "last page of `low` becomes `torch.minimum(low[:, -1:], joined.amin(dim=1, keepdim=True))`, behind `low[:, :-1]`. Then "
        "`torch.cat([low, *(part.amin(dim=1, keepdim=True) for part in keys.split(page, dim=1))], dim=1)`, unless no key is "
        "left. `high` likewise.",
    ),
    reference=reference,
    misconceptions=mistakes,
    rules=Rules(tolerance=0),
)


def append(
    g: torch.Generator, heads: int, dim: int, before: int, new: int, page: int | None, dtype: torch.dtype = torch.float32
) -> Case:
    """So many new tokens behind so many others; `page` may be left out."""
    keys = some_keys(g, heads, before + new, dim, dtype)
    low = high = keys[:, :0]
    if before:
        low, high = bounds_of(keys[:, :before], page or 16)
    return call(low.clone(), high.clone(), before, keys[:, before:].clone(), *([] if page is None else [page]))


@bounds.stage(
    "the pages of a prompt",
    points=1,
    exposes="Of every page, channel by channel, the smallest and the largest key: (kv_heads, pages, d) each. Each head has its own.",
)
def _(g):
    yield append(g, 1, 6, 0, 8, 4)
    yield append(g, 2, 7, 0, 15, 5)
    yield append(g, 3, 5, 0, 32, None)
    yield append(g, 2, 8, 0, 300, 3)
    yield append(g, 1, 6, 0, 4, 1)


@bounds.stage(
    "a last page that is not full",
    points=1,
    exposes="The last page has fewer tokens if that is how many there are. It is a page like any other, and nothing fills it up.",
)
def _(g):
    yield append(g, 1, 6, 0, 7, 4)
    yield append(g, 2, 8, 0, 3, 5)
    yield append(g, 3, 7, 0, 16 + drawn(g, 3, 12), None)
    yield append(g, 2, 6, 0, 1, 4)
    yield append(g, 2, 7, 0, 121, 6)
    low, high, tokens, keys, page = append(g, 2, 6, 0, 11, 4).args
    yield call(low, high, tokens, 1e12 * keys, page)  # no number but infinity is larger than all keys


@bounds.stage(
    "tokens that come later",
    points=2,
    exposes="New tokens first go into the page that has begun, whose bounds widen, until it is full; then pages begin. A page that is full "
    "stays as it is.",
)
def _(g):
    yield append(g, 1, 6, 6, 1, 4)  # into the open page
    yield append(g, 2, 7, 8, 1, 4)  # the last one is full: a new one
    yield append(g, 2, 8, 7, 1, 4)  # fills the page
    yield append(g, 3, 6, 6, 5, 5)  # fills it, and begins one
    yield append(g, 2, 7, 8, 17, 5)  # and more pages
    yield append(g, 2, 6, 9, 6, 3)  # whole pages behind whole ones
    yield append(g, 2, 9, 16 + drawn(g, 2, 6), 40, None)
    yield append(g, 1, 7, 200, 3, 7)
    yield append(g, 2, 7, 5, 3, 2)


@bounds.stage(
    "any dtype, on a copy",
    points=1,
    exposes="The bounds have the dtype of the keys, bfloat16 and float16 too. The bounds that you were given stay as they were.",
    pure=True,
)
def _(g):
    yield append(g, 2, 6, 7, 2, 5, torch.bfloat16)
    yield append(g, 2, 6, 10, 6, 5, torch.float16)
    yield append(g, 1, 7, 0, 9, 4, torch.bfloat16)
    yield append(g, 2, 8, 11, 1, 4)
    yield append(g, 2, 8, 9, 12, 4)


@bounds.accepts("new pages by padding with infinities, the open one by scatter")
def _(low, high, tokens, keys, page=16):
    new = keys.shape[1]
    pages = -(-(tokens + new) // page)
    place = (torch.arange(tokens, tokens + new) // page)[None, :, None].expand(keys.shape)
    out = []
    for old, how, empty in ((low, "amin", torch.inf), (high, "amax", -torch.inf)):
        room = torch.full((keys.shape[0], pages - old.shape[1], keys.shape[2]), empty)
        wide = torch.cat([old.float(), room], dim=1)
        out.append(wide.scatter_reduce(1, place, keys.float(), reduce=how).to(keys.dtype))
    return tuple(out)


@bounds.accepts("token by token")
def _(low, high, tokens, keys, page=16):
    low, high = low.clone(), high.clone()
    for t in range(keys.shape[1]):
        key = keys[:, t : t + 1]
        if (tokens + t) % page == 0:
            low, high = torch.cat([low, key], dim=1), torch.cat([high, key], dim=1)
        else:
            low[:, -1:], high[:, -1:] = torch.min(low[:, -1:], key), torch.max(high[:, -1:], key)
    return low, high


@bounds.accepts("the open page's bounds as two more keys of it")
def _(low, high, tokens, keys, page=16):
    inside = tokens % page
    n, k = keys.shape[1], keys
    whole_low, whole_high, parts = low, high, []
    if inside:
        take = min(page - inside, n)
        parts.append(torch.cat([low[:, -1:], high[:, -1:], k[:, :take]], dim=1))
        whole_low, whole_high, k = low[:, :-1], high[:, :-1], k[:, take:]
    for start in range(0, k.shape[1], page):
        parts.append(k[:, start : start + page])
    both = [torch.stack([getattr(p, name)(dim=1) for p in parts], dim=1) for name in ("amin", "amax")]
    return torch.cat([whole_low, both[0]], dim=1), torch.cat([whole_high, both[1]], dim=1)
