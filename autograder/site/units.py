"""A unit's executed notebook -> its page: text, figures, outputs, what each exercise asks for; solutions in one build only."""

import re
import shutil
from functools import cache
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell, new_notebook

from autograder.checking.exercise import Exercise
from autograder.exercises import UNITS, exercises_of
from autograder.lessons.beyond import explanations
from autograder.lessons.elsewhere import badges
from autograder.lessons.layout import ELSEWHERE, EXPERIMENT, notebook_path
from autograder.site.alternatives import in_words
from autograder.site.course_map import Course, Unit, facts
from autograder.site.glossary import Glossary
from autograder.site.links import label, rewrite, unit_page
from autograder.site.papers import Papers

SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def write_unit(
    root: Path, pages: Path, course: Course, unit: Unit, glossary: Glossary, papers: Papers, solutions: bool = False
) -> None:
    """Write a unit's page, and the pictures that its text refers to.

    Args:
        root: the course folder.
        pages: the folder of pages.
        course: all units, for links between them.
        unit: the unit.
        glossary: whose terms are linked.
        papers: likewise.
        solutions: whether solutions and what is said of them are shown.
    """
    target = pages / unit_page(unit.name)
    target.parent.mkdir(parents=True)
    nbformat.write(make_page(root, course, unit, glossary, papers, solutions), target)
    for picture in (root / "solutions" / unit.name).glob("*.svg"):
        shutil.copy(picture, target.parent)


def make_page(
    root: Path, course: Course, unit: Unit, glossary: Glossary, papers: Papers, solutions: bool = False
) -> nbformat.NotebookNode:
    """A unit's page as a notebook; see `write_unit`."""
    lesson = nbformat.read(notebook_path(root / "solutions", unit.name), as_version=4)
    exercises = {exercise.id.replace(".", "-"): exercise for exercise in exercises_of(unit.name)}
    explained = explanations(root, unit.name) if solutions else {}
    page, terms, cite = unit_page(unit.name), glossary.linker(), papers.linker({unit.name})
    cells, heading = [], unit.title
    for cell in (cell for cell in lesson.cells if ELSEWHERE not in cell.metadata.get("tags", [])):
        marks = cell.metadata.get("nbgrader", {})
        exercise = exercises.get(marks.get("grade_id", "").removesuffix("-check"))
        if cell.cell_type == "markdown":
            heading = (HEADING.findall(cell.source) or [heading])[-1]
            cells.append(new_markdown_cell(terms(cite(rewrite(cell.source, root, f"solutions/{unit.name}", page)))))
        elif marks.get("grade"):
            cells.append(new_markdown_cell(what_is_checked(exercise)))
            cells += [new_markdown_cell(solved)] if (solved := _solved(exercise, explained, solutions, cells)) else []
        elif exercise:
            cells[-1].source = f"({label(exercise.id)})=\n{cells[-1].source}"  # the heading of the exercise: for links
            cells[-1].metadata["solution"] = cell.source
            cells.append(_code(cell, stub(cell.source)))
        else:
            cells.append(_code(cell, cell.source, heading, EXPERIMENT in cell.metadata.get("tags", [])))
    title, _, rest = cells[0].source.partition("\n")
    links = badges(root, unit.name)
    boxed = f":::{{container}} badges\n{links}\n:::\n" if links else ""
    cells[0].source = f"{title}\n\n{facts(unit, page)}\n{boxed}\n{rest}"
    for cell in cells:
        cell.metadata.pop("solution", None)
    return new_notebook(cells=cells, metadata=lesson.metadata)


def stub(code: str) -> str:
    """Code whose solutions are replaced by three dots."""
    return SOLUTION.sub(r"\1...", code)


def what_is_checked(exercise: Exercise) -> str:
    """The stages of an exercise's check, folded, as Markdown."""
    rows = "".join(f"| {stage.name.replace('|', chr(92) + '|')} | {stage.points:g} |\n" for stage in exercise.stages)
    return (
        f'<details><summary>What <code>check("{exercise.id}", {exercise.defines})</code> looks at</summary>\n\n'
        f"| stage | points |\n|---|---|\n{rows}\n</details>"
    )


def solution_lines(root: Path, unit: str) -> set[str]:
    """The lines of a unit's solutions that stand in no notebook that learners get.

    Args:
        root: the course folder.
        unit: the unit.

    Returns:
        Lines without blanks, of 20 characters or more: shorter ones, such as `raise ValueError(`, say nothing.
    """
    lesson = nbformat.read(notebook_path(root / "solutions", unit), as_version=4)
    solutions = (part[0] for cell in lesson.cells for part in SOLUTION.finditer(cell.source))
    lines = {"".join(line.split()) for solution in solutions for line in solution.splitlines()}
    return {line for line in lines if line[:1] != "#" and len(line) >= 20 and line not in _released(root)}


@cache
def _released(root: Path) -> str:
    paths = [notebook_path(root / "notebooks", unit) for unit in UNITS]
    notebooks = (nbformat.read(path, as_version=4) for path in paths if path.exists())
    text = "".join(cell.source for notebook in notebooks for cell in notebook.cells)
    return "".join(text.replace("`", "").split())  # as a page shows it


def _solved(exercise: Exercise, explained: dict[str, str], solutions: bool, cells: list) -> str:
    if not solutions:
        return ""
    code = next(cell.metadata["solution"] for cell in reversed(cells) if "solution" in cell.metadata)
    clean = "\n".join(line for line in code.splitlines() if not re.match(r" *### (BEGIN|END) SOLUTION", line))
    return (
        f"<details class='solution'><summary>Solution of {exercise.id}</summary>\n\n"
        f"```python\n{clean}\n```\n\n{explained.get(exercise.id, '')}\n\n</details>"
    )


def _code(cell: nbformat.NotebookNode, code: str, heading: str = "", folded: bool = False) -> nbformat.NotebookNode:
    """A cell as it is shown: experiments' code is folded, their figures have an alternative in words."""
    cell.source = code
    cell.outputs = [] if not heading else [output for output in cell.outputs if _is_shown(output)]
    cell.metadata = {"tags": ["hide-input"] if folded else [], "mystnb": {"image": {"alt": in_words(code, heading)}}}
    return nbformat.from_dict(cell)


def _is_shown(output: nbformat.NotebookNode) -> bool:
    return output.get("name") != "stderr" and "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
