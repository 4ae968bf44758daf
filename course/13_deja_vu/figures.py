"""Figures of unit 13."""

from sparsity_edu.diagrams import EMPTY, INK, PALE, arrow, box, canvas, label, matrix
from sparsity_edu.plots import BLUE, GREY, ORANGE

HIDDEN, NEURONS = 4, 8
ACTIVE = {1: "3", 4: "1", 6: "2"}  # what ReLU leaves, by neuron


def neurons():
    """The weights that a token reads of an MLP."""
    figure, ax = canvas(27, 11.2)
    used = [BLUE if n in ACTIVE else EMPTY for n in range(NEURONS)]
    matrix(ax, 2.5, 0.8, [[ORANGE] * HIDDEN])
    label(ax, 2, 1.3, "$x$", align="right")
    label(ax, 2, 6.6, "up", align="right", bold=True)
    matrix(ax, 2.5, 2.6, [[color] * HIDDEN for color in used])
    label(ax, 9.7, 1.3, "after ReLU", align="center", bold=True)
    for n in range(NEURONS):
        arrow(ax, (6.7, 3.1 + n), (9, 3.1 + n), color=BLUE if n in ACTIVE else "#CCCCCC")
        matrix(ax, 9.2, 2.6 + n, [[PALE if n in ACTIVE else EMPTY]], [[ACTIVE.get(n, "0")]])
    label(ax, 14.2, 6.6, "down", align="right", bold=True)
    for n in range(NEURONS):
        label(ax, 15.2 + n, 4, ACTIVE.get(n, "0"), INK if n in ACTIVE else GREY, "center")
    matrix(ax, 14.7, 4.6, [used] * HIDDEN)
    arrow(ax, (22.9, 6.6), (24.4, 6.6))
    matrix(ax, 24.6, 4.6, [[ORANGE]] * HIDDEN)
    label(ax, 25.1, 9.2, "$y$", align="center")
    label(ax, 14.7, 9.2, "blue: read")
    label(ax, 14.7, 10.2, "white: not read, $y$ is the same")
    return figure


def lookahead():
    """When the neurons of block l are predicted, by three conventions."""
    figure, ax = canvas(29, 12.4)
    conventions = (  # name, parts that are done when the predictor's state is there, what waits
        ("training", 3, 1.6, "the MLP waits"),
        ("accuracy", 2, 4.4, "ready in time:\nbeside attention"),
        ("latency", 1, 8.8, "ready in time:\nbeside an MLP"),
    )
    label(ax, 4.4, 0.7, "Orange dot: the state that the predictor reads. Time runs to the right.")
    for name, state, y, note in conventions:
        label(ax, 0.3, y + 0.75, name, bold=True)
        for part, text in enumerate(("attention $l-1$", "MLP $l-1$", "attention $l$", "MLP $l$")):
            x = 4.4 + 4.8 * part + (4 if state == part == 3 else 0)
            box(ax, x, y, 4, 1.5, text, BLUE if part == 3 else PALE)
        start, beside = 4.4 + 4.8 * state, state < 3
        ax.plot([start - 0.4], [y + 0.75], "o", color=ORANGE, markersize=8)
        box(ax, start, y + 2.1 * beside, 3.2, 1.5, "predictor", ORANGE)
        if beside:
            arrow(ax, (start - 0.4, y + 1.1), (start, y + 2.85), color=INK, bend=0.3)
            ax.plot([start + 3.2, 18.3], [y + 2.85] * 2, color=INK, linewidth=1.2)
            arrow(ax, (18.3, y + 2.85), (19.6, y + 1.6), color=INK)
            label(ax, 23.6, y + 0.75, note)
        else:
            label(ax, 18.8, y + 2.1, note)
    return figure


FIGURES = (neurons, lookahead)
