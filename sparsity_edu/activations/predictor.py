"""Deja Vu's predictor: which heads or neurons the next token will need, from a hidden state that is already there.

    logits = B A x        A (rank, hidden), B (units, rank): no bias, and no activation between: a matrix of low rank
    loss                  binary cross entropy; few units are needed, so those that are not weigh less
    train                 AdamW; the weights with the best recall on held-out tokens are kept

A predictor that says yes to everything has a recall of 1: precision and sparsity are reported beside it. Liu et al. 2023, "Deja
Vu: Contextual sparsity for efficient LLMs at inference time", section 4; the authors' `sparse_predictor`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXTRA = {"heads": 0.0, "neurons": 0.005}  # what the authors add to the weight of units that are not needed
RATES = {"heads": 1e-4, "neurons": 1e-3}  # the authors' learning rates
WEIGHT_DECAY, BATCH, EPOCHS = 0.01, 1024, 20
HELD_OUT = 0.05  # of the tokens
ENOUGH, PATIENCE = 0.99, 5  # a recall above which training stops; epochs without gain after which it does


class Predictor(nn.Module):
    """Two linear layers without bias, and nothing between them.

    Args:
        inputs: channels of a hidden state.
        rank: channels between the layers; the authors have 1,000.
        units: heads or neurons to predict.
    """

    def __init__(self, inputs: int, rank: int, units: int) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, units, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to logits (..., units)."""
        return self.up(self.down(x))


class Quality(NamedTuple):
    """How good predictions are, over all tokens together."""

    loss: float
    recall: float  # of the units that are needed, the share that was predicted; the authors select and stop by it alone
    precision: float  # of those predicted, the share that is needed
    sparsity: float  # the share that was predicted not to be needed
    true_sparsity: float  # that is not needed
    epoch: int = 0


def weighted_loss(logits: Tensor, labels: Tensor, extra: float = 0.0) -> Tensor:
    """Binary cross entropy in which a needed unit weighs 1 and any other w, the share of needed ones.

    Args:
        logits: (tokens, units).
        labels: likewise, boolean or 0 and 1.
        extra: added to w: 0 for heads, 0.005 for neurons (the authors' scripts).

    Returns:
        The mean over tokens and units, a scalar.

    Source: the authors' trainers: `weight = y.mean() + extra; y * (1 - weight) + weight`.
    """
    y = labels.to(logits.dtype)
    w = y.mean() + extra
    return F.binary_cross_entropy_with_logits(logits, y, weight=y * (1 - w) + w)


def quality(predicted: Tensor, labels: Tensor, loss: float = 0.0, epoch: int = 0) -> Quality:
    """Compare predictions with what is needed.

    Args:
        predicted: boolean (tokens, units).
        labels: likewise.
        loss: to be reported beside.
        epoch: likewise.

    Returns:
        The shares; a recall or precision of nothing is 1.
    """
    hits, needed, said = (int(x.sum()) for x in (predicted & labels, labels, predicted))
    return Quality(
        loss,
        hits / needed if needed else 1.0,
        hits / said if said else 1.0,
        1 - said / predicted.numel(),
        1 - needed / labels.numel(),
        epoch,
    )


@torch.no_grad()
def evaluate(predictor: nn.Module, states: Tensor, labels: Tensor, extra: float = 0.0, epoch: int = 0) -> Quality:
    """How good a predictor is where a probability of 0.5 or more means yes, as the authors evaluate.

    Args:
        predictor: hidden states to logits.
        states: (tokens, inputs).
        labels: boolean (tokens, units).
        extra: see `weighted_loss`.
        epoch: to be reported.
    """
    logits = predictor(states)
    return quality(logits >= 0, labels, float(weighted_loss(logits, labels, extra)), epoch)


def train_epoch(
    predictor: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]], extra: float = 0.0
) -> None:
    """One step for each batch, in their order.

    Args:
        predictor: hidden states to logits; trained in place.
        optimizer: of its parameters.
        batches: states (batch, inputs) and labels (batch, units).
        extra: see `weighted_loss`.
    """
    predictor.train()
    for states, labels in batches:
        optimizer.zero_grad()
        weighted_loss(predictor(states), labels, extra).backward()
        optimizer.step()


def train(
    predictor: nn.Module,
    states: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    extra: float = 0.0,
    rate: float = 1e-3,
    epochs: int = EPOCHS,
    batch: int = BATCH,
    select: str = "recall",
) -> list[Quality]:
    """Train a predictor in place, on all tokens but 5 %, and keep the weights that are best on these.

    Args:
        predictor: hidden states to logits.
        states: (tokens, inputs); not changed.
        labels: boolean (tokens, units).
        generator: of the split and of each epoch's order.
        extra: see `weighted_loss`.
        rate: the learning rate of AdamW, with a weight decay of 0.01.
        epochs: the most.
        batch: tokens of a step.
        select: by what weights are kept and training stops: "recall" (the authors: above 0.99, or after 5 epochs without
            gain), or "loss" (5 epochs without gain).

    Returns:
        The quality on held-out tokens before training and after each epoch.

    Raises:
        ValueError: there are fewer than 20 tokens, shapes do not fit, or `select` is unknown.
    """
    if select not in ("recall", "loss"):
        raise ValueError(f"select must be recall or loss, got {select!r}")
    if len(states) < 1 / HELD_OUT or len(states) != len(labels):
        raise ValueError(f"states and labels must be of the same tokens, at least 20, got {len(states)} and {len(labels)}")
    order = torch.randperm(len(states), generator=generator)
    held_out, rest = order.split([int(len(order) * HELD_OUT), len(order) - int(len(order) * HELD_OUT)])
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)

    def look(epoch: int) -> Quality:
        predictor.eval()
        return evaluate(predictor, states[held_out], labels[held_out], extra, epoch)

    def worth(point: Quality) -> float:
        return point.recall if select == "recall" else -point.loss

    curve = [look(0)]
    best, kept, waited = worth(curve[0]), _copy(predictor), 0
    for epoch in range(1, epochs + 1):
        shuffled = rest[torch.randperm(len(rest), generator=generator)]
        train_epoch(predictor, optimizer, ((states[part], labels[part]) for part in shuffled.split(batch)), extra)
        curve.append(look(epoch))
        waited = 0 if worth(curve[-1]) > best else waited + 1
        if not waited:
            best, kept = worth(curve[-1]), _copy(predictor)
        if waited >= PATIENCE or (select == "recall" and best > ENOUGH):
            break
    predictor.load_state_dict(kept)
    return curve


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}
