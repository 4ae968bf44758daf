"""Exercise 12.1: the latent."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.inside.case import Case, call


def reference(x: Tensor, W: Tensor, norm: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Each number from its own definition, in float64."""
    down = torch.einsum("bth,oh->bto", x.double(), W.double())
    c, k = down[..., : len(norm)], down[..., len(norm) :]
    size = (c.square().sum(dim=-1, keepdim=True) / len(norm) + eps).sqrt()
    return (c / size * norm.double()).float(), k.float()


latent = Exercise(
    "mla.latent",
    defines="latent",
    title="The latent",
    minutes=10,
    difficulty=1,
    hints=(
        "One product with W gives both parts of every token. Only the first part is normed, over its own numbers, token by token.",
        "`x @ W.T` has d_c + d_R columns; the first `len(norm)` are c. An RMS norm divides by the root of the mean square plus eps, and multiplies by "
        "its weight. Nothing is subtracted.",
        "`down = x @ W.T`; `c, k_rope = down.split([len(norm), len(W) - len(norm)], dim=-1)`; "
        "`c = c * (c.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * norm`; return both.",
    ),
    reference=reference,
)


def case(
    g: torch.Generator, batch: int, tokens: int, hidden: int, d_c: int, d_R: int, *, plain=False, size=1.0, **more
) -> Case:
    x = size * (0.3 + torch.randn(batch, tokens, hidden, generator=g))
    W = torch.randn(d_c + d_R, hidden, generator=g) / hidden**0.5
    norm = torch.ones(d_c) if plain else 0.3 + 1.5 * torch.rand(d_c, generator=g)
    if not plain:
        norm[1] *= -1
    return call(x, W, norm, **more)


@latent.stage(
    "projects down, and norms the first part",
    points=1,
    exposes="c is the first d_c outputs of the down-projection, divided by the root of their mean square; the key with position is the other d_R.",
)
def _(g):
    yield case(g, 1, 1, 9, 5, 2, plain=True)
    yield case(g, 2, 7, 11, 6, 4, plain=True)
    yield case(g, 3, 4, 10, 3, 8, plain=True)
    yield case(g, 1, 300, 8, 5, 4, plain=True, size=10.0)  # so that eps counts for none of them


@latent.stage(
    "with the weight of the norm",
    points=1,
    exposes="What was divided is multiplied by the weight of the norm, channel by channel. The key with position has neither.",
)
def _(g):
    yield case(g, 2, 5, 9, 7, 4)
    yield case(g, 4, 3, 12, 4, 6)
    yield case(g, 1, 6, 5, 8, 2)  # a latent wider than what it is of
    yield case(g, 2, 3, 600, 300, 130)


@latent.stage(
    "faint tokens, and eps",
    points=1,
    exposes="eps is added to the mean square, under the root. A token that is 0 has a latent of 0, one that is faint a smaller one than others.",
)
def _(g):
    yield case(g, 2, 5, 9, 6, 4, size=1e-3)
    yield case(g, 1, 4, 8, 5, 2, eps=0.3)
    yield case(g, 2, 6, 7, 4, 6, size=1e-4, eps=1e-5)
    x = torch.randn(2, 5, 9, generator=g)
    x[:, 2] = 0
    yield call(x, torch.randn(8, 9, generator=g), 0.5 + torch.rand(6, generator=g))
    yield case(g, 1, 4, 8, 5, 4, size=1e6)
    yield case(g, 1, 5, 8, 4, 6, size=1e-3, eps=0.0)


@latent.stage(
    "gradients reach x, W and norm",
    points=1,
    exposes="All three are trained through both results. The arguments stay as they are.",
    pure=True,
)
def _(g):
    yield case(g, 2, 4, 6, 5, 2, gradients=(0, 1, 2))
    yield case(g, 1, 7, 9, 3, 6, gradients=(0, 1, 2), eps=1e-2)


def split(x: Tensor, W: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    down = F.linear(x, W)
    return down[..., : len(norm)], down[..., len(norm) :].clone()


def normed(name: str, says: str, of):
    """A mistake in what becomes of the first part: (c, norm, eps)."""

    def wrong(x, W, norm, eps=1e-6):
        c, k = split(x, W, norm)
        return of(c, norm, eps), k

    latent.misconception(name, says)(wrong)


def mean_square(c: Tensor) -> Tensor:
    return c.square().mean(dim=-1, keepdim=True)


normed(
    "no norm",
    "You did not norm the latent. Without it c grows with x, and so do all keys and values.",
    lambda c, w, eps: c * 1.0,
)
normed(
    "no weight",
    "The weight of the norm is missing: multiply by `norm`, channel by channel.",
    lambda c, w, eps: c * (mean_square(c) + eps).rsqrt() + 0 * w,
)
normed(
    "one plus the weight",
    "You multiplied by 1 + norm, as Gemma's norm does. Here the weight is `norm` itself.",
    lambda c, w, eps: c * (mean_square(c) + eps).rsqrt() * (1 + w),
)
normed(
    "weight before the norm",
    "You multiplied by the weight before you took the mean square. Divide first, then multiply.",
    lambda c, w, eps: c * w * (mean_square(c * w) + eps).rsqrt(),
)
normed(
    "LayerNorm",
    "You subtracted the mean: that is LayerNorm. An RMS norm divides by the root of the mean square, and subtracts nothing.",
    lambda c, w, eps: F.layer_norm(c, w.shape, w, None, eps),
)
normed(
    "length",
    "You divided by the length of the latent. Take the mean of the squares, not their sum.",
    lambda c, w, eps: c * (c.square().sum(dim=-1, keepdim=True) + eps).rsqrt() * w,
)
normed(
    "no root",
    "You divided by the mean square. Its root is the size of a typical number.",
    lambda c, w, eps: c / (mean_square(c) + eps) * w,
)
normed(
    "mean magnitude",
    "You divided by the mean of |c|. An RMS norm takes the root of the mean square.",
    lambda c, w, eps: c / (c.abs().mean(dim=-1, keepdim=True) + eps) * w,
)
normed(
    "one less in the mean",
    "You divided the sum of squares by d_c - 1. The mean is over all d_c.",
    lambda c, w, eps: c * (c.square().sum(dim=-1, keepdim=True) / (c.shape[-1] - 1) + eps).rsqrt() * w,
)
normed(
    "eps outside the root",
    "You added eps to the root. It is added to the mean square, under the root: for a faint token that is another number.",
    lambda c, w, eps: c / ((mean_square(c) + 1e-40).sqrt() + eps) * w,
)
normed(
    "no eps",
    "You left out eps. A token that is 0 gives 0 / 0 without it.",
    lambda c, w, eps: c * mean_square(c).rsqrt() * w,
)
normed(
    "eps as a least size",
    "You took eps as a lower limit of the mean square. It is added to it.",
    lambda c, w, eps: c * mean_square(c).clamp(min=eps).rsqrt() * w,
)
normed(
    "its own eps",
    "You ignore the argument `eps` and take 1e-6, whatever it is.",
    lambda c, w, eps: c * (mean_square(c) + 1e-6).rsqrt() * w,
)
normed(
    "over the tokens",
    "Your mean runs over the tokens. Each token is normed by itself, over its own channels: dim=-1.",
    lambda c, w, eps: c * (c.square().mean(dim=1, keepdim=True) + eps).rsqrt() * w,
)
normed(
    "over everything",
    "You took one mean over all tokens. Each token is normed by itself, over its own channels.",
    lambda c, w, eps: c * (c.square().mean() + eps).rsqrt() * w,
)
normed(
    "no gradient",
    "The value is right, but the divisor is a constant to your gradient: detach(), item() or torch.no_grad() cuts it off.",
    lambda c, w, eps: c * (mean_square(c) + eps).rsqrt().detach() * w,
)


@latent.misconception(
    "the key normed too",
    "You normed the key with position as well. Only the latent is normed: the key goes to the rotation as it is.",
)
def _(x, W, norm, eps=1e-6):
    c, k = split(x, W, norm)
    return F.rms_norm(c, norm.shape, norm, eps), F.rms_norm(k, k.shape[-1:], None, eps)


@latent.misconception(
    "norm before the cut",
    "You took the mean square over all d_c + d_R outputs. The norm is the latent's alone: cut first.",
)
def _(x, W, norm, eps=1e-6):
    down = F.linear(x, W)
    c, k = split(x, W, norm)
    return c * (mean_square(down) + eps).rsqrt() * norm, k


@latent.misconception(
    "parts in the other order",
    "You took the first rows of W for the key. They are the latent's, and the key's are the last d_R.",
)
def _(x, W, norm, eps=1e-6):
    d_R = len(W) - len(norm)
    down = F.linear(x, W)
    return F.rms_norm(down[..., d_R:], norm.shape, norm, eps), down[..., :d_R].clone()


@latent.misconception(
    "x normed", "You normed x, not the latent. The layer has a norm for x already; this one comes behind the projection."
)
def _(x, W, norm, eps=1e-6):
    return split(F.rms_norm(x, x.shape[-1:], None, eps), W, norm)[0] * norm, split(x, W, norm)[1]


@latent.misconception("the key before the latent", "You return the key first. The latent comes first, as in W.")
def _(x, W, norm, eps=1e-6):
    c, k = split(x, W, norm)
    return k, F.rms_norm(c, norm.shape, norm, eps)


@latent.accepts("as in DeepSeek's code: split, then a norm of torch")
def _(x, W, norm, eps=1e-6):
    kv = F.linear(x, W)
    kv, k_pe = torch.split(kv, [norm.shape[0], W.shape[0] - norm.shape[0]], dim=-1)
    return F.rms_norm(kv, (norm.shape[0],), norm, eps), k_pe.clone()


@latent.accepts("two projections, and the root by torch.linalg")
def _(x, W, norm, eps=1e-6):
    d_c = norm.numel()
    c, k = x @ W[:d_c].mT, x @ W[d_c:].mT
    rms = torch.sqrt(torch.linalg.vecdot(c, c)[..., None] / d_c + eps)
    return norm * (c / rms), k


@latent.accepts("a module, token by token")
def _(x, W, norm, eps=1e-6):
    rms = torch.nn.RMSNorm(len(norm), eps=eps)
    latents, keys = [], []
    for token in x.reshape(-1, x.shape[-1]):
        both = W @ token
        latents.append(torch.func.functional_call(rms, {"weight": norm}, (both[: len(norm)],)))
        keys.append(both[len(norm) :])
    return torch.stack(latents).view(*x.shape[:-1], -1), torch.stack(keys).view(*x.shape[:-1], -1)
