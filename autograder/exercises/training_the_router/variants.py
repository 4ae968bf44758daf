"""SparseMixer with each of its steps open to mistakes, and the cases that exercises 9.5 to 9.7 share."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from autograder.exercises.training_the_router.fixtures import CLEAR, clear_best, rows
from sparsity_edu.experts.sparsemixer import too_small

Far = Callable[[Tensor, Tensor, float], Tensor]  # (logits, those that are left, eps) to (tokens, E): too far below the best


def without(z: Tensor, taken: Tensor | None) -> Tensor:
    """The logits, -inf for the expert that is taken."""
    return z if taken is None else z.scatter(-1, taken[:, None], -math.inf)


def draw(
    z: Tensor,
    noise: Tensor | None,
    eps: float,
    taken: Tensor | None = None,
    *,
    far: Far = too_small,
    add: Callable[[Tensor, Tensor], Tensor] = lambda masked, noise: masked - noise.log(),
    probs: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda masked, left, z: masked.softmax(dim=-1),
) -> tuple[Tensor, Tensor]:
    """An expert of each token and the probabilities of all.

    Args:
        z, noise, eps, taken: as in the exercise.
        far: which experts are no candidates.
        add: noise to logits.
        probs: of masked logits, those that are left, and all.
    """
    left = without(z, taken)
    masked = left.masked_fill(far(z, left, eps), -math.inf)
    expert = (masked if noise is None else add(masked, noise)).argmax(dim=-1)
    return expert, probs(masked, left, z)


class Scaled(torch.autograd.Function):
    """m p, with the gradient of factor p."""

    @staticmethod
    def forward(ctx, p, m, factor):
        ctx.factor = factor
        return p * m

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None, None


def mix(
    z: Tensor,
    noise: Tensor | None,
    coin: Tensor | None,
    eps: float,
    taken: Tensor | None = None,
    *,
    small: float,
    above: float,
    factor: float,
    whole=lambda coin, above, likeliest: likeliest | (coin > above),
    likeliest=lambda expert, probs, z: expert == probs.argmax(dim=-1),
    weigh=lambda p, m, factor: Scaled.apply(p, m, factor),
    evaluate=lambda p, factor: p,
    **options,
) -> tuple[Tensor, Tensor]:
    """An expert of each token and its weight; what is left out is as it should be."""
    expert, probs = draw(z, noise, eps, taken, **options)
    p = probs.gather(-1, expert[:, None])[:, 0]
    if noise is None:
        return expert, evaluate(p, factor)
    m = torch.where(whole(coin, above, likeliest(expert, probs, z)), 1.0, small)
    return expert, weigh(p, m, factor)


# Cases

EVERYONE = 1e6  # for this eps nobody is too far below the best, be it nearly 0


def decided(z: Tensor, noise: Tensor, eps: float, taken: Tensor | None = None, size: float = 1.0) -> Tensor:
    """(tokens,): whether no rounding decides who is a candidate, who is drawn (of logits so much larger), and who is likeliest."""
    left = without(z, taken)
    best = left.amax(dim=-1, keepdim=True)
    ratio = (best - z) / z.abs().maximum(best)
    masked = left.masked_fill(too_small(z, left, eps), -math.inf)
    near = ((ratio - 2 * eps).abs() < CLEAR).any(dim=-1)
    return clear_best(masked) & clear_best(size * masked - noise.log()) & ~near


def drawn(
    g: torch.Generator, tokens: int, E: int, eps: float, k: int = 1, shift: float = 0.0, spread: float = 1.0, limit: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (tokens, E) around `shift`, noise (k, tokens, E) and coin (k, tokens), where nothing is close."""

    def several(n):
        z = spread * torch.randn(n, E, generator=g) + shift
        noise = torch.empty(n, k, E).exponential_(generator=g).clamp(min=1e-6)
        coin = torch.rand(n, k, generator=g)
        return [z, noise, coin]

    def accept(z, noise, coin):
        good, taken = (coin.flatten(1) - 0.5).abs().amin(dim=1) > CLEAR, None
        for j in range(k):
            good &= ((coin[:, j] - 0.75).abs() > CLEAR) & decided(z, noise[:, j], eps, taken)
            taken = draw(z, noise[:, j], eps, taken)[0]
        return good

    z, noise, coin = rows(tokens, several, accept)
    coin[1::4] = limit  # where it is exactly at the limit, it is not above
    coin[3::8] = limit + 1e-6
    return z, noise.transpose(0, 1).contiguous(), coin.T.contiguous()


# Mistakes in who is a candidate, as (name, what to say, keyword arguments of `draw`)


def farther(by) -> Far:
    """Too far below the best if (z, z*, the largest of all, eps) says so."""

    def far(z, left, eps):
        z, left = z.detach(), left.detach()
        return by(z, left.amax(dim=-1, keepdim=True), z.amax(dim=-1, keepdim=True), eps)

    return far


CANDIDATES = (
    (
        "no candidates left out",
        "You draw from all experts. Those whose logit lies too far below the best are out: their probability is 0.",
        {"far": lambda z, left, eps: torch.zeros_like(z, dtype=torch.bool)},
    ),
    (
        "eps instead of twice eps",
        "You left out experts that are more than eps below the best, relatively. The limit is 2 eps.",
        {"far": farther(lambda z, best, top, eps: (best - z) / z.abs().maximum(best) > eps)},
    ),
    (
        "an absolute distance",
        "You compared the distance to the best itself with the limit. It is relative: divided by the larger of |z| and the best.",
        {"far": farther(lambda z, best, top, eps: best - z > 2 * eps)},
    ),
    (
        "relative to the best",
        "You divided the distance by |z*|. The divisor of expert i is the larger of |z_i| and z*: they differ where logits are negative.",
        {"far": farther(lambda z, best, top, eps: (best - z) / best.abs() > 2 * eps)},
    ),
    (
        "a maximum without sizes",
        "You divided by the larger of z_i and z*. It is the larger of |z_i| and z*: where all logits are negative your divisor is, too, and nobody is out.",
        {"far": farther(lambda z, best, top, eps: (best - z) / z.maximum(best) > 2 * eps)},
    ),
    (
        "relative to each logit",
        "You divided the distance by |z_i|. The divisor of expert i is the larger of |z_i| and z*: z_i may be close to 0.",
        {"far": farther(lambda z, best, top, eps: (best - z) / z.abs() > 2 * eps)},
    ),
    (
        "the paper's limit",
        "You compared with eps (|z_i| + |z*|), as the paper writes it. The authors' code divides by the larger of |z_i| and z*, and so do we.",
        {"far": farther(lambda z, best, top, eps: best - z > eps * (z.abs() + best.abs()))},
    ),
    (
        "the paper's divisor",
        "You divided by |z_i| + |z*|, as the paper writes it. The authors' code divides by the larger of |z_i| and z*, and so do we.",
        {"far": farther(lambda z, best, top, eps: best - z > 2 * eps * (z.abs() + best.abs()))},
    ),
)
