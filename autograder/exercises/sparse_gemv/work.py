"""Exercise 16.1: what a product that skips has to do."""

import torch

from autograder.checking.exercise import Exercise
from autograder.inside.case import call


def least_work(
    K: int, N: int, kept: int, tokens: int, splits: int, bandwidth: float, peak: float
) -> tuple[int, int, float]:  # fmt: skip
    return _work(K, N, kept, tokens, splits, bandwidth, peak)


def _work(K, N, kept, tokens, splits, bandwidth, peak, *, rows=None, read=None, sums=8.0, arithmetic=None, combine=max):
    """(bytes, operations, seconds), with what may be wrong about it: rows of W that are read, inputs that are read, bytes per
    sum that one kernel leaves to the next, rows that are multiplied."""
    rows, read = kept if rows is None else rows, K if read is None else read
    between = sums * splits * tokens * N if splits > 1 else 0
    moved = 2 * rows * N + 2 * tokens * (read + N) + between
    operations = 2 * (kept if arithmetic is None else arithmetic) * N * tokens
    return int(moved), int(operations), combine(moved / bandwidth, operations / peak)


work = Exercise(
    "sparse_gemv.work",
    defines="least_work",
    title="Bytes and operations before anything else",
    minutes=10,
    difficulty=1,
    hints=(
        "Count what is moved: rows of weights, inputs and results; and with two or more parts a fourth thing, the sums "
        "between the two kernels. Operations come from the rows that are read.",
        "Weights: `kept * N` numbers of 2 bytes. *All* inputs are read, small ones too, for how else would one know that "
        "they are small? A partial sum has 4 bytes and is moved twice: the first kernel writes it, the second reads it.",
        "Partial sums move `2 * 4 * splits * tokens * N` bytes if `splits > 1`, and none otherwise; the rest is `2 * kept "
        "* N + 2 * tokens * (K + N)`. There are `2 * kept * N * tokens` operations, and the seconds are the larger of the "
        "two quotients.",
    ),
    reference=least_work,
)
LLAMA = (4096, 14336)  # a gate or up projection of LLaMA-3-8B, input-major


def drawn(g: torch.Generator, tokens: int, splits: int, bandwidth: float = 2e9, peak: float = 1e18, kept: int | None = None):
    """Any product; memory is the slower one unless `peak` says otherwise."""
    spans = (60, 99), (100, 200), (20, 50)
    K, N, some = (int(torch.randint(*span, (), generator=g)) for span in spans)
    return call(K, N, some if kept is None else kept, tokens, splits, bandwidth, peak)


def some(g: torch.Generator) -> int:
    return int(torch.randint(3, 20, (), generator=g))


@work.stage(
    "bytes of one kernel",
    points=1,
    exposes="2 bytes for every weight of the kept rows, for every input and for every result. All inputs are read: whether one is small is seen only then.",
)
def _(g):
    yield call(64, 48, 64, 1, 1, 1e9, 1e15)
    yield drawn(g, 1, 1)
    yield drawn(g, some(g), 1, kept=0)
    yield drawn(g, some(g), 1)


@work.stage(
    "partial sums",
    points=1,
    exposes="With two parts or more, every part writes a float32 sum for each output of each token, and the second kernel reads it: 8 bytes. "
    "One part writes its results at once, and there is no second kernel.",
)
def _(g):
    yield drawn(g, 1, 2)
    yield drawn(g, some(g), some(g))
    yield drawn(g, some(g), 2, kept=0)  # also where all sums are 0
    yield drawn(g, 2, 200 + some(g))  # more parts than rows
    yield call(*LLAMA, 2048, 1, 8, 3.0e12, 9.0e14)


@work.stage(
    "operations, and the slower of memory and arithmetic",
    points=1,
    exposes="A kept row has N products for every token, and as many additions. Memory and arithmetic work at the same time: the time is the larger of the two.",
)
def _(g):
    for tokens in (1, 300, 2000):
        yield call(*LLAMA, 1024, tokens, 4, 3.0e12, 9.0e14)
    yield drawn(g, some(g), some(g), 1e12, 1e11)  # a few tokens, and arithmetic is slower
    yield drawn(g, 1, 1, 1e12, 1e11)
    yield drawn(g, 5000 + some(g), some(g))  # very many, and memory is slower


def mistaken(name: str, says: str, change):
    """`change` gives what is different, from the arguments."""

    def answer(K, N, kept, tokens, splits, bandwidth, peak):
        return _work(K, N, kept, tokens, splits, bandwidth, peak, **change(K, N, kept, tokens, splits))

    work.misconception(name, says)(answer)


mistaken(
    "all rows",
    "You read every row of W: that is the dense product. Only `kept` rows are read.",
    lambda K, N, kept, tokens, splits: dict(rows=K, arithmetic=K),
)
mistaken(
    "all rows in memory",
    "You count every row of W in the bytes, though you skip it in the operations. A row that is read and then multiplied by zero is not skipped.",
    lambda K, N, kept, tokens, splits: dict(rows=K),
)
mistaken(
    "skipped instead of kept",
    "You count the rows that are skipped. `kept` says how many are read.",
    lambda K, N, kept, tokens, splits: dict(rows=K - kept, arithmetic=K - kept),
)
mistaken(
    "kept inputs only",
    "You count the kept inputs only. Every input has to be read, for whether it is small is seen only then.",
    lambda K, N, kept, tokens, splits: dict(read=kept),
)
mistaken(
    "no inputs",
    "You left out the inputs: 2 bytes for each of K, for every token.",
    lambda K, N, kept, tokens, splits: dict(read=0),
)
mistaken(
    "no results",
    "You left out the results: 2 bytes for each of N, for every token.",
    lambda K, N, kept, tokens, splits: dict(read=K - N),
)
mistaken(
    "inputs and results of one token",
    "You count the inputs and results of one token. Every token brings its own.",
    lambda K, N, kept, tokens, splits: dict(read=(K + N) / tokens - N),
)
mistaken(
    "weights again for every token",
    "You read the kept rows again for every token. They are read once for all tokens of a step.",
    lambda K, N, kept, tokens, splits: dict(rows=kept * tokens),
)
mistaken(
    "no partial sums",
    "You left out the partial sums: 4 bytes written and 4 bytes read, for every output of every part.",
    lambda K, N, kept, tokens, splits: dict(sums=0.0),
)
mistaken(
    "partial sums once",
    "You count 4 bytes for a partial sum. A float32 takes 4, and it is written by one kernel and read by the other: 8 bytes.",
    lambda K, N, kept, tokens, splits: dict(sums=4.0),
)
mistaken(
    "partial sums of one token",
    "You count the partial sums of one token. Every token has its own.",
    lambda K, N, kept, tokens, splits: dict(sums=8.0 / tokens),
)
mistaken(
    "one set of partial sums",
    "You count one partial sum for each output, however many parts there are. Each part leaves its own.",
    lambda K, N, kept, tokens, splits: dict(sums=8.0 / splits),
)
mistaken(
    "multiplications only",
    "You count multiplications and not additions. An operation is either: 2 N for every kept row and token.",
    lambda K, N, kept, tokens, splits: dict(arithmetic=kept / 2),
)
mistaken(
    "operations of one token",
    "Your operations do not depend on the number of tokens. Every token is multiplied by every kept row.",
    lambda K, N, kept, tokens, splits: dict(arithmetic=kept / tokens),
)
mistaken(
    "operations as if dense",
    "You count the operations of all rows. Rows that are skipped are not multiplied either.",
    lambda K, N, kept, tokens, splits: dict(arithmetic=K),
)
mistaken(
    "memory plus arithmetic",
    "You added the two times. Memory and arithmetic work at the same time: the larger one decides.",
    lambda K, N, kept, tokens, splits: dict(combine=lambda a, b: a + b),
)
mistaken(
    "memory alone",
    "You left out the arithmetic. With many tokens it takes longer than the bytes do.",
    lambda K, N, kept, tokens, splits: dict(combine=lambda a, b: a),
)
mistaken(
    "arithmetic alone",
    "You left out the bytes. With few tokens they take longer than the arithmetic does.",
    lambda K, N, kept, tokens, splits: dict(combine=lambda a, b: b),
)
mistaken(
    "the faster one",
    "You took the smaller of the two times. The slower one decides: `max`.",
    lambda K, N, kept, tokens, splits: dict(combine=min),
)


mistaken(
    "partial sums of a single part",
    "You count partial sums where there is one part. It writes the results itself; nothing is left to add.",
    lambda K, N, kept, tokens, splits: dict(read=K + 4 * N if splits == 1 else K),  # 4 of 2 bytes are a sum, twice
)


@work.accepts("step by step")
def _(K, N, kept, tokens, splits, bandwidth, peak):
    total = kept * N * 2
    for _ in range(tokens):
        total += K * 2 + N * 2
        if splits != 1:
            total += splits * N * 4 * 2
    operations = tokens * kept * N + tokens * kept * N
    memory, arithmetic = total / bandwidth, operations / peak
    return [total, operations, memory if memory > arithmetic else arithmetic]


@work.accepts("by shares of the dense product, in floats")
def _(K, N, kept, tokens, splits, bandwidth, peak):
    dense = 2.0 * K * N
    moved = dense * kept / K + 2.0 * tokens * (K + N) + (splits > 1) * 8.0 * splits * tokens * N
    return moved, dense * tokens * kept / K, max(moved / bandwidth, dense * tokens * kept / K / peak)
