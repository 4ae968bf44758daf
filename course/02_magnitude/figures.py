"""Unit 02: the zeros of a mask, lost in a training step and restored after it."""

from sparsity_edu.diagrams import EMPTY, PALE, arrow, canvas, label, matrix
from sparsity_edu.plots import BLUE, VERMILLION

TRAINED = ((0.9, -0.1, 0.4), (0.2, -0.7, 0.05), (-0.3, 0.6, -0.15))
STEPPED = (
    (0.88, 0.03, 0.41),
    (-0.02, -0.72, 0.01),
    (-0.28, 0.63, 0.02),
)  # after a step of the optimizer
KEPT = (
    (True, False, True),
    (False, True, False),
    (True, True, False),
)  # the five largest of TRAINED


def keeping_zeros():
    """Prune, step, restore: the same nine weights in four states."""
    figure, ax = canvas(29, 8.8)
    states = (
        ("trained", TRAINED, False, False),
        ("pruned", TRAINED, True, False),
        ("after optimizer.step()", STEPPED, False, True),
        ("zeros restored", STEPPED, True, False),
    )
    for k, (title, weights, masked, lost) in enumerate(states):
        x = 0.7 + 7.5 * k
        zero = [[masked and not keep for keep in row] for row in KEPT]
        texts = [
            ["0" if z else f"{w:g}" for z, w in zip(*rows, strict=True)]
            for rows in zip(zero, weights, strict=True)
        ]
        other = VERMILLION if lost else PALE
        colors = [[BLUE if keep else EMPTY if masked else other for keep in row] for row in KEPT]
        label(ax, x + 2.55, 1, title, align="center", bold=True)
        matrix(ax, x, 2, colors, texts, side=1.7)
        zeros = sum(map(sum, zero))
        label(
            ax,
            x + 2.55,
            7.9,
            f"{zeros} of 9 are zero",
            VERMILLION if lost else "black",
            align="center",
        )
        if k:
            arrow(ax, (x - 2.2, 4.55), (x - 0.2, 4.55))
    return figure


FIGURES = (keeping_zeros,)
