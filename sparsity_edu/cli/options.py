"""Options that commands share, and how they are read: whatever is wrong is refused before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from sparsity_edu.cli.errors import Refused, at_least, named

if TYPE_CHECKING:
    from torch import Tensor

    from sparsity_edu.models import LanguageModel

Model = Annotated[str, typer.Argument(help='"tiny", "tiny-moe", "tiny-relu", "smollm2", a folder, or a name on the hub.')]
Calibration = Annotated[str, typer.Option(help='"python_docs", "wikitext2", "c4", or a text file to calibrate on.')]
Windows = Annotated[int, typer.Option(help="Calibration windows; as many are read to measure.")]
Window = Annotated[int, typer.Option(help="Tokens per window; no more than the model has positions.")]
Sequential = Annotated[bool, typer.Option("--true-sequential", help="Within a block too, each layer sees pruned ones.")]


class Few(StrEnum):
    """What becomes of an expert that saw too few tokens."""

    all = "all"
    dense = "dense"


FewTokens = Annotated[
    Few, typer.Option(help="An expert that too few tokens are routed to: pruned by all tokens of its block, or left dense.")
]
MinTokens = Annotated[int, typer.Option(help="Tokens routed to an expert below which they are too few.")]


class Prepared(NamedTuple):
    """A model, and what it reads."""

    model: LanguageModel
    calibration: Tensor  # token ids (windows, window)
    validation: Tensor  # token ids (windows, window)


def need_windows(windows: int, window: int) -> None:
    """Refuse numbers that no text has."""
    at_least(1, windows=windows)
    at_least(2, window=window)


def need_calibration(name: str) -> None:
    """Refuse what is no text to calibrate on."""
    if name in ("python_docs", "wikitext2", "c4"):
        return
    if not Path(name).is_file():
        raise Refused(f'--calibration must be "python_docs", "wikitext2", "c4" or a text file, got {name!r}')
    try:
        Path(name).read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise Refused(f"--calibration must be a text file in UTF-8, got {name!r}") from error


def load(model: str, window: int) -> LanguageModel:
    """Load a model that reads windows of that length."""
    from sparsity_edu import models
    from sparsity_edu.models.positions import check_length

    with named("MODEL", "name"):
        language_model = models.load(model)
    with named("--window", "window"):
        check_length(language_model.model, window)
    return language_model


def read(model: LanguageModel, name: str, text: str, windows: int, window: int) -> Tensor:
    """The first tokens of a text, (windows, window)."""
    from sparsity_edu.models import tokens

    ids = tokens(model.tokenizer, text)
    if windows * window > len(ids):
        there = f"{name} has {len(ids):,} tokens"
        if len(ids) < window:
            raise Refused(f"--window must be at most {len(ids)}, since {there}, got {window}")
        raise Refused(f"--windows must be at most {len(ids) // window}, since {there} and a window {window}, got {windows}")
    return ids[: windows * window].view(windows, window)


def prepare(model: str, calibration: str, windows: int, window: int) -> Prepared:
    """Load a model and read its calibration and validation text."""
    from sparsity_edu.data import python_docs

    language_model = load(model, window)
    text, title = _calibration_text(calibration), calibration_title(calibration)
    return Prepared(
        language_model,
        read(language_model, title, text, windows, window),
        read(language_model, "python_docs('validation')", python_docs("validation"), windows, window),
    )


def calibration_title(name: str) -> str:
    """How a calibration text is called."""
    return "python_docs('calibration')" if name == "python_docs" else name


def _calibration_text(name: str) -> str:
    from sparsity_edu import data

    if name == "python_docs":
        return data.python_docs("calibration")
    if name == "wikitext2":
        return data.wikitext2("train")
    if name == "c4":
        return "\n\n".join(data.c4("train"))
    return Path(name).read_text(encoding="utf-8")


def sparsity_of(option: str, text: str | float) -> float:
    """A sparsity, or a sentence."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1:
        meant = f" (for {value:g} % say {value / 100:g})" if 1 <= value < 100 else ""
        raise Refused(f"{option} must be in [0, 1){meant}, got {text}")
    return value


def pattern_of(option: str, text: str) -> str:
    """A pattern n:m, or a sentence."""
    from sparsity_edu.patterns import parse_n_m

    with named(option, "pattern"):
        parse_n_m(text)
    return text


def list_of(option: str, text: str, of: Callable, such_as: str) -> list:
    """The parts of a list with commas, each once."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise Refused(f"{option} must be a list with commas such as {such_as}, got {text!r}")
    return list(dict.fromkeys(of(option, part) for part in parts))


def need_columns(option: str, patterns: list[str], model) -> None:
    """Refuse a model with weights in an unknown layout, and a pattern whose m does not divide the columns of every layer."""
    from sparsity_edu.models.layers import prunable_matrices, weight_matrix
    from sparsity_edu.patterns import parse_n_m

    with named("MODEL", "model"):
        matrices = prunable_matrices(model)
    for pattern in patterns:
        m = parse_n_m(pattern)[1]
        for name, layer in matrices.items():
            if (cols := weight_matrix(layer).shape[1]) % m:
                raise Refused(
                    f"{option} must have an m that divides the columns of every layer, {cols} in {name}, got {pattern}"
                )


def count_of(option: str, text: str) -> int:
    """A number of parameters such as 100M, or a sentence."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", text.upper())
    count = int(float(match[1]) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}[match[2]]) if match else 0
    if count < 1:
        raise Refused(f"{option} must be a number such as 100000000 or 100M, got {text!r}")
    return count
