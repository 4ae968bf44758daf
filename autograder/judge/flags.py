"""Answers that a person should look at: copies of the course's code, and code that reaches for what it should not. No score.

What code uses is found by following names through imports, assignments, getattr and joined texts, in whatever order cells ran.
Nothing of the student's is executed, and who computes a name cleverly enough gets past: the sandbox is the wall, not this.
"""

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, islice, product

from autograder.checking.exercise import Exercise
from autograder.judge.trees import ANSWERS, LONGEST, is_verbatim, library, parsed, similarity

ALIKE = 0.9  # a copy from this similarity on; tests/autograder/judge/test_flags.py prints what copies and honest answers reach
_MANY = 8  # meanings of an expression that are followed
_SETTINGS = r"\w+_NUM_THREADS|CUDA_VISIBLE_DEVICES|NBGRADER_EXECUTION|SPARSITY_EDU_FAST|(?:TOKENIZERS|TRITON|HF|KMP)_\w+"
_NAMES = re.compile(
    rf"\b{ANSWERS}|^autograder(?=\.(?!check(?:\(|$)))|^(?:ctypes|sqlite3|socket|subprocess)(?=\.|$)"
    r"|(?:^|(?<=builtins\.)|(?<=builtins__\.))(?:eval|exec|__import__)(?=\(\?)|\bimport_module(?=\(\?)"
    r"|\bsys\.(?:modules|meta_path|path_hooks|_getframe)\b|\b(?:sys|threading)\.set(?:profile|trace)\b|\bgc\.get_(?:objects|refer(?:rers|ents))\b|\binspect\.getsource(?:lines|file)?\b"
    rf"|\bos\.(?:environ|getenv)\b(?!(?:\.get|\.setdefault|\.pop)?[.(](?:{_SETTINGS})\b)"
    r"|\btriton\.runtime\.interpreter\b|\bunittest\.mock\b|\binspect\.(?:currentframe|stack)\b"
    r"|\b(?:__(?:globals|closure|subclasses)__|cell_contents|f_back|f_globals)\b"
    r"|\b(?:input_transformer(?:s_post|s_cleanup|_manager)|ast_transformers)\b"
)
_PATHS = re.compile(r"(?<=[\s/\\'\"=(])solutions(?=[/\\])|(?<=[\s'\"=(])/proc\b")
_FILES = {"join", "joinpath", "Path", "open", "listdir", "scandir", "walk", "chdir", "glob", "rglob"}
_RUNS = re.compile(r"(?:\w*builtins\w*\.)?(?:eval|exec|compile)|.*\.run_cell")


def flags(exercise: Exercise, source: str, others: Iterable[str] = (), models: Iterable[str] = ()) -> list[str]:
    """What a person should look at in an answer.

    Args:
        exercise: the exercise.
        source: the student's answer cell.
        others: the student's own further code cells, where helpers and imports may be.
        models: code of the lesson's solution. The library's own implementation is always compared.

    Returns:
        Sentences, none for an ordinary answer. They quote nothing that a student wrote.
    """
    cells, found, size, own = [], {}, 0, f"{exercise.id}: "
    for cell in (source, *others):
        size += len(cell)
        cells.append(parsed(cell if size <= LONGEST else ""))
    if size > LONGEST:
        found[f"not all of its {size:,} characters were looked at"] = own
    for whose, code in {"solution": models, "implementation": library(exercise.reference)}.items():
        if (alike := similarity(cells[0], code, cells[1:])) >= ALIKE:
            found[f"{100 * alike:.0f} % of the answer's syntax tree equals the course's own {whose}"] = own
        elif is_verbatim(cells[0], code):  # too small to tell once its names are changed
            found[f"the answer is the course's own {whose}, with the same names"] = own
    meanings = _Meanings(cells)
    for place, trees in {"": [cells[0], *meanings.run.values()], "in another cell: ": cells[1:]}.items():
        for use in sorted({use for tree in trees for use in meanings.uses(tree)}):
            is_text = use.startswith("'")
            if seen := (_PATHS if is_text else _NAMES).search(use):
                found.setdefault(f"uses {seen[0]}", place or own)
            for name in exercise.forbids:
                if not is_text and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", use):
                    whose = exercise.id if place else "this exercise"
                    found.setdefault(f"uses {name}, which {whose} forbids", place or own)
    return [f"{place}{what}" for what, place in found.items()]


def function_source(cell: str, name: str) -> str | None:
    """The last definition or assignment of a name in a cell; None if it has none or is broken."""
    tree = parsed(cell)
    for node in (*reversed(tree.body), *ast.walk(tree)):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if name in (getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)):
            return ast.get_source_segment(cell, node)
    return None


class _Meanings:
    """What the expressions of all cells may stand for: dotted names, and texts (with a ' in front)."""

    def __init__(self, trees: list[ast.AST]):
        self.known = {"nn": {"torch.nn"}, "F": {"torch.nn.functional"}}  # as the released cells import them
        self.of, self.room = defaultdict(list), 10 * LONGEST  # room: characters of joined texts
        self.run: dict[str, ast.AST] = {}  # text that is run as code
        order = functools.cache(lambda tree: list(ast.walk(tree))[::-1])  # children first, so that nothing recurses
        for _ in range(3):  # what one pass learns, the next one uses
            learnt = self.room, sum(map(len, self.known.values())), len(self.run)
            for node in chain.from_iterable(map(order, [*self.run.values(), *trees])):
                if meanings := self._learn(node):
                    self.of[id(node)] = sorted(meanings)[:_MANY]
            if learnt == (self.room, sum(map(len, self.known.values())), len(self.run)):
                break

    def uses(self, tree: ast.AST) -> Iterator[str]:
        """What a tree names, in the longest form of each name, and its texts; not its documentation."""
        inner = set()
        for node in ast.walk(tree):
            match node:
                case ast.Expr(value=ast.Constant() as part):
                    inner.add(id(part))
                case ast.Attribute(value=part) | ast.Subscript(value=part) | ast.Call(func=part) if self._names(part):
                    inner.add(id(part))
            if id(node) not in inner:
                yield from (meaning for meaning in self.of[id(node)] if meaning != getattr(node, "id", None))

    def _names(self, node: ast.AST) -> list[str]:
        return [meaning for meaning in self.of[id(node)] if not meaning.startswith("'")]

    def _texts(self, node: ast.AST) -> list[str]:
        return [meaning[1:] for meaning in self.of[id(node)] if meaning.startswith("'")]

    def _bind(self, name: str, meanings: Iterable[str]) -> None:
        known = self.known.setdefault(name, set())
        known.update(islice(meanings, _MANY - len(known)) if len(known) < _MANY else ())

    def _learn(self, node: ast.AST) -> set[str]:
        match node:
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                for alias in aliases:
                    self._bind(alias.asname or alias.name, [f"{module}{alias.name}"])
                return {f"{module}{alias.name}" for alias in aliases}
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                for target in getattr(node, "targets", [getattr(node, "target", None)]):
                    self._bind(getattr(target, "id", ""), self.of[id(value)])
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                self._bind(name, self.of[id(value)])
                return set(self.of[id(value)])
            case ast.Constant(value=str(text)):
                return {f"'{text}"}
            case ast.Name(id=name):
                return {name, *self.known.get(name, ()), *(star[:-1] + name for star in self.known.get("*", ()))}
            case ast.Attribute(value=base, attr="__dict__"):
                return set(self._names(base))
            case ast.Attribute(value=base, attr=name):
                return {f"{whole[-200:]}.{name}" for whole in self._names(base) or "?"}
            case ast.Subscript(value=base, slice=key):
                return {f"{whole[-200:]}.{name}" for whole in self._names(base) or "?" for name in self._keys(key)}
            case ast.FormattedValue(value=value) | ast.Starred(value=value):
                return set(self.of[id(value)])
            case ast.JoinedStr(values=parts):
                return self._joined("", parts)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._joined("", [left, right])
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                return self._joined("/", [left, right], "/")
            case ast.IfExp(body=one, orelse=other):
                return {*self.of[id(one)], *self.of[id(other)]}
            case ast.Call(func=func, args=args):
                return self._called(func, args)
        return set()

    def _keys(self, node: ast.AST) -> list[str]:
        return [text if text.isidentifier() else "" for text in self._texts(node)] or ["?"]

    def _joined(self, between: str, parts: list[ast.AST], end: str = "") -> set[str]:
        texts = [self._texts(part) for part in parts]
        if not any(texts) or self.room < 0:
            return set()
        joined = {f"'{between.join(choice)}{end}" for choice in islice(product(*(text or [""] for text in texts)), _MANY)}
        self.room -= sum(map(len, joined))
        return joined

    def _called(self, func: ast.AST, args: list[ast.AST]) -> set[str]:
        functions = self._names(func)
        keys = self._keys(args[0]) if args else [""]
        meanings = {f"{whole[-200:]}({key})" for whole in functions for key in keys}
        last = {whole.rsplit(".", 1)[-1] for whole in functions} if args else set()
        if "getattr" in last and len(args) > 1:
            meanings |= {f"{whole}.{name}" for whole in self._names(args[0]) for name in self._keys(args[1])}
        if "vars" in last:
            meanings |= set(self._names(args[0]))
        if last & {"__import__", "import_module"}:
            packages = self._texts(args[-1]) or [""]
            meanings |= {(package if name[:1] == "." else "") + name for name in self._texts(args[0]) for package in packages}
        if isinstance(func, ast.Attribute) and args and isinstance(args[0], ast.List | ast.Tuple):
            meanings |= {text for between in self._texts(func.value) for text in self._joined(between, args[0].elts)}
        if last & _FILES:
            meanings |= self._joined("/", args, "/")
        if args and any(map(_RUNS.fullmatch, functions)):
            for text in self._texts(args[0]):
                self.run[text] = self.run.get(text) or parsed(text)
                expression = getattr(self.run[text].body[0], "value", None) if self.run[text].body else None
                meanings |= {f"'{text}", *self.of[id(expression)]}
        return meanings
