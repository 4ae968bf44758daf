"""Docstrings and comments of a module -> Markdown, and the code that they are about."""

import ast
import io
import re
import textwrap
import tokenize
from typing import NamedTuple

_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Source):[ ]*(.*)$")
_ENTRY = re.compile(r"^(\*{0,2}\w[\w, *]*): (.*)$")


class Row(NamedTuple):
    """A piece of a module: what is said of some lines, and the lines."""

    name: str  # of the function or class that begins here, "Class.method" of a method; else empty
    prose: str  # Markdown
    code: str


def rows(source: str) -> tuple[str, list[Row]]:
    """Split a module where its docstrings and its comments on lines of their own are.

    Args:
        source: of the module.

    Returns:
        The module's docstring, and the rest in order: a row begins with each function, class and method, whose docstring
        stands beside it (but not with a method that has none), and with each comment on lines of its own.
    """
    lines, tree = source.splitlines(), ast.parse(source)
    begins: dict[int, tuple[str, str]] = {}  # line -> name, prose
    gone: set[int] = set()
    module = _docstring(tree, gone)
    for text, number in _comments(source):
        gone.add(number)
        if number - 1 in gone and lines[number - 2].strip().startswith("#"):
            first = max(line for line in begins if line < number)
            begins[first] = begins[first][0], f"{begins[first][1]}\n{text}"
        else:
            begins[number] = "", text
    for name, node in _definitions(tree):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        before = first - 1
        while before in gone and before not in begins:
            before -= 1
        comment = begins.pop(before, ("", ""))[1]
        begins[first] = name, "\n\n".join(part for part in (comment, docstring_markdown(_docstring(node, gone))) if part)
    return module, [row for row in _cut(lines, begins, gone) if row.prose or row.code]


def _cut(lines: list[str], begins: dict[int, tuple[str, str]], gone: set[int]) -> list[Row]:
    found, name, prose, code = [], "", "", []
    for number, line in enumerate(lines, start=1):
        if number in begins:
            found.append(Row(name, prose, "\n".join(code).strip("\n")))
            (name, prose), code = begins[number], []
        if number not in gone:
            code.append(line)
    return [*found, Row(name, prose, "\n".join(code).strip("\n"))]


def _comments(source: str) -> list[tuple[str, int]]:
    """Comments on lines of their own, without the sign, and their lines."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [
        (token.string.lstrip("# "), token.start[0])
        for token in tokens
        if token.type == tokenize.COMMENT and token.line.strip().startswith("#")
    ]


def _definitions(tree: ast.Module) -> list[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Functions, classes, and methods that say what they do; what is inside a function stays a part of it."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append((node.name, node))
            if isinstance(node, ast.ClassDef):
                found += [(f"{node.name}.{part.name}", part) for part in node.body if _says_something(part)]
    return found


def _says_something(part: ast.stmt) -> bool:
    return isinstance(part, ast.FunctionDef) and ast.get_docstring(part) is not None


def _docstring(node: ast.Module | ast.FunctionDef | ast.ClassDef, gone: set[int]) -> str:
    text = ast.get_docstring(node)
    if text is None:
        return ""
    if len(node.body) > 1:  # of a function that is a docstring alone the docstring is what there is to show
        gone |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return text


def docstring_markdown(text: str) -> str:
    """A docstring as Markdown: sections become paragraphs and lists, what is indented stays as it is typed.

    Args:
        text: without the indentation of its function, in Google's style.

    Returns:
        Markdown.
    """
    parts: list[str] = []
    lines = text.splitlines()
    while lines:
        section = _SECTION.match(lines[0])
        size = next((i for i, line in enumerate(lines[1:], 1) if _SECTION.match(line)), len(lines)) if section else None
        if section:
            end = next((i for i, line in enumerate(lines[1:], 1) if line and not line.startswith("    ")), len(lines))
            body, lines = lines[1 : min(size, end)], lines[min(size, end) :]
            parts.append(_section(section[1], section[2], textwrap.dedent("\n".join(body)).strip()))
        else:
            end = next((i for i, line in enumerate(lines) if _SECTION.match(line)), len(lines))
            parts.append("\n".join(lines[:end]).strip("\n"))
            lines = lines[end:]
    return "\n\n".join(part for part in parts if part)


def _section(kind: str, first: str, body: str) -> str:
    if kind == "Source":
        return f"*Source:* {first} {' '.join(body.split())}".strip()
    if kind in ("Returns", "Yields"):
        return " ".join(part for part in (f"*{kind}*", first, body) if part)
    entries: list[str] = []
    for line in body.splitlines():
        entry = _ENTRY.match(line)
        entries.append(f"- `{entry[1]}`: {entry[2]}" if entry else f"  {line.strip()}" if entries else line)
    title = {"Args": "Arguments", "Raises": "Raises"}[kind]
    return f"*{title}*\n\n" + "\n".join(entries)
