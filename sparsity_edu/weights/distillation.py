"""Distillation: a large model teaches a small one what it would say, token by token.

    L = T^2 KL(p_teacher || p_student)        with p = softmax(logits / T)
        + hidden * MSE(P h_student, h_teacher) + embedding * MSE(P e_student, e_teacher)        if wanted

The cross-entropy on the text tells a student one token per position, the teacher's distribution what else would have been
possible. That is why far fewer tokens are enough.

Hinton et al. 2015, "Distilling the knowledge in a neural network"; Muralidharan et al. 2024, sec. 3.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from sparsity_edu.models.positions import check_length

REDUCTIONS = ("batchmean", "mean")


def logits_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0, reduction: str = "batchmean") -> Tensor:
    """Forward Kullback-Leibler divergence, KL(teacher || student), times T^2.

        T^2 * sum_v p_v (log p_v - log q_v),    p = softmax(teacher / T),  q = softmax(student / T)

    T^2 makes up for the gradients, which shrink by it.

    Args:
        student: logits (..., vocabulary).
        teacher: logits of the same shape; no gradient goes there.
        temperature: T > 0; above 1 the unlikely tokens count more.
        reduction: "batchmean": the mean over tokens of the sum over the vocabulary, in nats per token. "mean": divided by
            the size of the vocabulary too. (The authors' code changed from the one to the other in 2026.)

    Returns:
        A number.

    Raises:
        ValueError: temperature or reduction is not allowed, or the shapes differ.

    Source: Hinton et al. 2015, sec. 2; Muralidharan et al. 2024, sec. 3.
    """
    if temperature <= 0 or reduction not in REDUCTIONS:
        allowed = " or ".join(map(repr, REDUCTIONS))
        raise ValueError(f"temperature must be positive and reduction {allowed}, got {temperature} and {reduction!r}")
    if student.shape != teacher.shape:
        raise ValueError(f"student and teacher must have one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}")
    q = F.log_softmax(student.flatten(0, -2) / temperature, dim=-1)  # (tokens, vocabulary)
    p = F.log_softmax(teacher.detach().flatten(0, -2) / temperature, dim=-1)
    loss = temperature**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)
    return loss if reduction == "batchmean" else loss / student.shape[-1]


def cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """What a model is usually trained on: -log p(next token), the mean over tokens.

    Args:
        logits: (sequences, tokens, vocabulary).
        ids: (sequences, tokens).

    Returns:
        A number, in nats per token.
    """
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


class Projections(nn.Module):
    """From the student's widths to the teacher's, learned beside the student and then thrown away; nothing where they agree."""

    def __init__(self, student: int, teacher: int, count: int) -> None:
        super().__init__()
        one = nn.Identity if student == teacher else lambda: nn.Linear(student, teacher, bias=False)
        self.maps = nn.ModuleList(one() for _ in range(count))

    def loss(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Mean squared error of the projected states, the mean over pairs."""
        pairs = zip(self.maps, student, teacher, strict=True)
        return torch.stack([F.mse_loss(project(s).float(), t.float()) for project, s, t in pairs]).mean()


def distil_(
    student: nn.Module,
    teacher: nn.Module | None,
    windows: Tensor,
    steps: int,
    *,
    batch_size: int = 4,
    lr: float = 1e-4,
    warmup: int = 100,
    temperature: float = 1.0,
    reduction: str = "batchmean",
    hidden: float = 0.0,
    embedding: float = 0.0,
    pairs: Iterable[tuple[int, int]] | None = None,
    seed: int = 0,
    after: Callable[[int, float], None] | None = None,
    progress: bool = True,
) -> list[float]:
    """Train a small model on what a large one says, in place; or, without a teacher, on the text alone: the control.

    AdamW; the learning rate rises to `lr` and falls along a cosine to a tenth of it.

    Args:
        student: a Hugging Face causal language model.
        teacher: another of the same vocabulary, not changed; None trains on the cross-entropy of the same batches.
        windows: token ids (windows, tokens), no longer than the models' positions; drawn in a random order, over and over.
        steps: batches to train on.
        batch_size: windows per batch.
        lr: the highest learning rate.
        warmup: steps in which it rises; at most a tenth of all.
        temperature: of the logits, see `logits_loss`.
        reduction: of the logits' loss.
        hidden: weight of the mean squared error between hidden states of paired blocks.
        embedding: weight of that between the embeddings.
        pairs: (student's block, teacher's block), counted from 0; evenly spread, last to last, if left out.
        seed: of the order of the windows, and of the projections.
        after: called with the step and its loss.
        progress: show a progress bar with the loss.

    Returns:
        The loss of every step.

    Raises:
        ValueError: steps or batch size are not positive, the vocabularies differ, windows are too long, or a term needs a
            teacher.
    """
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be positive, got {steps} and {batch_size}")
    if teacher is None and (hidden or embedding):
        raise ValueError("hidden and embedding need a teacher, got none")
    if teacher is not None and teacher.config.vocab_size != student.config.vocab_size:
        sizes = f"{student.config.vocab_size} and {teacher.config.vocab_size}"
        raise ValueError(f"student and teacher must have one vocabulary, got {sizes} tokens")
    for model in (student,) if teacher is None else (student, teacher):
        check_length(model, windows.shape[1])
    pairs = list(pairs or _evenly(student, teacher)) if hidden else []
    g = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projections = _projections(student, teacher, len(pairs), embedding)
    trained = [*student.parameters(), *(p for part in projections.values() for p in part.parameters())]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rise_and_fall(steps, min(warmup, steps // 10)))

    def loss_of(ids: Tensor) -> Tensor:
        out = student(input_ids=ids, use_cache=False, output_hidden_states=bool(projections))
        if teacher is None:
            return cross_entropy(out.logits, ids)
        with torch.no_grad():
            told = teacher(input_ids=ids, use_cache=False, output_hidden_states=bool(projections))
        loss = logits_loss(out.logits.float(), told.logits.float(), temperature, reduction)
        for name, at, weight in (("hidden", pairs, hidden), ("embedding", [(-1, -1)], embedding)):
            if name in projections:  # hidden_states[0] are the embeddings, [i + 1] what block i makes
                ours, theirs = (
                    [states[i[k] + 1] for i in at] for k, states in enumerate((out.hidden_states, told.hidden_states))
                )
                loss = loss + weight * projections[name].loss(ours, theirs)
        return loss

    was_training = student.training, teacher is not None and teacher.training
    student.train()
    if teacher is not None:
        teacher.eval()
    losses: list[float] = []
    batches = _batches(windows, batch_size, g)
    try:
        with tqdm(
            range(steps), desc="cross-entropy" if teacher is None else "distil", unit="step", disable=not progress
        ) as bar:
            for step in bar:
                optimizer.zero_grad()
                loss = loss_of(next(batches).to(next(student.parameters()).device))
                loss.backward()
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
                if after is not None:
                    after(step, losses[-1])
    finally:
        student.train(was_training[0])
        if teacher is not None:
            teacher.train(was_training[1])
    return losses


def _batches(windows: Tensor, size: int, g: torch.Generator):
    """Windows in a random order, over and over, with no remainder lost."""
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(len(windows), generator=g)])
        chosen, waiting = waiting[:size], waiting[size:]
        yield windows[chosen]


def _rise_and_fall(steps: int, warmup: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))

    return factor


def _evenly(student: nn.Module, teacher: nn.Module) -> list[tuple[int, int]]:
    """Student blocks and the teacher's that stand as far along: the last with the last."""
    few, many = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    return [(i, (i + 1) * many // few - 1) for i in range(few)]


def _projections(student: nn.Module, teacher: nn.Module | None, count: int, embedding: float) -> dict[str, Projections]:
    if teacher is None:
        return {}
    widths = student.config.hidden_size, teacher.config.hidden_size
    wanted = {"hidden": count, "embedding": 1 if embedding else 0}
    return {name: Projections(*widths, count) for name, count in wanted.items() if count}
