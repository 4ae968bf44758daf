"""What students get: notebooks, what their checks need of this project, and two commands that set it up.

No solutions, no lesson sources, nothing that grades. Checks in a notebook need cases to try and a reference to compare with, so
these are in it, for the units that are handed out; right answers in other styles, which only tests need, are taken out.
"""

import ast
import json
import re
import shutil
import tomllib
import zipfile
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path

import nbformat

import autograder
from autograder.exercises import UNITS
from autograder.intake.folders import IGNORED
from autograder.intake.rebuild import released_notebook
from autograder.judge.terms import Terms
from autograder.lessons.layout import HANDOUT, notebook_path
from autograder.lessons.sources import closure, imports

TEMPLATES = Path(__file__).parent / "templates" / "handout"
# what a notebook and a terminal call; what else they need is found in their imports
CALLED = (
    "autograder.learner.check",
    "autograder.learner.commands",
    "autograder.learner.standing",
    "autograder.inside.sanitizer",
)
GRADING = {  # requirements of this project that only grading, building and testing have
    "cryptography", "distributed", "jupyter-client", "jupytext", "latex2mathml", "nbclient", "nbgrader", "psutil",
}  # fmt: skip
PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "sparsity-edu"
description = "What students of the course are handed: {units}"
requires-python = {python}
license = "Apache-2.0"
dynamic = ["version"]
dependencies = {dependencies}

[project.scripts]
autograder = "autograder.learner.commands:main"

[tool.hatch.version]
path = "sparsity_edu/__init__.py"

[tool.hatch.build.targets.wheel]
packages = ["sparsity_edu", "autograder"]
"""


def write(root: Path, units: list[str], to: Path) -> int:
    """Write a handout.

    Args:
        root: the course folder.
        units: what to hand out.
        to: the folder to write; it is not there, or empty.

    Returns:
        The number of files.
    """
    terms, code = Terms.read(root / "grading"), []
    for unit in units:
        released = deepcopy(released_notebook(notebook_path(root / "solutions", unit)))
        code += [cell.source for cell in released.cells if cell.cell_type == "code"]
        terms.restate(unit, released)
        _write(notebook_path(to / "notebooks", unit), nbformat.writes(released) + "\n")
        for path in _beside(root / "notebooks" / unit):
            _copy(path, to / "notebooks" / unit / path.relative_to(root / "notebooks" / unit))
    package = Path(autograder.__file__).parents[1]
    for path in needed(units, code):
        target = to / path.relative_to(package)
        if "exercises" in path.parts and path.suffix == ".py":
            _write(target, _cut(path.read_text(encoding="utf-8"), units))
        else:
            _copy(path, target)
    names = ", ".join(units)
    files = "\n".join(f"- `{notebook_path(Path('work'), unit)}`" for unit in units)
    for path in TEMPLATES.iterdir():
        text = path.read_text(encoding="utf-8")
        _write(to / path.name, text.replace("{units}", names).replace("{files}", files))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    _write(to / "pyproject.toml", _project(project, names))
    lab = [path.relative_to(root) for path in (root / "course" / "lab").rglob("*.json")]  # JupyterLab as learners get it
    for name in ("constraints.txt", "LICENSE", *lab):
        _copy(root / name, to / name)
    _write(to / HANDOUT, json.dumps({"units": units}))
    return sum(path.is_file() for path in to.rglob("*"))


def write_zip(folder: Path, archive: Path) -> None:
    """Pack a handout, so that unpacking it gives one folder."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            packed.write(path, Path(folder.absolute().name) / path.relative_to(folder))


def is_handout(folder: Path) -> bool:
    """Whether a folder was made by `write`, and nobody has set it up or worked in it."""
    return (folder / HANDOUT).is_file() and not (folder / "work").exists() and not (folder / "solutions").exists()


def needed(units: Iterable[str], code: Iterable[str]) -> list[Path]:
    """The files of this project that students need.

    Args:
        units: what they get.
        code: of the notebooks' cells.

    Returns:
        Paths of modules, of the packages that they lie in, and of the data beside them.
    """
    modules = [*CALLED, *(name for source in code for name in imports(source))]
    modules += [_package(unit) for unit in units]
    others = {_package(unit) for unit in UNITS} - set(modules)  # some of their files may be shared
    found: dict[str, Path] = {}
    while missing := [name for name in modules if name not in found]:
        found |= dict.fromkeys(missing) | closure(*missing)
        packages = [name.rpartition(".")[0] for name in found if "." in name]  # which are imported first
        modules = [name for name in packages if name not in others]
    files = {path for path in found.values() if path}
    data = {path for folder in {path.parent for path in files} for path in folder.glob("*.json")}
    models = {folder for folder in {path.parent for path in files} if folder.name == "models"}
    tiny = {path for folder in models for path in folder.glob("tiny*/*") if path.suffix in (".json", ".safetensors")}
    return sorted(files | data | tiny)


def without_other_answers(source: str) -> str:
    """The declaration of an exercise without its right answers in other styles, which only tests need."""
    lines = source.splitlines(keepends=True)
    for node in reversed(ast.parse(source).body):
        decorators = getattr(node, "decorator_list", [])
        is_answer = any(re.match(r"\w+\.accepts\(", ast.unparse(part)) for part in decorators)
        if is_answer or ".accepted[" in ast.unparse(node):
            first = min(part.lineno for part in (node, *decorators)) - 1
            del lines[first : node.end_lineno]
    return "".join(lines).rstrip() + "\n"


def _cut(source: str, units: list[str]) -> str:
    """A module of the exercises as students get it: of the list of units, those that they get."""
    others = "".join(f'|    "{unit}",\n' for unit in UNITS if unit not in units)[1:]
    return without_other_answers(re.sub(others, "", source) if others else source)


def _package(unit: str) -> str:
    return f"autograder.exercises.{unit.split('_', 1)[1]}"


def _project(project: dict, units: str) -> str:
    def name(requirement: str) -> str:
        return requirement.partition(";")[0].strip().partition("=")[0].rstrip("<>!~").strip()

    kept = [requirement for requirement in project["dependencies"] if name(requirement) not in GRADING]
    listed = "[\n" + "".join(f"  {json.dumps(requirement)},\n" for requirement in kept) + "]"
    return PROJECT.format(units=units, python=json.dumps(project["requires-python"]), dependencies=listed)


def _beside(folder: Path) -> list[Path]:
    """What lies beside a notebook: figures."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".ipynb")
    return [path for path in found if not IGNORED & set(path.relative_to(folder).parts)]


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
