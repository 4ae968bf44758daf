"""Mistakes of exercise 14.5, and the right answer that they vary."""

from collections.abc import Callable

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes
from autograder.exercises.teal import fixtures
from autograder.exercises.teal.fixtures import Weights

mistakes = Mistakes()


def reading(h: Tensor, name: str, thresholds: dict[str, float]) -> Tensor:
    return fixtures.sparse(h, thresholds[name]) if name in thresholds else h


def measured(
    x: Tensor,
    weights: Weights,
    thresholds: dict[str, float],
    *,
    read: Callable = reading,
    last: Callable = lambda gap: gap[:, -(gap.shape[1] // 4) :],
    size: Callable = lambda gap: gap.norm(dim=1).mean(),
) -> float:
    """With its parts exchangeable, for mistakes in one part."""
    dense = fixtures.block(x, weights, lambda name, h: h)
    sparse = fixtures.block(x, weights, lambda name, h: read(h, name, thresholds))
    return float(size(last(dense - sparse)))


def varied(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda *args, **options: measured(*args, **options, **parts))


varied(
    "a norm for each token",
    "Your norm runs over the channels of a token. The authors' runs over the tokens, channel by channel: dim=1.",
    size=lambda gap: gap.norm(dim=-1).mean(),
)
varied(
    "one norm",
    "You took one norm of everything. It is one for each channel and sequence, and then their mean.",
    size=lambda gap: gap.norm(),
)
varied(
    "over sequences too",
    "Your norm runs over sequences as well. Each sequence has norms of its own.",
    size=lambda gap: gap.flatten(0, 1).norm(dim=0).mean(),
)
varied("squared", "You left out the root: the mean of squared norms.", size=lambda gap: gap.square().sum(dim=1).mean())
varied(
    "the mean square",
    "You took the mean square. It is a norm over tokens: the root of the sum of squares.",
    size=lambda gap: gap.square().mean(),
)
varied(
    "the root of the mean",
    "You divided by the number of tokens under the root. The norm is the root of the sum.",
    size=lambda gap: gap.square().mean(dim=1).sqrt().mean(),
)
varied(
    "magnitudes",
    "You took the mean of magnitudes. The norm is the root of the sum of squares.",
    size=lambda gap: gap.abs().mean(),
)
varied(
    "summed magnitudes",
    "You summed magnitudes over tokens. The norm is the root of the sum of squares.",
    size=lambda gap: gap.norm(p=1, dim=1).mean(),
)
varied("the largest", "You took the largest norm. It is their mean.", size=lambda gap: gap.norm(dim=1).max())
varied("summed", "You summed the norms. It is their mean.", size=lambda gap: gap.norm(dim=1).sum())
varied(
    "all tokens", "You compared more than the last quarter of the tokens: all of them, or the last half.", last=lambda gap: gap
)
varied("the last token", "You compared the last token only. It is the last quarter.", last=lambda gap: gap[:, -1:])
varied(
    "the quarter rounded up",
    "You rounded the quarter up. It is tokens // 4.",
    last=lambda gap: gap[:, -gap.shape[1] // 4 :],
)
varied("the first quarter", "You compared the first quarter, which is dense.", last=lambda gap: gap[:, : gap.shape[1] // 4])
varied(
    "sparse from the first token on",
    "All tokens lose their small inputs in yours, so that late tokens see other keys and values. Use your sparsifier: the first half stays dense.",
    read=lambda h, name, t: h.masked_fill(h.abs() <= t[name], 0) if name in t else h,
)
varied(
    "the last quarter sparse",
    "Only the tokens that are compared are sparse in yours. It is the last half, as always.",
    read=lambda h, name, t: (
        torch.cat([h[:, : -(h.shape[1] // 4)], fixtures.sparse(h, t[name])[:, -(h.shape[1] // 4) :]], dim=1) if name in t else h
    ),
)
varied(
    "gate's for up",
    "Gate and up read the same, but each has a threshold of its own.",
    read=lambda h, name, t: reading(h, {"up": "gate"}.get(name, name) if "gate" in t else name, t),
)
varied(
    "q's for k and v",
    "Queries, keys and values read the same, but each has a threshold of its own.",
    read=lambda h, name, t: reading(h, "q" if name in ("k", "v") and "q" in t else name, t),
)
varied(
    "the first one only",
    "Only the first of your projections is sparse. All that have a threshold are.",
    read=lambda h, name, t: reading(h, name, t) if name == next(iter(t)) else h,
)
varied(
    "the large go",
    "You removed what exceeds the threshold.",
    read=lambda h, name, t: h - fixtures.sparse(h, t[name]) if name in t else h,
)


@mistakes("outputs", "You sparsified what the projections give. It is what they read.")
def _(x, weights, thresholds):
    changed = {**weights}
    dense = fixtures.block(x, weights, lambda name, h: h)
    first = x.shape[1] - x.shape[1] // 2

    def read(name, h):
        if name not in thresholds:
            return h
        y = h @ weights[name].T
        y[:, first:] *= y[:, first:].abs() > thresholds[name]
        changed[name] = torch.eye(len(weights[name]))
        return y

    return float((dense - fixtures.block(x, changed, read))[:, -(x.shape[1] // 4) :].norm(dim=1).mean())


@mistakes(
    "from dense inputs inside",
    "Your projections all read sparsified inputs of the dense block. Within a block the later ones read what the sparse ones before them make.",
)
def _(x, weights, thresholds):
    dense = fixtures.dense_reads(x, weights)
    return measured(x, weights, thresholds, read=lambda h, name, t: reading(dense[name], name, t))


@mistakes(
    "summed over projections", "You summed the errors of the projections, each sparse by itself. They are sparse together."
)
def _(x, weights, thresholds):
    return sum(measured(x, weights, {name: t}) for name, t in thresholds.items())


@mistakes("compared with x", "You compared with what comes in. It is compared with what the dense block makes of it.")
def _(x, weights, thresholds):
    sparse = fixtures.block(x, weights, lambda name, h: reading(h, name, thresholds))
    return float((x - sparse)[:, -(x.shape[1] // 4) :].norm(dim=1).mean())


@mistakes("norms compared", "You compared the norms of the results. It is the norm of their difference.")
def _(x, weights, thresholds):
    last = x.shape[1] // 4
    dense = fixtures.block(x, weights, lambda name, h: h)[:, -last:]
    sparse = fixtures.block(x, weights, lambda name, h: reading(h, name, thresholds))[:, -last:]
    return float((dense.norm(dim=1) - sparse.norm(dim=1)).abs().mean())


@mistakes("relative", "You divided by the size of the dense result. The error is not relative.")
def _(x, weights, thresholds):
    dense = fixtures.block(x, weights, lambda name, h: h)[:, -(x.shape[1] // 4) :]
    return measured(x, weights, thresholds) / float(dense.norm(dim=1).mean())


@mistakes("x sparsified", "You sparsified x itself, which is the residual stream. It is what each projection reads.")
def _(x, weights, thresholds):
    dense = fixtures.block(x, weights, lambda name, h: h)
    t = max(thresholds.values())
    sparse = fixtures.block(fixtures.sparse(x, t), weights, lambda name, h: h)
    return float((dense - sparse)[:, -(x.shape[1] // 4) :].norm(dim=1).mean())
