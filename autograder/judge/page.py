"""The feedback page of a submission: nbgrader's, with exercises by their titles, and whole without a network.

Formulas become MathML when the page is made, pictures and figures lie in it as data, and its policy lets it load nothing:
an SVG figure is shown as an image, which runs no scripts either.
"""

import re
from html import escape
from pathlib import Path

from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import GetGrades
from traitlets.config import Config

from autograder.exercises import find, number_of
from autograder.judge.course import Course

_SOURCE = re.compile(r"""(<img\b[^>]*?\bsrc=["'])([^"']+)""", re.IGNORECASE)
_OTHERWISE = {r"\lVert": "‖", r"\rVert": "‖", r"\arg": r"\operatorname{arg}"}  # what latex2mathml does not know everywhere


class PageGrades(GetGrades):
    """Grades and comments from the gradebook, as the page shows them."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """nbgrader calls this with the autograded notebook."""
        course, names = Course(CourseDirectory(parent=self)), resources["nbgrader"]
        nb, resources = super().preprocess(nb, resources)
        resources["metadata"]["path"] = str(course.source / names["assignment"])  # the lesson's own figures, nobody else's
        resources["exercises"] = [cell.metadata.exercise for cell in nb.cells if "exercise" in cell.metadata]
        return nb, resources

    def preprocess_cell(self, cell: NotebookNode, resources: dict, cell_index: int) -> tuple[NotebookNode, dict]:
        """What a check cell is about; the number that nbgrader has read is taken out."""
        cell, resources = super().preprocess_cell(cell, resources, cell_index)
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("grade"):
            cell.outputs = [output for output in cell.outputs if output.output_type != "execute_result"]
            id = next((o.metadata.verdict.id for o in cell.outputs if "verdict" in o.get("metadata", {})), None)
            if id:
                about = cell.metadata.nbgrader
                judged = next(o.metadata.verdict.points for o in cell.outputs if "verdict" in o.metadata)
                cell.metadata.exercise = {
                    "anchor": about.grade_id,
                    "title": f"{number_of(id)} {find(id).title}",
                    "points": about.score,
                    "most": about.points,
                    "by_hand": abs(about.score - judged) > 0.005,
                }
        return cell, resources


class FeedbackPage(HTMLExporter):
    """Makes the page; `c.GenerateFeedback.exporter_class` names it."""

    @property
    def default_config(self) -> Config:
        """Where the template is."""
        folder = str(Path(__file__).parent / "templates")
        own = Config({"FeedbackPage": {"template_name": "feedback_page", "extra_template_basedirs": [folder]}})
        config = super().default_config.copy()
        config.merge(own)
        return config

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        """Markdown as HTML, formulas as MathML, images as data."""
        path = context.get("resources", {}).get("metadata", {}).get("path", "")
        renderer = _Renderer(escape=False, embed_images=True, path=path, exclude_anchor_links=True)
        return MarkdownWithMath(renderer=renderer).render(source)


class _Renderer(IPythonRenderer):
    def _html_embed_images(self, html: str) -> str:
        """The images of a piece of HTML, which may open what a later one closes: nbconvert's parser would close it at once."""
        return _SOURCE.sub(lambda image: image[1] + (self._src_to_base64(image[2]) or image[2]), html)

    def inline_math(self, body: str) -> str:
        """A formula in a line."""
        return formula(body)

    def block_math(self, body: str) -> str:
        """A formula of its own."""
        return formula(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        """A formula of several lines."""
        return formula(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


def formula(latex: str, display: str = "inline") -> str:
    """A formula as MathML, which browsers show by themselves.

    Args:
        latex: the formula, without its dollar signs.
        display: "inline" or "block".

    Returns:
        `<math>`; of what cannot be converted, the text.
    """
    try:
        made = convert(re.sub(r"\\[lr]Vert\b|\\arg\b", lambda name: _OTHERWISE[name[0]], latex), display=display)
        return made if "\\" not in made else f"<code>{escape(latex)}</code>"
    except Exception:  # of many kinds; a page with a formula that is hard to read is better than none
        return f"<code>{escape(latex)}</code>"
