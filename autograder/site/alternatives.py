"""What a figure shows, in words, from the code that draws it: for those who do not see it."""

import ast

_SAYS = {  # keyword of .set(), or method
    "title": "title",
    "set_title": "title",
    "suptitle": "title",
    "xlabel": "x axis",
    "set_xlabel": "x axis",
    "ylabel": "y axis",
    "set_ylabel": "y axis",
    "label": "drawn",
}


def in_words(code: str, heading: str) -> str:
    """The alternative of the figures that a cell draws.

    Args:
        code: of the cell.
        heading: of the section that the cell stands in.

    Returns:
        One line: the section, and what titles, axes and legends say, as far as the code says it as a text.
    """
    said: dict[str, list[str]] = {"title": [], "x axis": [], "y axis": [], "drawn": []}
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        found = [(method, node.args[0])] if node.args else []
        for kind, value in found + [(keyword.arg, keyword.value) for keyword in node.keywords]:
            if kind in _SAYS and (text := _text(value)) and text not in said[_SAYS[kind]]:
                said[_SAYS[kind]].append(text)
    parts = [f"{kind}: {', '.join(texts)}" for kind, texts in said.items() if texts]
    return " ".join([f"Figure of the section “{heading}”.", *(f"{part[0].upper()}{part[1:]}." for part in parts)])


def _text(value: ast.expr) -> str:
    """A constant text, or what is constant of an f-string; else nothing."""
    if isinstance(value, ast.Constant):
        return value.value.replace("\n", " ") if isinstance(value.value, str) else ""
    if isinstance(value, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in value.values).replace("\n", " ")
    return ""
