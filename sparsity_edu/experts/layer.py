"""A mixture layer: in place of one wide feed-forward layer many narrow ones, of which each token meets k.

    route -> drop what is over capacity -> dispatch -> experts -> combine

Parameters grow with the number of experts E, computation with k alone. Experts are

    swiglu     W_down (silu(W_gate x) * W_up x)        Mixtral, DeepSeek, Qwen: 3 matrices
    relu       W_down relu(W_up x)                     Switch: 2 matrices

and lie in one tensor each, as in transformers: (E, 2f, d), the rows of the gate first, and (E, d, f).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsity_edu.experts.routing import Routing, combine, dispatch, positions, router_logits

KINDS = {"swiglu": 2, "relu": 1}  # rows of the first matrix, in widths of an expert


def run_experts(x: Tensor, counts: list[int], up: Tensor, down: Tensor, kind: str) -> Tensor:
    """Each expert on its own tokens: two matrix products for each expert that has any.

    Args:
        x: (entries, d), sorted by expert.
        counts: how many entries each expert has.
        up: (E, 2f, d) gate and up projection for "swiglu", (E, f, d) for "relu".
        down: (E, d, f).
        kind: "swiglu" or "relu".

    Returns:
        (entries, d).
    """
    rows(kind)
    answers = [x[:0]]
    # unbind, not up[e]: its gradient is one stack, that of an index is a full tensor of zeros for each expert
    for X, W_up, W_down in zip(x.split(counts), up.unbind(), down.unbind(), strict=True):
        if len(X):
            # W_up X^T, not X W_up^T: with an expert's few tokens BLAS is up to a fifth faster with the weights on the left
            h = _activate(W_up @ X.T, kind, dim=0)  # (f, entries of the expert)
            answers.append(F.linear(h.T, W_down))
    return torch.cat(answers)


def rows(kind: str) -> int:
    """How many rows the first matrix of an expert has for each of its neurons."""
    if kind not in KINDS:
        raise ValueError(f"kind must be {' or '.join(KINDS)}, got {kind!r}")
    return KINDS[kind]


def _activate(h: Tensor, kind: str, dim: int) -> Tensor:
    if kind == "relu":
        return F.relu(h)
    gate, up = h.chunk(2, dim)
    return F.silu(gate) * up


class MixtureLayer(nn.Module):
    """A feed-forward layer made of experts.

        Mixtral       MixtureLayer(d, f, E, partial(top_k, k=2, renormalise=True))
        Switch        MixtureLayer(d, f, E, partial(top_k, k=1, renormalise=False), kind="relu", capacity=64)
        DeepSeek-V3   MixtureLayer(d, f, E, partial(group_limited, k=8, groups=8, top_groups=4, scale=2.5), shared=f)

    Args:
        d: width of the model.
        f: width of an expert.
        n_experts: E.
        route: from logits (..., tokens, E) to a `Routing`. DeepSeek-V3's bias is given with it.
        kind: of the experts, "swiglu" or "relu".
        capacity: tokens that an expert takes of a group, see `routing.capacity`; None for no limit.
        order: who comes first when it is scarce, see `routing.positions`.
        shared: width of an expert that every token meets with weight 1 (DeepSeek), 0 for none.
        generator: of the initial weights, normal with a standard deviation of 0.02.
    """

    def __init__(
        self,
        d: int,
        f: int,
        n_experts: int,
        route: Callable[[Tensor], Routing],
        *,
        kind: str = "swiglu",
        capacity: int | None = None,
        order: str = "choices",
        shared: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if capacity is not None and capacity < 0:
            raise ValueError(f"capacity must be at least 0, got {capacity}")
        self.route, self.kind, self.capacity, self.order = route, kind, capacity, order

        def weights(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).normal_(0, 0.02, generator=generator))

        self.router = weights(n_experts, d)
        self.up = weights(n_experts, rows(kind) * f, d)
        self.down = weights(n_experts, d, f)
        self.shared_up = weights(rows(kind) * shared, d) if shared else None
        self.shared_down = weights(d, shared) if shared else None

    def forward(self, x: Tensor, router_input: Tensor | None = None) -> tuple[Tensor, Routing]:
        """Run what is routed.

        Args:
            x: (tokens, d), or (groups, tokens, d), with capacity counted in each group: Switch in transformers takes a sequence
                for a group.
            router_input: what the router reads instead of x, such as `losses.jitter(x, noise)`.

        Returns:
            y, like x: 0 where a token lost all its choices, the shared expert aside; and the routing before dropping, for the
            losses.
        """
        routing = self.route(router_logits(x if router_input is None else router_input, self.router))
        n_experts, kept = len(self.router), None
        if self.capacity is not None:
            kept = positions(routing.experts, n_experts, order=self.order) < self.capacity
        to = dispatch(routing.experts, n_experts, kept)
        flat = x.reshape(-1, x.shape[-1])  # (tokens, d)
        answers = run_experts(flat.index_select(0, to.tokens), to.counts.tolist(), self.up, self.down, self.kind)
        y = combine(answers, to, routing.weights).view(x.shape)
        if self.shared_up is not None:
            y = y + F.linear(_activate(F.linear(x, self.shared_up), self.kind, dim=-1), self.shared_down)
        return y, routing


class Size(NamedTuple):
    """What a mixture layer costs."""

    parameters: int  # that memory has to hold
    active: int  # that a token meets
    flops: int  # for a token, forward; a multiplication and an addition for each active parameter


def size(d: int, f: int, n_experts: int, k: int, *, kind: str = "swiglu", shared: int = 0) -> Size:
    """Count parameters against computation, router included.

    Args:
        d: width of the model.
        f: width of an expert.
        n_experts: E.
        k: experts of a token.
        kind: "swiglu", 3 matrices (d, f), or "relu", 2.
        shared: width of the shared expert.

    Returns:
        The counts. Activations and the weighted sum, of the order of d and f, are left out.
    """
    matrices = rows(kind) + 1
    expert = matrices * d * f
    always = n_experts * d + matrices * d * shared  # the router, and the expert of all
    active = always + k * expert
    return Size(always + n_experts * expert, active, 2 * active)


def experts_read(tokens: int, n_experts: int, k: int) -> float:
    """How many different experts a batch of tokens needs, if all are equally likely: E (1 - (1 - k/E)^B).

    Decoding reads each of them from memory once. One token reads k experts; a batch soon reads all of them, and a mixture then
    costs as many bytes as a dense layer of its total size, though no more computation than one of its active size.

    Args:
        tokens: B, tokens that are computed together.
        n_experts: E.
        k: experts of a token.

    Returns:
        A number from k to E.
    """
    return n_experts * (1 - (1 - k / n_experts) ** tokens)
