"""The learner's commands: progress, work. In a handout they are all there is of `autograder`."""

import json as json_
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from autograder.exercises import UNITS, exercises_of, unit_named

app = typer.Typer(help="Your progress, and your own copies of the notebooks.", pretty_exceptions_show_locals=False)
console = Console(emoji=False)
Unit = Annotated[
    str | None,
    typer.Argument(
        help=f"A unit such as {UNITS[-1]}, or {UNITS[-1].split('_')[0]} for short; all units if left out.",
        callback=lambda name: name and unit_named(name),
    ),
]


def main(commands: typer.Typer = app) -> None:
    """Run a command line; what a user got wrong is told in one sentence.

    Args:
        commands: these, or those of the whole project.
    """
    try:
        commands()
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


@app.command()
def progress(
    unit: Unit = None,
    reset: Annotated[bool, typer.Option("--reset", help="Forget the results of the unit, or of all units.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Show where you stand: the best results so far, unit by unit, or of the exercises of one unit."""
    from autograder.learner import progress as records
    from autograder.learner.standing import Standing

    if reset:
        count = records.reset([unit] if unit else UNITS)
        console.print(f"{count} result(s) of {unit or 'all units'} forgotten; your notebooks are as they were", highlight=False)
    elif json:
        print(json_.dumps(records.of_unit(unit) if unit else records.of_course(), indent=2))
    elif unit is None:
        print(Standing())
        console.print("autograder progress 02 shows the exercises of a unit; --reset forgets results.", highlight=False)
    else:
        done = records.of_unit(unit)
        table = Table(Column("exercise", no_wrap=True), "title", Column("points", no_wrap=True))
        for exercise in exercises_of(unit):
            got = min(records.best(exercise.id), exercise.points)
            color = "green" if got == exercise.points else "yellow" if got else "bright_black"
            table.add_row(exercise.id, exercise.title, f"[{color}]{got:g} / {exercise.points:g}[/]")
        table.add_section()
        summary = f"{done['done']} of {done['exercises']} done", f"{done['points']:g} / {done['max_points']:g}"
        table.add_row("", *(f"[b]{text}[/b]" for text in summary))
        console.print(table)


@app.command()
def work(unit: Unit = None) -> None:
    """Copy the notebooks to work/, where you solve them; a corrected release takes over what you wrote there."""
    from autograder.learner.start import write_start
    from autograder.learner.work import WORK, prepare
    from autograder.lessons.layout import course_root

    root = course_root()
    for each in [unit] if unit else UNITS:
        if said := prepare(root, each):
            console.print(f"{each}: {'; '.join(said)}", highlight=False, soft_wrap=True, markup=False)
    write_start(root)
    console.print(f"Solve the notebooks in {WORK}/. Reload one that is open and has changed.", highlight=False)
