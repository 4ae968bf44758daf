"""Figures of concepts: drawn alike twice, beside both notebooks, and said to be stale when their code changes."""

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from autograder.exercises import UNITS
from autograder.lessons.figures import figures, stale_figures, write_figures
from autograder.lessons.layout import course_root, notebook_path

ROOT = course_root(Path(__file__).parent)
DRAWING = """
from sparsity_edu.diagrams import arrow, box, canvas, label, matrix, span

def concept():
    figure, ax = canvas(12, 5)
    matrix(ax, 1, 1, [["#0072B2", "white"]], [["3", "0"]])
    arrow(ax, (3.5, 1.5), (5, 1.5), "packs")
    box(ax, 5, 1, 4, 1, "$W$")
    span(ax, 1, 2.5, 2, "a pair")
    label(ax, 1, 4, "TEXT")
    return figure

FIGURES = (concept,)
"""


@pytest.fixture
def course(tmp_path):
    for folder in ("course", "solutions", "notebooks"):
        (tmp_path / folder / "01_some").mkdir(parents=True)
    (tmp_path / "course/01_some/figures.py").write_text(DRAWING)
    return tmp_path


def test_figures_are_svg_and_the_same_when_drawn_again(course):
    drawn = figures(course, "01_some")
    assert list(drawn) == ["concept.svg"]
    assert ElementTree.fromstring(drawn["concept.svg"]).tag.endswith("svg")
    assert figures(course, "01_some") == drawn


def test_they_lie_beside_both_notebooks_until_their_code_changes(course):
    assert len(write_figures(course, "01_some")) == 2
    assert write_figures(course, "01_some") == [] == stale_figures(course, "01_some")
    code = course / "course/01_some/figures.py"
    code.write_text(code.read_text().replace("TEXT", "another"))
    assert [path.parts[-3] for path in stale_figures(course, "01_some")] == ["solutions", "notebooks"]


def test_a_unit_without_drawings_has_no_figures(course):
    shutil.rmtree(course / "course/01_some")
    assert write_figures(course, "01_some") == []


@pytest.mark.parametrize("unit", UNITS)
def test_lessons_show_the_figures_that_are_drawn_each_with_a_text_for_those_who_cannot_see_it(unit):
    text = notebook_path(ROOT / "notebooks", unit).read_text(encoding="utf-8")
    shown = {name: alt for alt, name in re.findall(r"!\[([^\]]*)\]\((\w+\.svg)\)", text)}
    assert set(shown) == set(figures(ROOT, unit))
    assert all(len(alt.split()) > 5 for alt in shown.values())
