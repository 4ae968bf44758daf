"""The built site: every page has a heading, every link a target, every figure words, and none a solution."""

import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from autograder.exercises import UNITS, all_exercises, exercises_of, number_of
from autograder.lessons.layout import course_root
from autograder.site.units import solution_lines

ROOT = course_root(Path(__file__).parent)
OURS = ("index.html", "path.html", "lectures.html", "library.html", "results.html", "papers.html", "glossary.html")


class Page(HTMLParser):
    """What the tests look at in a page: its text, headings, links, pictures, targets, and what it loads."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.headings, self.links, self.pictures, self.ids, self.loads = [], [], [], [], set(), []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "id" in found:
            self.ids.add(found["id"])
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "img":
            self.pictures.append(found)
        if tag in ("script", "img") and found.get("src"):
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") == "stylesheet":
            self.loads.append(found["href"])

    def handle_data(self, data):
        self.text.append(data)


@cache
def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def unit_file(site: Path, unit: str) -> Path:
    return site / "units" / unit / f"{unit.split('_', 1)[1]}.html"


def anchor(exercise: str) -> str:
    return "exercise-" + exercise.replace(".", "-").replace("_", "-")


@pytest.fixture(scope="session")
def pages(site):
    """All pages by path."""
    return {path: page(path) for path in site.rglob("*.html") if "_static" not in path.parts}


def test_sphinx_has_nothing_to_say(built):
    assert built[1] == []


def test_every_unit_has_a_page_and_a_place_on_the_map(site):
    for unit in UNITS:
        assert unit_file(site, unit).is_file()
        assert f"units/{unit}/{unit.split('_', 1)[1]}.html" in page(site / "path.html").links
    assert {path for path in OURS if not (site / path).is_file()} == set()


def test_the_first_exercise_is_one_click_from_home(site):
    assert "units/01_patterns/patterns.html" in page(site / "index.html").links


def test_every_exercise_shows_its_statement_and_three_hints_folded(site):
    for unit in UNITS:
        source = unit_file(site, unit).read_text(encoding="utf-8")
        for exercise in exercises_of(unit):
            assert f"Exercise {number_of(exercise.id)}" in source
            assert exercise.defines in source
            assert anchor(exercise.id) in page(unit_file(site, unit)).ids
        hints = 3 * len(exercises_of(unit))
        assert len(re.findall("<summary>(?:Hint|Next hint|Last hint)", source)) == hints


def test_no_solution_on_the_public_site(site):
    """On units' pages and all others but the library's: that holds the reference, which is public with the repository.

    Lines that learners get in their notebooks, such as those of a hint, are no secret; see `solution_lines`.
    """
    library = site / "library"
    texts = {
        path: "".join("".join(page(path).text).split())
        for path in site.rglob("*.html")
        if library not in path.parents and "_static" not in path.parts
    }
    for unit in UNITS:
        lines = solution_lines(ROOT, unit)
        assert lines, unit
        for path, text in texts.items():
            assert [line for line in lines if line in text] == [], path


def test_no_solution_in_what_is_searched(site):
    """The index holds words, not lines. One of solutions that is nowhere on a unit's page does not lead to it."""
    index = json.loads(re.search(r"\{.*\}", (site / "searchindex.js").read_text(encoding="utf-8"), re.DOTALL)[0])
    for unit in UNITS:
        number = index["docnames"].index(f"units/{unit}/{unit.split('_', 1)[1]}")
        words = {word for line in solution_lines(ROOT, unit) for word in re.findall(r"[a-z_]{6,}", line.lower())}
        shown = " ".join(page(unit_file(site, unit)).text).lower()
        for word in (word for word in words if word not in shown):
            found = index["terms"].get(word, [])
            assert number not in ([found] if isinstance(found, int) else found), (unit, word)


def test_no_link_leads_nowhere(pages, site):
    dead = []
    for path, content in pages.items():
        for link in content.links:
            if re.match(r"[a-z]+:", link) or link in ("#", ""):
                continue
            target, _, anchor = unquote(link).partition("#")
            file = (path.parent / target).resolve() if target else path
            if not file.is_file() or (anchor and file.suffix == ".html" and anchor not in page(file).ids):
                dead.append((str(path.relative_to(site)), link))
    assert dead == []


def test_nothing_is_loaded_from_elsewhere(pages):
    assert {source for content in pages.values() for source in content.loads if re.match(r"(https?:)?//", source)} == set()


def test_every_figure_is_there_in_words_too(pages, site):
    without = [
        (str(path.relative_to(site)), picture.get("src"))
        for path, content in pages.items()
        for picture in content.pictures
        if len(picture.get("alt", "")) < 12 or picture["alt"].endswith(".png")
    ]
    assert without == []


def test_headings_go_down_one_step_at_a_time(pages, site):
    for path, content in pages.items():
        if path.name == "search.html":
            continue
        steps = [b - a for a, b in zip(content.headings, content.headings[1:], strict=False)]
        assert content.headings.count(1) == 1, path.relative_to(site)
        assert max(steps, default=0) <= 1, path.relative_to(site)


def test_formulas_are_mathml_and_whole(pages):
    for path, content in pages.items():
        source = path.read_text(encoding="utf-8")
        left = re.findall(r"<m[io][^>]*>\\\w+</m[io]>", source)  # a command that was not understood
        assert left == [], path
        assert "$$" not in "".join(content.text), path


def test_every_exercise_in_the_syllabus_is_a_link(site):
    links = {link.partition("#")[2] for link in page(site / "lectures.html").links}
    assert {anchor(exercise.id) for exercise in all_exercises()} <= links


def test_terms_and_citations_are_links(site):
    unit = unit_file(site, "05_wanda").read_text(encoding="utf-8")
    assert unit.count('href="../../glossary.html#term-sparsity"') == 1
    module = (site / "library" / "weights.wanda.html").read_text(encoding="utf-8")
    assert 'href="../papers.html#paper-sun-2024"' in module
