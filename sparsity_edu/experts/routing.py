"""Routing: which tokens go to which experts, how much each answer counts, and what happens when an expert is full.

    logits      z = x W^T                         one number per token and expert
    choose      the k best experts of a token, with weights
    capacity    an expert takes C tokens, the rest is dropped
    dispatch    a list of tokens, expert after expert
    combine     y_t = sum_j w_tj E_j(x_t)         a dropped choice adds nothing; a token that lost all gets 0

Between dispatch and combine every expert has its tokens side by side, so an ordinary matrix product is all it needs. The lists
are made by sorting. The textbook's product with a dense one-hot tensor (tokens, experts, capacity) costs more than the experts.

Groups: where a shape begins with (groups,), such as one for each sequence, capacity is counted in each by itself.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDINGS = {"mesh": 4, "flaxformer": 4, "deepspeed": 4, "megatron": 0}  # and the least capacity of each
ORDERS = ("choices", "tokens", "priority")


class Routing(NamedTuple):
    """What a router says of each token."""

    experts: Tensor  # (..., tokens, k) int64, the best first
    weights: Tensor  # (..., tokens, k) by which an expert's answer is multiplied
    probs: Tensor  # (..., tokens, E) of all experts, whether chosen or not: for the balancing loss


class Dispatch(NamedTuple):
    """Index lists, one entry for each choice that was kept, sorted by expert."""

    tokens: Tensor  # (entries,) which token
    choices: Tensor  # (entries,) which of the tokens * k choices, counted token by token
    counts: Tensor  # (E,) entries of each expert


def router_logits(x: Tensor, W: Tensor) -> Tensor:
    """The router's logits, in float32 or better whatever the model runs in.

    Args:
        x: (..., tokens, d).
        W: (E, d), no bias.

    Returns:
        (..., tokens, E).

    Source: Fedus et al. 2022, "Switch transformers", sec. 2.4, "selective precision". Switch and DeepSeek-V3 in transformers do
        so too; Mixtral there multiplies in the model's dtype and is in float32 from the softmax on.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(dtype), W.to(dtype))


def top_k(logits: Tensor, k: int, *, renormalise: bool, eps: float = 0.0, scale: float = 1.0) -> Routing:
    """Softmax over the experts, then the k best.

    Args:
        logits: (..., tokens, E).
        k: experts of a token.
        renormalise: divide the k weights by their sum. Mixtral, Qwen3-MoE and mesh do; it is the same as a softmax over the k
            chosen logits, Megatron's default. Switch, flaxformer, DeepSeek-V2, OLMoE and Qwen2-MoE do not. For k = 1 it
            makes every weight 1, and the router has nothing to learn from.
        eps: added to that sum; 1e-9 in mesh.
        scale: of the weights, after all else; 16 in DeepSeek-V2.

    Returns:
        The routing; weights and probabilities in float32 or better. Of equal logits any may be chosen.

    Raises:
        ValueError: `k` is not in [1, E].

    Source: Jiang et al. 2024, "Mixtral of experts", sec. 2.1; Fedus et al. 2022, eq. 1 and 2.
    """
    _check_k(k, logits.shape[-1])
    probs = logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    weights, experts = probs.topk(k, dim=-1)
    if renormalise:
        weights = renormalised(weights, eps=eps)
    return Routing(experts, weights * scale, probs)


def group_limited(
    logits: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    groups: int = 1,
    top_groups: int = 1,
    group_score: str = "top-2 sum",
    score: str = "sigmoid",
    renormalise: bool = True,
    eps: float = 0.0,
    scale: float = 1.0,
) -> Routing:
    """DeepSeek's gate: the k best experts from the best groups, chosen by score + bias and weighted by the score alone.

    Args:
        logits: (..., tokens, E).
        k: experts of a token.
        bias: (E,) that balances (`losses.bias_update`); it decides who is chosen and enters no weight.
        groups: the experts, in order, form that many groups of equal size (the experts of a device).
        top_groups: groups that a token may use.
        group_score: "top-2 sum", of the two best score + bias of a group (DeepSeek-V3), or "max", the best of them
            (DeepSeek-V2, and the authors' code of V3 where there is no bias).
        score: "sigmoid" of each logit (DeepSeek-V3), or "softmax" (DeepSeek-V2).
        renormalise: divide the k weights by their sum (DeepSeek-V3 does, V2 does not).
        eps: added to that sum; 1e-20 in transformers, 0 in the authors' code.
        scale: of the weights, after all else; 2.5 in DeepSeek-V3.

    Returns:
        The routing; `probs` are the scores without bias (their sum is not 1 for the sigmoid).

    Raises:
        ValueError: an argument is not allowed.

    Source: DeepSeek-V3, eq. 13 to 16, and `Gate` in its code. Old transformers (4.57) sets what is left out to 0 instead of
        -inf, and may choose it if the bias is negative.
    """
    E = logits.shape[-1]
    if score not in ("sigmoid", "softmax"):
        raise ValueError(f'score must be "sigmoid" or "softmax", got {score!r}')
    if group_score not in ("top-2 sum", "max"):
        raise ValueError(f'group_score must be "top-2 sum" or "max", got {group_score!r}')
    if groups < 1 or E % groups or not 1 <= top_groups <= groups:
        raise ValueError(f"groups must divide the {E} experts and top_groups be in [1, groups], got {groups} and {top_groups}")
    if groups > 1 and group_score == "top-2 sum" and E // groups < 2:
        raise ValueError(f'group_score "top-2 sum" needs at least 2 experts in a group, got {groups} groups of {E} experts')
    _check_k(k, top_groups * (E // groups))
    if bias is not None and bias.shape != (E,):
        raise ValueError(f"bias must be ({E},), got shape {tuple(bias.shape)}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    s = logits.sigmoid() if score == "sigmoid" else logits.softmax(dim=-1)  # (..., tokens, E)
    selection = s.detach() if bias is None else s.detach() + bias.detach()
    if groups > 1:
        grouped = selection.unflatten(-1, (groups, -1))  # (..., tokens, groups, E / groups)
        best = grouped.amax(dim=-1) if group_score == "max" else grouped.topk(2, dim=-1).values.sum(dim=-1)
        chosen = best.topk(top_groups, dim=-1).indices
        out = torch.ones_like(best, dtype=torch.bool).scatter(-1, chosen, False)  # (..., tokens, groups)
        selection = grouped.masked_fill(out[..., None], -math.inf).flatten(-2)
    experts = selection.topk(k, dim=-1).indices
    weights = s.gather(-1, experts)
    if renormalise:
        weights = renormalised(weights, eps=eps)
    return Routing(experts, weights * scale, s)


def renormalised(weights: Tensor, kept: Tensor | None = None, *, eps: float = 0.0) -> Tensor:
    """Divide the weights of each token by their sum.

    Args:
        weights: (..., k).
        kept: (..., k) boolean, from `positions`. If given, dropped choices get 0 and the others share all of the weight, as in
            DeepSpeed's top 2, which divides after dropping; mesh divides before, and a token that lost a choice answers less.
        eps: added to the sum.

    Returns:
        (..., k); all 0 for a token that lost all its choices.
    """
    if kept is None:
        return weights / (weights.sum(dim=-1, keepdim=True) + eps)
    weights = weights.masked_fill(~kept, 0)
    return weights / (weights.sum(dim=-1, keepdim=True) + eps).clamp(min=torch.finfo(weights.dtype).eps)


def capacity(tokens: int, experts: int, factor: float, rounding: str, *, k: int = 1, minimum: int | None = None) -> int:
    """How many tokens of a group an expert takes: its fair share times a factor, rounded in one of the published ways.

        mesh          max(min(G, floor(G f / E)), 4)       k is left to the factor
        flaxformer    max(round(f G / E), 4)               k is left to the factor; a half goes to the even neighbour
        deepspeed     max(ceil(G / E * f k), 4)            in float32
        megatron      ceil(G k / E * f)                    no minimum

    Switch in transformers has a fixed number instead, `expert_capacity`, and counts it in each sequence.

    Args:
        tokens: G, tokens of a group.
        experts: E.
        factor: f, capacity factor, > 0; 1.25 for training and 2 for evaluation are usual.
        rounding: whose.
        k: experts of a token.
        minimum: the least capacity, instead of the published one.

    Returns:
        C; it may exceed G, except in mesh.

    Raises:
        ValueError: an argument is not allowed.
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")
    if min(tokens, experts, k) < 1 or not 0 < factor < math.inf:
        given = f"{tokens}, {experts}, {k} and {factor}"
        raise ValueError(f"tokens, experts and k must be at least 1 and factor finite and above 0, got {given}")
    C = {  # each operation in the order of the original: it matters where a product is nearly whole
        "mesh": lambda: min(tokens, int(tokens * factor / experts)),
        "flaxformer": lambda: round(factor * tokens / experts),
        "deepspeed": lambda: math.ceil((torch.tensor(factor * k, dtype=torch.float32) * (tokens / experts)).item()),
        "megatron": lambda: math.ceil(tokens * k / experts * factor),
    }[rounding]()
    return max(C, ROUNDINGS[rounding] if minimum is None else minimum)


def positions(experts: Tensor, n_experts: int, *, order: str = "choices", priority: Tensor | None = None) -> Tensor:
    """The position of each choice in the queue of its expert; those below the capacity are kept: `positions(...) < C`.

    Args:
        experts: (tokens, k) or (groups, tokens, k), a queue for each group and expert.
        n_experts: E.
        order: who comes first. "choices": all first choices, then all second ones (mesh, flaxformer, DeepSpeed). "tokens": all
            choices of a token, then those of the next. "priority": the choice of the highest priority, whatever its rank
            (Megatron's "probs").
        priority: for "choices" and "tokens" (tokens,) or (groups, tokens), the highest first: the best probability is batch
            prioritised routing (Riquelme et al. 2021, V-MoE; no token may then know how many come after it), random numbers are
            DeepSpeed's random token selection. Left out, tokens come from left to right. For "priority" the shape of `experts`.

    Returns:
        int64 of the shape of `experts`, from 0.

    Raises:
        ValueError: an argument is not allowed.

    Source: Lepikhin et al. 2021, "GShard", algorithm 1.
    """
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    wanted = experts.shape if order == "priority" else experts.shape[:-1]
    needed = order == "priority" or priority is not None
    if experts.ndim not in (2, 3) or (needed and getattr(priority, "shape", None) != wanted):
        got = None if priority is None else tuple(priority.shape)
        raise ValueError(
            f"experts must be ([groups,] tokens, k) and priority {tuple(wanted)}, got {tuple(experts.shape)} and {got}"
        )
    _check_experts(experts, n_experts)
    if experts.ndim == 2:  # one group
        priority = None if priority is None else priority[None]
        return positions(experts[None], n_experts, order=order, priority=priority)[0]
    groups, tokens, k = experts.shape
    choice = torch.arange(k, device=experts.device)
    if order == "priority":
        turn = _ranks(priority.flatten(1)).view(groups, tokens, k)
    else:
        token = torch.arange(tokens, device=experts.device)[None] if priority is None else _ranks(priority)
        turn = choice * tokens + token[..., None] if order == "choices" else token[..., None] * k + choice
    group = torch.arange(groups, device=experts.device)[:, None, None]
    queue = group * n_experts + experts  # (groups, tokens, k): who stands in which queue, and when it is their turn
    by_queue = (queue * (tokens * k) + turn).flatten().argsort()
    length = queue.flatten().bincount(minlength=groups * n_experts)
    start = length.cumsum(0) - length  # of each queue, in by_queue
    place = torch.arange(len(by_queue), device=experts.device) - start[queue.flatten()[by_queue]]
    return torch.empty_like(place).scatter_(0, by_queue, place).view(experts.shape)


def dispatch(experts: Tensor, n_experts: int, kept: Tensor | None = None) -> Dispatch:
    """Sort the choices by expert: `x.index_select(0, dispatch.tokens).split(counts)` is then what each expert reads.

    Args:
        experts: (..., tokens, k); all leading dimensions together are the tokens.
        n_experts: E.
        kept: boolean like `experts`, False for choices that are dropped; all are kept if left out.

    Returns:
        The index lists; within an expert, tokens are in order.

    Raises:
        ValueError: an expert is not in [0, E), or the shapes differ.
    """
    if kept is not None and kept.shape != experts.shape:
        raise ValueError(f"kept must have the shape of experts, {tuple(experts.shape)}, got {tuple(kept.shape)}")
    _check_experts(experts, n_experts)
    flat = experts.flatten()
    choices = flat.argsort(stable=True)  # (tokens * k,)
    if kept is not None:
        choices = choices[kept.flatten()[choices]]  # (entries,)
    return Dispatch(choices // experts.shape[-1], choices, flat[choices].bincount(minlength=n_experts))


def combine(outputs: Tensor, to: Dispatch, weights: Tensor) -> Tensor:
    """Bring the experts' answers back to their tokens: the weighted sum over each token's choices.

    Args:
        outputs: (entries, d), in the order of the index lists.
        to: the index lists.
        weights: (..., tokens, k) of all choices, the dropped ones included.

    Returns:
        (tokens, d), dtype of `outputs`, summed in float32 or better: 0 for a token that lost all its choices.
    """
    weighted = outputs * weights.flatten().index_select(0, to.choices)[:, None]  # (entries, d), float32 or better
    y = weighted.new_zeros(weights.shape[:-1].numel(), outputs.shape[-1])
    return y.index_add(0, to.tokens, weighted).to(outputs.dtype)  # adds, so that no second expert overwrites the first


def _ranks(priority: Tensor) -> Tensor:
    """(groups, n): 0 for the highest of a group; of equal ones the first."""
    return priority.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def _check_experts(experts: Tensor, n_experts: int) -> None:
    if experts.numel() and not 0 <= experts.min() <= experts.max() < n_experts:
        raise ValueError(f"experts must be in [0, {n_experts}), got {int(experts.min())} to {int(experts.max())}")


def _check_k(k: int, most: int) -> None:
    if not 1 <= k <= most:
        raise ValueError(f"k must be from 1 to the {most} experts that can be chosen, got {k}")
