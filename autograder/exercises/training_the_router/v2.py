"""Exercise 9.7: SparseMixer, version 2."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.training_the_router.v2_mistakes import mistakes
from autograder.exercises.training_the_router.variants import EVERYONE, drawn, mix
from autograder.inside.case import Case, call
from sparsity_edu.experts.sparsemixer import V2, sparsemixer


def reference(logits: Tensor, noise: Tensor | None, coin: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    routing = sparsemixer(logits, 2, V2._replace(small=1 / 3), noise, coin, eps=eps)
    return routing.experts, routing.weights


v2 = Exercise(
    "training_the_router.v2",
    defines="sparsemixer_v2",
    title="Two experts, as in Phi-3.5-MoE",
    minutes=12,
    difficulty=3,
    hints=(
        "It is the same thing twice, with other numbers. The second time the expert that was chosen first is taken: it is "
        "out of the draw, of the softmax, and of who is likeliest.",
        "Write the choice of one expert as a function of its own, `taken` among its arguments, and call it for "
        "`noise[0]` and `noise[1]`. A weight is p where the expert is the likeliest or the coin above 0.75, else p / 3; its "
        "gradient is that of p, once. The two weights are not renormalised.",
        "For j = 0 and 1: `expert, probs = draw(logits, noise[j], eps, taken)`, then `(p * m).detach() + p - p.detach()` with "
        "the p that `gather` takes out of `probs`, and `taken = expert`. `torch.stack` both along dim 1.",
    ),
    reference=reference,
    rules=Rules(tolerance=5e-5, scale=1.0),  # 0.3333 is as good as 1/3
    misconceptions=mistakes,
)


def v2_case(
    g: torch.Generator, tokens: int, E: int, eps: float, *, shift: float = 0.0, spread: float = 1.0, silent=False, **options
) -> Case:
    z, noise, coin = drawn(g, tokens, E, eps, k=2, shift=shift, spread=spread, limit=0.75)
    return call(z, None if silent else noise, None if silent else coin, eps, **options)


@v2.stage(
    "two experts, one after the other",
    points=1,
    exposes="The first as `draw` gives it with noise[0], the second with noise[1] and the first one taken: (tokens, 2), the first in column 0.",
)
def _(g):
    yield v2_case(g, 12, 4, EVERYONE)
    yield v2_case(g, 260, 3, EVERYONE)
    yield v2_case(g, 9, 50, EVERYONE, spread=0.4)
    yield v2_case(g, 8, 2, EVERYONE)


@v2.stage(
    "candidates among those that are left",
    points=1,
    exposes="z* of the second choice is the largest logit that is left. The coins are compared with 0.75; the small weight is a third; the likeliest of "
    "those that are left is never cut.",
)
def _(g):
    yield v2_case(g, 40, 5, 0.3)
    yield v2_case(g, 40, 6, 0.2, shift=3.0)
    yield v2_case(g, 40, 4, 0.25, shift=-2.0)
    yield v2_case(g, 40, 7, 0.7, shift=-0.3)
    yield v2_case(g, 9, 4, 0.1, shift=-3e4, spread=900.0)


@v2.stage(
    "backward: the gradient of p, once",
    points=2,
    exposes="Whatever the coin was, each weight has the gradient of its p: not of p m, and not twice. In the second softmax the first expert has no part.",
)
def _(g):
    yield v2_case(g, 14, 5, 60.0, gradients=(0,))
    yield v2_case(g, 20, 4, 0.4, gradients=(0,))
    yield v2_case(g, 16, 6, 0.3, shift=1.0, gradients=(0,))
    yield v2_case(g, 18, 3, 0.3, shift=-2.0, gradients=(0,))


@v2.stage(
    "in evaluation the two largest",
    points=1,
    exposes="Without noise and coins the two largest logits, with their p. The second is a softmax without the first, so both may be close to 1: their sum "
    "is no 1. The logits stay as they were.",
    pure=True,
)
def _(g):
    yield v2_case(g, 9, 5, 0.3, silent=True)
    yield v2_case(g, 12, 4, 0.2, shift=-2.0, silent=True, gradients=(0,))
    yield v2_case(g, 7, 6, 50.0, silent=True, gradients=(0,))
    yield v2_case(g, 120, 5, 0.35)


class _Multiplier(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores, multiplier, selected_experts, masked_gates, mask_for_one):
        ctx.save_for_backward(multiplier, selected_experts, masked_gates)
        return multiplier * mask_for_one

    @staticmethod
    def backward(ctx, grad_at_output):
        multiplier, selected_experts, masked_gates = ctx.saved_tensors
        grad_at_output = grad_at_output * multiplier
        grad_at_scores_expanded = masked_gates * grad_at_output.mul(-1)
        grad_at_scores_expanded.scatter_add_(dim=-1, index=selected_experts, src=grad_at_output)
        return grad_at_scores_expanded, None, None, None, None


@v2.accepts("the function of Phi-3.5-MoE in transformers, its noise and coins as arguments")
def _(scores, noise, coin, jitter_eps):
    training, multipliers, selected = noise is not None, [], []
    masked_scores = scores
    for j in range(2):
        with torch.no_grad():
            mask_logits_threshold, max_ind = masked_scores.max(dim=-1, keepdim=True)
            factor = scores.abs().clamp(min=mask_logits_threshold)
            mask_logits_threshold = ((mask_logits_threshold - scores) / factor) > (2 * jitter_eps)
        masked_gates = masked_scores.masked_fill(mask_logits_threshold, float("-inf"))
        selected_experts = (masked_gates - noise[j].log()).max(dim=-1)[1].unsqueeze(-1) if training else max_ind
        masked_gates = torch.softmax(masked_gates, dim=-1)
        multiplier = masked_gates.gather(dim=-1, index=selected_experts)
        if training:
            _, max_ind = masked_gates.max(dim=-1, keepdim=True)
            mask_for_one = torch.logical_or(selected_experts == max_ind, coin[j][:, None] > 0.75)
            mask_for_one = torch.add(0.3333, mask_for_one, alpha=0.6667).type_as(masked_gates)
            multiplier = _Multiplier.apply(scores, multiplier, selected_experts, masked_gates, mask_for_one)
        masked_scores = torch.scatter(scores, -1, selected_experts, float("-inf"))
        multipliers.append(multiplier)
        selected.append(selected_experts)
    return torch.concat(selected, dim=-1), torch.concat(multipliers, dim=-1)


@v2.accepts("by detach, step by step")
def _(logits, noise, coin, eps):
    out = torch.zeros_like(logits, dtype=torch.bool)
    experts, weights, rows = [], [], torch.arange(len(logits))
    for j in range(2):
        best = logits.detach().masked_fill(out, -torch.inf).amax(dim=1, keepdim=True)
        gone = out | (best - logits > 2 * eps * torch.maximum(logits.abs(), best))
        p = logits.masked_fill(gone, -torch.inf).softmax(dim=1)
        D = (p.detach() if noise is None else p.detach() / noise[j]).argmax(dim=1)
        w = p[rows, D]
        if noise is not None:
            small = (p.argmax(dim=1) != D) & (coin[j] <= 0.75)
            w = w - torch.where(small, w * 2 / 3, 0.0).detach()
        out = out.clone()
        out[rows, D] = True
        experts.append(D)
        weights.append(w)
    return torch.stack(experts, dim=1), torch.stack(weights, dim=1)


@v2.accepts("in float64, each choice by the course's general function")
def _(logits, noise, coin, eps):
    z, taken, found = logits.double(), None, []
    for j in range(2):
        of_choice = (None, None) if noise is None else (noise[j].double(), coin[j].double())
        found.append(mix(z, *of_choice, eps, taken, small=0.3333, above=0.75, factor=1.0))
        taken = found[-1][0]
    experts, weights = zip(*found, strict=True)
    return torch.stack(experts, dim=-1), torch.stack(weights, dim=-1).float()
