"""What a cell's code defines and uses, found without running it."""

import ast
import re
import warnings
from itertools import pairwise

DEFINES = re.compile(r"^(?:(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)|(\w+)[ \t]*(?::[^=\n]*)?=(?!=))", re.MULTILINE)
MAGIC = re.compile(r"^([ \t]*+)[%!?].*", re.MULTILINE)  # IPython's own lines
PIECES = 4  # into how many a cell may have been split
BROKEN = (SyntaxError, ValueError, RecursionError, MemoryError)  # what Python raises for code that is none


def seems_to_define(source: str) -> set[str]:
    """The functions, classes and constants that code defines at its top level, also of code with syntax errors."""
    return {name for pair in DEFINES.findall(source) for name in pair if name}


def parsed(source: str) -> ast.Module | None:
    """The syntax tree of a cell's code; None if it is no Python, even without IPython's own lines."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about "\d" and the like
        for text in (source, MAGIC.sub(r"\1pass", source)):
            try:
                return ast.parse(text)
            except BROKEN:
                continue
    return None


def bound(tree: ast.Module) -> set[str]:
    """The names that code defines, assigns or imports at its top level."""
    named = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign) and node.value]
    imported = [alias for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    named |= {alias.asname or alias.name.split(".")[0] for alias in imported}
    return named | {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}


def used(tree: ast.Module) -> set[str]:
    """The names that code reads, in functions too."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def is_unwritten(source: str, stub: str) -> bool:
    """Whether code is still the stub, apart from comments and layout, or a function that ends like one."""
    if source.strip() == stub.strip():
        return True
    tree, released = (parsed(text) if "NotImplementedError" in text else None for text in (source, stub))
    if tree is None or released is None:
        return False
    ends = [node.body[-1] for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in seems_to_define(stub)]
    return ast.dump(tree) == ast.dump(released) or any(_gives_up(end) for end in ends)


def _gives_up(last: ast.stmt) -> bool:
    return isinstance(last, ast.Raise) and last.exc is not None and "NotImplementedError" in ast.unparse(last.exc)


def own_part(source: str, reported: str) -> str:
    """What of a check's cell is not the check: definitions that somebody has written there, with what stands between them.

    Args:
        source: of the cell.
        reported: the function that checks, whose uses are left out.

    Returns:
        The code, without its comments; empty if it defines nothing.
    """
    tree = parsed(source)
    if tree is None:
        return ""
    kept = [node for node in tree.body if not isinstance(node, ast.Pass) and not _is_about(node, reported)]
    own = ast.Module(kept, [])
    return ast.unparse(own) if bound(own) else ""


def _is_about(node: ast.stmt, name: str) -> bool:
    is_definition = isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)
    return not is_definition and name in used(ast.Module([node], []))


def is_whole(source: str, may_be_indented: bool = True) -> bool:
    """Whether code can be run by itself, as IPython does it: it takes away what the first line is indented by."""
    margin = re.match(r"\n*([ \t]*)", source)[1]
    if margin and not may_be_indented:
        return False
    source = re.sub(rf"^{margin}", "", source, flags=re.MULTILINE) if margin else source
    for text in (source, MAGIC.sub(r"\1pass", source)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compile(text, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
            return True
        except BROKEN:
            continue
    return False


def joined(pieces: list[str], is_split: bool) -> tuple[str, int]:
    """The first of some cells, with those after it that it makes sense with only: what was split in the middle of a function.

    Args:
        pieces: code of cells that follow each other.
        is_split: whether they are known to have been one cell, which may have been split in the middle of a line too.

    Returns:
        The code, and of how many cells it is.
    """
    for count in range(1, min(len(pieces), PIECES) + 1):
        if count == len(pieces) or is_whole(pieces[count], not is_split):
            for text in _glued(pieces[:count], is_split):
                if is_whole(text, not is_split):
                    return text, count
    return pieces[0], 1


def _glued(pieces: list[str], is_split: bool) -> list[str]:
    texts = pieces[:1]
    for upper, lower in pairwise(pieces):
        within_a_line = is_split and (upper.endswith((" ", "\t")) or not is_whole(lower))
        texts = [text + glue + lower for text in texts for glue in (["\n", ""] if within_a_line else ["\n"])]
    return texts
