"""The course's numbers beside published ones: docs/results.toml says where each was printed, never what it is."""

import re
import tomllib
from pathlib import Path

import nbformat

from autograder.exercises import UNITS
from autograder.lessons.layout import notebook_path
from autograder.site.links import unit_page


def results_markdown(root: Path) -> str:
    """The table of results, as Markdown for a page in the uppermost folder.

    Args:
        root: the course folder.

    Returns:
        A table with a row for each entry of docs/results.toml whose unit is there.

    Raises:
        ValueError: a pattern is not found in what its unit says and prints, or finds several values.
    """
    entries = tomllib.loads((root / "docs" / "results.toml").read_text(encoding="utf-8"))["row"]
    lines = ["| unit | what | here | published |", "|---|---|---|---|"]
    for entry in entries:
        if entry["unit"] in UNITS:
            number = entry["unit"].split("_")[0]
            here, published = read(root, entry)
            lines.append(f"| [{number}]({unit_page(entry['unit'])}) | {entry['what']} | {here} | {published} |")
    return "\n".join(lines)


def read(root: Path, entry: dict) -> tuple[str, str]:
    """What an entry finds in its unit's executed notebook.

    Args:
        root: the course folder.
        entry: its `patterns` have named groups, which the texts `here` and `published` put into words.

    Returns:
        Both texts.

    Raises:
        ValueError: see `results_markdown`.
    """
    values: dict[str, str] = {}
    for pattern in entry["patterns"]:
        found = [match.groupdict() for match in re.finditer(pattern, printed(root, entry["unit"]), re.MULTILINE)]
        if not found or any(other != found[0] for other in found):
            raise ValueError(f"{pattern!r} must find one value in unit {entry['unit']}, for {entry['what']!r}, got {found}")
        values |= found[0]
    return entry["here"].format(**values), entry["published"].format(**values)


def printed(root: Path, unit: str) -> str:
    """A unit's text, code and printed output, in order."""
    lesson = nbformat.read(notebook_path(root / "solutions", unit), as_version=4)
    parts = []
    for cell in lesson.cells:
        parts.append(cell.source)
        parts += [output.text for output in cell.get("outputs", []) if output.get("name") == "stdout"]
    return "\n".join(parts)
