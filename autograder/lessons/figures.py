"""A unit's figures of concepts: drawn by course/UNIT/figures.py, and checked in as SVG beside the notebooks that show them."""

import runpy
from io import BytesIO
from pathlib import Path


def figures(root: Path, unit: str) -> dict[str, bytes]:
    """Draw a unit's figures; twice the same bytes.

    Args:
        root: the course folder.
        unit: the unit.

    Returns:
        SVG by name of the file: `FIGURES` in course/UNIT/figures.py lists functions that return a figure each, and a file has
        the name of its function. Empty where there is no such file.
    """
    path = root / "course" / unit / "figures.py"
    if not path.exists():
        return {}
    return {f"{draw.__name__}.svg": _svg(draw.__name__, draw()) for draw in runpy.run_path(str(path))["FIGURES"]}


def stale_figures(root: Path, unit: str) -> list[Path]:
    """The files beside a unit's notebooks that are not what would be drawn today; links in the lesson are not looked at."""
    drawn = figures(root, unit)
    paths = [root / folder / unit / name for folder in ("solutions", "notebooks") for name in drawn]
    return [path for path in paths if not path.exists() or path.read_bytes() != drawn[path.name]]


def write_figures(root: Path, unit: str) -> list[Path]:
    """Draw a unit's figures beside its notebooks.

    Args:
        root: the course folder.
        unit: the unit.

    Returns:
        The files that were written: those that had been others.
    """
    drawn, outdated = figures(root, unit), stale_figures(root, unit)
    for path in outdated:
        path.write_bytes(drawn[path.name])
    return outdated


def _svg(name: str, figure) -> bytes:
    import matplotlib

    # letters as outlines look alike everywhere; the salt makes ids that do not change from one drawing to the next
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": name}), BytesIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()
