"""What a unit's notebook says before it begins: its title, and the units that it builds on."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from autograder.exercises import UNITS


@dataclass(frozen=True)
class Opening:
    """The first words of a unit."""

    title: str  # "05 · Wanda"
    needs: tuple[str, ...]  # names of units


def opening(notebook: Path, unit: str) -> Opening:
    """Read the first cell of a unit's notebook.

    Args:
        notebook: the file.
        unit: the unit, whose name stands for a title that is missing.

    Returns:
        What the cell says.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no notebook.
    """
    try:
        text = "".join(json.loads(notebook.read_bytes())["cells"][0]["source"])
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{notebook.name} is no notebook with a first cell: {error}") from None
    return Opening(text.partition("\n")[0].removeprefix("# ") or unit, builds_on(unit, text))


def builds_on(unit: str, text: str) -> tuple[str, ...]:
    """The units that a unit needs, by its own words.

    Args:
        unit: its name.
        text: its opening, in which the sentence that begins with "**Builds on**" links them.

    Returns:
        Earlier units, in lecture order; none if there is no such sentence.
        What the sentences after it link is useful, not needed.
    """
    sentence = re.search(r"\*\*Builds on\*\*(.*?)\.(?:\s|$)", text, re.DOTALL)
    linked = re.findall(r"\]\(\.\./(\d\d_\w+)/", sentence[1]) if sentence else []
    return tuple(other for other in UNITS[: UNITS.index(unit)] if other in linked)
