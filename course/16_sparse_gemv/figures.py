"""Figures of unit 16."""

from sparsity_edu.diagrams import EMPTY, PALE, arrow, box, canvas, label, matrix
from sparsity_edu.plots import BLUE, GREEN, ORANGE, SKY

INPUTS, OUTPUTS, SECTOR = 12, 4, 4
COUNT = (0, 3, 9)  # the inputs that count


def layouts():
    """Which weights are read for a few inputs, by the order in which they lie in memory."""
    figure, ax = canvas(29, 15.8)
    x = [ORANGE if k in COUNT else EMPTY for k in range(INPUTS)]
    label(ax, 0.5, 0.9, "Output-major: a row for each output", bold=True)
    for s in range(0, INPUTS, SECTOR):
        at, sector = 1.4 + s + 0.5 * (s // SECTOR), range(s, s + SECTOR)
        matrix(ax, at, 2, [x[s : s + SECTOR]])
        read = any(k in COUNT for k in sector)
        colors = [BLUE if k in COUNT else SKY if read else EMPTY for k in sector]
        matrix(ax, at, 3.6, [colors] * OUTPUTS)
        label(ax, at + 2, 8.3, "read" if read else "skipped", align="center")
    label(ax, 0.9, 2.5, "$x$", align="right")
    label(ax, 1.4, 9.6, "A sector is 4 neighbours in a row of memory.")
    for y, color, text in (
        (11, ORANGE, "inputs that count"),
        (12.3, BLUE, "weights that are needed"),
        (13.6, SKY, "weights that are read in vain"),
    ):
        matrix(ax, 1.4, y, [[color]])
        label(ax, 2.8, y + 0.5, text)

    label(ax, 17, 0.9, "Input-major: a row for each input", bold=True)
    matrix(ax, 18.4, 2, [[color] for color in x])
    label(ax, 18, 2.5, "$x$", align="right")
    rows = [[BLUE if k in COUNT else EMPTY] * OUTPUTS for k in range(INPUTS)]
    matrix(ax, 20, 2, rows)
    for k in range(INPUTS):
        label(ax, 24.4, 2.5 + k, "read" if k in COUNT else "skipped")
    return figure


def parts():
    """How programs share a product, and what they leave to each other."""
    figure, ax = canvas(29, 13)
    label(ax, 2.4, 0.9, "$W$: parts of the rows, blocks of the outputs", bold=True)
    colors = (BLUE, GREEN, ORANGE)
    for s, color in enumerate(colors):
        label(ax, 0.4, 3 + 3 * s, f"part {s}")
        for b in range(2):
            box(ax, 3 + 4.2 * b, 1.8 + 3 * s, 4, 2.6, f"program ({b}, {s})", color, rounded=False)
            matrix(ax, 15 + 4.2 * b, 2.6 + 3 * s, [[color] * 4])
        arrow(ax, (11.5, 3.1 + 3 * s), (14.6, 3.1 + 3 * s))
    label(ax, 5, 11.3, "block 0", align="center")
    label(ax, 9.2, 11.3, "block 1", align="center")
    label(ax, 15, 0.9, "partial sums, float32", bold=True)
    for b in range(2):
        matrix(ax, 15 + 4.2 * b, 11.2, [[PALE] * 4])
        arrow(ax, (17 + 4.2 * b, 9.8), (17 + 4.2 * b, 11))
    label(ax, 23.8, 10.4, "a second kernel\nadds each column")
    label(ax, 23.8, 11.9, "$y$, rounded once")
    return figure


FIGURES = (layouts, parts)
