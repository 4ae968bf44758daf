"""Exercise 7.6: the teacher's distribution."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.minitron.fixtures import redraw
from autograder.exercises.minitron.kd_loss_mistakes import mistakes
from autograder.inside.case import Case, call
from sparsity_edu.weights import distillation


def reference(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """In float64: what float32 makes of a small loss is up to each answer's order of steps."""
    return distillation.logits_loss(student.double(), teacher.double(), temperature).float()


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
    rules=Rules(tolerance=2e-5, scale=1.0),  # a small loss is a difference of large numbers: so close is float32
    misconceptions=mistakes,
)


def logits(g: torch.Generator, shape: tuple[int, ...], spread: float) -> tuple[Tensor, Tensor]:
    """(student, teacher) of unequal spread from token to token, with a constant of their own, as nothing fixes that."""
    of_token = spread * 3 ** (torch.rand(*shape[:-1], 1, generator=g) - 0.5)
    teacher = of_token * torch.randn(shape, generator=g) + torch.randn(*shape[:-1], 1, generator=g)
    student = 0.5 * teacher + 0.7 * of_token * torch.randn(shape, generator=g) + torch.randn(*shape[:-1], 1, generator=g)
    return student, teacher


def loss_case(
    g: torch.Generator,
    *shape: int,
    temperature: tuple[float, ...] = (1.0,),
    spread: float = 2.0,
    dtype=torch.float32,
    **options,
) -> Case:
    """A call; `temperature` may be left out, as ()."""

    def accept(drawn):  # large enough for any mistake to show
        return reference(*drawn, *temperature) > 0.05

    student, teacher = redraw(lambda: logits(g, shape, spread), accept)
    return call(student.to(dtype), teacher.to(dtype), *temperature, **options)


def impossible_case(g: torch.Generator, tokens: int, vocabulary: int, gap: float, share: float, temperature: float) -> Case:
    """Logits far apart: the student puts entry 1 of the token planted `gap` (times T) below its best, where the teacher has `share`.

    The student's probability there is zero in float32, and in float64 where the gap is above 750.
    """
    student, teacher = logits(g, (1, tokens, vocabulary), 2.0)
    place = int(torch.randint(tokens, (), generator=g))
    likely, unlikely = torch.randperm(vocabulary, generator=g)[:2].tolist()
    for planted, top in ((student, gap), (teacher, math.log(1 / share - 1))):
        planted[0, place] = -60 - torch.rand(vocabulary, generator=g)
        planted[0, place, likely], planted[0, place, unlikely] = top, 0.0
        planted[0, place] = temperature * (planted[0, place] + torch.randn((), generator=g))
    return call(student, teacher, temperature)


@kd_loss.stage(
    "one token",
    points=1,
    exposes="With p the teacher's distribution and q the student's, both softmax over the vocabulary: sum of p (log p - log q), a tensor without "
    "dimensions.",
)
def _(g):
    yield loss_case(g, 1, 1, 5)
    yield loss_case(g, 1, 1, 9, spread=3.0)
    yield loss_case(g, 1, 1, 7, temperature=())


@kd_loss.stage(
    "the mean over all tokens",
    points=1,
    exposes="Sum over the vocabulary, mean over the tokens of all sequences: nats per token.",
)
def _(g):
    yield loss_case(g, 1, 4, 7)
    yield loss_case(g, 3, 5, 6)
    yield loss_case(g, 4, 2, 11, temperature=())
    yield loss_case(g, 2, 3, 1500, spread=1.0)
    yield loss_case(g, 3, 130, 5)
    equal, _ = logits(g, (2, 3, 6), 3.0)
    yield call(equal, equal.clone(), 1.0)  # a student that equals its teacher


@kd_loss.stage(
    "with a temperature",
    points=1,
    exposes="Both logits are divided by the temperature before the softmax, and the divergence is multiplied by its square.",
)
def _(g):
    yield loss_case(g, 3, 4, 8, temperature=(2.0,))
    yield loss_case(g, 2, 5, 6, temperature=(0.8,))
    yield loss_case(g, 5, 3, 7, temperature=(3,), spread=4.0)
    yield loss_case(g, 2, 3, 5, temperature=(7.5,), spread=9.0)


@kd_loss.stage(
    "also where a token is all but impossible",
    points=1,
    exposes="Logits can be hundreds apart: log_softmax gives a finite logarithm where softmax gives 0. Logits in half precision are computed with "
    "in float32. The arguments stay as they are.",
    pure=True,
)
def _(g):
    yield loss_case(g, 2, 3, 6, spread=150.0)
    yield impossible_case(g, 3, 6, 250.0, 0.3, 1.0)
    yield impossible_case(g, 4, 7, 850.0, 1e-5, 1.0)
    yield impossible_case(g, 2, 5, 900.0, 1e-3, 0.5)
    for temperature in (1.5, 3.0, 0.7):
        yield loss_case(g, 2, 4, 9, temperature=(temperature,), dtype=torch.bfloat16)


@kd_loss.stage(
    "a gradient reaches the student",
    points=1,
    exposes="This is the loss of a training. What numpy, item(), detach(), torch.tensor() or torch.no_grad() makes of the student's logits has no "
    "gradient: use torch operations all the way.",
)
def _(g):
    yield loss_case(g, 1, 3, 6, gradients=(0,))
    yield loss_case(g, 2, 4, 5, temperature=(2.0,), gradients=(0,))
    yield loss_case(g, 3, 2, 8, temperature=(0.5,), gradients=(0,))


@kd_loss.accepts("the official LogitsDistillationLoss, flattened")
def _(student, teacher, temperature=1.0):
    soft_log_probs = F.log_softmax(student.float().flatten(0, -2) / temperature, dim=-1)
    soft_targets = F.softmax(teacher.float().flatten(0, -2) / temperature, dim=-1).detach()
    soft_distill_loss = F.kl_div(soft_log_probs, soft_targets, reduction="batchmean")
    return soft_distill_loss * (temperature**2)


@kd_loss.accepts("cross-entropy minus entropy")
def _(student, teacher, temperature=1.0):
    s, t = (x.float().reshape(-1, x.shape[-1]) / temperature for x in (student, teacher))
    p = t.softmax(dim=1)
    return (F.cross_entropy(s, p) - F.cross_entropy(t, p)) * temperature * temperature


@kd_loss.accepts("token by token, in float64, with logsumexp")
def _(student, teacher, temperature=1.0):
    total, count = 0.0, 0
    for s, t in zip(student.double().flatten(0, 1), teacher.double().flatten(0, 1), strict=True):
        s, t = s / temperature, t / temperature
        log_q, log_p = s - s.logsumexp(0), t - t.logsumexp(0)
        total = total + log_p.exp() @ (log_p - log_q)
        count += 1
    return (temperature**2 * total / count).float()


@kd_loss.accepts("as a module, with the log-probabilities as targets")
def _(student, teacher, temperature=1.0):
    criterion = torch.nn.KLDivLoss(reduction="none", log_target=True)
    with torch.no_grad():
        target = torch.log_softmax(teacher.to(torch.float32).div(temperature), dim=2)
    return (
        criterion(torch.log_softmax(student.to(torch.float32).div(temperature), dim=2), target).sum(2).mean() * temperature**2
    )


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student, teacher, temperature):
        q, p = (F.log_softmax(x.detach().float() / temperature, dim=-1) for x in (student, teacher))
        ctx.gradient = temperature * (q.exp() - p.exp()) / q[..., 0].numel()
        return temperature**2 * (p.exp() * (p - q)).sum() / q[..., 0].numel()

    @staticmethod
    def backward(ctx, upstream):
        return upstream * ctx.gradient, None, None


@kd_loss.accepts("with a gradient of its own: T (q - p) for each token")
def _(student, teacher, temperature=1.0):
    return _Divergence.apply(student, teacher, temperature)
