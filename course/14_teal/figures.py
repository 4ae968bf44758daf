"""Figures of unit 14."""

import numpy as np

from sparsity_edu.diagrams import EMPTY, INK, PALE, arrow, canvas, label, matrix
from sparsity_edu.plots import BLUE, GREY, ORANGE

INPUTS = (0.9, -0.1, 0.2, -1.3, 0.0, 0.7, -0.3, 0.4)
THRESHOLD = 0.5


def thresholds():
    """The share of inputs that a threshold takes away, and the columns that are not read for it."""
    figure, ax = canvas(30, 12.6)
    x = np.linspace(-3, 3, 601)
    density, limit = (
        np.exp(-np.abs(x)),
        np.log(2),
    )  # half of a Laplace distribution lies between -ln 2 and ln 2
    middle, base, height = 6.6, 8.4, 5.6
    across, up = middle + 2 * x, base - height * density
    inside = np.abs(x) <= limit
    ax.fill_between(across[inside], up[inside], base, color=PALE)
    for tail in (x < -limit, x > limit):
        ax.fill_between(across[tail], up[tail], base, color=BLUE)
    ax.plot([0.4, 12.8], [base, base], color=INK, linewidth=1)
    label(ax, 0.4, 0.9, "Inputs of one matrix", bold=True)
    label(ax, middle, 6.8, "$s$ goes", align="center")
    for side, sign in ((-1, "-t"), (1, "t")):
        at = middle + 2 * side * limit
        ax.plot([at, at], [2.4, base], color=INK, linewidth=1.2, linestyle="--")
        label(ax, at, base + 0.7, f"${sign}$", align="center")
        label(ax, middle + 4 * side, 5.6, "$(1 - s)\\,/\\,2$\nstays", BLUE, "center")
    arrow(ax, (0.4, 10.3), (middle + 2 * limit, 10.3), color=ORANGE)
    label(ax, 0.4, 11.3, "below $t$: $\\;(1 - s)\\,/\\,2 + s = 0.5 + s\\,/\\,2$")

    left = 18.6
    ax.plot([14.4, 14.4], [0.5, 12.1], color=GREY, linewidth=0.8)
    label(ax, 15.2, 0.9, f"One token, $t = {THRESHOLD}$", bold=True)
    kept = [abs(value) > THRESHOLD for value in INPUTS]
    label(ax, left - 0.5, 2.9, "$x$", align="right")
    matrix(ax, left, 2.4, [[PALE] * 8], [[f"{value:g}" for value in INPUTS]], size=8)
    label(ax, left - 0.5, 4.9, "$s_t(x)$", align="right")
    shown = [f"{value:g}" if k else "0" for value, k in zip(INPUTS, kept, strict=True)]
    matrix(ax, left, 4.4, [[ORANGE if k else EMPTY for k in kept]], [shown], size=8)
    label(ax, left - 0.5, 8.4, "$W$", align="right")
    matrix(ax, left, 6.4, [[BLUE if k else EMPTY for k in kept]] * 4)
    label(ax, left, 11.3, "white columns are not read")
    return figure


FIGURES = (thresholds,)
