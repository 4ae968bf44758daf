"""The start page, work/start.md: the path, how far each unit is done, and where to go on. JupyterLab shows it rendered."""

import os
from pathlib import Path

from autograder.checking.exercise import Exercise
from autograder.exercises import UNITS, exercises_of, number_of, unit_of
from autograder.learner import progress
from autograder.learner.work import WORK
from autograder.lessons.layout import notebook_path
from autograder.lessons.opening import Opening, opening

PAGE = "start.md"
SITE = "/static/index.html"  # course/lab has JupyterLab serve site/ there; a relative link would show it without its style
MARK = "<!-- Written anew by `autograder work`: notes belong elsewhere. -->"
HOW = """\
Each unit is a notebook: fill in a function, then run the `check(...)` cell below it, as often as you like. You can begin with
any unit whose needs you meet. Minutes are those of the exercises."""
NOW = """\
This page shows where you stood when JupyterLab was started. `progress()` in a notebook (`from autograder import progress`)
shows where you stand now."""


def write_start(root: Path) -> None:
    """Write the page; a file of that name that somebody else has written is left as it is.

    Args:
        root: the course folder. Without copies of notebooks in work/ there is nothing to write.

    Raises:
        OSError: the page cannot be written.
    """
    path = root / WORK / PAGE
    units = [unit for unit in UNITS if notebook_path(root / WORK, unit).is_file()]
    is_ours = not os.path.lexists(path) or (path.is_file() and path.read_bytes().startswith(MARK.encode()))
    if units and is_ours:
        path.write_text(page(root, units), encoding="utf-8")


def page(root: Path, units: list[str]) -> str:
    """The page as Markdown.

    Args:
        root: the course folder.
        units: those that there are notebooks of.

    Returns:
        Where to go on, then a row per unit; links as seen from work/.
    """
    rows = [f"| {' | '.join(_row(root, unit))} |" for unit in units]
    lines = [
        MARK,
        "# Sparsity for efficient LLM inference",
        "",
        _where_to_go_on(units),
        "",
        HOW,
        "",
        "| unit | minutes | builds on | solved | points |",
        "|---|--:|---|--:|--:|",
        *rows,
        "",
        NOW,
    ]
    if (root / "site" / "index.html").is_file():
        lines += ["", f"The course [as a site]({SITE}), with the annotated library, papers and glossary."]
    return "\n".join(lines) + "\n"


def open_exercise(units: list[str]) -> Exercise | None:
    """The exercise to go on with.

    Args:
        units: those to look in.

    Returns:
        The first that is not solved, from the unit of the last check on and then from the beginning; None if all are solved.
    """
    last = progress.last_checked()
    at = units.index(unit_of(last)) if last and unit_of(last) in units else 0
    exercises = (exercise for unit in units[at:] + units[:at] for exercise in exercises_of(unit))
    return next((exercise for exercise in exercises if progress.best(exercise.id) < exercise.points), None)


def _where_to_go_on(units: list[str]) -> str:
    exercise = open_exercise(units)
    if exercise is None:
        return "**You have solved every exercise.**"
    title = f"Exercise {number_of(exercise.id)}: {exercise.title}"
    link = f"{_link(unit_of(exercise.id))}#{title.replace(' ', '-')}"
    return f"**{'Go on where you were' if progress.last_checked() else 'Begin here'}: [{title}](<{link}>)**"


def _row(root: Path, unit: str) -> list[str]:
    try:
        said = opening(notebook_path(root / "notebooks", unit), unit)
    except (OSError, ValueError):  # `autograder work` says what is wrong with it
        said = Opening(unit, ())
    done = progress.of_unit(unit)
    return [
        f"[{said.title}]({_link(unit)})",
        str(sum(exercise.minutes for exercise in exercises_of(unit))),
        ", ".join(f"[{name.split('_')[0]}]({_link(name)})" for name in said.needs),
        f"{'✓ ' * (done['done'] == done['exercises'])}{done['done']}/{done['exercises']}",
        f"{done['points']:g}/{done['max_points']:g}",
    ]


def _link(unit: str) -> str:
    return notebook_path(Path(), unit).as_posix()
