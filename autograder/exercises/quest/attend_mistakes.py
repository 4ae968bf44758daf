"""Mistakes of exercise 11.4."""

import math

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def tokens_of(chosen: list[int], page: int, n: int) -> list[int]:
    return [t for p in chosen for t in range(p * page, min((p + 1) * page, n))]


def attended(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    page: int = 16,
    *,
    head=lambda h, heads, kv_heads: h // (heads // kv_heads),
    tokens=tokens_of,
    scale=lambda d, wide: d**-0.5,
    weigh=lambda s: (s - s.logsumexp(dim=0)).exp(),
    mass=lambda s: s.logsumexp(dim=0),
    after=lambda out, masses: (out, masses),
) -> tuple[Tensor, Tensor]:
    """Head by head, in float64, with exchangeable parts."""
    outs, masses, (kv_heads, n, d) = [], [], keys.shape
    for h, chosen in enumerate(pages.tolist()):
        k, token = head(h, len(q), kv_heads), torch.tensor(tokens(chosen, page, n), dtype=torch.int64)
        some, theirs = (
            torch.cat([x[k], x.new_zeros(page, x.shape[2])]).double()[token] for x in (keys, values)
        )  # zeros: beyond
        s = some @ q[h].double() * scale(d, values.shape[2])
        outs.append(weigh(s) @ theirs)
        masses.append(torch.as_tensor(mass(s)))
    return after(torch.stack(outs).float(), torch.stack(masses).float())


def mistaken(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda q, keys, values, pages, page=16: attended(q, keys, values, pages, page, **parts))


mistaken("not scaled", "You did not scale the products by 1 / sqrt(d).", scale=lambda d, wide: 1.0)
mistaken("scaled by d", "You divided by d. The scale is 1 / sqrt(d).", scale=lambda d, wide: 1 / d)
mistaken(
    "scaled by the width of values",
    "You took d from the values. The scale is 1 / sqrt(d) with the d of queries and keys.",
    scale=lambda d, wide: wide**-0.5,
)
mistaken(
    "heads in turns",
    "You gave query head h the keys of head h % kv_heads. Neighbours share: h // (heads // kv_heads).",
    head=lambda h, heads, kv_heads: h % kv_heads,
)
mistaken(
    "one key head for all",
    "All query heads read the first head of keys. Head h reads head h // (heads // kv_heads).",
    head=lambda h, heads, kv: 0,
)
mistaken(
    "pages as tokens",
    "You took numbers of pages for numbers of tokens. Page p has the tokens from p * page to (p + 1) * page - 1.",
    tokens=lambda chosen, page, n: chosen,
)
mistaken(
    "one token short",
    "The last token of each page is missing.",
    tokens=lambda chosen, page, n: [t for p in chosen for t in range(p * page, min((p + 1) * page, n) - 1)],
)
mistaken(
    "16 whatever the page",
    "Your pages have 16 tokens. How many a page has is an argument.",
    tokens=lambda chosen, page, n: [t for p in chosen for t in range(p * 16, (p + 1) * 16) if t < n],
)
mistaken(
    "zeros count",
    "The last page is filled up with zeros in your result. A score of 0 has the weight exp(0), so tokens that do not exist take a share.",
    tokens=lambda chosen, page, n: [min(t, n) for p in chosen for t in range(p * page, (p + 1) * page)],
)
mistaken(
    "the last token again",
    "Where the last page is short you read the last token several times. Leave out what does not exist: clamping alone repeats it.",
    tokens=lambda chosen, page, n: [min(t, n - 1) for p in chosen for t in range(p * page, (p + 1) * page)],
)
mistaken(
    "the short page left out",
    "You left out the last page where it is not full. The newest tokens are in it.",
    tokens=lambda chosen, page, n: [t for t in tokens_of(chosen, page, n) if t < n // page * page],
)
mistaken(
    "exponentials as they are",
    "exp(score) overflows, or all of them are 0. Take the largest score off before the exponential; it cancels.",
    weigh=lambda s: s.float().exp().double() / s.float().exp().sum().double() if len(s) else s,
    mass=lambda s: s.float().exp().sum().log() if len(s) else -math.inf,
)
mistaken(
    "exponentials as they are in the logarithm",
    "The first result is right. The second is the logarithm of a sum that overflows, or is 0. `logsumexp` takes the largest score off first.",
    mass=lambda s: s.float().exp().sum().log(),
)
mistaken(
    "the largest score not added back",
    "Your second result is the logarithm of the sum relative to the largest score. Add the score that you took off.",
    mass=lambda s: (s - s.max()).exp().sum().log() if len(s) else -math.inf,
)
mistaken(
    "the largest score",
    "Your second result is the largest score. Asked for is the logarithm of the sum of all exponentials.",
    mass=lambda s: s.max() if len(s) else -math.inf,
)
mistaken(
    "the mean of the exponentials",
    "Your second result is the logarithm of the mean of the exponentials. It is that of their sum: how many there are counts.",
    mass=lambda s: s.logsumexp(dim=0) - math.log(len(s)) if len(s) else -math.inf,
)
mistaken(
    "base 2",
    "Your second result is a logarithm to base 2. It is the natural one.",
    mass=lambda s: s.logsumexp(dim=0) / math.log(2),
)
mistaken(
    "not normalised",
    "You did not divide by the sum of the exponentials. The first result is a mean of values, with weights that sum to 1.",
    weigh=lambda s: (s - s.max()).exp() if len(s) else s,
)
mistaken("the likeliest token", "You return the value of the token with the largest score. It is a mean over all tokens of the pages.", weigh=lambda s: (
    torch.zeros_like(s).index_fill(0, s.argmax(), 1.0) if len(s) else s))  # fmt: skip
mistaken(
    "a finite number for no page",
    "Over no page the logarithm of the sum is minus infinity, which a merge weighs with exactly 0. You return a finite number.",
    mass=lambda s: s.logsumexp(dim=0) if len(s) else -1e4,
)
mistaken(
    "zero for no page",
    "Over no page the logarithm of the sum is minus infinity. 0 would be that of one token with the score 0.",
    mass=lambda s: s.logsumexp(dim=0) if len(s) else 0.0,
)
mistaken(
    "only the output",
    "You return one tensor. Asked for are two: the result, and the logarithm of the sum.",
    after=lambda out, masses: out,
)
mistaken(
    "the mass first",
    "You return the logarithm of the sum first. The result comes first.",
    after=lambda out, masses: (masses, out),
)


@mistakes(
    "all pages read",
    "You read all keys and values, and mask afterwards. What is masked is read all the same, and nothing is saved; and a weight of 0 times NaN is NaN. "
    "Fetch the chosen pages alone.",
)
def _(q, keys, values, pages, page=16):
    group, n = len(q) // len(keys), keys.shape[1]
    mask = (torch.arange(n) // page == pages[..., None]).any(dim=1)
    wide = (x.double().repeat_interleave(group, dim=0) for x in (keys, values))
    k, v = next(wide), next(wide)
    s = ((k @ q.double()[..., None])[..., 0] * q.shape[1] ** -0.5).masked_fill(~mask, -torch.inf)
    return (s.softmax(dim=-1)[:, None] @ v)[:, 0].float(), s.logsumexp(dim=-1).float()


@mistakes(
    "softmax over everything",
    "Your softmax is over all tokens, and the chosen ones keep the weights that they have there. It is over the tokens of the chosen pages: "
    "their weights sum to 1.",
)
def _(q, keys, values, pages, page=16):
    everything = torch.arange(-(-keys.shape[1] // page)).expand(len(q), -1)
    keys, values = keys.nan_to_num(), values.nan_to_num()
    out, mass = attended(q, keys, values, pages, page)
    total = attended(q, keys, values, everything, page)[1]
    return out * (mass - total).exp()[:, None], total


@mistakes(
    "mass of unscaled scores",
    "The first result is right. In the second the products are not divided by sqrt(d): both are of the same scores.",
)
def _(q, keys, values, pages, page=16):
    return attended(q, keys, values, pages, page)[0], attended(q, keys, values, pages, page, scale=lambda d, wide: 1.0)[1]


@mistakes("the pages of the first head", "All heads read the pages of the first one in your result. Each has its own list.")
def _(q, keys, values, pages, page=16):
    return attended(q, keys, values, pages[:1].expand_as(pages), page)


@mistakes(
    "in half precision",
    "Your numbers are those of a softmax in the dtype of the query. Turn q, keys and values to float32 first.",
)
def _(q, keys, values, pages, page=16):
    return attended(
        q, keys, values, pages, page,
        weigh=lambda s: s.to(q.dtype).float().softmax(dim=0).to(q.dtype).double(),
        mass=lambda s: s.to(q.dtype).float().logsumexp(dim=0).to(q.dtype),
    )  # fmt: skip


@mistakes(
    "in the dtype of the query",
    "Your results have the dtype of the query. Both are float32, since they are to be merged with others.",
)
def _(q, keys, values, pages, page=16):
    return tuple(x.to(q.dtype) for x in attended(q, keys, values, pages, page))


@mistakes("a page of another length", "If page is left out it is 16, as in the first line that you were given.")
def _(q, keys, values, pages, page=8):
    return attended(q, keys, values, pages, page)
