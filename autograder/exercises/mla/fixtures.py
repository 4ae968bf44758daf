"""Latents, queries and weights that the exercises of unit 12 work on."""

import torch
from torch import Tensor

HUGE = 2.0**83  # its square is infinite in float32; beside it all else is lost, also in float64; products with it are exact


def attention(
    g: torch.Generator, batch: int, q: int, tokens: int, heads: int, nope: int, rope: int, value: int, latent: int
) -> list[Tensor]:
    """q_nope, q_rope, c, k_rope, W_uk and W_uv: both parts of the scores count, and no token has all of the weight."""

    def normal(*shape: int, size: float = 1.0) -> Tensor:
        return size * torch.randn(shape, generator=g)

    return [
        normal(batch, q, heads, nope, size=1.3),
        normal(batch, q, heads, rope, size=1.6),
        normal(batch, tokens, latent),
        normal(batch, tokens, rope, size=1.2),
        normal(heads, nope, latent, size=1.5 / latent**0.5),
        normal(heads, value, latent, size=latent**-0.5),
    ]


def far_scores(g: torch.Generator, low: float, high: float, *sizes: int) -> list[Tensor]:
    """The same, but the first token's scores are below all others, and the last token's above them, by 30 times this and more."""
    q_nope, q_rope, c, k_rope, W_uk, W_uv = attention(g, *sizes)
    q_rope[..., 0] = q_rope[..., 0].abs() + 30
    k_rope[..., 0] = 0
    k_rope[:, 0, 0], k_rope[:, -1, 0] = -low, high
    return [q_nope, q_rope, c, k_rope, W_uk, W_uv]


def infinite_keys(g: torch.Generator, *sizes: int) -> list[Tensor]:
    """The same, with one channel in which every key would be infinite. No query has it, so no score depends on it."""
    q_nope, q_rope, c, k_rope, W_uk, W_uv = attention(g, *sizes)
    q_nope[..., 1] = 0
    W_uk[:, :, 2], W_uv[:, :, 2], c[..., 2] = 0, 0, HUGE
    W_uk[:, 1, 2] = HUGE
    return [q_nope, q_rope, c, k_rope, W_uk, W_uv]


def infinite_value(g: torch.Generator, *sizes: int) -> list[Tensor]:
    """The same, with a token whose values would be infinite. No query has any weight on it."""
    q_nope, q_rope, c, k_rope, W_uk, W_uv = attention(g, *sizes)
    q_nope[..., 0] = q_nope[..., 0].abs() + 0.1
    c[..., 1], W_uk[:, :, 1], W_uv[:, :, 1] = 0, 0, HUGE
    c[:, 0, 1], W_uk[:, 0, 1] = HUGE, -1  # its score is far below all others
    return [q_nope, q_rope, c, k_rope, W_uk, W_uv]


def drowned_keys(g: torch.Generator, *sizes: int) -> list[Tensor]:
    """The same, with two channels in which keys are so large that a score loses all else. The absorbed query has exactly 0 there."""
    q_nope, q_rope, c, k_rope, W_uk, W_uv = attention(g, *sizes)
    q_nope[..., 1] = q_nope[..., 0]
    W_uk[:, :, 2] = 0
    W_uk[:, 0, 2], W_uk[:, 1, 2] = HUGE, -HUGE
    return [q_nope, q_rope, c, k_rope, W_uk, W_uv]


def drowned_values(g: torch.Generator, *sizes: int) -> list[Tensor]:
    """The same, with two tokens whose values are so large that all else is lost. They have equal weights, and their latents cancel."""
    q_nope, q_rope, c, k_rope, W_uk, W_uv = attention(g, *sizes)
    q_nope, q_rope = torch.zeros_like(q_nope), torch.zeros_like(q_rope)  # so all weights are equal, to the last bit
    c[..., 1], W_uk[:, :, 1] = 0, 0
    c[:, 0, 1], c[:, 1, 1] = HUGE, -HUGE
    return [q_nope, q_rope, c, k_rope, W_uk, W_uv]


def layer(g: torch.Generator, hidden: int, heads: int, nope: int, rope: int, value: int, latent: int) -> dict[str, Tensor]:
    """Weights of an attention layer, by name."""

    def normal(*shape: int, size: float = 1.0) -> Tensor:
        return size * torch.randn(shape, generator=g) / shape[-1] ** 0.5

    return {
        "q": normal(heads * (nope + rope), hidden, size=1.5),
        "down": normal(latent + rope, hidden, size=1.2),
        "norm": 0.5 + torch.rand(latent, generator=g),
        "uk": normal(heads, nope, latent, size=1.5),
        "uv": normal(heads, value, latent),
        "out": normal(hidden, heads * value),
    }
