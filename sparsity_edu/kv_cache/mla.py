"""MLA, multi-head latent attention: store a latent of keys and values, and attend to it without unpacking it.

    latent      c = RMSNorm(W_DKV x), d_c numbers, from which every head's key and value follow: W_UK c and W_UV c
    rope        k_R = RoPE(W_KR x), d_R numbers, one key for all heads: a rotation between W_UK and q would forbid to absorb
    naive       score = [q_C; q_R] . [W_UK c; k_R]        output = sum_t a_t W_UV c_t
    absorbed    score = (W_UK^T q_C) . c + q_R . k_R      output = W_UV sum_t a_t c_t

Both are the same numbers. The absorbed form reads d_c + d_R numbers per token and unpacks nothing, as if all heads shared one
key; it multiplies more, so it pays where few queries meet many tokens. DeepSeek-AI 2024, "DeepSeek-V2", sec. 2.1.

Axes of einsum: b sequences, q queries, t tokens, h heads, n channels without position, d with, r of the latent, v of a value.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsity_edu.kv_cache.attention import rotary_frequencies, rotate
from sparsity_edu.kv_cache.low_rank import from_gqa

__all__ = ["FORMS", "MLA", "LatentCache", "Shape", "cost", "from_gqa", "latent", "latent_attention"]
FORMS = ("naive", "absorbed")


@dataclass(frozen=True)
class Shape:
    """The widths of an MLA layer."""

    hidden: int
    heads: int
    nope: int  # channels of a head's query and key without position
    rope: int  # d_R
    value: int  # channels of a head's value
    latent: int  # d_c
    query_latent: int | None = None  # of queries; None: they are not compressed


def latent(x: Tensor, W: Tensor, norm: Tensor, eps: float = 1e-6, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What a token leaves in the cache, but for the rotation.

    Args:
        x: (batch, tokens, hidden).
        W: (d_c + d_R, hidden), the two down-projections in one.
        norm: (d_c,), weight of the RMSNorm of the latent. The key with position is not normed.
        eps: of the norm.
        bias: (d_c + d_R,), of the down-projections. Default: none.

    Returns:
        c (batch, tokens, d_c) and the key with position (batch, tokens, d_R), not rotated yet.

    Source: DeepSeek-AI 2024, eq. 9 and 15; the norm is from their code.
    """
    c, k_rope = F.linear(x, W, bias).split([len(norm), len(W) - len(norm)], dim=-1)
    return F.rms_norm(c, norm.shape, norm, eps), k_rope


def latent_attention(
    q_nope: Tensor,
    q_rope: Tensor,
    c: Tensor,
    k_rope: Tensor,
    W_uk: Tensor,
    W_uv: Tensor,
    scale: float | None = None,
    mask: Tensor | None = None,
    *,
    form: str,
) -> Tensor:
    """Attention over tokens of which latents are stored.

    Args:
        q_nope: (batch, q, heads, nope).
        q_rope: (batch, q, heads, rope), rotated.
        c: (batch, tokens, d_c), normed; the last query is the last token's.
        k_rope: (batch, tokens, rope), rotated, one for all heads.
        W_uk: (heads, nope, d_c).
        W_uv: (heads, value, d_c).
        scale: of the scores. Default: 1 / sqrt(nope + rope).
        mask: boolean (batch, q, tokens), True = attend. Default: causal.
        form: "naive", keys and values are unpacked, or "absorbed", W_UK goes into the query and W_UV behind the sum.

    Returns:
        (batch, q, heads, value), the same of both forms.

    Raises:
        ValueError: `form` is unknown.

    Source: DeepSeek-AI 2024, eq. 10-18 and sec. 2.1.2; both are in their inference/model.py.
    """
    check_form(form)
    scores = torch.einsum("bqhd,btd->bhqt", q_rope, k_rope)
    if form == "naive":
        k = torch.einsum("btr,hnr->bthn", c, W_uk)
        v = torch.einsum("btr,hvr->bthv", c, W_uv)
        scores = scores + torch.einsum("bqhn,bthn->bhqt", q_nope, k)
        return torch.einsum("bhqt,bthv->bqhv", _softmax(scores, q_nope, q_rope, scale, mask), v)
    q = torch.einsum("bqhn,hnr->bqhr", q_nope, W_uk)
    scores = scores + torch.einsum("bqhr,btr->bhqt", q, c)
    looked_at = torch.einsum("bhqt,btr->bqhr", _softmax(scores, q_nope, q_rope, scale, mask), c)
    return torch.einsum("bqhr,hvr->bqhv", looked_at, W_uv)


def check_form(form: str) -> None:
    """Raise a ValueError that says what is wrong."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")


def _softmax(scores: Tensor, q_nope: Tensor, q_rope: Tensor, scale: float | None, mask: Tensor | None) -> Tensor:
    """(batch, heads, q, tokens): in float32, then in the dtype of the scores."""
    scale = (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5 if scale is None else scale
    q, tokens = scores.shape[2:]
    if mask is None:
        mask = torch.ones(q, tokens, dtype=torch.bool, device=scores.device).tril(tokens - q)[None]
    return (scores.float() * scale).masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1).nan_to_num(0.0).to(scores.dtype)


class LatentCache:
    """d_c + d_R numbers of each token, normed and rotated, and nothing else."""

    def __init__(self) -> None:
        self.c: Tensor | None = None  # (batch, tokens, d_c)
        self.k_rope: Tensor | None = None  # (batch, tokens, d_R)

    def update(self, c: Tensor, k_rope: Tensor) -> tuple[Tensor, Tensor]:
        """Take in new tokens and give all."""
        self.c = c.clone() if self.c is None else torch.cat([self.c, c], dim=1)
        self.k_rope = k_rope.clone() if self.k_rope is None else torch.cat([self.k_rope, k_rope], dim=1)
        return self.c, self.k_rope

    @property
    def tokens(self) -> int:
        """Tokens that are held."""
        return 0 if self.c is None else self.c.shape[1]

    @property
    def bytes_held(self) -> int:
        """All that is allocated."""
        return 0 if self.c is None else self.c.nbytes + self.k_rope.nbytes


class MLA(nn.Module):
    """An attention layer. Parameters are named as in `transformers`' DeepSeek-V3."""

    def __init__(
        self,
        shape: Shape,
        *,
        frequencies: Tensor | None = None,
        interleaved: bool = True,
        scale: float | None = None,
        rope_factor: float = 1.0,
        bias: bool = False,
        eps: float = 1e-6,
    ) -> None:
        """Make a layer with random weights.

        Args:
            shape: its widths.
            frequencies: (rope / 2,), see `rotary_frequencies`. Default: base 10000.
            interleaved: channels 2j and 2j+1 turn together (DeepSeek's code and weights), or j and j + rope/2.
            scale: of the scores. Default: 1 / sqrt(nope + rope); YaRN's is larger.
            rope_factor: of rotated queries and keys (YaRN).
            bias: of the down-projections and the output.
            eps: of the norms.
        """
        super().__init__()
        self.shape, self.interleaved, self.rope_factor = shape, interleaved, rope_factor
        self.scale = (shape.nope + shape.rope) ** -0.5 if scale is None else scale
        wide = shape.heads * (shape.nope + shape.rope)
        if shape.query_latent is None:
            self.q_proj = nn.Linear(shape.hidden, wide, bias=False)
        else:
            self.q_a_proj = nn.Linear(shape.hidden, shape.query_latent, bias=bias)
            self.q_a_layernorm = nn.RMSNorm(shape.query_latent, eps)
            self.q_b_proj = nn.Linear(shape.query_latent, wide, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(shape.hidden, shape.latent + shape.rope, bias=bias)
        self.kv_a_layernorm = nn.RMSNorm(shape.latent, eps)
        self.kv_b_proj = nn.Linear(shape.latent, shape.heads * (shape.nope + shape.value), bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.value, shape.hidden, bias=bias)
        if frequencies is None:
            frequencies = 10000.0 ** (-torch.arange(0, shape.rope, 2) / shape.rope)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(
        self,
        x: Tensor,
        positions: Tensor | None = None,
        cache: LatentCache | None = None,
        form: str = "absorbed",
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attention of new tokens over those in the cache and themselves.

        Args:
            x: (batch, q, hidden).
            positions: (batch or 1, q). Default: those behind the cache.
            cache: of the tokens before; it takes in the new ones.
            form: "naive" or "absorbed".
            mask: boolean (batch, q, tokens), True = attend. Default: causal.

        Returns:
            (batch, q, hidden).

        Raises:
            ValueError: `form` is unknown.
        """
        check_form(form)
        cache = LatentCache() if cache is None else cache
        if positions is None:
            positions = torch.arange(cache.tokens, cache.tokens + x.shape[1], device=x.device)[None]
        angle = positions[..., None] * self.frequencies  # (batch, q, rope / 2)
        q = self.q_proj(x) if self.shape.query_latent is None else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q_nope, q_rope = q.unflatten(-1, (self.shape.heads, -1)).split([self.shape.nope, self.shape.rope], dim=-1)
        q_rope = rotate(q_rope, angle[:, :, None], self.interleaved) * self.rope_factor
        down, norm = self.kv_a_proj_with_mqa, self.kv_a_layernorm
        c, k_rope = latent(x, down.weight, norm.weight, norm.eps, down.bias)
        c, k_rope = cache.update(c, rotate(k_rope, angle, self.interleaved) * self.rope_factor)
        up = self.kv_b_proj.weight.view(self.shape.heads, -1, self.shape.latent)  # (heads, nope + value, d_c)
        W_uk, W_uv = up.split([self.shape.nope, self.shape.value], dim=1)
        return self.o_proj(latent_attention(q_nope, q_rope, c, k_rope, W_uk, W_uv, self.scale, mask, form=form).flatten(2))

    @classmethod
    def from_deepseek(cls, attention: nn.Module) -> "MLA":
        """The layer that a `DeepseekV2Attention` or `DeepseekV3Attention` of `transformers` is, with copies of its weights."""
        config = attention.config
        shape = Shape(
            config.hidden_size,
            config.num_attention_heads,
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
            config.v_head_dim,
            config.kv_lora_rank,
            config.q_lora_rank,
        )
        frequencies, factor = rotary_frequencies(config, shape.rope)
        layer = cls(
            shape,
            frequencies=frequencies,
            interleaved=getattr(config, "rope_interleave", True),
            scale=attention.scaling,
            rope_factor=factor,
            bias=config.attention_bias,
            eps=1e-6,
        )
        layer.load_state_dict(attention.state_dict())
        return layer.to(attention.o_proj.weight).train(attention.training)


def cost(shape: Shape, queries: int, tokens: int, form: str) -> tuple[int, int]:
    """Operations and cached numbers that the attention of some queries needs, projections of their own aside.

    Args:
        shape: of the layer.
        queries: of one sequence; causality is not counted.
        tokens: in the cache, those of the queries included.
        form: "naive" with keys and values unpacked once and cached, or "absorbed".

    Returns:
        Multiplications and additions, and numbers read from the cache.

    Raises:
        ValueError: `form` is unknown.
    """
    check_form(form)
    h, n, d, v, r = shape.heads, shape.nope, shape.rope, shape.value, shape.latent
    if form == "naive":  # unpack the new tokens; scores; values
        return 2 * queries * h * (r * (n + v) + tokens * (n + d + v)), tokens * h * (n + d + v)
    return 2 * queries * h * (r * (n + v) + tokens * (2 * r + d)), tokens * (r + d)  # W_UK and W_UV; scores; latents
