"""What a link in the repository points to on the site: a unit's page, a module's page, or a file in the repository."""

import posixpath
import re
from pathlib import Path

from autograder.exercises import UNITS
from autograder.lessons.elsewhere import repository

TARGET = re.compile(r"(?<=\]\()(?![a-z]+:)([^)#\s]*)(#[^)\s]*)?(?=\))")  # of [text](target#anchor)
NOWHERE = "nowhere:"  # marks a link that leads to nothing, until it is taken out
UNIT_FILE = re.compile(r"(?:course|notebooks|solutions|work)/(\d\d_\w+)/(?:lesson\.py|\w+\.ipynb)")
ROOMS = ("weights", "experts", "kv_cache", "activations", "kernels", "combine")
WITH_PAGE = re.compile(rf"sparsity_edu/(?:patterns|storage|(?:{'|'.join(ROOMS)})/.*(?<!__init__))\.py")


def unit_page(unit: str) -> str:
    """Where a unit's page lies in the folder of pages."""
    return f"units/{unit}/{unit.split('_', 1)[1]}.ipynb"


def module_page(module: str) -> str:
    """Where the page of a module of the library lies: `library/weights.wanda.md`."""
    return f"library/{module.removeprefix('sparsity_edu.')}.md"


def label(exercise: str) -> str:
    """The target of links to an exercise."""
    return f"exercise-{exercise}"


def relative(target: str, page: str) -> str:
    """A path in the folder of pages, as seen from a page in it."""
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


def rewrite(text: str, root: Path, folder: str, page: str) -> str:
    """Markdown whose links lead to the site's pages.

    Args:
        text: Markdown, written for a file in `folder`.
        root: the course folder.
        folder: folder of that file in the repository, such as "course".
        page: the page that the text becomes part of.

    Returns:
        The text: links to lessons and notebooks lead to units' pages, those to modules to the library's. Links to other files
        lead to the repository where its address is configured, else to nothing: their text stays.
    """
    address = repository(root)

    def place(match: re.Match) -> str:
        target, anchor = match[1], match[2] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        unit = UNIT_FILE.fullmatch(path)
        if not target or posixpath.dirname(path) == folder != "docs" or path.endswith(".svg"):
            return match[0]  # on the page itself, or beside it
        if unit and unit[1] in UNITS:
            return relative(unit_page(unit[1]), page) + anchor
        if path.startswith("docs/"):
            return relative(path.removeprefix("docs/"), page) + anchor
        if WITH_PAGE.fullmatch(path) and (root / path).is_file():
            return relative(module_page(path.removesuffix(".py").replace("/", ".")), page)
        return f"{address}/blob/main/{path}{anchor}" if address and (root / path).exists() else NOWHERE

    return re.sub(rf"\[([^\]]*)\]\({NOWHERE}\)", r"\1", TARGET.sub(place, text))
