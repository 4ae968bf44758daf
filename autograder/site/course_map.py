"""The path: what each unit needs and asks for, from the exercises' declarations; the map of it, and its list."""

import re
from dataclasses import dataclass
from pathlib import Path

from autograder.checking.exercise import Exercise
from autograder.exercises import UNITS, exercises_of
from autograder.lessons.layout import notebook_path
from autograder.lessons.opening import opening
from autograder.site.links import module_page, relative, unit_page


@dataclass(frozen=True)
class Unit:
    """A unit, as the map shows it."""

    name: str  # "05_wanda"
    title: str  # "05 · Wanda"
    part: str
    needs: tuple[str, ...]  # names of units
    modules: tuple[str, ...]  # of the library, which do what the unit builds
    exercises: tuple[Exercise, ...]

    @property
    def minutes(self) -> int:
        """What the exercises take, for most."""
        return sum(exercise.minutes for exercise in self.exercises)

    @property
    def difficulty(self) -> str:
        """Mean of the exercises' difficulties, 1 to 3, as dots."""
        full = round(sum(exercise.difficulty for exercise in self.exercises) / len(self.exercises))
        return "●" * full + "○" * (3 - full)


class Course(dict[str, Unit]):
    """The units by name, in lecture order."""

    @property
    def parts(self) -> dict[str, list[Unit]]:
        """The units of each part."""
        found: dict[str, list[Unit]] = {}
        for unit in self.values():
            found.setdefault(unit.part, []).append(unit)
        return found


def read_course(root: Path, techniques: list[dict]) -> Course:
    """All units that are declared.

    Args:
        root: the course folder.
        techniques: docs/library.toml, which says what of the library belongs to a unit.

    Returns:
        The course.
    """
    parts = re.split(r"^## (.+)$", (root / "course" / "syllabus.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    course = Course()
    for name in UNITS:
        part = next((title for title, text in zip(parts[1::2], parts[2::2], strict=True) if name in text), parts[-2])
        said = opening(notebook_path(root / "solutions", name), name)
        modules = tuple(technique["module"] for technique in techniques if technique.get("unit") == name)
        course[name] = Unit(name, said.title, part, said.needs, modules, exercises_of(name))
    return course


def facts(unit: Unit, page: str) -> str:
    """What to know before a unit: a list in Markdown."""
    points = sum(exercise.points for exercise in unit.exercises)
    lines = [
        f"{len(unit.exercises)} exercises, about {unit.minutes} minutes, {points:g} points, difficulty {unit.difficulty}",
        f"To solve it: `make lab`, then `work/{unit.name}/{unit.name.split('_', 1)[1]}.ipynb`",
    ]
    if unit.modules:
        links = (f"[{name.removeprefix('sparsity_edu.')}]({relative(module_page(name), page)})" for name in unit.modules)
        lines.append(f"Once it is solved, read the library: {', '.join(links)}")
    return "\n".join([":::{container} facts", *(f"- {line}" for line in lines), ":::", ""])


def listing(course: Course, page: str) -> str:
    """The map: a card for each unit, part by part, in Markdown.

    Args:
        course: the units.
        page: the page that it becomes part of.

    Returns:
        Headings of level 2, and below each a list.
    """
    lines = []
    for part, units in course.parts.items():
        lines += [f"## {part}", "", "::::{container} map"]
        for unit in units:
            needs = ", ".join(f"[{name.split('_')[0]}]({relative(unit_page(name), page)})" for name in unit.needs)
            lines += [
                ":::{container} tile",
                f"[{unit.title}]({relative(unit_page(unit.name), page)})",
                "",
                f"{len(unit.exercises)} exercises · {unit.minutes} minutes",
                "",
                f"difficulty {unit.difficulty}",
                "",
                f"needs {needs}" if needs else "needs nothing",
                ":::",
            ]
        lines += ["::::", ""]
    return "\n".join(lines)
