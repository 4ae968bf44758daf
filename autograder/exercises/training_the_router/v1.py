"""Exercise 9.6: SparseMixer."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.training_the_router.v1_mistakes import RIGHT, mistakes
from autograder.exercises.training_the_router.variants import EVERYONE, drawn, mix
from autograder.inside.case import Case, call
from sparsity_edu.experts.sparsemixer import V1, sparsemixer


def reference(logits: Tensor, noise: Tensor | None, coin: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    noise, coin = (None if part is None else part[None] for part in (noise, coin))
    routing = sparsemixer(logits, 1, V1, noise, coin, eps=eps)
    return routing.experts[:, 0], routing.weights[:, 0]


v1 = Exercise(
    "training_the_router.v1",
    defines="sparsemixer_v1",
    title="SparseMixer, forward and backward",
    minutes=18,
    difficulty=3,
    hints=(
        "Forward and backward are two different things here. Forward, the weight is p, or half of it by the coin. Backward, "
        "it is as if the weight had been 2 p, coin or not. Something has to stand between the two.",
        "`draw` gives the expert and the probabilities; `gather` takes out p. The coin does not count where the expert is the "
        "likeliest. Then either a `torch.autograd.Function` whose forward returns p times m and whose backward returns 2 "
        "times what it is given, or a sum of a part without a gradient and one without a value.",
        "With m = 1 or 0.5, `(p * m).detach() + 2 * (p - p.detach())` has the value p m and the gradient of 2 p. `whole = "
        "(expert == probs.argmax(dim=-1)) | (coin > 0.5)`. Without noise return p itself.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


def v1_case(
    g: torch.Generator, tokens: int, E: int, eps: float, *, shift: float = 0.0, spread: float = 1.0, silent=False, **options
) -> Case:
    z, noise, coin = drawn(g, tokens, E, eps, shift=shift, spread=spread)
    return call(z, None if silent else noise[0], None if silent else coin[0], eps, **options)


@v1.stage(
    "forward: the whole of p, or half of it",
    points=1,
    exposes="The weight is p of the drawn expert where it is the likeliest or the coin is above 0.5, and p / 2 elsewhere.",
)
def _(g):
    yield v1_case(g, 12, 4, EVERYONE)
    yield v1_case(g, 25, 5, EVERYONE)
    yield v1_case(g, 300, 3, EVERYONE)
    yield v1_case(g, 9, 60, EVERYONE, spread=0.4)


@v1.stage(
    "with the candidates of draw",
    points=1,
    exposes="The expert is the one that `draw` gives for this noise and eps, and p is its probability among the candidates.",
)
def _(g):
    yield v1_case(g, 30, 5, 0.3)
    yield v1_case(g, 30, 6, 0.2, shift=3.0)
    yield v1_case(g, 30, 4, 0.25, shift=-2.0)
    yield v1_case(g, 40, 7, 0.7, shift=-0.3)


@v1.stage(
    "backward: the gradient of 2 p",
    points=2,
    exposes="Whatever the coin was, the gradient by the logits is twice that of the softmax's p: 2 p_D (1[e = D] - p_e) for every candidate e.",
)
def _(g):
    yield v1_case(g, 14, 5, 60.0, gradients=(0,))
    yield v1_case(g, 20, 4, 0.4, gradients=(0,))
    yield v1_case(g, 16, 6, 0.3, shift=1.0, gradients=(0,))
    yield v1_case(g, 18, 3, 0.3, shift=-2.0, gradients=(0,))


@v1.stage(
    "in evaluation nothing of all that",
    points=1,
    exposes="Without noise (and coin) the largest logit wins, the weight is p, and its gradient is p's own, once. The logits stay as they were.",
    pure=True,
)
def _(g):
    yield v1_case(g, 9, 5, 0.3, silent=True)
    yield v1_case(g, 12, 4, 0.2, shift=-2.0, silent=True, gradients=(0,))
    yield v1_case(g, 7, 6, 50.0, silent=True, gradients=(0,))
    yield v1_case(g, 80, 5, 0.35)


class _Core(torch.autograd.Function):
    @staticmethod
    def forward(ctx, multiplier, mask_for_one):
        return multiplier * (0.5 + 0.5 * mask_for_one)

    @staticmethod
    def backward(ctx, grad_at_multiplier):
        return grad_at_multiplier * 2, None


@v1.accepts("the authors' SparseMixer, its noise and coin as arguments, without omega")
def _(logits, noise, coin, jitter_eps):
    with torch.no_grad():
        mask_logits_threshold, max_ind = logits.max(dim=-1, keepdim=True)
        factor = logits.abs().clamp(min=mask_logits_threshold)
        mask_logits_threshold = ((mask_logits_threshold - logits) / factor) > (2 * jitter_eps)
    logits = logits.masked_fill(mask_logits_threshold, float("-inf"))
    p = logits
    sample = (logits - noise.log()).max(dim=-1)[1].unsqueeze(-1) if noise is not None else max_ind
    p = torch.softmax(p, dim=-1)
    multiplier = p.gather(dim=1, index=sample)
    if noise is not None:
        mask_for_one = torch.logical_or(sample == max_ind, coin[:, None] > 0.5)
        multiplier = _Core.apply(multiplier, mask_for_one.to(multiplier.dtype))
    return sample.squeeze(-1), multiplier.squeeze(-1)


@v1.accepts("by detach")
def _(logits, noise, coin, eps):
    best = logits.max(dim=-1, keepdim=True).values.detach()
    far = best - logits > 2 * eps * torch.maximum(logits.abs(), best)
    p = logits.masked_fill(far, -torch.inf).softmax(dim=-1)
    expert = p.argmax(dim=-1) if noise is None else (p.detach() / noise).argmax(dim=-1)
    chosen = p[torch.arange(len(p)), expert]
    if noise is None:
        return expert, chosen
    half = (expert != p.argmax(dim=-1)) & ~(coin > 0.5)
    value = torch.where(half, chosen / 2, chosen)
    return expert, 2 * chosen - (2 * chosen - value).detach()


@v1.accepts("the gradient by a hook")
def _(logits, noise, coin, eps):
    expert, p = mix(logits, noise, coin, eps, **RIGHT, weigh=lambda p, m, factor: p)
    if noise is None:
        return expert, p
    likeliest = mix(logits, None, None, eps, **RIGHT)[0]
    m = 0.5 + 0.5 * torch.logical_or(expert == likeliest, coin > 0.5).float()
    weight = p * m
    if weight.requires_grad:
        p.register_hook(lambda grad: 2 * grad / m)
    return expert, weight


class _Whole(torch.autograd.Function):
    """From logits to the weight, its gradient written out."""

    @staticmethod
    def forward(ctx, logits, noise, coin, eps):
        best = logits.amax(dim=-1, keepdim=True)
        near = best - logits <= 2 * eps * torch.maximum(logits.abs(), best)
        p = torch.where(near, (logits - best).exp(), 0.0)
        p = p / p.sum(dim=-1, keepdim=True)
        top = p.argmax(dim=-1)
        expert = top if noise is None else (p / noise).argmax(dim=-1)
        chosen = p.gather(-1, expert[:, None])[:, 0]
        m = torch.ones_like(chosen) if noise is None else torch.where((expert == top) | (coin > 0.5), 1.0, 0.5)
        ctx.mark_non_differentiable(expert)
        ctx.save_for_backward(p, expert, chosen)
        ctx.factor = 1 if noise is None else 2
        return expert, chosen * m

    @staticmethod
    def backward(ctx, _, grad):
        p, expert, chosen = ctx.saved_tensors
        onehot = torch.nn.functional.one_hot(expert, p.shape[1])
        return ctx.factor * (grad * chosen)[:, None] * (onehot - p), None, None, None


@v1.accepts("with a gradient of its own, from the logits on")
def _(logits, noise, coin, eps):
    return _Whole.apply(logits, noise, coin, eps)
