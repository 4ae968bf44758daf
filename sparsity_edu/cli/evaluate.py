"""`sparsity-edu evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsity_edu.cli import measuring as m
from sparsity_edu.cli.caches import Dtype, DtypeOption
from sparsity_edu.cli.errors import Refused, at_least
from sparsity_edu.cli.options import Model
from sparsity_edu.cli.show import Rows, fact, line, sentence


def evaluate(
    model: Model,
    recipe: Annotated[list[Path] | None, typer.Option(help="A file with a recipe; may be given several times.")] = None,
    recipes: Annotated[Path | None, typer.Option(help="A folder of recipes: those of a class, say.")] = None,
    text: m.Text = None,
    out: m.Out = Path("recipes.csv"),
    figure: m.FigureFile = None,
    budget: Annotated[float | None, typer.Option(help="MB that a token may read: the best recipe within it is named.")] = None,
    windows: m.Texts = 8,
    window: m.Window = 512,
    length: m.Length = 1024,
    trials: m.Trials = 10,
    choices: m.Choices = 40,
    count: m.Count = 32,
    task: Annotated[str | None, typer.Option(help="A task of the package lm-eval, by name, such as arc_easy; too.")] = None,
    limit: Annotated[int | None, typer.Option(help="Of the task's items, the first so many.")] = None,
    minutes: Annotated[float | None, typer.Option(help="For each recipe; one that takes longer is left out.")] = None,
    seed: m.Seed = 0,
    dtype: DtypeOption = Dtype.float32,
) -> None:
    """Apply recipes to a model, and measure what each costs and saves: a table, and the Pareto front.

    A dense model is always the first row. A recipe is plain data, which nobody runs; sparsity_edu/combine/recipe.py says what
    may be in it.
    """
    asked = m.Asked(windows, window, length, trials, choices, count, seed)
    asked.need()
    at_least(0, budget=budget, minutes=minutes)
    at_least(1, limit=limit)
    figure = m.need_files(out, figure)
    if not recipe and recipes is None:
        raise Refused("give recipes with --recipe FILE or --recipes FOLDER, whose files end in .toml or .json")
    given = {str(path): m.load_recipe(path) for path in recipe or []}
    others, refused = m.load_all(recipes) if recipes is not None else ({}, [])
    measured = m.measuring(model, dtype.value, asked, text, out, task, limit)
    from sparsity_edu.combine import Recipe

    table, rows = Rows(f"{model}, {dtype}", recipe=26, **m.COLUMNS), []
    for where, one in {"dense": Recipe(), **others, **given}.items():
        try:
            with m.at_most(minutes):
                row = measured.row_of(one)
        except (ValueError, RuntimeError, TimeoutError) as error:
            if where not in others and not isinstance(error, TimeoutError):
                raise
            refused.append(f"{where}: {error}")
            continue
        rows.append(row)
        table.add(one.name[:26], *m.cells(row))
    m.what_columns_are(model, asked, measured)
    if task is not None:
        fact(task, ", ".join(f"{row.recipe} {row.score:.1%}" for row in rows))
    on = m.on_the_front(rows)
    if budget is not None:
        within = [i for i in on if rows[i].read <= budget * 1e6]
        best = f"best is {rows[within[-1]].recipe}" if within else "there is none"
        sentence(f"Of recipes that read at most {budget:g} MB for a token, {best}.")
    m.save_figure(model, rows, on, out, figure)
    if refused:
        line()
        for why in refused:
            sentence(f"left out: {why}")
        raise Refused(f"{len(refused)} of the recipes were left out, the table holds the others")
