"""Mistakes of exercise 17.1, and the right answer that they vary."""

from collections.abc import Callable

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()

Stored = str | float


def by_format(stored: Stored, itemsize: float) -> tuple[float, float]:
    """Bytes of a weight: of its value, and of what says where it belongs."""
    return {"dense": (itemsize, 0.0), "2:4": (itemsize / 2, 1 / 8)}.get(stored) or ((1 - stored) * itemsize, 1 / 8)


def by_union(stored: Stored, skipped: float, batch: int) -> float:
    """Which share of the weights some sequence needs."""
    return 1 - (skipped**batch) ** (4 if stored == "2:4" else 1)


def counted(
    weights: int, stored: Stored, skipped: float, batch: int, context: int, kv: int,
    page: int | None = None, budget: int | None = None, itemsize: int = 2,
    *,
    held: Callable = by_format,
    needed: Callable = by_union,
    bits_skipped: bool = True,
    times: Callable = lambda batch: 1,
    sequences: Callable = lambda batch: batch,
    pages: Callable = lambda context, page, budget: -(-context // page),
    bounds: Callable = lambda kv: kv,
    tokens: Callable = lambda context, page, budget: min(context, budget),
    numbers: Callable = lambda kv: kv,
    size: Callable = lambda itemsize: itemsize,
) -> tuple[float, float]:  # fmt: skip
    """With its parts exchangeable, for mistakes in one part."""
    value, where = held(stored, size(itemsize))
    share = needed(stored, skipped, batch)
    read = weights * (value * share + where * (share if bits_skipped else 1)) * times(batch)
    cached = numbers(kv) * (context if budget is None else tokens(context, page, budget))
    if page is not None:
        cached += bounds(kv) * pages(context, page, budget)
    return float(read), float(sequences(batch) * cached * size(itemsize))


def varied(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda *args, **options: counted(*args, **options, **parts))


def only(kind: str, change: Callable) -> Callable:
    """What a weight takes, changed for 2:4 or for sparse matrices."""

    def held(stored, itemsize):
        mine = "2:4" if stored == "2:4" else "dense" if stored == "dense" else "sparse"
        return change(*by_format(stored, itemsize), stored, itemsize) if mine == kind else by_format(stored, itemsize)

    return held


varied(
    "no places",
    "You left out where the two values of 2:4 belong: 2 bits for each of them.",
    held=only("2:4", lambda value, where, *_: (value, 0.0)),
)
varied(
    "2 bits of a group",
    "You counted 2 bits for each group of 2:4. Each of its two values has a place of 2 bits.",
    held=only("2:4", lambda value, where, *_: (value, 1 / 16)),
)
varied(
    "2 bits of a weight",
    "You counted 2 bits for each of the four places of a group. Only the two values that stay have one.",
    held=only("2:4", lambda value, where, *_: (value, 1 / 4)),
)
varied("2:4 as dense", "You read all four values of a group of 2:4.", held=only("2:4", lambda v, w, s, size: (size, w)))
varied(
    "no bitmap",
    "You left out the bits of a sparse matrix, one for each position: without them nobody knows where a value belongs.",
    held=only("sparse", lambda value, *_: (value, 0.0)),
)
varied(
    "a byte of a position",
    "You counted a byte for each position. It is a bit.",
    held=only("sparse", lambda value, *_: (value, 1.0)),
)
varied(
    "bits of values only",
    "You counted bits for the values that stay only. Zeros have one too.",
    held=only("sparse", lambda value, where, stored, size: (value, where * (1 - stored))),
)
varied(
    "what is zero",
    "You counted the zeros. A sparsity is the share of zeros, and the others are stored.",
    held=only("sparse", lambda value, where, stored, size: (stored * size, where)),
)
varied(
    "no zeros is dense",
    "A sparsity of 0 is no dense matrix: its bits are stored, and read.",
    held=only("sparse", lambda value, where, stored, size: (value, where if stored else 0.0)),
)
varied(
    "one sequence",
    "You skip as in a batch of one. Weights are read if any sequence needs them: all but skipped**batch.",
    needed=lambda stored, skipped, batch: by_union(stored, skipped, 1),
)
varied(
    "for each sequence", "You read the weights again for each sequence. They are read once for all.", times=lambda batch: batch
)
varied(
    "inputs by themselves",
    "You skip inputs of 2:4 one by one. It is read output by output, so the four inputs of a group are skipped as one.",
    needed=lambda stored, skipped, batch: by_union("dense", skipped, batch),
)
varied(
    "one small input is enough",
    "You skip a group of 2:4 as soon as one input is small. All four must be.",
    needed=lambda stored, skipped, batch: by_union("dense", skipped, batch) ** (4 if stored == "2:4" else 1),
)
varied(
    "always in groups",
    "You skip four inputs as one in every format. Only in 2:4 they can only be skipped together.",
    needed=lambda stored, skipped, batch: by_union("2:4", skipped, batch),
)
varied(
    "sparse in groups",
    "You skip four inputs of a sparse matrix as one. It is read input by input.",
    needed=lambda stored, skipped, batch: by_union("dense" if stored == "dense" else "2:4", skipped, batch),
)
varied(
    "what is skipped",
    "You counted what is skipped, not what is read.",
    needed=lambda stored, skipped, batch: 1 - by_union(stored, skipped, batch),
)
varied(
    "if all need it",
    "You read a weight only if all sequences need it. One is enough.",
    needed=lambda stored, skipped, batch: (1 - skipped ** (4 if stored == "2:4" else 1)) ** batch,
)
varied("nothing skipped", "You read all weights, whatever is skipped.", needed=lambda *_: 1.0)
varied(
    "bits not skipped", "You read the bits of skipped inputs. They are stored by input and skipped with it.", bits_skipped=False
)
varied("one cache", "You read one cache. Each sequence has its own.", sequences=lambda batch: 1)
varied(
    "keys and values again",
    "You doubled kv. It holds keys and values already.",
    numbers=lambda kv: 2 * kv,
    bounds=lambda kv: 2 * kv,
)
varied("one bound", "You read one bound of each page. There are two, each as large as a key.", bounds=lambda kv: kv / 2)
varied(
    "bounds of keys and values",
    "You counted bounds of values too. Only keys have them, two of each page.",
    bounds=lambda kv: 2 * kv,
)
varied(
    "bounds of tokens",
    "You read bounds for each token. A page has them in common.",
    pages=lambda context, page, budget: context,
)
varied(
    "full pages only",
    "You left out the last page, which is not full. It has bounds too.",
    pages=lambda context, page, budget: context // page,
)
varied(
    "parts of pages", "You counted a part of a page. It has whole bounds.", pages=lambda context, page, budget: context / page
)
varied("no bounds", "You left out the bounds. They are read to choose the pages.", pages=lambda *_: 0)
varied(
    "bounds of what is chosen",
    "You read the bounds of chosen pages. Who chooses has to read those of all pages.",
    pages=lambda context, page, budget: -(-min(context, budget) // page),
)
varied(
    "no bounds where all is read",
    "You left out the bounds where the budget holds the whole context. They are read all the same.",
    pages=lambda context, page, budget: -(-context // page) if budget < context else 0,
)
varied("more than there is", "You read the budget where there are fewer tokens.", tokens=lambda context, page, budget: budget)
varied(
    "budget in pages",
    "You took the budget for a number of pages. It counts tokens.",
    tokens=lambda context, page, budget: min(context, budget * (page or 1)),
)
varied(
    "the whole cache",
    "You read all tokens of the cache. A budget is the most that are read.",
    tokens=lambda context, page, budget: context,
)
varied(
    "a budget only with pages",
    "You ignore a budget without pages. It holds for windows and H2O too.",
    tokens=lambda context, page, budget: context if page is None else min(context, budget),
)
varied("always two bytes", "You ignore the argument `itemsize`.", size=lambda itemsize: 2)
varied("bits for bytes", "You counted bits of numbers. `itemsize` is in bytes already.", size=lambda itemsize: 8 * itemsize)


@mistakes("caches first", "You return caches first. Weights come first.")
def _(*args, **options):
    return counted(*args, **options)[::-1]


@mistakes("one sum", "You return one sum. Weights and caches are two numbers.")
def _(*args, **options):
    return sum(counted(*args, **options))
