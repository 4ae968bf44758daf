"""Units opened without installing anything, in Colab and in Binder: addresses, and the cells that a notebook begins with there.

All of it is made of one setting, `repository` of [tool.sparsity_edu] in pyproject.toml, and is left out while that is empty.
"""

import re
import tomllib
from pathlib import Path
from urllib.parse import quote

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from autograder.lessons.layout import ELSEWHERE, notebook_path

SET_UP = """\
# in Colab this installs the course, which takes a few minutes; anywhere else it does nothing
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "git+{address}"], check=True)"""


def repository(root: Path) -> str:
    """The address that the course is published at, or an empty text.

    Args:
        root: the course folder.

    Returns:
        `repository` of [tool.sparsity_edu] in pyproject.toml, without a slash at its end.

    Raises:
        ValueError: it is not an address at GitHub, which Colab and Binder open notebooks from.
    """
    path = root / "pyproject.toml"
    settings = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    address = settings.get("tool", {}).get("sparsity_edu", {}).get("repository", "").rstrip("/")
    if address and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise ValueError(f"repository in pyproject.toml must be https://github.com/OWNER/NAME, or empty, got {address!r}")
    return address


def badges(root: Path, unit: str) -> str:
    """Links that open a unit's notebook in Colab and in Binder, in Markdown; nothing if no repository is configured."""
    address = repository(root)
    if not address:
        return ""
    owner_and_name = address.removeprefix("https://github.com/")
    path = notebook_path(Path("notebooks"), unit).as_posix()
    colab = f"https://colab.research.google.com/github/{owner_and_name}/blob/main/{path}"
    binder = f"https://mybinder.org/v2/gh/{owner_and_name}/main?urlpath={quote(f'lab/tree/{path}', safe='')}"
    return f"[Open in Colab]({colab}) [Open in Binder]({binder})"


def cells(root: Path, unit: str) -> list[NotebookNode]:
    """What stands below a notebook's opening: these links, and a cell that installs the course in Colab.

    Args:
        root: the course folder.
        unit: the unit.

    Returns:
        Two cells, tagged; none if no repository is configured.
    """
    if not (links := badges(root, unit)):
        return []
    tags = {"tags": [ELSEWHERE]}
    return [new_markdown_cell(links, metadata=tags), new_code_cell(SET_UP.format(address=repository(root)), metadata=tags)]
