"""The command line `sparsity-edu`: fetch a model, measure its perplexity, prune it, compare ways to prune it, shrink it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table

app = typer.Typer(
    help="Sparsity for efficient LLM inference: models and measurements of the course.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Split(StrEnum):
    """A split of the Python docs."""

    train = "train"
    calibration = "calibration"
    validation = "validation"


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Print an expected error as its one sentence and leave with exit code 1."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(f"error: {error}")
        raise typer.Exit(1) from error


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The model to fetch.")] = "smollm2",
    force: Annotated[bool, typer.Option("--force", help="Fetch it again although it is there.")] = False,
) -> None:
    """Fetch a model into the cache, and say where it came from."""
    from sparsity_edu.models import smollm2

    with one_sentence_errors():
        if name != "smollm2":
            raise ValueError(f'name must be "smollm2" ("tiny" and "tiny-moe" come with the package), got {name!r}')
        fetched = smollm2.fetch(force=force)
    typer.echo(f"smollm2 from {fetched.source}: {fetched.size / 1e6:.0f} MB in {fetched.folder}")


@app.command()
def perplexity(
    model: Annotated[str, typer.Argument(help='"tiny", "tiny-moe", "smollm2", a folder, or a name on the Hugging Face hub.')],
    split: Annotated[Split, typer.Option(help="The split of the Python docs to read.")] = Split.validation,
    windows: Annotated[int, typer.Option(min=1, help="How many windows.")] = 16,
    window: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = 512,
) -> None:
    """Measure a model's perplexity on the first tokens of a split of the Python docs."""
    from sparsity_edu import models
    from sparsity_edu.data import python_docs

    with one_sentence_errors():
        language_model = models.load(model)
        tokens = models.tokens(language_model.tokenizer, python_docs(split.value), windows * window)
        began = time.perf_counter()
        value = models.perplexity(language_model.model, tokens, window)
        seconds = time.perf_counter() - began
    table = Table(show_header=False)
    table.add_row("model", model)
    table.add_row("text", f"python_docs({split.value!r}), its first {len(tokens)} tokens")
    table.add_row("windows", f"{windows} of {window} tokens, each read on its own: {windows * (window - 1)} predictions")
    table.add_row("perplexity", f"{value:.2f}")
    table.add_row("seconds", f"{seconds:.1f}")
    Console().print(table)


class Method(StrEnum):
    """A way to prune."""

    magnitude = "magnitude"
    wanda = "wanda"
    sparsegpt = "sparsegpt"


Model = Annotated[str, typer.Argument(help='"tiny", "tiny-moe", "smollm2", a folder, or a name on the Hugging Face hub.')]
Calibration = Annotated[str, typer.Option(help='"python_docs", "wikitext2", "c4", or a text file to calibrate on.')]
Windows = Annotated[int, typer.Option(min=1, help="Calibration windows; as many are read to measure.")]
Window = Annotated[int, typer.Option(min=2, help="Tokens per window.")]
Sequential = Annotated[bool, typer.Option("--true-sequential", help="Within a block too, each layer sees pruned ones.")]


@app.command()
def prune(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the pruned checkpoint.")],
    method: Annotated[Method, typer.Option(help="How to prune.")] = Method.sparsegpt,
    sparsity: Annotated[float | None, typer.Option(help="Fraction to remove from each layer, in [0, 1).")] = None,
    pattern: Annotated[str | None, typer.Option(help='"n:m" such as 2:4, instead of a sparsity.')] = None,
    calibration: Calibration = "python_docs",
    windows: Windows = 16,
    window: Window = 512,
    true_sequential: Sequential = False,
) -> None:
    """Prune a language model, measure it, and save it as a checkpoint that transformers loads."""
    from sparsity_edu.models import perplexity
    from sparsity_edu.patterns import parse_n_m, prune_count
    from sparsity_edu.weights.comparison import by_kind, measure

    with one_sentence_errors():
        if (sparsity is None) == (pattern is None):
            raise ValueError("give either --sparsity or --pattern")
        parse_n_m(pattern) if sparsity is None else prune_count(1, sparsity)  # refuses at once what no layer would take
        _refuse_unless_new(out)
        language_model, read, validation = _prepared(model, calibration, windows, window)
        dense = perplexity(language_model.model, validation.flatten(), window)
        setting = sparsity if pattern is None else pattern
        run = measure(language_model.model, method.value, setting, read, validation, true_sequential=true_sequential)
        language_model.model.save_pretrained(out)
        language_model.tokenizer.save_pretrained(out)
    table = Table(*_right("layers", "weights", "sparsity", "error"), box=box.SIMPLE_HEAD, title=f"{model}, {method}, {setting}")
    for kind in [*by_kind(run.layers).values(), None]:
        if kind is None:
            table.add_section()
            table.add_row("all", f"{sum(layer.size for layer in run.layers):,}", f"{run.sparsity:.2%}", "")
        else:
            error = "" if kind.error is None else f"{kind.error:.1%}"
            table.add_row(kind.name, f"{kind.size:,}", f"{kind.sparsity:.2%}", error)
    console = Console()
    console.print(table)
    console.print("error: mean share of a layer's output that pruning changes", style="dim")
    console.print(f"perplexity  dense {dense:.2f}, pruned {run.perplexity:.2f}")
    console.print(_what_was_read(calibration, windows, window))
    console.print(f"seconds     {run.seconds:.1f}")
    console.print(f"saved       {out}", soft_wrap=True)


@app.command()
def compare(
    model: Model,
    out: Annotated[Path, typer.Option(help="The figure.")] = Path("compare.png"),
    methods: Annotated[str, typer.Option(help="Methods, with commas between them.")] = "magnitude,wanda,sparsegpt",
    sparsities: Annotated[str, typer.Option(help="Sparsities, with commas; empty for none.")] = "0.3,0.5,0.6,0.7",
    patterns: Annotated[str, typer.Option(help="Patterns, with commas; empty for none.")] = "2:4,4:8",
    calibration: Calibration = "python_docs",
    windows: Windows = 16,
    window: Window = 512,
    true_sequential: Sequential = False,
) -> None:
    """Prune a language model in several ways, print a table, and draw perplexity against sparsity."""
    from sparsity_edu.models import perplexity
    from sparsity_edu.plots import style
    from sparsity_edu.weights.comparison import compare as runs_of
    from sparsity_edu.weights.comparison import draw

    with one_sentence_errors():
        chosen = [name for name in methods.split(",") if name]
        if not chosen or not set(chosen) <= set(Method):
            raise ValueError(f"--methods must be {', '.join(Method)} with commas between them, got {methods!r}")
        settings = [*_numbers(sparsities), *filter(None, patterns.split(","))]
        language_model, read, validation = _prepared(model, calibration, windows, window)
        dense = perplexity(language_model.model, validation.flatten(), window)
        options = {"true_sequential": true_sequential}
        runs = list(runs_of(language_model.model, chosen, settings, read, validation, **options))
        style()
        draw(runs, dense, model).savefig(out, dpi=150)
    table = Table("method", *_right("setting", "sparsity", "perplexity", "seconds"), box=box.SIMPLE_HEAD, title=model)
    table.add_row("dense", "", "", f"{dense:.2f}", "")
    for run in runs:
        setting = run.setting if isinstance(run.setting, str) else f"{run.setting:.0%}"
        table.add_row(run.method, setting, f"{run.sparsity:.2%}", f"{run.perplexity:.2f}", f"{run.seconds:.1f}")
    console = Console()
    console.print(table)
    console.print(_what_was_read(calibration, windows, window))
    console.print(f"figure      {out}", soft_wrap=True)


@app.command()
def shrink(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the small checkpoint.")],
    params: Annotated[str | None, typer.Option(help="The most parameters, such as 100M; a shape is searched for.")] = None,
    layers: Annotated[int | None, typer.Option(help="Blocks to keep; all if left out.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Hidden channels to keep; all if left out.")] = None,
    heads: Annotated[int | None, typer.Option(help="Query heads per block to keep; all if left out.")] = None,
    ffn: Annotated[int | None, typer.Option(help="Neurons per block to keep; all if left out.")] = None,
    distill: Annotated[int, typer.Option(min=0, help="Steps in which the large model teaches the small one.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Windows per step.")] = 4,
    lr: Annotated[float, typer.Option(help="The highest learning rate.")] = 5e-4,
    calibration: Calibration = "python_docs",
    windows: Windows = 16,
    window: Window = 512,
) -> None:
    """Cut a smaller dense model out of a large one, and have it taught by the large one."""
    from sparsity_edu import models
    from sparsity_edu.data import python_docs
    from sparsity_edu.weights import minitron
    from sparsity_edu.weights.distillation import distil_

    with one_sentence_errors():
        options = {"layers": layers, "hidden": hidden, "heads": heads, "ffn": ffn}
        given = {name: value for name, value in options.items() if value is not None}
        if (params is None) == (not given):
            raise ValueError("give either --params or some of --layers, --hidden, --heads, --ffn")
        budget = None if params is None else _count(params)
        _refuse_unless_new(out)
        large, read, validation = _prepared(model, calibration, windows, window)
        if budget is None:
            shapes = [replace(minitron.shape_of(large.model), **given)]
            minitron.check_shape(large.model, shapes[0])  # before importance is measured, which takes a while
        else:
            shapes = minitron.shapes_for(large.model, budget)
        rows = [("large", large.model, None)]
        began = time.perf_counter()
        found = minitron.importance(large.model, read)
        shape = shapes[0] if budget is None else minitron.search(large.model, found, shapes, read[:4])[0][0]
        small = minitron.trim(large.model, shape, found)
        rows.append(("cut", small, time.perf_counter() - began))
        table = Table(
            "", *_right("parameters", "layers", "hidden", "heads", "ffn", "perplexity", "seconds"), box=box.SIMPLE_HEAD
        )
        for name, measured, seconds in rows:
            _add_shape(table, name, measured, models.perplexity(measured, validation.flatten(), window), seconds)
        if distill:
            text = models.tokens(large.tokenizer, python_docs("train"))
            text = text[: len(text) // window * window].view(-1, window)
            began = time.perf_counter()
            distil_(small, large.model, text, distill, batch_size=batch, lr=lr)
            seconds = time.perf_counter() - began
            _add_shape(table, "taught", small, models.perplexity(small, validation.flatten(), window), seconds)
        small.save_pretrained(out)
        large.tokenizer.save_pretrained(out)
    console = Console()
    console.print(table)
    console.print(_what_was_read(calibration, windows, window))
    if distill:
        console.print(f"taught      {distill} steps of {batch} x {window} tokens of python_docs('train')")
    console.print(f"saved       {out}", soft_wrap=True)


def _add_shape(table: Table, name: str, model, perplexity: float, seconds: float | None) -> None:
    from sparsity_edu.weights.minitron import shape_of

    size = sum(parameter.numel() for parameter in model.parameters())
    shape = [str(value) for value in vars(shape_of(model)).values()]
    table.add_row(name, f"{size:,}", *shape, f"{perplexity:.2f}", "" if seconds is None else f"{seconds:.1f}")


def _count(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", text.upper())
    if not match:
        raise ValueError(f"--params must be a number such as 100000000 or 100M, got {text!r}")
    return int(float(match[1]) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}[match[2]])


def _refuse_unless_new(out: Path) -> None:
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise ValueError(f"--out must be a new or empty folder, got {out}")


def _prepared(model: str, calibration: str, windows: int, window: int):
    """The model, its calibration tokens and its validation tokens, (windows, window) each."""
    from sparsity_edu import models
    from sparsity_edu.data import python_docs

    language_model = models.load(model)
    text = _calibration_text(calibration)
    read = models.tokens(language_model.tokenizer, text, windows * window).view(windows, window)
    validation = models.tokens(language_model.tokenizer, python_docs("validation"), windows * window).view(windows, window)
    return language_model, read, validation


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",") if number]
    except ValueError as error:
        raise ValueError(f"--sparsities must be numbers with commas between them, got {text!r}") from error


def _calibration_text(name: str) -> str:
    from sparsity_edu import data

    if name == "python_docs":
        return data.python_docs("calibration")
    if name == "wikitext2":
        return data.wikitext2("train")
    if name == "c4":
        return "\n\n".join(data.c4("train"))
    if not Path(name).is_file():
        raise ValueError(f'--calibration must be "python_docs", "wikitext2", "c4" or a text file, got {name!r}')
    return Path(name).read_text(encoding="utf-8")


def _what_was_read(calibration: str, windows: int, window: int) -> str:
    return (
        f"calibrated  on the first {windows} x {window} tokens of {calibration}\n"
        f"measured    on the first {windows} x {window} tokens of python_docs('validation')"
    )


def _right(first: str, *others: str) -> list[Column]:
    return [Column(first), *(Column(name, justify="right") for name in others)]


if __name__ == "__main__":
    app()
