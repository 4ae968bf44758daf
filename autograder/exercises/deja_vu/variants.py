"""The right answer of exercise 13.4 with its parts exchangeable, for the mistakes that vary it."""

import torch
from torch import Tensor

from autograder.exercises.deja_vu.loss import reference as weighted_loss


def shares(said: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Recall, precision and sparsity."""
    hits, needed, yes = (int(mask.sum()) for mask in (said & labels, labels, said))
    return hits / needed, hits / yes if yes else 1.0, 1 - yes / said.numel()


def trained(
    A: Tensor,
    B: Tensor,
    batches: list,
    held_out: tuple,
    epochs: int,
    rate: float = 1e-3,
    extra: float = 0.005,
    *,
    optimizer=lambda weights, rate: torch.optim.AdamW(weights, lr=rate, weight_decay=0.01),
    logits=lambda x, A, B: (x @ A.T) @ B.T,
    loss=weighted_loss,
    order=lambda batches, epoch: batches,
    yes=lambda z: z >= 0,
    measure=shares,
    where=lambda batches, held_out: held_out,
    worth=lambda point, loss: point[0],
    better=lambda new, best: new > best,
    enough=lambda worth: worth > 0.99,
    zero=lambda optimizer: optimizer.zero_grad(),
    own=lambda W: W.clone(),
    keep=lambda weights: [W.detach().clone() for W in weights],
    each_epoch_new=False,
    first=False,
    impatient=False,
    before=False,
    result=lambda kept, weights, curve: (*kept, curve),
):
    weights = [own(W.detach()).requires_grad_() for W in (A, B)]
    step = optimizer(weights, rate)
    curve, best, kept = [], float("-inf"), keep(weights)

    def look():
        states, labels = where(batches, held_out)
        with torch.no_grad():
            z = logits(states, *weights)
            return measure(yes(z), labels), float(loss(z, labels, extra))

    if first:
        best = worth(*look())
    for epoch in range(epochs):
        if each_epoch_new:
            step = optimizer(weights, rate)
        if before:
            curve.append(look())
        for states, labels in order(batches, epoch):
            zero(step)
            loss(logits(states, *weights), labels, extra).backward()
            step.step()
        if not before:
            curve.append(look())
        value = worth(*curve[-1])
        if better(value, best):
            best, kept = value, keep(weights)
        if enough(value) or (impatient and value < best):
            break
    return result(kept, [W.detach() for W in weights], [point for point, _ in curve])
