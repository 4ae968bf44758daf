"""Looks at what students handed in before nbgrader does, and leaves nbgrader nothing that it could stumble over.

A submission with nothing wrong is not touched. Of any other, the folder is moved as it is to grading/set_aside/, by one rename,
for it may hold a million files. A clean folder takes its place, with what of it is fine, or with the released notebook if
nothing can be graded, so that everybody has a row in the gradebook. What was wrong stands in grading/intake/, a sentence each.

    inspect -> build the clean folder -> write the notes -> move the submission aside -> move the clean folder in

Killed between any two of these, the next `take_in` goes on where it stopped.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote_from_bytes

from autograder.intake.folders import Parts, has_odd_letters, listing, read_file
from autograder.intake.inspection import Finding, inspect
from autograder.intake.reading import Caps
from autograder.lessons.layout import notebook_path

# In a folder's name: what nbgrader's patterns misread, and what is alive in the formgrader's pages and addresses.
ODD = re.compile(r'[*?\[\]\\]|["<>#%]')


@dataclass(frozen=True)
class Intake:
    """What became of one student's submission."""

    student: str  # the id under which nbgrader finds it
    notes: list[str] = field(default_factory=list)  # sentences for student and instructor
    graded: bool = True  # False: the released notebook stands in for it
    set_aside: Path | None = None  # where the folder lies as it was handed in, if it was moved
    ready: bool = True  # False: not even moving it aside was possible; keep nbgrader away from it


def take_in(
    submitted: Path,
    grading: Path,
    unit: str,
    released: bytes,
    student: str = "*",
    caps: Caps | None = None,
    ours: Mapping[str, bytes] | None = None,
) -> list[Intake]:
    """Make the submissions to a unit safe to read. Running it again changes nothing.

    Args:
        submitted: nbgrader's folder of submissions, `submitted/<student>/<unit>/`.
        grading: where what was set aside and the notes go; on the same file system.
        unit: the unit.
        released: the unit's notebook as students got it.
        student: one student's id; "*" takes in everybody.
        caps: how much a submission may hold; `Caps()` by default.
        ours: what the course hands out beside the notebook, by name: figures.

    Returns:
        One record per submission.

    Raises:
        ValueError: the two folders lie on different file systems, so nothing can be moved by a rename.
    """
    desk = _Desk(submitted, grading, unit, released, caps or Caps(), ours)
    desk.papers.mkdir(parents=True, exist_ok=True)
    if not submitted.is_dir():
        return []
    if submitted.stat().st_dev != desk.papers.stat().st_dev:
        raise ValueError(f"grading must lie on the same file system as {submitted}, got {grading}")
    with open(grading / "intake" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when it is closed, also by a kill
        desk.finish_moves()
        names = [entry.name for entry in os.scandir(submitted) if entry.is_dir() and _may_be_in(entry.path, unit)]
        wanted = {student, _plain_id(student)}
        intakes = [desk.take(name) for name in sorted(names) if student == "*" or name in wanted]
    return list(
        {intake.student: intake for intake in intakes}.values()
    )  # a changed name and an odd one may be the same student


def notes(grading: Path, unit: str, student: str) -> tuple[list[str], bool]:
    """What was wrong with a submission.

    Args:
        grading: as given to `take_in`.
        unit: the unit.
        student: the id, as in the `Intake`.

    Returns:
        A sentence each, none if all was well; and whether anything of it could be graded.
    """
    record = _record(grading / "intake" / unit / f"{student}.json")
    return record.get("notes", []), record.get("graded", True)


@dataclass(frozen=True)
class _Desk:
    """One call of `take_in`."""

    submitted: Path
    grading: Path
    unit: str
    released: bytes
    caps: Caps
    ours: Mapping[str, bytes] | None

    @property
    def papers(self) -> Path:
        return self.grading / "intake" / self.unit

    def finish_moves(self) -> None:
        """What a killed run left: a clean folder takes the place of a submission that was already moved aside."""
        for clean in self.papers.glob("*.new"):
            place = self.submitted / clean.name.removesuffix(".new") / self.unit
            if place.parent.is_symlink() or _may_be_in(place.parent, self.unit):  # not yet moved, or handed in again
                shutil.rmtree(clean)
            else:
                with suppress(OSError):  # what this student has handed in is said to be not ready
                    place.parent.mkdir(exist_ok=True)
                    clean.rename(place)

    def take(self, name: str) -> Intake:
        """Take in one submission, whatever it is: the others go on."""
        student, raw, found = name, self.submitted / name / self.unit, Finding()
        try:
            is_link = (self.submitted / name).is_symlink()
            raw = self.submitted / name if is_link else raw  # never look through the link
            student = self.student_of(name)
            if is_link:
                return self.replace(raw, student, Finding(notes=["the student's folder is a link, which is not followed"]))
            raw = self.settle(raw, student)
            canonical = notebook_path(Path(), self.unit).name
            made = _record(self.papers / f"{student}.json").get("made")
            found = inspect(self.submitted, (student, self.unit), canonical, self.released, self.caps, made, self.ours)
            return self.keep(student, found) if found.is_fine else self.replace(raw, student, found)
        except Exception as error:
            problem = f"the submission could not be taken in ({_cause(error)})"
        try:
            return self.replace(raw, student, Finding(notes=[problem]))
        except Exception as error:
            problem = f"{problem} nor moved aside ({_cause(error)}); a person has to look at it"
            told = [problem, *found.notes]
            with suppress(Exception):
                _write(self.papers / f"{student}.json", {"notes": told, "graded": False})
            return Intake(student, told, graded=False, ready=False)

    def student_of(self, name: str) -> str:
        """The id for a folder's name: the same, if nbgrader can handle it; and never that of another student."""
        plain = _plain_id(name)
        if plain == name:
            return name
        me, ids = quote_from_bytes(os.fsencode(name)), self.grading / "intake" / "ids"
        for student in (plain, *(f"{plain}~{n}" for n in range(2, 1000))):
            owner = _record(ids / f"{student}.json").get("folder")
            if owner == me:
                return student
            if owner is None and not os.path.lexists(self.submitted / student):
                _write(ids / f"{student}.json", {"folder": me})
                return student
        raise ValueError(f"no free id for {plain}")

    def settle(self, raw: Path, student: str) -> Path:
        """Move a submission to the folder of its student's id."""
        place = self.submitted / student / self.unit
        if place != raw:
            if os.path.lexists(place):
                place.rename(self.aside(student))  # an earlier submission of theirs
            place.parent.mkdir(exist_ok=True)
            raw.rename(place)
            with suppress(OSError):  # other units may still be in it
                raw.parent.rmdir()
        return place

    def keep(self, student: str, found: Finding) -> Intake:
        """Leave a folder as it is, with the notes of when it was cleaned, if it was."""
        path, notes = self.papers / f"{student}.json", self.of_id(student) + found.notes
        old = _record(path)
        if not old and not notes:
            return Intake(student)
        fingerprint = self.fingerprint(self.submitted, (student, self.unit))
        if old.get("fingerprint") != fingerprint:  # handed in again
            old = {"notes": notes, "graded": True, "set_aside": None, "fingerprint": fingerprint}
            _write(path, old)
        return Intake(student, old["notes"], old["graded"], self.grading / old["set_aside"] if old["set_aside"] else None)

    def replace(self, raw: Path, student: str, found: Finding) -> Intake:
        """Move a submission aside and put a clean folder in its place."""
        part, clean = self.papers / f"{student}.part", self.papers / f"{student}.new"
        for leftover in (part, clean):
            if leftover.exists():
                shutil.rmtree(leftover)
        graded, name = found.notebook is not None, notebook_path(Path(), self.unit).name
        notebook = found.notebook if graded else self.released
        _put(part / name, notebook, found.modified)
        for path in found.extras:
            data, status = read_file(self.submitted, (student, self.unit, *path), self.caps.file)
            _put(part.joinpath(*path), data, status.st_mtime_ns)
        for path, data in found.unpacked.items():
            _put(part.joinpath(*path), data, found.modified)
        part.rename(clean)  # complete from here on

        notes = self.of_id(student) + found.notes + ([] if graded else ["nothing in the submission could be graded"])
        aside, place = self.aside(student), self.submitted / student / self.unit
        record = {"notes": notes, "graded": graded, "set_aside": str(aside.relative_to(self.grading))}
        record["made"] = hashlib.sha256(notebook).hexdigest()
        _write(self.papers / f"{student}.json", record | {"fingerprint": self.fingerprint(self.papers, (clean.name,))})
        raw.rename(aside)
        if os.path.lexists(place):  # what was moved is a link beside an earlier submission
            place.rename(self.aside(student))
        place.parent.mkdir(exist_ok=True)
        clean.rename(place)
        return Intake(student, notes, graded, aside)

    def of_id(self, student: str) -> list[str]:
        is_changed = (self.grading / "intake" / "ids" / f"{student}.json").exists()
        return (
            [f"nbgrader cannot handle the name of the student's folder, which was changed to {student}"] if is_changed else []
        )

    def aside(self, student: str) -> Path:
        folder = self.grading / "set_aside" / student / self.unit
        folder.mkdir(parents=True, exist_ok=True)
        return folder / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")

    def fingerprint(self, base: Path, folder: Parts) -> str:
        digest = hashlib.sha256()
        for path in sorted(listing(base, folder, self.caps)[0]):
            data = read_file(base, (*folder, *path), self.caps.notebook)[0]
            digest.update(f"{path} {len(data)} ".encode() + data)
        return digest.hexdigest()


def _may_be_in(folder: str | Path, name: str) -> bool:
    """Whether something of a name is in a folder, or nobody may look: then a person has to hear of it."""
    try:
        os.lstat(os.path.join(folder, name))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def _cause(error: Exception) -> str:
    return error.strerror.lower() if isinstance(error, OSError) and error.strerror else type(error).__name__


def _plain_id(name: str) -> str:
    """A folder's name with each letter that makes trouble as ~ and its bytes in hex; a plain name is returned as it is."""
    is_plain = [not ODD.match(letter) and not has_odd_letters(letter) for letter in name]
    is_plain[:1] = [is_plain[0] and name[0] != "."] if name else []
    left, right = len(name) - len(name.lstrip()), len(name.rstrip())
    letters = [
        letter if is_plain[i] and left <= i < right else "".join(f"~{byte:02X}" for byte in os.fsencode(letter))
        for i, letter in enumerate(name)
    ]
    plain = "".join(letters)
    if len(plain) > 100 or len(plain.encode()) > 200:  # the gradebook's limit is 128 letters, that of file names 255 bytes
        plain = f"{plain[:40]}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"
    return plain


def _put(path: Path, data: bytes, modified: int | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if modified is not None:
        os.utime(path, ns=(modified, modified))


def _record(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    draft.replace(path)
