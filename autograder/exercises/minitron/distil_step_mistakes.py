"""Mistakes of exercise 7.7, and the right answer that they vary."""

import torch
import torch.nn.functional as F
from torch import nn

from autograder.checking.exercise import Mistakes
from autograder.exercises.minitron.kd_loss_mistakes import divergence


def kl(student, teacher, T):
    return T**2 * divergence(student, teacher, T).mean()


def step(student, teacher, optimizer, ids, T=1.0, loss_of=kl, zero_grad=True, quiet=True, before=lambda student: None):
    """`distil_step_` with its parts exchangeable, for mistakes in one part."""
    if quiet:
        teacher.eval()
    with torch.no_grad():
        told = teacher(ids)
    if zero_grad:
        optimizer.zero_grad()
    loss = loss_of(student(ids), told, T)
    loss.backward()
    before(student)
    optimizer.step()
    return loss.item()


mistakes = Mistakes()


def mistaken(name: str, says: str, **parts):
    mistakes(name, says)(lambda *arguments: step(*arguments, **parts))


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


mistaken(
    "gradients clipped",
    "You clipped the gradients. Many trainings do, but it is not part of this step: whoever wants it wraps the optimiser.",
    before=lambda student: nn.utils.clip_grad_norm_(student.parameters(), 1.0),
)


@mistakes(
    "student runs twice",
    "You run the student twice in a step. That costs time, and layers that collect statistics, such as BatchNorm, count the text twice: keep the "
    "logits of one pass.",
)
def _(student, teacher, optimizer, ids, temperature=1.0):
    with torch.random.fork_rng(devices=[]):
        student(ids)
    return step(student, teacher, optimizer, ids, temperature)


@mistakes(
    "only dropout off",
    "You switched off the teacher's dropout only. Other layers have a mode too, BatchNorm for one: teacher.eval() reaches them all.",
)
def _(student, teacher, optimizer, ids, temperature=1.0):
    for part in teacher.modules():
        part.train(not isinstance(part, nn.Dropout))
    return step(student, teacher, optimizer, ids, temperature, quiet=False)


@mistakes(
    "cross-entropy on the text",
    "You trained on the next token of the text, without the teacher. That is the control; here the teacher's distribution is the target.",
)
def _(student, teacher, optimizer, ids, temperature=1.0):
    return step(
        student,
        teacher,
        optimizer,
        ids,
        temperature,
        loss_of=lambda s, t, T: F.cross_entropy(s[:, :-1].flatten(0, 1), ids[:, 1:].flatten()),
    )


@mistakes(
    "student stays",
    "The student does not change: call optimizer.step() after backward, with no zero_grad between the two, and train the student itself, not "
    "a copy.",
)
def _(student, teacher, optimizer, ids, temperature=1.0):
    teacher.eval()
    optimizer.zero_grad()
    loss = kl(student(ids), teacher(ids).detach(), temperature)
    loss.backward()
    return loss.item()


@mistakes(
    "loss after the step",
    "You return the loss after the step. Return the one that you computed before it; it costs nothing more.",
)
def _(student, teacher, optimizer, ids, temperature=1.0):
    step(student, teacher, optimizer, ids, temperature)
    with torch.no_grad():
        return kl(student(ids), teacher(ids), temperature).item()


@mistakes(
    "student does not drop out",
    "You put the student into eval mode. It trains: its mode stays as you find it.",
)
def _(student, teacher, optimizer, ids, temperature=1.0):
    student.eval()
    return step(student, teacher, optimizer, ids, temperature)


@mistakes(
    "zero_grad at the end",
    "You call zero_grad after the step. When you are called, gradients of an earlier step may still be there: call it before backward.",
)
def _(student, teacher, optimizer, ids, temperature=1.0):
    loss = step(student, teacher, optimizer, ids, temperature, zero_grad=False)
    optimizer.zero_grad()
    return loss


@mistakes(
    "teacher quiet too late",
    "You call teacher.eval() after the teacher has answered: its first answer is partly random. Call it before.",
)
def _(student, teacher, optimizer, ids, temperature=1.0):
    loss = step(student, teacher, optimizer, ids, temperature, quiet=False)
    teacher.eval()
    return loss


@mistakes(
    "loss of another pass",
    "You run the student twice, once for the loss that you return and once for the step. With dropout these are two different losses: return "
    "the one whose gradient you took.",
)
def _(student, teacher, optimizer, ids, temperature=1.0):
    teacher.eval()
    with torch.no_grad():
        loss = kl(student(ids), teacher(ids), temperature).item()
    step(student, teacher, optimizer, ids, temperature)
    return loss


@mistakes(
    "a step for each sequence",
    "You make a step for each sequence of the batch. Make one step, on the mean over all tokens.",
)
def _(student, teacher, optimizer, ids, temperature=1.0):
    losses = [step(student, teacher, optimizer, sequence, temperature) for sequence in ids.split(1)]
    return sum(losses) / len(losses)


@mistakes(
    "plain gradient descent",
    "You moved the parameters yourself. Leave that to optimizer.step(), which knows the learning rate, momentum and moments.",
)
def _(student, teacher, optimizer, ids, temperature=1.0):
    teacher.eval()
    optimizer.zero_grad()
    loss = kl(student(ids), teacher(ids).detach(), temperature)
    loss.backward()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter -= optimizer.param_groups[0]["lr"] * parameter.grad
    return loss.item()


@mistakes(
    "teacher learns too",
    "The teacher changes: an optimiser of yours, or a step of yours, moves it. Only the student is trained.",
)
def _(student, teacher, optimizer, ids, temperature=1.0):
    teacher.eval()
    optimizer.zero_grad()
    loss = kl(student(ids), teacher(ids), temperature)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter -= 0.01 * parameter.grad
    return loss.item()


@mistakes("on a single sequence", "You trained on the first sequence of the batch only. All sequences count.")
def _(student, teacher, optimizer, ids, temperature=1.0):
    return step(student, teacher, optimizer, ids[:1], temperature)
