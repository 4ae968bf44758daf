"""How units begin and end: a title, what they build on, one look for all plots; a link to the next unit."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from autograder.exercises import UNITS
from autograder.lessons.layout import course_root, notebook_path
from autograder.lessons.opening import opening
from autograder.lessons.source import render

ROOT = course_root(Path(__file__).parent)


@pytest.mark.parametrize("unit", UNITS)
def test_a_title_begins_with_the_units_number(unit):
    assert re.match(rf"{unit[:2]} · \w", opening(notebook_path(ROOT / "notebooks", unit), unit).title)


@pytest.mark.parametrize(("unit", "following"), pairwise(UNITS))
def test_the_last_cell_links_the_next_unit(unit, following):
    last = render(ROOT, unit).cells[-1].source
    [link] = re.findall(r"^Next: \[.+?\]\((.+?)\)", last, re.MULTILINE)
    assert link == f"../{following}/{following.split('_', 1)[1]}.ipynb"


@pytest.mark.parametrize("unit", UNITS)
def test_plots_have_their_look_before_anything_is_drawn(unit):
    """It is what makes them readable in a dark theme, too."""
    code = [cell.source for cell in render(ROOT, unit).cells if cell.cell_type == "code"]
    [first] = [i for i, source in enumerate(code) if re.search(r"^plots\.style\(\)$", source, re.MULTILINE)]
    assert not any(re.search(r"plt\.(figure|subplots|plot)\(", source) for source in code[:first])
