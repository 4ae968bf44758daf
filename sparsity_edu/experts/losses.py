"""What keeps a router in order: noise to explore, losses to balance and to keep logits small, a bias that needs no loss.

    jitter           x (1 + eps (2u - 1))                    multiplicative, on what the router reads
    noisy logits     z + softplus(z_noise) n                 additive, its size learned
    load balancing   E sum_e f_e P_e                         f_e: share of choices, P_e: mean probability
    z-loss           mean_t (log sum_e exp z_te)^2           on raw logits
    bias update      b_e + gamma sign(mean(c) - c_e)         c_e: choices of expert e in the last step

f_e is a count and has no gradient: the balancing loss teaches through P_e alone. Losses come without their coefficient; usual
are 0.01 for load balancing (Switch, mesh, flaxformer; Mixtral's configuration in transformers 0.001) and 1e-3 for the z-loss.
Noise is an argument, and None is no noise: that is what evaluation wants.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

COUNTS = {"sum": "Mixtral in transformers, flaxformer", "mean": "Megatron, DeepSeek-V3", "first": "mesh, DeepSpeed"}
PADDING = ("leave out", "zero logits")


def jitter(x: Tensor, noise: Tensor | None, eps: float = 1e-2) -> Tensor:
    """Scale each of the router's inputs by a random factor from [1 - eps, 1 + eps).

    mesh, flaxformer, Megatron, DeepSpeed ("Jitter") and the Switch paper let the router read the result and the experts x
    itself. Mixtral and Phi-3.5-MoE in transformers feed it to both. SparseMixer's baseline scales the logits instead (eps 0.1).

    Args:
        x: (..., d) inputs, not changed.
        noise: uniform on [0, 1), of the shape of x; None for evaluation.
        eps: half the width of the interval, in [0, 1).

    Returns:
        A tensor like x.

    Raises:
        ValueError: `eps` is not allowed, or the shapes differ.

    Source: Fedus et al. 2022, "Switch transformers", sec. 2.2 (selective precision) and its code.
    """
    if not 0 <= eps < 1:
        raise ValueError(f"eps must be in [0, 1), got {eps}")
    if noise is None:
        return x
    _need_equal(noise=noise, x=x)
    return x * (1 - eps + 2 * eps * noise).to(x.dtype)


def noisy_logits(logits: Tensor, noise_logits: Tensor, noise: Tensor | None) -> Tensor:
    """Add noise whose size is learned, for each token and expert: Shazeer's noisy top-k gating.

    Args:
        logits: (..., experts) x W_g.
        noise_logits: (..., experts) x W_noise.
        noise: (..., experts) standard normal; None for evaluation.

    Returns:
        (..., experts): the logits that choice and softmax see.

    Raises:
        ValueError: the shapes differ.

    Source: Shazeer et al. 2017, "Outrageously large neural networks", eq. 4. DeepSpeed's "RSample" adds Gumbel noise of fixed
        size instead, and to what the choice sees alone.
    """
    if noise is None:
        return logits
    _need_equal(noise=noise, logits=logits)
    _need_equal(noise_logits=noise_logits, logits=logits)
    return logits + F.softplus(noise_logits) * noise  # H(x)_i = (x W_g)_i + N(0, 1) softplus((x W_noise)_i)


def load_balancing(
    probs: Tensor, experts: Tensor, *, count: str = "sum", per: str = "all", mask: Tensor | None = None
) -> Tensor:
    """The load-balancing loss E sum_e f_e P_e; least when every expert is chosen, and believed in, equally often.

    Args:
        probs: (tokens, E) or (groups, tokens, E) probabilities over all experts, whether chosen or not.
        experts: (tokens, k) or (groups, tokens, k) chosen experts, the best first, before anything is dropped.
        count: what f_e counts for k > 1. "sum": all choices per token, so that f sums to k, as does the loss when balanced
            (Mixtral in transformers, flaxformer). "mean": the same by k, sums to 1 (Megatron, DeepSeek-V3). "first": the first
            choice alone, sums to 1 (mesh, DeepSpeed). For k = 1 all three are Switch's.
        per: "all": f and P over all tokens (Mixtral in transformers, Megatron, DeepSpeed), "group": of each group by itself,
            then the mean (mesh, flaxformer; a sequence is a group for Switch in transformers and for DeepSeek-V3).
        mask: (tokens,) or (groups, tokens) boolean, False for padding, which leaves both sums and denominators.

    Returns:
        A scalar, float32 or better. A batch that is all padding costs 0.

    Raises:
        ValueError: an argument is not allowed.

    Source: Fedus et al. 2022, eq. 4 to 6. Take it layer by layer: transformers joins the tokens of all layers of a Mixtral
        before f and P, and is content when each layer uses its own two experts for everything.
    """
    if count not in COUNTS:
        raise ValueError(f"count must be {_either(COUNTS)}, got {count!r}")
    if per not in ("all", "group"):
        raise ValueError(f'per must be "all" or "group", got {per!r}')
    if probs.ndim not in (2, 3) or experts.shape[:-1] != probs.shape[:-1]:
        shapes = f"{tuple(probs.shape)} and {tuple(experts.shape)}"
        raise ValueError(f"probs must be ([groups,] tokens, E) and experts ([groups,] tokens, k), got shapes {shapes}")
    probs = probs.to(torch.promote_types(probs.dtype, torch.float32))
    real = _real(mask, probs)  # ([groups,] tokens)
    n_experts, k = probs.shape[-1], experts.shape[-1]
    chosen = experts[..., :1] if count == "first" else experts
    votes = torch.zeros_like(probs).scatter_add(-1, chosen, probs.new_ones(chosen.shape))  # ([groups,] tokens, E)
    if count == "mean":
        votes = votes / k
    if per == "all" or probs.ndim == 2:
        votes, probs, real = votes.flatten(0, -2)[None], probs.flatten(0, -2)[None], real.flatten()[None]  # one group
    tokens = real.sum(dim=1, keepdim=True).clamp(min=1)  # (groups, 1)
    f = votes.masked_fill(~real[..., None], 0).sum(dim=1) / tokens  # (groups, E)
    P = probs.masked_fill(~real[..., None], 0).sum(dim=1) / tokens  # (groups, E)
    groups = real.any(dim=1).sum().clamp(min=1)  # a group of padding alone has no say
    return n_experts * (f * P).sum() / groups


def z_loss(logits: Tensor, *, mask: Tensor | None = None, padding: str = "leave out") -> Tensor:
    """The mean squared log-partition function of the router: keeps logits small, where float32 and bfloat16 are exact.

    Args:
        logits: (..., tokens, E) raw logits, after noise on the router's input, never log-probabilities (their loss is 0).
        mask: (..., tokens) boolean, False for padding.
        padding: "leave out" takes the mean over real tokens (mesh, ST-MoE); "zero logits" sets the logits of padding to 0 and
            takes the mean over all tokens, so that each costs (log E)^2 (flaxformer).

    Returns:
        A scalar, float32 or better. A batch that is all padding costs 0 when left out.

    Raises:
        ValueError: an argument is not allowed.

    Source: Zoph et al. 2022, "ST-MoE", eq. 5.
    """
    if padding not in PADDING:
        raise ValueError(f"padding must be {_either(PADDING)}, got {padding!r}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    real = _real(mask, logits)  # (..., tokens)
    logits = logits.masked_fill(~real[..., None], 0)
    squares = logits.logsumexp(dim=-1) ** 2  # (..., tokens)
    if padding == "zero logits":
        return squares.mean()
    return (squares * real).sum() / real.sum().clamp(min=1)


def bias_update(bias: Tensor, counts: Tensor, rate: float = 1e-3) -> Tensor:
    """Balance without a loss: raise the bias of experts that were chosen too rarely, lower that of the others, by one step.

    The bias takes part in the choice alone (`routing.group_limited`), so nothing pulls against the loss of the model.

    Args:
        bias: (E,), not changed.
        counts: (E,) how often each expert was chosen in the last batch, all devices together.
        rate: gamma, the size of the step; 1e-3 for most of DeepSeek-V3's training, then 0.

    Returns:
        The new bias, dtype of `bias`.

    Raises:
        ValueError: the shapes differ.

    Source: Wang et al. 2024, "Auxiliary-loss-free load balancing strategy", algorithm 1; DeepSeek-V3, sec. 2.1.2.
    """
    _need_equal(counts=counts, bias=bias)
    counts = counts.to(torch.promote_types(bias.dtype, torch.float32))
    return bias + (rate * torch.sign(counts.mean() - counts)).to(bias.dtype)


def _real(mask: Tensor | None, of: Tensor) -> Tensor:
    """True for real tokens and False for padding, (..., tokens), of a tensor (..., tokens, E)."""
    if mask is None:
        return torch.ones(of.shape[:-1], dtype=torch.bool, device=of.device)
    if mask.shape != of.shape[:-1] or mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean of shape {tuple(of.shape[:-1])}, got {mask.dtype} of {tuple(mask.shape)}")
    return mask


def _need_equal(**tensors: Tensor) -> None:
    (name, a), (other, b) = tensors.items()
    if a.shape != b.shape:
        raise ValueError(f"{name} must have the shape of {other}, {tuple(b.shape)}, got {tuple(a.shape)}")


def _either(names) -> str:
    return " or ".join(f'"{name}"' for name in names)
