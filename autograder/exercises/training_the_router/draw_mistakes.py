"""Mistakes of exercise 9.5."""

import math

import torch
import torch.nn.functional as F

from autograder.checking.exercise import Mistakes
from autograder.exercises.training_the_router import variants
from autograder.exercises.training_the_router.variants import CANDIDATES, farther

mistakes = Mistakes()


def mistaken(name: str, says: str, **options):
    mistakes(name, says)(lambda logits, noise, eps, taken=None: variants.draw(logits, noise, eps, taken, **options))


for name, says, options in CANDIDATES:
    mistaken(name, says, **options)
mistaken(
    "the logarithm added",
    "You added log(noise). It is subtracted: -log of exponential noise is Gumbel noise, and small noise must win.",
    add=lambda masked, noise: masked + noise.log(),
)
mistaken(
    "the noise itself",
    "You subtracted the noise, not its logarithm. Then experts are not drawn by their probabilities.",
    add=lambda masked, noise: masked - noise,
)
mistaken(
    "the noise added",
    "You added the noise itself. Gumbel noise is -log of it.",
    add=lambda masked, noise: masked + noise,
)
mistaken(
    "the noise taken for uniform",
    "You took -log(-log(noise)), which makes Gumbel noise of *uniform* noise. Ours is exponential: -log(noise).",
    add=lambda masked, noise: masked - torch.log(-torch.log(noise.clamp(max=1 - 1e-6))),
)
mistaken(
    "multiplied by the noise",
    "You scaled the logits by the noise. It is added, after -log.",
    add=lambda masked, noise: masked * noise,
)
mistaken(
    "no noise",
    "You chose the largest logit where noise is given. In training the expert is drawn: largest z - log(noise).",
    add=lambda masked, noise: masked,
)
mistaken(
    "a draw of its own",
    "You drew with torch.multinomial or noise of your own. Noise is an argument: with the same noise the same expert has to come.",
    add=lambda masked, noise: masked - torch.empty_like(masked).exponential_().log(),
)
mistaken(
    "probabilities of all experts",
    "The drawn experts are right, but your probabilities are a softmax over all that are left. Those that are out have 0, and the others share all of it.",
    probs=lambda masked, left, z: left.softmax(dim=-1),
)
mistaken(
    "probabilities not renormalised",
    "You took a softmax over all experts and set those that are out to 0. What is left must add up to 1: a softmax of the masked logits.",
    probs=lambda masked, left, z: left.softmax(dim=-1) * masked.isfinite(),
)
mistaken(
    "softmax over the tokens",
    "Your softmax runs along the tokens. A distribution is over the experts, the last dimension.",
    probs=lambda masked, left, z: masked.softmax(dim=0).nan_to_num(),
)
mistaken(
    "probabilities with the taken one",
    "Your probabilities include the expert that is taken. The second draw is from a softmax over the others alone.",
    probs=lambda masked, left, z: torch.where(left.isinf(), z, masked).softmax(dim=-1),
)
mistaken(
    "no gradient",
    "The values are right, but no gradient reaches the logits: detach(), numpy or torch.no_grad() cuts it off. Only who is out has none.",
    probs=lambda masked, left, z: masked.detach().softmax(dim=-1),
)


@mistakes(
    "the taken one is still z*",
    "z* is the largest of the experts that are left. You took the largest of all, so that the one that is taken decides who is near enough.",
)
def _(logits, noise, eps, taken=None):
    far = farther(lambda z, best, top, eps: (top - z) / z.abs().maximum(top) > 2 * eps)
    return variants.draw(logits, noise, eps, taken, far=far)


@mistakes(
    "out at the limit",
    "You left out experts whose distance is 2 eps or more. With eps 0 that is everyone, the best included: out is what is *above* 2 eps.",
)
def _(logits, noise, eps, taken=None):
    far = farther(lambda z, best, top, eps: (best - z) / z.abs().maximum(best) >= 2 * eps)
    return variants.draw(logits, noise, eps, taken, far=far)


@mistakes(
    "taken is ignored",
    "You ignore `taken`. The expert that a token has chosen before cannot be chosen again.",
)
def _(logits, noise, eps, taken=None):
    return variants.draw(logits, noise, eps)


@mistakes(
    "the taken one set to 0",
    "You set the logit of the expert that is taken to 0. That is an ordinary logit: minus infinity takes it out.",
)
def _(logits, noise, eps, taken=None):
    return variants.draw(logits if taken is None else logits.scatter(-1, taken[:, None], 0.0), noise, eps)


@mistakes(
    "noise in the probabilities",
    "Your probabilities are a softmax of the noisy logits (Gumbel-softmax). They are those of the logits, without the noise.",
)
def _(logits, noise, eps, taken=None):
    expert, probs = variants.draw(logits, noise, eps, taken)
    return expert, probs if noise is None else (probs.log() - noise.log()).softmax(dim=-1)


@mistakes(
    "noise in evaluation",
    "Where noise is None you draw some. None is what evaluation gives: the largest logit wins.",
)
def _(logits, noise, eps, taken=None):
    return variants.draw(logits, torch.empty_like(logits).exponential_() if noise is None else noise, eps, taken)


@mistakes(
    "no gradient in evaluation",
    "Where noise is None no gradient reaches the logits. The probabilities are as ever, and so is their gradient: evaluation is not no_grad().",
)
def _(logits, noise, eps, taken=None):
    return variants.draw(logits.detach() if noise is None else logits, noise, eps, taken)


@mistakes(
    "0 divided by 0",
    "Where all logits of a token are 0, the distance is 0 / 0, NaN, and you keep an expert only if NaN is at most 2 eps, which is false. Ask which are out: "
    "distance > 2 eps.",
)
def _(logits, noise, eps, taken=None):
    def far(z, left, eps):
        best = left.detach().amax(dim=-1, keepdim=True)
        return ~((best - z.detach()) / z.detach().abs().maximum(best) <= 2 * eps)

    return variants.draw(logits, noise, eps, taken, far=far)


@mistakes(
    "logits changed",
    "The result is right, but you wrote into the logits: `masked_fill_` and `scatter_` change what they are called on. Use the forms without the "
    "underscore.",
)
def _(logits, noise, eps, taken=None):
    result = variants.draw(logits, noise, eps, taken)
    logits.data.masked_fill_(result[1] == 0, -math.inf)
    return result


@mistakes("one-hot", "You return the expert as a one-hot row. Return its number: argmax over the experts.")
def _(logits, noise, eps, taken=None):
    expert, probs = variants.draw(logits, noise, eps, taken)
    return F.one_hot(expert, logits.shape[1]), probs
