"""Unit 05: from inputs to norms, from norms to scores, from scores to zeros."""

import torch

from sparsity_edu.diagrams import EMPTY, PALE, arrow, canvas, label, matrix
from sparsity_edu.plots import BLUE, GREY, VERMILLION

X = torch.tensor([[1.0, 20, 1, 3], [-1, 30, 2, 1]])  # (tokens, inputs)
W = torch.tensor([[0.9, -0.1, 0.5, 0.2], [0.1, 0.3, -0.4, 0.8]])  # (outputs, inputs)
LOUD = 1  # the input that is much larger than the others


def score_of_a_weight():
    """The lesson's example: two tokens, four inputs, two outputs, half of each row removed."""
    norm = X.norm(dim=0)
    score = W.abs() * norm
    keep = score.argsort(dim=1).argsort(dim=1) >= 2
    figure, ax = canvas(29, 11.4)
    columns = [[VERMILLION if j == LOUD else PALE for j in range(4)]]
    chosen = [[BLUE if stays else EMPTY for stays in row] for row in keep]

    label(ax, 0.5, 2.2, "inputs $X$:\na row per token")
    matrix(ax, 5, 0.8, columns * 2, [[f"{x:g}" for x in row] for row in X], side=1.4)
    label(ax, 0.5, 5.4, "norm of each\ninput, over tokens")
    matrix(ax, 5, 4.7, columns, [[f"{n:.1f}" for n in norm]], side=1.4)
    label(ax, 0.5, 9, "weights $W$:\na row per output")
    matrix(ax, 5, 7.6, [[PALE] * 4] * 2, [[f"{w:g}" for w in row] for row in W], side=1.4)
    for j in range(4):
        arrow(ax, (5.7 + 1.4 * j, 3.7), (5.7 + 1.4 * j, 4.6), color=GREY)

    arrow(ax, (10.9, 5.4), (13.6, 7.9))
    arrow(ax, (10.9, 9), (13.6, 9))
    label(ax, 16.6, 6.9, r"score $|W_{ij}| \cdot \Vert X_j \Vert$", align="center")
    matrix(ax, 13.8, 7.6, chosen, [[f"{s:.2f}" for s in row] for row in score], side=1.4)
    arrow(ax, (19.7, 9), (22.4, 9))
    label(ax, 25.4, 6.9, "pruned weights", align="center")
    texts = [
        [f"{w:g}" if stays else "0" for w, stays in zip(*rows, strict=True)]
        for rows in zip(W, keep, strict=True)
    ]
    matrix(ax, 22.6, 7.6, chosen, texts, side=1.4)
    label(ax, 13.8, 10.9, "in each row the two smallest go")
    return figure


FIGURES = (score_of_a_weight,)
