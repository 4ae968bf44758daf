"""Exercise 10.1: attention that shows its probabilities."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.h2o.attend_mistakes import mistakes
from autograder.exercises.h2o.fixtures import attention, left_padding, tokens
from autograder.inside.case import Case, call


def reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    out, p = attention(q, k, v, mask)
    return out.float(), p.float()


attend = Exercise(
    "h2o.attend",
    defines="attend",
    title="Attention that shows its probabilities",
    minutes=15,
    difficulty=2,
    hints=(
        "Repeat the heads of keys and values so that each query head has its own, then it is attention as you know it: products, "
        "scale, mask, softmax, sum of values. Two things may not be seen: keys of later tokens, and padding.",
        "In float32 from the start: `q.float()`. Heads are repeated with `repeat_interleave(group, dim=1)`, so that neighbours share. The last "
        "query stands at the last key: `torch.ones(new, held, dtype=torch.bool).tril(held - new)` is True where a query may look. Set "
        "what it may not see to minus infinity, and after the softmax turn the NaN of rows that see nothing into 0.",
        "`k = k.float().repeat_interleave(group, dim=1)`, the same with v and, if there is one, the mask; `scores = q.float() @ k.mT / "
        "math.sqrt(q.shape[-1])`; `seen = torch.ones(new, held, dtype=torch.bool).tril(held - new)`, and `seen & mask[:, :, None]` with "
        "a mask; `p = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1).nan_to_num(0.0)`; return `p @ v, p`.",
    ),
    reference=reference,
    misconceptions=mistakes,
    rules=Rules(exact_zeros=True),
)


def whole(*tensors: Tensor) -> list[Tensor]:
    """Multiples of 1/4, and products of these are exact."""
    return [(4 * x).round() / 4 for x in tensors]


def attend_case(
    g: torch.Generator,
    batch: int,
    heads: int,
    kv_heads: int,
    new: int,
    held: int,
    dim: int,
    v_dim: int,
    pads: list[int] | None = None,
    dtype: torch.dtype = torch.float32,
    spread: float = 0.0,
) -> Case:
    """The last `new` queries of a text; `pads` tokens of each row are padding. With a `spread` products are large, and exact."""
    while True:
        q, k, v = tokens(g, batch, heads, kv_heads, held, dim, v_dim, heavy=2)
        q, k, v = (x.to(dtype) for x in whole(spread * q, k, v)) if spread else (x.to(dtype) for x in (q, k, v))
        q = q[:, :, held - new :].contiguous()
        best = (q.float() @ k.float().repeat_interleave(heads // kv_heads, dim=1).mT).topk(min(2, held)).values
        if not spread or (best[..., 0] - best[..., -1] > 20 * dim**0.5).all():  # one key has all, however products are scaled
            break
    if pads is None:
        return call(q, k, v)
    return call(q, k, v, mask=left_padding(pads, held)[:, None].repeat(1, kv_heads, 1))


@attend.stage(
    "one new token",
    points=1,
    exposes="A step of decoding: one query looks at all keys. Probabilities are the softmax over keys of q . k / sqrt(head_dim); the result is the sum "
    "of the values, weighted with them. Return both, the result first.",
)
def _(g):
    yield attend_case(g, 1, 1, 1, 1, 5, 4, 3)
    yield attend_case(g, 2, 3, 3, 1, 7, 6, 5)
    yield attend_case(g, 3, 2, 2, 1, 1, 4, 6)
    yield attend_case(g, 1, 2, 2, 1, 300, 5, 2)


@attend.stage(
    "query heads that share keys",
    points=1,
    exposes="With heads / kv_heads = group, query heads 0 to group - 1 share the first head of keys and values, the next group the second, and so on.",
)
def _(g):
    yield attend_case(g, 1, 6, 2, 1, 5, 4, 3)
    yield attend_case(g, 2, 6, 3, 1, 7, 5, 4)
    yield attend_case(g, 2, 5, 1, 1, 6, 3, 2)
    yield attend_case(g, 1, 9, 3, 1, 40, 8, 7)


@attend.stage(
    "several new tokens: nobody looks ahead",
    points=1,
    exposes="A prompt, or a piece of one: the last query stands at the last key, the one before it at the key before. A query sees its own key and those "
    "before; all other probabilities are exactly 0.",
)
def _(g):
    yield attend_case(g, 1, 2, 2, 5, 5, 4, 3)  # a prompt
    yield attend_case(g, 2, 6, 2, 3, 8, 5, 4)  # the next piece
    yield attend_case(g, 2, 4, 1, 7, 7, 3, 6)
    yield attend_case(g, 1, 3, 3, 4, 5, 6, 2)
    yield attend_case(g, 1, 2, 1, 70, 150, 4, 3)


@attend.stage(
    "padding is not seen",
    points=1,
    exposes="Where mask is False there is no token: its probability is exactly 0, and the others add up to 1. A query that sees nothing at all, since "
    "it is padding itself, has zeros, not NaN.",
)
def _(g):
    yield attend_case(g, 3, 2, 2, 1, 7, 4, 3, pads=[0, 2, 6])
    yield attend_case(g, 2, 6, 3, 5, 5, 4, 3, pads=[0, 3])
    yield attend_case(g, 3, 4, 2, 2, 6, 5, 2, pads=[5, 0, 1])
    q, k, v = tokens(g, 2, 6, 3, 9, 5, 4, heavy=2)  # after an eviction each head holds padding in other places
    mask = torch.rand(2, 3, 9, generator=g) < torch.tensor([0.3, 0.9])[:, None, None]
    mask[0, 1] = False  # a head that sees nothing at all
    yield call(q[:, :, -1:].contiguous(), k, v, mask)
    seen_last = torch.rand(2, 3, 9, generator=g).argsort(dim=-1) < 4
    yield call(q[:, :, -3:].contiguous(), k, v, seen_last)
    # products of millions: keys masked with -1e6 would get all of the weight, and the largest of all is no key that a query sees
    for sign in (-1.0, 1.0):
        ranks = 1.0 + torch.rand(2, 3, 9, 1, generator=g).argsort(dim=2)
        q, k = torch.full((2, 6, 3, 4), sign * 2**10), 2**10 * ranks.expand(-1, -1, -1, 4).clone()
        yield call(q, k, torch.randn(2, 3, 9, 5, generator=g), seen_last)


@attend.stage(
    "in float32, whatever comes in",
    points=1,
    exposes="Queries, keys and values may be bfloat16. Make float32 of them first: products, softmax and sum are float32, and so are both results. "
    "Large products do not overflow. The arguments stay as they were.",
    pure=True,
)
def _(g):
    yield attend_case(g, 2, 4, 2, 3, 6, 5, 4, dtype=torch.bfloat16)
    yield attend_case(g, 1, 3, 1, 1, 60, 8, 3, dtype=torch.bfloat16, pads=[4])
    yield attend_case(g, 2, 2, 2, 1, 8, 4, 3, spread=200.0)
    yield attend_case(g, 1, 6, 3, 1, 7, 16, 2, spread=60.0)


@attend.accepts("scaled_dot_product_attention, with the identity for values")
def _(q, k, v, mask=None):
    q, k, v = q.float(), k.float(), v.float()
    group, new, held = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    seen = (torch.arange(held) <= torch.arange(held - new, held)[:, None])[None, None]
    if mask is not None:
        seen = seen & mask.repeat_interleave(group, 1).unsqueeze(2)
    eye = torch.eye(held).expand(*k.shape[:2], held, held)
    p = F.scaled_dot_product_attention(q, k, eye, attn_mask=seen).masked_fill(~seen, 0.0)
    p = torch.where(seen.any(-1, keepdim=True), p, torch.zeros_like(p))
    return torch.matmul(p, v), p


@attend.accepts("einsum over groups, exp by hand")
def _(q, k, v, mask=None):
    b, heads, new, dim = q.shape
    kv_heads, held = k.shape[1], k.shape[2]
    grouped = q.reshape(b, kv_heads, heads // kv_heads, new, dim).to(torch.float32) * dim**-0.5
    logits = torch.einsum("bkgqd,bknd->bkgqn", grouped, k.to(torch.float32))
    allowed = torch.ones(b, kv_heads, 1, 1, held, dtype=torch.bool) if mask is None else mask[:, :, None, None]
    allowed = allowed & ~torch.triu(torch.ones(new, held, dtype=torch.bool), diagonal=held - new + 1)
    logits = logits.masked_fill(~allowed, float("-inf"))
    top = logits.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
    weights = torch.exp(logits - top)
    p = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    out = torch.einsum("bkgqn,bknd->bkgqd", p, v.to(torch.float32))
    return out.reshape(b, heads, new, -1), p.reshape(b, heads, new, held)


@attend.accepts("query by query, over the keys that it sees")
def _(q, k, v, mask=None):
    batch, heads, new, _ = q.shape
    held, group = k.shape[2], heads // k.shape[1]
    out, p = torch.zeros(batch, heads, new, v.shape[3]), torch.zeros(batch, heads, new, held)
    for b in range(batch):
        for h in range(heads):
            for i in range(new):
                last = held - new + i
                real = [j for j in range(last + 1) if mask is None or bool(mask[b, h // group, j])]
                if real:
                    keys = k[b, h // group, real].double()
                    p[b, h, i, real] = (keys @ q[b, h, i].double() / math.sqrt(q.shape[3])).softmax(0).float()
                    out[b, h, i] = p[b, h, i] @ v[b, h // group].float()
    return out, p
