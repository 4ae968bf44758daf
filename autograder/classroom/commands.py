"""The instructor's commands: grade, explain, export, gradescope, doctor."""

import json as json_
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from autograder.exercises import UNITS, exercises_of, unit_named

app = typer.Typer()
console = Console(emoji=False)


Unit = Annotated[str, typer.Argument(help=f"A unit such as {UNITS[-1]}.", callback=unit_named)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


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
    config = _config(root, no_sandbox, retry)
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
    student: Annotated[str, typer.Argument(help="The student's id.")],
    unit: Unit,
) -> None:
    """Print what a student lost in a unit, and why."""
    from autograder.classroom.results import results
    from autograder.lessons.layout import course_root

    root = course_root()
    class_ = {result.student: result for result in results(root, unit, _config(root).CourseDirectory.db_url)}
    if student not in class_:
        alike = " or ".join(get_close_matches(student, class_))
        hint = f"; do you mean {alike}?" if alike else "" if class_ else f"; first run: autograder grade {unit}"
        raise ValueError(f"student must be one who was graded in {unit}, got {student!r}{hint}")
    result = class_[student]
    penalty = f", {result.late_penalty:g} lost for being late" if result.late_penalty else ""
    lines = [f"{student}, {unit}: {result.points:g} of {result.max_points:g} points{penalty}"]
    lines += [f"note: {note}" for note in result.notes] + [f"for a person to look at: {flag}" for flag in result.flags]
    for part in result.exercises:
        lines.append("")
        lines.append(part.text or f"{part.id}: {part.sentence}")
        if part.manual:
            lines.append(f"  a person gave {part.points:g} points instead; that counts")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


@app.command()
def export(
    unit: Unit,
    to: Annotated[Path, typer.Option(help="The CSV file.")] = Path("grades.csv"),
    exercises: Annotated[bool, typer.Option("--exercises", help="A row per exercise instead of one per submission.")] = False,
) -> None:
    """Write the grades of a unit as CSV."""
    from autograder.classroom import export as exporter
    from autograder.classroom.results import results
    from autograder.lessons.layout import course_root

    root = course_root()
    class_ = results(root, unit, _config(root).CourseDirectory.db_url)
    if not class_:
        raise ValueError(f"nobody was graded in {unit}; first run: autograder grade {unit}")
    if not to.parent.is_dir():
        raise ValueError(f"--to must lie in a folder that exists, got {to}")
    columns = exporter.EXERCISES if exercises else exporter.SUBMISSIONS
    rows = (exporter.exercise_rows if exercises else exporter.submission_rows)(unit, class_)
    console.print(f"{to}: {exporter.write_csv(to, columns, rows)} rows", highlight=False)


@app.command()
def gradescope(
    unit: Unit,
    to: Annotated[Path | None, typer.Option(help="The zip; UNIT.zip if left out.")] = None,
    no_sandbox: Annotated[bool, typer.Option("--no-sandbox", help="For containers where bubblewrap cannot work.")] = False,
) -> None:
    """Write a Gradescope autograder for a unit. It holds solutions and the course's secret: give it to nobody else."""
    from autograder.classroom.gradescope import write_zip
    from autograder.lessons.layout import course_root

    to = to or Path(f"{unit}.zip")
    if not to.parent.is_dir():
        raise ValueError(f"--to must lie in a folder that exists, got {to}")
    count = write_zip(course_root(), unit, to, not no_sandbox)
    console.print(
        f"{to}: {count} files: the project, {unit} with its solutions, and this course's secret. For Gradescope alone: "
        "upload it there under Configure Autograder, and give it to nobody else.",
        highlight=False,
    )


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


def _config(root: Path, no_sandbox: bool = False, retry: bool = False):
    from traitlets.config import PyFileConfigLoader

    config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
    if no_sandbox:
        config.Judge.sandbox = False
    if retry:
        config.Judge.retry = True
    return config


def _progress() -> Progress:
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("left:"), TimeRemainingColumn(), console=Console(stderr=True))


def _as_json(result) -> dict:
    exercises = [vars(part) | {"sentence": part.sentence} for part in result.exercises]
    time = result.timestamp.isoformat() if result.timestamp else None
    return vars(result) | {"exercises": exercises, "timestamp": time}


def _print_class(unit: str, class_: list, statistics: list) -> None:
    numbers = {exercise.id: f"{int(unit[:2])}.{i}" for i, exercise in enumerate(exercises_of(unit), 1)}
    right = [Column(number, justify="right", no_wrap=True) for number in numbers.values()]
    points = Column("points", justify="right", no_wrap=True)
    table = Table(Column("student", overflow="fold"), points, *right, title=unit, box=box.SIMPLE_HEAD, pad_edge=False)
    for result in class_:
        cells = [f"[{_color(part)}]{part.points:g}{'*' if part.manual else ''}[/]" for part in result.exercises]
        table.add_row(escape(result.student), f"{result.points:g}", *cells)
    console.print(table)
    for result in class_:
        if sentences := [*result.notes, *result.flags]:
            console.print("\n  - ".join(map(escape, [f"{result.student}:", *sentences])), highlight=False, soft_wrap=True)
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


def _color(part) -> str:
    return "green" if part.points >= part.max_points else "yellow" if part.points else "bright_black"
