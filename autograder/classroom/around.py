"""The instructor's commands before and after grading: handout, roster, similar, export, gradescope."""

import json as json_
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Column, Table

from autograder.classroom.console import Force, Json, Unit, console, course_config, may_write
from autograder.exercises import unit_named

app = typer.Typer()


@app.command()
def handout(
    units: Annotated[list[str], typer.Argument(help="Units, such as 01 02 05.")],
    to: Annotated[Path, typer.Option(help="The folder that students get.")],
    zip: Annotated[bool, typer.Option("--zip", help="Write the folder as a zip file beside it, too.")] = False,
    force: Force = False,
) -> None:
    """Write what students get: notebooks, what their checks need, and how to set it up. No solutions, no lesson sources."""
    from autograder.classroom.handout import is_handout, write, write_zip
    from autograder.lessons.layout import course_root

    names = list(dict.fromkeys(map(unit_named, units)))
    if to.exists() and not is_handout(to) and not (to.is_dir() and not any(to.iterdir())):
        raise ValueError(f"--to must be a new folder, or one that handout has made, got {to}")
    archive = to.absolute().with_name(f"{to.absolute().name}.zip")
    if to.exists() and any(to.iterdir()):
        shutil.rmtree(may_write(to, force))
    count = write(course_root(), names, may_write(to, force=True))
    _say(f"{to}: {count} files, {', '.join(names)}")
    if zip:
        write_zip(to, may_write(archive, force))
        _say(f"{archive}: the same, to give to students")


@app.command()
def roster(
    file: Annotated[Path, typer.Argument(help="CSV: a gradebook or list of participants from Canvas or Moodle, or your own.")],
    id: Annotated[str | None, typer.Option(help="The column with the ids, under which work is handed in.")] = None,
) -> None:
    """Tell the gradebook who is in the class: ids, names, addresses. The file is kept for `export --form`."""
    from nbgrader.api import Gradebook

    from autograder.classroom.roster import FILE, Roster, missing
    from autograder.lessons.layout import course_root

    if not file.is_file():
        raise ValueError(f"the roster must be a CSV file, got {file}, which is not there")
    root, table = course_root(), Roster.read(file, id)
    (root / "grading").mkdir(exist_ok=True)
    with Gradebook(course_config(root).CourseDirectory.db_url) as gradebook:
        count = table.enrol(gradebook)
    table.keep(root / "grading" / FILE)
    _say(f"{count} students; their ids are in the column {table.key}")
    submitted = root / "grading" / "submitted"
    if strangers := missing(table, (path.name for path in submitted.glob("*") if path.is_dir())):
        _say(f"handed in, and not in the roster: {', '.join(strangers)}")


@app.command()
def similar(
    unit: Unit,
    least: Annotated[float | None, typer.Option("--from", min=0, max=1, help="List pairs from this number on.")] = None,
    to: Annotated[Path | None, typer.Option(help="The page; grading/similar/UNIT.html if left out.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """List pairs of submissions that are alike, and copies of the solution; a page shows them side by side."""
    from autograder.classroom.similar_page import page
    from autograder.classroom.similarity import LEAST, alike, class_code
    from autograder.lessons.layout import course_root

    root = course_root()
    class_, released = class_code(root, unit, course_config(root))
    found = alike(class_, released, LEAST if least is None else least)
    to = may_write(to, force) if to else root / "grading" / "similar" / f"{unit}.html"
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(page(unit, found, class_, released), encoding="utf-8")
    if json:
        rows = [{"students": pair.students, "alike": pair.alike, "exercises": dict(pair.parts)} for pair in found]
        print(json_.dumps(rows, indent=2))
        return
    table = Table("", "", Column("alike", justify="right"), "closest exercise", box=box.SIMPLE_HEAD, pad_edge=False)
    for pair in found:
        id, most = pair.closest
        table.add_row(*map(escape, pair.students), f"{pair.alike:.0%}", f"{id} {most:.0%}" if id else "")
    console.print(table if found else "No two are so much alike.")
    _say(f"{len(found)} pairs of {len(class_) - 1} submissions and the solution: {to}")


@app.command()
def export(
    unit: Unit,
    to: Annotated[Path, typer.Option(help="The CSV file.")] = Path("grades.csv"),
    exercises: Annotated[bool, typer.Option("--exercises", help="A row per exercise instead of one per submission.")] = False,
    form: Annotated[bool, typer.Option("--form", help="As the roster is, to be imported where it came from.")] = False,
    column: Annotated[str | None, typer.Option(help="With --form: the column for the points.")] = None,
    force: Force = False,
) -> None:
    """Write the grades of a unit as CSV."""
    from autograder.classroom import export as exporter
    from autograder.classroom import roster as rosters
    from autograder.classroom.results import results
    from autograder.lessons.layout import course_root

    root = course_root()
    class_ = results(root, unit, course_config(root).CourseDirectory.db_url)
    if not class_:
        raise ValueError(f"nobody was graded in {unit}; first run: autograder grade {unit}")
    may_write(to, force)
    if form:
        kept = root / "grading" / rosters.FILE
        if not kept.is_file():
            raise ValueError("--form needs a roster; first run: autograder roster FILE.csv")
        table = rosters.Roster.kept(kept)
        points = {result.student: result.counts for result in class_}
        rosters.write(to, *table.graded(unit, points, class_[0].max_points, column))
        _say(f"{to}: {len(table.rows)} rows in the form of the roster")
        if strangers := rosters.missing(table, points):
            _say(f"graded, and not in the roster: {', '.join(strangers)}")
        return
    columns = exporter.EXERCISES if exercises else exporter.SUBMISSIONS
    rows = (exporter.exercise_rows if exercises else exporter.submission_rows)(unit, class_)
    _say(f"{to}: {exporter.write_csv(to, columns, rows)} rows")


@app.command()
def gradescope(
    unit: Unit,
    to: Annotated[Path | None, typer.Option(help="The zip; UNIT.zip if left out.")] = None,
    no_sandbox: Annotated[bool, typer.Option("--no-sandbox", help="For containers where bubblewrap cannot work.")] = False,
    force: Force = False,
) -> None:
    """Write a Gradescope autograder for a unit. It holds solutions and the course's secret: give it to nobody else."""
    from autograder.classroom.gradescope import write_zip
    from autograder.lessons.layout import course_root

    to = may_write(to or Path(f"{unit}.zip"), force)
    count = write_zip(course_root(), unit, to, not no_sandbox)
    _say(
        f"{to}: {count} files: the project, {unit} with its solutions, and this course's secret. For Gradescope alone: "
        "upload it there under Configure Autograder, and give it to nobody else."
    )


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
