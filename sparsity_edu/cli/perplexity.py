"""`sparsity-edu perplexity`."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer

from sparsity_edu.cli.options import Model, Window, load, need_windows, read
from sparsity_edu.cli.show import fact, where_from


class Split(StrEnum):
    """A split of the Python docs."""

    train = "train"
    calibration = "calibration"
    validation = "validation"


def perplexity(
    model: Model,
    split: Annotated[Split, typer.Option(help="The split of the Python docs to read.")] = Split.validation,
    windows: Annotated[int, typer.Option(help="How many windows.")] = 16,
    window: Window = 512,
) -> None:
    """Measure a model's perplexity on the first tokens of a split of the Python docs."""
    need_windows(windows, window)
    from sparsity_edu import models
    from sparsity_edu.data import python_docs

    language_model = load(model, window)
    text = f"python_docs({split.value!r})"
    tokens = read(language_model, text, python_docs(split.value), windows, window).flatten()
    began = time.perf_counter()
    value = models.perplexity(language_model.model, tokens, window)
    seconds = time.perf_counter() - began
    fact("model", model)
    where_from(model)
    fact("text", f"{text}, its first {len(tokens)} tokens")
    fact("windows", f"{windows} of {window} tokens, each read on its own: {windows * (window - 1)} predictions")
    fact("perplexity", f"{value:.2f}")
    fact("seconds", f"{seconds:.1f}")
