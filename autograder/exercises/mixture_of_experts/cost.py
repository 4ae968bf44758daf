"""Exercise 8.7: what a mixture costs."""

import math
from fractions import Fraction

import numpy as np
import torch

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.inside.case import Case, call


def mixture_cost(
    d: int, f: int, n_experts: int, k: int, tokens: int, shared: int = 0, *, matrices=3, per=2, router=True, reads=None
) -> tuple[int, int, float]:
    """With exchangeable parts, for mistakes in one part."""
    expert, always = matrices * d * f, router * n_experts * d + matrices * d * shared
    idle = 1 - Fraction(k, n_experts)
    met = n_experts * (1 - idle**tokens) if reads is None else reads(n_experts, k, tokens)
    flops = per * tokens * (always + k * expert)
    return always + n_experts * expert, flops, float(always + met * expert)


cost = Exercise(
    "mixture_of_experts.cost",
    defines="mixture_cost",
    title="What it costs",
    minutes=8,
    difficulty=2,
    hints=(
        "Count three things: what memory holds (all experts), what is computed (k experts for each token), and what is read (each expert that at least "
        "one token chose, once).",
        "A SwiGLU expert has 3 matrices of d * f, the router has n_experts * d numbers, and a shared expert is one more expert for everybody. One token "
        "leaves a given expert alone with probability 1 - k / n_experts; all tokens do with that to the power of `tokens`.",
        "With `expert = 3 * d * f` and `always = n_experts * d + 3 * d * shared`: `always + n_experts * expert`, "
        "`2 * tokens * (always + k * expert)`, and `always + expert * n_experts * (1 - (1 - k / n_experts) ** tokens)`.",
    ),
    reference=mixture_cost,
    rules=Rules(tolerance=1e-9),
)


def sizes(g: torch.Generator, n_experts: int, k: int, tokens: int, **options) -> Case:
    d, f = (int(x) for x in torch.randint(20, 600, (2,), generator=g))
    return call(d, f + (f == d), n_experts, k, tokens, **options)


def some(g: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (), generator=g))


@cost.stage(
    "one token",
    points=1,
    exposes="All experts and the router are held; k experts and the router are computed with, a multiplication and an addition for each number; and as "
    "much is read.",
)
def _(g):
    yield sizes(g, some(g, 6, 12), 2, 1)
    yield sizes(g, some(g, 3, 6), 1, 1)
    yield sizes(g, some(g, 40, 90), some(g, 5, 9), 1)
    yield sizes(g, 4, 4, 1)


@cost.stage(
    "a batch",
    points=1,
    exposes="FLOPs grow with the tokens. What is read does not: an expert is read once, however many chose it, if anybody did.",
)
def _(g):
    yield sizes(g, some(g, 6, 12), 2, 2)
    yield sizes(g, some(g, 6, 12), 3, some(g, 3, 9))
    yield sizes(g, some(g, 60, 90), some(g, 4, 9), some(g, 4, 30))
    yield sizes(g, some(g, 6, 12), 2, 5000)
    yield sizes(g, some(g, 200, 300), 1, some(g, 50, 90))
    yield sizes(g, 5, 5, some(g, 2, 9))
    yield sizes(g, 2000, 1, some(g, 900, 1200))
    yield call(some(g, 3, 9), some(g, 10, 20), 11, 3, some(g, 3, 6))


@cost.stage(
    "with a shared expert",
    points=1,
    exposes="A shared expert of width `shared` is one SwiGLU layer more, which every token meets: held once, computed for each token, read once.",
)
def _(g):
    yield sizes(g, some(g, 6, 12), 2, 1, shared=some(g, 20, 300))
    yield sizes(g, some(g, 40, 90), 6, some(g, 2, 20), shared=some(g, 20, 300))
    yield sizes(g, some(g, 6, 12), 1, some(g, 2, 9), shared=some(g, 20, 300))
    yield sizes(g, some(g, 6, 12), 2, 3, shared=0)


def mistaken(name: str, says: str, **parts) -> None:
    cost.misconception(name, says)(lambda *args, **options: mixture_cost(*args, **options, **parts))


mistaken("two matrices", "A SwiGLU expert has three matrices: gate, up and down. You counted two.", matrices=2)
mistaken("without the router", "You left out the router: n_experts * d numbers, held, computed with and read.", router=False)
mistaken(
    "one operation for a number",
    "You counted one operation for each number. A multiplication and an addition are two.",
    per=1,
)
mistaken(
    "k experts for every token",
    "You let each token read its own k experts. Two tokens that chose the same expert read it once; more than all cannot be read.",
    reads=lambda E, k, tokens: k * tokens,
)
mistaken(
    "no two alike",
    "You assume that no two tokens choose the same expert until all are read. They choose independently: an expert is left alone with probability "
    "(1 - k / E)^tokens.",
    reads=lambda E, k, tokens: min(E, k * tokens),
)
mistaken(
    "drawn with replacement",
    "You let a token draw k times, the same expert perhaps twice. Its k experts differ, so it leaves a given one alone with probability 1 - k / E, not "
    "(1 - 1 / E)^k.",
    reads=lambda E, k, tokens: E * (1 - (1 - Fraction(1, E)) ** (k * tokens)),
)
mistaken("all are read", "You read all experts in any case. One token reads k of them.", reads=lambda E, k, tokens: E)
mistaken(
    "always k", "You read k experts however many tokens there are. Other tokens choose others.", reads=lambda E, k, tokens: k
)
mistaken(
    "one choice",
    "You forgot k in what is read: a token leaves an expert alone with probability 1 - k / E.",
    reads=lambda E, k, tokens: E * (1 - (1 - Fraction(1, E)) ** tokens),
)
mistaken(
    "the probability itself",
    "You did not multiply by the number of experts: 1 - (1 - k / E)^tokens is the share that is read.",
    reads=lambda E, k, tokens: 1 - (1 - Fraction(k, E)) ** tokens,
)
mistaken(
    "those left alone",
    "You count the experts that are left alone. Read are the others: 1 minus that.",
    reads=lambda E, k, tokens: E * (1 - Fraction(k, E)) ** tokens,
)


def other(name: str, says: str):
    return cost.misconception(name, says)


@other("FLOPs of all experts", "You compute with all experts. A token meets k of them: that is the point of it.")
def _(d, f, n_experts, k, tokens, shared=0):
    held, _, read = mixture_cost(d, f, n_experts, k, tokens, shared)
    return held, 2 * tokens * held, read


@other("FLOPs without the router", "You left the router out of the FLOPs: each token is multiplied by it, to choose.")
def _(d, f, n_experts, k, tokens, shared=0):
    held, flops, read = mixture_cost(d, f, n_experts, k, tokens, shared)
    return held, flops - 2 * tokens * n_experts * d, read


@other("FLOPs of one token", "Your FLOPs are those of one token. The batch has `tokens` of them.")
def _(d, f, n_experts, k, tokens, shared=0):
    held, flops, read = mixture_cost(d, f, n_experts, k, tokens, shared)
    return held, flops // tokens, read


@other("read for a token", "You divided what is read by the tokens. It is asked for the whole batch.")
def _(d, f, n_experts, k, tokens, shared=0):
    held, flops, read = mixture_cost(d, f, n_experts, k, tokens, shared)
    return held, flops, read / tokens


@other("held is what a token meets", "You return what one token meets as what is held. Memory holds all experts.")
def _(d, f, n_experts, k, tokens, shared=0):
    return mixture_cost(d, f, k, k, tokens, shared)[0] + (n_experts - k) * d, *mixture_cost(d, f, n_experts, k, tokens, shared)[
        1:
    ]


@other("no shared expert", "You left out the shared expert: 3 * d * shared numbers, held, computed with and read.")
def _(d, f, n_experts, k, tokens, shared=0):
    return mixture_cost(d, f, n_experts, k, tokens)


@other("shared experts for all", "You counted the shared expert once for each expert. There is one.")
def _(d, f, n_experts, k, tokens, shared=0):
    held, flops, read = mixture_cost(d, f, n_experts, k, tokens, shared)
    return held + (n_experts - 1) * 3 * d * shared, flops, read


@other("shared read by each token", "You read the shared expert once for each token. It is read once for the batch.")
def _(d, f, n_experts, k, tokens, shared=0):
    held, flops, read = mixture_cost(d, f, n_experts, k, tokens, shared)
    return held, flops, read + (tokens - 1) * 3 * d * shared


@other("shared of width f", "You gave the shared expert the width f. Its width is `shared`.")
def _(d, f, n_experts, k, tokens, shared=0):
    return mixture_cost(d, f, n_experts, k, tokens, f if shared else 0)


@cost.accepts("floats, with the geometric series")
def _(d, f, n_experts, k, tokens, shared=0):
    expert, always = 3 * d * f, n_experts * d + 3 * d * shared
    met = sum(k * (1 - k / n_experts) ** b for b in range(tokens))  # each token adds what nobody before it chose
    return always + n_experts * expert, 2 * (always + k * expert) * tokens, always + expert * met


@cost.accepts("by logarithms, numpy")
def _(d, f, n_experts, k, tokens, shared=0):
    left = np.exp(tokens * np.log1p(-k / n_experts)) if k < n_experts else 0.0
    always = d * (n_experts + 3 * shared)
    active = always + k * 3 * d * f
    return always + 3 * n_experts * d * f, active * tokens * 2, always + 3 * d * f * n_experts * (1 - left)


@cost.accepts("in torch")
def _(d, f, n_experts, k, tokens, shared=0):
    up, gate, down = (d * f,) * 3
    router, everybody = d * n_experts, 3 * shared * d
    share = 1 - math.pow(1 - k / n_experts, tokens)
    read = torch.tensor(router + everybody + n_experts * share * (up + gate + down), dtype=torch.float64).item()
    return n_experts * (up + gate + down) + router + everybody, tokens * 2 * (router + everybody + k * (up + gate + down)), read
