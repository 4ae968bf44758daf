# %% [markdown]
# # 12 · MLA: a cache of latents
#
# **After this unit you can**
#
# - say what a token leaves in the cache with MHA, GQA, MQA and MLA, in numbers and in bytes, for models that exist,
# - build MLA: the latent and its norm, the rotated key that all heads share, attention over unpacked latents and over latents as they are,
# - show that both forms give the same numbers, and say why a rotation between query and latent would spoil that,
# - decode with a cache that holds $d_c + d_R$ numbers of a token and nothing else, in agreement with DeepSeek-V3's attention in `transformers`,
# - count what each form computes and reads, and say when absorbing loses.
#
# About 100 minutes of exercises, then five experiments that use *your* functions. They take two to three minutes on two quiet cores; longer trainings are drawn from a record.
#
# **Builds on** [10 H2O](../10_h2o/h2o.ipynb) (what the cache is, and why its size matters). The first section of [11 Quest](../11_quest/quest.ipynb) is useful, the rest is not needed.

# %% [markdown]
# ## Background
#
# [H2O](../10_h2o/h2o.ipynb) drops some tokens from the cache, [Quest](../11_quest/quest.ipynb) reads some of them. There is a third way: let each token leave *less* in the cache.
#
# A layer with $n_h$ heads of $d_h$ channels keeps a key and a value of each head: $2 \, n_h d_h$ numbers of a token (multi-head attention, MHA). The usual way to have fewer is to share. With MQA ([Shazeer 2019](https://arxiv.org/abs/1911.02150)) all heads share one key and one value: $2 \, d_h$. With GQA ([Ainslie et al. 2023](https://arxiv.org/abs/2305.13245)) each of $n_g$ groups of heads does: $2 \, n_g d_h$. That costs quality: in DeepSeek-V2's own comparison (table 8, 7B models) MMLU is 45.2 with MHA, 41.2 with GQA of 8 groups and 37.9 with MQA.
#
# MLA, multi-head latent attention ([DeepSeek-AI 2024](https://arxiv.org/abs/2405.04434), DeepSeek-V2), compresses instead. A token leaves one vector that all heads use, and each head has its own way to read it. The claim: a cache as small as that of GQA with 2.25 groups, and a model that is *better* than with MHA. DeepSeek-V2's cache is 93.3 % smaller than that of DeepSeek 67B. DeepSeek-V3 ([2024](https://arxiv.org/abs/2412.19437)) has the same attention.
#
# Both models compress queries as well: a second latent, of 1,536 numbers, from which the queries of all heads are made (`q_lora_rank` in `transformers`). It saves memory in training and changes nothing in the cache, so it is left out here, as in DeepSeek-V2-Lite: one matrix makes the queries from x.
#
# ## The question
#
# MLA keeps a **latent** $c$ of $d_c$ numbers, from which *every* head makes a key and a value of its own:
#
# $$ c_t = \text{RMSNorm}(W_{DKV} \, x_t) \qquad k^{(h)}_t = W^{(h)}_{UK} \, c_t \qquad v^{(h)}_t = W^{(h)}_{UV} \, c_t $$
#
# In DeepSeek-V2 $d_c = 512$, where keys and values of its 128 heads of 128 channels would be 32,768 numbers. Three questions follow. How do keys get positions (exercise 2)? Must the latents be unpacked at each step (exercises 3 and 4)? And what does it all cost
# (exercises 6 and 7)?
#
# **Conventions of the course.** Inputs are `(batch, tokens, hidden)`. Latents `c` are `(batch, tokens, d_c)`, keys with position `k_rope` `(batch, tokens, d_R)`: neither has heads. Queries are `(batch, q, heads, channels)` in two parts, `q_nope` without and
# `q_rope` with position. `W_uk` is `(heads, nope, d_c)` and `W_uv` `(heads, value, d_c)`. For `einsum` the letters are b sequences, q queries, t tokens, h heads, n channels without position, d with, v of a value, r of the latent.

# %%
import os

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from autograder import check
from sparsity_edu import plots

# small experiments, for an automatic test and while nbgrader runs this notebook
FAST = bool(os.environ.get("SPARSITY_EDU_FAST") or os.environ.get("NBGRADER_EXECUTION"))
torch.set_num_threads(1)  # layers as small as these gain nothing from a second thread
plots.style()

# %% [markdown]
# ## The latent
#
# One matrix $W$ of $d_c + d_R$ rows does both down-projections. Its first $d_c$ rows give the latent. The other $d_R$ give a small separate key, which will carry the position (exercise 2).
#
# The latent is normed, by an RMS norm with a weight $g$ for each channel:
#
# $$ c \leftarrow g \odot \frac{c}{\sqrt{\frac{1}{d_c} \sum_j c_j^2 + \epsilon}} $$
#
# The paper mentions this norm in its text; its equations leave it out. The key with position is not normed. What is cached is the latent *after* the norm, so the norm is computed once.


# %% exercise="mla.latent"
def latent(
    x: torch.Tensor, W: torch.Tensor, norm: torch.Tensor, eps: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a token leaves in the cache, but for the rotation.

    Args:
        x: (batch, tokens, hidden) float32; must not be changed.
        W: (d_c + d_R, hidden) float32, the two down-projections in one, the latent's rows first;
            must not be changed.
        norm: (d_c,) float32, the weight of the latent's RMS norm; it says what d_c is. Must not be
            changed.
        eps: is added to the mean square, under the root. (So a token that is 0 has a latent of 0.)

    Returns:
        (c, k_rope): float32, (batch, tokens, d_c), normed token by token over its own d_c numbers,
        and (batch, tokens, d_R), neither normed nor rotated. A gradient reaches x, W and norm.
    """
    ### BEGIN SOLUTION
    c, k_rope = F.linear(x, W).split([len(norm), len(W) - len(norm)], dim=-1)
    mean_square = c.square().mean(dim=-1, keepdim=True)
    return c * (mean_square + eps).rsqrt() * norm, k_rope.clone()
    ### END SOLUTION


# %% [markdown]
# ## Positions
#
# Rotary embeddings ([Su et al. 2021](https://arxiv.org/abs/2104.09864), RoPE) give a query or key its position by turning pairs of channels: pair $j$ of $d/2$ at position $p$ by the angle $p \, \theta_j$ with $\theta_j = \text{base}^{-2j/d}$,
#
# $$ \begin{pmatrix} a' \\ b' \end{pmatrix} = \begin{pmatrix} \cos p\theta_j & -\sin p\theta_j \\ \sin p\theta_j & \cos p\theta_j \end{pmatrix} \begin{pmatrix} a \\ b \end{pmatrix} $$
#
# so that the product of a query at $p$ and a key at $s$ depends on $p - s$ alone. Pairs and positions are counted from 0, as in code; the paper counts pairs from 1, and has $2(j - 1)$ where $2j$ stands here.
#
# **Which two channels are a pair** is a matter of convention, and both are in use:
#
# | `interleaved` | a pair | who |
# |---|---|---|
# | True | channels 2j and 2j+1 | DeepSeek's code and weights, the paper, GPT-J |
# | False | channels j and j + d/2 | Llama, Mistral, Qwen and SmolLM2 in `transformers`, GPT-NeoX |
#
# Weights that were trained with one give nonsense with the other. (`transformers` puts DeepSeek's interleaved channels in two halves and goes on as with Llama. As it does so with queries *and* keys, no score changes; but what it caches has another order.)
#
# Positions are an argument. In a cache they go on from what is there, and with padding each sequence has its own.


# %% exercise="mla.rotate"
def rotate(
    x: torch.Tensor, positions: torch.Tensor, base: float = 10000.0, interleaved: bool = True
) -> torch.Tensor:
    """Queries or keys, turned to their positions.

    Args:
        x: (batch, tokens, d) or (batch, tokens, heads, d) float32, d even; must not be changed.
        positions: (batch, tokens) int64, at least 0, in any order (in the checks up to 400). Must
            not be changed.
        base: of the frequencies.
        interleaved: channels 2j and 2j+1 are pair j, or else channels j and j + d/2.

    Returns:
        A float32 tensor of the shape of x: pair (a, b) number j of a token at position p is
        (a cos - b sin, b cos + a sin) of the angle p * base^(-2j / d), in the two channels that it
        was in. All heads turn alike. A gradient reaches x.
    """
    ### BEGIN SOLUTION
    d = x.shape[-1]
    angle = positions[..., None] * base ** (-torch.arange(0, d, 2) / d)  # (batch, tokens, d / 2)
    if x.ndim == 4:
        angle = angle[:, :, None]
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    turned = a * cos - b * sin, b * cos + a * sin
    return torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    ### END SOLUTION


# %% [markdown]
# **Predict, then run.** Queries and keys were made for neighbouring pairs. Now both are rotated with `interleaved=False`: once after their channels have been put in halves (0, 2, 4, ..., 1, 3, 5, ...), and once as they are. What happens to the scores?
#
# <details><summary>Answer</summary>
#
# Put in halves first, the same channels are pairs as before and turn by the same angles; only their order in memory is another one, and a product does not depend on order. The scores differ by rounding (0.00001). As they are, other channels are paired: scores are off by up to 20.4, where the largest is 21.8. This is what happens to weights that were trained in one layout and run in the other.
#
# </details>

# %%
g = torch.Generator().manual_seed(0)
q, k = torch.randn(1, 12, 64, generator=g), torch.randn(1, 12, 64, generator=g)
places = torch.arange(12)[None]
in_halves = torch.cat(
    [torch.arange(0, 64, 2), torch.arange(1, 64, 2)]
)  # neighbours become the halves' j and j + 32


def scores_of(q, k, interleaved):
    """(tokens, tokens)."""
    return (
        rotate(q, places, interleaved=interleaved) @ rotate(k, places, interleaved=interleaved).mT
    )[0]


right = scores_of(q, k, True)
for name, other in (
    ("channels put in halves first", scores_of(q[..., in_halves], k[..., in_halves], False)),
    ("channels as they are", scores_of(q, k, False)),
):
    print(
        f"half-split, {name:<29}: scores differ by up to {(other - right).abs().max():8.5f} (they are up to {right.abs().max():.1f})"
    )

# %% [markdown]
# ## Why the rotated key stands apart
#
# Why does MLA not rotate the key $W_{UK} c$? Write down a score without any rotation:
#
# $$ q^\top (W_{UK} \, c) = (W_{UK}^\top q)^\top c $$
#
# On the right the matrix has moved to the query, of which there is one; the latents are used as they are. That is **absorption**, and it is what makes MLA fast. With a rotation of the key to position $s$ and of the query to position $p$,
#
# $$ (R_p q)^\top (R_s W_{UK} \, c_s) = (W_{UK}^\top R_{p - s} \, q)^\top c_s $$
#
# the query would have to be absorbed anew for each distance $p - s$, which is for each token.
#
# An example with two channels: $q = \begin{pmatrix} 1 \\ 0 \end{pmatrix}$, $W_{UK} = \begin{pmatrix} 1 & 2 \\ 0 & 1 \end{pmatrix}$, $c = \begin{pmatrix} 3 \\ 1 \end{pmatrix}$.
#
# | | with the key | with the absorbed query |
# |---|---|---|
# | no rotation | $k = W_{UK} c = (5, 1)$, $\; q \cdot k = 5$ | $W_{UK}^\top q = (1, 2)$, $\; (1, 2) \cdot (3, 1) = 5$ |
# | the query is a quarter turn ahead | $R q = (0, 1)$, $\; (0, 1) \cdot (5, 1) = 1$ | $W_{UK}^\top R q = (0, 1)$, $\; (0, 1) \cdot (3, 1) = 1$ |
#
# Each line agrees with itself: absorbing is right at any *one* distance. But the absorbed query is $(1, 2)$ in the first line and $(0, 1)$ in the second. A cache has a thousand distances at once, and so it would take a thousand absorbed queries. How different would they be in a layer of real size?

# %%
W, query, base = torch.randn(128, 512, generator=g) / 512**0.5, torch.randn(128, generator=g), 1e4
distances = torch.tensor([0, 1, 2, 8, 64, 256])
turned = rotate(query.expand(1, len(distances), -1), distances[None], base)[0]  # (distances, 128)
absorbed = turned @ W  # (distances, 512)
print("cosine of the absorbed query for a distance, and that for distance 0:")
for distance, cosine in zip(distances, F.cosine_similarity(absorbed, absorbed[:1])):
    print(f"   distance {int(distance):>3}: {cosine:.3f}")

# %% [markdown]
# A query absorbed for one distance is of no use for another: at a distance of 256 little of the direction is left.
#
# **Decoupled RoPE** is the way out: a head's query and key get two parts. The larger one is content, without any position, and can be absorbed. The smaller one, $d_R$ channels, has the position. To keep the cache small its key is *one for all heads*; its queries are each head's own:
#
# $$ \text{score} = \frac{\; q_C^{(h)\top} \, W_{UK}^{(h)} c_t \; + \; q_R^{(h)\top} \, k_{R,t} \;}{\sqrt{d_{nope} + d_R}} $$
#
# The cache then has $d_c + d_R$ numbers of a token; in DeepSeek-V2 and V3 512 + 64 = 576.
#
# ## Unpacked
#
# The plain form first. Make keys and values of all tokens, put the rotated key beside each head's key, and do attention as always. The scale is the root of the *whole* width of a key, nope + rope (192 in DeepSeek-V3).
#
# There may be more tokens than queries: in decoding there is one query, and a long prompt may come in pieces. The queries are always the last tokens'.


# %% exercise="mla.naive"
def naive_attention(
    q_nope: torch.Tensor,
    q_rope: torch.Tensor,
    c: torch.Tensor,
    k_rope: torch.Tensor,
    W_uk: torch.Tensor,
    W_uv: torch.Tensor,
) -> torch.Tensor:
    """Causal attention over latents that are unpacked to keys and values.

    Args:
        q_nope: (batch, q, heads, nope) float32, queries without position.
        q_rope: (batch, q, heads, rope) float32, queries with position, rotated already.
        c: (batch, tokens, d_c) float32, latents, normed; tokens is at least q. The q queries are
            those of the last q tokens.
        k_rope: (batch, tokens, rope) float32, keys with position, rotated already: one for all
            heads.
        W_uk: (heads, nope, d_c) float32, makes each head's key of a latent.
        W_uv: (heads, value, d_c) float32, makes each head's value of a latent.
        None of them may be changed.

    Returns:
        (batch, q, heads, value) float32. Each query sees its own token and all before it. Scores,
        which may be large, are divided by the root of nope + rope, and weights are their softmax. A
        gradient reaches all six.
    """
    ### BEGIN SOLUTION
    q, tokens, heads = q_nope.shape[1], c.shape[1], len(W_uk)
    k = torch.einsum("btr,hnr->bthn", c, W_uk)
    k = torch.cat([k, k_rope[:, :, None].expand(-1, -1, heads, -1)], dim=-1)
    v = torch.einsum("btr,hvr->bthv", c, W_uv)
    query = torch.cat([q_nope, q_rope], dim=-1)
    scores = torch.einsum("bqhd,bthd->bhqt", query, k) / query.shape[-1] ** 0.5
    seen = torch.ones(q, tokens, dtype=torch.bool).tril(tokens - q)
    a = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
    return torch.einsum("bhqt,bthv->bqhv", a, v)
    ### END SOLUTION


# %% [markdown]
# ## Not unpacked
#
# This works, and in decoding it is absurd: for one new token, keys and values of *all* tokens are made and thrown away.
#
# ![Two ways to the same scores, five tokens. Left: each of the five cached latents is multiplied by W_UK to make a key, beside which the shared rotated key stands, and the query is multiplied with these keys. Right: the one query is multiplied by the transpose of W_UK, which makes it as wide as a latent, and is multiplied with the latents as they are cached.](absorbing.svg)
#
# *Left, a key is made of every latent; right, the matrix is moved to the one query. Only blue and green are cached.*
#
# So take the products in the other order, in two places:
#
# $$ q_C^\top (W_{UK} \, c_t) = \underbrace{(W_{UK}^\top q_C)}_{\tilde q}{}^\top c_t
#    \qquad\qquad
#    \sum_t a_t \, (W_{UV} \, c_t) = W_{UV} \underbrace{\sum_t a_t \, c_t}_{\tilde o} $$
#
# Now all heads look at the same $c_t$: it is as if there were one key of $d_c + d_R$ channels for all heads, as in MQA. But each head looks with a query of its own, $\tilde q$, which is as wide as the latent.
#
# The scores are the same numbers as before, so the scale is the same, too. (Here most people go wrong who hand $\tilde q$ to `scaled_dot_product_attention`: its default scale is the root of the width that it sees.)


# %% exercise="mla.absorbed"
def absorbed_attention(
    q_nope: torch.Tensor,
    q_rope: torch.Tensor,
    c: torch.Tensor,
    k_rope: torch.Tensor,
    W_uk: torch.Tensor,
    W_uv: torch.Tensor,
) -> torch.Tensor:
    """Causal attention over latents as they are.

    Args:
        q_nope: (batch, q, heads, nope) float32, queries without position.
        q_rope: (batch, q, heads, rope) float32, queries with position, rotated already.
        c: (batch, tokens, d_c) float32, latents, normed; tokens is at least q. The q queries are
            those of the last q tokens.
        k_rope: (batch, tokens, rope) float32, keys with position, rotated already: one for all
            heads.
        W_uk: (heads, nope, d_c) float32, makes each head's key of a latent.
        W_uv: (heads, value, d_c) float32, makes each head's value of a latent.
        None of them may be changed.

    Returns:
        (batch, q, heads, value) float32, what naive_attention returns, and a gradient reaches all
        six. But no key W_uk c and no value W_uv c of a token is made. (Some checks have inputs for
        which a key or value would be infinite, or so large that adding it destroys the result.
        Whoever makes none need not care: where it would count, the absorbed query, the weight or
        the sum of latents is 0.)
    """
    ### BEGIN SOLUTION
    q, tokens = q_nope.shape[1], c.shape[1]
    query = torch.einsum("bqhn,hnr->bqhr", q_nope, W_uk)
    scores = torch.einsum("bqhr,btr->bhqt", query, c)
    scores = scores + torch.einsum("bqhd,btd->bhqt", q_rope, k_rope)
    scores = scores / (q_nope.shape[-1] + q_rope.shape[-1]) ** 0.5
    seen = torch.ones(q, tokens, dtype=torch.bool).tril(tokens - q)
    a = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
    latents = torch.einsum("bhqt,btr->bqhr", a, c)
    return torch.einsum("bqhr,hvr->bqhv", latents, W_uv)
    ### END SOLUTION


# %% [markdown]
# ## The cache
#
# Everything is there for a whole attention layer. Its weights:
#
# | name | shape | makes |
# |---|---|---|
# | `"q"` | (heads (nope + rope), hidden) | queries; each head's nope channels come before its rope channels |
# | `"down"`, `"norm"` | (d_c + d_R, hidden), (d_c,) | latent and key, as in exercise 1 |
# | `"uk"`, `"uv"` | (heads, nope, d_c), (heads, value, d_c) | keys and values, or the absorbed query and output |
# | `"out"` | (hidden, heads value) | what the layer returns |
#
# The class adds a memory, and with it the position of the next token. It must not hold more than it has to. "Where is the saving, if keys and values are rebuilt?" is a common question, and an earlier version of DeepSeek's model in `transformers` cached keys and
# values of all heads: right results, no saving at all. So the check measures all tensors that can be reached from your object. A slice of a larger tensor counts as large as that, because memory holds it whole.


# %% exercise="mla.decode"
class LatentCache:
    """MLA for a text that comes in pieces.

    Between calls, the tensors that it leads to hold d_c + d_R numbers (float32) of each token of
    each sequence, and nothing else: neither weights, nor x, nor keys or values of heads.
    """

    def __init__(self, base: float = 10000.0, interleaved: bool = True) -> None:
        """An empty cache.

        Args:
            base: for rotate.
            interleaved: for rotate.
        """
        ### BEGIN SOLUTION
        self.base, self.interleaved = base, interleaved
        self.c = self.k_rope = None
        ### END SOLUTION

    def attend(self, x: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """Take in the next tokens, and say what attention makes of them.

        Args:
            x: (batch, q, hidden) float32, the next q tokens of each sequence, one or more; the same
                sequences in each call. Their positions follow those of the tokens before; the first
                of all is 0. Must not be changed.
            weights: the tensors of the table above, the same in each call, float32. The latent's
                norm has eps 1e-6. Must not be changed.

        Returns:
            (batch, q, hidden) float32, the output projection of the heads' results, which lie side
            by side: those of the whole text at once, whatever the pieces.
        """
        ### BEGIN SOLUTION
        heads, nope, _ = weights["uk"].shape
        start = 0 if self.c is None else self.c.shape[1]
        positions = torch.arange(start, start + x.shape[1]).expand(len(x), -1)
        q = F.linear(x, weights["q"]).unflatten(-1, (heads, -1))
        q_rope = rotate(q[..., nope:], positions, self.base, self.interleaved)
        c, k_rope = latent(x, weights["down"], weights["norm"])
        k_rope = rotate(k_rope, positions, self.base, self.interleaved)
        self.c = c if start == 0 else torch.cat([self.c, c], dim=1)
        self.k_rope = k_rope if start == 0 else torch.cat([self.k_rope, k_rope], dim=1)
        y = absorbed_attention(
            q[..., :nope], q_rope, self.c, self.k_rope, weights["uk"], weights["uv"]
        )
        return F.linear(y.flatten(2), weights["out"])
        ### END SOLUTION


# %% [markdown]
# ## The table
#
# What does a token leave in a layer? This is table 1 of DeepSeek-V2:
#
# | kind | numbers of a token | in each layer |
# |---|---|---|
# | MHA | $2 \, n_h d_h$ | a key and a value of each head |
# | GQA | $2 \, n_g d_h$ | of each group |
# | MQA | $2 \, d_h$ | of one |
# | MLA | $d_c + d_R$ | a latent, and a rotated key |


# %% exercise="mla.cache_bytes"
def cache_bytes(
    kind: str,
    tokens: int,
    layers: int,
    heads: int,
    groups: int,
    head_dim: int,
    latent: int,
    rope: int,
    batch: int = 1,
    itemsize: int = 2,
) -> int:
    """What a cache weighs.

    Args:
        kind: "MHA", "GQA", "MQA" or "MLA", written like this.
        tokens: of each sequence.
        layers: each has a cache.
        heads: of a layer, n_h.
        groups: of heads that share a key and a value, n_g; for GQA.
        head_dim: channels of a key, and of a value, d_h; for all but MLA.
        latent: d_c of MLA.
        rope: d_R of MLA.
        batch: sequences.
        itemsize: bytes of a number.

    Returns:
        Bytes, an int.

    Raises:
        ValueError: kind is none of the four.
    """
    ### BEGIN SOLUTION
    numbers = {
        "MHA": 2 * heads * head_dim,
        "GQA": 2 * groups * head_dim,
        "MQA": 2 * head_dim,
        "MLA": latent + rope,
    }
    if kind not in numbers:
        raise ValueError(f"kind must be one of {', '.join(numbers)}, got {kind!r}")
    return numbers[kind] * layers * tokens * batch * itemsize
    ### END SOLUTION


# %% [markdown]
# And what does attention compute, and read? An `einsum` costs two operations, a multiplication and an addition, for each combination of *all* its axes: `"btr,hnr->bthn"` costs $2 \, b \, t \, h \, n \, r$. There are three ways to run MLA:
#
# - **unpacked**: keys and values are made once, when a token comes, and are what is cached. All heads have their own; the rotated key stands in each of them.
# - **naive**: latents and rotated keys are cached, and all tokens are unpacked in each call (exercise 3).
# - **absorbed**: latents and rotated keys are cached, and nothing is unpacked (exercise 4).
#
# The projections of x are the same in all three and are not counted, nor is softmax. Every query is counted with every token, as in a kernel that does not skip what the mask hides.


# %% exercise="mla.cost"
def mla_cost(
    form: str, queries: int, tokens: int, heads: int, nope: int, rope: int, value: int, latent: int
) -> tuple[int, int]:
    """What attention of a layer computes and reads for the queries of one sequence.

    Args:
        form: "unpacked", "naive" or "absorbed", written like this.
        queries: of this call, those of the last tokens.
        tokens: all of them, those of the queries included.
        heads: of the layer.
        nope: channels of a head's query and key without position.
        rope: with position, d_R.
        value: channels of a head's value.
        latent: d_c.

    Returns:
        (operations, numbers), ints. Operations: 2 for each multiplication and addition of

        - W_uk and W_uv: on the latents of the queries' own tokens (unpacked), on those of all
          tokens (naive), or on queries and on sums of latents (absorbed);
        - the scores of all queries with all tokens, over all channels of what is multiplied, and
          the weighted sums.

        Numbers: all that is cached of the tokens, once.

    Raises:
        ValueError: form is none of the three.
    """
    ### BEGIN SOLUTION
    if form not in ("unpacked", "naive", "absorbed"):
        raise ValueError(f"form must be unpacked, naive or absorbed, got {form!r}")
    weights = latent * (nope + value)
    if form == "absorbed":
        return (
            2 * heads * queries * (weights + tokens * (2 * latent + rope)),
            tokens * (latent + rope),
        )
    unpacked = queries if form == "unpacked" else tokens
    operations = 2 * heads * (unpacked * weights + queries * tokens * (nope + rope + value))
    cached = heads * (nope + rope + value) if form == "unpacked" else latent + rope
    return operations, tokens * cached
    ### END SOLUTION


# %% [markdown]
# ## Experiment 1: the same numbers
#
# The cells from here on are not graded; they use your functions, so they need your exercises done.
#
# First, is it MLA? A layer of `transformers`' DeepSeek-V3 with random weights, all tokens at once, against your class with the same weights, a prompt first and then token by token. Then your two forms against each other, in float32 and bfloat16, both measured against float64. (`q_lora_rank=None` is the layer without a latent for queries.)

# %% tags=["experiment"]
from functools import partial

from transformers import DeepseekV3Config, DynamicCache
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3Attention,
    DeepseekV3RotaryEmbedding,
)

from sparsity_edu.kv_cache import mla as library

HEADS, NOPE, ROPE, VALUE, LATENT, HIDDEN = (
    16,
    128,
    64,
    128,
    512,
    256,
)  # DeepSeek-V2-Lite's, but for hidden
config = DeepseekV3Config(
    hidden_size=HIDDEN,
    num_attention_heads=HEADS,
    num_key_value_heads=HEADS,
    q_lora_rank=None,
    kv_lora_rank=LATENT,
    qk_nope_head_dim=NOPE,
    qk_rope_head_dim=ROPE,
    v_head_dim=VALUE,
    num_hidden_layers=1,
)
config._attn_implementation = "sdpa"
torch.manual_seed(0)
original = DeepseekV3Attention(config, layer_idx=0).eval()
weights = {
    "q": original.q_proj.weight,
    "down": original.kv_a_proj_with_mqa.weight,
    "norm": original.kv_a_layernorm.weight,
    "out": original.o_proj.weight,
}
both = original.kv_b_proj.weight.view(HEADS, NOPE + VALUE, LATENT)
weights["uk"], weights["uv"] = both.split([NOPE, VALUE], dim=1)
weights = {name: weight.detach() for name, weight in weights.items()}

TOKENS, PROMPT = (24, 16) if FAST else (96, 64)
x = torch.randn(2, TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))
positions = torch.arange(TOKENS)[None]
with torch.no_grad():
    mine, theirs = LatentCache(), DynamicCache(config=config)
    pieces = [x[:, :PROMPT], *x[:, PROMPT:].split(1, dim=1)]
    got = torch.cat([mine.attend(piece, weights) for piece in pieces], dim=1)
    rotary = DeepseekV3RotaryEmbedding(config)(x, positions)
    want = original(x, position_embeddings=rotary, attention_mask=None, past_key_values=theirs)[0]
print(
    f"yours, {PROMPT} tokens and then one by one, and transformers, {TOKENS} at once: largest difference {(got - want).abs().max():.1e} of {want.abs().max():.2f}"
)
held = sum(tensor.nbytes for tensor in vars(mine).values() if isinstance(tensor, torch.Tensor))
each = held / (2 * TOKENS)
unpacked = 4 * HEADS * (NOPE + ROPE + VALUE)
print(
    f"bytes held of a token: yours {each:.0f} (that is {each / 4:.0f} numbers), keys and values unpacked {unpacked}"
)

g = torch.Generator().manual_seed(2)
sizes = (
    (1, 8, HEADS, NOPE),
    (1, 8, HEADS, ROPE),
    (1, TOKENS, LATENT),
    (1, TOKENS, ROPE),
    (HEADS, NOPE, LATENT),
    (HEADS, VALUE, LATENT),
)
exact = [torch.randn(size, generator=g, dtype=torch.float64) for size in sizes]
exact[4:] = [W / LATENT**0.5 for W in exact[4:]]
print("\nlargest error against float64, as a share of the largest result")
library_forms = [partial(library.latent_attention, form=form) for form in library.FORMS]
for name, dtype, forms in (
    ("yours, float32", torch.float32, (naive_attention, absorbed_attention)),
    ("the library's, bfloat16", torch.bfloat16, library_forms),
):
    rounded = [part.to(dtype) for part in exact]
    right = library.latent_attention(*[part.double() for part in rounded], form="naive")
    errors = [(form(*rounded).double() - right).abs().max() / right.abs().max() for form in forms]
    print(f"   {name:<25} naive {errors[0]:.1e}   absorbed {errors[1]:.1e}")

# %% [markdown]
# Up to rounding it is the same layer, in whatever pieces the text comes. A token leaves 576 numbers; its keys and values would be 5,120 with these 16 heads, and 40,960 with the 128 of DeepSeek-V3.
#
# Neither form is more exact. In exact arithmetic they are equal; with 24 bits both are off by less than one in a million, and with the 8 bits of bfloat16 by 6 and 7 in a thousand. They round in different places, so a model that is served in the one form
# and was trained in the other gives slightly different numbers. This is not a bug.
#
# ## Experiment 2: models that exist
#
# Your `cache_bytes` on published configurations, in 16 bits. The last column says how many texts of 32,768 tokens fit into 100 GB. (The weights are not in these 100 GB.) And for each model what the other kinds would make of its heads.
#
# **Predict, then run.** DeepSeek-V3 has 61 layers with 128 heads of 128 channels, Llama-3-8B 32 layers with 8 key-value heads of 128 channels. Which of them keeps more of a token? How many times smaller is DeepSeek-V3's cache than it would be with MHA?
#
# <details><summary>Answer</summary>
#
# Llama-3-8B keeps $2 \cdot 8 \cdot 128 = 2048$ numbers in each of 32 layers, 131.1 KB; DeepSeek-V3 $512 + 64 = 576$ in each of 61, 70.3 KB. With MHA it would be $2 \cdot 128 \cdot 128 = 32768$ numbers instead of 576: 57 times as many, or 4 MB of a token.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu.kv_cache.sizes import MODELS

SHOWN = (
    "Llama-2-7B",
    "Llama-2-70B",
    "Llama-3-8B",
    "Llama-3-70B",
    "Qwen2-7B",
    "DeepSeek-67B",
    "DeepSeek-V2",
    "DeepSeek-V3",
)


def weigh(model, kind, tokens=1, **other):
    """Bytes of the cache of a model, as it is or with another kind of attention."""
    widths = dict(
        layers=model.layers,
        heads=model.heads,
        groups=model.kv_heads,
        head_dim=model.head_dim,
        latent=model.latent,
        rope=model.rope,
    )
    return cache_bytes(kind, tokens, **widths | other)


print("16 bits; KB of a token, GB of 32k tokens, and how many texts of that length fit into 100 GB")
print(f"{'':<13} kind  layers  heads  kept        KB     GB   texts")
for name in SHOWN:
    model = MODELS[name]
    kept = model.kv_heads if model.kind != "MLA" else "-"
    gigabytes = weigh(model, model.kind, 32768) / 1e9
    print(
        f"{name:<13} {model.kind:<5} {model.layers:>6} {model.heads:>6} {kept:>5} {weigh(model, model.kind) / 1e3:>9.1f} {gigabytes:>6.2f} {int(100 / gigabytes):>7}"
    )
print(
    "\nKB of a token, if the same heads had MHA, GQA of 8 groups, MQA, or MLA of 4.5 head_dim numbers"
)
for name in SHOWN:
    model = MODELS[name]
    others = [
        weigh(model, kind, groups=8, latent=4 * model.head_dim, rope=model.head_dim // 2) / 1e3
        for kind in ("MHA", "GQA", "MQA", "MLA")
    ]
    print(f"{name:<13}" + "".join(f"{kilobytes:>9.1f}" for kilobytes in others))

v2, before = (weigh(MODELS[name], MODELS[name].kind) for name in ("DeepSeek-V2", "DeepSeek-67B"))
print(
    f"\nDeepSeek-V2 beside DeepSeek 67B: {1 - v2 / before:.1%} less in 16 bits, {1 - v2 * 6 / 16 / before:.1%} less with 6 bits for a number"
)

lengths = 2 ** torch.arange(10, 18)
fig, ax = plt.subplots(figsize=(7, 3.8))
LINES = {
    "Llama-2-70B with MHA": (MODELS["Llama-2-70B"], "MHA", plots.VERMILLION),
    "Llama-3-70B (GQA)": (MODELS["Llama-3-70B"], "GQA", plots.ORANGE),
    "Llama-3-70B with MQA": (MODELS["Llama-3-70B"], "MQA", plots.GREEN),
    "DeepSeek-V3 with MHA": (MODELS["DeepSeek-V3"], "MHA", plots.GREY),
    "DeepSeek-V3 (MLA)": (MODELS["DeepSeek-V3"], "MLA", plots.BLUE),
}
for name, (model, kind, color) in LINES.items():
    ax.plot(
        lengths,
        [weigh(model, kind, int(n)) / 1e9 for n in lengths],
        "o-",
        ms=3,
        color=color,
        label=name,
    )
ax.axhline(141, color="0.4", lw=1, ls=":")
ax.text(lengths[0], 150, "memory of an H200", color="0.4", va="bottom", fontsize=8)
ax.set(xscale="log", yscale="log", xlabel="tokens", ylabel="GB of one sequence, 16 bits")
ax.set_xticks(lengths[::2], [f"{n // 1024}k" for n in lengths[::2]])
ax.minorticks_off()
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# - Multi-head attention with many heads is out of the question: DeepSeek-V3's 128 heads would leave 4 MB of *each token*, and one text of 64k tokens would not fit into an H200, all of its memory taken.
# - MLA leaves 70 KB, less than Llama-3-8B does with GQA, in a model with twice the layers and four times the heads. $d_c + d_R$ is $4.5 \, d_h$, so MLA is as large as GQA with 2.25 groups.
# - MQA would be smaller still, by more than half. But bytes are half of the question; the other half is how good the model is. DeepSeek-V2's table 9 has two mixtures of experts ([unit 08](../08_mixture_of_experts/mixture_of_experts.ipynb)) trained with MHA and with MLA: 110.6 and 15.6 thousand numbers of a token in the smaller pair, 860.2 and 34.6 in
#   the larger. With the larger, MLA is ahead in BBH (50.7, MHA 46.6), MMLU (59.0, 57.5) and C-Eval (59.2, 57.9), with the smaller in BBH and MMLU but not in C-Eval (50.9, MHA 51.6).
# - The paper's "93.3 % less cache" beside DeepSeek 67B is two savings in one: MLA's alone is 82 %, and their served model keeps its cache in 6 bits for a number, on average. Ask of every such number what else was changed.
#
# ## Experiment 3: when absorbing loses
#
# Your `mla_cost` for a layer of DeepSeek-V3 over 8,192 tokens, with 1 query (decoding) to 8,192 (all tokens at once). Beside it, the time that *your* two functions take on this machine's CPU, in a layer of DeepSeek-V2-Lite's widths.
#
# **Predict, then run.** For one query, which of the three forms computes least, and which reads least? For 8,192 queries at once, does absorbing still win over naive?
#
# <details><summary>Answer</summary>
#
# Unpacked computes least (0.705 billion operations), but reads keys and values of all heads, 671.1 MB against 9.4. Absorbed needs 2.3 billion, naive 275.5, nearly all of it to unpack 8,192 tokens for a single query. With 8,192 queries that work is shared by all of them and is small, and what counts is the width of the vectors: $2 \cdot 512 + 64$ absorbed, $128 + 64 + 128$ unpacked. Absorbing then computes 3.3 times as much.
#
# </details>

# %% tags=["experiment"]
import time

V3 = dict(heads=128, nope=128, rope=64, value=128, latent=512)
TOKENS = 8192
FORMS = {"unpacked": plots.GREY, "naive": plots.VERMILLION, "absorbed": plots.BLUE}
counts = [2**i for i in range(14)]
print(
    f"DeepSeek-V3, a layer, {TOKENS} tokens: billions of operations, and MB that are read in 16 bits"
)
print(f"{'queries':>8}" + "".join(f"{form:>24}" for form in FORMS))
for queries in (1, 16, 128, 256, 1024, 8192):
    found = [mla_cost(form, queries, TOKENS, **V3) for form in FORMS]
    print(
        f"{queries:>8}"
        + "".join(
            f"{operations / 1e9:>14.3f}, {2 * numbers / 1e6:>5.1f} MB"
            for operations, numbers in found
        )
    )


def from_which(other, tokens, widths):
    """The least number of queries for which absorbed computes more than another form."""
    return min(
        q
        for q in range(1, tokens + 1)
        if mla_cost("absorbed", q, tokens, **widths)[0] > mla_cost(other, q, tokens, **widths)[0]
    )


print(
    f"absorbed computes more than unpacked from {from_which('unpacked', TOKENS, V3)} query on, and more than naive from {from_which('naive', TOKENS, V3)} on"
)

LITE = dict(heads=16, nope=128, rope=64, value=128, latent=512)
CPU_TOKENS = 256 if FAST else 1024
g = torch.Generator().manual_seed(0)
c, k_rope = (
    torch.randn(1, CPU_TOKENS, 512, generator=g),
    torch.randn(1, CPU_TOKENS, 64, generator=g),
)
W_uk, W_uv = (torch.randn(16, 128, 512, generator=g) / 512**0.5 for _ in range(2))


def seconds(attention, queries):
    """The least of some."""
    q_nope = torch.randn(1, queries, 16, 128, generator=g)
    q_rope = torch.randn(1, queries, 16, 64, generator=g)
    best, spent = float("inf"), 0.0
    while spent < (0.2 if FAST else 1.0):
        began = time.perf_counter()
        attention(q_nope, q_rope, c, k_rope, W_uk, W_uv)
        took = time.perf_counter() - began
        best, spent = min(best, took), spent + took
    return best


measured = {"naive": {}, "absorbed": {}}
for queries in [4**i for i in range(5)] + ([] if FAST else [1024]):
    for form, attention in (("naive", naive_attention), ("absorbed", absorbed_attention)):
        measured[form][queries] = seconds(attention, queries)
print(
    f"\nthis CPU, one thread, DeepSeek-V2-Lite's widths, {CPU_TOKENS} tokens: milliseconds of yours, and billions of operations a second"
)
for queries in measured["naive"]:
    print(
        f"{queries:>8}"
        + "".join(
            f"   {form} {1e3 * took[queries]:>7.1f} ({mla_cost(form, queries, CPU_TOKENS, **LITE)[0] / took[queries] / 1e9:.0f})"
            for form, took in measured.items()
        )
    )

print(f"absorbed computes more than naive from {from_which('naive', CPU_TOKENS, LITE)} queries on")

fig, axes = plt.subplots(1, 3, figsize=(11, 3.5))
for form, color in FORMS.items():
    found = [mla_cost(form, queries, TOKENS, **V3) for queries in counts]
    axes[0].plot(counts, [operations for operations, _ in found], color=color, label=form)
    axes[1].plot(counts, [operations / (2 * numbers) for operations, numbers in found], color=color)
    if form in measured:
        axes[2].plot(
            measured[form].keys(),
            [1e3 * took for took in measured[form].values()],
            "o-",
            ms=3,
            color=color,
        )
axes[0].set(ylabel="operations", title=f"DeepSeek-V3, {TOKENS} tokens")
axes[1].set(ylabel="operations for a byte that is read", title="the same, for the roofline")
axes[1].axhline(989e12 / 4.8e12, color="0.4", lw=1, ls=":")
axes[1].text(counts[-1], 989e12 / 4.8e12, "H200 ", color="0.4", ha="right", va="bottom", fontsize=8)
axes[2].set(ylabel="ms", title=f"this CPU, {CPU_TOKENS} tokens, 16 heads")
for ax in axes:
    ax.set(xscale="log", yscale="log", xlabel="queries")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# - **Decoding**, one query: naive computes 119 times as much as absorbed, to unpack 8,192 tokens of which keys and values are used once. Unpacked computes least of all, a third of absorbed. But it has to *read* 671 MB where the others read 9.4. See the picture in the middle: unpacked does
#   one operation for a byte, and a GPU like the H200 could do 200 in the time that a byte takes. Absorbed does 245: it sits at the ridge of the roofline ([unit 15](../15_two_four/two_four.ipynb)), where neither memory nor arithmetic waits for the other.
# - **All at once**, as many queries as tokens: absorbed computes 3.3 times as much, because its vectors are wider, 2 · 512 + 64 channels for a query, token and head instead of 128 + 64 + 128. Reading does not matter there. Here absorbing loses.
# - **In between**, in a prompt that comes in pieces or with several drafted tokens: absorbed is ahead of naive for less than 168 queries. On the CPU, with other widths, the counts say 147, and the times cross between 64 and 256 queries: on a CPU time follows the operations, roughly. How many a second depends on the machine. That of the solutions does some 20 billion in both forms (fewer where the scores are large); another one may do several times as many, and fewer in the absorbed form while queries are few.
#
# So engines do both: unpack for a prompt, absorb for decoding. That they are the same numbers is what makes it possible.
#
# The naive form's 9.4 MB are what it reads of the *cache*. The keys and values that it makes are another 671 MB, which go through memory too if the kernel is not a fused one.
#
# ## Experiment 4: loss against bytes
#
# Do models learn as well with a latent? `python -m sparsity_edu.kv_cache.train_attentions` trains small language models of bytes that differ in their attention alone, with three seeds each. The same training with *your* `latent`, `rotate` and `naive_attention` runs here beside it, for fewer steps.
#
# - Two blocks of width 64; 4 heads of 16 channels; windows of 128 bytes of the Python docs, 8 in a step; AdamW with a warm-up and a straight decay.
# - GQA has 2 groups. The MLA models are named by the numbers that a token leaves in a layer: 64, as with GQA, and 32, as with MQA. 16 of them are the rotated key.
# - What an attention saves in parameters its MLPs get, so all models have the same number, up to a quarter of a per cent. Within a seed all see the same windows in the same order.

# %% tags=["experiment"]
import json
import statistics

from tqdm.auto import tqdm

from sparsity_edu.kv_cache.train_attentions import KINDS, RECORD, Parts, train

record = json.loads(RECORD.read_text())
runs = record["runs"]
print(record["command"], f"   (torch {record['torch']}, {record['threads']} thread)")
LIVE, LIVE_STEPS = ("MLA 64", "MLA 32"), (50 if FAST else 100)
with tqdm(total=len(LIVE) * LIVE_STEPS, desc="training steps") as bar:
    for name in LIVE:
        parts = Parts(latent, rotate, naive_attention)
        mine = train(KINDS[name], seed=0, until=LIVE_STEPS, parts=parts, tick=bar.update)["curve"][
            -1
        ]
        [recorded] = [
            point["bits"] for point in runs[name][0]["curve"] if point["step"] == mine["step"]
        ]
        print(
            f"{name}, seed 0, {mine['step']} steps: yours {mine['bits']:.3f} bits per byte, the record's {recorded:.3f}"
        )

last = {name: [run["curve"][-1]["bits"] for run in runs[name]] for name in KINDS}
print(f"\nheld-out bits per byte after {runs['MHA'][0]['curve'][-1]['step']} steps")
print(
    f"{'':<8} numbers of a token  bytes in 16 bits  parameters    mean ± deviation    less MHA's, seed by seed"
)
for name, kind in KINDS.items():
    pairs = [a - b for a, b in zip(last[name], last["MHA"])]
    print(
        f"{name:<8} {kind.numbers:>18} {2 * 2 * kind.numbers:>17} {runs[name][0]['parameters']:>11}   {statistics.mean(last[name]):>8.3f} ± {statistics.stdev(last[name]):.3f}    "
        + " ".join(f"{d:+.3f}" for d in pairs)
    )
steps = [point["step"] for point in runs["MHA"][0]["curve"]][2::2]
print("\nless MHA's, mean over seeds, after steps " + "".join(f"{step:>8}" for step in steps))
for name in list(KINDS)[1:]:
    gaps = [
        statistics.mean(
            a["curve"][i]["bits"] - b["curve"][i]["bits"] for a, b in zip(runs[name], runs["MHA"])
        )
        for i in range(2, len(runs["MHA"][0]["curve"]), 2)
    ]
    print(f"{name:<41}" + "".join(f"{gap:>+8.3f}" for gap in gaps))
print("\nMLA less what has as many numbers, seed by seed")
for mla_name, other in (("MLA 64", "GQA"), ("MLA 32", "MQA")):
    print(
        f"   {mla_name} less {other:<6}",
        " ".join(f"{a - b:+.3f}" for a, b in zip(last[mla_name], last[other])),
    )

fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.7))
for family, color in (("MLA", plots.BLUE), ("", plots.VERMILLION)):
    names = sorted(
        (name for name in KINDS if ("MLA" in name) == bool(family)),
        key=lambda name: KINDS[name].numbers,
    )
    spent = [4 * KINDS[name].numbers for name in names]  # 2 layers, 2 bytes
    mean = [statistics.mean(last[name]) for name in names]
    axes[0].plot(spent, mean, "o-", color=color, label=family or "MQA, GQA, MHA")
    for name, at in zip(names, spent):
        axes[0].plot([at] * len(last[name]), last[name], ".", ms=4, color=color, alpha=0.5)
        axes[0].annotate(
            name,
            (at, statistics.mean(last[name])),
            (4, 6 if family else -12),
            textcoords="offset points",
            fontsize=8,
            color=color,
        )
    # the differences to MHA's, in which a seed's luck is no more
    paired = [[a - b for a, b in zip(last[name], last["MHA"])] for name in names]
    axes[1].errorbar(
        spent,
        list(map(statistics.mean, paired)),
        list(map(statistics.stdev, paired)),
        fmt="o-",
        ms=4,
        capsize=3,
        color=color,
    )
axes[1].axhline(0, color="0.4", lw=1, ls=":")
axes[0].set(
    xlabel="bytes of cache for a token",
    ylabel="held-out bits per byte",
    title="three seeds (dots) and their mean",
    xscale="log",
)
axes[1].set(
    xlabel="bytes of cache for a token",
    ylabel="bits per byte, less MHA's",
    title="seed by seed: mean and deviation",
    xscale="log",
)
for ax in axes:
    ax.set_xticks([64, 128, 256, 512], ["64", "128", "256", "512"])
    ax.minorticks_off()
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# Your parts train as the library's do: the same bits after 100 steps.
#
# **A smaller cache does not show in the loss of such models, but MLA learns more slowly.** GQA and MQA are within 0.05 of MHA, with a quarter or half of the bytes, and seeds differ as much among themselves. MLA is 0.05 to 0.15 behind MHA with every seed, and behind what has as many numbers, too.
# With 64 numbers its distance was largest after 200 steps and gets smaller from there. With 32 it grows until step 300 and has hardly changed since. A key of MLA is a product of two matrices with a norm in between, which take more steps to learn what one matrix does; and all of its positions have to go through one small key.
#
# So this is no picture of what MLA is worth. In DeepSeek's own runs it is ahead of MHA with a twenty-fifth of its cache, after hundreds of billions of tokens instead of 400,000 bytes. It shows how much such a small run can say.
#
# ## Experiment 5: latents of a model that has none
#
# SmolLM2 is a GQA model: 3 groups of 64 channels, 384 numbers of a token in each of 30 layers. Could its keys and values be made from a latent as well, without any training? Stack its two projections, and take the best approximation of rank $r$:
#
# $$ \begin{pmatrix} k \\ v \end{pmatrix} = \begin{pmatrix} W_K \\ W_V \end{pmatrix} x \;\approx\; U \, \underbrace{U^\top \begin{pmatrix} W_K \\ W_V \end{pmatrix} x}_{c, \; r \text{ numbers}} $$
#
# Which directions $U$ are best depends on the question. The SVD of the *weights* is right if all inputs are equally likely. They are not, so the other choice is the directions in which keys and values of *real tokens* are largest: PCA on calibration text (keys and values measured by their own size
# first). The library's `from_gqa` does both. Keys are unpacked and rotated at each step; with a rotation in between nothing can be absorbed.

# %% tags=["experiment"]
from sparsity_edu.data import python_docs
from sparsity_edu.kv_cache.low_rank import from_gqa, input_statistics
from sparsity_edu.models import load, perplexity, tokens

NAME, WINDOW, CALIBRATION, VALIDATION = ("tiny", 256, 8, 8) if FAST else ("smollm2", 512, 4, 3)
torch.set_num_threads(os.cpu_count() or 1)
model, tokenizer = load(NAME)
widths = model.config
FULL = (
    2
    * widths.num_key_value_heads
    * (getattr(widths, "head_dim", None) or widths.hidden_size // widths.num_attention_heads)
)
calibration = tokens(tokenizer, python_docs("calibration"), CALIBRATION * WINDOW).view(-1, WINDOW)
validation = tokens(tokenizer, python_docs("validation"), VALIDATION * WINDOW)
original_perplexity = perplexity(model, validation, WINDOW, progress=False)
RANKS = [FULL // 16 * part for part in ((16, 8) if FAST else (16, 13, 11, 8))]
read = input_statistics(model, calibration)
CHOICES = {"PCA on text": (read, RANKS), "SVD of weights": (None, RANKS[1:])}
found = {name: {} for name in CHOICES}
with tqdm(total=2 * len(RANKS) - 1, desc="models") as bar:
    for name, (known, ranks) in CHOICES.items():
        for rank in ranks:
            small = from_gqa(model, rank, known)
            found[name][rank] = perplexity(small, validation, WINDOW, progress=False)
            bar.update()
print(
    f"{NAME}: {VALIDATION} x {WINDOW} validation tokens, perplexity {original_perplexity:.2f} as it is"
)
print(f"{'rank':>5} {'share':>6} {'KB of a token':>14}" + "".join(f"{name:>17}" for name in found))
for rank in RANKS:
    size = cache_bytes(
        "MLA", 1, widths.num_hidden_layers, widths.num_attention_heads, 1, 1, rank, 0
    )
    print(
        f"{rank:>5} {rank / FULL:>6.0%} {size / 1e3:>14.1f}"
        + "".join(
            f"{values[rank]:>17.2f}" if rank in values else f"{'':>17}" for values in found.values()
        )
    )

fig, ax = plt.subplots(figsize=(6.5, 3.6))
for (name, values), color in zip(found.items(), (plots.BLUE, plots.VERMILLION)):
    ax.plot([rank / FULL for rank in values], values.values(), "o-", color=color, label=name)
ax.axhline(original_perplexity, color="0.4", lw=1, ls=":")
ax.text(1, original_perplexity, "as it is", color="0.4", ha="right", va="bottom", fontsize=8)
ax.set(
    yscale="log",
    xlabel="numbers of a token / those of its keys and values",
    ylabel="perplexity (log scale)",
    title=NAME,
)
ax.legend()
plt.show()

# %% [markdown]
# **With directions from real tokens, half of the numbers is nearly enough**: perplexity is 13.2 instead of 12.1 with 192 of 384 numbers, and 12.3 with 312. The directions that calibration text needs are few. By the weights alone the same half gives 103, and 312 numbers 14.9: the error is small for inputs
# that never occur, and those that do occur pay for it.
#
# What is missing for MLA: these keys are rotated whole, so nothing can be absorbed, and all tokens are unpacked at each step. It saves memory, not work. (The tiny model's keys and values lie in half of their channels: there a rank of 50 % costs nothing, with either choice.)
#
# ## What to remember
#
# - MLA keeps a latent from which every head makes keys and values of its own, and one rotated key for all heads: $d_c + d_R$ numbers of a token and layer.
# - What is cached is normed and rotated. The rotated key stands apart because a rotation between query and latent cannot be absorbed.
# - Naive and absorbed are the same numbers. Absorbed unpacks nothing and multiplies wider vectors: for decoding; for a prompt at once, unpack.
# - The scale is the root of nope + rope in both forms. Pairs are neighbours in DeepSeek's weights, halves in Llama's.
# - A cache that holds keys and values of all heads beside the latents saves nothing, and gives the same results: measure it.
#
# ## Further reading
#
# - [DeepSeek-V2](https://arxiv.org/abs/2405.04434) (2024): section 2.1 and appendix C for MLA, tables 1, 8 and 9 for what it saves and what it costs.
# - [DeepSeek-V3's code](https://github.com/deepseek-ai/DeepSeek-V3/blob/main/inference/model.py): the class `MLA` has the naive and the absorbed form side by side in one `forward`.
# - [Shazeer 2019](https://arxiv.org/abs/1911.02150), MQA: why decoding waits for the cache, and what one shared key and value change.
# - [Ainslie et al. 2023](https://arxiv.org/abs/2305.13245), GQA: how a trained MHA model is turned into one whose heads share.
# - [Su et al. 2021](https://arxiv.org/abs/2104.09864), RoPE: section 3 for the rotation that stands in the way of absorption.
#
# Next: [13 Deja Vu](../13_deja_vu/deja_vu.ipynb), in which not the cache but the weights are read in part: those that the token at hand needs.
