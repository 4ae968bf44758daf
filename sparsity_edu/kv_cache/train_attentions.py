"""What a smaller cache costs in training: `python -m sparsity_edu.kv_cache.train_attentions`.

Small language models of bytes that differ in their attention alone: heads that share keys and values in groups (MHA, GQA, MQA),
or a latent (MLA). The parameters that a kind saves go to its MLPs, so that all have equally many. All else is the seed's: the
order of the text, and where weights have the same shapes these too.

The record is `train_attentions.json` beside this file. With names behind the command only these are trained.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsity_edu.data import python_docs
from sparsity_edu.kv_cache import mla
from sparsity_edu.kv_cache.attention import rotate
from sparsity_edu.models import trainings

RECORD = Path(__file__).with_suffix(".json")
BYTES, CONTEXT, BATCH = 256, 128, 8  # vocabulary; bytes of a window; windows of a step
BLOCKS, D, HEADS, HEAD_DIM = 2, 64, 4, 16
BASE = 100.0  # of the rotation: over a window all pairs of channels turn by radians
PARAMETERS = 4 * D * HEADS * HEAD_DIM + 3 * D * 128  # of the matrices of a block
STEPS, EVERY, SEEDS = 400, 50, 3
LEARNING_RATE, WARM_UP = 3e-3, 50
HELD_OUT = 64  # windows


@dataclass(frozen=True)
class Kind:
    """How keys and values are kept."""

    groups: int = 0  # heads of keys and values, or
    latent: int = 0  # d_c and
    rope: int = 0  # d_R of MLA

    @property
    def numbers(self) -> int:
        """Numbers that a token leaves in a layer."""
        return 2 * self.groups * HEAD_DIM or self.latent + self.rope


KINDS = {
    "MHA": Kind(groups=4),
    "GQA": Kind(groups=2),
    "MQA": Kind(groups=1),
    "MLA 64": Kind(latent=48, rope=16),
    "MLA 32": Kind(latent=16, rope=16),
}


def _turn(x: Tensor, positions: Tensor, base: float) -> Tensor:
    angle = positions[..., None] * base ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    return rotate(x, angle[:, :, None] if x.ndim == 4 else angle, interleaved=True)


def _attention(q_nope: Tensor, q_rope: Tensor, c: Tensor, k_rope: Tensor, W_uk: Tensor, W_uv: Tensor) -> Tensor:
    """The naive form of `mla.latent_attention`, as many queries as tokens, in one kernel."""
    k = torch.cat([c[:, None] @ W_uk.mT, k_rope[:, None].expand(-1, HEADS, -1, -1)], dim=-1)
    q = torch.cat([q_nope, q_rope], dim=-1).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, c[:, None] @ W_uv.mT, is_causal=True).transpose(1, 2)


class Parts(NamedTuple):
    """What MLA is made of, to be exchanged."""

    latent: Callable = mla.latent  # (x, W, norm) to c and k_rope
    rotate: Callable = _turn  # (x, positions, base)
    attention: Callable = _attention  # (q_nope, q_rope, c, k_rope, W_uk, W_uv)


class Shared(nn.Module):
    """MHA, GQA or MQA."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self.q, self.out = nn.Linear(D, HEADS * HEAD_DIM, bias=False), nn.Linear(HEADS * HEAD_DIM, D, bias=False)
        self.kv = nn.Linear(D, 2 * kind.groups * HEAD_DIM, bias=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        q = _turn(self.q(x).unflatten(-1, (HEADS, -1)), positions, BASE)
        k, v = self.kv(x).unflatten(-1, (2, self.kind.groups, -1)).unbind(dim=2)
        parts = (part.transpose(1, 2) for part in (q, _turn(k, positions, BASE), v))
        return self.out(F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2))


class Latent(nn.Module):
    """MLA."""

    def __init__(self, kind: Kind, parts: Parts) -> None:
        super().__init__()
        self.kind, self.parts = kind, parts
        self.q, self.out = nn.Linear(D, HEADS * (HEAD_DIM + kind.rope), bias=False), nn.Linear(HEADS * HEAD_DIM, D, bias=False)
        self.down, self.norm = nn.Linear(D, kind.latent + kind.rope, bias=False), nn.Parameter(torch.ones(kind.latent))
        self.up = nn.Parameter(torch.empty(2, HEADS, HEAD_DIM, kind.latent).uniform_(-1, 1) / kind.latent**0.5)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (HEADS, -1))
        c, k = self.parts.latent(x, self.down.weight, self.norm)
        q_rope, k = self.parts.rotate(q[..., HEAD_DIM:], positions, BASE), self.parts.rotate(k, positions, BASE)
        return self.out(self.parts.attention(q[..., :HEAD_DIM], q_rope, c, k, *self.up).flatten(2))


class Block(nn.Module):
    """Attention, then a SwiGLU MLP, each behind an RMSNorm and beside the residual stream."""

    def __init__(self, kind: Kind, parts: Parts) -> None:
        super().__init__()
        self.attention = Shared(kind) if kind.groups else Latent(kind, parts)
        width = round((PARAMETERS - sum(p.numel() for p in self.attention.parameters())) / (3 * D))
        self.norms = nn.ModuleList([nn.RMSNorm(D), nn.RMSNorm(D)])
        self.up, self.down = nn.Linear(D, 2 * width, bias=False), nn.Linear(width, D, bias=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x), positions)
        gate, value = self.up(self.norms[1](x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * value)


class ByteModel(nn.Module):
    """From bytes (windows, CONTEXT) to logits of the next."""

    def __init__(self, kind: Kind, parts: Parts) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(BYTES, D), nn.Linear(D, BYTES, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.norm = nn.RMSNorm(D)
        self.blocks = nn.ModuleList(Block(kind, parts) for _ in range(BLOCKS))

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1]).expand(len(ids), -1)
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, positions)
        return self.head(self.norm(x))


@cache
def text(split: str) -> Tensor:
    """A split of the Python docs as bytes."""
    return torch.tensor(list(python_docs(split).encode()), dtype=torch.int64)


def bits(model: ByteModel, ids: Tensor, starts: Tensor) -> Tensor:
    """Mean bits per byte of the windows from these places."""
    windows = ids[starts[:, None] + torch.arange(CONTEXT + 1)]
    return F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten()) / math.log(2)


@torch.no_grad()
def measure(model: ByteModel) -> float:
    """Bits per byte of held-out text."""
    ids = text("validation")
    return round(bits(model, ids, torch.arange(HELD_OUT) * ((len(ids) - CONTEXT - 1) // HELD_OUT)).item(), 4)


def train(
    kind: Kind,
    seed: int,
    until: int | None = None,
    steps: int = STEPS,
    every: int = EVERY,
    parts: Parts = Parts(),  # noqa: B008
    tick: Callable[[], None] = lambda: None,
) -> dict:
    """Train one model.

    Args:
        kind: how it keeps keys and values.
        seed: of weights and text order.
        until: steps that are made. Default: all.
        steps: of the schedule: a warm-up, then straight down to a tenth.
        every: steps between measurements; the first is before any.
        parts: what MLA is made of.
        tick: called after each step.

    Returns:
        The record: "seed", "parameters", "curve" with points of "step" and held-out "bits" per byte, and "seconds" of this
        process's time.
    """
    began = time.process_time()
    torch.manual_seed(seed)
    model = ByteModel(kind, parts)
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = text("train")
    curve = [{"step": 0, "bits": measure(model)}]
    for step in range(steps if until is None else until):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * min((step + 1) / WARM_UP, 1 - 0.9 * step / steps)
        loss = bits(model, ids, torch.randint(len(ids) - CONTEXT, (BATCH,), generator=order)) * math.log(2)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % every == 0:
            curve.append({"step": step + 1, "bits": measure(model)})
        tick()
    parameters = sum(p.numel() for p in model.parameters())
    return {"seed": seed, "parameters": parameters, "seconds": round(time.process_time() - began, 1), "curve": curve}


if __name__ == "__main__":

    def says(run: dict) -> str:
        return f"{run['curve'][-1]['bits']:.4f} bits, {run['seconds']} s"

    settings = {"context": CONTEXT, "batch": BATCH, "learning_rate": LEARNING_RATE}
    trainings.run(__doc__, "sparsity_edu.kv_cache.train_attentions", RECORD, KINDS, train, says, settings, SEEDS, STEPS)
