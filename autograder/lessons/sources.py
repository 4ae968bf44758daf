"""Which of this project's files something depends on: so that what was computed is computed again when one of them changes."""

import ast
import hashlib
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_PROJECT = ("autograder", "sparsity_edu")


def closure(*modules: str) -> dict[str, Path]:
    """Modules, and all those of this project that they import, directly or not.

    Args:
        modules: names; others than this project's, and names that are no module's, are left out.

    Returns:
        File by name of the module.
    """
    found: dict[str, Path] = {}
    waiting = [module for module in modules if module.split(".")[0] in _PROJECT]
    while waiting:
        name = waiting.pop()
        if name in found or not _is_module(name):
            continue
        spec = importlib.util.find_spec(name)
        if spec.origin:
            found[name] = Path(spec.origin)
            waiting += imports(found[name].read_text(encoding="utf-8"))
    return found


@cache
def imports(source: str) -> tuple[str, ...]:
    """What code imports of this project, wherever in it: names of modules, or of what is in them."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in _PROJECT:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]  # `from package import module`
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in _PROJECT]
    return tuple(found)


@cache
def what_it_does(source: str) -> str:
    """Code without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        is_documented = isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if is_documented and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def fingerprint(code: Iterable[str], modules: Iterable[str]) -> str:
    """A hash of what code does, what the modules do that it imports, and the data of this project's packages.

    Args:
        code: Python sources, in order.
        modules: names of modules that it uses without importing them.

    Returns:
        32 hexadecimal digits, the same on every machine.
    """
    code = list(code)
    files = closure(*modules, *(name for source in code for name in imports(source)))
    parts = [*code, *(path.read_text(encoding="utf-8") for _, path in sorted(files.items()))]
    digest = hashlib.sha256("\0".join(map(what_it_does, parts)).encode())
    library = Path(importlib.util.find_spec("sparsity_edu").origin).parent
    for path in sorted(library.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


@cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
