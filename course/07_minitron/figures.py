"""What goes with a hidden channel, a head and a neuron when they are cut out of a decoder."""

from sparsity_edu.diagrams import PALE, box, canvas, label, matrix
from sparsity_edu.plots import BLUE, GREEN, VERMILLION

SIDE = 0.62
HIDDEN, HEADS, HEAD_DIM, FFN, WORDS = 6, 3, 2, 9, 14
ROWS, COLUMNS = 0, 1


def marked(ax, x, y, rows, cols, *parts):
    """A matrix with coloured rows or columns, each (axis, first, count, color).

    Where two cross, each has half of the cell.
    """
    from matplotlib.patches import Polygon

    matrix(ax, x, y, [[PALE] * cols] * rows, side=SIDE)
    painted = set()
    for axis, first, count, color in parts:
        lines = range(first, first + count)
        for cell in ((i, j) for i in range(rows) for j in range(cols) if (i, j)[axis] in lines):
            top, left = y + cell[0] * SIDE, x + cell[1] * SIDE
            right, bottom = left + SIDE, top + SIDE
            if cell in painted:
                corners = [(right, top), (right, bottom), (left, bottom)]
                ax.add_patch(Polygon(corners, facecolor=color, linewidth=0))
            else:
                matrix(ax, left, top, [[color]], side=SIDE)
            painted.add(cell)


def parts():
    """The rows and columns of every matrix that belong to one channel, one head and one neuron."""
    figure, ax = canvas(27.6, 19.4)
    reads, writes = (COLUMNS, 1, 1, VERMILLION), (ROWS, 1, 1, VERMILLION)
    makes, takes = (ROWS, HEAD_DIM, HEAD_DIM, GREEN), (COLUMNS, HEAD_DIM, HEAD_DIM, GREEN)
    computes, gives = (ROWS, 5, 1, BLUE), (COLUMNS, 5, 1, BLUE)
    inner = HEADS * HEAD_DIM
    for x, y, name, rows, cols, *which in (
        (0.8, 2.4, "embedding", WORDS, HIDDEN, reads),
        (6.2, 2.4, "norm", 1, HIDDEN, reads),
        (11.2, 2.4, "$W_q$", inner, HIDDEN, reads, makes),
        (16.2, 2.4, "$W_k$", HEAD_DIM, HIDDEN, reads),
        (16.2, 4.9, "$W_v$", HEAD_DIM, HIDDEN, reads),
        (21.2, 2.4, "$W_o$", HIDDEN, inner, writes, takes),
        (6.2, 9.6, "norm", 1, HIDDEN, reads),
        (11.2, 9.6, "$W_{gate}$", FFN, HIDDEN, reads, computes),
        (16.2, 9.6, "$W_{up}$", FFN, HIDDEN, reads, computes),
        (21.2, 9.6, "$W_{down}$", HIDDEN, FFN, writes, gives),
    ):
        label(ax, x + cols * SIDE / 2, y - 0.6, name, align="center")
        marked(ax, x, y, rows, cols, *which)
    label(ax, 6.2, 0.8, "attention", bold=True)
    label(ax, 6.2, 8, "feed-forward", bold=True)
    for n, (color, text) in enumerate(
        (
            (VERMILLION, "a hidden channel: one column, row or entry of everything, in all blocks"),
            (GREEN, "a head: its rows of $W_q$ and columns of $W_o$; it shares $W_k$ and $W_v$"),
            (BLUE, "a neuron: a row of $W_{gate}$ and of $W_{up}$, a column of $W_{down}$"),
        )
    ):
        box(ax, 0.8, 16.2 + n, SIDE, SIDE, color=color, rounded=False)
        label(ax, 2, 16.2 + n + SIDE / 2, text)
    return figure


FIGURES = (parts,)
