"""A text of ten tokens read through three caches of four: what each query sees, and what goes after it."""

from math import exp

from sparsity_edu.diagrams import EMPTY, INK, box, canvas, label
from sparsity_edu.plots import GREY, VERMILLION

TOKENS, BUDGET, RECENT = 10, 4, 2
HEAVY, WINDOW, NEW = "#F9D59B", "#BFDDF0", "#8DC1E4"
LIKED = (2.2, -0.5, -0.2, 1.9, -0.4, 0.1, -0.3, 0.2, -0.6, 0.3)  # of each key, by all queries


def attention(query, held):
    """The probabilities that a query gives: a made-up taste for keys, and a little more for near ones."""
    weights = [exp(LIKED[key] - 0.15 * (query - key)) for key in held]
    return [weight / sum(weights) for weight in weights]


def read(choose):
    """By query: what it saw with which probability, and what went after it; and the scores at the end."""
    held, scores, steps = [], [0.0] * TOKENS, []
    for query in range(TOKENS):
        held = [*held, query]
        given = attention(query, held)
        for key, p in zip(held, given, strict=True):
            scores[key] += p
        stay = held if len(held) <= BUDGET else choose(held, scores)
        steps.append((dict(zip(held, given, strict=True)), set(held) - set(stay)))
        held = stay
    return steps, held, scores


def h2o(held, scores):
    old, recent = held[:-RECENT], held[-RECENT:]
    return sorted(sorted(old, key=lambda key: scores[key])[-(BUDGET - RECENT) :]) + recent


def window(held, scores):
    return held[-BUDGET:]


def with_sink(held, scores):
    return held[:1] + held[1 - BUDGET :]


def panel(ax, x, y, side, choose, kept_apart, numbers):
    """A row for each query, a column for each token; a cross where a token is forgotten."""
    steps, held, scores = read(choose)
    for query, (seen, gone) in enumerate(steps):
        for key in range(query + 1):
            color = EMPTY
            if key in seen:
                recent = key > query - kept_apart
                color = NEW if key == query else WINDOW if recent else HEAVY
            left, top = x + key * side, y + query * side
            text = f"{100 * seen[key]:.0f}" if numbers and key in seen else ""
            box(ax, left, top, side, side, text, color, "#CCCCCC", rounded=False, size=8)
            if key in gone:
                ax.plot([left, left + side], [top + side, top], color=VERMILLION, linewidth=1.2)
    return held, scores


def forgetting():
    """H2O with its numbers, beside a window and a window with a sink."""
    figure, ax = canvas(29.4, 16)
    side, x, y = 1.1, 3, 3.4
    label(ax, x, 0.9, "H2O: 2 heavy hitters, 2 recent", bold=True)
    held, scores = panel(ax, x, y, side, h2o, RECENT, True)
    label(ax, x + 5 * side, 2.05, "token", align="center")
    label(ax, 0.2, y + 5 * side, "query")
    for n in range(TOKENS):
        middle = (n + 0.5) * side
        label(ax, x + middle, 2.95, str(n), align="center")
        label(ax, x - 0.35, y + middle, str(n), align="right")
        ink = INK if n in held else GREY
        label(ax, x + middle, y + 10.7 * side, f"{scores[n]:.1f}", ink, "center", bold=n in held)
    label(ax, x - 0.35, y + 10.7 * side, "score", align="right")
    for left, title, choose, apart in (
        (16.6, "window of 4", window, BUDGET + 1),
        (23.4, "1 sink, 3 recent", with_sink, BUDGET),
    ):
        label(ax, left, 0.9, title, bold=True)
        panel(ax, left, y - 1.4, 0.52, choose, apart, False)
    for n, (color, text) in enumerate(
        (
            (NEW, "the new token"),
            (WINDOW, "recent: stays while it is in the window"),
            (HEAVY, "older: stays by its score, or as a sink"),
            (EMPTY, "crossed out: forgotten after this query"),
        )
    ):
        top = 9.2 + 1.4 * n
        box(ax, 16.6, top, 0.9, 0.9, color=color, edge="#CCCCCC", rounded=False)
        if color == EMPTY:
            ax.plot([16.6, 17.5], [top + 0.9, top], color=VERMILLION, linewidth=1.2)
        label(ax, 18, top + 0.45, text)
    return figure


FIGURES = (forgetting,)
