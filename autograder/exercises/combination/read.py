"""Exercise 17.1: what a step reads."""

import math

import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.combination.fixtures import share, some
from autograder.exercises.combination.read_mistakes import counted, mistakes
from autograder.inside.case import Case, call

read = Exercise(
    "combination.read",
    defines="step_bytes",
    title="What a step reads",
    minutes=15,
    difficulty=2,
    hints=(
        "Two questions about weights: how many bytes is each of them stored in, and which share of them does some sequence need? One about caches: how many "
        "tokens' worth does a sequence read?",
        "A weight takes `itemsize` bytes if all are stored, `itemsize / 2` and a bit more in 2:4, and `(1 - sparsity) * itemsize` and a bit more with a bitmap. "
        "An input is skipped if it is small in all sequences: the chance is `skipped ** batch`. Four inputs are skipped as one if all four are small in all "
        "sequences. The bounds of a page are read like one more token.",
        "`one = {'dense': itemsize, '2:4': itemsize / 2 + 1 / 8}`, and for any other `stored` it is `(1 - stored) * itemsize + 1 / 8`; `needed = 1 - skipped ** "
        "(batch * (4 if stored == '2:4' else 1))`; of tokens `context`, or `min(context, budget)`, and with pages `math.ceil(context / page)` more. Caches are "
        "read `batch` times, weights once.",
    ),
    reference=counted,
    misconceptions=mistakes,
)


def case(g: torch.Generator, stored, skipped: float = 0.0, batch: int = 1, **more) -> Case:
    return call(4 * some(g, 10**6, 10**8), stored, skipped, batch, some(g, 1000, 9000), 2 * some(g, 200, 9000), **more)


@read.stage(
    "how weights are stored",
    points=1,
    exposes="Of 2:4 two values of four are read and 2 bits for the place of each; of a sparse matrix the values that are not zero, and one bit for every position.",
)
def _(g):
    for stored in ("dense", "2:4", share(g, 0.3, 0.45), share(g, 0.7, 0.9)):
        yield case(g, stored)


@read.stage(
    "which weights are read",
    points=1,
    exposes="Weights are read once for all sequences, if any of them needs them: all but skipped**batch. What is stored of a skipped input is skipped, its bits "
    "too. In 2:4 four inputs are skipped as one, if all are small in all sequences.",
)
def _(g):
    for batch in (1, 2, some(g, 3, 6)):
        for stored in ("dense", "2:4", share(g, 0.3, 0.7)):
            yield case(g, stored, share(g, 0.6, 0.8), batch)


@read.stage(
    "what of the caches",
    points=1,
    exposes="Each sequence reads its own cache. A budget is the most tokens that are read. With pages come kv numbers for the bounds of each page of the context, "
    "also of the last one, which may not be full.",
)
def _(g):
    for batch in (1, some(g, 2, 9)):
        page = some(g, 12, 40)
        yield case(g, "dense", 0.0, batch)
        yield case(g, "2:4", 0.0, batch, budget=some(g, 100, 900))
        context, budget = page * some(g, 60, 90) + some(g, 1, page // 2), some(g, 100, 600)
        yield call(4 * some(g, 10**6, 10**8), "dense", 0.0, batch, context, 2 * some(g, 200, 9000), page, budget)


@read.stage(
    "all at once, and the ends",
    points=1,
    exposes="A budget above the context reads the context, and the bounds of all pages all the same. A sparsity of 0 is stored with its bits. Nothing of the weights "
    "is read if everything is skipped. Numbers have itemsize bytes, bits are bits.",
)
def _(g):
    sizes = some(g, 10**6, 10**8) * 4, some(g, 2, 5)
    page, kv = some(g, 5, 11), 2 * some(g, 100, 900)
    short = page * some(g, 20, 40) + 1
    yield call(sizes[0], "2:4", share(g, 0.7, 0.8), sizes[1], short, kv, page, 2 * short, 4)
    yield call(sizes[0], share(g, 0.4, 0.6), share(g, 0.7, 0.8), sizes[1], short, kv, page, page, itemsize=4)
    yield call(sizes[0], 0.0, 0.0, sizes[1], short, kv, budget=short + 7, itemsize=1)
    yield call(sizes[0], 0.0, share(g, 0.4, 0.6), sizes[1], page * some(g, 3, 9), kv, page, 2 * page)
    yield call(sizes[0], "2:4", 1.0, sizes[1], short, kv)
    yield call(sizes[0], "dense", share(g, 0.7, 0.8), sizes[1], short, kv, itemsize=1)


@read.accepts("two small functions")
def _(weights, stored, skipped, batch, context, kv, page=None, budget=None, itemsize=2):
    def bits():
        if stored == "dense":
            return 8 * itemsize
        if stored == "2:4":
            return (2 * 8 * itemsize + 2 * 2) / 4
        return 8 * itemsize * (1 - stored) + 1

    def tokens():
        read = context if budget is None or budget > context else budget
        return read if page is None else read + (context + page - 1) // page

    small_in_all = skipped**batch
    needed = 1 - (small_in_all**4 if stored == "2:4" else small_in_all)
    return weights * needed * bits() / 8, batch * kv * itemsize * tokens()


@read.accepts("match")
def _(weights, stored, skipped, batch, context, kv, page=None, budget=None, itemsize=2):
    match stored:
        case "dense":
            held, group = weights * itemsize, 1
        case "2:4":
            held, group = weights // 2 * itemsize + weights // 4 * 4 / 8, 4
        case sparsity:
            held, group = weights * ((1 - sparsity) * itemsize + 0.125), 1
    numbers = kv * (context if budget is None else min(context, budget))
    if page is not None:
        numbers += kv * math.ceil(context / page)
    return held - held * math.prod([skipped] * batch * group), float(itemsize * batch * numbers)


@read.accepts("tensors")
def _(weights, stored, skipped, batch, context, kv, page=None, budget=None, itemsize=2):
    skipped = torch.tensor(skipped, dtype=torch.float64)
    one, power = {"dense": (itemsize, 1), "2:4": (itemsize / 2 + 1 / 8, 4)}.get(stored, (None, 1))
    if one is None:
        one = itemsize - stored * itemsize + 1 / 8
    tokens = torch.tensor(context if budget is None else budget).clamp(max=context)
    if page:
        tokens = tokens + -(-context // page)
    return weights * one * (1 - skipped.pow(batch).pow(power)), (tokens * batch * kv * itemsize).double()
