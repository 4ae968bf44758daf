"""Exercise 17.5: which technique pays."""

import math
from collections.abc import Callable

import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.combination.fixtures import share, some
from autograder.inside.case import Case, call

Numbers = dict[str, float]
DENSE = ("dense", 0.0, False)  # how weights are stored, the share of small inputs, and whether the cache has pages
ALONE = {"2:4": ("2:4", 0.0, False), "skip": ("dense", 1.0, False), "pages": ("dense", 0.0, True)}


def larger(bytes: float, operations: float, machine: Numbers) -> float:
    return max(bytes / machine["bandwidth"], operations / machine["peak"])


def two_roofs(weights: tuple, attention: tuple, machine: Numbers, roof: Callable) -> float:
    return roof(*weights, machine) + roof(*attention, machine)


def predicted(
    batch: int, context: int, model: Numbers, machine: Numbers, level: float, page: int, budget: int,
    *,
    held: Callable = lambda stored: 9 / 16 if stored == "2:4" else 1,
    read: Callable = lambda small, batch: 1 - small**batch,
    multiplied: Callable = lambda stored, small, batch: (0.5 if stored == "2:4" else 1) * (1 - small),
    products: Callable = lambda weights, batch: 2 * weights * batch,
    bounds_read: Callable = lambda context, page, budget: math.ceil(context / page),
    bounds_computed: Callable = lambda context, page, budget: math.ceil(context / page),
    kept: Callable = lambda context, budget: min(context, budget),
    caches: Callable = lambda numbers, batch: 2 * numbers * batch,
    scores: Callable = lambda operations, batch: operations * batch,
    roof: Callable = larger,
    step: Callable = two_roofs,
    alone: dict = ALONE,
    ratio: Callable = lambda dense, other: dense / other,
) -> Numbers:  # fmt: skip
    """With its parts exchangeable, for mistakes in one part."""

    def seconds(stored: str, some: float, paged: bool) -> float:
        small = level * some
        tokens = kept(context, budget) if paged else context
        more = (bounds_read(context, page, budget), bounds_computed(context, page, budget)) if paged else (0, 0)
        weights = 2 * model["weights"] * held(stored) * read(small, batch)
        work = products(model["weights"], batch) * multiplied(stored, small, batch)
        cached = caches(model["kv"] * (tokens + more[0]), batch)
        return step((weights, work), (cached, scores(model["attention"] * (tokens + more[1]), batch)), machine, roof)

    dense = seconds(*DENSE)
    return {name: ratio(dense, seconds(*how)) for name, how in alone.items()}


def reference(batch: int, context: int, model: Numbers, machine: Numbers, level: float, page: int, budget: int) -> Numbers:
    return predicted(batch, context, model, machine, level, page, budget)


speedup = Exercise(
    "combination.speedup",
    defines="speedups",
    title="Which technique pays",
    minutes=15,
    difficulty=2,
    hints=(
        "Write one function for the time of a step, of four numbers: bytes and operations of the weights, bytes and operations of attention. Then work out these "
        "four for the dense model, and which of them each technique changes.",
        "A step takes `max(bytes / bandwidth, operations / peak)` for the weights, and likewise for attention, one after the other. A technique for weights leaves "
        "attention as it is, and pages leave the weights as they are. What is *read* of weights is for all sequences together; what is *computed*, each does by itself.",
        "The bytes are those of `step_bytes`, with `'2:4'`, with `skipped=level`, or with page and budget. Operations of the weights are `2 * weights * batch`, times "
        "0.5 for 2:4 and `1 - level` for skipped inputs; those of attention are `attention * batch` times `context`, or times `math.ceil(context / page) + "
        "min(context, budget)`.",
    ),
    reference=reference,
)

MEMORY, COMPUTE = 0.02, 50.0  # of the dense model's operations, seconds for each second of reading


def case(
    g: torch.Generator, batch: int, context: int, weights: float, attention: float, budget: int, level=(0.4, 0.7), page: int = 0
) -> Case:
    """Of given shares of computing to reading, in the weights' products and in attention."""
    bandwidth = 1e9 * some(g, 50, 3000)
    count, kv = 10**6 * some(g, 100, 900), some(g, 10_000, 90_000)
    peak = bandwidth * batch / weights  # of 2 * count bytes and 2 * count * batch operations
    model = {"weights": count, "kv": kv, "attention": round(attention * 2 * kv * peak / bandwidth)}
    page = page or some(g, 12, 30)
    context += context % page == 0
    chosen = level if isinstance(level, float) else share(g, *level)
    return call(batch, context, model, {"bandwidth": bandwidth, "peak": float(round(peak))}, chosen, page, budget)


@speedup.stage(
    "one sequence, short and long",
    points=1,
    exposes="Where bytes decide, a technique saves what it does not read: of the weights, or of the cache, whose pages all have bounds. The rest takes its time in any "
    "case. Each technique is applied alone.",
)
def _(g):
    yield case(g, 1, some(g, 900, 2000), MEMORY, MEMORY, some(g, 200, 500))
    yield case(g, 1, some(g, 9000, 20000), MEMORY, MEMORY, some(g, 900, 2500))
    yield case(g, 1, some(g, 30000, 50000), MEMORY, MEMORY, some(g, 900, 2500))


@speedup.stage(
    "a batch",
    points=1,
    exposes="Weights are read once for all sequences, and an input is skipped only if it is small in all of them. Each sequence reads its own cache.",
)
def _(g):
    for batch in (2, some(g, 3, 5), some(g, 5, 8)):
        yield case(g, batch, some(g, 4000, 9000), MEMORY, MEMORY, some(g, 600, 1500), (0.6, 0.8))


@speedup.stage(
    "where operations decide",
    points=1,
    exposes="The longer of reading and computing counts, for weights and for attention by themselves. 2:4 halves operations; with skipped inputs each sequence "
    "multiplies only its own; a page's bounds take as many operations as a token.",
)
def _(g):
    batch = some(g, 3, 6)
    yield case(g, batch, some(g, 4000, 9000), COMPUTE, MEMORY, some(g, 600, 1500))
    yield case(g, batch, some(g, 4000, 9000), MEMORY, COMPUTE / 10, some(g, 600, 1500))
    yield case(g, batch, some(g, 400, 900), COMPUTE, COMPUTE / 10, some(g, 60, 150))


@speedup.stage(
    "on the ridge, and the ends",
    points=1,
    exposes="A technique may save operations where then bytes decide. A budget above the context reads it all, and its bounds as well: that is slower than without. At a "
    "level of 0 nothing is skipped. The arguments stay as they are.",
    pure=True,
)
def _(g):
    batch = some(g, 3, 6)
    yield case(g, batch, some(g, 4000, 9000), 1.2, 1.2, some(g, 600, 1500))  # dense: operations; 2:4, skipped inputs: bytes
    yield case(g, 2, some(g, 4000, 9000), 0.9, 0.8, some(g, 600, 1500), (0.6, 0.8))
    yield case(g, batch, 700, MEMORY, COMPUTE / 10, 1500, 0.0, page=some(g, 9, 15))
    yield case(g, 2, 3000, MEMORY, MEMORY, 4000)
    yield case(g, 1, 0, MEMORY, MEMORY, 100)


def varied(name: str, says: str, **parts) -> None:
    speedup.misconception(name, says)(lambda *args: predicted(*args, **parts))


varied(
    "bytes only", "You counted bytes only. Where computing takes longer, it decides.", roof=lambda b, o, m: b / m["bandwidth"]
)
varied(
    "operations only",
    "You counted operations only. Where reading takes longer, it decides.",
    roof=lambda b, o, m: o / m["peak"],
)
varied(
    "reading, then computing",
    "You added reading and computing. They run side by side: the longer one counts.",
    roof=lambda b, o, m: b / m["bandwidth"] + o / m["peak"],
)
varied(
    "the shorter one",
    "You took the shorter of reading and computing. The longer one counts.",
    roof=lambda b, o, m: min(b / m["bandwidth"], o / m["peak"]),
)
varied(
    "one roof for all",
    "You compared all bytes with all operations. Products with weights and attention come one after the other, each with its own longer side.",
    step=lambda w, a, machine, roof: roof(w[0] + a[0], w[1] + a[1], machine),
)
varied(
    "the longer of both parts",
    "You took the longer of weights and attention. They come one after the other, so they are added.",
    step=lambda w, a, machine, roof: max(roof(*w, machine), roof(*a, machine)),
)
varied(
    "weights alone",
    "You left out attention. It takes its time whatever is done to the weights.",
    step=lambda w, a, machine, roof: roof(*w, machine) + 0 * roof(*a, machine),
)
varied(
    "half of the bytes",
    "You halved the bytes for 2:4. The places take another sixteenth.",
    held=lambda stored: 0.5 if stored == "2:4" else 1,
)
varied("2:4 as large", "You read 2:4 as if it were dense.", held=lambda stored: 1)
varied(
    "2:4 computes all",
    "You left the operations of 2:4 as they were. They are half.",
    multiplied=lambda stored, small, batch: 1 - small,
)
varied(
    "skipping computes all",
    "You left the operations of skipped inputs as they were. A sequence does not multiply its small inputs.",
    multiplied=lambda stored, small, batch: 0.5 if stored == "2:4" else 1,
)
varied(
    "computed as read",
    "You multiply all that is read. A sequence multiplies by its own inputs only, 1 - level of them.",
    multiplied=lambda stored, small, batch: (0.5 if stored == "2:4" else 1) * (1 - small**batch),
)
varied(
    "read as computed",
    "You read 1 - level of the weights for a batch. An input is skipped only if it is small in all sequences.",
    read=lambda small, batch: 1 - small,
)
varied(
    "level stays",
    "You took `level` for the share that stays.",
    read=lambda small, batch: 1 - (1 - small) ** batch if small else 1,
)
varied(
    "one operation of a weight",
    "You counted one operation of each weight. A multiplication and an addition are two.",
    products=lambda weights, batch: weights * batch,
)
varied(
    "one sequence computes",
    "You computed products of one sequence. Each has its own.",
    products=lambda weights, batch: 2 * weights,
)
varied("one cache", "You read one cache. Each sequence has its own.", caches=lambda numbers, batch: 2 * numbers)
varied(
    "attention of one", "You computed attention of one sequence. Each has its own.", scores=lambda operations, batch: operations
)
varied(
    "numbers, not bytes", "You counted numbers of the cache. Each has 2 bytes.", caches=lambda numbers, batch: numbers * batch
)
varied(
    "keys and values again",
    "You doubled kv. It holds keys and values already.",
    caches=lambda numbers, batch: 4 * numbers * batch,
)
varied("bounds not read", "You left the bounds out of what is read.", bounds_read=lambda *_: 0)
varied(
    "bounds not computed",
    "You left the bounds out of what is computed. A query is multiplied with them.",
    bounds_computed=lambda *_: 0,
)
varied("no bounds", "You left out the bounds of pages.", bounds_read=lambda *_: 0, bounds_computed=lambda *_: 0)
varied(
    "full pages only",
    "You left out the last page, which is not full. It has bounds too.",
    bounds_read=lambda context, page, budget: context // page,
    bounds_computed=lambda context, page, budget: context // page,
)
varied(
    "bounds of what is chosen",
    "You counted bounds of chosen pages. Those of all pages are read, and computed with.",
    bounds_read=lambda context, page, budget: math.ceil(min(context, budget) / page),
    bounds_computed=lambda context, page, budget: math.ceil(min(context, budget) / page),
)
varied("more than there is", "You read the budget where there are fewer tokens.", kept=lambda context, budget: budget)
varied(
    "pages save nothing",
    "You attend to the whole context with pages. They read at most `budget` tokens.",
    kept=lambda context, budget: context,
)
varied(
    "never slower",
    "You cut at 1. Pages that are all read are slower than none, by their bounds.",
    ratio=lambda dense, other: max(1.0, dense / other),
)
varied(
    "upside down",
    "Your ratio is upside down: it is the time of the dense model over that of the sparse one.",
    ratio=lambda dense, other: other / dense,
)
varied(
    "what is saved",
    "You return the share of the time that is saved. Return how many times as fast it is.",
    ratio=lambda dense, other: 1 - other / dense,
)
varied(
    "one on top of the other",
    "You added techniques up. Each is applied alone.",
    alone={"2:4": ("2:4", 0.0, False), "skip": ("2:4", 1.0, False), "pages": ("2:4", 1.0, True)},
)


@speedup.misconception("seconds", "You return seconds. Return how many times as fast a step is.")
def _(*args):
    return predicted(*args, ratio=lambda dense, other: other)


@speedup.misconception(
    "bounds as two tokens",
    "You counted the bounds of a page twice. Both together are as large as the key and value of a token.",
)
def _(batch, context, model, machine, level, page, budget):
    def twice(context, page, budget):
        return 2 * math.ceil(context / page)

    return predicted(batch, context, model, machine, level, page, budget, bounds_read=twice, bounds_computed=twice)


@speedup.accepts("a table of four numbers")
def _(batch, context, model, machine, level, page, budget):
    w, kv, a = model["weights"], model["kv"], model["attention"]
    read = (context + page - 1) // page + min(context, budget)
    rows = {
        "dense": (2 * w, 2 * w * batch, context),
        "2:4": (w + w / 8, w * batch, context),
        "skip": (2 * w * (1 - level**batch), 2 * w * batch * (1 - level), context),
        "pages": (2 * w, 2 * w * batch, read),
    }
    seconds = {
        name: max(bytes / machine["bandwidth"], operations / machine["peak"])
        + batch * tokens * max(2 * kv / machine["bandwidth"], a / machine["peak"])
        for name, (bytes, operations, tokens) in rows.items()
    }
    return {name: seconds["dense"] / seconds[name] for name in ("pages", "skip", "2:4")}


@speedup.accepts("a function for each part")
def _(batch, context, model, machine, level, page, budget):
    bandwidth, peak = machine["bandwidth"], machine["peak"]

    def products(bits=16.0, read=1.0, computed=1.0):
        return max(model["weights"] * bits / 8 * read / bandwidth, 2 * batch * model["weights"] * computed / peak)

    def attention(tokens):
        return max(2 * model["kv"] * batch * tokens / bandwidth, model["attention"] * batch * tokens / peak)

    dense = products() + attention(context)
    paged = attention(min(context, budget) + math.ceil(context / page))
    return {
        "2:4": dense / (products(bits=9, computed=0.5) + attention(context)),
        "skip": dense / (products(read=1 - level**batch, computed=1 - level) + attention(context)),
        "pages": dense / (products() + paged),
    }


@speedup.accepts("tensors")
def _(batch, context, model, machine, level, page, budget):
    tokens = torch.tensor([context, context, context, -(-context // page) + min(context, budget)], dtype=torch.float64)
    read = torch.tensor([2, 9 / 8, 2 * (1 - level**batch), 2], dtype=torch.float64) * model["weights"]
    work = torch.tensor([2, 1, 2 * (1 - level), 2], dtype=torch.float64) * model["weights"] * batch
    weights = torch.maximum(read / machine["bandwidth"], work / machine["peak"])
    per_token = torch.tensor(
        [2 * model["kv"] / machine["bandwidth"], model["attention"] / machine["peak"]], dtype=torch.float64
    )
    seconds = weights + batch * tokens * per_token.max()
    return dict(zip(("2:4", "skip", "pages"), (seconds[0] / seconds[1:]).tolist(), strict=True))
