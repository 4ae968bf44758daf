"""Figures of unit 12."""

from sparsity_edu.diagrams import PALE, arrow, canvas, label, matrix, span
from sparsity_edu.plots import BLUE, GREEN, GREY, ORANGE, SKY

TOKENS, LATENT, NOPE, ROPE = 5, 4, 3, 2
TOP, ROWS = 3.2, 6  # of the query, and of the tokens


def scored(ax, x, width, query, keys, name):
    """A query over one row for each token, and the scores beside them."""
    matrix(ax, x, TOP, [[ORANGE] * width])
    matrix(ax, x + width + 0.3, TOP, [[ORANGE] * ROPE])
    label(ax, x + width / 2, TOP - 0.8, query, align="center")
    label(ax, x + width + 1.3, TOP - 0.8, "$q_R$", align="center")
    matrix(ax, x, ROWS, [[keys] * width] * TOKENS)
    matrix(ax, x + width + 0.3, ROWS, [[GREEN] * ROPE] * TOKENS)
    label(ax, x + width / 2, ROWS + TOKENS + 0.7, name, align="center")
    label(ax, x + width + 1.3, ROWS + TOKENS + 0.7, "$k_{R,t}$", align="center")
    span(ax, x, TOP + 1.4, width + ROPE + 0.3, "times each row")
    label(ax, x + width + ROPE + 0.9, ROWS + TOKENS / 2, "=", align="center", size=12)
    matrix(ax, x + width + ROPE + 1.5, ROWS, [[PALE]] * TOKENS)
    label(ax, x + width + ROPE + 2, ROWS - 0.7, "scores", align="center")


def absorbing():
    """The scores of one head by keys that are made of latents, and by a query that is made for them."""
    figure, ax = canvas(30, 14)
    label(ax, 0.5, 0.9, "Naive: unpack each latent", bold=True)
    matrix(ax, 0.5, ROWS, [[BLUE] * LATENT] * TOKENS)
    label(ax, 2.5, ROWS + TOKENS + 0.7, "latents $c_t$", align="center")
    for t in range(TOKENS):
        arrow(ax, (4.7, ROWS + 0.5 + t), (6.9, ROWS + 0.5 + t), "" if t else "$W_{UK}$")
    scored(ax, 7.1, NOPE, "$q_C$", SKY, "keys")
    label(ax, 0.5, 13.1, f"{TOKENS} products with $W_{{UK}}$ of each head, in each step")

    ax.plot([15.5, 15.5], [0.5, 13.5], color=GREY, linewidth=0.8)
    label(ax, 16.2, 0.9, "Absorbed: change the query", bold=True)
    matrix(ax, 16.2, TOP, [[ORANGE] * NOPE])
    label(ax, 17.7, TOP - 0.8, "$q_C$", align="center")
    arrow(ax, (19.4, TOP + 0.5), (20.9, TOP + 0.5), "$W_{UK}^\\top$")
    scored(ax, 21.1, LATENT, "$\\tilde q$", BLUE, "latents $c_t$")
    label(ax, 16.2, 13.1, "1 product, however many tokens there are")
    return figure


FIGURES = (absorbing,)
