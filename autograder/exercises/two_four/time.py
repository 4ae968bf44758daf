"""Exercise 15.4: bytes, and the least time."""

import torch

from autograder.checking.exercise import Exercise
from autograder.inside.case import call


def least_time(N: int, K: int, tokens: int, sparse: bool, bandwidth: float, peak: float) -> tuple[float, float]:
    return _time(N, K, tokens, sparse, bandwidth, peak)


def _time(N, K, tokens, sparse, bandwidth, peak, *, weight=2.0, index=0.125, work=None, combine=max, vectors=2, scale=1.0):
    """(bytes, seconds), with what may be wrong about it; `weight` and `index` in bytes, per stored weight and per place of W."""
    weights = N * K * ((weight / 2 + index) if sparse else weight)
    moved = weights + vectors * tokens * (N + K)
    multiplications = 2 * N * K * tokens * ((0.5 if sparse else 1) if work is None else work)
    return float(moved * scale), combine(moved * scale / bandwidth, multiplications / peak)


time = Exercise(
    "two_four.time",
    defines="least_time",
    title="Bytes, and the least time",
    minutes=12,
    difficulty=1,
    hints=(
        "Count what is moved: weights, inputs and results. Then the roofline: the bytes take some time, the operations "
        "take some time, both at once, and the longer one decides.",
        "A float16 number and a word have 2 bytes each. A dense row is K numbers; a 2:4 row is K / 2 values and K / 16 "
        "words. x has `tokens * K` numbers and y `tokens * N`. More tokens mean more operations, but the weights are "
        "moved once.",
        "`weights = 2 * (N * K // 2 + N * K // 16)` if sparse, else `2 * N * K`. Add `2 * tokens * (K + N)` for x and y. "
        "A token takes `2 * N * K` operations, or half of them. The time is `max(moved / bandwidth, operations / peak)`.",
    ),
    reference=least_time,
)
LLAMA = (14336, 4096)  # a gate or up projection of LLaMA-3-8B
H100 = (3.0e12, 9.0e14)


def drawn(g: torch.Generator, sparse: bool, tokens: int | None = None, bandwidth: float = 1e9, peak: float = 1e18):
    """Any matrix, of which no two numbers are the same; memory is the slower one unless `peak` says otherwise."""
    N = int(torch.randint(40, 90, (), generator=g))
    K = 16 * int(torch.randint(6, 20, (), generator=g))  # from 96 on
    tokens = tokens or int(torch.randint(2, 30, (), generator=g))
    return call(N, K, tokens, sparse, bandwidth * int(torch.randint(1, 9, (), generator=g)), peak)


@time.stage(
    "bytes of a dense product",
    points=1,
    exposes="2 bytes for every weight, and 2 for every input and every result of every token.",
)
def _(g):
    yield call(16, 32, 1, False, 1e9, 1e15)
    yield drawn(g, False, tokens=1)
    yield drawn(g, False)
    N, K, tokens = (int(torch.randint(*span, (), generator=g)) for span in ((300, 900), (2, 9), (2, 9)))
    yield call(N, 16 * K, tokens, False, 2e9, 1e15)  # more rows than columns


@time.stage(
    "bytes of a 2:4 product",
    points=1,
    exposes="Values (N, K / 2) of 2 bytes and words (N, K / 16) of 2 bytes: 0.5625 of the dense weights. Inputs and results are as many as before.",
)
def _(g):
    yield call(16, 32, 1, True, 1e9, 1e15)
    yield drawn(g, True, tokens=1)
    yield drawn(g, True)
    yield call(2 * int(torch.randint(50, 90, (), generator=g)) + 1, 16, 3, True, 2e9, 1e15)  # one word, an odd number of rows
    yield call(*LLAMA, 1, True, *H100)


@time.stage(
    "the slower of memory and arithmetic",
    points=1,
    exposes="The time is the larger one of bytes / bandwidth and operations / peak: they go on at the same time. An operation is a multiplication or "
    "an addition: 2 N K for each token when dense, half of them with 2:4.",
)
def _(g):
    for tokens in (1, 7, 500, 4096):
        for sparse in (False, True):
            yield call(*LLAMA, tokens, sparse, *H100)
    for sparse in (False, True):
        yield drawn(g, sparse, bandwidth=1e12, peak=1e11)  # a few tokens, and arithmetic is slower
        yield drawn(g, sparse, tokens=1, bandwidth=1e12, peak=1e11)
        yield drawn(g, sparse, tokens=5000 + int(torch.randint(0, 99, (), generator=g)))  # very many, and memory is slower


def mistaken(name: str, says: str, wrong=None, **options):
    def answer(N, K, tokens, sparse, bandwidth, peak):
        return _time(N, K, tokens, sparse, bandwidth, peak, **options)

    time.misconception(name, says)(wrong or answer)


mistaken("no inputs and results", "You left out the inputs and the results: 2 (N + K) bytes for every token.", vectors=0)
mistaken(
    "no index",
    "You counted the values alone: a half. The words that say where they belong take another sixteenth of the dense bytes.",
    index=0,
)
mistaken(
    "index of a byte per value",
    "Your index is four times as large as it is: a byte for every kept place, as unit 01 stored them before it packed, is too much. It takes "
    "two bits, a word of 2 bytes for 16 columns.",
    index=0.5,
)
mistaken(
    "two bits for all places",
    "Your index is twice as large as it is. Two bits for every *kept* weight are a word of 2 bytes for 16 columns; the other half has no place to tell.",
    index=0.25,
)
mistaken(
    "a bit for each value",
    "Your index is half as large as it is. There are four places in a group, so a kept value takes two bits: a word of 2 bytes for 16 columns.",
    index=0.0625,
)
mistaken("float32", "You counted 4 bytes for a number. The weights are float16: 2 bytes.", weight=4.0, index=0.125, vectors=4)
mistaken("bits", "You counted bits, not bytes: all is 8 times too large.", scale=8.0)
mistaken(
    "memory plus arithmetic",
    "You added the two times. Memory and arithmetic work at the same time: the larger one decides.",
    combine=lambda a, b: a + b,
)
mistaken(
    "memory alone", "You left out the arithmetic. With many tokens it takes longer than the bytes do.", combine=lambda a, b: a
)
mistaken("the faster one", "You took the smaller of the two times. The slower one decides: `max`.", combine=min)
mistaken(
    "arithmetic as if dense",
    "You counted all operations for 2:4. The sparse tensor cores skip the zeros: half of them are left.",
    work=1.0,
)
mistaken("arithmetic as if sparse", "You halved the operations of the dense product too. Only 2:4 skips them.", work=0.5)
mistaken(
    "multiplications only",
    "You counted multiplications and not additions. An operation is either: 2 N K for each token.",
    lambda N, K, tokens, sparse, bandwidth, peak: _time(N, K, tokens, sparse, bandwidth, peak, work=0.25 if sparse else 0.5),
)
mistaken(
    "one token's arithmetic",
    "Your operations do not depend on the number of tokens. Every token is multiplied by every weight; only the bytes of the weights are shared.",
    lambda N, K, tokens, sparse, bandwidth, peak: _time(
        N, K, tokens, sparse, bandwidth, peak, work=(0.5 if sparse else 1) / tokens
    ),
)
mistaken(
    "weights again for every token",
    "You read all weights for every token. They are read once for all tokens of a step: that is why batches pay.",
    lambda N, K, tokens, sparse, bandwidth, peak: (
        b := float(tokens * (N * K * (1.125 if sparse else 2) + 2 * (N + K))),
        max(b / bandwidth, 2 * N * K * tokens * (0.5 if sparse else 1) / peak),
    ),
)
mistaken(
    "one token's inputs",
    "You counted the inputs and results of one token. Every token brings its own.",
    lambda N, K, tokens, sparse, bandwidth, peak: (
        b := float(N * K * (1.125 if sparse else 2) + 2 * (N + K)),
        max(b / bandwidth, 2 * N * K * tokens * (0.5 if sparse else 1) / peak),
    ),
)


@time.accepts("in whole numbers, step by step")
def _(N, K, tokens, sparse, bandwidth, peak):
    values = N * K // 2 if sparse else N * K
    words = N * (K // 16) if sparse else 0
    total = 2 * values + 2 * words + 2 * tokens * K + 2 * tokens * N
    operations = 2 * values * tokens
    memory, arithmetic = total / bandwidth, operations / peak
    return [total, memory if memory > arithmetic else arithmetic]


@time.accepts("in bits")
def _(N, K, tokens, sparse, bandwidth, peak):
    per_group = 36 if sparse else 64
    bits = per_group * N * K / 4 + 16 * tokens * (N + K)
    return bits / 8, max(bits / 8 / bandwidth, (1 if sparse else 2) * N * K * tokens / peak)
