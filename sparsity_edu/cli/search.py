"""`sparsity-edu search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsity_edu.cli import measuring as m
from sparsity_edu.cli.caches import Dtype, DtypeOption
from sparsity_edu.cli.errors import at_least, named, need_file, writing
from sparsity_edu.cli.options import Model
from sparsity_edu.cli.show import Rows, fact, sentence


def search(
    model: Model,
    recipes: Annotated[Path, typer.Option(help="A folder with recipes; those of one technique each are combined.")],
    budget: Annotated[float, typer.Option(help="MB that a token may read.")],
    rounds: Annotated[int, typer.Option(help="Combinations to measure, beyond each technique alone.")] = 8,
    save: Annotated[Path | None, typer.Option(help="A file for the best recipe, in TOML.")] = None,
    text: m.Text = None,
    out: m.Out = Path("recipes.csv"),
    figure: m.FigureFile = None,
    windows: m.Texts = 8,
    window: m.Window = 512,
    length: m.Length = 1024,
    trials: m.Trials = 10,
    choices: m.Choices = 40,
    count: m.Count = 32,
    seed: m.Seed = 0,
    dtype: DtypeOption = Dtype.float32,
) -> None:
    """Look for the combination of techniques with the least loss within a budget of bytes.

    Each technique is measured alone; then, round by round, the combination that is predicted to be best. A search that was
    stopped goes on, as does one behind `evaluate` with the same table and questions: what was measured stays measured.
    """
    found = [m.load_recipe(path) for path in m.recipes_in(recipes)]
    asked = m.Asked(windows, window, length, trials, choices, count, seed)
    asked.need()
    at_least(0, budget=budget, rounds=rounds)
    figure = m.need_files(out, figure)
    if save is not None:
        need_file(save, ("toml",), "--save")
    from sparsity_edu.combine.search import combinations, search

    with named("--recipes", "recipes"):
        every = combinations(found)
    alone = sum(len(parts) == 1 for parts in every)
    several = len(every) - alone - 1
    sentence(f"{alone} recipes of one technique are measured, and up to {min(rounds, several)} of {several} combinations.")
    measured = m.measuring(model, dtype.value, asked, text, out)
    table = Rows(f"{model}, {dtype}, {budget:g} MB", recipe=38, predicted=9, loss=7, predicted_MB=12, read=7)
    rows, recipe_of = [], {}
    for candidate, row in search(measured.row_of, found, budget * 1e6, rounds):
        told = ("", "") if len(candidate.parts) < 2 else (f"{candidate.loss:.3f}", f"{candidate.read / 1e6:.1f}")
        table.add(row.recipe[:38], told[0], f"{row.loss:.3f}", told[1], f"{row.read / 1e6:.1f}")
        rows.append(row)
        recipe_of[row.recipe] = candidate.recipe
    m.what_columns_are(model, asked, measured)
    on = m.on_the_front(rows)
    within = [rows[i] for i in on if rows[i].read <= budget * 1e6]
    if within:
        sentence(f"The least loss within {budget:g} MB, {within[-1].loss:.3f}: {within[-1].recipe}.")
        if save is not None:
            with writing(save, "--save"):
                recipe_of[within[-1].recipe].save(save)
            fact("recipe", str(save))
    else:
        sentence(f"Nothing that was measured reads at most {budget:g} MB for a token.")
    m.save_figure(model, rows, on, out, figure)
