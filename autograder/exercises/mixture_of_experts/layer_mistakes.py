"""Mistakes of exercise 8.6, and the right answer that they vary."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Mistakes
from sparsity_edu.experts import routing

mistakes = Mistakes()


def chosen(z: Tensor, k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    routed = routing.top_k(z, k, renormalise=renormalise)
    return routed.experts, routed.weights


def find_room(experts: Tensor, n_experts: int, capacity: int) -> Tensor:
    return routing.positions(experts, n_experts) < capacity


def run(X: Tensor, up: Tensor, down: Tensor) -> Tensor:
    h = F.linear(X, up)
    f = down.shape[1]
    return F.linear(F.silu(h[:, :f]) * h[:, f:] if h.shape[1] == 2 * f else h.relu(), down)


def mixture(x, router, up, down, k, renormalise=True, capacity=None, *, route=chosen, room=find_room, expert=run, total=None):
    """With its parts exchangeable, for mistakes in one part."""
    experts, weights = route(x @ router.T, k, renormalise)
    kept = None if capacity is None else room(experts, len(router), capacity)
    if total is not None:
        weights = total(weights, torch.ones_like(weights, dtype=torch.bool) if kept is None else kept)
    to = routing.dispatch(experts, len(router), kept)
    rows = x.flatten(0, 1).index_select(0, to.tokens).split(to.counts.tolist())
    answers = [expert(X, up[e], down[e]) for e, X in enumerate(rows) if len(X)]
    return routing.combine(torch.cat([x.new_zeros(0, x.shape[-1]), *answers]), to, weights).view(x.shape)


def varied(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda *args, **options: mixture(*args, **options, **parts))


def everyone(x, router, up, down, k, renormalise=True, capacity=None) -> tuple[Tensor, Tensor]:
    """What all experts say of all tokens, (sequences, tokens, E, d), and weights that are 0 for those not chosen."""
    experts, weights = chosen(x @ router.T, k, renormalise)
    if capacity is not None:
        weights = weights * find_room(experts, len(router), capacity)
    share = torch.zeros(*experts.shape[:-1], len(router)).scatter(-1, experts, weights)
    flat = x.flatten(0, 1)
    answers = torch.stack([run(flat, W_up, W_down) for W_up, W_down in zip(up, down, strict=True)], dim=1)
    return answers.unflatten(0, x.shape[:2]), share


@mistakes(
    "all experts on all tokens",
    "You run every expert on every token and multiply what is not wanted by 0. That computes E / k times too much, and 0 times infinity is NaN. Give "
    "each expert its own rows only.",
)
def _(*args, **options):
    answers, share = everyone(*args, **options)
    return torch.einsum("bte,bted->btd", share, answers)


@mistakes(
    "all experts, masked afterwards",
    "You run every expert on every token and choose afterwards (where, gather or masked_fill). The result is right, but all is computed, and the "
    "gradient of what was masked is 0 times NaN.",
)
def _(*args, **options):
    answers, share = everyone(*args, **options)
    return torch.where(share[..., None] > 0, share[..., None] * answers, 0.0).sum(dim=2)


@mistakes(
    "all tokens where one is wanted",
    "You run every expert that somebody chose, but on all tokens, and choose afterwards. The result is right; what was masked is computed all the same, and "
    "the gradient of it is 0 times infinity.",
)
def _(x, router, up, down, k, renormalise=True, capacity=None):
    experts, weights = chosen(x @ router.T, k, renormalise)
    kept = torch.ones_like(experts, dtype=torch.bool) if capacity is None else find_room(experts, len(router), capacity)
    y = torch.zeros_like(x)
    for e in range(len(router)):
        mine = (experts == e) & kept
        if mine.any():
            answer = run(x.flatten(0, 1), up[e], down[e]).view(x.shape)
            share = (weights * mine).sum(dim=-1, keepdim=True)
            y = y + torch.where(mine.any(dim=-1, keepdim=True), share * answer, 0.0)
    return y


@mistakes(
    "dropped by weight",
    "You run an expert on dropped tokens too, and multiply by 0. What found no room is not computed at all: take it out of the lists.",
)
def _(x, router, up, down, k, renormalise=True, capacity=None):
    experts, weights = chosen(x @ router.T, k, renormalise)
    if capacity is not None:
        weights = weights * find_room(experts, len(router), capacity)
    y = torch.zeros_like(x)
    for e in range(len(router)):
        b, t, j = (experts == e).nonzero(as_tuple=True)
        if len(b):
            y = y.index_put((b, t), weights[b, t, j, None] * run(x[b, t], up[e], down[e]), accumulate=True)
    return y


varied(
    "never renormalised",
    "You never renormalise. renormalise=True is the default: the k weights of a token sum to 1, as in Mixtral.",
    route=lambda z, k, renormalise: chosen(z, k, False),
)
varied(
    "always renormalised",
    "You renormalise in any case. With renormalise=False the weights are probabilities among all experts.",
    route=lambda z, k, renormalise: chosen(z, k, True),
)
varied("no weights", "You add the answers without their weights.", total=lambda weights, kept: weights * 0 + 1)
varied(
    "renormalised after dropping",
    "You divided by the sum of the weights that found room. Here a token that lost a choice answers less: renormalise before dropping.",
    total=lambda weights, kept: (
        weights / (weights * kept).sum(dim=-1, keepdim=True).clamp(min=1e-9) * weights.sum(-1, keepdim=True)
    ),
)


def one_queue(experts: Tensor, n_experts: int, capacity: int) -> Tensor:
    return find_room(experts.flatten(0, 1), n_experts, capacity).view(experts.shape)


varied(
    "capacity over all sequences",
    "You count the capacity over all sequences together. It counts in each sequence: `keep` needs (sequences, tokens, k).",
    room=one_queue,
)
varied(
    "capacity ignored",
    "You leave the capacity out. Where it is given, an expert takes at most so many tokens of each sequence.",
    room=lambda experts, n_experts, capacity: torch.ones_like(experts, dtype=torch.bool),
)
varied(
    "token by token",
    "You fill the experts token by token. First come all first choices, then all second ones.",
    room=lambda experts, n, capacity: routing.positions(experts, n, order="tokens") < capacity,
)
varied(
    "capacity 0 is none",
    "You wrote `if capacity:`, and 0 counts as False. A capacity of 0 drops everything; None is no limit.",
    room=lambda experts, n, capacity: find_room(experts, n, capacity or 10**6),
)


@mistakes(
    "dropped tokens pass",
    "You give back x for dropped tokens. The layer gives 0; x passes by the residual connection outside of it. (A published library once did "
    "so.)",
)
def _(x, router, up, down, k, renormalise=True, capacity=None):
    y = mixture(x, router, up, down, k, renormalise, capacity)
    experts, _ = chosen(x @ router.T, k, renormalise)
    kept = torch.ones_like(experts, dtype=torch.bool) if capacity is None else find_room(experts, len(router), capacity)
    return torch.where(kept.any(dim=-1, keepdim=True), y, x)


def up_first(X: Tensor, up: Tensor, down: Tensor) -> Tensor:
    h, f = F.linear(X, up), down.shape[1]
    return F.linear(h[:, :f] * F.silu(h[:, f:]) if h.shape[1] == 2 * f else h.relu(), down)


def interleaved(X: Tensor, up: Tensor, down: Tensor) -> Tensor:
    h, f = F.linear(X, up), down.shape[1]
    return F.linear(F.silu(h[:, ::2]) * h[:, 1::2] if h.shape[1] == 2 * f else h.relu(), down)


def gelu(X: Tensor, up: Tensor, down: Tensor) -> Tensor:
    h, f = F.linear(X, up), down.shape[1]
    return F.linear(F.gelu(h[:, :f]) * h[:, f:] if h.shape[1] == 2 * f else h.relu(), down)


def silu_only(X: Tensor, up: Tensor, down: Tensor) -> Tensor:
    h, f = F.linear(X, up), down.shape[1]
    return F.linear(F.silu(h[:, :f]) * h[:, f:] if h.shape[1] == 2 * f else F.silu(h), down)


varied(
    "gate and up swapped",
    "You took the first half of up for the values. The gate's rows come first: silu(first) * second.",
    expert=up_first,
)
varied(
    "gate and up interleaved",
    "You took every second row for the gate. Its f rows come first, then the f rows of the values.",
    expert=interleaved,
)
varied("gelu", "You gate with gelu. SwiGLU is silu(gate) * up.", expert=gelu)
varied(
    "silu in place of relu",
    "Where up has f rows only, the expert is a ReLU layer, as in Switch.",
    expert=silu_only,
)


@mistakes(
    "one expert's answer",
    "Only one of a token's experts is in the result: y[token] = ... keeps the last one. The answers are added.",
)
def _(x, router, up, down, k, renormalise=True, capacity=None):
    experts, weights = chosen(x @ router.T, k, renormalise)
    kept = torch.ones_like(experts, dtype=torch.bool) if capacity is None else find_room(experts, len(router), capacity)
    y = torch.zeros_like(x)
    for e in range(len(router)):
        b, t, j = ((experts == e) & kept).nonzero(as_tuple=True)
        if len(b):
            y = y.index_put((b, t), weights[b, t, j, None] * run(x[b, t], up[e], down[e]))
    return y


@mistakes(
    "the router is a constant",
    "No gradient reaches the router. It learns through the weights alone: do not detach them.",
)
def _(x, router, up, down, k, renormalise=True, capacity=None):
    return mixture(x, router.detach(), up, down, k, renormalise, capacity)


@mistakes(
    "the router does not see x",
    "No gradient reaches x through the router. x has two ways to the result: through the experts and through the weights.",
)
def _(x, router, up, down, k, renormalise=True, capacity=None):
    def route(z, k, renormalise):
        return chosen(x.detach() @ router.T, k, renormalise)

    return mixture(x, router, up, down, k, renormalise, capacity, route=route)


@mistakes(
    "the weighted input",
    "You multiplied the expert's input by its weight. The weight belongs to the answer: an expert is not linear.",
)
def _(x, router, up, down, k, renormalise=True, capacity=None):
    experts, weights = chosen(x @ router.T, k, renormalise)
    kept = torch.ones_like(experts, dtype=torch.bool) if capacity is None else find_room(experts, len(router), capacity)
    y = torch.zeros_like(x)
    for e in range(len(router)):
        b, t, j = ((experts == e) & kept).nonzero(as_tuple=True)
        if len(b):
            y = y.index_put((b, t), run(weights[b, t, j, None] * x[b, t], up[e], down[e]), accumulate=True)
    return y


@mistakes("with the residual", "You added x. The residual connection lies outside of this layer.")
def _(x, router, up, down, k, renormalise=True, capacity=None):
    return x + mixture(x, router, up, down, k, renormalise, capacity)


@mistakes("tokens in a row", "Your result has all tokens in one row. Give it the shape of x.")
def _(*args, **options):
    return mixture(*args, **options).flatten(0, 1)
