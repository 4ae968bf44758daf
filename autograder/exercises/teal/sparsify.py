"""Exercise 14.3: the sparsifier."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.teal import fixtures
from autograder.inside.case import Case, call

sparsify = Exercise(
    "teal.sparsify",
    defines="sparsify",
    title="The sparsifier",
    minutes=10,
    difficulty=1,
    hints=(
        "Compare magnitudes with the threshold, and zero what does not exceed it. Then ask for which tokens.",
        "Of T tokens the last T // 2 lose their small inputs, the others lose nothing; a single token does. `x[:, -half:]` with a half of 0 is everything: "
        "take care of T = 1.",
        "`tokens = x.shape[1]`; `first = tokens - tokens // 2 if tokens > 1 else 0`; `y = x.clone()`; `y[:, first:] *= x[:, first:].abs() > threshold`.",
    ),
    reference=fixtures.sparse,
    rules=Rules(tolerance=1e-6, exact_zeros=True),
)


NEAR = 4e-6  # so near to the threshold, of its size, are some inputs: other float32 numbers, but isclose() says they equal it


def case(
    g: torch.Generator, batch: int, tokens: int, channels: int, t: float, *, ties: bool = False, near: bool = False, size=1.0
) -> Case:
    def draw() -> Tensor:
        return size * fixtures.inputs(g, batch, tokens, channels)

    x = fixtures.redraw(draw, lambda x: t <= 0 or bool((x.abs() / t - 1).abs().min() > fixtures.CLEAR))
    if ties:
        here = torch.rand(x.shape, generator=g) < 0.3
        x = torch.where(here, t * x.sign(), x)
    if near:
        where = torch.rand(x.shape, generator=g)
        x = torch.where(where < 0.3, t * (1 - NEAR) * x.sign(), torch.where(where > 0.7, t * (1 + NEAR) * x.sign(), x))
    return call(x, t)


@sparsify.stage(
    "one token",
    points=1,
    exposes="Of a single token every input that does not exceed the threshold in magnitude becomes 0; all others stay as they are, sign and size.",
)
def _(g):
    yield case(g, 1, 1, 30, 0.4)
    yield case(g, 5, 1, 17, 0.6)
    yield case(g, 3, 1, 40, 4e-5, size=1e-4)
    yield case(g, 2, 1, 400, 1.7)


@sparsify.stage(
    "strictly greater",
    points=1,
    exposes="An input stays if |x| > threshold. One that equals it goes, one that is hardly larger stays; with a threshold of 0 nothing changes, and with a negative one neither.",
)
def _(g):
    yield case(g, 3, 1, 20, 0.5, ties=True)
    yield case(g, 2, 6, 9, 0.25, ties=True)
    yield case(g, 2, 1, 20, 2.0**-14, near=True, size=2e-4)
    yield case(g, 2, 1, 11, 0.0)
    yield case(g, 2, 1, 11, -0.3)
    yield case(g, 1, 5, 12, -1.0)


@sparsify.stage(
    "the last half of a prompt",
    points=1,
    exposes="Of T tokens at once the last T // 2 lose their small inputs, and the others keep everything, whatever the batch. x stays as it is.",
    pure=True,
)
def _(g):
    yield case(g, 2, 8, 10, 0.5)
    yield case(g, 1, 7, 12, 0.6)
    yield case(g, 3, 2, 15, 0.4)
    yield case(g, 1, 3, 15, 0.4)
    yield case(g, 6, 5, 4, 0.8)
    yield case(g, 1, 41, 6, 0.3)


def made(x: Tensor, t: float, *, stays=lambda x, t: x.abs() > t, first=lambda T: T - T // 2 if T > 1 else 0) -> Tensor:
    """With its parts exchangeable, for mistakes in one part."""
    dense = torch.arange(x.shape[1])[:, None] < first(x.shape[1])
    return torch.where(stays(x, t) | dense, x, 0.0)


def varied(name: str, says: str, **parts) -> None:
    sparsify.misconception(name, says)(lambda *args, **options: made(*args, **options, **parts))


def largest(x: Tensor, t: float) -> Tensor:
    keep = int((x.abs() > t).float().mean().mul(x.shape[-1]).round())
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, x.abs().topk(keep, dim=-1).indices, True)


varied("equal stays", "You keep an input that equals the threshold. The inequality is strict.", stays=lambda x, t: x.abs() >= t)
varied("signed", "You compared x itself, so all negative inputs go. Compare magnitudes.", stays=lambda x, t: x > t)
varied("the large go", "You removed the large inputs and kept the small ones.", stays=lambda x, t: x.abs() <= t)
varied(
    "top-k",
    "You kept the same number of inputs of each token. The threshold is fixed: one token keeps more than another.",
    stays=largest,
)
varied(
    "the norm of a token",
    "You measured inputs against the largest of their token. The threshold is an absolute one.",
    stays=lambda x, t: x.abs() > t * x.abs().amax(dim=-1, keepdim=True),
)
varied("squared", "You compared squares with the threshold itself.", stays=lambda x, t: x.square() > t)
varied(
    "squares",
    "You compared squares: with a negative threshold that is another question.",
    stays=lambda x, t: x.square() > t * t,
)
varied("all tokens", "You sparsified the whole prompt. Its first half stays dense.", first=lambda T: 0)
varied(
    "the first half",
    "You sparsified the wrong tokens: of three the last one goes sparse, of two the last, and a single one does.",
    first=lambda T: T // 2 if T > 1 else 0,
)
varied("prompts stay dense", "You left prompts alone. Their last half is sparsified.", first=lambda T: T if T > 1 else 0)
varied(
    "one token stays dense",
    "A single token stays dense in yours. In decoding tokens come one by one, and those are the ones to save on.",
    first=lambda T: T - T // 2,
)
varied("the last token only", "You sparsified the last token of a prompt only. It is the last half.", first=lambda T: T - 1)
varied("all but the first", "Your half is not one: of T tokens the last T // 2 are sparse.", first=lambda T: min(1, T - 1))


@sparsify.misconception(
    "the first half sparse", "You sparsified the first half of the prompt. The last half is what predicts as in decoding."
)
def _(x, threshold):
    tokens = x.shape[1]
    late = torch.arange(tokens)[:, None] >= tokens // 2
    return torch.where((x.abs() > threshold) | (late & (tokens > 1)), x, 0.0)


@sparsify.misconception(
    "tokens in the batch", "You took the first dimension for tokens. It is the batch; tokens are dimension 1."
)
def _(x, threshold):
    return made(x.transpose(0, 1), threshold).transpose(0, 1).clone()


@sparsify.misconception("rescaled", "You divided by the share that is kept, as dropout does. What stays, stays as it is.")
def _(x, threshold):
    y = made(x, threshold)
    return y * x.numel() / max(int((y != 0).sum()), 1)


@sparsify.misconception("shrunk", "You took the threshold off what stays: soft thresholding. What stays, stays as it is.")
def _(x, threshold):
    y = made(x, threshold)
    return torch.where(y == 0, y, y - max(threshold, 0.0) * y.sign())


@sparsify.misconception("a share", "You took the threshold for a share, and removed so many of the inputs.")
def _(x, threshold):
    t = float(x.abs().flatten().quantile(min(max(threshold, 0.0), 1.0)))
    return made(x, t)


@sparsify.misconception("a mask", "You return the mask, not the inputs.")
def _(x, threshold):
    return (made(x, threshold) != 0).to(x.dtype)


@sparsify.misconception(
    "x changed",
    "The result is right, but x has changed. The layers that share this input have thresholds of their own: work on a copy.",
)
def _(x, threshold):
    x.copy_(made(x, threshold))
    return x.clone()


@sparsify.accepts("as in the authors' code")
def _(x, threshold):
    def apply(x):
        return x.abs().gt(threshold) * x

    if x.size(1) > 1:
        half = x.size(1) // 2
        return torch.cat((x[:, :-half, :], apply(x[:, -half:, :])), dim=1)
    return apply(x)


@sparsify.accepts("masked_fill on the late tokens of a copy")
def _(x, threshold):
    y = x.clone()
    late = y if x.shape[1] == 1 else y[:, (x.shape[1] + 1) // 2 :]
    late.masked_fill_(late.abs() <= threshold, 0)
    return y


@sparsify.accepts("torch.where, with a column of tokens")
def _(x, threshold):
    place = torch.arange(x.shape[1], 0, -1).view(1, -1, 1)  # 1 is the last token
    return torch.where((place <= max(1, x.shape[1] // 2)) & (x.abs() <= threshold), torch.zeros(()), x)
