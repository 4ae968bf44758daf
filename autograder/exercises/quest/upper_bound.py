"""Exercise 11.2: what no product can exceed."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.quest.fixtures import bounds_of, some_keys
from autograder.inside.case import Case, call


def reference(q: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return scored(q, low, high)


def grouped(q: Tensor, bound: Tensor) -> Tensor:
    """Bounds for each query head, (heads, pages, d), in float64."""
    return bound.double().repeat_interleave(len(q) // len(bound), dim=0)


def scored(q, low, high, heads=grouped, join=lambda a, b: torch.maximum(a, b).sum(dim=-1), after=lambda scores, q: scores):
    """With exchangeable parts, for mistakes in one part."""
    low, high, wide = heads(q, low), heads(q, high), q.double()[:, None]
    return after(join(wide * low, wide * high).float(), q)


upper = Exercise(
    "quest.upper_bound",
    defines="page_scores",
    title="What no product can exceed",
    minutes=12,
    difficulty=2,
    hints=(
        "Take one channel. The key lies between low and high. Where the query is positive, the largest key gives the largest "
        "product; where it is negative, the smallest key does.",
        "In each channel the larger one of `q * low` and `q * high` is that product, whatever the sign of q. Then sum over "
        "channels. Query head h reads the bounds of key head `h // (heads // kv_heads)`: `repeat_interleave` lays each head's "
        "bounds side by side.",
        "`group = len(q) // len(low)`, `least, most = (b.float().repeat_interleave(group, dim=0) for b in (low, high))`, "
        "`wide = q.float()[:, None]`, and `torch.maximum(wide * least, wide * most).sum(dim=-1)`.",
    ),
    reference=reference,
)


def drawn(
    g: torch.Generator, heads: int, kv_heads: int, pages: int, dim: int, page: int = 4, dtype: torch.dtype = torch.float32
) -> Case:
    low, high = bounds_of(some_keys(g, kv_heads, pages * page - page // 2, dim), page)
    return call(torch.randn(heads, dim, generator=g).to(dtype), low.to(dtype), high.to(dtype))


@upper.stage(
    "the larger product of each channel",
    points=1,
    exposes="In every channel the larger one of q * low and q * high counts, then all channels are summed. Nothing is scaled.",
)
def _(g):
    low, high = torch.tensor([[[-3.0, 1, -2]]]), torch.tensor([[[-1.0, 2, 5]]])
    yield call(torch.tensor([[2.0, -1, 1]]), low, high)
    yield drawn(g, 1, 1, 5, 6)
    yield drawn(g, 1, 1, 3, 9, page=6)
    yield drawn(g, 3, 3, 6, 8)
    yield drawn(g, 2, 2, 300, 16)


@upper.stage(
    "queries of one sign, and pages of one token",
    points=1,
    exposes="A query may have channels of one sign, or zeros. A page of one token has equal bounds, and its score is the product itself.",
)
def _(g):
    low, high = bounds_of(some_keys(g, 2, 19, 7), 4)
    q = torch.rand(2, 7, generator=g) + 0.1
    yield call(q, low, high)
    yield call(-q, low, high)
    yield call(q * torch.tensor([1.0, 0, -1, 0, 0, 1, -1]), low, high)
    yield drawn(g, 2, 2, 9, 6, page=1)
    yield call(1e6 * torch.randn(2, 7, generator=g), 1e-3 * low, 1e-3 * high)
    yield call(1e-12 * torch.randn(2, 7, generator=g), low, high)  # a faint query has signs, too


@upper.stage(
    "heads that share their keys",
    points=1,
    exposes="heads is a multiple of kv_heads: with 6 heads and 2 heads of keys, heads 0, 1 and 2 share the first, 3, 4 and 5 the second. Each gets "
    "scores of its own.",
)
def _(g):
    yield drawn(g, 6, 2, 5, 8)
    yield drawn(g, 4, 1, 7, 6)
    yield drawn(g, 6, 3, 4, 9)
    yield drawn(g, 12, 4, 33, 16)


@upper.stage(
    "in float32",
    points=1,
    exposes="Whatever dtype comes in, float32 comes out, and products and sums are made in it. The arguments stay as they were.",
    pure=True,
)
def _(g):
    yield drawn(g, 2, 2, 7, 64, dtype=torch.bfloat16)
    yield drawn(g, 6, 2, 5, 128, dtype=torch.float16)
    yield drawn(g, 4, 2, 40, 32, dtype=torch.bfloat16)
    q, low, high = drawn(g, 2, 1, 6, 48).args
    yield call((300 * q).half(), (90 * low).half(), (90 * high).half())  # products beyond what float16 holds


def mistaken(name: str, says: str, **parts) -> None:
    upper.misconception(name, says)(lambda q, low, high: scored(q, low, high, **parts))


mistaken(
    "the larger of two sums",
    "You took the larger one of two sums, q . low and q . high. The choice is made in every channel, before the sum: otherwise a key with a "
    "large channel here and a small one there exceeds it.",
    join=lambda a, b: torch.maximum(a.sum(dim=-1), b.sum(dim=-1)),
)
mistaken(
    "the largest keys alone",
    "You multiplied with high alone. Where the query is negative the largest product comes from the smallest key.",
    join=lambda a, b: b.sum(dim=-1),
)
mistaken(
    "the smallest keys alone",
    "You multiplied with low alone. Where the query is positive the largest product comes from the largest key.",
    join=lambda a, b: a.sum(dim=-1),
)
mistaken(
    "the middle",
    "You multiplied with the middle of the two bounds. Some key of the page may well exceed that.",
    join=lambda a, b: ((a + b) / 2).sum(dim=-1),
)
mistaken(
    "a lower bound",
    "You took the smaller product of each channel: what no product can fall below.",
    join=lambda a, b: torch.minimum(a, b).sum(dim=-1),
)
mistaken(
    "magnitudes",
    "You took |q| times the larger magnitude of the two bounds. No product exceeds it either, but it is far looser: a channel whose products are all "
    "negative counts as positive.",
    join=lambda a, b: torch.maximum(a.abs(), b.abs()).sum(dim=-1),
)
mistaken(
    "never below zero",
    "You cut off negative channels at 0. If both products are negative, so is the larger one, and it lowers the sum.",
    join=lambda a, b: torch.maximum(a, b).clamp(min=0).sum(dim=-1),
)
mistaken(
    "the width",
    "You multiplied |q| with the width of each page, high - low. That says how uncertain the page is, not how large its products can be.",
    join=lambda a, b: (a - b).abs().sum(dim=-1),
)
mistaken(
    "both summed",
    "You added both products. One of them counts in each channel, the larger one.",
    join=lambda a, b: (a + b).sum(dim=-1),
)
mistaken(
    "the largest channel",
    "You took the largest over channels. A product of vectors is a sum over channels.",
    join=lambda a, b: torch.maximum(a, b).amax(dim=-1),
)
mistaken(
    "the mean over channels",
    "You took the mean over channels. It is a sum.",
    join=lambda a, b: torch.maximum(a, b).mean(dim=-1),
)
mistaken(
    "scaled",
    "You divided by the root of d. It would change no choice, but the scores here are bounds of q . k itself, which softmax has not scaled yet.",
    after=lambda scores, q: scores / q.shape[-1] ** 0.5,
)
mistaken(
    "softmax",
    "You took a softmax over pages. The scores are bounds of products, of any size and sign.",
    after=lambda scores, q: scores.softmax(dim=-1),
)
mistaken(
    "heads in turns",
    "You gave query head h the key head h % kv_heads. Neighbours share: it is h // (heads // kv_heads), as `repeat_interleave` lays them out, not "
    "`repeat`.",
    heads=lambda q, bound: bound.double().repeat(len(q) // len(bound), 1, 1),
)
mistaken(
    "one key head for all",
    "You gave all query heads the first head of keys. Head h reads the bounds of head h // (heads // kv_heads).",
    heads=lambda q, bound: bound.double()[:1].expand(len(q), -1, -1),
)


def other(name: str, says: str):
    return upper.misconception(name, says)


@other(
    "summed over the group",
    "You gave all heads that share their keys the same scores, summed. Here each query head has its own.",
)
def _(q, low, high):
    scores = scored(q, low, high).unflatten(0, (len(low), -1))
    return scores.sum(dim=1, keepdim=True).expand_as(scores).flatten(0, 1)


@other(
    "the mean query of a group",
    "You averaged the queries that share their keys. Here each query head has scores of its own.",
)
def _(q, low, high):
    shared = q.float().unflatten(0, (len(low), -1))
    return scored(shared.mean(dim=1, keepdim=True).expand_as(shared).flatten(0, 1), low, high)


@other(
    "a sign for the whole query",
    "You chose low or high once for the whole query, by the sign of its sum. Every channel has its own sign.",
)
def _(q, low, high):
    low, high = grouped(q, low), grouped(q, high)
    chosen = torch.where(q.double().sum(dim=-1)[:, None, None] > 0, high, low)
    return (q.double()[:, None] * chosen).sum(dim=-1).float()


@other(
    "the sign of the query alone",
    "You added up keys with the sign of the query. Its size counts too: q_d * high_d, not sign(q_d) * high_d.",
)
def _(q, low, high):
    return scored(q.sign(), low, high)


@other(
    "negative channels left out",
    "You left out the channels in which the query is negative. There q_d * low_d is the larger product.",
)
def _(q, low, high):
    return scored(q.clamp(min=0), low, high)


@other(
    "in half precision",
    "You multiplied in the dtype of the query, and turned the result to float32. Turn the arguments first: half the digits are lost.",
)
def _(q, low, high):
    group = len(q) // len(low)
    least, most = low.repeat_interleave(group, dim=0), high.repeat_interleave(group, dim=0)
    return torch.maximum(q[:, None] * least, q[:, None] * most).sum(dim=-1).float()


@other("in the dtype of the query", "Your scores have the dtype of the query. They are float32 whatever comes in.")
def _(q, low, high):
    return scored(q, low, high).to(q.dtype)


@other("pages first", "Your result is (pages, heads). Heads come first.")
def _(q, low, high):
    return scored(q, low, high).T


@upper.accepts("as in the authors' evaluation code, by the sign")
def _(q, low, high):
    q, kv = q.float(), low.shape[0]
    chosen = torch.where(q.view(kv, -1, 1, q.shape[1]) > 0, high.float()[:, None], low.float()[:, None])
    return torch.einsum("kgd,kgpd->kgp", q.view(kv, -1, q.shape[1]), chosen).flatten(0, 1)


@upper.accepts("two matrix products")
def _(q, low, high):
    per = q.float().reshape(low.shape[0], -1, q.shape[1])
    return (torch.relu(per) @ high.float().mT - torch.relu(-per) @ low.float().mT).flatten(0, 1)


@upper.accepts("page by page")
def _(q, low, high):
    out = torch.empty(len(q), low.shape[1])
    for h, query in enumerate(q.float()):
        k = h * len(low) // len(q)
        for p in range(low.shape[1]):
            out[h, p] = torch.stack([query * low[k, p].float(), query * high[k, p].float()]).max(dim=0).values.sum()
    return out


@upper.accepts("the middle, and half of the width")
def _(q, low, high):
    group = len(q) // len(low)
    a, b, wide = (x.double() for x in (low, high, q))
    middle, half = ((a + b) / 2).repeat_interleave(group, 0), ((b - a) / 2).repeat_interleave(group, 0)
    return ((wide[:, None] * middle).sum(-1) + (wide.abs()[:, None] * half).sum(-1)).float()
