"""Exercise 11.4: attention over pages."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.quest.attend_mistakes import attended, mistakes
from autograder.exercises.quest.fixtures import some_keys, some_pages
from autograder.inside.case import Case, call


def reference(q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, page: int = 16) -> tuple[Tensor, Tensor]:
    return attended(q, keys, values, pages, page)


attend = Exercise(
    "quest.attend",
    defines="attend_pages",
    title="Attention over pages",
    minutes=25,
    difficulty=3,
    hints=(
        "Make a list of tokens out of the list of pages: page p has the tokens from p * page on. Where the last page is short, some of "
        "them do not exist. Fetch the keys and values of the others, and attend to them as if there were no more.",
        "Head by head is good enough: `token = (pages[h][:, None] * page + torch.arange(page)).flatten()`, of which those below n stay. "
        "`logsumexp` is stable, and gives both results: the weights are exp(scores - lse). Over no tokens it is minus infinity, "
        "and a product over no tokens is 0.",
        "For each h with `k = h // (heads // kv_heads)`: `token = token[token < keys.shape[1]]`, `scores = keys[k, token].float() @ "
        "q[h].float() * d**-0.5`, `lse = scores.logsumexp(dim=0)`, `out = (scores - lse).exp() @ values[k, token].float()`. Stack "
        "the heads. Without a token `(scores - lse).exp()` is empty, so out is 0.",
    ),
    reference=reference,
    misconceptions=mistakes,
    rules=Rules(tolerance=1e-4),  # page by page, each mass of 300 is rounded to 3e-5
)


def drawn(
    g: torch.Generator,
    heads: int,
    kv_heads: int,
    n: int,
    count: int,
    page: int | None,
    dims: tuple[int, int] = (8, 6),
    dtype: torch.dtype = torch.float32,
    last: bool = True,
    scale: float = 1.0,
) -> Case:
    """So many pages of n tokens for each head, the last one with or without; what no head may read is NaN."""
    size, (dim, wide) = page or 16, dims
    keys, values = some_keys(g, kv_heads, n, dim) * scale, some_keys(g, kv_heads, n, wide)
    pages = -(-n // size)
    chosen = some_pages(g, heads, pages - 1, count - 1 if last else count)
    if last:
        chosen = torch.cat([chosen, torch.full((heads, 1), pages - 1)], dim=1)
    group = heads // kv_heads
    for k in range(kv_heads):
        read = chosen[k * group : (k + 1) * group].unique()
        unread = ~torch.isin(torch.arange(n) // size, read)
        keys[k, unread], values[k, unread] = torch.nan, torch.nan
    q = 0.5 * torch.randn(heads, dim, generator=g)
    return call(q.to(dtype), keys.to(dtype), values.to(dtype), chosen, *([] if page is None else [page]))


def large(g: torch.Generator, heads: int, n: int, count: int, page: int, size: int) -> Case:
    """Scores of whole numbers up to thousands, which are exact in whatever order they are summed."""
    keys = torch.randint(-size, size + 1, (heads, n, 16), generator=g).float()
    values = torch.randn(heads, n, 5, generator=g)
    q = 4.0 * torch.randint(-3, 4, (heads, 16), generator=g).float()
    return call(q, keys, values, some_pages(g, heads, -(-n // page), count), page)


@attend.stage(
    "attends to the tokens of its pages",
    points=2,
    exposes="softmax(q . k / sqrt(d)) over the tokens of the pages of this head, and these tokens alone: what stands in other pages may be anything, "
    "NaN too. The second result is the logarithm of the sum of the exponentials.",
)
def _(g):
    yield drawn(g, 1, 1, 20, 3, 4)
    yield drawn(g, 2, 2, 30, 2, 5)
    yield drawn(g, 3, 3, 64, 2, None)
    yield drawn(g, 2, 2, 28, 3, 4, last=False)
    yield drawn(g, 2, 2, 600, 40, 5, (16, 12))
    yield drawn(g, 2, 2, 12, 3, 4)  # all of them


@attend.stage(
    "a last page that is not full",
    points=1,
    exposes="The last page of the cache may have fewer tokens. What is not there has no weight, not even that of a zero.",
)
def _(g):
    yield drawn(g, 1, 1, 18, 3, 4)
    yield drawn(g, 2, 2, 71, 4, 5)
    yield drawn(g, 3, 3, 97, 3, None)
    yield drawn(g, 2, 2, 3, 1, 4)
    yield drawn(g, 2, 2, 25, 1, 4)  # one page with one token


@attend.stage(
    "heads that share their keys",
    points=1,
    exposes="Query head h reads keys and values of head h // (heads // kv_heads), and its own pages.",
)
def _(g):
    yield drawn(g, 6, 2, 30, 3, 4)
    yield drawn(g, 4, 1, 22, 2, 4, (6, 9))
    yield drawn(g, 6, 3, 50, 2, None, (5, 7))


@attend.stage(
    "large scores",
    points=1,
    exposes="exp(89) is more than float32 holds, and exp(-104) is 0. The largest score comes off first.",
)
def _(g):
    yield large(g, 2, 18, 3, 4, 8)
    yield large(g, 3, 40, 4, 5, 1000)
    q = 8.0 * torch.ones(2, 16)
    keys = torch.randint(-1, 2, (2, 14, 16), generator=g).float() / 8
    for shift in (8.0, -8.0):  # all scores are near 256, or -256, and multiples of 1/4
        yield call(q, keys + shift, torch.randn(2, 14, 6, generator=g), torch.tensor([[0, 2, 3], [1, 2, 3]]), 4)


@attend.stage(
    "in float32, and over no page",
    points=1,
    exposes="Both results are float32 whatever comes in, and are worked out in it. A list may be empty: the result is 0 then, and the logarithm of the "
    "sum minus infinity. The arguments stay as they were.",
    pure=True,
)
def _(g):
    yield drawn(g, 2, 2, 30, 4, 4, (64, 6), torch.bfloat16)
    yield drawn(g, 4, 2, 21, 3, 4, (32, 9), torch.float16)
    q, keys, values, *_ = drawn(g, 2, 1, 18, 3, 4).args
    yield call(q, keys, values, torch.zeros(2, 0, dtype=torch.int64), 4)
    yield drawn(g, 4, 2, 30, 3, 4)


@attend.accepts("all heads at once, what is not there masked")
def _(q, keys, values, pages, page=16):
    heads, (kv, n, d) = len(q), keys.shape
    token = (pages[:, :, None] * page + torch.arange(page)).flatten(1)  # (heads, m * page)
    if token.shape[1] == 0:
        return torch.zeros(heads, values.shape[2]), torch.full((heads,), -torch.inf)
    there, token = token < n, token.clamp(max=n - 1)
    row = (torch.arange(heads) // (heads // kv))[:, None]
    k, v = keys[row, token].float(), values[row, token].float().masked_fill(~there[..., None], 0.0)
    s = torch.einsum("hd,htd->ht", q.float(), k) / d**0.5
    s = s.masked_fill(~there, -torch.inf)
    return torch.einsum("ht,htv->hv", s.softmax(-1), v), torch.logsumexp(s, -1)


@attend.accepts("a running maximum and sum, page by page")
def _(q, keys, values, pages, page=16):
    out, masses = torch.zeros(len(q), values.shape[2]), torch.full((len(q),), -torch.inf)
    for h in range(len(q)):
        k = h * len(keys) // len(q)
        top, total, acc = -torch.inf, 0.0, torch.zeros(values.shape[2], dtype=torch.float64)
        for p in pages[h].tolist():
            some = keys[k, p * page : (p + 1) * page].double() @ q[h].double() / keys.shape[2] ** 0.5
            new = max(top, some.max().item())
            e = (some - new).exp()
            shrink = torch.tensor(top - new, dtype=torch.float64).exp()
            acc = acc * shrink + e @ values[k, p * page : (p + 1) * page].double()
            total, top = total * shrink + e.sum(), new
        if len(pages[h]):
            out[h], masses[h] = acc / total, top + total.log()
    return out, masses


@attend.accepts("slices that are joined, with scaled_dot_product_attention")
def _(q, keys, values, pages, page=16):
    group, outs, lses = len(q) // len(keys), [], []
    for h, chosen in enumerate(pages.tolist()):
        spans = [slice(p * page, (p + 1) * page) for p in chosen]
        if not spans:
            outs.append(torch.zeros(values.shape[-1]))
            lses.append(torch.tensor(-torch.inf))
            continue
        k, v = (torch.cat([x[h // group, s] for s in spans]).float() for x in (keys, values))
        outs.append(torch.nn.functional.scaled_dot_product_attention(q[None, h : h + 1].float(), k[None], v[None])[0, 0])
        lses.append((k @ q[h].float() * k.shape[-1] ** -0.5).logsumexp(0))
    return torch.stack(outs), torch.stack(lses)
