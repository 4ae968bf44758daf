"""What a cache weighs: numbers per token of MHA, GQA, MQA and MLA, for models that exist.

    MHA   2 n_h d_h l        keys and values of every head
    GQA   2 n_g d_h l        of every group of heads
    MQA   2 d_h l            of one
    MLA   (d_c + d_R) l      a latent, and one rotated key for all heads

DeepSeek-AI 2024, "DeepSeek-V2", table 1, where n_h are heads, n_g groups, d_h channels of a head, d_c of the latent, d_R of the
rotated key, and l layers.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Attention:
    """The attention of a model."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    latent: int = 0  # d_c of MLA; 0: keys and values are stored
    rope: int = 0  # d_R of MLA
    window: int | None = None  # tokens that a layer can see, its own included

    @property
    def kind(self) -> str:
        """MHA, GQA, MQA or MLA."""
        if self.latent:
            return "MLA"
        return "MHA" if self.kv_heads == self.heads else "MQA" if self.kv_heads == 1 else "GQA"

    @property
    def numbers_per_token(self) -> int:
        """Numbers that a token leaves in the cache, over all layers."""
        return self.layers * (self.latent + self.rope if self.latent else 2 * self.kv_heads * self.head_dim)

    def bytes_per_token(self, itemsize: int = 2) -> int:
        """Bytes that a token leaves.

        Args:
            itemsize: bytes of a number; 2 in 16 bits.
        """
        return itemsize * self.numbers_per_token

    def cache_bytes(self, tokens: int, batch: int = 1, itemsize: int = 2) -> int:
        """Bytes of a cache; one with a window holds no more than the window.

        Args:
            tokens: of each sequence.
            batch: sequences.
            itemsize: bytes of a number.
        """
        held = tokens if self.window is None else min(tokens, self.window)
        return batch * held * self.bytes_per_token(itemsize)

    def variants(self, groups: int = 8, latent: int | None = None, rope: int | None = None) -> dict[str, "Attention"]:
        """The same layers and heads with each of the four kinds.

        Args:
            groups: of GQA.
            latent: d_c of MLA. Default: 4 d_h, as in DeepSeek-V2.
            rope: d_R of MLA. Default: d_h / 2, as in DeepSeek-V2.
        """
        plain = replace(self, latent=0, rope=0)
        latent, rope = latent or 4 * self.head_dim, rope or self.head_dim // 2
        return {
            "MHA": replace(plain, kv_heads=self.heads),
            "GQA": replace(plain, kv_heads=groups),
            "MQA": replace(plain, kv_heads=1),
            "MLA": replace(plain, kv_heads=self.heads, latent=latent, rope=rope),
        }


def attention_of(config) -> Attention:
    """The attention of a `transformers` configuration.

    Args:
        config: of a decoder; MLA is recognised by its `kv_lora_rank`. A window counts only if all layers have it.

    Returns:
        Its attention.
    """
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if getattr(config, "kv_lora_rank", None):
        return Attention(layers, heads, heads, config.qk_nope_head_dim, config.kv_lora_rank, config.qk_rope_head_dim)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    window = getattr(config, "sliding_window", None)
    if any(kind != "sliding_attention" for kind in getattr(config, "layer_types", None) or []):
        window = None
    return Attention(layers, heads, getattr(config, "num_key_value_heads", heads), head_dim, window=window)


# From the config.json that each model is published with.
MODELS = {
    "SmolLM2-135M": Attention(30, 9, 3, 64),
    "SmolLM2-360M": Attention(32, 15, 5, 64),
    "SmolLM2-1.7B": Attention(24, 32, 32, 64),
    "Llama-2-7B": Attention(32, 32, 32, 128),
    "Llama-2-13B": Attention(40, 40, 40, 128),
    "Llama-2-70B": Attention(80, 64, 8, 128),
    "Llama-3-8B": Attention(32, 32, 8, 128),
    "Llama-3-70B": Attention(80, 64, 8, 128),
    "Llama-3.1-405B": Attention(126, 128, 8, 128),
    "Mistral-7B-v0.1": Attention(32, 32, 8, 128, window=4096),
    "Qwen2.5-0.5B": Attention(24, 14, 2, 64),
    "Qwen2-7B": Attention(28, 28, 4, 128),
    "Qwen3-8B": Attention(36, 32, 8, 128),
    "Gemma-2B": Attention(18, 8, 1, 256),
    "DeepSeek-67B": Attention(95, 64, 8, 128),
    "DeepSeek-V2-Lite": Attention(27, 16, 16, 128, latent=512, rope=64),
    "DeepSeek-V2": Attention(60, 128, 128, 128, latent=512, rope=64),
    "DeepSeek-V3": Attention(61, 128, 128, 128, latent=512, rope=64),
}
