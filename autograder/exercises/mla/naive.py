"""Exercise 12.3: attention over unpacked latents."""

import torch
import torch.nn.functional as F

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.mla.fixtures import attention, far_scores
from autograder.exercises.mla.naive_mistakes import mistakes
from autograder.exercises.mla.variants import reference
from autograder.inside.case import call

naive = Exercise(
    "mla.naive",
    defines="naive_attention",
    title="Unpacked",
    minutes=20,
    difficulty=2,
    hints=(
        "First make ordinary keys and values of all heads out of the latents. What follows is ordinary attention, whose keys are two parts put together.",
        "With `torch.einsum` name the axes: `'btr,hnr->bthn'` are the keys without position. The rotated key has no heads, so expand it to all of them "
        "before `torch.cat`. Query i of q sees the tokens up to tokens - q + i.",
        "`k = torch.einsum('btr,hnr->bthn', c, W_uk)`, `k = torch.cat([k, k_rope[:, :, None].expand(-1, -1, heads, -1)], dim=-1)`, "
        "`q = torch.cat([q_nope, q_rope], dim=-1)`, `v = torch.einsum('btr,hvr->bthv', c, W_uv)`; scores by `'bqhd,bthd->bhqt'`, divided by "
        "`q.shape[-1] ** 0.5`; where `~torch.ones(q_len, tokens).bool().tril(tokens - q_len)` they are `-torch.inf`; softmax over the last axis, then "
        "`'bhqt,bthv->bqhv'`.",
    ),
    reference=reference,
    rules=Rules(tolerance=3e-5),
    misconceptions=mistakes,
)


@naive.stage(
    "one query",
    points=2,
    exposes="Keys are W_uk c with the rotated key beside it, values W_uv c. Scores are divided by the root of nope + rope, and the last query sees all "
    "tokens.",
)
def _(g):
    yield call(*attention(g, 1, 1, 6, 2, 7, 4, 5, 3))
    yield call(*attention(g, 2, 1, 9, 3, 4, 6, 8, 5))
    yield call(*attention(g, 3, 1, 5, 5, 6, 2, 3, 9))
    yield call(*attention(g, 1, 1, 1, 2, 4, 2, 3, 5))
    yield call(*attention(g, 1, 1, 200, 2, 3, 2, 6, 5))


@naive.stage(
    "all queries at once",
    points=1,
    exposes="A token sees itself and what came before it, nothing after it.",
)
def _(g):
    yield call(*attention(g, 1, 7, 7, 2, 5, 4, 3, 6))
    yield call(*attention(g, 2, 5, 5, 4, 3, 2, 6, 7))
    yield call(*attention(g, 3, 4, 4, 4, 5, 6, 2, 3))
    yield call(*far_scores(g, 3e3, 3e3, 2, 5, 5, 3, 6, 4, 5, 7))  # what is not seen has no part in anything


@naive.stage(
    "a piece of a text",
    points=1,
    exposes="Where there are fewer queries than tokens, the queries are the last tokens'. Scores of hundreds are as good as small ones.",
)
def _(g):
    yield call(*attention(g, 2, 3, 8, 3, 6, 4, 5, 7))
    yield call(*attention(g, 1, 6, 7, 2, 4, 2, 3, 5))
    yield call(*attention(g, 3, 2, 11, 4, 5, 6, 8, 3))
    q_nope, q_rope, *others = attention(g, 2, 4, 9, 3, 6, 4, 5, 7)
    yield call(60 * q_nope, 60 * q_rope, *others)
    yield call(*far_scores(g, 3e3, 3e3, 2, 3, 7, 3, 5, 4, 6, 8))


@naive.stage(
    "gradients reach all six",
    points=1,
    exposes="Queries, latents, rotated keys and both weights are trained through the result. The arguments stay as they are.",
    pure=True,
)
def _(g):
    yield call(*attention(g, 2, 3, 5, 3, 4, 2, 6, 5), gradients=(0, 1, 2, 3, 4, 5))
    yield call(*attention(g, 1, 4, 4, 2, 5, 4, 3, 6), gradients=(0, 1, 2, 3, 4, 5))
    yield call(*far_scores(g, 0.0, 10.0, 2, 6, 6, 3, 5, 4, 3, 7), gradients=(0, 1, 2, 3, 4, 5))  # exp(its score) is infinite


@naive.accepts("as DeepSeek's code, the mask added")
def _(q_nope, q_pe, kv, k_pe, W_uk, W_uv):
    bsz, seqlen, n_heads, qk_nope = q_nope.shape
    end_pos = kv.size(1)
    wkv_b = torch.cat([W_uk, W_uv], dim=1)  # (heads, nope + value, d_c)
    up = F.linear(kv, wkv_b.flatten(0, 1)).view(bsz, end_pos, n_heads, -1)
    k_nope, v = torch.split(up, [qk_nope, W_uv.shape[1]], dim=-1)
    k = torch.cat([k_nope, k_pe.unsqueeze(2).expand(-1, -1, n_heads, -1)], dim=-1)
    q = torch.cat([q_nope, q_pe], dim=-1)
    scores = torch.einsum("bshd,bthd->bsht", q, k) * (qk_nope + q_pe.size(-1)) ** -0.5
    mask = torch.full((seqlen, end_pos), float("-inf")).triu_(end_pos - seqlen + 1)
    scores = (scores + mask[None, :, None]).softmax(dim=-1, dtype=torch.float32)
    return torch.einsum("bsht,bthd->bshd", scores, v)


@naive.accepts("scaled_dot_product_attention")
def _(q_nope, q_rope, c, k_rope, W_uk, W_uv):
    heads, q, tokens = W_uk.shape[0], q_nope.shape[1], c.shape[1]
    k = torch.cat(
        [c[:, None] @ W_uk.mT, k_rope[:, None].expand(-1, heads, -1, -1)], dim=-1
    )  # (batch, heads, tokens, nope + rope)
    v = c[:, None] @ W_uv.mT
    seen = torch.ones(q, tokens, dtype=torch.bool).tril(diagonal=tokens - q)
    y = F.scaled_dot_product_attention(torch.cat([q_nope, q_rope], dim=-1).transpose(1, 2), k, v, attn_mask=seen)
    return y.transpose(1, 2)


@naive.accepts("head by head and query by query, the two parts of the scores added")
def _(q_nope, q_rope, c, k_rope, W_uk, W_uv):
    scale = (q_nope.shape[-1] + q_rope.shape[-1]) ** 0.5
    tokens, q = c.shape[1], q_nope.shape[1]
    heads = []
    for h in range(q_nope.shape[2]):
        k, v = c @ W_uk[h].T, c @ W_uv[h].T
        rows = []
        for i in range(q):
            end = tokens - q + i + 1
            s = (k[:, :end] * q_nope[:, i, None, h]).sum(-1) + (k_rope[:, :end] * q_rope[:, i, None, h]).sum(-1)
            rows.append((torch.softmax(s / scale, dim=-1)[..., None] * v[:, :end]).sum(dim=1))
        heads.append(torch.stack(rows, dim=1))
    return torch.stack(heads, dim=2)
