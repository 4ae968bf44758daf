"""Exercise 14.5: the error of a block."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.teal import fixtures
from autograder.exercises.teal.error_mistakes import mistakes
from autograder.exercises.teal.fixtures import PROJECTIONS
from autograder.inside.case import Case, call


def reference(x: Tensor, weights: fixtures.Weights, thresholds: dict[str, float]) -> float:
    return fixtures.off(x, weights, thresholds)[0]


error = Exercise(
    "teal.error",
    defines="block_error",
    title="The error of a block",
    minutes=15,
    difficulty=2,
    hints=(
        "Run `block` twice on the same x: once with projections that read what is there, once with some that read it sparsified. Compare the ends of the two "
        "results.",
        "`read` is called with the projection's name and what it would read. The dense one returns that; the sparse one returns `sparsify(h, "
        "thresholds[name])` for names that have a threshold. The norm runs over the tokens: dimension 1.",
        "`dense = block(x, weights, lambda name, h: h)`; `sparse = block(x, weights, lambda name, h: sparsify(h, thresholds.get(name, 0.0)))`; "
        "`(dense - sparse)[:, -(x.shape[1] // 4) :].norm(dim=1).mean().item()`.",
    ),
    reference=reference,
    rules=Rules(tolerance=2e-4),  # a difference of two results in float32
    misconceptions=mistakes,
)

WIDTHS = (12, 4, 2, 6, 15)  # hidden, heads, kv_heads, head_dim, inner
OTHERS = (10, 2, 1, 8, 21)


def case(g: torch.Generator, batch: int, tokens: int, widths: tuple[int, ...], names=PROJECTIONS, silent=0) -> Case:
    """Thresholds of about half of what each of the projections reads; each has its own. The MLP adds nothing to `silent` channels."""

    def draw():
        x, weights = fixtures.inputs(g, batch, tokens, widths[0]), fixtures.layer(g, *widths)
        weights["down"][:silent] = 0
        shares = 0.3 + 0.5 * torch.rand(len(names), generator=g)
        reads = fixtures.dense_reads(x, weights)
        limits = {n: round(float(reads[n].abs().quantile(share)), 6) for n, share in zip(names, shares, strict=True)}
        return x, weights, limits

    return call(*fixtures.redraw(draw, lambda drawn: fixtures.off(*drawn)[1] > fixtures.CLEAR))


@error.stage(
    "a projection",
    points=1,
    exposes="One projection reads sparsified inputs, the others what is there. The two results are compared over the last quarter of the tokens.",
)
def _(g):
    yield case(g, 1, 8, WIDTHS, ("down",))
    yield case(g, 1, 12, OTHERS, ("o",))
    yield case(g, 1, 8, WIDTHS, ("q",))
    yield case(g, 1, 8, OTHERS, ("up",))
    yield case(g, 1, 12, OTHERS, ("gate",))


@error.stage(
    "for each channel a norm over tokens",
    points=1,
    exposes="For each channel of each sequence the norm of the differences over the last tokens // 4 tokens, and the mean of these norms.",
)
def _(g):
    yield case(g, 3, 15, WIDTHS, ("down",))
    yield case(g, 2, 11, OTHERS, ("up", "down"))
    yield case(g, 2, 30, OTHERS, ("v",))
    yield case(g, 2, 5, WIDTHS, ("down",))
    yield case(g, 1, 9, OTHERS, ("down",), silent=7)


@error.stage(
    "all together",
    points=1,
    exposes="Each projection has its own threshold, also those that read the same. What a sparse one makes of its inputs is what the next ones read. In all "
    "of them the last half of the tokens is sparse.",
    pure=True,
)
def _(g):
    yield case(g, 2, 14, WIDTHS)
    yield case(g, 1, 21, OTHERS)
    yield case(g, 2, 9, OTHERS, ("q", "k", "v", "o"))
    yield case(g, 1, 18, WIDTHS, ("gate", "up", "down"))


def zeroed(x: Tensor, t: float) -> Tensor:
    half = x.shape[1] // 2
    return torch.cat([x[:, :-half], x[:, -half:] * (x[:, -half:].abs() > t)], dim=1) if half else x * (x.abs() > t)


@error.accepts("as in the authors' code")
def _(x, weights, thresholds):
    target = fixtures.block(x, weights, lambda name, h: h)
    new = fixtures.block(x, weights, lambda name, h: zeroed(h, thresholds[name]) if name in thresholds else h)
    tokens = int(0.25 * x.size(1))
    return torch.norm(target[:, -tokens:] - new[:, -tokens:], dim=1).mean().item()


@error.accepts("a sequence at a time, in float64")
def _(x, weights, thresholds):
    W = {name: tensor.double() for name, tensor in weights.items()}

    def read(name, h):
        return zeroed(h, thresholds.get(name, 0.0))

    norms = []
    for row in x.double():
        gap = fixtures.block(row[None], W, lambda _, h: h)[0] - fixtures.block(row[None], W, read)[0]
        norms += [channel.square().sum().sqrt() for channel in gap[len(gap) - len(gap) // 4 :].T]
    return float(sum(norms) / len(norms))


@error.accepts("a block of its own")
def _(x, weights, thresholds):
    def run(limits):
        def linear(name, h):
            return zeroed(h, limits.get(name, -1.0)) @ weights[name].mT

        angles = weights["angles"][: x.shape[1]]
        width = 2 * angles.shape[1]
        turn = torch.polar(torch.ones_like(angles), angles)

        def rotated(h):
            z = torch.complex(h[..., : width // 2], h[..., width // 2 :]) * turn
            return torch.cat([z.real, z.imag], dim=-1)

        def rms(h, w):
            return h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w

        h = rms(x, weights["norm1"])
        q, k, v = (linear(n, h).view(*x.shape[:2], -1, width).transpose(1, 2) for n in "qkv")
        q, k = rotated(q), rotated(k)
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
        scores = (q @ k.mT / width**0.5).masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), -torch.inf)
        y = x + linear("o", (scores.softmax(-1) @ v).transpose(1, 2).reshape(*x.shape[:2], -1))
        h = rms(y, weights["norm2"])
        return y + linear("down", F.silu(linear("gate", h)) * linear("up", h))

    return float((run({}) - run(thresholds))[:, -(x.shape[1] // 4) :].pow(2).sum(1).sqrt().mean())
