"""Inputs, layers and blocks that the exercises of unit 14 work on."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
CLEAR = 1e-5  # by how much, of its size, an input stands off its threshold: no rounding moves it to the other side

Weights = dict[str, Tensor]


def some(g: torch.Generator, low: int, high: int) -> int:
    """A whole number from low to high - 1."""
    return int(torch.randint(low, high, (), generator=g))


def inputs(g: torch.Generator, *shape: int, shift: float = 0.0) -> Tensor:
    """Inputs as projections have them: most are small, some large; with a shift they are not symmetric about zero."""
    x = torch.randn(shape, generator=g) * (0.3 + torch.rand(shape, generator=g).square() * 2)
    return x + shift * (1 + torch.rand(shape, generator=g))


def redraw(draw: Callable, accept: Callable):
    """The first draw that is accepted."""
    while not accept(drawn := draw()):
        pass
    return drawn


def between_ties(g: torch.Generator, count: int, low: float, high: float) -> float:
    """A sparsity for which a share 0.5 + sparsity / 2 of `count` inputs is no whole number, nor nearly one."""

    def draw() -> float:
        return round(low + (high - low) * float(torch.rand((), generator=g)), 3)

    return redraw(draw, lambda s: 0.2 < (0.5 + s / 2) * count % 1 < 0.8)


def edges_of(x: Tensor, bins: int, outliers: float) -> Tensor:
    """(bins + 1,) float64 edges of the bins."""
    a = x.double().flatten().sort().values
    few = int(outliers * len(a))
    return torch.cat([a[:1], torch.linspace(float(a[few]), float(a[-few]), bins - 1, dtype=torch.float64), a[-1:]])


def off_the_edges(x: Tensor, bins: int, outliers: float) -> bool:
    """Whether no input but those that are edges themselves is so near to one that rounding could move it across."""
    edges = edges_of(x, bins, outliers)
    a = x.double().flatten()
    a = a[(a > edges[0]) & (a < edges[-1]) & (a != edges[1]) & (a != edges[-2])]
    above = torch.searchsorted(edges, a)  # of the edges, the first that is not below
    gap = torch.minimum(edges[above] - a, a - edges[above - 1])
    return bool((gap > 3e-7 * (edges[-2] - edges[1])).all())


def distribution(x: Tensor, bins: int = 40, outliers: float = 0.01) -> tuple[Tensor, Tensor]:
    """Counts (bins,) int64 and middles (bins,) float32 of the authors' bins."""
    edges = edges_of(x, bins, outliers)
    a = x.double().flatten()
    place = torch.searchsorted(edges[1:-1].contiguous(), a, right=True)  # how many inner edges are not above it
    return torch.bincount(place, minlength=bins), ((edges[:-1] + edges[1:]) / 2).float()


def limit(counts: Tensor, centers: Tensor, sparsity: float) -> float:
    """The threshold: bin by bin, in Python's numbers."""
    if sparsity == 0:
        return 0.0
    wanted, below = (0.5 + sparsity / 2) * int(counts.sum()), 0
    middles = centers.double().tolist()
    for i, count in enumerate(counts.tolist()):
        if below + count >= wanted:
            share = (wanted - below) / count
            return middles[0] if i == 0 else middles[i - 1] + share * (middles[i] - middles[i - 1])
        below += count
    return middles[-1]


def sparse(x: Tensor, threshold: float) -> Tensor:
    """What the sparsifier makes of (batch, tokens, channels)."""
    tokens = x.shape[1]
    late = torch.arange(tokens) >= (tokens - tokens // 2 if tokens > 1 else 0)
    return x.masked_fill((x.abs() <= threshold) & late[:, None], 0)


def block(x: Tensor, weights: Weights, read: Callable[[str, Tensor], Tensor]) -> Tensor:
    """The block of the lesson, in any precision."""

    def project(name: str, h: Tensor) -> Tensor:
        return F.linear(read(name, h), weights[name])

    def turned(h: Tensor) -> Tensor:
        a, b = h.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    angles = weights["angles"][: x.shape[1]]
    cos, sin = angles.cos(), angles.sin()
    h = F.rms_norm(x, x.shape[-1:], weights["norm1"], 1e-5)
    q, k, v = (project(name, h).unflatten(-1, (-1, 2 * angles.shape[1])).transpose(1, 2) for name in "qkv")
    a = F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True, enable_gqa=True)
    x = x + project("o", a.transpose(1, 2).flatten(2))
    h = F.rms_norm(x, x.shape[-1:], weights["norm2"], 1e-5)
    return x + project("down", F.silu(project("gate", h)) * project("up", h))


def layer(g: torch.Generator, hidden: int, heads: int, kv_heads: int, head_dim: int, inner: int) -> Weights:
    """Weights of a block by name; no two projections hurt alike."""

    def normal(rows: int, cols: int, size: float = 1.0) -> Tensor:
        return size * torch.randn(rows, cols, generator=g) / cols**0.5 * 2 ** torch.rand((), generator=g)

    return {
        "norm1": 0.5 + torch.rand(hidden, generator=g),
        "norm2": 0.5 + torch.rand(hidden, generator=g),
        "angles": torch.arange(64)[:, None] * 20.0 ** (-torch.arange(0, head_dim, 2) / head_dim),
        "q": normal(heads * head_dim, hidden, 1.5),
        "k": normal(kv_heads * head_dim, hidden, 1.5),
        "v": normal(kv_heads * head_dim, hidden),
        "o": normal(hidden, heads * head_dim),
        "gate": normal(inner, hidden),
        "up": normal(inner, hidden),
        "down": normal(hidden, inner),
    }


def double(weights: Weights) -> Weights:
    """The same in float64."""
    return {name: tensor.double() for name, tensor in weights.items()}


def dense_reads(x: Tensor, weights: Weights) -> Weights:
    """What each projection reads in the dense block, by name."""
    found: Weights = {}

    def note(name: str, h: Tensor) -> Tensor:
        found[name] = h
        return h

    block(x, weights, note)
    return found


def tried(x: Tensor, weights: Weights, dense: Tensor, thresholds: dict[str, float]) -> tuple[float, float]:
    """The error of a block, and how far, of its size, the nearest input stands off its threshold; all in float64."""
    gaps = [1.0]

    def note(name: str, h: Tensor) -> Tensor:
        if (t := thresholds.get(name, 0.0)) <= 0:
            return h
        gaps.append(float((h.abs() / t - 1).abs().min()))
        return sparse(h, t)

    got = block(x, weights, note)
    squares = (dense - got)[:, x.shape[1] - x.shape[1] // 4 :].square().sum(dim=1)  # (batch, channels)
    return float(squares.sqrt().mean()), min(gaps)


def off(x: Tensor, weights: Weights, thresholds: dict[str, float]) -> tuple[float, float]:
    """`tried` of a block and thresholds, compared with the dense block."""
    x, weights = x.double(), double(weights)
    return tried(x, weights, block(x, weights, lambda name, h: h), thresholds)
