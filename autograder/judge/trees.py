"""How alike two pieces of code are, whatever their authors call things.

Code is compared by pq-grams, small pieces of its syntax tree: a node, its parent, two neighbouring children. The author's own
names, texts, annotations, docstrings, prints and asserts do not count, nor does a name for what is returned next. The
similarity of two trees is twice the grams they share over all they have (Augsten, Böhlen, Gamper 2005, "Approximate matching
of hierarchical data using pq-grams"; p = q = 2).
All own names are one label, as in MOSS (Schleimer et al. 2003), not numbered: one added line would renumber all that follow.

Code may be hostile: it is parsed, never run, nothing here recurses, and no more than `LONGEST` characters are looked at.
"""

import ast
import functools
import inspect
import re
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

SMALLEST = 66  # nodes of a definition; a smaller one has one natural form, which the hint all but gives
LONGEST = 50_000  # characters of code that are looked at
ANSWERS = r"sparsity_edu\.(?:weights|patterns|storage|experts|kv_cache|activations|kernels|combine)\b"
_MAGIC = re.compile(r"^([ \t]*+(?:\w[\w, ]*+=[ \t]*+)?+)([%!?,;/].*|[\w. %]++\?\??[ \t]*+)$", re.MULTILINE)


def similarity(answer: ast.AST, models: Iterable[str], others: Iterable[ast.AST] = (), smallest: int = SMALLEST) -> float:
    """The largest similarity, 0 to 1, of a definition in an answer, or a helper that it names, to one in the models.

    Args:
        answer: the tree of an answer's cell.
        models: code to compare it with.
        others: trees of the author's other cells.
        smallest: smaller definitions, in nodes, are left out.

    Returns:
        Twice the grams that the two share over all that they have; 0 where nothing is large enough.
    """
    named = {node.id for node in ast.walk(answer) if isinstance(node, ast.Name)}
    helpers = [part for tree in others for part in definitions(tree) if part.name in named]
    mine = [made for made in map(grams, [*definitions(answer), *helpers]) if made.total() >= 2 * smallest - 1]
    theirs = [made for made in _model_grams(tuple(models)) if made.total() >= 2 * smallest - 1]
    return max((2 * (a & b).total() / (a.total() + b.total()) for a in mine for b in theirs), default=0.0)


def is_verbatim(answer: ast.AST, models: Iterable[str], lines: int = 2) -> bool:
    """Whether a definition of more than some lines is in the models with the same names, comments and prints aside."""
    parts = [part for model in models for part in definitions(parsed(model)) if _statements(part) > lines]
    theirs = [grams(part, names=True) for part in parts]
    return any(grams(part, names=True) in theirs for part in definitions(answer))


def parsed(cell: str) -> ast.Module:
    """The syntax tree of a cell; of one that does not compile even without magics, its text as an argument of nothing."""
    for text in (cell, _MAGIC.sub(lambda line: f"{line[1]}_({line[2]!r})", cell)) if len(cell) <= LONGEST else ():
        try:
            with warnings.catch_warnings(action="ignore"):  # of odd escapes
                return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # NULs, half characters, deep nesting
            continue
    return ast.Module([ast.Expr(ast.Call(ast.Name("_", ast.Load()), [ast.Constant(cell[:LONGEST])], []))], [])


def definitions(tree: ast.AST) -> Iterator[ast.AST]:
    """The functions and classes in a tree, inner ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef))


@functools.cache
def library(reference: Callable) -> tuple[str, ...]:
    """Code of a reference and of all that it reaches in the library's modules of answers."""
    found: dict[Callable, str] = {}
    waiting = [reference]
    while waiting:
        thing = waiting.pop()
        found[thing] = textwrap.dedent(inspect.getsource(thing))
        for node in ast.walk(ast.parse(found[thing])):
            other = sys.modules[thing.__module__]
            for part in ast.unparse(node).split(".") if isinstance(node, ast.Name | ast.Attribute) else ():
                other = getattr(other, part, None)
            is_code = inspect.isfunction(other) or inspect.isclass(other)
            if is_code and re.match(ANSWERS, other.__module__) and other not in found:
                waiting.append(other)
    return tuple(found.values())


@functools.cache
def _model_grams(models: tuple[str, ...]) -> list[Counter]:
    return [grams(part) for model in models for part in definitions(parsed(model))]


def grams(tree: ast.AST, names: bool = False, constants: bool = True) -> Counter:
    """The pq-grams (p = q = 2) of a tree.

    Args:
        tree: a definition, or the tree of a whole cell.
        names: whether the author's own names count.
        constants: whether it counts which number stands where one does.

    Returns:
        How often each gram is there: 2 n - 1 of them for n nodes.
    """
    own = set() if names else own_names(tree)
    found, waiting = Counter(), [(tree, None)]
    while waiting:
        node, parent = waiting.pop()
        label, parts = _label(node, own, constants), _parts(node)
        below = [None, *(_label(part, own, constants) for part in parts), None]
        found.update((parent, label, *pair) for pair in pairwise(below))
        waiting += [(part, label) for part in parts]
    return found


def own_names(tree: ast.AST) -> set[str]:
    """The names that code gives itself: of definitions, arguments, variables, and attributes of self, these as "self.x"."""
    own = {node.name for node in definitions(tree)} | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                own.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                own.add(f"self.{name}")
    return own


def _statements(tree: ast.AST) -> int:
    """The statements in a definition, docstrings and the like aside."""
    return sum(isinstance(node, ast.stmt) and not _is_idle(node) for node in ast.walk(tree)) - 1


def _label(node: ast.AST, own: set[str], constants: bool) -> object:
    match node:
        case ast.Name(id=name) | ast.arg(arg=name):
            return "own" if name in own else name
        case ast.Attribute(attr=name):
            return ".own" if f"self.{name}" in own else f".{name}"
        case ast.JoinedStr() | ast.Constant(value=str()):
            return "text"
        case ast.Constant(value=value) | ast.keyword(arg=value) if constants or isinstance(node, ast.keyword):
            return type(node), value
    return ast.Assign if isinstance(node, ast.AnnAssign) else type(node)


def _parts(node: ast.AST) -> list[ast.AST]:
    """The children that count, keywords by their names."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return [node.exc.func]  # not the message
    ignored = ("annotation", "returns", "decorator_list", "ctx", "values" if isinstance(node, ast.JoinedStr) else "")
    values = [value for field, value in ast.iter_fields(node) if field not in ignored]
    lists = [value if isinstance(value, list) else [value] for value in values]
    kept = [part for value in lists for part in _direct([p for p in value if isinstance(p, ast.AST) and not _is_idle(p)])]
    return sorted(kept, key=lambda part: (part.arg or "") if isinstance(part, ast.keyword) else "")


def _direct(parts: list) -> list:
    """Statements in which `x = ...`, right before `return x`, is `return ...`."""
    found: list = []
    for part in parts:
        match found[-1:], part:
            case [ast.Assign(targets=[ast.Name(id=name)], value=value)], ast.Return(value=ast.Name(id=returned)) if (
                name == returned
            ):
                found[-1] = ast.Return(value)
            case _:
                found.append(part)
    return found


def _is_idle(node: ast.AST) -> bool:
    match node:
        case ast.Pass() | ast.Assert() | ast.Expr(value=ast.Constant() | ast.Call(func=ast.Name(id="print"))):
            return True
    return isinstance(node, ast.AnnAssign) and node.value is None
