"""Exercise 9.1: jitter."""

import numpy as np
import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.inside.case import Case, call
from sparsity_edu.experts import losses


def reference(x: Tensor, noise: Tensor | None, eps: float = 0.01) -> Tensor:
    return losses.jitter(x.float(), noise, eps)


jitter = Exercise(
    "training_the_router.jitter",
    defines="jitter",
    title="Jitter",
    minutes=8,
    difficulty=1,
    hints=(
        "Every entry of x is multiplied by a number near 1 of its own. The noise is uniform on [0, 1): where must its two "
        "ends go?",
        "Stretch the noise: 0 becomes 1 - eps and 1 becomes 1 + eps, so it is multiplied by the width of that interval and "
        "moved to its left end. Go to float32 first: near 1 a bfloat16 number has steps of 0.004 to 0.008. `x *= ...` would "
        "change what the experts read.",
        "The factor is `1 - eps + 2 * eps * noise`, and the result `x.float() * factor`. If noise is None, there is nothing "
        "to multiply with.",
    ),
    reference=reference,
    rules=Rules(exact_zeros=True),
    shares=True,
)


def jitter_case(g: torch.Generator, *shape: int, eps: tuple[float, ...] = (), dtype=torch.float32, **options) -> Case:
    """`eps` may be left out, as ()."""
    x = (3 ** torch.randn(shape, generator=g) * torch.randn(shape, generator=g)).to(dtype)
    return call(x, torch.rand(shape, generator=g), *eps, **options)


@jitter.stage(
    "a factor near 1 for every entry",
    points=1,
    exposes="Each entry times a factor of its own: noise 0 is the factor 1 - eps, noise 1 would be 1 + eps, noise 0.5 is 1.",
)
def _(g):
    yield jitter_case(g, 3, 4, eps=(0.3,))
    yield jitter_case(g, 7, 5, eps=(0.1,))
    yield jitter_case(g, 1, 1, eps=(0.9,))
    yield jitter_case(g, 300, 3, eps=(0.25,))
    yield jitter_case(g, 2, 1100, eps=(0.02,))
    ends = torch.tensor([[0.0, 0.5, 1 - 2**-24], [0.25, 0.0, 0.75]])
    yield call(torch.randn(2, 3, generator=g) + 4, ends, 0.4)


@jitter.stage(
    "with what was not said, and of any shape",
    points=1,
    exposes="eps is 0.01 if it is left out; eps 0 changes nothing; x may have any number of dimensions, and what is 0 stays 0.",
)
def _(g):
    yield jitter_case(g, 6, 9)
    yield jitter_case(g, 2, 3, 5)
    yield jitter_case(g, 11, eps=(0.05,))
    yield jitter_case(g, 2, 3, 2, 4, eps=(0.6,))
    yield jitter_case(g, 4, 3, eps=(0,))
    for size in (1.0, 1e-20, 1e20):
        dead = size * torch.randn(5, 6, generator=g) * torch.tensor([1.0, 0, 1, 1, 0, 1])
        yield call(dead, torch.rand(5, 6, generator=g), eps=0.2)


@jitter.stage(
    "no noise in evaluation",
    points=1,
    exposes="If noise is None, x comes out as it is (in float32): nothing is drawn, and no factor is applied.",
)
def _(g):
    yield call(torch.randn(4, 5, generator=g), None)
    yield call(torch.randn(3, 2, 6, generator=g), None, 0.3)
    yield call(torch.randn(5, 3, generator=g).bfloat16(), None, 0.2)


@jitter.stage(
    "in float32, on a copy",
    points=1,
    exposes="x may be bfloat16: go to float32 before anything else, and stay there. x and the noise stay as they were: the experts read x.",
    pure=True,
)
def _(g):
    yield jitter_case(g, 6, 7, dtype=torch.bfloat16)
    yield jitter_case(g, 3, 4, 5, eps=(0.1,), dtype=torch.bfloat16)
    yield jitter_case(g, 5, 8, eps=(0.4,))


@jitter.stage(
    "a gradient reaches the inputs",
    points=1,
    exposes="What the router learns goes back to the layers below it, through the factor. numpy, detach(), .data and torch.no_grad() cut it off.",
)
def _(g):
    yield jitter_case(g, 4, 6, eps=(0.3,), gradients=(0,))
    yield jitter_case(g, 2, 5, 3, eps=(0.5,), gradients=(0,))
    yield call(torch.randn(3, 7, generator=g), None, gradients=(0,))


def mistaken(name: str, says: str, of):
    """A mistake in what becomes of x in float32 where there is noise."""

    def wrong(x, noise, eps=0.01):
        return x.float() if noise is None else of(x.float(), noise, eps)

    jitter.misconception(name, says)(wrong)


mistaken(
    "additive",
    "You added noise of size eps. Jitter multiplies: a large input is moved more than a small one, and 0 stays 0.",
    lambda x, u, eps: x + eps * (2 * u - 1),
)
mistaken(
    "around 0",
    "Your factor lies around 0, from -eps to eps. It has to lie around 1: 1 - eps to 1 + eps.",
    lambda x, u, eps: x * eps * (2 * u - 1),
)
mistaken(
    "upwards only",
    "Your factor goes from 1 to 1 + eps: on average it makes inputs larger. The noise is uniform on [0, 1), so stretch it to both sides of 1.",
    lambda x, u, eps: x * (1 + eps * u),
)
mistaken(
    "downwards only",
    "Your factor goes from 1 - eps to 1. It has to reach 1 + eps: the interval is 2 eps wide.",
    lambda x, u, eps: x * (1 - eps + eps * u),
)
mistaken(
    "half the width",
    "Your factor goes from 1 - eps / 2 to 1 + eps / 2. eps is half the width of the interval, not all of it.",
    lambda x, u, eps: x * (1 + eps * (u - 0.5)),
)
mistaken(
    "twice the width",
    "Your factor goes from 1 - eps to 1 + 3 eps, or is otherwise too wide: noise 0.5 has to be the factor 1.",
    lambda x, u, eps: x * (1 - eps + 4 * eps * u),
)
mistaken(
    "from 1 on",
    "Your factor goes from 1 to 1 + 2 eps. Noise 0 is the factor 1 - eps.",
    lambda x, u, eps: x * (1 + 2 * eps * u),
)
mistaken(
    "turned around",
    "You turned the noise around: noise 0 gives 1 + eps. The distribution is the same, but noise 0 is to be 1 - eps.",
    lambda x, u, eps: x * (1 + eps - 2 * eps * u),
)
mistaken(
    "the noise as the factor",
    "You multiplied by the noise itself, a number from 0 to 1. Stretch it to the interval from 1 - eps to 1 + eps first.",
    lambda x, u, eps: x * u,
)
mistaken(
    "one factor for a token",
    "All entries of a token have the same factor. Every entry has its own: noise has the shape of x.",
    lambda x, u, eps: x * (1 - eps + 2 * eps * u[..., :1]),
)
mistaken(
    "divided",
    "You divided by the factor. Multiply.",
    lambda x, u, eps: x / (1 - eps + 2 * eps * u),
)
mistaken(
    "log-uniform",
    "Your factor is exp of uniform noise. It is uniform itself: 1 - eps + 2 eps u.",
    lambda x, u, eps: x * torch.exp(eps * (2 * u - 1)),
)
mistaken(
    "noise of its own",
    "You drew the noise yourself. It is an argument: with the same noise the result has to be the same.",
    lambda x, u, eps: x * torch.empty_like(x).uniform_(1 - eps, 1 + eps),
)
mistaken(
    "no gradient",
    "The values are right, but no gradient reaches x: torch.no_grad(), detach(), .data or numpy cuts it off. The router trains what lies below it, too.",
    lambda x, u, eps: (x * (1 - eps + 2 * eps * u)).detach(),
)
mistaken(
    "scaled as dropout is",
    "You scaled the inputs by 1 / (1 - eps), as dropout does. Jitter has mean 1 already.",
    lambda x, u, eps: x * (1 - eps + 2 * eps * u) / (1 - eps),
)


@jitter.misconception(
    "noise in evaluation",
    "Where noise is None you draw some. None is what evaluation gives: the same text then has to be routed the same way each time.",
)
def _(x, noise, eps=0.01):
    noise = torch.rand(x.shape) if noise is None else noise
    return reference(x, noise, eps)


@jitter.misconception(
    "None taken for 0",
    "Where noise is None you scaled x, by 1 - eps or so, as if the noise were 0. Without noise x comes out as it is.",
)
def _(x, noise, eps=0.01):
    return x.float() * (1 - eps) if noise is None else reference(x, noise, eps)


@jitter.misconception(
    "in place",
    "The result is right, but you changed x: x.float() is x itself where x is float32 already. The experts would read jittered inputs: write "
    "`x = x * factor`, not `x *= factor`.",
)
def _(x, noise, eps=0.01):
    x = x.float()
    return x if noise is None else x.mul_(1 - eps + 2 * eps * noise)


@jitter.misconception(
    "in the dtype of x",
    "The result has the dtype of x. The router works in float32, whatever the model runs in: x.float() first.",
)
def _(x, noise, eps=0.01):
    return x if noise is None else x * (1 - eps + 2 * eps * noise).to(x.dtype)


@jitter.misconception(
    "rounded to the dtype of x",
    "You went to float32 too late: the factor, or the product, was rounded to bfloat16, where only a few numbers lie between 1 - eps and 1 + eps.",
)
def _(x, noise, eps=0.01):
    return x.float() if noise is None else x.float() * (1 - eps + 2 * eps * noise).to(x.dtype).float()


@jitter.misconception(
    "an eps of its own", "If eps is left out it is 0.01: `eps: float = 0.01`, as in the first line that you were given."
)
def _(x, noise, eps=0.1):
    return reference(x, noise, eps)


@jitter.accepts("as Switch in transformers, its uniform noise made of the argument")
def _(hidden_states, noise, jitter_noise=0.01, eps=None):
    jitter_noise = jitter_noise if eps is None else eps
    hidden_states = hidden_states.to(torch.float32)
    if noise is not None and jitter_noise > 0:
        low, high = 1.0 - jitter_noise, 1.0 + jitter_noise
        hidden_states = hidden_states * (noise * (high - low) + low)
    return hidden_states


@jitter.accepts("a step away from x, by lerp")
def _(x, noise, eps=0.01):
    x = x.to(torch.float32, copy=True)
    return x if noise is None else torch.lerp(x - eps * x, x + eps * x, noise)


@jitter.accepts("in float64, the factor by numpy")
def _(x, noise, eps=0.01):
    if noise is None:
        return x.float() * 1.0
    factor = np.interp(noise.numpy().astype(np.float64), [0.0, 1.0], [1 - eps, 1 + eps])
    return (x.double() * torch.from_numpy(factor)).float()
