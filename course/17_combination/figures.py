"""Figures of unit 17."""

from sparsity_edu.diagrams import PALE, box, canvas, label, matrix
from sparsity_edu.plots import BLUE, ORANGE

LARGE = (0, 3, 5, 6)  # inputs above the threshold
KEPT = (
    ((0, 1), (4, 7)),
    ((1, 3), (5, 6)),
    ((0, 2), (6, 7)),
    ((2, 3), (4, 5)),
)  # of each output, two of every four


def one_saving():
    """The same matrix with inputs skipped, in 2:4, and with both; and the cache beside it."""
    figure, ax = canvas(31, 10.2)

    def inputs(x):
        matrix(ax, x, 2, [[ORANGE if k in LARGE else "white" for k in range(8)]], side=0.75)

    label(ax, 1, 0.8, "skipped inputs", bold=True)
    inputs(1)
    matrix(
        ax, 1, 3.5, [[BLUE if k in LARGE else "white" for k in range(8)] for _ in KEPT], side=0.75
    )
    label(ax, 1, 7.5, "columns of small inputs\nare not read")
    label(ax, 1, 9.5, "1/2", BLUE, bold=True)

    label(ax, 9, 0.8, "2:4", bold=True)
    matrix(
        ax,
        9,
        3.5,
        [[BLUE] * 4 for _ in KEPT],
        [[str(k % 4) for pair in row for k in pair] for row in KEPT],
        side=0.75,
    )
    label(ax, 9, 7.5, "two of every four are stored,\nwith their places")
    label(ax, 9, 9.5, "1/2 and the places", BLUE, bold=True)

    label(ax, 17.5, 0.8, "both", bold=True)
    inputs(17.5)
    colors = [[BLUE if k in LARGE else PALE for pair in row for k in pair] for row in KEPT]
    matrix(
        ax,
        17.5,
        3.5,
        colors,
        [[str(k % 4) for pair in row for k in pair] for row in KEPT],
        side=0.75,
    )
    label(ax, 17.5, 7.5, "weights of small inputs (pale)\nlie between others: read, too")
    label(ax, 17.5, 9.5, "1/2 and the places", BLUE, bold=True)

    label(ax, 25.8, 0.8, "the cache", bold=True)
    for page, color in enumerate((BLUE, "white", "white", BLUE)):
        box(ax, 25.8, 3.5 + 0.75 * page, 4, 0.75, "", color, rounded=False)
    label(ax, 25.8, 7.5, "other bytes:\nsaved besides")
    label(ax, 25.8, 9.5, "1/2 of these", BLUE, bold=True)
    return figure


FIGURES = (one_saving,)
