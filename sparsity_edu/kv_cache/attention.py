"""Small pieces that the caches share: probabilities in blocks of queries, and rotary positions."""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 2**24  # probabilities at a time
AS_LLAMA = ("llama", "ministral", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe")  # how keys are rotated


def probabilities(
    query: Tensor, keys: Tensor, scale: float, visible: Tensor | None = None, block: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """softmax(Q K^T scale), some queries at a time: of a long text all at once would not fit into memory.

    Args:
        query: (batch, heads, q, head_dim); the last query stands at the last key.
        keys: (batch, kv_heads, n, head_dim); heads is a multiple of kv_heads.
        scale: of the products.
        visible: boolean (batch, 1 or kv_heads or heads, q, n), True = attend. Default: causal.
        block: queries at a time. Default: as many as make 2^24 probabilities.

    Yields:
        The first query, and float32 (batch, heads, queries, n); a query that sees nothing has zeros.
    """
    batch, heads, q, dim = query.shape
    kv_heads, n = keys.shape[1:3]
    block = block or max(1, BLOCK // (batch * heads * n))
    for start in range(0, q, block):
        some = query[:, :, start : start + block]
        rows = some.shape[2]
        products = some.reshape(batch, kv_heads, -1, dim) @ keys.mT  # (batch, kv_heads, group * rows, n)
        scores = products.view(batch, heads, rows, n).float() * scale
        if visible is None:
            last = torch.arange(n - q + start, n - q + start + rows, device=keys.device)[:, None]
            seen = torch.arange(n, device=keys.device) <= last
        else:
            seen = visible[:, :, start : start + block]
            seen = seen if seen.shape[1] in (1, heads) else seen.repeat_interleave(heads // kv_heads, dim=1)
        p = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        yield start, p if visible is None else p.masked_fill(~seen.any(dim=-1, keepdim=True), 0.0)


def rotate(x: Tensor, angle: Tensor, interleaved: bool = False) -> Tensor:
    """Rotary position embedding: pair j of channels, turned by angle j.

    Args:
        x: (..., dim).
        angle: (..., dim / 2), position times frequency; broadcast.
        interleaved: a pair are channels 2j and 2j+1 (DeepSeek's own code, GPT-J), or else j and j + dim/2 (Llama and the
            others in `transformers`, GPT-NeoX).

    Returns:
        Like x, each pair where it was.

    Source: Su et al. 2021, "RoFormer", eq. 34.
    """
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    a, b, cos, sin = a.float(), b.float(), angle.cos(), angle.sin()
    turned = a * cos - b * sin, b * cos + a * sin
    return (torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)).to(x.dtype)


def check_rotation(config) -> None:
    """Refuse a model whose queries and keys cannot be turned further with `rotate` and all of their channels.

    Others turn some of the channels (Phi, GPT-NeoX), pairs of neighbours (GLM, Cohere), or not in every layer (SmolLM3).

    Args:
        config: of a `transformers` model.

    Raises:
        ValueError: its family is not known to do as Llama does.
    """
    kind = getattr(config, "model_type", None)
    if kind not in (None, *AS_LLAMA) or config.rope_parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"model must rotate its keys as Llama does, one of {', '.join(AS_LLAMA)}, got {kind}")


def rotary_frequencies(config, dim: int, device: torch.device | str = "cpu") -> tuple[Tensor, float]:
    """How far each pair of channels of a `transformers` model turns from a position to the next.

    Args:
        config: of the model.
        dim: channels that are rotated.
        device: of the result.

    Returns:
        (dim / 2,) float32, and what the model multiplies rotated queries and rotated keys by (YaRN; otherwise 1).

    Raises:
        ValueError: the frequencies depend on the length of the text, or differ between layers.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = config.rope_parameters
    kind = parameters.get("rope_type", "default")
    if kind == "default" and "rope_theta" in parameters:
        return parameters["rope_theta"] ** (-torch.arange(0, dim, 2, device=device).float() / dim), 1.0
    if kind not in ("linear", "llama3", "yarn"):
        raise ValueError(f"rope_type must be default, linear, llama3 or yarn, whose frequencies are fixed, got {parameters}")
    return ROPE_INIT_FUNCTIONS[kind](config, device)
