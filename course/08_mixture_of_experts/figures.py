"""The way of five tokens through three experts: queues with room for two, the sorted list, and back."""

from sparsity_edu.diagrams import EMPTY, arrow, box, canvas, label, span
from sparsity_edu.plots import BLUE, GREEN, GREY, ORANGE, VERMILLION

COLORS, EDGES = ("#CFE3F1", "#FBE3CC", "#CDEBDD"), (BLUE, ORANGE, GREEN)  # of each expert
CHOICES = ((0, 1), (0, 2), (1, 0), (0, 1), (2, 1))  # of each token, the first choice first
ROOM = 2


def queues():
    """For each expert the choices (token, rank) as they come: all first choices, then all second ones."""
    lines = ([], [], [])
    for rank in (0, 1):
        for token, experts in enumerate(CHOICES):
            lines[experts[rank]].append((token, rank))
    return lines


def routing():
    """Choose, find room, list, run, add."""
    figure, ax = canvas(30, 12.4)
    lines = queues()
    kept = {(token, rank) for line in lines for token, rank in line[:ROOM]}
    for x, title in ((0.6, "1  choose"), (8, "2  find room"), (16.6, "3  list"), (20.6, "4  run")):
        label(ax, x, 0.9, title, bold=True)
    label(ax, 25.4, 0.9, "5  add", bold=True)
    label(ax, 3.9, 2.2, "1st", align="center")
    label(ax, 5.5, 2.2, "2nd", align="center")
    for token, experts in enumerate(CHOICES):
        y = 3 + 1.8 * token
        label(ax, 0.6, y + 0.6, f"token {token}")
        label(ax, 25.4, y + 0.6, f"$y_{token}$ =")
        if (token, 0) not in kept and (token, 1) not in kept:
            label(ax, 27.5, y + 0.6, "0", VERMILLION, "center")
        for rank, e in enumerate(experts):
            box(ax, 3.3 + 1.6 * rank, y, 1.2, 1.2, f"$E_{e}$", COLORS[e], EDGES[e])
            if (token, rank) in kept:
                box(ax, 26.9 + 1.4 * rank, y, 1.2, 1.2, f"$E_{e}$", COLORS[e], EDGES[e])
    span(ax, 9.2, 2.7, 2 * ROOM * 0.8, "room for two", below=False)
    for e, line in enumerate(lines):
        y = 3 + 3.1 * e
        label(ax, 8, y + 1, f"$E_{e}$")
        for place, (token, rank) in enumerate(line):
            x, text = 9.2 + 1.6 * place, f"{token}\n{('1st', '2nd')[rank]}"
            inside = place < ROOM
            color, edge = (COLORS[e], EDGES[e]) if inside else (EMPTY, GREY)
            box(ax, x, y, 1.6, 2, text, color, edge, rounded=False, size=8.5)
            if not inside:
                ax.plot([x, x + 1.6], [y + 2, y], color=VERMILLION, linewidth=1)
        for place, (token, _) in enumerate(sorted(line[:ROOM])):
            box(ax, 17, y + place, 1.2, 1, str(token), COLORS[e], EDGES[e], rounded=False)
        arrow(ax, (18.5, y + 1), (20.3, y + 1))
        box(ax, 20.6, y, 2.4, 2, f"$E_{e}$", COLORS[e], EDGES[e])
    arrow(ax, (23.3, 7.2), (25, 7.2))
    return figure


FIGURES = (routing,)
