"""Exercise 7.7: one step of distillation."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.minitron.fixtures import linear
from autograder.exercises.minitron.kd_loss import divergence
from autograder.inside.case import Case, call
from autograder.inside.recipes import Module, Optimizer
from sparsity_edu.weights import distillation


def reference(student, teacher, optimizer, ids, temperature):
    teacher.eval()
    with torch.no_grad():
        told = teacher(ids)
    optimizer.zero_grad()
    loss = distillation.logits_loss(student(ids), told, temperature)
    loss.backward()
    optimizer.step()
    return loss.item()


distil_step = Exercise(
    "minitron.distil_step",
    defines="distil_step_",
    title="One step of distillation",
    minutes=10,
    difficulty=2,
    hint="First the teacher: `teacher.eval()`, and its logits under `torch.no_grad()`. Then an ordinary training step on the student: "
    "`zero_grad`, `kd_loss`, `backward`, `step`, and `return loss.item()`.",
    reference=reference,
    rules=Rules(tolerance=2e-5),
)


def network(g: torch.Generator, vocabulary: int, width: int, dropout: float = 0.0) -> Module:
    """From token ids to logits: an embedding, two linear layers."""
    embedding = Module("Embedding", (vocabulary, width), {"weight": torch.randn(vocabulary, width, generator=g)})
    parts = (
        embedding,
        linear(g, width + 1, width, True),
        Module("Dropout", (dropout,)),
        Module("SiLU"),
        linear(g, vocabulary, width + 1),
    )
    return Module("Sequential", parts if dropout else parts[:2] + parts[3:])


def step_case(
    g: torch.Generator,
    kind: str,
    temperature: float = 1.0,
    dropout=(0.0, 0.0),
    sizes=(4, 7),
    warm: int = 0,
    times: int = 1,
    **options,
) -> Case:
    """`sizes` and `dropout` are the student's and the teacher's."""
    models = [network(g, 9, *of_model) for of_model in zip(sizes, dropout, strict=True)]
    optimizer = Optimizer(kind, of=0, options=options, warm_steps=warm, warm_gradient=0.3)
    ids = torch.randint(9, (3, 5), generator=g)
    return call(*models, optimizer, ids, temperature, changes=(0,), times=times)


@distil_step.stage(
    "makes a training step on the divergence and returns the loss",
    points=1,
    exposes="zero_grad, loss = kd_loss(student(ids), teacher(ids), temperature), backward, step, and `return loss.item()`: the loss before the "
    "step. Position by position, nothing is shifted.",
)
def _(g):
    yield step_case(g, "SGD", lr=0.1)
    yield step_case(g, "SGD", temperature=2.0, lr=0.3)
    yield step_case(g, "Adam", lr=0.01)


@distil_step.stage(
    "step after step",
    points=1,
    exposes="Gradients of earlier steps may still be there: zero_grad first. The optimiser is used as it comes, so that momentum goes on.",
)
def _(g):
    yield step_case(g, "SGD", warm=2, lr=0.1, momentum=0.9)
    yield step_case(g, "AdamW", temperature=1.5, warm=2, times=3, lr=0.01, weight_decay=0.1)


@distil_step.stage(
    "the teacher answers, and does not learn",
    points=1,
    exposes="The teacher's dropout is off (`teacher.eval()`), the student's is as you find it, and not one of the teacher's numbers changes.",
    pure=True,
)
def _(g):
    yield step_case(g, "SGD", dropout=(0.0, 0.5), lr=0.1)
    yield step_case(g, "SGD", temperature=2.0, dropout=(0.5, 0.3), times=2, lr=0.1)
    yield step_case(g, "Adam", dropout=(0.4, 0.0), sizes=(6, 6), lr=0.01)


def kl(student, teacher, T):
    return T**2 * divergence(student, teacher, T).mean()


def step(student, teacher, optimizer, ids, T, loss_of=kl, zero_grad=True, quiet=True, before=lambda: None):
    """`distil_step_` with its parts exchangeable, for mistakes in one part."""
    if quiet:
        teacher.eval()
    with torch.no_grad():
        told = teacher(ids)
    if zero_grad:
        optimizer.zero_grad()
    loss = loss_of(student(ids), told, T)
    loss.backward()
    before()
    optimizer.step()
    return loss.item()


def mistaken(name: str, says: str, **parts):
    distil_step.misconception(name, says)(lambda *arguments: step(*arguments, **parts))


mistaken(
    "gradients left over",
    "Gradients of earlier steps are still there and are added to yours. Call optimizer.zero_grad() before backward.",
    zero_grad=False,
)
mistaken(
    "teacher drops out",
    "The teacher is in training mode, so that its answers are partly random. Call teacher.eval() first.",
    quiet=False,
)
mistaken(
    "shifted by a token",
    "You compared the student's position t with the teacher's t + 1. Labels are shifted in cross-entropy; the teacher's logits at a position "
    "are already about the next token.",
    loss_of=lambda s, t, T: kl(s[:, :-1], t[:, 1:], T),
)
mistaken(
    "last position left out",
    "You left out the last position, as for cross-entropy. The teacher has something to say there too.",
    loss_of=lambda s, t, T: kl(s[:, :-1], t[:, :-1], T),
)
mistaken(
    "reversed",
    "You compute KL(student || teacher). kd_loss takes the student first, the teacher second.",
    loss_of=lambda s, t, T: kl(t, s, T),
)
mistaken(
    "temperature not passed on",
    "The temperature has no effect: pass it on to kd_loss.",
    loss_of=lambda s, t, T: kl(s, t, 1.0),
)
mistaken(
    "T squared missing",
    "The factor temperature ** 2 of kd_loss is missing.",
    loss_of=lambda s, t, T: divergence(s, t, T).mean(),
)
mistaken(
    "the teacher's best token",
    "You trained on the teacher's most probable token, as a label. Train on kd_loss: on its whole distribution.",
    loss_of=lambda s, t, T: F.cross_entropy(s.flatten(0, 1), t.flatten(0, 1).argmax(dim=-1)),
)
mistaken(
    "squared difference of the logits",
    "You trained on the squared difference of the logits. Train on kd_loss.",
    loss_of=lambda s, t, T: F.mse_loss(s, t),
)


@distil_step.misconception(
    "cross-entropy on the text",
    "You trained on the next token of the text, without the teacher. That is the control; here the teacher's distribution is the target.",
)
def _(student, teacher, optimizer, ids, temperature):
    return step(
        student,
        teacher,
        optimizer,
        ids,
        temperature,
        loss_of=lambda s, t, T: F.cross_entropy(s[:, :-1].flatten(0, 1), ids[:, 1:].flatten()),
    )


@distil_step.misconception(
    "student stays",
    "The student does not change: call optimizer.step() after backward, with no zero_grad between the two, and train the student itself, not "
    "a copy.",
)
def _(student, teacher, optimizer, ids, temperature):
    teacher.eval()
    optimizer.zero_grad()
    loss = kl(student(ids), teacher(ids).detach(), temperature)
    loss.backward()
    return loss.item()


@distil_step.misconception(
    "loss after the step",
    "You return the loss after the step. Return the one that you computed before it; it costs nothing more.",
)
def _(student, teacher, optimizer, ids, temperature):
    step(student, teacher, optimizer, ids, temperature)
    with torch.no_grad():
        return kl(student(ids), teacher(ids), temperature).item()


@distil_step.misconception(
    "student does not drop out",
    "You put the student into eval mode. It trains: its mode stays as you find it.",
)
def _(student, teacher, optimizer, ids, temperature):
    student.eval()
    return step(student, teacher, optimizer, ids, temperature)


@distil_step.misconception(
    "zero_grad at the end",
    "You call zero_grad after the step. When you are called, gradients of an earlier step may still be there: call it before backward.",
)
def _(student, teacher, optimizer, ids, temperature):
    loss = step(student, teacher, optimizer, ids, temperature, zero_grad=False)
    optimizer.zero_grad()
    return loss


@distil_step.misconception(
    "teacher quiet too late",
    "You call teacher.eval() after the teacher has answered: its first answer is partly random. Call it before.",
)
def _(student, teacher, optimizer, ids, temperature):
    loss = step(student, teacher, optimizer, ids, temperature, quiet=False)
    teacher.eval()
    return loss


@distil_step.misconception(
    "loss of another pass",
    "You run the student twice, once for the loss that you return and once for the step. With dropout these are two different losses: return "
    "the one whose gradient you took.",
)
def _(student, teacher, optimizer, ids, temperature):
    teacher.eval()
    with torch.no_grad():
        loss = kl(student(ids), teacher(ids), temperature).item()
    step(student, teacher, optimizer, ids, temperature)
    return loss


@distil_step.misconception(
    "a step for each sequence",
    "You make a step for each sequence of the batch. Make one step, on the mean over all tokens.",
)
def _(student, teacher, optimizer, ids, temperature):
    losses = [step(student, teacher, optimizer, sequence, temperature) for sequence in ids.split(1)]
    return sum(losses) / len(losses)


@distil_step.misconception(
    "plain gradient descent",
    "You moved the parameters yourself. Leave that to optimizer.step(), which knows the learning rate, momentum and moments.",
)
def _(student, teacher, optimizer, ids, temperature):
    teacher.eval()
    optimizer.zero_grad()
    loss = kl(student(ids), teacher(ids).detach(), temperature)
    loss.backward()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter -= optimizer.param_groups[0]["lr"] * parameter.grad
    return loss.item()


@distil_step.misconception(
    "teacher learns too",
    "The teacher changes: an optimiser of yours, or a step of yours, moves it. Only the student is trained.",
)
def _(student, teacher, optimizer, ids, temperature):
    teacher.eval()
    optimizer.zero_grad()
    loss = kl(student(ids), teacher(ids), temperature)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter -= 0.01 * parameter.grad
    return loss.item()


@distil_step.misconception("on a single sequence", "You trained on the first sequence of the batch only. All sequences count.")
def _(student, teacher, optimizer, ids, temperature):
    return step(student, teacher, optimizer, ids[:1], temperature)


@distil_step.accepts("official style: F.kl_div in a wrapped model")
def _(student, teacher, optimizer, ids, temperature):
    class DistillationModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher, self.student = teacher.requires_grad_(False), student

        def forward(self, ids):
            self.teacher.eval()
            with torch.no_grad():
                soft_targets = F.softmax(self.teacher(ids).flatten(0, 1) / temperature, dim=-1)
            soft_log_probs = F.log_softmax(self.student(ids).flatten(0, 1) / temperature, dim=-1)
            return F.kl_div(soft_log_probs, soft_targets, reduction="batchmean") * temperature**2

    optimizer.zero_grad(set_to_none=False)
    loss = DistillationModel()(ids)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@distil_step.accepts("as a closure")
def _(student, teacher, optimizer, ids, temperature):
    def closure():
        optimizer.zero_grad()
        modules = [(module, module.training) for module in teacher.modules()]
        teacher.train(False)
        with torch.inference_mode():
            told = teacher(ids)
        for module, mode in modules:
            module.training = mode
        log_p = (told.clone() / temperature).log_softmax(-1)
        log_q = (student(ids) / temperature).log_softmax(-1)
        loss = temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        loss.backward()
        return loss

    return optimizer.step(closure).item()


@distil_step.accepts("gradients by autograd.grad, on the teacher's copy")
def _(student, teacher, optimizer, ids, temperature):
    told = copy.deepcopy(teacher).eval()(ids).detach()
    parameters = list(student.parameters())
    loss = distillation.logits_loss(student(ids), told, temperature)
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()
    return loss
