"""`sparsity-edu evaluate`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsity_edu.cli.caches import Dtype, DtypeOption, need_attention
from sparsity_edu.cli.compare import ENDINGS
from sparsity_edu.cli.errors import Refused, at_least, named, need_file, writing
from sparsity_edu.cli.options import Model
from sparsity_edu.cli.show import Rows, fact, line, sentence, where_from

if TYPE_CHECKING:
    from sparsity_edu.combine import Recipe
    from sparsity_edu.combine.evaluation import Row

ENDINGS_OF_RECIPES = (".toml", ".json")


def evaluate(
    model: Model,
    recipe: Annotated[list[Path] | None, typer.Option(help="A file with a recipe; may be given several times.")] = None,
    recipes: Annotated[Path | None, typer.Option(help="A folder of recipes: those of a class, say.")] = None,
    text: Annotated[Path | None, typer.Option(help="A text file to measure on. Default: the Python docs.")] = None,
    out: Annotated[Path, typer.Option(help="The table, row by row; what is there is not measured again.")] = Path(
        "recipes.csv"
    ),
    figure: Annotated[Path | None, typer.Option(help="The figure. Default: beside the table, as PNG.")] = None,
    budget: Annotated[float | None, typer.Option(help="MB that a token may read: the best recipe within it is named.")] = None,
    windows: Annotated[int, typer.Option(help="Texts that are read token by token, behind a prompt of half a window.")] = 8,
    window: Annotated[int, typer.Option(help="Tokens of such a text.")] = 512,
    length: Annotated[int, typer.Option(help="Tokens of a text with a hidden line, and of the one to write behind.")] = 1024,
    trials: Annotated[int, typer.Option(help="Hidden lines; 0: none.")] = 10,
    choices: Annotated[int, typer.Option(help="Multiple-choice items; 0: none.")] = 40,
    count: Annotated[int, typer.Option(help="Tokens to write, for time and bytes.")] = 32,
    task: Annotated[str | None, typer.Option(help="A task of the package lm-eval, by name, such as arc_easy; too.")] = None,
    limit: Annotated[int | None, typer.Option(help="Of the task's items, the first so many.")] = None,
    seed: Annotated[int, typer.Option(help="Of lines and items.")] = 0,
    dtype: DtypeOption = Dtype.float32,
) -> None:
    """Apply recipes to a model, and measure what each costs and saves: a table, and the Pareto front.

    A dense model is always the first row. A recipe is plain data, which nobody runs; sparsity_edu/combine/recipe.py says what
    may be in it.
    """
    found = _recipes(recipe or [], recipes)
    at_least(1, windows=windows, count=count, limit=limit)
    at_least(4, window=window)
    at_least(64, length=length)
    at_least(0, trials=trials, choices=choices, seed=seed, budget=budget)
    need_file(out, ("csv",))
    figure = figure or out.with_suffix(".png")
    need_file(figure, ENDINGS)
    written = _text(text)
    import torch

    from sparsity_edu import combine, models
    from sparsity_edu.combine import evaluation, harness
    from sparsity_edu.combine.front import front
    from sparsity_edu.kernels.roofline import this_machine
    from sparsity_edu.plots import style

    if task is not None:
        harness.need_package()
    known = evaluation.read(out)
    with named("MODEL", "name"):
        language_model = models.load(model, dtype=getattr(torch, dtype))
    need_attention(language_model.model)
    asked = {"windows": windows, "window": window, "length": length, "trials": trials, "choices": choices, "count": count}
    name = ", ".join(filter(None, (model, dtype.value, task, text.name if text else "python_docs('validation')")))
    with named("--text", "text"), named("--length", "length"):
        questions = evaluation.Questions.of(language_model.tokenizer, written, **asked, seed=seed, name=name)
    machine = this_machine(language_model.model.device)
    fresh = [language_model]

    def measure(recipe: Recipe) -> Row:
        began = time.perf_counter()
        made = combine.make(fresh.pop() if fresh else models.load(model, dtype=getattr(torch, dtype)), recipe)
        row = evaluation.evaluate(made, questions, machine, began)
        return row if task is None else replace(row, score=harness.score(made, task, limit))

    def keep(row: Row) -> None:
        with writing(out):
            evaluation.append(out, row)

    table, rows = Rows(f"{model}, {dtype}", **COLUMNS), []
    for one, row in evaluation.in_turn(found, known, questions.about, measure, keep):
        table.add(one.name[: COLUMNS["recipe"]], *_cells(row))
        rows.append(row)
    line()
    fact("perplexity", f"of the second halves of {windows} x {window} tokens, read token by token")
    fact("found", f"of {trials} lines hidden in {length} tokens; right: of {choices} sentences that come next")
    fact("MB", "of weights on disk; of weights and cache in memory; read for a token")
    fact("tokens/s", f"behind {length} tokens, here; at most: what {machine.bandwidth / 1e9:.1f} GB/s allow")
    if task is not None:
        fact(task, ", ".join(f"{row.recipe} {row.score:.1%}" for row in rows))
    fact("measured", questions.about)
    where_from(model)
    on = front(torch.tensor([row.read for row in rows]), torch.tensor([row.perplexity for row in rows])).tolist()
    line()
    sentence(f"On the front of perplexity and bytes, from few bytes to many: {'; '.join(rows[i].recipe for i in on)}.")
    if budget is not None:
        within = [i for i in on if rows[i].read <= budget * 1e6]
        best = f"best is {rows[within[-1]].recipe}" if within else "there is none"
        sentence(f"Of recipes that read at most {budget:g} MB for a token, {best}.")
    style()
    with writing(figure):
        evaluation.draw(rows, on, f"{model}: recipes").savefig(figure, dpi=150)
    fact("table", str(out))
    fact("figure", str(figure))


COLUMNS = {"recipe": 26, "perplexity": 10, "found": 5, "right": 5, "disk": 6, "held": 6, "read": 6, "tokens_s": 8, "at_most": 7}


def _cells(row: Row) -> tuple[str, ...]:
    sizes = (row.disk, row.weights_held + row.cache_held, row.read)
    speeds = f"{row.tokens_per_s:.1f}", f"{row.predicted_per_s:.1f}"
    return f"{row.perplexity:.2f}", f"{row.found}", f"{row.right}", *(f"{size / 1e6:.1f}" for size in sizes), *speeds


def _recipes(files: list[Path], folder: Path | None) -> list[Recipe]:
    """The dense model, and recipes from files, or a sentence."""
    from sparsity_edu.combine.recipe import Recipe

    paths = list(files)
    if folder is not None:
        if not folder.is_dir():
            raise Refused(f"--recipes must be a folder, got {folder}")
        paths += sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS_OF_RECIPES and path.is_file())
    if not paths:
        raise Refused("give recipes with --recipe FILE or --recipes FOLDER, whose files end in .toml or .json")
    found = [Recipe()]
    for path in paths:
        try:
            with named("--recipe", "path"):
                found.append(Recipe.load(path))
        except OSError as error:
            raise Refused(f"--recipe cannot be read, {error.strerror or error}: {path}") from error
    return found


def _text(path: Path | None) -> str:
    """What is measured on, or a sentence."""
    from sparsity_edu.data import python_docs

    if path is None:
        return python_docs("validation")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"--text must be a text file in UTF-8, got {path}") from error
