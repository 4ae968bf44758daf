"""The command `autograder`."""

import json as json_
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

import autograder
from autograder.classroom.around import app as around
from autograder.classroom.commands import app as instructor
from autograder.exercises import UNITS, find
from autograder.learner.commands import Unit
from autograder.learner.commands import app as learner
from autograder.learner.commands import main as run

app = typer.Typer(help=autograder.__doc__.partition("\n")[0], no_args_is_help=True, pretty_exceptions_show_locals=False)
app.add_typer(learner)
app.add_typer(instructor)
app.add_typer(around)
console = Console(emoji=False)  # "n:m:" is no picture
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def main() -> None:
    """Run the command line; what a user got wrong is told in one sentence."""
    # nbgrader calls programs of its environment by name (alembic), also when that environment is not activated
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    run(app)


@app.command("try")
def try_(
    id: Annotated[str, typer.Argument(help="An exercise, such as magnitude.prune.")],
    file: Annotated[Path, typer.Argument(help="A Python file that defines the exercise's function or class.")],
    json: Json = False,
) -> None:
    """Score one Python file, as `check` would in the notebook. Exit code 0 if it is right, 2 if it is not."""
    from autograder.checking.score import score_object
    from autograder.learner.attempt import load_answer
    from autograder.learner.report import Report
    from autograder.learner.solved import Solved

    os.environ.setdefault("MPLBACKEND", "agg")  # a file that draws opens no window
    exercise = find(id)
    verdict = score_object(exercise, load_answer(exercise, file))
    report = Report.of(verdict, solved=Solved.of(id) if verdict.passed else None)
    print(json_.dumps(verdict.to_dict(), indent=2) if json else report)
    raise typer.Exit(0 if verdict.passed else 2)


@app.command()
def mutants(unit: Unit = None, json: Json = False) -> None:
    """Run every declared misconception and the untouched stub against its check. Exit code 2 if one gets away."""
    from autograder.learner.attempt import mutation_report
    from autograder.lessons.layout import course_root

    report = mutation_report(course_root(), [unit] if unit else UNITS)
    if json:
        print(json_.dumps(report, indent=2))
    else:
        table = Table(*_whole("exercise", "rejected", "recognised", "total", "stub"), "which not")
        for row in report["exercises"]:
            table.add_row(
                row["id"],
                str(row["rejected"]),
                str(row["recognised"]),
                str(row["total"]),
                f"{row['stub_points']:g} points",
                ", ".join([*row["survivors"], *(f"{m} (not recognised)" for m in row["unrecognised"])]),
            )
        table.add_section()
        table.add_row("all", str(report["rejected"]), str(report["recognised"]), str(report["total"]), "", "")
        console.print(table)
    escaped = report["rejected"] < report["total"] or any(row["stub_points"] for row in report["exercises"])
    raise typer.Exit(2 if escaped else 0)


@app.command()
def build(
    unit: Unit = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 2 if a generated file is stale.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Execute solutions again even if no code has changed.")] = False,
) -> None:
    """Build units: lesson -> solutions/ (executed) -> notebooks/ (through nbgrader)."""
    from tqdm.auto import tqdm

    from autograder.lessons import build as builder
    from autograder.lessons.layout import course_root

    root = course_root()
    units = [unit] if unit else UNITS
    if check:
        problems = [problem for unit in tqdm(units, unit="unit", delay=1) for problem in builder.stale(root, unit)]
        for problem in problems:
            console.print(problem, highlight=False)
        console.print(f"{len(units)} unit(s) checked, {len(problems)} stale file(s)")
        raise typer.Exit(2 if problems else 0)
    for unit in units:
        written = builder.build(root, unit, force)
        console.print(
            f"{unit}: " + (", ".join(str(path.relative_to(root)) for path in written) or "up to date"), highlight=False
        )


@app.command()
def verify(unit: Unit = None) -> None:
    """Run notebooks from top to bottom in their fast setting, and record it, so that tests need not until a source changes."""
    from autograder.lessons import build as builder
    from autograder.lessons.layout import course_root

    root = course_root()
    for each in [unit] if unit else UNITS:
        changed = builder.verify(root, each)
        console.print(f"{each}: ran" + (", recorded" if changed else ", as recorded"), highlight=False)


@app.command()
def site(
    solutions: Annotated[bool, typer.Option("--solutions", help="Show solutions, in site-solutions/.")] = False,
) -> None:
    """Build the course's site from executed solutions and docs/: nothing is executed, nothing fetched."""
    from autograder.lessons.layout import course_root
    from autograder.site.build import build

    out, warnings = build(course_root(), solutions)
    for warning in warnings:
        console.print(warning, highlight=False, soft_wrap=True, markup=False)
    console.print(f"Open {out / 'index.html'} in a browser.", highlight=False, soft_wrap=True)


@app.command()
def demo() -> None:
    """Grade a made-up class of seven submissions to unit 02, and print what would help each of them."""
    from autograder.classroom.demo import UNIT, demo
    from autograder.lessons.layout import course_root

    rows, sandboxed = demo(course_root())
    columns = *_whole("student", "points", "exercise"), "the sentence that would help"
    table = Table(*columns, title=f"Unit {UNIT}, graded by nbgrader", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        first = [row.student, f"{row.points:g} / {row.max_points:g}"]
        for id, sentence in row.advice or [("", "nothing: all right")]:
            table.add_row(*first, id.split(".")[-1], escape(sentence))
            first = ["", ""]
        table.add_section()
    console.print(table)
    if not sandboxed:
        console.print("There is no sandbox here: this class is made up, a real one needs it. `autograder doctor` says more.")
    console.print(
        "In grading/ an instructor finds gradebook.db, submitted/, autograded/ and feedback/ (an HTML page per student).\n"
        "nbgrader's own commands work from here, such as nbgrader export; so does its Formgrader in JupyterLab (jupyter lab).\n"
        "Before a real class: rm -rf grading"
    )


def _whole(*names: str) -> list[Column]:
    """Columns that are never cut, so that ids can be copied."""
    return [Column(name, no_wrap=True) for name in names]
