"""Drawings of a concept, on a sheet of square cells: matrices, boxes, arrows and labels. Lessons' figures are made of these.

    figure, ax = canvas(12, 5)
    matrix(ax, 1, 1, [[BLUE, PALE, BLUE]], [["3", "", "1"]])
    arrow(ax, (4.5, 1.5), (6, 1.5))
    box(ax, 6, 1, 4, 1, "packed")

x runs to the right and y down, as columns and rows of a matrix do. A sheet is white, so that it can be read on a dark page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsity_edu.plots import BLUE, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PALE, EMPTY = (
    "#222222",
    "#D6E6F2",
    "white",
)  # of text and lines; of what is there and does not matter; of what is not there
SIZE = 9.5  # of letters, in points


def canvas(width: float, height: float, cell: float = 0.3) -> tuple[Figure, Axes]:
    """An empty sheet.

    Args:
        width: in cells.
        height: in cells.
        cell: the side of a cell in inches.

    Returns:
        The figure, and its only axes with (0, 0) at the top left.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * cell, height * cell), facecolor="white", layout="none")  # whatever style lessons set
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    return figure, ax


def matrix(
    ax: Axes,
    x: float,
    y: float,
    colors: Sequence[Sequence[str]],
    texts: Sequence[Sequence[str]] | None = None,
    side: float = 1,
    size: float = SIZE,
) -> None:
    """Cells side by side.

    Args:
        ax: the sheet.
        x: left edge.
        y: upper edge.
        colors: of each cell, row by row.
        texts: what each cell says, in the same order.
        side: of a cell.
        size: of letters, in points.
    """
    for i, row in enumerate(colors):
        for j, color in enumerate(row):
            box(ax, x + j * side, y + i * side, side, side, texts[i][j] if texts else "", color, rounded=False, size=size)


def box(
    ax: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str = "",
    color: str = PALE,
    edge: str = GREY,
    rounded: bool = True,
    size: float = SIZE,
) -> None:
    """A box with a text in its middle, white where the box is dark.

    Args:
        ax: the sheet.
        x: left edge.
        y: upper edge.
        width: in cells.
        height: in cells.
        text: what it says; $...$ is set as a formula.
        color: of its face.
        edge: of its outline.
        rounded: whether its corners are.
        size: of letters, in points.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.2" if rounded else "square,pad=0"
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=color, edgecolor=edge, linewidth=0.8))
    luminance = sum(share * part for share, part in zip((0.3, 0.59, 0.11), to_rgb(color), strict=True))
    ink = "white" if luminance < 0.5 else INK
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=ink, linespacing=1.25)


def arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "", color: str = INK, bend: float = 0
) -> None:
    """An arrow, with a text above its middle.

    Args:
        ax: the sheet.
        start: (x, y).
        end: (x, y) of its tip.
        text: may be empty.
        color: of arrow and text.
        bend: how far it bows, as a share of its length.
    """
    style = {"arrowstyle": "-|>", "color": color, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style | {"connectionstyle": f"arc3,rad={bend}"})
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 - 0.2
    ax.text(*middle, text, ha="center", va="bottom", fontsize=SIZE, color=color)


def label(
    ax: Axes, x: float, y: float, text: str, color: str = INK, align: str = "left", size: float = SIZE, bold: bool = False
) -> None:
    """A text whose vertical middle is at y.

    Args:
        ax: the sheet.
        x: where it begins, ends or has its middle.
        y: where its middle is.
        text: what it says; $...$ is set as a formula.
        color: of its letters.
        align: left, center or right.
        size: of letters, in points.
        bold: for a heading.
    """
    weight = "bold" if bold else "normal"
    ax.text(x, y, text, ha=align, va="center", fontsize=size, color=color, weight=weight, linespacing=1.3)


def span(ax: Axes, x: float, y: float, width: float, text: str, color: str = BLUE, below: bool = True) -> None:
    """A bracket over or under so many cells, with a text.

    Args:
        ax: the sheet.
        x: left end.
        y: of its line.
        width: in cells.
        text: in its middle.
        color: of line and text.
        below: the bracket opens upwards, with its text below; else the other way round.
    """
    side = -1 if below else 1  # the direction in which its ends point
    ax.plot([x, x, x + width, x + width], [y + 0.25 * side, y, y, y + 0.25 * side], color=color, linewidth=1.2)
    ax.text(
        x + width / 2,
        y - 0.2 * side,
        text,
        ha="center",
        va="top" if below else "bottom",
        fontsize=SIZE,
        color=color,
        linespacing=1.3,
    )
