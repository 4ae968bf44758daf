"""The annotated library: a page per module, with prose and formulas beside the code."""

from pathlib import Path

from autograder.lessons.beyond import techniques
from autograder.site.course_map import Course
from autograder.site.links import ROOMS, module_page, relative, unit_page
from autograder.site.papers import Papers
from autograder.site.prose import Row, docstring_markdown, rows

TITLES = {
    "weights": "Static sparsity: weights",
    "experts": "Mixtures of experts",
    "kv_cache": "The KV cache",
    "activations": "Activations",
    "kernels": "Kernels",
    "combine": "Combination",
}
# no table of contents at the right: prose and code need the room
WIDE = "---\nhtml_theme.sidebar_secondary.remove: true\n---\n\n"


def modules(root: Path) -> dict[str, list[str]]:
    """The modules that have a page, by title of their room."""
    library = root / "sparsity_edu"
    found = {"Patterns and storage": ["sparsity_edu.patterns", "sparsity_edu.storage"]}
    for room in ROOMS:
        files = sorted(path for path in (library / room).rglob("*.py") if path.name != "__init__.py")
        found[TITLES[room]] = [".".join(path.relative_to(root).with_suffix("").parts) for path in files]
    return found


def write_library(root: Path, pages: Path, course: Course, papers: Papers) -> None:
    """Write the page of every module, and the list of them.

    Args:
        root: the course folder.
        pages: the folder of pages.
        course: the units, which the pages link.
        papers: the papers, which the pages link.
    """
    (pages / "library").mkdir(exist_ok=True)
    known = {technique["module"]: technique for technique in techniques(root)}
    for names in modules(root).values():
        for name in names:
            page = module_page(name)
            text = module_markdown(root, name, known.get(name, {}), course, papers)
            (pages / page).write_text(text, encoding="utf-8")
    (pages / "made" / "library.md").write_text(_listing(root, known, course), encoding="utf-8")


def module_markdown(root: Path, module: str, technique: dict, course: Course, papers: Papers) -> str:
    """The page of a module.

    Args:
        root: the course folder.
        module: such as "sparsity_edu.weights.wanda".
        technique: what docs/library.toml says of it, or nothing.
        course: the units.
        papers: the papers.

    Returns:
        Markdown.
    """
    source = (root / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8")
    docstring, pieces = rows(source)
    summary, _, rest = docstring.partition("\n")
    units = {technique["unit"]} if "unit" in technique else _units_of_room(course, module)
    link = papers.linker(units)
    formulas = technique.get("formulas", {})
    body = "\n".join(_row(piece, formulas.get(piece.name, ""), link) for piece in pieces)
    return (
        f"{WIDE}# {module.removeprefix('sparsity_edu.')}\n\n{link(summary)}\n\n"
        f"{_about(technique, course, papers.cited(docstring + source, units), module_page(module))}\n"
        f"{link(docstring_markdown(rest.strip(chr(10))))}\n\n{body}\n"
    )


def _units_of_room(course: Course, module: str) -> set[str]:
    room = module.rpartition(".")[0]
    return {name for name, unit in course.items() if any(other.startswith(f"{room}.") for other in unit.modules)}


def _about(technique: dict, course: Course, cited: list, page: str) -> str:
    """The list at the head of a page: unit, papers, official code, what is different here."""
    lines = []
    if unit := course.get(technique.get("unit", "")):
        lines.append(f"You build it in [{unit.title}]({relative(unit_page(unit.name), page)}).")
    if cited:
        papers = "; ".join(f"[{paper.title}]({paper.link}) ([why to read it](#{paper.label}))" for paper in cited)
        lines.append(f"{'Paper' if len(cited) == 1 else 'Papers'}: {papers}.")
    if "code" in technique:
        lines.append(f"Official code: {', '.join(f'[{name}]({address})' for name, address in technique['code'].items())}.")
    if "differs" in technique:
        lines.append(f"Where ours differs: {technique['differs'].strip()}")
    return "\n".join([":::{container} facts", *(f"- {line}" for line in lines), ":::", ""]) if lines else ""


def _row(piece: Row, formula: str, link) -> str:
    """A piece as Markdown: a heading if something public begins here, then prose and code side by side."""
    public = piece.name and "." not in piece.name and not piece.name.startswith("_")
    heading = f"## {piece.name}\n\n" if public else ""
    math = f"$$ {formula.strip()} $$\n\n" if formula else ""
    method = piece.name.rpartition(".")[2] if "." in piece.name else ""
    prose = (f"**`{method}`** " if method and piece.prose else "") + math + link(piece.prose)
    code = f"::::{{container}} code\n```python\n{piece.code}\n```\n::::\n" if piece.code else ""
    said = f"::::{{container}} prose\n{prose}\n::::\n" if prose else ""
    return f"{heading}:::::{{container}} annotated\n{said}{code}:::::\n"


def _listing(root: Path, known: dict[str, dict], course: Course) -> str:
    """The modules by room: techniques first, with the unit that builds each, then what they run on."""
    lines = []
    for title, names in modules(root).items():
        lines += [f"## {title}", ""]
        ordered = [name for name in known if name in names]
        for name in ordered:
            page, unit = module_page(name), course.get(known[name].get("unit", ""))
            built = f"; built in [{unit.title}]({unit_page(unit.name)})" if unit else ""
            lines.append(f"- [{name.removeprefix('sparsity_edu.')}]({page}): {_summary(root, name)}{built}")
        if others := [name for name in names if name not in known]:
            links = ", ".join(f"[{name.rpartition('.')[2]}]({module_page(name)})" for name in others)
            lines += ["", f"What they run on, and what measures them: {links}."]
        lines.append("")
    everything = "\n".join(module_page(name) for names in modules(root).values() for name in names)
    return "\n".join(lines) + f"\n```{{toctree}}\n:hidden:\n\n{everything}\n```\n"


def _summary(root: Path, module: str) -> str:
    source = (root / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8")
    return rows(source)[0].partition("\n")[0].rstrip(".")
