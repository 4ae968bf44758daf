"""Mistakes of exercise 9.7."""

import math

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes
from autograder.exercises.training_the_router.variants import CANDIDATES, Scaled, farther, mix, without

mistakes = Mistakes()
RIGHT = {"small": 1 / 3, "above": 0.75, "factor": 1.0}


def two(logits: Tensor, noise, coin, eps, first=None, second=None, taken=lambda expert, logits: expert):
    """Both choices, each with its own options."""
    found, gone = [], None
    for j, options in enumerate((first or {}, second or {})):
        of_choice = (None, None) if noise is None else (noise[j], coin[j])
        found.append(mix(logits, *of_choice, eps, gone, **RIGHT | options))
        gone = taken(found[0][0], logits)
    experts, weights = zip(*found, strict=True)
    return torch.stack(experts, dim=1), torch.stack(weights, dim=1)


def mistaken(name: str, says: str, **options):
    """The same mistake in both choices."""
    mistakes(name, says)(lambda logits, noise, coin, eps: two(logits, noise, coin, eps, options, options))


def in_the_second(name: str, says: str, **options):
    mistakes(name, says)(lambda logits, noise, coin, eps: two(logits, noise, coin, eps, {}, options))


mistaken(
    "doubled",
    "The gradient is twice that of p. That is version 1; version 2 has it once.",
    factor=2.0,
)
mistaken(
    "plain gradient of p m",
    "The forward pass is right, but the gradient is that of p m. It is that of p, whatever the coin.",
    weigh=lambda p, m, factor: p * m,
)
mistaken(
    "divided by m",
    "You divided the gradient by m. It is that of p, once, whatever m was.",
    weigh=lambda p, m, factor: Scaled.apply(p / m, m * m, 1.0),
)
mistaken("half", "Your small weight is half of p. That is version 1; here it is a third.", small=0.5)
mistaken("two thirds", "Your small weight is two thirds of p. It is one third.", small=2 / 3)
mistaken(
    "coin above 0.25",
    "You compared the coins with 0.25. The whole weight comes up a quarter of the time: coin > 0.75.",
    above=0.25,
)
mistaken("coin above 0.5", "You compared the coins with 0.5. That is version 1; here it is 0.75.", above=0.5)
mistaken(
    "whole at the limit",
    "You took the whole p where the coin is exactly 0.75. It is whole *above* 0.75.",
    whole=lambda coin, above, likeliest: likeliest | (coin >= above),
)
mistaken(
    "coin above 3/8",
    "You compared the coins with 0.375, the chance of version 2*. That of version 2 is coin > 0.75.",
    above=0.375,
)
mistaken(
    "coin turned around",
    "You took the whole p where the coin is below 0.75. It is whole above.",
    whole=lambda coin, above, likeliest: likeliest | (coin < above),
)
mistaken(
    "the coin alone",
    "The coin decides for the likeliest expert, too. That one always has its whole weight.",
    whole=lambda coin, above, likeliest: coin > above,
)
mistaken(
    "the likeliest alone",
    "You cut every expert that is not the likeliest. The coin saves a quarter of them.",
    whole=lambda coin, above, likeliest: likeliest,
)
mistaken(
    "no small weight",
    "The weights are always the whole p. Where the expert is not the likeliest and the coin is not above 0.75, it is a third.",
    whole=lambda coin, above, likeliest: torch.ones_like(likeliest),
)
mistaken(
    "straight-through",
    "Your weights are 1 in the forward pass, with the gradient of p. Here they are p or p / 3.",
    weigh=lambda p, m, factor: 1 + p - p.detach(),
)
mistaken(
    "no gradient",
    "The weights are right, but no gradient reaches the logits: a detach(), numpy or torch.no_grad() too many.",
    weigh=lambda p, m, factor: (p * m).detach(),
)
mistaken(
    "p of all experts",
    "p is the probability among all experts that are left. Those that are too far below the best are out, too.",
    probs=lambda masked, left, z: left.softmax(dim=-1),
)
mistaken(
    "not drawn", "You took the likeliest where noise is given. In training both are drawn.", add=lambda masked, noise: masked
)
mistaken("the logarithm added", "You added log(noise). It is subtracted.", add=lambda masked, noise: masked + noise.log())
in_the_second(
    "the second one not drawn",
    "You drew the first expert and took the likeliest of the others for the second. Both are drawn.",
    add=lambda masked, noise: masked,
)
in_the_second(
    "the likeliest of all",
    "For the second choice you asked whether it is the likeliest of *all* experts. Ask for the likeliest of those that are left.",
    likeliest=lambda expert, probs, z: expert == z.argmax(dim=-1),
)
in_the_second(
    "one softmax for both",
    "You took both weights out of one softmax. The second softmax is over the experts that are left.",
    probs=lambda masked, left, z: torch.where(left.isinf(), z, masked).softmax(dim=-1),
)
in_the_second(
    "the second weight of all experts",
    "You took the second weight out of the softmax over all experts, as Mixtral does. Here the second softmax is over the candidates of the second "
    "choice: the first expert is out of it.",
    probs=lambda masked, left, z: z.softmax(dim=-1).masked_fill(left.isinf(), 0.0),
)
in_the_second(
    "the second one doubled",
    "The gradient of the second weight is twice that of its p. Both have it once.",
    factor=2.0,
)
in_the_second(
    "the second one whole",
    "Your second weight is always the whole p. Its coin is coin[1].",
    whole=lambda coin, above, likeliest: torch.ones_like(likeliest),
)
for name, says, options in CANDIDATES:
    mistaken(name, says, **options)


@mistakes(
    "the taken one is still z*",
    "z* of the second choice is the largest logit that is left. You took the largest of all, so that the first expert decides who is near enough.",
)
def _(logits, noise, coin, eps):
    far = farther(lambda z, best, top, eps: (top - z) / z.abs().maximum(top) > 2 * eps)
    return two(logits, noise, coin, eps, {}, {"far": far, "probs": lambda masked, left, z: masked.softmax(dim=-1).nan_to_num()})


@mistakes(
    "the candidates of the first",
    "You kept those out of the second choice that were too far below the best of the first. With the first expert gone there is another best.",
)
def _(logits, noise, coin, eps):
    first = farther(lambda z, best, top, eps: (top - z) / z.abs().maximum(top) > 2 * eps)

    def far(z, left, eps):  # where nothing would be left, the best of those that are
        gone = first(z, left, eps)
        nobody = (gone | left.isinf()).all(dim=-1, keepdim=True)
        return torch.where(nobody, left < left.amax(dim=-1, keepdim=True), gone)

    return two(logits, noise, coin, eps, {}, {"far": far})


@mistakes("the same noise twice", "You used noise[0] for both choices. The second has noise[1].")
def _(logits, noise, coin, eps):
    return two(logits, None if noise is None else noise[[0, 0]], coin, eps)


@mistakes("the same coin twice", "You used coin[0] for both choices. The second has coin[1].")
def _(logits, noise, coin, eps):
    return two(logits, noise, None if coin is None else coin[[0, 0]], eps)


@mistakes("noise of the other", "You used noise[1] for the first choice and noise[0] for the second.")
def _(logits, noise, coin, eps):
    return two(logits, None if noise is None else noise.flip(0), coin, eps)


@mistakes(
    "the first one not taken",
    "The second expert may be the first one again. Pass it on: draw(logits, noise[1], eps, taken=expert).",
)
def _(logits, noise, coin, eps):
    return two(logits, noise, coin, eps, taken=lambda expert, logits: None)


@mistakes(
    "the likeliest taken",
    "For the second choice you took the likeliest expert out. The one that was drawn is out.",
)
def _(logits, noise, coin, eps):
    return two(logits, noise, coin, eps, taken=lambda expert, logits: logits.argmax(dim=-1))


@mistakes(
    "renormalised",
    "You divided the weights by their sum, as top-2 routers do. Here they stay as they are: the second softmax knows nothing of the first expert.",
)
def _(logits, noise, coin, eps):
    experts, weights = two(logits, noise, coin, eps)
    return experts, weights / weights.sum(dim=-1, keepdim=True)


@mistakes(
    "times what was left",
    "You multiplied the second weight by 1 - p of the first, as for drawing without replacement. Here it is the second softmax as it is.",
)
def _(logits, noise, coin, eps):
    experts, weights = two(logits, noise, coin, eps)
    p = mix(logits, *((None, None) if noise is None else (noise[0], coin[0])), eps, **RIGHT | {"small": 1.0})[1]
    return experts, torch.stack([weights[:, 0], (1 - p) * weights[:, 1]], dim=1)


@mistakes("sorted", "You sorted the experts by weight. The first choice is in column 0, whatever it weighs.")
def _(logits, noise, coin, eps):
    experts, weights = two(logits, noise, coin, eps)
    order = weights.argsort(dim=-1, descending=True)
    return experts.gather(-1, order), weights.gather(-1, order)


@mistakes("stacked along the wrong dimension", "You return (2, tokens). Tokens are rows: stack along dim=1.")
def _(logits, noise, coin, eps):
    experts, weights = two(logits, noise, coin, eps)
    return experts.T, weights.T


@mistakes(
    "logits changed",
    "The result is right, but you set the first expert's logit to minus infinity in the tensor that you were given. Work on a copy: `scatter`, not "
    "`scatter_`.",
)
def _(logits, noise, coin, eps):
    result = two(logits, noise, coin, eps)
    logits.data.copy_(without(logits.detach(), result[0][:, 0]).clamp(min=-math.inf))
    return result
