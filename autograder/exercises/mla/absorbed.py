"""Exercise 12.4: attention without unpacking."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.mla.absorbed_mistakes import mistakes
from autograder.exercises.mla.fixtures import attention, drowned_keys, drowned_values, far_scores, infinite_keys, infinite_value
from autograder.inside.case import call


def reference(q_nope: Tensor, q_rope: Tensor, c: Tensor, k_rope: Tensor, W_uk: Tensor, W_uv: Tensor) -> Tensor:
    """Latents that all heads share, a head at a time, in float64."""
    q, tokens, scale = q_nope.shape[1], c.shape[1], (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5
    later = torch.arange(tokens) > torch.arange(tokens - q, tokens)[:, None]
    latents, heads = c.double(), []
    for h in range(len(W_uk)):
        query = q_nope[:, :, h].double() @ W_uk[h].double()
        scores = (query @ latents.mT + q_rope[:, :, h].double() @ k_rope.double().mT) * scale
        heads.append(scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ latents @ W_uv[h].double().T)
    return torch.stack(heads, dim=2).float()


absorbed = Exercise(
    "mla.absorbed",
    defines="absorbed_attention",
    title="Not unpacked",
    minutes=15,
    difficulty=3,
    hints=(
        "A product of three may be taken in either order. The query meets W_uk before it meets a latent; and the latents are summed before they meet W_uv.",
        "The absorbed query is (batch, q, heads, d_c), one for each head, and its product with a latent is the content's part of the score. Then add the "
        "rotated part. After the softmax, the weighted sum of latents is (batch, q, heads, d_c), and W_uv makes (batch, q, heads, value) of it.",
        "`q = torch.einsum('bqhn,hnr->bqhr', q_nope, W_uk)`; scores are `torch.einsum('bqhr,btr->bhqt', q, c)` plus "
        "`torch.einsum('bqhd,btd->bhqt', q_rope, k_rope)`, divided by `(nope + rope) ** 0.5`, the widths of `q_nope` and `q_rope`; mask and softmax as "
        "before; `torch.einsum('bhqt,btr->bqhr', a, c)`, and this with W_uv by `'bqhr,hvr->bqhv'`.",
    ),
    reference=reference,
    rules=Rules(tolerance=3e-5),
    misconceptions=mistakes,
)


@absorbed.stage(
    "one query",
    points=2,
    exposes="The same numbers as the unpacked form, by another order of products: (q W_uk) . c, and W_uv (sum of a c). The scale is still that of the keys.",
)
def _(g):
    yield call(*attention(g, 1, 1, 6, 2, 7, 4, 5, 3))
    yield call(*attention(g, 2, 1, 9, 3, 4, 6, 8, 5))
    yield call(*attention(g, 3, 1, 5, 5, 6, 2, 3, 9))
    yield call(*attention(g, 1, 1, 200, 2, 3, 2, 6, 5))


@absorbed.stage(
    "many queries",
    points=1,
    exposes="The queries are the last tokens', and each sees itself and what came before it.",
)
def _(g):
    yield call(*attention(g, 1, 7, 7, 2, 5, 4, 3, 6))
    yield call(*attention(g, 2, 3, 8, 3, 6, 4, 5, 7))
    yield call(*attention(g, 3, 4, 4, 4, 5, 6, 2, 3))
    yield call(*attention(g, 1, 6, 7, 2, 4, 2, 3, 5))
    yield call(*attention(g, 3, 2, 11, 4, 5, 6, 8, 3))
    q_nope, q_rope, *others = attention(g, 2, 4, 9, 3, 6, 4, 5, 7)
    yield call(60 * q_nope, 60 * q_rope, *others)
    yield call(*far_scores(g, 3e3, 3e3, 2, 5, 5, 3, 6, 4, 5, 7))  # what is not seen has no part in anything


@absorbed.stage(
    "makes no key and no value of a token",
    points=2,
    exposes="Here keys would be infinite in a channel that all queries have 0 in, or the values of a token infinite that no query has any weight on. Who "
    "makes them gets 0 times infinity, NaN. Or they would be so large that all else is lost beside them, where the absorbed query, or the sum of the "
    "latents, is 0. Absorb W_uk into the query, and use W_uv behind the sum.",
)
def _(g):
    yield call(*infinite_keys(g, 2, 1, 9, 3, 6, 4, 5, 7))
    yield call(*infinite_keys(g, 1, 4, 12, 2, 5, 2, 3, 8))
    yield call(*infinite_value(g, 2, 1, 9, 3, 6, 4, 5, 7))
    yield call(*infinite_value(g, 1, 3, 8, 4, 5, 2, 6, 3))
    yield call(*drowned_keys(g, 2, 3, 7, 3, 6, 4, 5, 7))
    yield call(*drowned_values(g, 2, 1, 8, 3, 6, 4, 5, 7))


@absorbed.stage(
    "gradients reach all six",
    points=1,
    exposes="Queries, latents, rotated keys and both weights are trained through the result. The arguments stay as they are.",
    pure=True,
)
def _(g):
    yield call(*attention(g, 2, 3, 5, 3, 4, 2, 6, 5), gradients=(0, 1, 2, 3, 4, 5))
    yield call(*attention(g, 1, 4, 4, 2, 5, 4, 3, 6), gradients=(0, 1, 2, 3, 4, 5))
    yield call(*far_scores(g, 0.0, 10.0, 2, 6, 6, 3, 5, 4, 3, 7), gradients=(0, 1, 2, 3, 4, 5))  # exp(its score) is infinite


@absorbed.accepts("as one key for all heads, with scaled_dot_product_attention")
def _(q_nope, q_rope, c, k_rope, W_uk, W_uv):
    q, tokens = q_nope.shape[1], c.shape[1]
    query = torch.cat([torch.einsum("bqhn,hnr->bhqr", q_nope, W_uk), q_rope.transpose(1, 2)], dim=-1)
    key = torch.cat([c, k_rope], dim=-1)[:, None].expand(-1, query.shape[1], -1, -1)
    value = c[:, None].expand(-1, query.shape[1], -1, -1)
    seen = torch.ones(q, tokens, dtype=torch.bool).tril(tokens - q)
    scale = (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5
    latents = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)
    return (latents @ W_uv.mT).transpose(1, 2)


@absorbed.accepts("as DeepSeek's code")
def _(q_nope, q_pe, kv_cache, pe_cache, W_uk, W_uv):
    seqlen, end_pos = q_nope.size(1), kv_cache.size(1)
    softmax_scale = (q_nope.size(-1) + q_pe.size(-1)) ** -0.5
    q_nope = torch.einsum("bshd,hdc->bshc", q_nope, W_uk)
    scores = torch.einsum("bshc,btc->bsht", q_nope, kv_cache) + torch.einsum("bshr,btr->bsht", q_pe, pe_cache)
    mask = torch.full((seqlen, end_pos), float("-inf")).triu_(end_pos - seqlen + 1)
    scores = (scores * softmax_scale + mask.unsqueeze(1)).softmax(dim=-1, dtype=torch.float32)
    x = torch.einsum("bsht,btc->bshc", scores, kv_cache)
    return torch.einsum("bshc,hdc->bshd", x, W_uv)


@absorbed.accepts("head by head, by matrices")
def _(q_nope, q_rope, c, k_rope, W_uk, W_uv):
    tokens, q = c.shape[1], q_nope.shape[1]
    later = torch.arange(tokens) > torch.arange(tokens - q, tokens)[:, None]
    outputs = []
    for h in range(W_uk.shape[0]):
        both = torch.cat([q_nope[:, :, h] @ W_uk[h], q_rope[:, :, h]], dim=2)
        s = both @ torch.cat([c, k_rope], dim=2).transpose(1, 2) / (W_uk.shape[1] + k_rope.shape[2]) ** 0.5
        outputs.append(torch.softmax(s.masked_fill(later, float("-inf")), dim=2) @ c @ W_uv[h].T)
    return torch.stack(outputs, dim=2)
