"""Exercise 8.2: the capacity of an expert."""

import math
from functools import cache

import numpy as np
import torch

from autograder.checking.exercise import Exercise
from autograder.inside.case import Case, call

NAMES = ("mesh", "flaxformer", "deepspeed", "megatron")


def expert_capacity(tokens: int, n_experts: int, k: int, factor: float, rounding: str, **parts) -> int:
    """With exchangeable parts, for mistakes in one part."""
    if rounding not in NAMES:
        raise ValueError(rounding)
    floor, half, ceil = parts.get("floor", math.floor), parts.get("half", round), parts.get("ceil", math.ceil)
    least = parts.get("least", {"mesh": 4, "flaxformer": 4, "deepspeed": 4, "megatron": 0})
    share = factor * tokens / n_experts
    size = {
        "mesh": lambda: min(tokens, floor(share)),
        "flaxformer": lambda: half(share),
        "deepspeed": lambda: ceil(tokens / n_experts * (factor * k)),
        "megatron": lambda: ceil(tokens * k / n_experts * factor),
    }[rounding]()
    return max(least[rounding], size)


capacity = Exercise(
    "mixture_of_experts.capacity",
    defines="expert_capacity",
    title="Capacity",
    minutes=8,
    difficulty=1,
    hints=(
        "Four formulas, one for each name: they differ in how they round, in whether k counts, and in the smallest capacity.",
        "`int` cuts off, `math.ceil` goes up, and Python's `round` takes the even neighbour of a half, as flaxformer does. The minimum comes last, "
        "after mesh's limit to the number of tokens.",
        "mesh: `max(min(tokens, int(tokens * factor / n_experts)), 4)`. flaxformer: `max(round(factor * tokens / n_experts), 4)`. deepspeed: "
        "`max(math.ceil(tokens / n_experts * factor * k), 4)`. megatron: `math.ceil(tokens * k / n_experts * factor)`.",
    ),
    reference=expert_capacity,
)


@cache
def candidates(k: int) -> list[tuple[int, int, float, float]]:
    """(tokens, experts, factor, share) with the same result in any order of the operations; share counts k."""
    found = []
    for tokens in (*range(5, 90, 3), 100, 128, 200, 250, 511, 1000, 1024, 3000):
        for experts in (3, 4, 6, 7, 8, 12, 16, 20, 64):
            for thousandths in (*range(500, 2500, 125), 1100, 1200, 1160, 1310, 1450, 1740, 2300):
                factor = thousandths / 1000
                f = factor * k
                orders = {f * tokens / experts, tokens / experts * f, f / experts * tokens, tokens * k / experts * factor}
                narrow = float(np.float32(f) * np.float32(tokens / experts))
                if all(len({rounded(x) for x in (*orders, narrow)}) == 1 for rounded in (math.floor, round, math.ceil)):
                    found.append((tokens, experts, factor, f * tokens / experts))
    return found


@cache
def just_below() -> list[tuple[int, int, float, float]]:
    """Where the share falls just short of a whole number in any order of the operations, but not in float32."""
    found = []
    for tokens in range(40, 2000, 10):
        for experts in (2, 4, 8, 16, 32):  # division by these is exact
            for thousandths in range(1010, 2000, 10):
                factor = thousandths / 1000
                share = factor * tokens / experts
                others = (tokens / experts * factor, factor / experts * tokens)
                if share % 1 > 1 - 1e-9 and share > 8 and all(int(x) == int(share) for x in others):
                    found.append((tokens, experts, factor, share))
    return found


def drawn(g: torch.Generator, rounding: str, k: int, accept, found=None) -> Case:
    fitting = [c for c in (found or candidates(k if rounding in ("deepspeed", "megatron") else 1)) if accept(c[0], c[3])]
    tokens, experts, factor, _ = fitting[int(torch.randint(len(fitting), (), generator=g))]
    return call(tokens, experts, k, factor, rounding)


def between(low: float, high: float, most: float = math.inf):
    """Shares whose fraction is from low to high; large enough that no minimum counts."""
    return lambda tokens, share: low < share % 1 < high and 5 < share < min(tokens, most)


@capacity.stage(
    "Megatron: rounded up, k counts",
    points=1,
    exposes="megatron: the tokens times k, shared among the experts, times the factor, rounded up; there is no minimum, and no limit.",
)
def _(g):
    for k in (1, 2, 2, 3):
        yield drawn(g, "megatron", k, between(0.05, 0.45))
        yield drawn(g, "megatron", k, between(0.55, 0.95))
    yield drawn(g, "megatron", 1, lambda tokens, share: 0.1 < share < 0.9)
    yield drawn(g, "megatron", 2, lambda tokens, share: 1.1 < share < 2.9)
    yield drawn(g, "megatron", 2, lambda tokens, share: share % 1 == 0 and share > 5)
    yield call(int(torch.randint(20, 60, (), generator=g)), 2, 2, 2.5, "megatron")  # more than there are tokens


@capacity.stage(
    "mesh: rounded down, from 4 to all tokens",
    points=1,
    exposes="mesh: factor times tokens over experts, cut off, at most all tokens, at least 4 (also where there are fewer tokens); k does not count.",
)
def _(g):
    for k in (1, 2, 2, 3):
        yield drawn(g, "mesh", k, between(0.05, 0.45))
        yield drawn(g, "mesh", k, between(0.55, 0.95))
    yield drawn(g, "mesh", 2, lambda tokens, share: share < 3.4 and tokens > 5)
    yield call(int(torch.randint(20, 60, (), generator=g)), 2, 2, 2.5, "mesh")
    yield call(3, 4, 1, 1.25, "mesh")
    yield drawn(g, "mesh", 1, lambda *_: True, just_below())
    yield drawn(g, "mesh", 2, lambda *_: True, just_below())


@capacity.stage(
    "flaxformer: rounded to the nearest, a half to the even one",
    points=1,
    exposes="flaxformer: factor times tokens over experts, rounded as Python's round does, which takes the even neighbour of a half; at least 4; k "
    "does not count.",
)
def _(g):
    for k in (1, 2, 3):
        yield drawn(g, "flaxformer", k, between(0.05, 0.45))
        yield drawn(g, "flaxformer", k, between(0.55, 0.95))
    for odd in (0, 1):
        yield drawn(g, "flaxformer", 2, lambda tokens, share, odd=odd: share % 1 == 0.5 and share // 1 % 2 == odd and share > 5)
    yield drawn(g, "flaxformer", 2, lambda tokens, share: share < 3.4)
    yield call(int(torch.randint(20, 60, (), generator=g)), 2, 2, 2.5, "flaxformer")


@capacity.stage(
    "DeepSpeed: rounded up, at least 4",
    points=1,
    exposes="deepspeed: tokens over experts times factor times k, rounded up, at least 4.",
)
def _(g):
    for k in (1, 2, 2, 3):
        yield drawn(g, "deepspeed", k, between(0.05, 0.45))
        yield drawn(g, "deepspeed", k, between(0.55, 0.95))
    yield drawn(g, "deepspeed", 2, lambda tokens, share: share < 2.9)
    yield drawn(g, "deepspeed", 2, lambda tokens, share: share % 1 == 0 and share > 5)
    yield call(int(torch.randint(20, 60, (), generator=g)), 2, 2, 2.5, "deepspeed")


@capacity.stage(
    "refuses other names",
    points=1,
    exposes="A rounding that is none of the four is a ValueError: a capacity that was chosen silently is how four conventions came about.",
)
def _(g):
    size = int(torch.randint(30, 90, (), generator=g)), 4, 2, 1.25
    for name in ("switch", "Mesh", "mesh ", "mega", "", None):
        yield call(*size, name)


def mistaken(name: str, says: str, wrong=None, **parts):
    capacity.misconception(name, says)(wrong or (lambda *args: expert_capacity(*args, **parts)))


def half_up(x):
    return math.floor(x + 0.5)


mistaken(
    "k never counts",
    "You left k out. deepspeed and megatron multiply by k: with two experts for each token there is twice as much to take.",
    lambda tokens, n_experts, k, factor, rounding: expert_capacity(tokens, n_experts, 1, factor, rounding),
)
mistaken(
    "k always counts",
    "You multiply by k for mesh and flaxformer too. There k is left to the factor: who wants room for two choices says factor 2.",
    lambda tokens, n_experts, k, factor, rounding: expert_capacity(
        tokens, n_experts, k, factor if rounding in ("deepspeed", "megatron") else factor * k, rounding
    ),
)
mistaken(
    "half up",
    "You round a half up. flaxformer uses Python's round: 2.5 becomes 2 and 3.5 becomes 4, the even neighbour.",
    half=half_up,
)
mistaken("mesh rounded up", "You round up for mesh too. mesh cuts off: `int(tokens * factor / n_experts)`.", floor=math.ceil)
mistaken(
    "mesh rounded to the nearest",
    "You round to the nearest for mesh. mesh cuts off: `int(tokens * factor / n_experts)`.",
    floor=round,
)
mistaken(
    "rounded down where up is meant",
    "You cut off for deepspeed and megatron. Both round up: `math.ceil`.",
    ceil=math.floor,
)
mistaken(
    "one more",
    "You wrote int(x) + 1 for rounding up. That adds one to a whole number too: math.ceil(5.0) is 5.",
    ceil=lambda x: math.floor(x) + 1,
)
mistaken(
    "no minimum",
    "You left out the minimum. mesh, flaxformer and deepspeed give an expert room for at least 4 tokens.",
    least=dict.fromkeys(NAMES, 0),
)
mistaken(
    "a minimum for all",
    "You give megatron a minimum of 4 too. It has none: with few tokens the capacity may be 1.",
    least=dict.fromkeys(NAMES, 4),
)
mistaken(
    "minimum before the limit",
    "You took the minimum before the limit. mesh first cuts to the number of tokens and then raises to 4, so 3 tokens have capacity 4.",
    lambda tokens, n_experts, k, factor, rounding: min(
        expert_capacity(tokens, n_experts, k, factor, rounding), tokens if rounding == "mesh" else 10**9
    ),
)
mistaken(
    "no limit",
    "mesh never gives an expert more room than there are tokens: min(tokens, ...).",
    lambda tokens, n_experts, k, factor, rounding: (
        max(int(tokens * factor / n_experts), 4)
        if rounding == "mesh"
        else expert_capacity(tokens, n_experts, k, factor, rounding)
    ),
)
mistaken(
    "a limit for all",
    "You limit every capacity to the number of tokens. Only mesh does.",
    lambda tokens, n_experts, k, factor, rounding: (
        expert_capacity(tokens, n_experts, k, factor, rounding)
        if rounding not in NAMES
        else min(expert_capacity(tokens, n_experts, k, factor, rounding), max(tokens, 4))
    ),
)
mistaken(
    "rounded before the factor",
    "You rounded tokens / n_experts before you multiplied by the factor. Round once, at the end.",
    lambda tokens, n_experts, k, factor, rounding: expert_capacity(
        tokens // n_experts * n_experts if tokens >= n_experts else tokens, n_experts, k, factor, rounding
    ),
)
mistaken("the factor missing", "You left out the factor.", lambda t, e, k, f, r: expert_capacity(t, e, k, 1.0, r))
mistaken(
    "one rounding for all",
    "You round up for every name. Each of the four rounds in its own way.",
    floor=math.ceil,
    half=math.ceil,
)
mistaken(
    "with a small number",
    "You add a small number before you cut off, or count in float32. mesh takes int() of Python's own product: 1.16 * 100 / 4 is a little less than "
    "29, and the capacity is 28.",
    floor=lambda x: int(x + 1e-6),
)
mistaken(
    "any name",
    "You accept any name. A rounding that is none of the four is a ValueError.",
    lambda t, e, k, f, rounding: expert_capacity(t, e, k, f, rounding if rounding in NAMES else "mesh"),
)
mistaken(
    "no number",
    "You return a text. A capacity is a whole number, an int.",
    lambda *args: str(expert_capacity(*args)),
)


@capacity.accepts("the lines of the four code bases")
def _(tokens, n_experts, k, factor, rounding):
    if rounding == "mesh":
        expert_capacity = min(tokens, int((tokens * factor) / n_experts))
        return max(expert_capacity, 4)
    if rounding == "flaxformer":
        expert_capacity = int(round(factor * tokens / n_experts))  # noqa: RUF046
        return max(expert_capacity, 4)
    if rounding == "deepspeed":
        capacity = torch.ceil((torch.tensor(tokens) / torch.tensor(n_experts)) * torch.tensor(factor * k)).to(torch.int64)
        return torch.max(capacity, torch.tensor(4)).item()
    if rounding == "megatron":
        return math.ceil((tokens * k / n_experts) * factor)
    raise ValueError(f"unknown rounding {rounding!r}")


@capacity.accepts("one share, four roundings")
def _(tokens, n_experts, k, factor, rounding):
    one, all_choices = tokens / n_experts * factor, k * tokens / n_experts * factor
    try:
        return {
            "mesh": max(4, min(tokens, int(one))),
            "flaxformer": max(4, round(one)),
            "deepspeed": max(4, -int(-all_choices // 1)),
            "megatron": -int(-all_choices // 1),
        }[rounding]
    except KeyError:
        raise ValueError("rounding") from None


@capacity.accepts("numpy")
def _(tokens, n_experts, k, factor, rounding):
    match rounding:
        case "mesh":
            return int(np.clip(np.floor(tokens * factor / n_experts), None, tokens).clip(4))
        case "flaxformer":
            return max(int(np.rint(tokens * factor / n_experts)), 4)
        case "deepspeed":
            return max(int(np.ceil(tokens * k * factor / n_experts)), 4)
        case "megatron":
            return int(np.ceil(tokens * k * factor / n_experts))
    raise ValueError(rounding)
