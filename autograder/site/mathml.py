"""A Sphinx extension: formulas become MathML, which browsers draw by themselves, without a script and without a network."""

import html

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

_KNOWN_AS = {r"\lVert": r"\|", r"\rVert": r"\|", r"\arg": r"\operatorname{arg}"}  # what the converter does not know or space


def formula(tex: str, display: bool = False) -> str:
    """A formula as MathML.

    Args:
        tex: LaTeX, without dollar signs.
        display: whether it has a line of its own.

    Returns:
        A `<math>` element, with the LaTeX as what is read out where MathML is not known.
    """
    simple = tex
    for command, known in _KNOWN_AS.items():
        simple = simple.replace(command, known)
    made = convert(simple, display="block" if display else "inline")
    return made.replace("<math ", f'<math alttext="{html.escape(" ".join(tex.split()))}" ', 1)


def _inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(formula(node.astext()))
    raise nodes.SkipNode


def _display(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{formula(node.astext(), display=True)}</div>')  # site.css lets wide ones scroll
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict:
    """What Sphinx calls."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
