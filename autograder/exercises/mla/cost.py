"""Exercise 12.7: what attention computes and reads."""

import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.mla.cost_mistakes import FORMS, counted, mistakes
from autograder.inside.case import Case, call

cost = Exercise(
    "mla.cost",
    defines="mla_cost",
    title="What it computes and reads",
    minutes=12,
    difficulty=2,
    hints=(
        "Count the products one by one, with the shapes of your own einsums: an einsum costs two operations for every combination of all its axes.",
        "Unpacking costs r (n + v) multiplications for a token and head; scores and sums cost n + d + v of them for a query, token and head. Absorbing costs "
        "r (n + v) for a query and head, and its scores and sums 2 r + d. What is read is what is kept, once for all queries.",
        '"unpacked": `2 * heads * (queries * r * (n + v) + queries * tokens * (n + d + v))` and `tokens * heads * (n + d + v)`; "naive": the same with '
        '`tokens * r * (n + v)` first, and `tokens * (r + d)`; "absorbed": `2 * heads * (queries * r * (n + v) + queries * tokens * (2 * r + d))` and '
        "`tokens * (r + d)`.",
    ),
    reference=counted,
    misconceptions=mistakes,
)


def some(g: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (), generator=g))


def case(g: torch.Generator, form: str, queries: int, tokens: int) -> Case:
    widths = dict(nope=some(g, 40, 70), rope=2 * some(g, 10, 19), value=some(g, 71, 99), latent=some(g, 100, 300))
    return call(form, queries, tokens, heads=some(g, 3, 20), **widths)


@cost.stage(
    "one query",
    points=1,
    exposes="In decoding the unpacked form unpacks one token, the naive form all of them, and the absorbed form none.",
)
def _(g):
    for form in FORMS:
        yield case(g, form, 1, some(g, 500, 9000))
        yield case(g, form, 1, 1)


@cost.stage(
    "as many queries as tokens",
    points=1,
    exposes="Every query meets every token; what is unpacked, is once for all queries. W_uk and W_uv are used once for each query in the absorbed form.",
)
def _(g):
    for form in FORMS:
        tokens = some(g, 100, 900)
        yield case(g, form, tokens, tokens)


@cost.stage(
    "a piece of a text",
    points=1,
    exposes="Queries and tokens are different numbers, each in its own place. The cache is read once, whatever the number of queries. Any other form is a "
    "ValueError.",
)
def _(g):
    for form in FORMS:
        yield case(g, form, some(g, 2, 90), some(g, 100, 9000))
    for form in ("cached", "Naive", ""):
        yield case(g, form, 2, 9)
    # half of the operations are an odd number, and too large a one for a float
    widths = dict(
        heads=2 * some(g, 4, 10) + 1,
        nope=2 * some(g, 30, 50),
        rope=32,
        value=2 * some(g, 50, 70) + 1,
        latent=2 * some(g, 100, 150) + 1,
    )
    yield call("absorbed", 2 * some(g, 25, 45) + 1, 10**12 + 2 * some(g, 0, 9000) + 1, **widths)


@cost.accepts("products counted by their axes")
def _(form, queries, tokens, heads, nope, rope, value, latent):
    if form not in ("unpacked", "naive", "absorbed"):
        raise ValueError(form)

    def einsum(*axes):
        result = 2
        for axis in axes:
            result *= axis
        return result

    new = {"unpacked": queries, "naive": tokens}.get(form, 0)
    flops = einsum(new, heads, nope, latent) + einsum(new, heads, value, latent)
    if form == "absorbed":
        flops += (
            einsum(queries, heads, nope, latent)
            + einsum(queries, heads, tokens, latent) * 2
            + einsum(queries, heads, latent, value)
        )
    else:
        flops += einsum(queries, heads, tokens, nope) + einsum(queries, heads, tokens, value)
    flops += einsum(queries, heads, tokens, rope)
    return flops, tokens * (heads * (nope + rope + value) if form == "unpacked" else latent + rope)


@cost.accepts("by match")
def _(form, queries, tokens, *, heads, nope, rope, value, latent):
    weights, ordinary = latent * (nope + value), nope + rope + value
    match form:
        case "unpacked":
            return 2 * heads * queries * (weights + tokens * ordinary), heads * tokens * ordinary
        case "naive":
            return 2 * heads * tokens * (weights + queries * ordinary), tokens * (latent + rope)
        case "absorbed":
            return 2 * heads * queries * (weights + tokens * (latent + latent + rope)), tokens * (latent + rope)
    raise ValueError(f"form must be unpacked, naive or absorbed, got {form!r}")


@cost.accepts("torch's own counter, with tensors that have no memory")
def _(form, queries, tokens, heads, nope, rope, value, latent):
    from torch.utils.flop_counter import FlopCounterMode

    if form not in ("unpacked", "naive", "absorbed"):
        raise ValueError(f"unknown form {form}")

    def tensor(*shape):
        return torch.empty(shape, device="meta")

    with FlopCounterMode(display=False) as counter:
        if form == "absorbed":
            tensor(heads, queries, nope) @ tensor(heads, nope, latent)
            tensor(heads, queries, latent + rope) @ tensor(heads, latent + rope, tokens)
            tensor(heads, queries, tokens) @ tensor(heads, tokens, latent) @ tensor(heads, latent, value)
        else:
            tensor(heads, queries if form == "unpacked" else tokens, latent) @ tensor(heads, latent, nope + value)
            tensor(heads, queries, nope + rope) @ tensor(heads, nope + rope, tokens) @ tensor(heads, tokens, value)
    return counter.get_total_flops(), tokens * (heads * (nope + rope + value) if form == "unpacked" else latent + rope)
