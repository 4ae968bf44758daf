"""Unit 03: what moves when a weight goes."""

import torch

from sparsity_edu.diagrams import EMPTY, PALE, arrow, canvas, label, matrix
from sparsity_edu.plots import BLUE, VERMILLION

H = torch.tensor([[2.0, 1, 0, 0], [1, 2, 1, 0], [0, 1, 2, 1], [0, 0, 1, 2]])
W = torch.tensor([1.0, 0.6, -0.8, 0.5])
Q = 1  # the second weight goes


def what_obs_moves():
    """OBD sets one weight to zero; OBS moves all of them along a column of the inverse."""
    inverse = torch.linalg.inv(H)
    step = -W[Q] / inverse[Q, Q] * inverse[:, Q]
    deleted = W.clone()
    deleted[Q] = 0
    figure, ax = canvas(27.2, 9.4)

    def column(x, values, title, moved=False):
        label(ax, x + 0.65, 1.9, title, align="center")
        colors = [[EMPTY if abs(v) < 1e-6 else BLUE if moved else PALE] for v in values]
        matrix(
            ax, x, 2.6, colors, [["0" if abs(v) < 1e-6 else f"{v:.1f}"] for v in values], side=1.3
        )

    label(ax, 0.7, 0.7, "OBD", VERMILLION, bold=True)
    column(0.7, W, "$w$")
    arrow(ax, (2.4, 5.2), (4, 5.2))
    column(4.4, deleted, "new $w$")
    label(ax, 0.7, 8.6, f"loss: +{H[Q, Q] * W[Q] ** 2 / 2:.2f}", VERMILLION)

    label(ax, 9, 0.7, "OBS", BLUE, bold=True)
    label(ax, 11.6, 1.9, "$H^{-1}$", align="center")
    colors = [
        [VERMILLION if i == j == Q else BLUE if j == Q else EMPTY for j in range(4)]
        for i in range(4)
    ]
    matrix(ax, 9, 2.6, colors, [[f"{v:.1f}" for v in row] for row in inverse], side=1.3)
    arrow(ax, (14.5, 5.2), (19.3, 5.2), r"column $\times\;-0.6/1.2$")
    column(19.7, step, r"$\delta w$", moved=True)
    label(ax, 21.6, 5.2, "+", align="center", size=12)
    column(22.2, W, "$w$")
    label(ax, 24.1, 5.2, "=", align="center", size=12)
    column(24.7, W + step, "new $w$", moved=True)
    label(
        ax,
        9,
        8.6,
        f"loss: +{W[Q] ** 2 / inverse[Q, Q] / 2:.2f}, because the others make up for it",
        BLUE,
    )
    return figure


FIGURES = (what_obs_moves,)
