"""Exercise 9.6: SparseMixer."""

import math

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise, Mistakes
from autograder.exercises.training_the_router.variants import CANDIDATES, Scaled, drawn, farther, mix
from autograder.inside.case import Case, call
from sparsity_edu.experts.sparsemixer import V1, sparsemixer


def reference(logits: Tensor, noise: Tensor | None, coin: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    noise, coin = (None if part is None else part[None] for part in (noise, coin))
    routing = sparsemixer(logits, 1, V1, noise, coin, eps=eps)
    return routing.experts[:, 0], routing.weights[:, 0]


mistakes = Mistakes()

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
    yield v1_case(g, 12, 4, 60.0)
    yield v1_case(g, 25, 5, 50.0)
    yield v1_case(g, 300, 3, 70.0)
    yield v1_case(g, 9, 60, 80.0, spread=0.4)


@v1.stage(
    "with the candidates of draw",
    points=1,
    exposes="The expert is the one that `draw` gives for this noise and eps, and p is its probability among the candidates.",
)
def _(g):
    yield v1_case(g, 30, 5, 0.3)
    yield v1_case(g, 30, 6, 0.2, shift=3.0)
    yield v1_case(g, 30, 4, 0.25, shift=-2.0)


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
    yield v1_case(g, 10, 5, 0.35)


RIGHT = {"small": 0.5, "above": 0.5, "factor": 2.0}


def mistaken(name: str, says: str, **options):
    mistakes(name, says)(lambda logits, noise, coin, eps: mix(logits, noise, coin, eps, **RIGHT | options))


mistaken(
    "plain gradient of p m",
    "The forward pass is right, but the gradient is that of p m: a whole p counts once and a half one half. The estimator is twice the gradient of p, "
    "whatever the coin: put a torch.autograd.Function between, or detach.",
    weigh=lambda p, m, factor: p * m,
)
mistaken(
    "twice the plain gradient",
    "The gradient is twice that of p m. The coin decides where the slope is taken, in the forward pass; the gradient that comes back is multiplied by 2 "
    "and not by m.",
    weigh=lambda p, m, factor: Scaled.apply(p * m, torch.ones_like(m), factor),
)
mistaken(
    "not doubled",
    "The gradient is that of p, once. Each of the two places where the slope may be taken comes up half of the time, so what comes back counts twice.",
    factor=1.0,
)
mistaken(
    "divided by m",
    "You divided the gradient by m. It is multiplied by 2, whatever m was.",
    weigh=lambda p, m, factor: Scaled.apply(p / m, m * m, 1.0),
)
mistaken(
    "doubled in the forward pass",
    "You doubled the weight itself. Only the gradient is doubled: what the layer computes is p m.",
    weigh=lambda p, m, factor: 2 * p * m,
)
mistaken(
    "four times",
    "The gradient is four times that of p. Twice is right.",
    factor=4.0,
)
mistaken(
    "straight-through",
    "Your weight is 1 in the forward pass, with the gradient of p: that is straight-through. Here the forward pass is p, or p / 2.",
    weigh=lambda p, m, factor: 1 + factor * (p - p.detach()),
)
mistaken(
    "no half",
    "The weight is always the whole p. Where the expert is not the likeliest and the coin is not above 0.5, it is half.",
    whole=lambda coin, above, likeliest: torch.ones_like(likeliest),
)
mistaken(
    "the coin alone",
    "The coin decides for the likeliest expert, too. That one is always run at its whole weight.",
    whole=lambda coin, above, likeliest: coin > above,
)
mistaken(
    "likeliest and coin",
    "You asked for the likeliest expert *and* a coin above 0.5. Either is enough.",
    whole=lambda coin, above, likeliest: (coin > above) & likeliest,
)
mistaken(
    "the likeliest alone",
    "You halve every expert that is not the likeliest. The coin saves half of them.",
    whole=lambda coin, above, likeliest: likeliest,
)
mistaken(
    "coin turned around",
    "You took the whole p where the coin is below 0.5. It is whole above: with the same coin the same weight has to come.",
    whole=lambda coin, above, likeliest: likeliest | (coin < above),
)
mistaken(
    "coin above 0.75",
    "You compared the coin with 0.75. That is version 2; here a half and a whole are equally likely: 0.5.",
    above=0.75,
)
mistaken("coin above 0.25", "You compared the coin with 0.25. A half and a whole are equally likely: 0.5.", above=0.25)
mistaken("a third", "Your small weight is a third of p. That is version 2; here it is half.", small=1 / 3)
mistaken("nothing", "Your small weight is 0. It is p / 2, the middle between 0 and p.", small=0.0)
mistaken(
    "a coin of its own",
    "You tossed a coin yourself. It is an argument: with the same coin the same weight has to come.",
    whole=lambda coin, above, likeliest: likeliest | (torch.rand_like(coin) > above),
)
mistaken(
    "one coin for all",
    "You looked at one coin for all tokens. Each token has its own.",
    whole=lambda coin, above, likeliest: likeliest | (coin[:1] > above),
)
mistaken(
    "doubled in evaluation",
    "In evaluation you double the gradient as well. There is no coin, and the gradient of p is as good as any.",
    evaluate=lambda p, factor: Scaled.apply(p, torch.ones_like(p), factor),
)
mistaken(
    "no gradient",
    "The weights are right, but no gradient reaches the logits: a detach(), numpy or torch.no_grad() too many.",
    weigh=lambda p, m, factor: (p * m).detach(),
)
for name, says, options in CANDIDATES:
    mistaken(name, says, **options)
mistaken(
    "p of all experts",
    "p is the probability among all experts. Those that are too far below the best are out, and the others share what they had.",
    probs=lambda masked, left, z: left.softmax(dim=-1),
)
mistaken(
    "not drawn",
    "You took the likeliest expert where noise is given. In training it is drawn.",
    add=lambda masked, noise: masked,
)
mistaken(
    "the logarithm added",
    "You added log(noise). It is subtracted.",
    add=lambda masked, noise: masked + noise.log(),
)


@mistakes(
    "to the chosen logit only",
    "Your gradient reaches only the logit of the drawn expert. p is made by a softmax, so it depends on all of them: p_D (1[e = D] - p_e).",
)
def _(logits, noise, coin, eps):
    expert, weight = reference(logits, noise, coin, eps)
    if noise is None:
        return expert, weight
    _, whole = mix(logits.detach(), noise, coin, eps, **RIGHT | {"small": 1.0})
    chosen = logits.gather(-1, expert[:, None])[:, 0]
    slope = 2 * whole * (1 - whole)
    return expert, weight.detach() + slope * (chosen - chosen.detach())


@mistakes(
    "the logarithm's gradient",
    "Your gradient is that of log p, as REINFORCE has it. SparseMixer's is that of p itself, times 2.",
)
def _(logits, noise, coin, eps):
    expert, weight = reference(logits, noise, coin, eps)
    if noise is None:
        return expert, weight
    _, p = mix(logits, noise, coin, eps, **RIGHT | {"small": 1.0, "factor": 1.0})
    return expert, weight.detach() + 2 * (p.log() - p.log().detach())


@mistakes(
    "logits changed",
    "The result is right, but you wrote into the logits that you were given, as the authors' `masked_fill_` does. Work on a copy.",
)
def _(logits, noise, coin, eps):
    result = reference(logits, noise, coin, eps)
    far = farther(lambda z, best, top, eps: (best - z) / z.abs().maximum(best) > 2 * eps)(logits, logits, eps)
    logits.data.masked_fill_(far, -math.inf)
    return result


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
