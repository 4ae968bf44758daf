"""Exercise 7.7: one step of distillation."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.minitron.distil_step_mistakes import mistakes
from autograder.exercises.minitron.fixtures import linear
from autograder.inside.case import Case, call
from autograder.inside.recipes import Module, Optimizer
from sparsity_edu.weights import distillation


def reference(student, teacher, optimizer, ids, temperature=1.0):
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
    hints=(
        "It is an ordinary training step of the student with another target: what the teacher says of the same tokens. "
        "The teacher answers in eval mode and learns nothing.",
        "First the teacher: `teacher.eval()`, and its logits under `torch.no_grad()`. Then the student, outside of that "
        "block: `zero_grad`, the loss, `backward`, `step`. Nothing is shifted: in both models position t says what comes "
        "after t.",
        "`loss = kd_loss(student(ids), told, temperature)`, where `told` are the teacher's logits: the student comes "
        "first. Return `loss.item()` after the step.",
    ),
    reference=reference,
    rules=Rules(tolerance=2e-5),
    contiguous=True,  # ids are not, in a case; but a student comes in training mode, and `student.train()` is as good as nothing
    leaves_open=((1, "frozen parameters"),),
    misconceptions=mistakes,
)


def network(
    g: torch.Generator, vocabulary: int, width: int, dropout: float = 0.0, normed: int = 0, scale: float = 1.0
) -> Module:
    """From token ids to logits: an embedding, two linear layers; `normed` over as many positions, whose statistics it collects."""
    embedding = Module("Embedding", (vocabulary, width), {"weight": torch.randn(vocabulary, width, generator=g)})
    parts = [embedding, linear(g, width + 1, width, True)]
    if normed:
        statistics = {"running_mean": torch.randn(normed, generator=g), "running_var": 1 + torch.rand(normed, generator=g)}
        gain = {"weight": 1 + torch.rand(normed, generator=g), "bias": torch.randn(normed, generator=g)}
        parts.append(Module("BatchNorm1d", (normed,), gain | statistics | {"num_batches_tracked": torch.tensor(3)}))
    if dropout:
        parts.append(Module("Dropout", (dropout,)))
    head = linear(g, vocabulary, width + 1)
    head.state["weight"] *= scale
    return Module("Sequential", (*parts, Module("SiLU"), head))


def step_case(
    g: torch.Generator,
    kind: str,
    temperature: tuple[float, ...] = (1.0,),
    dropout=(0.0, 0.0),
    normed=(0, 0),
    sizes=(4, 7),
    scales=(1.0, 1.0),
    text: tuple[int, int] = (3, 5),
    warm: int = 0,
    times: int = 1,
    **options,
) -> Case:
    """`sizes`, `dropout`, `normed` and `scales` are the student's and the teacher's; `temperature` may be left out, as ()."""
    models = [network(g, 9, *of_model) for of_model in zip(sizes, dropout, normed, scales, strict=True)]
    optimizer = Optimizer(kind, of=0, options=options, warm_steps=warm, warm_gradient=0.3)
    ids = torch.randint(9, text[::-1], generator=g).T  # not contiguous
    return call(*models, optimizer, ids, *temperature, changes=(0,), times=times)


@distil_step.stage(
    "makes a training step on the divergence and returns the loss",
    points=1,
    exposes="zero_grad, loss = kd_loss(student(ids), teacher(ids), temperature), backward, step, and `return loss.item()`: the loss before the "
    "step. Position by position, nothing is shifted.",
)
def _(g):
    yield step_case(g, "SGD", lr=0.1)
    yield step_case(g, "SGD", temperature=(2.0,), lr=0.3)
    yield step_case(g, "Adam", lr=0.01)
    yield step_case(g, "SGD", temperature=(), lr=0.2)
    yield step_case(g, "SGD", temperature=(), scales=(40.0, 30.0), lr=0.01)  # large gradients: nothing said to clip them
    yield step_case(g, "SGD", text=(1, 1), lr=0.2)
    yield step_case(g, "SGD", text=(2, 140), lr=0.5)


@distil_step.stage(
    "step after step",
    points=1,
    exposes="Gradients of earlier steps may still be there: zero_grad first. The optimiser is used as it comes, so that momentum goes on.",
)
def _(g):
    yield step_case(g, "SGD", warm=2, lr=0.1, momentum=0.9)
    yield step_case(g, "AdamW", temperature=(1.5,), warm=2, times=3, lr=0.01, weight_decay=0.1)
    yield step_case(g, "SGD", normed=(5, 0), times=2, lr=0.1)  # a second pass of the student would show in its statistics


@distil_step.stage(
    "the teacher answers, and does not learn",
    points=1,
    exposes="The teacher's dropout is off (`teacher.eval()`), the student's is as you find it, and not one of the teacher's numbers changes.",
    pure=True,
)
def _(g):
    yield step_case(g, "SGD", dropout=(0.0, 0.5), lr=0.1)
    yield step_case(g, "SGD", temperature=(2.0,), dropout=(0.5, 0.3), times=2, lr=0.1)
    yield step_case(g, "Adam", dropout=(0.4, 0.0), sizes=(6, 6), lr=0.01)
    yield step_case(g, "SGD", normed=(0, 5), dropout=(0.0, 0.2), times=2, lr=0.1)


@distil_step.accepts("official style: F.kl_div in a wrapped model")
def _(student, teacher, optimizer, ids, temperature=1.0):
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
def _(student, teacher, optimizer, ids, temperature=1.0):
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
def _(student, teacher, optimizer, ids, temperature=1.0):
    told = copy.deepcopy(teacher).eval()(ids).detach()
    parameters = list(student.parameters())
    loss = distillation.logits_loss(student(ids), told, temperature)
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()
    return loss
