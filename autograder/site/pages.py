"""The folder of pages that Sphinx reads: docs/, and in its folder made/ what the course and the packages say themselves."""

import importlib.util
import re
import shutil
from pathlib import Path

from autograder.exercises import all_exercises
from autograder.lessons.beyond import techniques
from autograder.site.course_map import Course, listing, read_course
from autograder.site.glossary import Glossary
from autograder.site.library import write_library
from autograder.site.links import label, rewrite, unit_page
from autograder.site.papers import Papers, papers_markdown, read_papers
from autograder.site.picture import picture
from autograder.site.results import results_markdown
from autograder.site.units import write_unit

TOP = {  # what the bar at the top says, by page
    "path.md": "Path",
    "lectures.md": "Lectures",
    "library.md": "Library",
    "results.md": "Results",
    "papers.md": "Papers",
    "glossary.md": "Glossary",
    "instructors.md": "Instructors",
    "contributing.md": "Contribute",
}
INSTRUCTORS = "Begin with [the guide](instructors.md)."
_UNIT = re.compile(r"\d\d_\w+")


def write_pages(root: Path, pages: Path, solutions: bool = False) -> None:
    """Write everything that the site is made from.

    Args:
        root: the course folder.
        pages: a folder that is not there yet.
        solutions: whether units show solutions and what is said of them.
    """
    shutil.copytree(root / "docs", pages)
    shutil.copytree(root / "course" / "images", pages / "images")
    for page in pages.glob("*.md"):
        page.write_text(rewrite(page.read_text(encoding="utf-8"), root, "docs", page.name), encoding="utf-8")
    shutil.copy(math_font(), pages / "_static" / "math.ttf")
    papers, course = read_papers(root), read_course(root, techniques(root))
    glossary = Glossary(root / "docs" / "glossary.md")
    made = pages / "made"
    made.mkdir()
    write_library(root, pages, course, papers)
    for unit in course.values():
        write_unit(root, pages, course, unit, glossary, papers, solutions)
    pieces = {
        "map.md": listing(course, "path.md"),
        "units.md": _contents(unit_page(name) for name in course),
        "contents.md": _contents(f"{title} <{page}>" for page, title in TOP.items() if (pages / page).is_file()),
        "instructor.md": INSTRUCTORS if (pages / "instructors.md").is_file() else "",
        "picture.md": f"```{{raw}} html\n{picture(course)}\n```",
        "papers.md": papers_markdown(papers, course),
        "results.md": results_markdown(root),
        "lectures.md": lectures_markdown(root, course, papers),
    }
    for name, text in pieces.items():
        (made / name).write_text(text + "\n", encoding="utf-8")


def math_font() -> Path:
    """A font that browsers can set formulas in, for machines that have none: STIX Two Math (SIL Open Font License)."""
    [package] = importlib.util.find_spec("ziamath").submodule_search_locations
    return Path(package) / "fonts" / "STIXTwoMath-Regular.ttf"


def lectures_markdown(root: Path, course: Course, papers: Papers) -> str:
    """The syllabus without its title: units, exercises and papers are links.

    Args:
        root: the course folder.
        course: the units.
        papers: the papers.

    Returns:
        Markdown for a page in the uppermost folder.
    """
    text = (root / "course" / "syllabus.md").read_text(encoding="utf-8").partition("\n")[2]
    known = {exercise.id for exercise in all_exercises()}
    lines = []
    for line in rewrite(text, root, "course", "lectures.md").splitlines():
        line = papers.linker(set(_UNIT.findall(line)) & set(course))(line)
        lines.append(re.sub(r"`([\w.]+)`", lambda id: f"[{id[1]}](#{label(id[1])})" if id[1] in known else id[0], line))
    return "\n".join(lines)


def _contents(pages) -> str:
    return "```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```"
