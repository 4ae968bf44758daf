"""`sparsity-edu shrink`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsity_edu.cli.errors import Refused, at_least, named, need_folder, writing
from sparsity_edu.cli.options import (
    Calibration,
    Model,
    Window,
    Windows,
    calibration_title,
    count_of,
    need_calibration,
    need_windows,
    prepare,
)
from sparsity_edu.cli.show import Rows, fact, megabytes, what_was_read, where_from

if TYPE_CHECKING:
    from torch import nn

    from sparsity_edu.weights.minitron import Shape


def shrink(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the small checkpoint.")],
    params: Annotated[str | None, typer.Option(help="The most parameters, such as 100M; a shape is searched for.")] = None,
    layers: Annotated[int | None, typer.Option(help="Blocks to keep; all if left out.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Hidden channels to keep; all if left out.")] = None,
    heads: Annotated[int | None, typer.Option(help="Query heads per block to keep; all if left out.")] = None,
    ffn: Annotated[int | None, typer.Option(help="Neurons per block to keep; all if left out.")] = None,
    distill: Annotated[int, typer.Option(help="Steps in which the large model teaches the small one.")] = 0,
    batch: Annotated[int, typer.Option(help="Windows per step.")] = 4,
    lr: Annotated[float, typer.Option(help="The highest learning rate.")] = 5e-4,
    calibration: Calibration = "python_docs",
    windows: Windows = 16,
    window: Window = 512,
) -> None:
    """Cut a smaller dense model out of a large one, and have it taught by the large one."""
    options = {"layers": layers, "hidden": hidden, "heads": heads, "ffn": ffn}
    given = {name: value for name, value in options.items() if value is not None}
    if (params is None) == (not given):
        raise Refused(
            f"give either --params or some of --layers, --hidden, --heads, --ffn, got {'both' if given else 'neither'}"
        )
    budget = None if params is None else count_of("--params", params)
    at_least(1, **given, batch=batch)
    at_least(0, distill=distill)
    if not 0 < lr < float("inf"):
        raise Refused(f"--lr must be positive, got {lr:g}")
    need_windows(windows, window)
    need_calibration(calibration)
    need_folder(out)
    from sparsity_edu import models
    from sparsity_edu.data import python_docs
    from sparsity_edu.weights import minitron
    from sparsity_edu.weights.distillation import distil_

    (large, tokenizer), read, validation = prepare(model, calibration, windows, window)
    with named("MODEL", "model"):
        minitron.shape_of(large)
    shapes = _within(large, budget) if budget else [_given(large, given)]
    table = Rows(model, _=6, parameters=14, layers=6, hidden=6, heads=5, ffn=6, perplexity=10, seconds=8)

    def add(name: str, measured: nn.Module, seconds: float | None) -> None:
        size = sum(parameter.numel() for parameter in measured.parameters())
        shape = [str(value) for value in vars(minitron.shape_of(measured)).values()]
        value = models.perplexity(measured, validation.flatten(), window)
        table.add(name, f"{size:,}", *shape, f"{value:.2f}", "" if seconds is None else f"{seconds:.1f}")

    add("large", large, None)
    began = time.perf_counter()
    found = minitron.importance(large, read)
    shape = minitron.search(large, found, shapes, read[:4])[0][0] if budget else shapes[0]
    small = minitron.trim(large, shape, found)
    add("cut", small, time.perf_counter() - began)
    if distill:
        text = models.tokens(tokenizer, python_docs("train"))
        text = text[: len(text) // window * window].view(-1, window)
        began = time.perf_counter()
        distil_(small, large, text, distill, batch_size=batch, lr=lr)
        add("taught", small, time.perf_counter() - began)
    what_was_read(calibration_title(calibration), windows, window)
    where_from(model)
    if distill:
        fact("taught", f"{distill} steps of {batch} x {window} tokens of python_docs('train')")
    with writing(out):
        small.save_pretrained(out)
        tokenizer.save_pretrained(out)
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    fact("saved", f"{out}, {megabytes(size)} of weights in {str(small.dtype).removeprefix('torch.')}")


def _given(model: nn.Module, given: dict[str, int]) -> Shape:
    """The shape that options ask for, or a sentence."""
    from sparsity_edu.weights import minitron

    shape = replace(minitron.shape_of(model), **given)
    try:
        minitron.check_shape(model, shape)  # before importance is measured, which takes a while
    except ValueError as error:
        raise Refused(f"--{error}") from error
    return shape


def _within(model: nn.Module, budget: int) -> list[Shape]:
    """The shapes within a budget, or a sentence."""
    from sparsity_edu.weights import minitron

    full = minitron.parameters(model, minitron.shape_of(model))
    if budget >= full:
        raise Refused(f"--params must be less than the model's {full:,}, got {budget:,}")
    try:
        return minitron.shapes_for(model, budget)
    except ValueError as error:
        needed = "--params must leave half of every part; for less give --layers, --hidden, --heads or --ffn"
        raise Refused(f"{needed}, got {budget:,}") from error
