"""Mistakes of exercise 12.7, and the right answer that they vary."""

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()
FORMS = ("unpacked", "naive", "absorbed")


def counted(
    form: str, queries: int, tokens: int, heads: int, nope: int, rope: int, value: int, latent: int, **parts
) -> tuple[int, int]:
    """With its parts exchangeable: functions of (q, t, h, n, d, v, r), by "form part"."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    numbers = (queries, tokens, heads, nope, rope, value, latent)
    work, pairs, read = (parts.get(f"{form}_{part}") or RIGHT[form, part] for part in ("once", "pairs", "read"))
    return parts.get("per", 2) * (work(*numbers) + pairs(*numbers)), read(*numbers)


def ordinary(q, t, h, n, d, v, r):
    return q * t * h * (n + d + v)


def wide(q, t, h, n, d, v, r):
    return t * h * (n + d + v)


def narrow(q, t, h, n, d, v, r):
    return t * (r + d)


def by_query(q, t, h, n, d, v, r):
    return q * h * r * (n + v)


def by_token(q, t, h, n, d, v, r):
    return t * h * r * (n + v)


def over_latents(q, t, h, n, d, v, r):
    return q * t * h * (2 * r + d)


RIGHT = {
    ("unpacked", "once"): by_query,
    ("naive", "once"): by_token,
    ("absorbed", "once"): by_query,
    ("unpacked", "pairs"): ordinary,
    ("naive", "pairs"): ordinary,
    ("absorbed", "pairs"): over_latents,
    ("unpacked", "read"): wide,
    ("naive", "read"): narrow,
    ("absorbed", "read"): narrow,
}


def varied(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda *args, **options: counted(*args, **options, **parts))


varied("one operation", "You counted one operation for a multiplication and an addition. They are two.", per=1)
varied(
    "nothing unpacked",
    "You left out the unpacking: the naive form makes keys and values of all tokens in each call.",
    naive_once=lambda *x: 0,
)
varied(
    "naive unpacks the new ones",
    "Your naive form unpacks the new tokens only. It keeps latents, so that it has to unpack all tokens in each call.",
    naive_once=by_query,
)
varied(
    "unpacked unpacks all",
    "Your unpacked form unpacks all tokens. It keeps keys and values, so that only the new ones are unpacked.",
    unpacked_once=by_token,
)
varied(
    "new tokens come unpacked",
    "Your unpacked form never unpacks. The keys and values of the new tokens are made from their latents, too.",
    unpacked_once=lambda *x: 0,
)
varied(
    "unpacked for each query",
    "You unpack all tokens once for each query. The keys of a token are the same for all queries.",
    naive_once=lambda q, *x: q * by_token(q, *x),
)
varied(
    "absorbing is free",
    "You left out W_uk and W_uv in the absorbed form. The query is multiplied by one, the sum by the other.",
    absorbed_once=lambda *x: 0,
)
varied(
    "absorbed for each token",
    "You counted W_uk and W_uv once for each token in the absorbed form. They meet queries only: that is the point.",
    absorbed_once=by_token,
)
varied(
    "only the query absorbed",
    "You counted W_uk and forgot W_uv, behind the sum.",
    absorbed_once=lambda q, t, h, n, d, v, r: q * h * r * n,
)
varied(
    "only W_uv",
    "You counted W_uv and forgot W_uk, in the query.",
    absorbed_once=lambda q, t, h, n, d, v, r: q * h * r * v,
)
varied(
    "keys only unpacked",
    "Your naive form unpacks keys and no values.",
    naive_once=lambda q, t, h, n, d, v, r: t * h * r * n,
)
varied(
    "one pass over the latents",
    "The absorbed form meets each latent twice: in the score, and in the sum.",
    absorbed_pairs=lambda q, t, h, n, d, v, r: q * t * h * (r + d),
)
varied(
    "the rotated key twice",
    "You counted the rotated key in the sum as well. It is only in the scores.",
    absorbed_pairs=lambda q, t, h, n, d, v, r: q * t * h * 2 * (r + d),
)
varied(
    "ordinary scores",
    "Your absorbed form has the ordinary scores and sums. It multiplies latents, which are wider than a head's keys and values.",
    absorbed_pairs=ordinary,
)
varied(
    "values in the absorbed sum",
    "Your absorbed form sums values. It sums latents, which are wider, and makes a value of the sum.",
    absorbed_pairs=lambda q, t, h, n, d, v, r: q * t * h * (r + d + v),
)
varied(
    "absorbed for one head",
    "You counted the absorbed scores for one head, as all share the latent. Each head has a query of its own.",
    absorbed_pairs=lambda q, t, h, n, d, v, r: q * t * (2 * r + d),
)
varied(
    "no rotated part",
    "You left the rotated part out of the ordinary scores.",
    unpacked_pairs=lambda q, t, h, n, d, v, r: q * t * h * (n + v),
    naive_pairs=lambda q, t, h, n, d, v, r: q * t * h * (n + v),
)
varied(
    "no values",
    "You counted the scores but not the sum of the values.",
    unpacked_pairs=lambda q, t, h, n, d, v, r: q * t * h * (n + d),
    naive_pairs=lambda q, t, h, n, d, v, r: q * t * h * (n + d),
)
varied(
    "naive reads keys and values",
    "Your naive form reads keys and values from the cache. It keeps latents and rotated keys; what it unpacks is not kept.",
    naive_read=wide,
)
varied(
    "unpacked reads latents",
    "Your unpacked form reads latents. It keeps keys and values of all heads.",
    unpacked_read=narrow,
)
varied(
    "latents read twice",
    "You read the latents twice in the absorbed form, for scores and for sums. Count what is kept, once.",
    absorbed_read=lambda q, t, h, n, d, v, r: t * (2 * r + d),
)
varied(
    "read by each head",
    "Each of your heads reads the latents. They are kept once, and count once.",
    absorbed_read=lambda q, t, h, n, d, v, r: t * h * (r + d),
    naive_read=lambda q, t, h, n, d, v, r: t * h * (r + d),
)
varied(
    "read by each query",
    "Each of your queries reads the cache. Count it once for all queries of the call.",
    **{f"{form}_read": (lambda f: lambda q, *x: q * f(q, *x))(RIGHT[form, "read"]) for form in FORMS},
)
varied(
    "one shared rotated key unpacked",
    "You counted one rotated key in the unpacked form. It is kept beside the rest of every head's key.",
    unpacked_read=lambda q, t, h, n, d, v, r: t * (h * (n + v) + d),
)


@mistakes(
    "causal",
    "You halved what queries and tokens have in common, as a causal mask does in theory. Here every query meets every token.",
)
def _(form, queries, tokens, **widths):
    full, read = counted(form, queries, tokens, **widths)
    none = counted(form, queries, tokens, **widths, **{f"{form}_pairs": lambda *x: 0})[0]
    pairs = (full - none) // (queries * tokens)
    return none + pairs * (queries * tokens - queries * (queries - 1) // 2), read


@mistakes("floats", "You return floats. Operations are ints: a float counts to 2^53 only, so do not divide with `/`.")
def _(*args, **options):
    return tuple(number / 1 for number in counted(*args, **options))


@mistakes("read before computed", "You return what is read first. Operations come first.")
def _(*args, **options):
    return counted(*args, **options)[::-1]


@mistakes("any other form is absorbed", "A form that is none of the three is a ValueError. You take it for one of them.")
def _(form, *args, **options):
    return counted(form if form in FORMS else "absorbed", *args, **options)
