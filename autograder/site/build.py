"""Builds the site: pages into a temporary folder, then Sphinx. Nothing is executed, nothing is fetched."""

import io
import re
import shutil
import tempfile
from pathlib import Path

from autograder.site.pages import write_pages

PUBLIC, FOR_INSTRUCTORS = "site", "site-solutions"  # two folders, so that nobody publishes solutions by mistake


def build(root: Path, solutions: bool = False, out: Path | None = None) -> tuple[Path, list[str]]:
    """Build the site.

    Args:
        root: the course folder.
        solutions: whether units show solutions and what is said of them.
        out: where to put it. Default: site/ in the course folder, with solutions site-solutions/.

    Returns:
        The folder, and what Sphinx warned of: dead links, headings out of order.

    Raises:
        RuntimeError: Sphinx is not installed, or could not build the site.
    """
    try:
        from sphinx.application import Sphinx
    except ModuleNotFoundError as error:
        raise RuntimeError(f"the site needs {error.name}: pip install --editable '.[site]'") from None

    out = out or root / (FOR_INSTRUCTORS if solutions else PUBLIC)
    with tempfile.TemporaryDirectory() as scratch:
        pages, made, warnings = Path(scratch) / "pages", Path(scratch) / "made", io.StringIO()
        write_pages(root, pages, solutions)
        app = Sphinx(pages, pages, made, Path(scratch) / "doctrees", "html", status=None, warning=warnings)
        app.build()
        if app.statuscode:
            raise RuntimeError(f"Sphinx could not build the site: {warnings.getvalue().strip()}")
        (made / ".buildinfo").unlink(missing_ok=True)
        (made / "objects.inv").unlink(missing_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made, out)
        said = re.sub(r"\x1b\[\d*(;\d+)*m", "", warnings.getvalue()).replace(f"{pages}/", "")
    return out, [line for line in said.splitlines() if line.strip()]
