"""The feedback page: exercises by title, hints that unfold, formulas and figures in it, and nothing that runs or loads."""

import base64
import json
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from autograder.exercises import UNITS
from autograder.judge.page import FeedbackPage, formula
from autograder.lessons.layout import notebook_path
from autograder.lessons.source import _unfolding
from tests.courses import ROOT

MATH = re.compile(r"\$\$(.+?)\$\$|(?<![$\\])\$([^$]+?)\$", re.DOTALL)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script><rect width="9" height="9"/></svg>'


def made(tmp_path, cells, exercises=(), **about):
    """The page of a notebook with some cells."""
    told = {"assignment": "02_magnitude", "student": "a<b", "score": 3, "max_score": 4, "late_penalty": 0} | about
    resources = {"nbgrader": told, "exercises": list(exercises), "metadata": {"path": str(tmp_path)}, "inlining": {"css": []}}
    return FeedbackPage().from_notebook_node(new_notebook(cells=cells), resources)[0]


@pytest.mark.parametrize("unit", UNITS)
def test_every_formula_of_the_lessons_can_be_shown(unit):
    cells = json.loads(notebook_path(ROOT / "notebooks", unit).read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = [one or other for one, other in MATH.findall(re.sub(r"`[^`]*`", "", text))]
    assert [latex for latex in found if not formula(latex).startswith("<math")] == []


def test_what_is_no_formula_is_text():
    assert formula(r"\frac{<b>}{") == r"<code>\frac{&lt;b&gt;}{</code>"
    assert formula(r"\nosuchthing x").startswith("<code>")


def test_formulas_need_no_network(tmp_path):
    page = made(tmp_path, [new_markdown_cell("So $x_1$ is\n\n$$\\sum_i x_i$$\n\nand \\begin{align} a &= b \\end{align}")])
    assert page.count("<math") == 3
    assert 'display="block"' in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|MathJax", page)
    assert "default-src 'none'; img-src data:" in page


def test_a_hint_is_folded(tmp_path):
    cell = new_markdown_cell(_unfolding(("An *idea*.", "A step.", "Code.")) + "\n\nAfter.")
    page = made(tmp_path, [cell])
    flat = re.sub(r"\s+", "", re.sub(r"</?p>", "", page))
    steps = ("Hint</summary>An<em>idea</em>.", "Nexthint:thekeystep</summary>Astep.", "Lasthint:nearlythecode</summary>Code.")
    inner = "".join(f"<details><summary>{step}" for step in steps) + 3 * "</details>" + "After."
    assert inner in flat


@pytest.mark.parametrize("markdown", ["![a figure](fig.svg)", '<img alt="a figure" src="fig.svg">'])
def test_a_figure_is_an_image_within_the_page(tmp_path, markdown):
    (tmp_path / "fig.svg").write_text(SVG)
    page = made(tmp_path, [new_markdown_cell(markdown)])
    assert f'src="data:image/svg+xml;base64,{base64.b64encode(SVG.encode()).decode()}"' in page
    assert "<svg" not in page  # in the page itself its script would run
    assert "<script" not in page


def test_no_file_beside_the_lesson_is_read(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "unit").mkdir()
    page = made(tmp_path / "unit", [new_markdown_cell("![](../secret.txt) ![](/etc/passwd)")])
    assert "data:" not in page.replace("img-src data:", "")


def test_outputs_of_a_student_are_text_and_pictures(tmp_path):
    shown = {"text/html": "<script>alert(1)</script>", "text/plain": "<i>plain</i>"}
    outputs = [
        nbformat.v4.new_output("display_data", data=shown),
        nbformat.v4.new_output("display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "Figure"}),
        nbformat.v4.new_output("stream", text="<b>printed</b>"),
        nbformat.v4.new_output("error", ename="E", evalue="v", traceback=["\x1b[31m<u>E</u>"]),
    ]
    page = made(tmp_path, [new_code_cell("x = '<script>'", outputs=outputs)])
    for text in ("&lt;i&gt;plain", "&lt;b&gt;printed", "&lt;u&gt;E", 'src="data:image/png;base64,iVBORw0KGgo="', "a&lt;b"):
        assert text in page, text
    assert "<script" not in page
    assert "\x1b" not in page


def test_exercises_stand_by_their_titles(tmp_path):
    one = {"anchor": "a-check", "title": "2.1 Measure", "points": 1.5, "most": 2.0, "by_hand": True}
    other = {"anchor": "b-check", "title": "2.2 Prune", "points": 0, "most": 0, "by_hand": False}
    verdict = nbformat.v4.new_output("display_data", data={"text/html": "<div>3 of 4</div>"})
    about = {"nbgrader": {"grade": True, "grade_id": "a-check", "score": 1.5, "points": 2}, "exercise": one}
    page = made(tmp_path, [new_code_cell("check()", metadata=about, outputs=[verdict])], [one, other], late_penalty=0.5)
    assert re.search(r'<a href="#a-check">2.1 Measure</a></td>\s*<td class="points">1.5 / 2.0', page)
    assert "does not count" in page
    assert "<div>3 of 4</div>" in page
    assert "were given by a person" in page
    assert "handed in late" in page
    assert "check()" not in page
