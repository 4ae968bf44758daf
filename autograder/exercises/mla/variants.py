"""Attention over latents with its parts exchangeable, for mistakes of exercises 12.3 and 12.4 in one part."""

import torch
from torch import Tensor


def reference(q_nope: Tensor, q_rope: Tensor, c: Tensor, k_rope: Tensor, W_uk: Tensor, W_uv: Tensor) -> Tensor:
    """Keys and values of all heads, a head at a time, in float64."""
    q, tokens, scale = q_nope.shape[1], c.shape[1], (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5
    later = torch.arange(tokens) > torch.arange(tokens - q, tokens)[:, None]
    latents, heads = c.double(), []
    for h in range(len(W_uk)):
        k = torch.cat([latents @ W_uk[h].double().T, k_rope.double()], dim=-1)  # (batch, tokens, nope + rope)
        scores = torch.cat([q_nope[:, :, h], q_rope[:, :, h]], dim=-1).double() @ k.mT * scale
        heads.append(scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ (latents @ W_uv[h].double().T))
    return torch.stack(heads, dim=2).float()


def right_scale(nope: int, rope: int, value: int, latent: int) -> float:
    return (nope + rope) ** -0.5


def causal(q: int, tokens: int) -> Tensor:
    """(q, tokens), True = attend."""
    return torch.ones(q, tokens, dtype=torch.bool).tril(tokens - q)


def of_content_naive(q_nope: Tensor, c: Tensor, W_uk: Tensor) -> Tensor:
    return torch.einsum("bqhn,bthn->bhqt", q_nope, torch.einsum("btr,hnr->bthn", c, W_uk))


def of_content_absorbed(q_nope: Tensor, c: Tensor, W_uk: Tensor) -> Tensor:
    return torch.einsum("bqhr,btr->bhqt", torch.einsum("bqhn,hnr->bqhr", q_nope, W_uk), c)


def of_position(q_rope: Tensor, k_rope: Tensor) -> Tensor:
    return torch.einsum("bqhd,btd->bhqt", q_rope, k_rope)


def weights_of(scores: Tensor, scale: float, seen: Tensor) -> Tensor:
    return (scores * scale).masked_fill(~seen, -torch.inf).softmax(dim=-1)


def output_naive(a: Tensor, c: Tensor, W_uv: Tensor) -> Tensor:
    return torch.einsum("bhqt,bthv->bqhv", a, torch.einsum("btr,hvr->bthv", c, W_uv))


def output_absorbed(a: Tensor, c: Tensor, W_uv: Tensor) -> Tensor:
    return torch.einsum("bqhr,hvr->bqhv", torch.einsum("bhqt,btr->bqhr", a, c), W_uv)


def attention(
    q_nope: Tensor,
    q_rope: Tensor,
    c: Tensor,
    k_rope: Tensor,
    W_uk: Tensor,
    W_uv: Tensor,
    *,
    content,
    output,
    position=of_position,
    scale=right_scale,
    seen=causal,
    weights=weights_of,
) -> Tensor:
    """(batch, q, heads, value)."""
    scores = content(q_nope, c, W_uk) + position(q_rope, k_rope)
    factor = scale(q_nope.shape[-1], q_rope.shape[-1], W_uv.shape[1], c.shape[-1])
    return output(weights(scores, factor, seen(*scores.shape[2:])), c, W_uv)


def no_maximum(scores: Tensor, scale: float, seen: Tensor) -> Tensor:
    e = (scores * scale).exp() * seen
    return e / e.sum(dim=-1, keepdim=True)


def masked_by_zero(scores: Tensor, scale: float, seen: Tensor) -> Tensor:
    return (scores * scale * seen).softmax(dim=-1)


def masked_by_a_number(scores: Tensor, scale: float, seen: Tensor) -> Tensor:
    return (scores * scale).masked_fill(~seen, -1e4).softmax(dim=-1)


def maximum_of_all(scores: Tensor, scale: float, seen: Tensor) -> Tensor:
    e = (scores * scale - (scores * scale).amax(dim=-1, keepdim=True)).exp() * seen
    return e / e.sum(dim=-1, keepdim=True)


def masked_afterwards(scores: Tensor, scale: float, seen: Tensor) -> Tensor:
    return (scores * scale).softmax(dim=-1) * seen


def not_itself(q: int, tokens: int) -> Tensor:
    """A first token, which would see nothing, sees itself."""
    seen = torch.ones(q, tokens, dtype=torch.bool).tril(tokens - q - 1)
    seen[:, 0] = True
    return seen


COMMON = {  # mistakes that either form can have: what differs, and what is said
    "no scale": (
        dict(scale=lambda *widths: 1.0),
        "You did not scale the scores: divide by the root of nope + rope before the softmax.",
    ),
    "scale without the rotated part": (
        dict(scale=lambda nope, rope, value, latent: nope**-0.5),
        "You scaled by the root of nope. A query and its key have nope + rope channels.",
    ),
    "scale of the rotated part": (
        dict(scale=lambda nope, rope, value, latent: rope**-0.5),
        "You scaled by the root of rope. A query and its key have nope + rope channels.",
    ),
    "scale of the values": (
        dict(scale=lambda nope, rope, value, latent: value**-0.5),
        "You scaled by the root of a value's width. It is the width of a query that counts: nope + rope.",
    ),
    "scale of the latent": (
        dict(scale=lambda nope, rope, value, latent: (latent + rope) ** -0.5),
        "You scaled by the root of d_c + rope, the width of what is multiplied in the absorbed form. The scores are the same numbers in both forms, so the "
        "scale is that of the keys: nope + rope.",
    ),
    "no root in the scale": (
        dict(scale=lambda nope, rope, value, latent: 1 / (nope + rope)),
        "You divided by nope + rope. Divide by its root.",
    ),
    "multiplied by the root": (
        dict(scale=lambda nope, rope, value, latent: (nope + rope) ** 0.5),
        "You multiplied by the root of nope + rope. Divide by it.",
    ),
    "not causal": (
        dict(seen=lambda q, tokens: torch.ones(q, tokens, dtype=torch.bool)),
        "Your queries see tokens that come after them. The last query is the last token's; the one before sees one token less.",
    ),
    "causal from the first token": (
        dict(seen=lambda q, tokens: torch.ones(q, tokens, dtype=torch.bool).tril()),
        "Your first query sees the first token only, as if nothing had been there before. The last query is the last token's: shift the triangle by "
        "tokens - q.",
    ),
    "not itself": (
        dict(seen=not_itself),
        "A token does not see itself with you. It does: the last query sees all tokens.",
    ),
    "one too many": (
        dict(seen=lambda q, tokens: torch.ones(q, tokens, dtype=torch.bool).tril(tokens - q + 1)),
        "Each of your queries sees one token too many, the next one.",
    ),
    "masked by zero": (
        dict(weights=masked_by_zero),
        "You set the scores of what comes later to 0. exp(0) is 1: set them to minus infinity.",
    ),
    "masked by a number": (
        dict(weights=masked_by_a_number),
        "You set the scores of what comes later to a number such as -10000. Scores that are seen may be lower: take minus infinity.",
    ),
    "the largest of all tokens taken off": (
        dict(weights=maximum_of_all),
        "You took off the largest score of all tokens, also of those that are not seen. Beside it all that is seen may be 0: mask before you look for it.",
    ),
    "masked after the softmax": (
        dict(weights=masked_afterwards),
        "You cut the weights of what comes later off after the softmax. The others do not add up to 1 then: mask before.",
    ),
    "softmax over queries": (
        dict(weights=lambda s, scale, seen: (s * scale).masked_fill(~seen, -1e30).softmax(dim=-2) * seen),
        "Your softmax runs over the queries. The weights of each query add up to 1 over the tokens.",
    ),
    "softmax over heads": (
        dict(weights=lambda s, scale, seen: (s * scale).softmax(dim=1) * seen),
        "Your softmax runs over the heads. Each head has weights of its own, which add up to 1 over the tokens.",
    ),
    "exponentials that overflow": (
        dict(weights=no_maximum),
        "You took exponentials of the scores as they are. exp(89) is infinite in float32: take the largest off first, or use softmax.",
    ),
    "only the content": (
        dict(position=lambda q, k: 0.0),
        "You left out the rotated part: without q_rope and k_rope nothing knows where it stands.",
    ),
    "the first rotated query": (
        dict(position=lambda q, k: torch.einsum("bqhd,btd->bhqt", q[:, :, :1].expand_as(q), k)),
        "You took the rotated query of the first head for all heads. The key is shared; queries are not.",
    ),
    "the mean rotated query": (
        dict(position=lambda q, k: torch.einsum("bqhd,btd->bhqt", q.mean(dim=2, keepdim=True).expand_as(q), k)),
        "You averaged the rotated queries over the heads. The key is shared; queries are not.",
    ),
}


def declare(mistakes, content, output) -> None:
    """All of them, in one form."""
    for name, (parts, says) in COMMON.items():
        options = {"content": content, "output": output} | parts

        def wrong(*args, options=options):
            return attention(*args, **options)

        mistakes(name, says)(wrong)
