"""Mistakes of exercise 10.1."""

import math

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def repeat(x: Tensor, group: int) -> Tensor:
    return x.repeat_interleave(group, dim=1)


def causal(new: int, held: int) -> Tensor:
    return torch.ones(new, held, dtype=torch.bool).tril(held - new)


def softmax(scores: Tensor, seen: Tensor) -> Tensor:
    return scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)


def mistaken(
    name: str,
    says: str,
    *,
    widen=lambda x: x.float(),
    share=repeat,
    scale=lambda q, k: math.sqrt(q.shape[-1]),
    ahead=causal,
    real=lambda mask: mask[:, :, None],
    normalise=softmax,
    nothing=lambda p, seen: p.masked_fill(~seen.any(dim=-1, keepdim=True), 0.0),
    gives=lambda out, p, scores, group: (out, p),
):
    def wrong(q, k, v, mask=None):
        group, new, held = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
        q, k, v = (widen(x) for x in (q, k, v))
        scores = q @ share(k, group).mT / scale(q, k)
        seen = ahead(new, held).expand(scores.shape)
        if mask is not None:
            seen = seen & share(real(mask), group)
        p = nothing(normalise(scores, seen), seen)
        return gives(p @ share(v, group), p, scores, group)

    mistakes(name, says)(wrong)


mistaken(
    "not scaled",
    "You did not divide by sqrt(head_dim). Products of long vectors are large, and the softmax would be too sharp.",
    scale=lambda q, k: 1.0,
)
mistaken(
    "divided by the dimension",
    "You divided by head_dim. It is its root: the standard deviation of a product of two random vectors.",
    scale=lambda q, k: q.shape[-1],
)
mistaken(
    "scaled by the number of keys",
    "You divided by the root of the number of keys. The root is that of head_dim, which does not change from step to step.",
    scale=lambda q, k: math.sqrt(k.shape[2]),
)
mistaken(
    "heads in turns",
    "You gave the heads of keys to the query heads in turns (`repeat`): 0, 1, 0, 1. Neighbours share: 0, 0, 1, 1, as `repeat_interleave` does.",
    share=lambda x, group: x.repeat(1, group, *[1] * (x.ndim - 2)),
)
mistaken(
    "everybody sees everything",
    "Your queries look at keys of later tokens. Query i of the new ones sees keys up to its own, held - new + i.",
    ahead=lambda new, held: torch.ones(new, held, dtype=torch.bool),
)
mistaken(
    "as if the first query stood at the first key",
    "Your causal mask puts the first query at the first key. The LAST query stands at the last key: shift the triangle by held - new.",
    ahead=lambda new, held: torch.ones(new, held, dtype=torch.bool).tril(),
)
mistaken(
    "not its own key",
    "Your queries do not see their own key. Query i sees keys up to held - new + i, that one included.",
    ahead=lambda new, held: torch.ones(new, held, dtype=torch.bool).tril(held - new - (held > new)),
)
mistaken(
    "padding is seen",
    "Your queries look at padding. Where mask is False there is no token, so the probability is 0.",
    real=lambda mask: torch.ones_like(mask)[:, :, None],
)
mistaken(
    "the opposite mask",
    "You took True for padding. In this course True means kept: False is padding.",
    real=lambda mask: ~mask[:, :, None],
)
mistaken(
    "the first head's mask for all",
    "You used the mask of the first head for all of them. After an eviction every head holds padding in other places.",
    real=lambda mask: mask[:, :1, None].expand(-1, mask.shape[1], -1, -1),
)
mistaken(
    "masked after the softmax",
    "You took the softmax over all keys and set some to 0 afterwards. What is left does not add up to 1: mask before, with minus infinity.",
    normalise=lambda scores, seen: scores.softmax(dim=-1) * seen,
)
mistaken(
    "masked with 0",
    "You set the scores that may not be seen to 0, which has a weight of exp(0) = 1. Set them to minus infinity.",
    normalise=lambda scores, seen: (scores * seen).softmax(dim=-1),
)
mistaken(
    "masked with -100",
    "You set the scores that may not be seen to some negative number. Real scores can be lower: it has to be minus infinity.",
    normalise=lambda scores, seen: scores.masked_fill(~seen, -100.0).softmax(dim=-1),
)
mistaken(
    "NaN for who sees nothing",
    "A query that sees nothing gives NaN, the softmax of nothing. Make it 0.",
    nothing=lambda p, seen: p,
)
mistaken(
    "spread evenly for who sees nothing",
    "A query that is padding itself, and sees nothing, spreads its weight over all keys. It gives zeros.",
    nothing=lambda p, seen: torch.where(seen.any(dim=-1, keepdim=True), p.nan_to_num(0.0), 1 / p.shape[-1]),
)
mistaken(
    "in bfloat16",
    "You computed in the dtype of the arguments. Take them to float32 first: scores that are sums of probabilities need it.",
    widen=lambda x: x,
    gives=lambda out, p, scores, group: (out.float(), p.float()),
)
mistaken(
    "results in the dtype of the queries",
    "You computed in float32 and rounded the results. Both are float32, whatever comes in.",
    widen=lambda x: x,
    normalise=lambda scores, seen: softmax(scores.float(), seen).to(scores.dtype),
)
mistaken(
    "no safe softmax",
    "Your exp overflows for large products. Subtract the largest score of a row first, or use torch's softmax.",
    normalise=lambda scores, seen: (e := scores.masked_fill(~seen, -torch.inf).exp()) / e.sum(dim=-1, keepdim=True),
)
mistaken(
    "softmax over queries",
    "You took the softmax over the queries. The probabilities of one query add up to 1 over the keys: the last dimension.",
    normalise=lambda scores, seen: scores.masked_fill(~seen, -torch.inf).softmax(dim=2).nan_to_num(0.0),
)
mistaken(
    "scores instead of probabilities",
    "You return the products, not the probabilities. The second result is what comes out of the softmax.",
    gives=lambda out, p, scores, group: (out, scores),
)
mistaken(
    "the other way round",
    "You return the probabilities first. The weighted sum of values comes first, the probabilities second.",
    gives=lambda out, p, scores, group: (p, out),
)
mistaken(
    "one head of probabilities for a group",
    "You added up the probabilities of query heads that share keys. Here they stay apart, (batch, heads, new, held): how they are put together is a later choice.",
    gives=lambda out, p, scores, group: (out, p.unflatten(1, (-1, group)).sum(dim=2)),
)
