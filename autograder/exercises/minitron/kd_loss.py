"""Exercise 7.6: the teacher's distribution."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.inside.case import Case, call
from sparsity_edu.weights import distillation


def reference(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return distillation.logits_loss(student.float(), teacher.float(), temperature)


kd_loss = Exercise(
    "minitron.kd_loss",
    defines="kd_loss",
    title="The teacher's distribution",
    minutes=12,
    difficulty=2,
    hints=(
        "There are two distributions over the vocabulary, both from logits over the temperature. The loss of a token is a "
        "sum of differences of logarithms, weighted with the *teacher's* probabilities.",
        "Take the logarithms with `F.log_softmax(logits.float() / temperature, dim=-1)`: the logarithm of a softmax is "
        "minus infinity where a probability has become 0. Sum over the vocabulary, mean over all tokens, times "
        "temperature squared. Use torch operations only, so that the gradient reaches the student.",
        "With `log_p` of the teacher and `log_q` of the student, `(log_p.exp() * (log_p - log_q)).sum(dim=-1)` is the "
        "divergence of each token. The loss is its mean, times `temperature ** 2`.",
    ),
    reference=reference,
    rules=Rules(tolerance=2e-5),
)


def loss_case(g: torch.Generator, *shape: int, temperature: float = 1.0, spread: float = 2.0, dtype=torch.float32) -> Case:
    """Logits of unequal spread from token to token, with a constant of their own, as nothing fixes that."""
    of_token = spread * 3 ** (torch.rand(*shape[:-1], 1, generator=g) - 0.5)
    teacher = of_token * torch.randn(shape, generator=g) + torch.randn(*shape[:-1], 1, generator=g)
    student = 0.5 * teacher + 0.7 * of_token * torch.randn(shape, generator=g) + torch.randn(*shape[:-1], 1, generator=g)
    return call(student.to(dtype), teacher.to(dtype), temperature)


@kd_loss.stage(
    "one token",
    points=1,
    exposes="With p the teacher's distribution and q the student's, both softmax over the vocabulary: sum of p (log p - log q), a tensor without "
    "dimensions.",
)
def _(g):
    yield loss_case(g, 1, 1, 5)
    yield loss_case(g, 1, 1, 9, spread=3.0)


@kd_loss.stage(
    "the mean over all tokens",
    points=1,
    exposes="Sum over the vocabulary, mean over the tokens of all sequences: nats per token.",
)
def _(g):
    yield loss_case(g, 1, 4, 7)
    yield loss_case(g, 3, 5, 6)
    yield loss_case(g, 4, 2, 11)


@kd_loss.stage(
    "with a temperature",
    points=1,
    exposes="Both logits are divided by the temperature before the softmax, and the divergence is multiplied by its square.",
)
def _(g):
    yield loss_case(g, 3, 4, 8, temperature=2.0)
    yield loss_case(g, 2, 5, 6, temperature=0.5)
    yield loss_case(g, 5, 3, 7, temperature=3.0, spread=4.0)


@kd_loss.stage(
    "also where a token is all but impossible",
    points=1,
    exposes="Logits can be hundreds apart: log_softmax gives a finite logarithm where softmax gives 0. Logits in half precision are computed with "
    "in float32. The arguments stay as they are.",
    pure=True,
)
def _(g):
    yield loss_case(g, 2, 3, 6, spread=150.0)
    yield loss_case(g, 3, 2, 7, temperature=2.0, spread=400.0)
    for temperature in (1.5, 3.0, 0.7):
        yield loss_case(g, 2, 4, 9, temperature=temperature, dtype=torch.bfloat16)


def mistaken(name: str, says: str, of):
    """A mistake in what becomes of float32 logits and the temperature."""
    kd_loss.misconception(name, says)(lambda student, teacher, temperature: of(student.float(), teacher.float(), temperature))


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


@kd_loss.misconception(
    "logarithm of a softmax",
    "You took the logarithm of a softmax: where a probability underflows to 0 that is -inf, and 0 times inf is NaN. Use log_softmax.",
)
def _(student, teacher, temperature):
    q, p = (student.float() / temperature).softmax(-1), (teacher.float() / temperature).softmax(-1)
    return temperature**2 * (p * (p.log() - q.log())).sum(dim=-1).mean()


@kd_loss.misconception(
    "infinite by torch.distributions",
    "torch.distributions.kl_divergence gives inf as soon as one of the student's probabilities underflows to 0, though its logarithm is finite. "
    "Sum p (log p - log q) yourself, with log_softmax.",
)
def _(student, teacher, temperature):
    p, q = (torch.distributions.Categorical(logits=logits.float() / temperature) for logits in (teacher, student))
    return temperature**2 * torch.distributions.kl_divergence(p, q).mean()


@kd_loss.misconception(
    "probabilities clamped",
    "You clamped the probabilities from below. That changes the loss wherever the student is very wrong: use log_softmax, which needs no help.",
)
def _(student, teacher, temperature):
    q, p = ((logits.float() / temperature).softmax(-1).clamp_min(1e-8) for logits in (student, teacher))
    return temperature**2 * (p * (p.log() - q.log())).sum(dim=-1).mean()


@kd_loss.misconception(
    "divided in half precision",
    "You divided by the temperature in bfloat16 and converted then. Call `.float()` first, on the logits as they come.",
)
def _(student, teacher, temperature):
    return temperature**2 * divergence((student / temperature).float(), (teacher / temperature).float()).mean()


@kd_loss.misconception(
    "logits changed",
    "You changed the logits in place. `.float()` is no copy where they are float32 already: write `z = z / temperature`, not `z /= temperature`.",
)
def _(student, teacher, temperature):
    student, teacher = student.float(), teacher.float()
    student /= temperature
    teacher /= temperature
    return temperature**2 * divergence(student, teacher).mean()


@kd_loss.misconception(
    "in half precision",
    "You computed in the logits' own precision. Call `.float()` first: bfloat16 has three decimal digits, and the result is float32.",
)
def _(student, teacher, temperature):
    return temperature**2 * divergence(student, teacher, temperature).mean()


@kd_loss.misconception(
    "a constant against underflow",
    "You added a small constant inside the logarithm. It changes the loss wherever the student is very wrong: use log_softmax.",
)
def _(student, teacher, temperature):
    q, p = (student.float() / temperature).softmax(-1), (teacher.float() / temperature).softmax(-1)
    return temperature**2 * (p * ((p + 1e-9).log() - (q + 1e-9).log())).sum(dim=-1).mean()


@kd_loss.accepts("the official LogitsDistillationLoss, flattened")
def _(student, teacher, temperature):
    soft_log_probs = F.log_softmax(student.float().flatten(0, -2) / temperature, dim=-1)
    soft_targets = F.softmax(teacher.float().flatten(0, -2) / temperature, dim=-1).detach()
    soft_distill_loss = F.kl_div(soft_log_probs, soft_targets, reduction="batchmean")
    return soft_distill_loss * (temperature**2)


@kd_loss.accepts("cross-entropy minus entropy")
def _(student, teacher, temperature):
    s, t = (x.float().reshape(-1, x.shape[-1]) / temperature for x in (student, teacher))
    p = t.softmax(dim=1)
    return (F.cross_entropy(s, p) - F.cross_entropy(t, p)) * temperature * temperature


@kd_loss.accepts("numpy, token by token")
def _(student, teacher, temperature):
    def log_p(z):
        z = z / temperature
        z = z - z.max()
        return z - np.log(np.exp(z).sum())

    total, count = 0.0, 0
    for s, t in zip(student.double().flatten(0, 1).numpy(), teacher.double().flatten(0, 1).numpy(), strict=True):
        total += float(np.exp(log_p(t)) @ (log_p(t) - log_p(s)))
        count += 1
    return torch.tensor(temperature**2 * total / count, dtype=torch.float32)
