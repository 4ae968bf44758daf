"""Who is in the class: students from a CSV file of Canvas or Moodle into the gradebook, and grades back in its own form."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from nbgrader.api import Gradebook

from autograder.classroom.export import safe

FILE = "roster.json"  # the last one that was read, in the grading folder
# columns that say who somebody is, as the platforms call them in English; the first one that is filled is the id
IDS = ("SIS Login ID", "SIS User ID", "Username", "ID number", "student_id", "Email address", "Email", "Identifier", "ID", "id")
EMAILS = ("Email address", "Email", "email")
FIRST, LAST, WHOLE = (
    ("First name", "first_name"),
    ("Last name", "Surname", "last_name"),
    ("Student", "Full name", "Name", "name"),
)
CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")  # what Canvas wants back, with a column of points
NO_STUDENT = re.compile(
    r"\s*(?:points possible|student, test|test student)\s*", re.IGNORECASE
)  # rows of Canvas that are nobody


@dataclass(frozen=True)
class Student:
    """One row of a roster."""

    id: str
    first_name: str
    last_name: str
    email: str


@dataclass(frozen=True)
class Roster:
    """A table of students as it came: its columns in order, its rows by column."""

    columns: list[str]
    rows: list[dict[str, str]]
    key: str  # the column with the students' ids

    @classmethod
    def read(cls, path: Path, key: str | None = None) -> "Roster":
        """Read a CSV file: a gradebook or list of participants that Canvas or Moodle exports, or any with an id and names.

        Args:
            path: the file, in UTF-8; its separator is found out.
            key: the column with the ids, which are the names of folders of submissions; found by its name if left out.

        Raises:
            ValueError: it is no such file, has no such column, or an id twice.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"the roster must be CSV in UTF-8, got {path}") from None
        head = text.partition("\n")[0]
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), restkey="", restval="")
        columns = [column for column in reader.fieldnames or () if column.strip()]
        rows = [{column: row[column] or "" for column in columns} for row in reader]
        filled = [column for column in columns if any(row[column].strip() for row in rows)]
        found = next((column for column in (IDS if key is None else (key,)) if column in filled), None)
        if found is None:
            wanted = "one of the columns " + ", ".join(IDS) if key is None else f"a column {key}"
            raise ValueError(f"the roster must have {wanted}, got {path} with {', '.join(columns[:8]) or 'nothing'}")
        roster = cls(columns, rows, found)
        ids = [student.id for _, student in roster.students()]
        if twice := next((id for id in ids if ids.count(id) > 1), None):
            raise ValueError(
                f"each id must be there once, got {twice} again in the column {found} of {path}; --id names another"
            )
        return roster

    @classmethod
    def kept(cls, path: Path) -> "Roster":
        """What `keep` has written."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def keep(self, path: Path) -> None:
        """Write the table down as it is."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False), encoding="utf-8")

    def students(self) -> Iterable[tuple[dict[str, str], Student]]:
        """Each row that is about somebody, and who that is."""
        for row in self.rows:
            whole = _first(row, WHOLE)
            if (id := row[self.key].strip().removeprefix("Participant ")) and not NO_STUDENT.fullmatch(whole):
                last, comma, first = whole.partition(",")  # Canvas: "Lovelace, Ada"; Moodle's worksheet: "Ada Lovelace"
                first, last = (first, last) if comma else (whole.rpartition(" ")[0], whole.rpartition(" ")[2])
                first, last = _first(row, FIRST) or first.strip(), _first(row, LAST) or last.strip()
                yield row, Student(id, first, last, _first(row, EMAILS))

    def enrol(self, gradebook: Gradebook) -> int:
        """Write the students into the gradebook, names of those who are there too.

        Args:
            gradebook: nbgrader's, open.

        Returns:
            How many.
        """
        students = [student for _, student in self.students()]
        for student in students:
            names = {"first_name": student.first_name or None, "last_name": student.last_name or student.id}
            gradebook.update_or_create_student(student.id, **names, email=student.email or None)
        return len(students)

    def graded(
        self, unit: str, points: Mapping[str, float], most: float, column: str | None = None
    ) -> tuple[list[str], list[dict]]:
        """The table with a unit's points in it, to be imported where it came from.

        Args:
            unit: the unit.
            points: that count, by student; who has none gets an empty cell.
            most: the points of the unit.
            column: where they go; else Moodle's "Grade", a column whose name has the unit's in it, or a new one.

        Returns:
            The columns, and rows by column. Of Canvas' gradebook only what says who somebody is, and the unit's points.
        """
        target = column or self._column(unit)
        columns = [*(c for c in self.columns if c != target), target]
        if "Student" in self.columns:
            columns = [c for c in CANVAS if c in self.columns] + [target]
        elif target in self.columns:
            columns = self.columns
        about = {id(row): student for row, student in self.students()}
        rows = []
        for row in self.rows:
            student = about.get(id(row))
            is_scale = "points possible" in row.get("Student", "").lower()
            value = points.get(student.id, "") if student else most if is_scale else ""
            filled = row | {target: value} | ({"Maximum Grade": most} if target == "Grade" and "Maximum Grade" in row else {})
            rows.append({c: filled[c] for c in columns})
        return columns, rows

    def _column(self, unit: str) -> str:
        if "Grade" in self.columns and "Identifier" in self.columns:  # Moodle's worksheet of one assignment
            return "Grade"
        number, _, name = unit.partition("_")
        pattern = re.compile(rf"\b{unit}\b|\b{number}[ _:.-]+{name.replace('_', '[ _-]')}\b", re.IGNORECASE)
        return next((column for column in self.columns if pattern.search(column)), unit)


def missing(roster: Roster, handed_in: Iterable[str]) -> list[str]:
    """Who handed in and is not in the roster."""
    known = {student.id for _, student in roster.students()}
    return sorted(set(handed_in) - known)


def write(path: Path, columns: list[str], rows: Iterable[Mapping]) -> None:
    """Write a table that a platform imports and a spreadsheet can open: no text in it is a formula."""
    with open(path, "w", newline="", encoding="utf-8") as file:  # Canvas takes a byte order mark for a part of the first name
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({column: _plain(value) for column, value in row.items()} for row in rows)


def _plain(value: object) -> object:
    """Numbers stay as they are, Canvas' `-` and empty cells too."""
    return value if re.fullmatch(r"-|[-+]?[\d.]+", str(value)) else safe(value)


def _first(row: Mapping[str, str], columns: Iterable[str]) -> str:
    return next((row[column].strip() for column in columns if row.get(column, "").strip()), "")
