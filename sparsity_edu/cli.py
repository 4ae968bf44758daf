"""The command line `sparsity-edu`: fetch a model, measure a perplexity."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

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
            raise ValueError(f'name must be "smollm2" ("tiny" comes with the package), got {name!r}')
        fetched = smollm2.fetch(force=force)
    typer.echo(f"smollm2 from {fetched.source}: {fetched.size / 1e6:.0f} MB in {fetched.folder}")


@app.command()
def perplexity(
    model: Annotated[str, typer.Argument(help='"tiny", "smollm2", a folder, or a name on the Hugging Face hub.')],
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


if __name__ == "__main__":
    app()
