"""The instructor's commands that judge: grade, explain, doctor."""

import contextlib
import json as json_
import os
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from autograder.classroom.console import Json, Unit, console, course_config
from autograder.exercises import UNITS, exercises_of, unit_named

app = typer.Typer()


@app.command()
def grade(
    unit: Unit,
    jobs: Annotated[int, typer.Option(min=1, help="Submissions judged at once, on this machine.")] = os.cpu_count() or 1,
    scheduler: Annotated[str | None, typer.Option(help="Address of a dask.distributed scheduler to judge on instead.")] = None,
    trust_network: Annotated[
        bool, typer.Option("--trust-network", help="Take a scheduler without TLS: whoever reaches it runs code as you.")
    ] = False,
    no_sandbox: Annotated[bool, typer.Option("--no-sandbox", help="Run student code unprotected; reports say so.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Judge again what was cut short by a limit.")] = False,
    json: Json = False,
) -> None:
    """Grade all submissions to a unit: intake, judging side by side, nbgrader's autograde and feedback.

    Ctrl-C stops it at any time; the same command goes on where it was.
    """
    from autograder.classroom.grade import ClassRun
    from autograder.classroom.results import results, statistics
    from autograder.lessons.layout import course_root

    if scheduler and not scheduler.startswith("tls://") and not trust_network:
        raise ValueError(f"--scheduler must be tls://..., got {scheduler}; on a network that you trust add --trust-network")
    root = course_root()
    config = course_config(root, no_sandbox, retry)
    run = ClassRun(root, unit, config)
    failures: dict[str, str] = {}
    try:
        students = [record.student for record in run.take_in()]
        failures |= run.refused
        if not students and not failures:
            raise ValueError(f"no submissions: put notebooks at {run.course.submitted}/STUDENT/{unit}/")
        run.prepare()
        questions = run.open_questions(students)
        if known := len(students) - len(questions):
            Console(stderr=True).print(f"{known} of {len(students)} are judged already")
        with _progress() as bar:
            if questions:
                judging = run.judge_all(questions, jobs, scheduler)
                failures |= {
                    student: error for student, error in bar.track(judging, len(questions), description="judging") if error
                }
            for step, name in ((run.autograde, "gradebook"), (run.feedback, "feedback")):
                for student in bar.track([s for s in students if s not in failures], description=name):
                    if error := step(student):
                        failures[student] = error
    except KeyboardInterrupt:
        console.print("Stopped. What was judged is kept: the same command goes on from here.")
        raise typer.Exit(130) from None
    class_ = results(root, unit, config.CourseDirectory.db_url)
    if json:
        print(json_.dumps({"submissions": [_as_json(result) for result in class_], "failures": failures}, indent=2))
    else:
        _print_class(unit, class_, statistics(class_))
        console.print(
            f"Feedback: a page for each student, {run.course.feedback}/STUDENT/{unit}/", highlight=False, soft_wrap=True
        )
    for student, error in failures.items():
        console.print(f"[red]not graded:[/red] {escape(student)}: {escape(error)}", highlight=False, soft_wrap=True)
    raise typer.Exit(1 if failures else 0)


@app.command()
def explain(
    student: Annotated[str, typer.Argument(help="The student's id; all students if left out.", metavar="[STUDENT]")],
    unit: Annotated[str, typer.Argument(help=f"A unit such as {UNITS[-1]}, or its number.")] = "",
) -> None:
    """Print what a student lost in a unit, and why."""
    from autograder.classroom.results import results
    from autograder.lessons.layout import course_root

    if not unit or (_is_unit(student) and not _is_unit(unit)):  # the other way round
        student, unit = unit, student
    unit = unit_named(unit)
    root = course_root()
    class_ = {result.student: result for result in results(root, unit, course_config(root).CourseDirectory.db_url)}
    if not class_ or (student and student not in class_):
        alike = " or ".join(get_close_matches(student, class_))
        hint = f"; do you mean {alike}?" if alike else "" if class_ else f"; first run: autograder grade {unit}"
        raise ValueError(f"student must be one who was graded in {unit}, got {student!r}{hint}")
    for result in [class_[student]] if student else class_.values():
        console.print("\n".join(_told(unit, result)), markup=False, highlight=False, soft_wrap=True)
        if not student:
            console.rule(style="dim")


@app.command()
def doctor(json: Json = False) -> None:
    """Try to break out of the sandbox on this machine. Exit code 2 if something does."""
    from autograder.classroom.doctor import COUNT, attempts
    from autograder.lessons.layout import course_root

    tried = []
    table = Table("", "attempt", "what happened", Column("seconds", justify="right"), box=box.SIMPLE_HEAD, pad_edge=False)
    with _progress() as bar:
        for attempt in bar.track(attempts(course_root()), total=COUNT, description="breaking out"):
            tried.append(attempt)
            sign = "[green]✓ held[/green]" if attempt.held else "[red]✗ ESCAPED[/red]"
            table.add_row(sign, escape(attempt.what), escape(attempt.told), f"{attempt.seconds:.1f}")
    held = sum(attempt.held for attempt in tried)
    if json:
        print(json_.dumps([vars(attempt) for attempt in tried], indent=2))
    else:
        console.print(table)
        console.print(f"{held} of {len(tried)} held. (Limits are small here, so that they are reached soon.)", highlight=False)
    raise typer.Exit(0 if held == len(tried) else 2)


def _is_unit(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(unit_named(name))
    return False


def _told(unit: str, result) -> Iterator[str]:
    penalty = f", {result.late_penalty:g} of them lost for being late" if result.late_penalty else ""
    yield f"{result.called}, {unit}: {result.points:g} of {result.max_points:g} points{penalty}"
    yield from (f"note: {note}" for note in result.notes)
    yield from (f"for a person to look at: {flag}" for flag in result.flags)
    for part in result.exercises:
        yield f"\n{part.text or f'{part.id}: {part.sentence}'}"
        if part.manual:
            yield f"  a person gave {part.points:g} points instead; that counts"


def _progress() -> Progress:
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("left:"), TimeRemainingColumn(), console=Console(stderr=True))


def _as_json(result) -> dict:
    exercises = [vars(part) | {"sentence": part.sentence} for part in result.exercises]
    time = result.timestamp.isoformat() if result.timestamp else None
    return vars(result) | {"exercises": exercises, "timestamp": time, "counts": result.counts}


def _print_class(unit: str, class_: list, statistics: list) -> None:
    numbers = {exercise.id: f"{int(unit[:2])}.{i}" for i, exercise in enumerate(exercises_of(unit), 1)}
    right = [Column(number, justify="right", no_wrap=True) for number in numbers.values()]
    points = Column("points", justify="right", no_wrap=True)
    table = Table(Column("student", overflow="fold"), points, *right, title=unit, box=box.SIMPLE_HEAD, pad_edge=False)
    for result in class_:
        cells = [f"[{_color(part)}]{_points(part)}{'*' if part.manual else ''}[/]" for part in result.exercises]
        table.add_row(escape(result.called), f"{result.counts:g}", *cells)
    console.print(table)
    for result in class_:
        late = [f"{result.late_penalty:g} of {result.points:g} points are lost for being late"] if result.late_penalty else []
        if sentences := [*late, *result.notes, *result.flags]:
            console.print("\n  - ".join(map(escape, [f"{result.called}:", *sentences])), highlight=False, soft_wrap=True)
    if any(part.manual for result in class_ for part in result.exercises):
        console.print("* set by a person, and kept: the judge's points do not replace it.")
    columns = ("exercise", "passed", "started", "mean points", "most common misconception")
    summary = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in statistics:
        mistake = f"{row.misconception_count}x {row.misconception}" if row.misconception else ""
        mean = "-" if row.mean_points is None else f"{row.mean_points:.2f} / {row.max_points:g}"
        counts = (f"{row.passed} of {row.submissions}", str(row.started), mean)
        summary.add_row(f"{numbers[row.id]} {row.id.split('.')[1]}", *counts, escape(mistake))
    console.print(summary)
    if not all(result.sandboxed for result in class_):
        console.print("[bold red]Graded WITHOUT a sandbox.[/bold red]")


def _points(part) -> str:
    return f"{part.points:g}" if part.max_points else "–"  # left out by the class' terms


def _color(part) -> str:
    if not part.points:
        return "bright_black"
    return "green" if part.points >= part.max_points else "yellow"
