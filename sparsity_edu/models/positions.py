"""How many tokens a model can read at once: what it was trained for, and what no measurement should exceed unnoticed."""

from __future__ import annotations

from torch import nn


def positions(model: nn.Module) -> int | None:
    """The most tokens that a model can read at once.

    Args:
        model: a Hugging Face model.

    Returns:
        The positions of its config, stretched by its RoPE scaling where that comes on top; None if it names none (ALiBi, or
        no transformers model).
    """
    config = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config(decoder=True)
    count = next(
        (n for name in ("max_position_embeddings", "max_seq_len") if isinstance(n := getattr(config, name, None), int)), 0
    )
    if count <= 0:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in (rope, *rope.values()) if isinstance(kind, dict)]  # one for all layers, or one per kind of layer
    stretched = [int((k.get("original_max_position_embeddings") or count) * k["factor"]) for k in kinds if k.get("factor")]
    return max([count, *stretched])


def check_length(model: nn.Module, tokens: int, argument: str = "window") -> None:
    """Refuse windows that are longer than a model's positions: what it says there is noise, or nothing.

    Args:
        model: a Hugging Face model.
        tokens: of the longest window.
        argument: how the caller names it.

    Raises:
        ValueError: the model has fewer positions.
    """
    most = positions(model)
    if most is not None and tokens > most:
        raise ValueError(f"{argument} must be at most the model's {most} positions, got {tokens}")
