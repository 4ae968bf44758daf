"""Unit 01: what 2:4 keeps of a row, and what it takes in memory."""

from sparsity_edu.diagrams import EMPTY, PALE, arrow, box, canvas, label, span
from sparsity_edu.plots import BLUE, GREEN, GREY, VERMILLION

BIT = 0.15  # cells that a bit is wide: the drawing is to scale


def two_four_in_memory():
    """A row of two groups, its values and its places, as long as they are."""
    figure, ax = canvas(29, 10)
    row = (0, 3, 0, -1, 4, 0, 0, 0)
    stored = {
        1: BLUE,
        3: BLUE,
        4: GREEN,
        5: PALE,
    }  # the second group is filled up with its first zero
    wide, left, top, below = 16 * BIT, 4.5, 1.8, 5.2

    label(ax, 0.5, 0.9, "place")
    label(ax, 0.5, top + 0.6, "dense")
    label(ax, 0.5, below + 0.6, "2:4")
    for j, value in enumerate(row):
        x = left + j * wide
        label(ax, x + wide / 2, 0.9, str(j % 4), align="center")
        box(ax, x, top, wide, 1.2, str(value), stored.get(j, EMPTY), rounded=False)
    ax.plot([left + 4 * wide] * 2, [0.5, top + 1.2], color="black", linewidth=2)
    label(ax, left + 8 * wide + 0.5, top + 0.6, "8 x 16 = 128 bits")

    for k, j in enumerate(stored):
        x = left + k * wide
        box(ax, x, below, wide, 1.2, str(row[j]), stored[j], rounded=False)
        arrow(ax, (left + (j + 0.5) * wide, top + 1.3), (x + wide / 2, below - 0.1), color=GREY)
    places = left + 4 * wide
    for k, j in enumerate(stored):
        box(ax, places + k * 2 * BIT, below, 2 * BIT, 1.2, "", VERMILLION, rounded=False)
        box(ax, places + 1.6 * k, 7.6, 1.6, 1.2, f"{j % 4:02b}", VERMILLION, rounded=False)
    for x, end in ((places, places), (places + 8 * BIT, places + 6.4)):
        ax.plot([x, end], [below + 1.2, 7.6], color=GREY, linewidth=0.8)
    span(ax, left, below + 1.6, 4 * wide, "values, 16 bits each")
    label(ax, places + 6.8, 8.2, "places 1 3 | 0 1, 2 bits each", VERMILLION)
    label(ax, left + 8 * wide + 0.5, below + 0.6, "64 + 8 = 72 bits")
    return figure


FIGURES = (two_four_in_memory,)
