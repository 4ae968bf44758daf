"""How alike the submissions to a unit are, pair by pair: who may have worked together. No score depends on it.

Code is compared by the pieces of its syntax tree (`autograder.judge.trees`), so that other names, comments, numbers and layout
hide nothing, and neither does code that was moved to another cell. What was released is taken out. A piece counts the more, the
fewer submissions have it, by log((n + 1) / m) for m of n: what the task all but dictates says little about who wrote it.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from autograder.exercises import exercises_of
from autograder.intake.rebuild import rebuild, released_notebook
from autograder.judge.course import Course
from autograder.judge.gate import admit
from autograder.judge.trees import LONGEST, SMALLEST, grams, parsed
from autograder.lessons.layout import grade_id, notebook_path

LEAST = 0.75  # pairs from here on are listed; tests/autograder/classroom/test_similarity.py prints what copies reach
OTHER = ""  # the key of a student's own further cells
SOLUTION = "the course's solution"  # it stands among the students


@dataclass(frozen=True)
class Pair:
    """Two submissions and how alike they are, from 0 to 1."""

    students: tuple[str, str]
    alike: float  # of all code
    parts: Mapping[str, float]  # by exercise; those that both have and that are large enough to tell

    @property
    def closest(self) -> tuple[str, float]:
        """The exercise that is most alike; "" and 0 if none is large enough to tell."""
        return max(self.parts.items(), key=lambda part: part[1], default=("", 0.0))


def class_code(root: Path, unit: str, config: Config) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """What everybody handed in for a unit, and the course's solution among them.

    Args:
        root: the course folder.
        unit: the unit.
        config: nbgrader's, of the course.

    Returns:
        Code by student and exercise, as `own_code` gives it; and the stub of each exercise.

    Raises:
        ValueError: nobody handed anything in that can be read.
    """
    course = Course(CourseDirectory(config=config))
    source = notebook_path(course.source, unit)
    released = released_notebook(source)
    class_ = {}
    for record in admit(course, unit):
        if record.ready and record.graded:
            submitted = nbformat.read(notebook_path(course.submitted / record.student, unit), as_version=4)
            class_[record.student] = own_code(unit, rebuild(submitted, released)[0], released)
    if not class_:
        raise ValueError(f"no submissions: put notebooks at {course.submitted}/STUDENT/{unit}/")
    class_[SOLUTION] = own_code(unit, nbformat.read(source, as_version=4), released)
    stubs = {cell.id: cell.source for cell in released.cells}
    return class_, {exercise.id: stubs[grade_id(exercise)] for exercise in exercises_of(unit)}


def alike(class_: Mapping[str, Mapping[str, str]], released: Mapping[str, str], least: float = LEAST) -> list[Pair]:
    """The pairs that are alike from some number on, the most alike first."""
    found = [pair for pair in pairs(class_, released) if pair.alike >= least]
    return sorted(found, key=lambda pair: -pair.alike)


def own_code(unit: str, rebuilt: NotebookNode, released: NotebookNode) -> dict[str, str]:
    """What a student wrote, by exercise.

    Args:
        unit: the unit.
        rebuilt: the submission, put back on the release.
        released: the notebook as students got it.

    Returns:
        The code of each answer that is no longer the stub, and under `OTHER` that of all further cells; at most `LONGEST`.
    """
    stubs = {cell.id: cell.source for cell in released.cells}
    cells = {cell.id: cell.source for cell in rebuilt.cells if cell.cell_type == "code"}
    names = {exercise.id: grade_id(exercise) for exercise in exercises_of(unit)}
    code = {id: cells[name] for id, name in names.items() if cells.get(name, stubs[name]) != stubs[name]}
    code[OTHER] = "\n".join(source for id, source in cells.items() if id not in stubs)
    room = LONGEST
    for id, source in code.items():
        code[id] = source if len(source) <= room else ""
        room -= len(code[id])
    return {id: source for id, source in code.items() if source.strip()}


def pairs(class_: Mapping[str, Mapping[str, str]], released: Mapping[str, str]) -> Iterator[Pair]:
    """How alike any two submissions are.

    Args:
        class_: by student, code by exercise as `own_code` gives it.
        released: the stub of each exercise.

    Yields:
        Pairs, in the order of the students.
    """
    given = {id: _grams(source) for id, source in released.items()}
    pieces = {}
    for student, code in class_.items():
        pieces[student] = {id: _grams(source) - given.get(id, Counter()) for id, source in code.items()}
    wholes = {student: sum(parts.values(), Counter()) for student, parts in pieces.items()}
    spread = Counter(gram for whole in wholes.values() for gram in whole)
    weight = {gram: math.log((len(wholes) + 1) / count) for gram, count in spread.items()}
    for one, other in combinations(sorted(pieces), 2):
        shared = pieces[one].keys() & pieces[other].keys() - {OTHER}
        both = {id: (pieces[one][id], pieces[other][id]) for id in sorted(shared)}
        parts = {id: _alike(*two, weight) for id, two in both.items() if min(part.total() for part in two) >= 2 * SMALLEST}
        yield Pair((one, other), _alike(wholes[one], wholes[other], weight), parts)


def _grams(source: str) -> Counter:
    found = grams(parsed(source), constants=False)
    return Counter({hash(gram): count for gram, count in found.items()})  # numbers are small, for a large class


def _alike(a: Counter, b: Counter, weight: Mapping[int, float]) -> float:
    """Twice what two have in common, over all that they have."""
    total = sum(weight[gram] * count for part in (a, b) for gram, count in part.items())
    return 2 * sum(weight[gram] * min(count, b[gram]) for gram, count in a.items() if gram in b) / total if total else 0.0
