"""Figures of unit 15."""

from sparsity_edu.diagrams import EMPTY, canvas, label, matrix
from sparsity_edu.plots import BLUE, GREEN, ORANGE, PURPLE

GROUPS = ((0, 5, 0, -6), (7, 8, 0, 0), (0, 0, 0, 9), (0, 0, 1, 0))
PLACES = ((1, 3), (0, 1), (2, 3), (2, 3))
COLORS = (BLUE, ORANGE, GREEN, PURPLE)


def packed():
    """Sixteen columns of a row as values and a word."""
    figure, ax = canvas(29, 13.6)
    for y, name in (
        (1.5, "row"),
        (3.9, "values"),
        (5.9, "places"),
        (7.9, "in bits"),
        (11.5, "word"),
    ):
        label(ax, 0.4, y, name, bold=True)
    for g, (group, (low, high), color) in enumerate(zip(GROUPS, PLACES, COLORS, strict=True)):
        x = 3.6 + 4.8 * g
        matrix(ax, x, 1, [[color if w else EMPTY for w in group]], [[str(w) for w in group]])
        for place in range(4):
            label(ax, x + place + 0.5, 2.5, str(place), align="center", size=8)
        matrix(
            ax,
            x + 1,
            3.4,
            [[color if group[p] else EMPTY for p in (low, high)]],
            [[str(group[p]) for p in (low, high)]],
        )
        matrix(ax, x + 1, 5.4, [[EMPTY] * 2], [[str(low), str(high)]])
        bits = f"{low | high << 2:04b}"
        matrix(ax, x, 7.4, [[color] * 4], [list(bits)])
        label(ax, x + 1, 8.9, f"{high}", align="center", size=8)
        label(ax, x + 3, 8.9, f"{low}", align="center", size=8)
        matrix(ax, 3.6 + 4 * (3 - g), 11, [[color] * 4], [list(bits)])
    label(ax, 3.6, 12.7, "highest bits: group 3")
    label(ax, 19.6, 12.7, "lowest bits: group 0", align="right")
    for y, bits in ((1.5, "256 bits"), (3.9, "128 bits"), (11.5, "16 bits")):
        label(ax, 23.6, y, bits)
    label(ax, 23.6, 12.7, "144 of 256: 0.5625")
    return figure


FIGURES = (packed,)
