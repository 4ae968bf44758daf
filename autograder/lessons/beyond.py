"""What stands behind a solved exercise: the library's version, and why the solution is as it is."""

import re
import tomllib
from pathlib import Path

from autograder.exercises import unit_of


def techniques(root: Path) -> list[dict]:
    """What docs/library.toml says of the modules that are techniques."""
    return _settings(root, "library").get("technique", [])


def compared(root: Path) -> dict[str, list[str]]:
    """What docs/compare.toml says: exercises, by the module that does what they ask for."""
    return _settings(root, "compare")


def module_for(root: Path, exercise: str) -> str:
    """The module of the library that does what an exercise asks for.

    Args:
        root: the course folder.
        exercise: the id of an exercise.

    Returns:
        Such as "sparsity_edu.weights.wanda": the module that names the exercise in docs/compare.toml, else the only one that
        its unit builds. Empty if nobody has said which.
    """
    named = [module for module, ids in compared(root).items() if exercise in ids]
    of_unit = [technique["module"] for technique in techniques(root) if technique.get("unit") == unit_of(exercise)]
    return named[0] if named else of_unit[0] if len(of_unit) == 1 else ""


def _settings(root: Path, name: str) -> dict:
    """A list in docs/; in a handout there is none."""
    path = root / "docs" / f"{name}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def explained_path(unit: str) -> Path:
    """Where a unit's solutions are explained, in the course folder."""
    return Path("course", unit, "explained.md")


def explanations(root: Path, unit: str) -> dict[str, str]:
    """What course/<unit>/explained.md says of each exercise: Markdown by id."""
    path = root / explained_path(unit)
    if not path.is_file():
        return {}
    parts = re.split(r"^## +`?([a-z_0-9]+\.[a-z_0-9]+)`?.*$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
