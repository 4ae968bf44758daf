"""Unit 04: what the rows of a matrix share, and what waits for the end of a block."""

from sparsity_edu.diagrams import EMPTY, INK, PALE, arrow, box, canvas, label, matrix, span
from sparsity_edu.plots import BLUE, GREY, SKY, VERMILLION

FINISHED = "#DDDDDD"


def shared_inverse():
    """Exact OBS needs an inverse for each row, SparseGPT one for all."""
    figure, ax = canvas(29, 10.6)
    label(ax, 1, 0.8, "Exact OBS: every row in its own order", bold=True)
    for i, gone in enumerate(([1, 4], [0, 2], [3, 5])):
        y = 2.4 + 2.3 * i
        matrix(
            ax,
            1,
            y,
            [[EMPTY if j in gone else SKY for j in range(6)]],
            [["0" if j in gone else "" for j in range(6)]],
        )
        arrow(ax, (9, y + 0.5), (7.3, y + 0.5))
        left = [[EMPTY if {j, k} & set(gone) else BLUE for k in range(6)] for j in range(6)]
        matrix(ax, 9.2, y - 0.4, left, side=0.3)
    label(ax, 4, 9.5, "3 rows of $W$", align="center")
    label(ax, 10.1, 9.5, "3 inverses", align="center")

    ax.plot([13.5, 13.5], [0.5, 10], color=GREY, linewidth=0.8)
    label(ax, 15.5, 0.8, "SparseGPT: one order of columns for all", bold=True)
    gone = ([0, 2], [1, 2], [0, 1])
    for i, removed in enumerate(gone):
        y = 2.4 + 2.3 * i
        now = VERMILLION if 2 in removed else FINISHED
        colors = [FINISHED, FINISHED, now, SKY, SKY, SKY]
        texts = [["0" if j in removed else "" for j in range(6)]]
        matrix(
            ax,
            15.5,
            y,
            [[EMPTY if j < 2 and j in removed else color for j, color in enumerate(colors)]],
            texts,
        )
        arrow(ax, (24, 5.2), (21.8, y + 0.5))
    label(ax, 18, 1.8, "now", VERMILLION, align="center")
    span(ax, 15.5, 8.4, 2, "finished", INK)
    span(ax, 18.5, 8.4, 3, "may still move", BLUE)
    matrix(
        ax,
        24.2,
        3.4,
        [[EMPTY if min(j, k) < 2 else BLUE for k in range(6)] for j in range(6)],
        side=0.6,
    )
    label(ax, 26, 9.5, "1 inverse", align="center")
    label(ax, 26, 2.6, r"$(H_{j:,\,j:})^{-1}$", INK, align="center")
    return figure


def lazy_blocks():
    """Inside a block each column moves the next ones; later blocks wait for one product."""
    figure, ax = canvas(29, 8.6)
    label(ax, 0.5, 0.8, "1  Inside the block: column by column", bold=True)
    matrix(ax, 0.5, 2.4, [[FINISHED] * 4 + [FINISHED, VERMILLION, SKY, SKY] + [PALE] * 4] * 4)
    arrow(ax, (6, 2.1), (8.4, 2.1), color=VERMILLION)
    span(ax, 0.5, 6.8, 4, "finished", INK)
    span(ax, 4.6, 6.8, 3.8, "this block", VERMILLION)
    span(ax, 8.6, 6.8, 3.9, "later blocks wait", INK)

    arrow(ax, (13.2, 4.4), (15.6, 4.4))

    label(ax, 16.5, 0.8, "2  Then the rest catches up: one product", bold=True)
    matrix(ax, 16.5, 2.4, [[FINISHED] * 8 + [SKY] * 4] * 4)
    box(ax, 24.8, 3.8, 3.4, 1.2, r"$-\,E\;U_{block,\,right}$", EMPTY)
    span(ax, 16.5, 6.8, 7.9, "finished", INK)
    span(ax, 24.6, 6.8, 3.9, "moves, once", BLUE)
    for x in (4.5, 8.5, 20.5, 24.5):
        ax.plot([x, x], [2.4, 6.4], color=INK, linewidth=2)
    return figure


FIGURES = (shared_inverse, lazy_blocks)
