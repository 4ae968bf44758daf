"""How caches are called on the command line, and which models can have them."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from sparsity_edu.cli.errors import Refused

if TYPE_CHECKING:
    from torch import nn

    from sparsity_edu.kv_cache import PolicyCache

LEAST = {"window": 1, "sinks": 5, "h2o": 1, "quest": 16}  # tokens; four sinks and one, a page


class Dtype(StrEnum):
    """Of weights and cache."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Of weights and cache.")]


def new_cache(name: str, budget: int) -> PolicyCache:
    """An empty cache.

    Args:
        name: "window", of the most recent tokens, or "sinks" with the first four among them; "h2o"; "quest"; "full".
        budget: tokens that are held, or of "quest" read.
    """
    from sparsity_edu import kv_cache

    made = {
        "full": lambda: kv_cache.FullCache(),
        "window": lambda: kv_cache.WindowCache(budget, sinks=0),
        "sinks": lambda: kv_cache.WindowCache(budget, sinks=4),
        "h2o": lambda: kv_cache.H2OCache(budget),
        "quest": lambda: kv_cache.QuestCache(budget),
    }
    return made[name]()


def cache_of(option: str, text: str) -> Callable[[], PolicyCache]:
    """What makes the cache that is asked for, "full" or "h2o:256" and the like, or a sentence."""
    if text == "full":
        return lambda: new_cache("full", 0)
    match = re.fullmatch(r"([a-z0-9]+):([0-9]+)", text)
    if not match or match[1] not in LEAST:
        allowed = f"full, {', '.join(f'{name}:N' for name in LEAST)} with N tokens"
        raise Refused(f"{option} must be one of {allowed}, got {text!r}")
    name, budget = match[1], int(match[2])
    if budget < LEAST[name]:
        raise Refused(f"{option} must be {name}:N with N at least {LEAST[name]}, got {text!r}")
    return lambda: new_cache(name, budget)


def need_attention(model: nn.Module) -> None:
    """Refuse a model whose attention a cache cannot take over. A few tokens are tried."""
    import torch

    from sparsity_edu.kv_cache import FullCache, attending

    cache, error = FullCache(), None
    try:
        with attending(model), torch.no_grad():
            for token in torch.ones(3, 1, 1, dtype=torch.int64):
                model(input_ids=token, past_key_values=cache, use_cache=True)
    except (AttributeError, RuntimeError, TypeError, ValueError) as cause:
        error = cause
    if error or cache.get_seq_length() != 3:
        kind = type(model).__name__
        raise Refused(f"MODEL must leave its keys and values, and a plain attention, to a cache, got {kind}") from error
