"""Mistakes of exercise 12.6, and the right answer that they vary."""

from collections.abc import Callable

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()
KINDS = ("MHA", "GQA", "MQA", "MLA")


def width_of(kind: str, heads: int, groups: int, head_dim: int, latent: int, rope: int) -> int:
    """Numbers that a token leaves in a layer."""
    return {"MHA": 2 * heads * head_dim, "GQA": 2 * groups * head_dim, "MQA": 2 * head_dim, "MLA": latent + rope}[kind]


def weighed(
    kind, tokens, layers, heads, groups, head_dim, latent, rope, batch=1, itemsize=2, *, width: Callable = width_of, total=None
) -> int:
    """With its parts exchangeable."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    numbers = width(kind, heads, groups, head_dim, latent, rope)
    return total(numbers, tokens, layers, batch, itemsize) if total else numbers * layers * tokens * batch * itemsize


def of_width(name: str, says: str, width: Callable) -> None:
    mistakes(name, says)(lambda *args, **options: weighed(*args, **options, width=width))


def of_total(name: str, says: str, total: Callable) -> None:
    mistakes(name, says)(lambda *args, **options: weighed(*args, **options, total=total))


def other(kind: str, number: Callable) -> Callable:
    """The width of one kind replaced."""
    return lambda this, *widths: number(*widths) if this == kind else width_of(this, *widths)


of_width(
    "keys only",
    "You counted keys, not values: two for each channel.",
    lambda k, *w: width_of(k, *w) // (1 if k == "MLA" else 2),
)
of_width(
    "the latent twice",
    "You counted the latent for keys and for values. Both are made of the same one.",
    other("MLA", lambda h, g, d, c, r: 2 * c + r),
)
of_width(
    "all of MLA twice",
    "You doubled MLA as well. There is one latent and one rotated key.",
    other("MLA", lambda h, g, d, c, r: 2 * (c + r)),
)
of_width(
    "the rotated key left out",
    "You left out the rotated key: MLA keeps rope numbers besides the latent.",
    other("MLA", lambda h, g, d, c, r: c),
)
of_width(
    "a rotated key for each head",
    "You counted a rotated key for each head. All heads share one.",
    other("MLA", lambda h, g, d, c, r: c + h * r),
)
of_width(
    "a latent for each head",
    "You counted a latent for each head. All heads share one.",
    other("MLA", lambda h, g, d, c, r: h * (c + r)),
)
of_width(
    "MLA unpacked",
    "You counted the keys and values that MLA unpacks. They are not kept.",
    other("MLA", lambda h, g, d, c, r: h * (2 * d + r)),
)
of_width(
    "heads in a group",
    "You counted heads / groups keys for GQA, the size of a group. One is kept for each group.",
    other("GQA", lambda h, g, d, c, r: 2 * (h // g) * d),
)
of_width(
    "GQA as MHA", "With GQA a key is kept for each group, not for each head.", other("GQA", lambda h, g, d, c, r: 2 * h * d)
)
of_width("MQA as GQA", "With MQA one key and one value are kept for all heads.", other("MQA", lambda h, g, d, c, r: 2 * g * d))
of_width("MHA by groups", "With MHA every head keeps its own key and value.", other("MHA", lambda h, g, d, c, r: 2 * g * d))
of_total(
    "one layer",
    "You counted one layer. All of them keep a cache.",
    lambda n, tokens, layers, batch, size: n * tokens * batch * size,
)
of_total(
    "one token",
    "You counted one token. All `tokens` are kept.",
    lambda n, tokens, layers, batch, size: n * layers * batch * size,
)
of_total(
    "one sequence",
    "You left out the batch: every sequence has a cache of its own.",
    lambda n, tokens, layers, batch, size: n * tokens * layers * size,
)
of_total(
    "numbers",
    "You return numbers, not bytes: each takes `itemsize`.",
    lambda n, tokens, layers, batch, size: n * tokens * layers * batch,
)
of_total(
    "always two bytes",
    "You ignore `itemsize` and take two bytes for each number.",
    lambda n, tokens, layers, batch, size: 2 * n * tokens * layers * batch,
)
of_total(
    "bits",
    "You return bits. itemsize is in bytes, and so is the answer.",
    lambda n, tokens, layers, batch, size: 8 * n * tokens * layers * batch * size,
)
of_total(
    "a float",
    "You return a float. Bytes are an int: a float counts to 2^53 only, so do not divide with `/`.",
    lambda n, tokens, layers, batch, size: n * tokens * layers * batch * (16 * size) / 16,
)
of_total(
    "tokens squared",
    "You multiplied by the tokens twice. Scores grow with their square; the cache does not.",
    lambda n, tokens, layers, batch, size: n * tokens**2 * layers * batch * size,
)


@mistakes("any other kind is MLA", "A kind that is none of the four is a ValueError. You take it for one of them.")
def _(kind, *args, **options):
    return weighed(kind if kind in KINDS else "MLA", *args, **options)


@mistakes("small letters too", 'You accept "mla", too. The four kinds are written in capitals; anything else is a ValueError.')
def _(kind, *args, **options):
    return weighed(kind.upper(), *args, **options)
