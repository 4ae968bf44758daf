"""Exercise 12.6: what a cache weighs."""

import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.mla.cache_bytes_mistakes import KINDS, mistakes, weighed
from autograder.inside.case import Case, call

cache_bytes = Exercise(
    "mla.cache_bytes",
    defines="cache_bytes",
    title="What a cache weighs",
    minutes=8,
    difficulty=1,
    hints=(
        "Ask of each kind: how many keys and values does a token leave in a layer, and how wide are they?",
        "MHA keeps a key and a value for each head, GQA for each group, MQA one key and one value. MLA keeps one latent, of which both are made, and one "
        "rotated key. All of it in every layer, for every token of every sequence.",
        "Numbers of a token in a layer: `2 * heads * head_dim`, `2 * groups * head_dim`, `2 * head_dim`, or `latent + rope`; times `layers * tokens * "
        "batch * itemsize`. Raise a ValueError if kind is none of the four.",
    ),
    reference=weighed,
    misconceptions=mistakes,
)


def some(g: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (), generator=g))


def case(g: torch.Generator, kind: str, **more) -> Case:
    groups = some(g, 2, 6)
    widths = dict(layers=some(g, 5, 60), heads=groups * some(g, 6, 12), groups=groups, head_dim=16 * some(g, 5, 13))
    return call(kind, some(g, 100, 9000), **widths, latent=some(g, 200, 700), rope=2 * some(g, 11, 39), **more)


@cache_bytes.stage(
    "keys and values",
    points=1,
    exposes="Two numbers, one of the key and one of the value, for each channel of what is kept: every head, every group, or one; in every layer.",
)
def _(g):
    for kind in KINDS[:3]:
        yield case(g, kind)
        yield case(g, kind)


@cache_bytes.stage(
    "a latent",
    points=1,
    exposes="MLA keeps latent + rope numbers of a token in a layer, whatever heads and head_dim are. Nothing is doubled: keys and values are both made of "
    "the latent.",
)
def _(g):
    yield case(g, "MLA")
    yield case(g, "MLA")


@cache_bytes.stage(
    "of batches, in other formats",
    points=1,
    exposes="Each sequence has its own tokens. A number takes `itemsize` bytes: 2 if nothing else is said. Any other kind is a ValueError.",
)
def _(g):
    for kind in KINDS:
        yield case(g, kind, batch=some(g, 2, 40))
        yield case(g, kind, itemsize=4)
        yield case(g, kind, batch=some(g, 2, 40), itemsize=1)
    for kind in ("mla", "MLP", "", "GQA "):
        yield case(g, kind)
    # an odd number of bytes, and too many of them for a float
    size = dict(layers=2 * some(g, 3, 30) + 1, heads=8, groups=2, head_dim=64, latent=2 * some(g, 100, 300) + 1, rope=64)
    yield call("MLA", 10**9 + 2 * some(g, 0, 9000) + 1, **size, batch=10**5 + 2 * some(g, 0, 900) + 1, itemsize=1)


@cache_bytes.accepts("a dict of lambdas")
def _(kind, tokens, *, layers, heads, groups, head_dim, latent, rope, batch=1, itemsize=2):
    numbers = {
        "MHA": lambda: 2 * heads * head_dim,
        "GQA": lambda: 2 * groups * head_dim,
        "MQA": lambda: 2 * head_dim,
        "MLA": lambda: latent + rope,
    }
    if kind not in numbers:
        raise ValueError(kind)
    return batch * tokens * layers * itemsize * numbers[kind]()


@cache_bytes.accepts("by match")
def _(kind, tokens, layers, heads, groups, head_dim, latent, rope, batch=1, itemsize=2):
    match kind:
        case "MHA":
            width = heads * head_dim + heads * head_dim
        case "GQA":
            width = (groups + groups) * head_dim
        case "MQA":
            width = head_dim << 1
        case "MLA":
            width = rope + latent
        case _:
            raise ValueError(f"kind must be MHA, GQA, MQA or MLA, got {kind!r}")
    return width * layers * tokens * batch * itemsize


@cache_bytes.accepts("the tensors themselves, without memory")
def _(kind, tokens, layers, heads, groups, head_dim, latent, rope, batch=1, itemsize=2):
    if kind not in ("MHA", "GQA", "MQA", "MLA"):
        raise ValueError(f"unknown kind {kind}")
    dtype = {1: torch.int8, 2: torch.bfloat16, 4: torch.float32}[itemsize]
    kept = {"MHA": heads, "GQA": groups, "MQA": 1}.get(kind)
    shapes = [(batch, kept, tokens, head_dim)] * 2 if kept else [(batch, tokens, latent), (batch, tokens, rope)]
    return sum(torch.empty(shape, dtype=dtype, device="meta").nbytes for _ in range(layers) for shape in shapes)
