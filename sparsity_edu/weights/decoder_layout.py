"""Decoders of Llama's layout: which families can be cut, what sets each apart, and what every axis of a parameter counts.

Many models have Llama's module names and are something else: norms that multiply by 1 + w, embeddings that are multiplied by
the root of the width, layers without position embeddings, statistics over all heads together. So what can be cut is a list,
every entry of which is tested on models in which what is cut provably does nothing; all else is refused.
"""

import copy
import re
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn


@dataclass(frozen=True)
class Family:
    """What sets a family apart from Llama, as far as cutting goes."""

    unit_offset: bool = False  # a norm multiplies by 1 + weight
    scaled_embedding: bool = False  # what comes out of the embedding is multiplied by sqrt(hidden)
    joint_heads: bool = False  # queries are normalised over all heads of a block together, so that none can go


_LIKE_LLAMA, _GEMMA, _OLMO = Family(), Family(unit_offset=True, scaled_embedding=True), Family(joint_heads=True)
FAMILIES = {  # by the `model_type` of the config
    **dict.fromkeys(("llama", "mistral", "ministral", "qwen2", "qwen3", "smollm3", "granite"), _LIKE_LLAMA),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), _GEMMA),
    **dict.fromkeys(("olmo2", "olmo3"), _OLMO),
}

# The norms over hidden channels. Before a sublayer (Llama), after it (OLMo 2), or both (Gemma 2).
NORMS = (
    "norm",
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
# What each axis of a weight counts; a bias has the first one. None stays whole: vocabulary, key-value heads, a head's channels.
AXES = {
    "embed_tokens": (None, "hidden"),
    "lm_head": (None, "hidden"),
    **dict.fromkeys(NORMS, ("hidden",)),
    "self_attn.q_proj": ("heads", "hidden"),
    "self_attn.k_proj": (None, "hidden"),
    "self_attn.v_proj": (None, "hidden"),
    "self_attn.o_proj": ("hidden", "heads"),
    "self_attn.q_norm": (None,),
    "self_attn.k_norm": (None,),
    "mlp.gate_proj": ("ffn", "hidden"),
    "mlp.up_proj": ("ffn", "hidden"),
    "mlp.down_proj": ("hidden", "ffn"),
}

PER_LAYER = ("layer_types", "no_rope_layers")  # lists in a config that hold an entry for each block


class Place(NamedTuple):
    """Where a parameter is."""

    block: int | None  # None outside the blocks
    part: str  # a key of `AXES`
    kind: str  # "weight" or "bias"

    @property
    def axes(self) -> tuple[str | None, ...]:
        """What each axis counts."""
        return AXES[self.part] if self.kind == "weight" else AXES[self.part][:1]

    def moved(self, block: int | None) -> str:
        """The name of the same parameter in another block."""
        inside = "" if self.part == "lm_head" else "model."
        return f"{inside}{'' if block is None else f'layers.{block}.'}{self.part}.{self.kind}"


def place_of(name: str) -> Place | None:
    """Where a parameter is, from its name; None for a name that no decoder of this layout has."""
    found = re.fullmatch(r"(?:model\.)?(?:layers\.(\d+)\.)?(.+)\.(weight|bias)", name)
    if not found or found[2] not in AXES:
        return None
    place = Place(None if found[1] is None else int(found[1]), found[2], found[3])
    return place if place.moved(place.block) == name else None


def family_of(model: nn.Module) -> Family:
    """The family of a model that can be cut.

    Args:
        model: any module.

    Returns:
        What sets its family apart.

    Raises:
        ValueError: the model is of no such family, has parameters that its family does not have, or blocks that differ in ways
            that nothing here knows to cut.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in FAMILIES:
        got = f"{type(model).__name__}{f' ({kind})' if kind else ''}"
        raise ValueError(f"model must be of a family that can be cut ({', '.join(FAMILIES)}), got {got}")
    unknown = [name for name in model.state_dict() if place_of(name) is None]
    if unknown:
        raise ValueError(f"model must have the parameters of a {kind} for text and no others, got {unknown[0]!r}")
    if getattr(config, "is_heterogeneous", False):
        raise ValueError(f"model must have one config for all its blocks, got a {kind} with a per_layer_config")
    for name, value in config.to_dict().items():
        looks_per_layer = isinstance(value, list | tuple) and len(value) == config.num_hidden_layers
        if looks_per_layer and name not in (*PER_LAYER, "architectures", "eos_token_id"):
            raise ValueError(f"model must be a {kind} as transformers knows it, got one whose config holds a list {name!r}")
    return FAMILIES[kind]


def head_dim(config) -> int:
    """Channels of a head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def cut_config(config, layers: Tensor, hidden: int, heads: int, ffn: int):
    """The config of a smaller model.

    Args:
        config: of the large one.
        layers: indices of the blocks that stay.
        hidden, heads, ffn: how many of each stay.

    Returns:
        A new config.
    """
    new = copy.deepcopy(config)
    new.head_dim = head_dim(config)  # or it would follow from hidden size and heads
    new.num_hidden_layers, new.hidden_size = len(layers), hidden
    new.num_attention_heads, new.intermediate_size = heads, ffn
    for name in PER_LAYER:
        if getattr(config, name, None):
            setattr(new, name, [getattr(config, name)[i] for i in layers.tolist()])
    return new
