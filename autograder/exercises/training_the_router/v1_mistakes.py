"""Mistakes of exercise 9.6."""

import math

import torch

from autograder.checking.exercise import Mistakes
from autograder.exercises.training_the_router.variants import CANDIDATES, Scaled, farther, mix

mistakes = Mistakes()


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
    "whole at the limit",
    "You took the whole p where the coin is exactly 0.5. It is whole *above* 0.5.",
    whole=lambda coin, above, likeliest: likeliest | (coin >= above),
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
    expert, weight = mix(logits, noise, coin, eps, **RIGHT)
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
    expert, weight = mix(logits, noise, coin, eps, **RIGHT)
    if noise is None:
        return expert, weight
    _, p = mix(logits, noise, coin, eps, **RIGHT | {"small": 1.0, "factor": 1.0})
    return expert, weight.detach() + 2 * (p.log() - p.log().detach())


@mistakes(
    "logits changed",
    "The result is right, but you wrote into the logits that you were given, as the authors' `masked_fill_` does. Work on a copy.",
)
def _(logits, noise, coin, eps):
    result = mix(logits, noise, coin, eps, **RIGHT)
    far = farther(lambda z, best, top, eps: (best - z) / z.abs().maximum(best) > 2 * eps)(logits, logits, eps)
    logits.data.masked_fill_(far, -math.inf)
    return result
