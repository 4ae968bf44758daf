"""Mistakes of exercise 7.6, and the divergence that they vary."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def mistaken(name: str, says: str, of):
    """A mistake in what becomes of float32 logits and the temperature."""
    mistakes(name, says)(lambda student, teacher, temperature=1.0: of(student.float(), teacher.float(), temperature))


def logs(student: Tensor, teacher: Tensor, T: float = 1.0, dim: int = -1) -> tuple[Tensor, Tensor]:
    return F.log_softmax(student / T, dim=dim), F.log_softmax(teacher / T, dim=dim)


def divergence(student: Tensor, teacher: Tensor, T: float = 1.0, dim: int = -1) -> Tensor:
    """Of every token."""
    q, p = logs(student, teacher, T, dim)
    return (p.exp() * (p - q)).sum(dim=dim)


mistaken(
    "reversed",
    "You computed KL(student || teacher). The teacher's probabilities are the weights: sum of p_teacher (log p_teacher - log p_student). "
    "F.kl_div takes the student first: F.kl_div(log_q, log_p, log_target=True).",
    lambda s, t, T: T**2 * divergence(t, s, T).mean(),
)
mistaken(
    "symmetric",
    "You averaged both directions. Here only the teacher's probabilities are weights.",
    lambda s, t, T: T**2 * (divergence(t, s, T).mean() + divergence(s, t, T).mean()) / 2,
)
mistaken(
    "T squared missing",
    "The factor temperature ** 2 is missing: without it a high temperature makes the loss, and its gradient, small.",
    lambda s, t, T: divergence(s, t, T).mean(),
)
mistaken(
    "T, not T squared",
    "You multiplied by the temperature. The gradient shrinks by its square: one T from the chain rule, one as p - q is T times smaller.",
    lambda s, t, T: T * divergence(s, t, T).mean(),
)
mistaken(
    "divided by T squared", "You divided by temperature ** 2. Multiply.", lambda s, t, T: divergence(s, t, T).mean() / T**2
)
mistaken(
    "logits times T",
    "You multiplied the logits by the temperature. Divide: a high temperature makes distributions flatter.",
    lambda s, t, T: T**2 * divergence(s, t, 1 / T).mean(),
)
mistaken(
    "temperature of the teacher only",
    "Only the teacher's logits are divided by the temperature. A student that equals its teacher must have loss 0: divide both.",
    lambda s, t, T: T**2 * divergence(s * T, t, T).mean(),
)
mistaken(
    "temperature of the student only",
    "Only the student's logits are divided by the temperature. A student that equals its teacher must have loss 0: divide both.",
    lambda s, t, T: T**2 * divergence(s, t * T, T).mean(),
)
mistaken(
    "temperature ignored",
    "The temperature has no effect: divide both logits by it before the softmax.",
    lambda s, t, T: divergence(s, t).mean(),
)
mistaken(
    "temperature after the softmax",
    "You divided log-probabilities by the temperature; they no longer belong to a distribution. Divide the logits, before log_softmax.",
    lambda s, t, T: T**2 * (logs(s, t)[1].exp() * (logs(s, t)[1] - logs(s, t)[0]) / T).sum(dim=-1).mean(),
)
mistaken(
    "mean over the vocabulary too",
    "You averaged over the vocabulary as well (reduction='mean' of F.kl_div does). Sum over the vocabulary, mean over tokens.",
    lambda s, t, T: T**2 * divergence(s, t, T).mean() / s.shape[-1],
)
mistaken(
    "sum over the tokens",
    "You added up over tokens. Take the mean, or a longer batch takes larger steps.",
    lambda s, t, T: T**2 * divergence(s, t, T).sum(),
)
mistaken(
    "mean over sequences only",
    "You divided by the number of sequences only: 'batchmean' divides by the size of the first dimension. Flatten to (tokens, vocabulary) first.",
    lambda s, t, T: T**2 * divergence(s, t, T).sum() / len(s),
)
mistaken(
    "softmax over the tokens",
    "Your softmax runs along the tokens. A distribution is over the vocabulary, the last dimension: dim=-1.",
    lambda s, t, T: T**2 * divergence(s, t, T, dim=1).sum() / s[..., 0].numel(),
)
mistaken(
    "probabilities as the first argument",
    "F.kl_div wants the logarithm of the student's probabilities; you passed the probabilities. Use log_softmax.",
    lambda s, t, T: T**2 * F.kl_div((s / T).softmax(-1), (t / T).softmax(-1), reduction="sum") / s[..., 0].numel(),
)
mistaken(
    "log-probabilities as the target",
    "F.kl_div took your teacher's log-probabilities for probabilities: pass log_target=True, or the probabilities.",
    lambda s, t, T: T**2 * F.kl_div(*logs(s, t, T), reduction="sum") / s[..., 0].numel(),
)
mistaken(
    "cross-entropy with the teacher",
    "You left out the teacher's own entropy, sum of p log p. Its gradient is 0, but with it the loss is 0 exactly where the two agree.",
    lambda s, t, T: -(T**2) * (logs(s, t, T)[1].exp() * logs(s, t, T)[0]).sum(dim=-1).mean(),
)
mistaken(
    "the teacher's best token",
    "You used only the teacher's most probable token, as a label. Its whole distribution is the point: all that could have come next.",
    lambda s, t, T: T**2 * F.cross_entropy((s / T).flatten(0, 1), t.flatten(0, 1).argmax(dim=-1)),
)
mistaken(
    "squared difference of the logits",
    "You compared logits. A constant added to all of them changes no probability, but your loss: compare distributions.",
    lambda s, t, T: T**2 * F.mse_loss(s / T, t / T),
)
mistaken(
    "squared difference of the probabilities",
    "You took the squared difference of the probabilities. The loss is the divergence, sum of p (log p - log q).",
    lambda s, t, T: T**2 * ((s / T).softmax(-1) - (t / T).softmax(-1)).square().sum(dim=-1).mean(),
)
mistaken(
    "negative",
    "Your loss has the wrong sign: p (log p - log q) adds up to at least 0.",
    lambda s, t, T: -(T**2) * divergence(s, t, T).mean(),
)
mistaken(
    "in bits",
    "You used logarithms to base 2. The loss is in nats.",
    lambda s, t, T: T**2 * divergence(s, t, T).mean() / np.log(2),
)


@mistakes(
    "logarithm of a softmax",
    "You took the logarithm of a softmax: where a probability underflows to 0 that is -inf, and 0 times inf is NaN. Use log_softmax.",
)
def _(student, teacher, temperature=1.0):
    q, p = (student.float() / temperature).softmax(-1), (teacher.float() / temperature).softmax(-1)
    return temperature**2 * (p * (p.log() - q.log())).sum(dim=-1).mean()


@mistakes(
    "infinite by torch.distributions",
    "torch.distributions.kl_divergence gives inf as soon as one of the student's probabilities underflows to 0, though its logarithm is finite. "
    "Sum p (log p - log q) yourself, with log_softmax.",
)
def _(student, teacher, temperature=1.0):
    p, q = (torch.distributions.Categorical(logits=logits.float() / temperature) for logits in (teacher, student))
    return temperature**2 * torch.distributions.kl_divergence(p, q).mean()


@mistakes(
    "probabilities clamped",
    "You clamped the probabilities from below. That changes the loss wherever the student is very wrong: use log_softmax, which needs no help.",
)
def _(student, teacher, temperature=1.0):
    q, p = ((logits.float() / temperature).softmax(-1).clamp_min(1e-8) for logits in (student, teacher))
    return temperature**2 * (p * (p.log() - q.log())).sum(dim=-1).mean()


@mistakes(
    "divided in half precision",
    "You divided by the temperature in bfloat16 and converted then. Call `.float()` first, on the logits as they come.",
)
def _(student, teacher, temperature=1.0):
    return temperature**2 * divergence((student / temperature).float(), (teacher / temperature).float()).mean()


@mistakes(
    "logits changed",
    "You changed the logits in place. `.float()` is no copy where they are float32 already: write `z = z / temperature`, not `z /= temperature`.",
)
def _(student, teacher, temperature=1.0):
    student, teacher = student.float(), teacher.float()
    student /= temperature
    teacher /= temperature
    return temperature**2 * divergence(student, teacher).mean()


@mistakes(
    "in half precision",
    "You computed in the logits' own precision. Call `.float()` first: bfloat16 has three decimal digits, and the result is float32.",
)
def _(student, teacher, temperature=1.0):
    return temperature**2 * divergence(student, teacher, temperature).mean()


@mistakes(
    "a constant against underflow",
    "You added a small constant inside the logarithm. It changes the loss wherever the student is very wrong: use log_softmax.",
)
def _(student, teacher, temperature=1.0):
    q, p = (student.float() / temperature).softmax(-1), (teacher.float() / temperature).softmax(-1)
    return temperature**2 * (p * ((p + 1e-9).log() - (q + 1e-9).log())).sum(dim=-1).mean()


@mistakes(
    "no gradient",
    "The value is right, but no gradient reaches the student: something on the way (torch.no_grad, detach, numpy, item, torch.tensor) cuts it "
    "off. This is the loss of a training; make it of torch operations on the student's logits.",
)
@torch.no_grad()
def _(student, teacher, temperature=1.0):
    return temperature**2 * divergence(student.float(), teacher.float(), temperature).mean()


@mistakes(
    "logarithm of a softmax in float64",
    "You went to float64 and took the logarithm of a softmax: that underflows too, only later, where logits are 750 apart. Use log_softmax, which "
    "needs no more digits.",
)
def _(student, teacher, temperature=1.0):
    q, p = (student.double() / temperature).softmax(-1), (teacher.double() / temperature).softmax(-1)
    return (temperature**2 * (p * (p.log() - q.log())).sum(dim=-1).mean()).float()


@mistakes(
    "a default of its own",
    "Where no temperature is given it is 1: `temperature: float = 1.0`, as in the first line that you were given.",
)
def _(student, teacher, temperature=2.0):
    return temperature**2 * divergence(student.float(), teacher.float(), temperature).mean()
