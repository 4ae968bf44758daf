"""One level of iterative magnitude pruning with rewinding, and the three controls of a ticket."""

from sparsity_edu.diagrams import EMPTY, INK, PALE, arrow, box, canvas, label, matrix
from sparsity_edu.plots import VERMILLION

TRAINED, FRESH = "#CDEBDD", "#FBE3CC"
SIDE, SIZE = 1.3, 9
WIDTH = 4 * SIDE

INITIAL = (
    (0.5, -0.2, 0.9, -0.4),
    (-0.1, 0.7, 0.3, -0.8),
    (0.6, -0.5, 0.1, 0.2),
    (-0.3, 0.4, -0.6, 0.8),
)
FINAL = (
    (0.9, -0.1, 0.2, -1.1),
    (-0.7, 1.2, 0.6, -0.9),
    (0.3, -0.8, 0.5, 0.1),
    (-1.0, 0.7, -0.4, 1.3),
)
ANEW = (
    (-0.4, 0.6, -0.1, 0.3),
    (0.8, -0.2, 0.5, 0.1),
    (-0.7, 0.9, -0.6, 0.4),
    (0.2, -0.3, 0.7, -0.5),
)
DROPPED = sorted((abs(w), i, j) for i, row in enumerate(FINAL) for j, w in enumerate(row))[:4]
GONE = {(i, j) for _, i, j in DROPPED}
BY_CHANCE = {(0, 3), (1, 1), (3, 0), (3, 2)}


def weights(ax, x, y, values, color, gone=frozenset()):
    """Numbers in cells; what is gone is empty."""
    colors = [[EMPTY if (i, j) in gone else color for j in range(4)] for i in range(4)]
    texts = [
        ["" if (i, j) in gone else f"{w:.1f}".replace("-", "−") for j, w in enumerate(row)]
        for i, row in enumerate(values)
    ]
    matrix(ax, x, y, colors, texts, SIDE, SIZE)


def rewinding():
    """Train, drop the smallest quarter by the trained weights, rewind to the initial ones."""
    figure, ax = canvas(27, 10.6)
    y, places = 2, (0.6, 10.9, 21.2)
    for x, values, color, gone, title in zip(
        places,
        (INITIAL, FINAL, INITIAL),
        (PALE, TRAINED, PALE),
        (frozenset(), frozenset(), GONE),
        (r"before training, $\theta_0$", r"trained, $\theta_T$", r"ticket, $m' \odot \theta_0$"),
        strict=True,
    ):
        label(ax, x + WIDTH / 2, 1.1, title, align="center", bold=True)
        weights(ax, x, y, values, color, gone)
    for i, j in GONE:
        box(
            ax,
            places[1] + j * SIDE + 0.08,
            y + i * SIDE + 0.08,
            SIDE - 0.16,
            SIDE - 0.16,
            color="none",
            edge=VERMILLION,
            rounded=False,
        )
    middle = y + WIDTH / 2
    arrow(ax, (places[0] + WIDTH + 0.4, middle), (places[1] - 0.4, middle), "train")
    arrow(ax, (places[1] + WIDTH + 0.4, middle), (places[2] - 0.4, middle), "rewind")
    label(
        ax,
        places[1] + WIDTH / 2,
        y + WIDTH + 0.9,
        "the smallest quarter goes",
        VERMILLION,
        "center",
    )
    bottom = y + WIDTH + 2.4
    start, end = places[2] + WIDTH / 2, places[0] + WIDTH / 2
    ax.plot([start, start, end], [y + WIDTH + 0.4, bottom, bottom], color=INK, linewidth=1.2)
    arrow(ax, (end, bottom), (end, y + WIDTH + 0.4))
    label(
        ax,
        places[1] + WIDTH / 2,
        bottom + 0.6,
        "next level: train the ticket, and drop a quarter of what is left",
        align="center",
    )
    return figure


def controls():
    """The ticket, and what may beat it: each control differs from it in one thing."""
    figure, ax = canvas(28.4, 9.8)
    kinds = (
        ("ticket", "initial weights, its mask", INITIAL, PALE, GONE),
        ("other weights", "initialised anew", ANEW, FRESH, GONE),
        ("other connections", "as many, at random", INITIAL, PALE, BY_CHANCE),
        ("fine-tuned", "trained, not rewound", FINAL, TRAINED, GONE),
    )
    for n, (title, difference, values, color, gone) in enumerate(kinds):
        x = 0.8 + n * (WIDTH + 1.9)
        label(ax, x + WIDTH / 2, 1, title, align="center", bold=True)
        weights(ax, x, 1.9, values, color, gone)
        label(ax, x + WIDTH / 2, 1.9 + WIDTH + 0.8, difference, align="center")
    label(
        ax,
        14.2,
        9.1,
        "then all four are trained in the same way: equal steps, learning rates and batches",
        align="center",
    )
    return figure


FIGURES = (rewinding, controls)
