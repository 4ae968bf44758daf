"""Figures of unit 11."""

from sparsity_edu.diagrams import EMPTY, INK, PALE, arrow, box, canvas, label, matrix
from sparsity_edu.plots import BLUE, GREY, ORANGE

KEYS = [[1, 3, 0], [2, -1, 1], [-1, 2, 2], [0, 0, -1]]
QUERY = [2, -1, 1]
SCORES = (9, 2, 7, -1, 3, 1)  # of pages; that of page 2 is worked out below
READ = (0, 2, 5)


def pages():
    """A cache in pages, and how one of them gets its score."""
    figure, ax = canvas(28, 15.8)
    label(ax, 0.5, 0.9, "The cache in pages of 4 tokens.", bold=True)
    label(
        ax,
        9.3,
        0.9,
        "A budget of 12 tokens is 3 pages: the last one, and the two with the best scores.",
    )
    for p, score in enumerate(SCORES):
        x, read = 0.5 + 4.6 * p, p in READ
        matrix(ax, x, 1.8, [[BLUE if read else EMPTY] * 4])
        label(
            ax, x + 2, 3.4, f"page {p}: score {score}", BLUE if read else INK, "center", bold=read
        )
    ax.plot([9.7, 0.5], [4.1, 5.3], color=GREY, linewidth=0.8)
    ax.plot([13.7, 27.5], [4.1, 5.3], color=GREY, linewidth=0.8)
    box(ax, 0.5, 5.3, 27, 10, "", EMPTY)

    smallest, largest = ([f(column) for column in zip(*KEYS, strict=True)] for f in (min, max))
    ends = [(q * m, q * M) for q, m, M in zip(QUERY, smallest, largest, strict=True)]
    taken = [int(high > low) for low, high in ends]
    label(ax, 1.2, 6.5, "query $q$")
    matrix(ax, 6, 6, [[ORANGE] * 3], [[str(q) for q in QUERY]])
    label(ax, 1.2, 9.6, "the keys of page 2")
    for i, key in enumerate(KEYS):
        product = sum(a * b for a, b in zip(QUERY, key, strict=True))
        matrix(ax, 6, 7.6 + i, [[PALE] * 3], [[str(k) for k in key]])
        label(ax, 9.6, 8.1 + i, f"$q \\cdot k = {product}$")
    for i, (name, row, y) in enumerate(
        (("smallest, $m$", smallest, 12.3), ("largest, $M$", largest, 13.7))
    ):
        label(ax, 1.2, y + 0.5, name)
        matrix(ax, 6, y, [[ORANGE if t == i else PALE for t in taken]], [[str(k) for k in row]])
    label(ax, 9.6, 13.5, "orange: in each channel the end\nwith the larger product")
    arrow(ax, (18, 13.5), (19, 13.5))
    terms = " + ".join(str(max(pair)) for pair in ends)
    label(ax, 19.4, 13.5, f"score $= {terms} = {sum(map(max, ends))}$", BLUE)
    box(
        ax,
        15,
        8.4,
        11.6,
        2.4,
        "No product exceeds the score,\nand it takes $m$ and $M$ alone.",
        PALE,
    )
    return figure


FIGURES = (pages,)
