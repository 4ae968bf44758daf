"""What the gradient of a router hears, and why SparseMixer runs an expert at half of its weight."""

from sparsity_edu.diagrams import EMPTY, INK, PALE, SIZE, arrow, box, canvas, label
from sparsity_edu.plots import BLUE, GREEN, GREY, VERMILLION

PROBABILITIES = (0.5, 0.2, 0.1, 0.2)


def unheard():
    """One of four experts is run; the gradient comes back through its weight alone."""
    figure, ax = canvas(28, 11.8)
    box(ax, 0.8, 5.9, 2.2, 1.6, "token")
    box(ax, 5, 5.9, 3, 1.6, "router")
    arrow(ax, (3, 6.7), (5, 6.7))
    for i, p in enumerate(PROBABILITIES):
        y, runs = 2.2 + 2.4 * i, i == 0
        ink = INK if runs else GREY
        arrow(ax, (8, 6.7), (10, y + 0.8), color=ink)
        label(ax, 10.3, y + 0.8, f"$p_{i}$ = {p}", ink)
        box(ax, 14.2, y, 2.6, 1.6, f"$E_{i}$", PALE if runs else EMPTY, BLUE if runs else GREY)
        if runs:
            arrow(ax, (12.8, y + 0.8), (14.2, y + 0.8))
        else:
            label(ax, 17.2, y + 0.8, "not run: what is it worth?", INK)
    arrow(ax, (16.8, 3), (18.8, 3))
    label(ax, 19.1, 3, "$y = p_0 \\, E_0(x)$")
    arrow(ax, (23.2, 3), (25, 3))
    label(ax, 25.3, 3, "loss")
    ax.plot([26.1, 26.1, 11.4], [2.3, 1.1, 1.1], color=VERMILLION, linewidth=1.2)
    arrow(ax, (11.4, 1.1), (11.4, 2.4), color=VERMILLION)
    label(ax, 18.8, 0.5, "gradient: more of $E_0$, or less", VERMILLION, "center")
    return figure


def half():
    """The area below a slope, and two rectangles that stand for it: by the slope at the end, and in the middle."""
    from matplotlib.patches import Polygon

    figure, ax = canvas(28, 9.6)
    p, wide, high, low, bottom = 0.8, 7, 2.4, 0.5, 7.4  # f'(w) = 0.5 + 2 w

    for n, (title, text) in enumerate(
        (
            ("wanted: the area", "$f(p) - f(0)$"),
            ("slope at the end", "$p \\; f\\,'(p)$: too much"),
            ("slope in the middle", "$p \\; f\\,'(p/2)$: the same area"),
        )
    ):
        left = 1.4 + 9.1 * n

        def at(w, value, left=left):
            return left + wide * w, bottom - high * value

        def area(*corners, color):
            ax.add_patch(Polygon([at(*corner) for corner in corners], facecolor=color, linewidth=0))

        end, middle = low + 2 * p, low + p
        if n == 0:
            area((0, 0), (0, low), (p, end), (p, 0), color="#BFD9EC")
        elif n == 1:
            area((0, 0), (0, low), (p, end), (p, 0), color="#BFD9EC")
            area((0, low), (0, end), (p, end), color="#F2C4A8")
            label(ax, *at(0.2, 1.75), "+", align="center", size=12)
        else:
            area((0, 0), (0, low), (p / 2, middle), (p, middle), (p, 0), color="#BFD9EC")
            area((0, low), (0, middle), (p / 2, middle), color="#F2C4A8")
            area((p / 2, middle), (p, end), (p, middle), color="#BCE3D2")
            label(ax, *at(0.11, 1.05), "+", align="center", size=12)
            label(ax, *at(0.69, 1.5), "−", align="center", size=12)
        ax.plot(*zip(at(0, low), at(p, end)), color=BLUE, linewidth=1.6)
        ax.plot(*zip(at(0, 2.4), at(0, 0), at(0.95, 0)), color=INK, linewidth=0.8)
        for w, name in ((0, "0"), (p / 2, "$p/2$"), (p, "$p$")):
            label(ax, at(w, 0)[0], bottom + 0.6, name, align="center")
        label(ax, left, 0.8, title, bold=True)
        label(ax, left + wide * p / 2, bottom + 1.6, text, align="center")
    label(ax, 1.7, 2, "slope $f\\,'(w)$", BLUE, size=SIZE)
    return figure


FIGURES = (unheard, half)
