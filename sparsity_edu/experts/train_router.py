"""What keeps a router in order, tried on small mixtures of experts: `python -m sparsity_edu.experts.train_router`.

Language models of bytes with two decoder blocks and eight experts in each, one of which reads a byte (Switch). A `Remedy` says
how experts are chosen and what is added to the loss. All else, the order of the text included, is the seed's, and all models
are measured alike, on held-out text and without noise.

The record is `train_router.json` beside this file. With names behind the command only these are trained.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsity_edu.data import python_docs
from sparsity_edu.experts.layer import MixtureLayer
from sparsity_edu.experts.losses import bias_update, jitter, load_balancing, z_loss
from sparsity_edu.experts.routing import Routing, group_limited, top_k
from sparsity_edu.experts.sparsemixer import V1, V2, sparsemixer
from sparsity_edu.models import trainings

RECORD = Path(__file__).with_suffix(".json")
BYTES, CONTEXT, BATCH = 256, 64, 8  # vocabulary; bytes of a window; windows of a step
BLOCKS, D, HEADS, EXPERTS, WIDTH = 2, 64, 4, 8, 64
STEPS, EVERY, SEEDS = 800, 80, 3
LEARNING_RATE, WARM_UP = 3e-3, 50
HELD_OUT = 64  # windows


@dataclass(frozen=True)
class Remedy:
    """What is done about the router. Noise is drawn outside, so that every function is one of its arguments alone."""

    jitter: Callable[[Tensor, Tensor], Tensor] | None = None  # (what the router reads, uniform noise like it)
    sample: Callable[[Tensor, Tensor, Tensor], Routing] | None = None  # (logits, exponential noise like them, uniform coin)
    balance: Callable[[Routing], Tensor] | None = None  # a loss of each layer, its coefficient included
    small: Callable[[Tensor], Tensor] | None = None  # a loss of each layer's logits, its coefficient included
    bias: Callable[[Tensor, Tensor], Tensor] | None = None  # (bias, how often each expert was chosen) to the next bias


def _sparsemixer(rule, z: Tensor, noise: Tensor, coin: Tensor) -> Routing:
    return sparsemixer(z, 1, rule, noise[None], coin[None], eps=0.1)


def _balance(routing: Routing) -> Tensor:
    return 0.01 * load_balancing(routing.probs, routing.experts)


def _small(z: Tensor) -> Tensor:
    return 1e-3 * z_loss(z)


REMEDIES = {
    "none": Remedy(),
    "jitter": Remedy(jitter=partial(jitter, eps=0.01)),
    "balance": Remedy(balance=_balance),
    "z-loss": Remedy(small=_small),
    "bias": Remedy(bias=partial(bias_update, rate=1e-3)),
    "SparseMixer v1": Remedy(sample=partial(_sparsemixer, V1)),
    "SparseMixer v1, balance": Remedy(sample=partial(_sparsemixer, V1), balance=_balance),
    "SparseMixer v2, balance": Remedy(sample=partial(_sparsemixer, V2), balance=_balance),
}


class Read(NamedTuple):
    """What a layer's router did in a forward pass."""

    logits: Tensor  # (windows, bytes, E)
    routing: Routing


class Block(nn.Module):
    """Attention, then a mixture layer, each behind an RMSNorm and beside the residual stream."""

    def __init__(self, remedy: Remedy) -> None:
        super().__init__()
        self.remedy = remedy
        self.norms = nn.ModuleList([nn.RMSNorm(D), nn.RMSNorm(D)])
        self.qkv, self.out = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
        self.mixture = MixtureLayer(D, WIDTH, EXPERTS, self.route)
        self.register_buffer("bias", torch.zeros(EXPERTS))

    def route(self, z: Tensor) -> Routing:
        """Of all ways to choose one expert."""
        self.logits = z
        if self.training and self.remedy.sample:
            noise = torch.empty_like(z).exponential_()
            return self.remedy.sample(z, noise, torch.rand(z.shape[:-1]))
        if self.remedy.bias:
            return group_limited(z, 1, bias=self.bias, score="softmax", renormalise=False)
        return top_k(z, 1, renormalise=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Read]:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (windows, heads, bytes, D / HEADS)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        h = self.norms[1](x)
        noisy = self.training and self.remedy.jitter
        y, routing = self.mixture(h, self.remedy.jitter(h, torch.rand_like(h)) if noisy else None)
        return x + y, Read(self.logits, routing)


class ByteModel(nn.Module):
    """From bytes (windows, CONTEXT) to logits of the next, and what each block's router did."""

    def __init__(self, remedy: Remedy) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(BYTES, D), nn.Parameter(0.1 * torch.randn(CONTEXT, D))
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.blocks = nn.ModuleList(Block(remedy) for _ in range(BLOCKS))
        self.norm, self.head = nn.RMSNorm(D), nn.Linear(D, BYTES, bias=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, list[Read]]:
        x = self.embedding(ids) + self.place[: ids.shape[1]]
        reads = []
        for block in self.blocks:
            x, read = block(x)
            reads.append(read)
        return self.head(self.norm(x)), reads


@cache
def text(split: str) -> Tensor:
    """A split of the Python docs as bytes."""
    return torch.tensor(list(python_docs(split).encode()), dtype=torch.int64)


def windows(ids: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets (windows, CONTEXT) from these places."""
    picked = ids[starts[:, None] + torch.arange(CONTEXT + 1)]
    return picked[:, :-1], picked[:, 1:]


def prediction_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def measure(model: ByteModel) -> dict:
    """What came of it, on held-out text: bits per byte; of each layer every expert's share, and the least and largest logit."""
    ids = text("validation")
    starts = torch.arange(HELD_OUT) * ((len(ids) - CONTEXT - 1) // HELD_OUT)
    inputs, targets = windows(ids, starts)
    model.eval()
    logits, reads = model(inputs)
    model.train()
    shares = [read.routing.experts.flatten().bincount(minlength=EXPERTS) / inputs.numel() for read in reads]
    return {
        "bits": round(prediction_loss(logits, targets).item() / math.log(2), 4),
        "shares": [[round(share, 4) for share in of_layer.tolist()] for of_layer in shares],
        "logits": [[round(end.item(), 3) for end in read.logits.aminmax()] for read in reads],
    }


def train(
    remedy: Remedy,
    seed: int,
    steps: int = STEPS,
    every: int = EVERY,
    rate: float = LEARNING_RATE,
    tick: Callable[[], None] = lambda: None,
) -> dict:
    """Train one model.

    Args:
        remedy: what is done about the router.
        seed: of weights, text order and noise.
        steps: updates.
        every: steps between measurements; the first is before any.
        rate: learning rate, after a warm-up.
        tick: called after each step.

    Returns:
        The record: "curve", points of "step", "train" (bits per byte of the steps since the last) and what `measure` says; and
        "seconds" of this process's time.
    """
    began = time.process_time()
    torch.manual_seed(seed)
    model = ByteModel(remedy)
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids, losses = text("train"), []
    curve = [{"step": 0, **measure(model)}]
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * min(1, (step + 1) / WARM_UP)
        inputs, targets = windows(ids, torch.randint(len(ids) - CONTEXT, (BATCH,), generator=order))
        logits, reads = model(inputs)
        loss = prediction_loss(logits, targets)
        losses.append(loss.item() / math.log(2))
        for read in reads:
            if remedy.balance:
                flat = Routing(*(part.flatten(0, 1) for part in read.routing))
                loss = loss + remedy.balance(flat)
            if remedy.small:
                loss = loss + remedy.small(read.logits.flatten(0, 1))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        for block, read in zip(model.blocks, reads, strict=True):
            if remedy.bias:
                block.bias = remedy.bias(block.bias, read.routing.experts.flatten().bincount(minlength=EXPERTS))
        if (step + 1) % every == 0:
            curve.append({"step": step + 1, "train": round(sum(losses) / len(losses), 4), **measure(model)})
            losses = []
        tick()
    return {"seed": seed, "seconds": round(time.process_time() - began, 1), "curve": curve}


if __name__ == "__main__":

    def says(run: dict) -> str:
        last = run["curve"][-1]
        return f"{last['bits']:.3f} bits, largest share {max(map(max, last['shares'])):.2f}"

    settings = {"context": CONTEXT, "batch": BATCH, "learning_rate": LEARNING_RATE}
    trainings.run(__doc__, "sparsity_edu.experts.train_router", RECORD, REMEDIES, train, says, settings, SEEDS, STEPS)
