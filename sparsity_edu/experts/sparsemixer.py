"""SparseMixer: sample the expert, and estimate the gradient that the router would get if every expert had been run.

The layer answers p_D E_D(x) with D ~ p = softmax(z). Let f_i(w) be the loss if expert i answers with weight w. The expected
loss is sum_i p_i f_i(p_i), and what the choice contributes to its gradient needs f_i(p_i) - f(0) for every expert, run or not.
That difference is an integral of the slope, and a quadrature rule needs the slope at a few weights between 0 and p_i only:

    f_i(p_i) - f(0)  ~  p_i sum_n b_n f_i'(a_n p_i)

A coin decides at which of the weights a_n p_D the sampled expert is run. Its gradient by p_D is then right on average.

              weights    chance of the smaller    gradient of p_D times    right for f up to
    V1        1/2, 1     1/2                      2                        quadratic
    V2        1/3, 1     3/4                      1                        cubic, were the p_D of the answer a constant
    V2_STAR   1/3, 1     3/8                      2                        cubic

V2 is what GRIN and Phi-3.5-MoE were trained with; the paper's appendix A finds its derivation mistaken and derives V2_STAR. In
all three, the expert with the largest probability is always run at its full weight (Euler's method, of first order).

Liu et al. 2023, "Sparse backpropagation for MoE training" (V1); Liu et al. 2024, "GRIN: gradient-informed MoE" (V2, V2_STAR).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sparsity_edu.experts.routing import Routing


class Rule(NamedTuple):
    """A quadrature rule with two nodes, the second of which is the whole weight."""

    small: float  # the first node: the share of p_D at which the expert is run
    whole: float  # chance of the second, 1
    backward: float  # factor of the gradient of p_D, whichever node it was
    masked_probs: bool  # what the balancing loss sees: p after masking, or of all experts


V1 = Rule(1 / 2, 1 / 2, 2.0, True)
V2 = Rule(0.3333, 1 / 4, 1.0, False)  # the literal of the authors' code
V2_STAR = Rule(1 / 3, 5 / 8, 2.0, False)


def sparsemixer(
    logits: Tensor,
    k: int,
    rule: Rule,
    noise: Tensor | None = None,
    coin: Tensor | None = None,
    *,
    eps: float,
    euler: bool = True,
) -> Routing:
    """Choose k experts, one after the other, each from a softmax over those that are left.

    Args:
        logits: (..., tokens, E), not changed.
        k: experts of a token; the authors' V1 knows 1 alone, Phi-3.5-MoE is V2 with 2.
        rule: V1, V2 or V2_STAR.
        noise: (k, ..., tokens, E) exponential with mean 1, for each choice; None for evaluation, where the largest logit wins
            and gradients are the ordinary ones.
        coin: (k, ..., tokens) uniform on [0, 1); goes with `noise`.
        eps: experts whose logit lies further below the largest than 2 eps, relative to the larger of |z_i| and max z, are out.
            0.1 in the code of V1 and V2, 0.01 in Phi-3.5-MoE. (The paper has |z_i| + |max z| for that larger one.)
        euler: whether the likeliest expert is always run at its full weight; without it the estimators are as exact as the
            table says.

    Returns:
        The routing. Weights are not renormalised: the second softmax knows nothing of the first expert, and the sum of both may
        be close to 2. The authors' V1 multiplies the layer's output by a learned vector omega as well, ones at first.

    Raises:
        ValueError: an argument is not allowed.

    Source: the authors' `sparsemixer.py` and `sparsemixer_v2.py`; Phi-3.5-MoE in transformers. GRIN's listing of V2_STAR has a
        temperature of 2: pass logits / 2.
    """
    E = logits.shape[-1]
    if not 1 <= k <= E:
        raise ValueError(f"k must be from 1 to the {E} experts, got {k}")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    if noise is not None and noise.shape != (k, *logits.shape):
        raise ValueError(f"noise must be {(k, *logits.shape)}, got {tuple(noise.shape)}")
    if (coin is None) != (noise is None) or (coin is not None and coin.shape != (k, *logits.shape[:-1])):
        got = None if coin is None else tuple(coin.shape)
        raise ValueError(f"coin must go with noise and be {(k, *logits.shape[:-1])}, got {got}")
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    left = z  # (..., tokens, E): -inf for those that were chosen
    experts, weights = [], []
    for j in range(k):
        masked = left.masked_fill(too_small(z, left, eps), -math.inf)  # (..., tokens, E)
        p = masked.softmax(dim=-1)
        best = masked.argmax(dim=-1, keepdim=True)  # (..., tokens, 1)
        if noise is None:
            D, weight = best, p.gather(-1, best)
        else:
            D = (masked - noise[j].log()).argmax(dim=-1, keepdim=True)  # Gumbel-max: -log Exp(1) is Gumbel
            whole = coin[j, ..., None] > 1 - rule.whole
            if euler:
                whole = whole | (best == D)
            m = rule.small + (1 - rule.small) * whole.to(p.dtype)
            weight = _Estimate.apply(p.gather(-1, D), m, rule.backward)
        if j == 0:
            probs = p if rule.masked_probs else z.softmax(dim=-1)
        experts.append(D)
        weights.append(weight)
        left = left.scatter(-1, D, -math.inf)
    return Routing(torch.cat(experts, dim=-1), torch.cat(weights, dim=-1), probs)


def too_small(z: Tensor, left: Tensor, eps: float) -> Tensor:
    """Which experts are too far below the best to be sampled.

    Args:
        z: (..., E) logits.
        left: (..., E) the same, -inf for experts that were chosen before.
        eps: see `sparsemixer`.

    Returns:
        Boolean (..., E); where it is False and `left` is finite, an expert may be sampled.
    """
    z, left = z.detach(), left.detach()
    best = left.amax(dim=-1, keepdim=True)  # z*
    return (best - z) / z.abs().maximum(best) > 2 * eps  # 0 / 0, where all logits are 0, is not greater


class _Estimate(torch.autograd.Function):
    """Forward m p, but backward the gradient of `factor` * p: m is where the slope is taken, not a factor of p."""

    @staticmethod
    def forward(ctx, p: Tensor, m: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return p * m

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.factor, None, None
