"""Grades for a spreadsheet: a row per submission, or per exercise."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from autograder.classroom.results import Result

SUBMISSIONS = (
    "student",
    "name",
    "unit",
    "points",
    "max_points",
    "late_penalty",
    "timestamp",
    "manual",
    "sandboxed",
    "notes",
    "flags",
)
EXERCISES = (
    "student",
    "unit",
    "exercise",
    "points",
    "max_points",
    "auto_points",
    "manual",
    "passed",
    "misconception",
    "advice",
)
# what spreadsheets take for a formula, also in full width and after blanks or characters that cannot be seen
_FORMULA = re.compile(r"[\t\r\n]|[\s\x00-\x1f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]*[=+\-@|%＝＋－＠]")


def submission_rows(unit: str, class_: Iterable[Result]) -> Iterable[dict]:
    """A row per submission."""
    for result in class_:
        manual = " ".join(exercise.id for exercise in result.exercises if exercise.manual)
        time = result.timestamp.isoformat() if result.timestamp else ""
        values = (result.student, result.name, unit, result.points, result.max_points, result.late_penalty, time, manual)
        yield dict(zip(SUBMISSIONS, (*values, result.sandboxed, "; ".join(result.notes), "; ".join(result.flags)), strict=True))


def exercise_rows(unit: str, class_: Iterable[Result]) -> Iterable[dict]:
    """A row per submission and exercise."""
    for result in class_:
        for part in result.exercises:
            values = (result.student, unit, part.id, part.points, part.max_points, part.auto_points, part.manual)
            about = (part.verdict.get("passed", False), part.verdict.get("misconception", ""), part.sentence)
            yield dict(zip(EXERCISES, (*values, *about), strict=True))


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[dict]) -> int:
    """Write rows as CSV that spreadsheets open without surprises.

    Args:
        path: the file.
        columns: their names, in order.
        rows: values by column.

    Returns:
        The number of rows.
    """
    with open(path, "w", newline="", encoding="utf-8-sig") as file:  # the mark tells Excel that it is UTF-8
        writer = csv.DictWriter(file, columns, quoting=csv.QUOTE_NONNUMERIC)
        writer.writeheader()
        written = [writer.writerow({name: safe(value) for name, value in row.items()}) for row in rows]
    return len(written)


def safe(value: object) -> object:
    """Text that a spreadsheet does not take for a formula; numbers as they are."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int | float):
        return value
    text = str(value)
    return f"'{text}" if _FORMULA.match(text) else text
