"""The papers that the course names (docs/papers.toml): their page, and how text that cites one comes to link it."""

import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from autograder.exercises import UNITS
from autograder.site.course_map import Course
from autograder.site.glossary import APART
from autograder.site.links import unit_page


@dataclass(frozen=True)
class Paper:
    """A paper, and what to read it for."""

    key: str
    names: tuple[str, ...]  # as it is cited: "Sun et al."
    year: int
    title: str
    link: str
    read: str  # one sentence
    units: tuple[str, ...]  # that it belongs to: there may be two of the same names and year

    @property
    def label(self) -> str:
        """The target of links to it."""
        return f"paper-{self.key}"


class Papers(list[Paper]):
    """All papers, in order."""

    def linker(self, units: Iterable[str]) -> Callable[[str], str]:
        """What turns each citation in a piece of Markdown into a link.

        Args:
            units: that the text is about, to tell papers of the same names and year apart.

        Returns:
            A function of the text.
        """
        units = set(units)
        pattern = re.compile(rf"(?P<apart>{APART})|(?P<cited>{self._pattern()})", re.DOTALL | re.MULTILINE)

        def place(match: re.Match) -> str:
            paper = None if match["apart"] else self.meant(match["cited"], units)
            return f"[{match[0]}](#{paper.label})" if paper else match[0]

        return lambda text: pattern.sub(place, text)

    def cited(self, text: str, units: Iterable[str]) -> list[Paper]:
        """The papers that a text cites, in the order of the list."""
        units = set(units)
        found = [self.meant(match[0], units) for match in re.finditer(self._pattern(), text)]
        return [paper for paper in self if paper in found]

    def meant(self, citation: str, units: set[str]) -> Paper | None:
        """The paper that "Sun et al. 2024" means in a text about some units, or None if there are none or several."""
        found = [paper for paper in self if str(paper.year) in citation and citation.startswith(paper.names)]
        if len(found) > 1:
            found = [paper for paper in found if units & set(paper.units)]
        return found[0] if len(found) == 1 else None

    def _pattern(self) -> str:
        names = "|".join(re.escape(name) for paper in self for name in paper.names)
        return rf"(?<!\w)(?:{names}),? \(?(?:1[89]|20)\d\d\)?"


def read_papers(root: Path) -> Papers:
    """The papers of docs/papers.toml."""
    listed = tomllib.loads((root / "docs" / "papers.toml").read_text(encoding="utf-8"))["paper"]
    return Papers(
        Paper(entry["key"], tuple(entry["names"]), entry["year"], entry["title"], entry["link"], entry["read"], _units(entry))
        for entry in listed
    )


def _units(entry: dict) -> tuple[str, ...]:
    return tuple(unit for unit in UNITS if int(unit.split("_")[0]) in entry["units"])


def papers_markdown(papers: Papers, course: Course) -> str:
    """The list of papers, unit by unit: each where it is needed first.

    Args:
        papers: all of them.
        course: the units.

    Returns:
        Markdown for a page in the uppermost folder.
    """
    lines = []
    for name, unit in course.items():
        firsts = [paper for paper in papers if paper.units[:1] == (name,)]
        if firsts:
            lines += [f"## {unit.title}", "", f"For [the unit]({unit_page(name)}):", ""]
        for paper in firsts:
            also = [f"[{other.split('_')[0]}]({unit_page(other)})" for other in paper.units[1:]]
            also_for = f" Also for {', '.join(also)}." if also else ""
            lines += [f"({paper.label})=", f"**[{paper.title}]({paper.link})**", ""]
            lines += [f"{paper.names[0]} {paper.year}. {paper.read}{also_for}", ""]
    return "\n".join(lines)
