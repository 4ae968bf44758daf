"""Pruned weights and skipped inputs in two layers, y = W2 silu(W1 x): which of them is calibrated first?

    weights       prune by whole inputs; then thresholds, of what the pruned layers read
    activations   thresholds of the dense layers; then prune by inputs without the small ones, which is what will be read

Neither sees everything: in the first order scores count small inputs that will be skipped, in the second thresholds belong to
inputs that pruning changes. Wanda: Sun et al. 2024. Thresholds: Liu et al. 2024 (TEAL); here the plain quantile of magnitudes.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from sparsity_edu.weights import wanda

ORDERS = ("weights", "activations")


class Combined(NamedTuple):
    """Two pruned matrices, and the thresholds of their inputs."""

    W1: Tensor  # (inner, inputs)
    W2: Tensor  # (outputs, inner)
    t1: float
    t2: float


def magnitude_threshold(x: Tensor, level: float) -> float:
    """The k-th smallest magnitude, k = int(level * count): so many numbers do not exceed it.

    Args:
        x: numbers in any shape.
        level: share that is to go, in [0, 1).

    Returns:
        A magnitude; 0 if k is 0.

    Raises:
        ValueError: `level` is not in [0, 1).
    """
    if not 0 <= level < 1:
        raise ValueError(f"level must be in [0, 1), got {level}")
    k = int(level * x.numel())
    return x.abs().flatten().kthvalue(k).values.item() if k else 0.0


def without_small(x: Tensor, threshold: float) -> Tensor:
    """A copy with zeros for magnitudes up to a threshold."""
    return x.masked_fill(x.abs() <= threshold, 0.0)


def combine(W1: Tensor, W2: Tensor, X: Tensor, sparsity: float, level: float, first: str) -> Combined:
    """Prune both layers and find the thresholds of their inputs.

    Args:
        W1: (inner, inputs); not changed.
        W2: (outputs, inner); not changed.
        X: calibration inputs (tokens, inputs).
        sparsity: share of each output's weights that goes, in [0, 1).
        level: share of each layer's inputs that goes, in [0, 1).
        first: "weights" or "activations".

    Returns:
        New matrices of the dtypes of the given ones, and thresholds.

    Raises:
        ValueError: an argument is not allowed.
    """
    if first not in ORDERS:
        raise ValueError(f"first must be one of {', '.join(ORDERS)}, got {first!r}")
    X = X.float()

    def hidden(W: Tensor, x: Tensor) -> Tensor:
        return F.silu(x @ W.float().T)  # (tokens, inner)

    def pruned(W: Tensor, x: Tensor) -> Tensor:
        return wanda.prune(W, x.norm(dim=0), sparsity)

    if first == "weights":
        W1 = pruned(W1, X)
        H = hidden(W1, X)
        return Combined(W1, pruned(W2, H), magnitude_threshold(X, level), magnitude_threshold(H, level))
    t1, t2 = magnitude_threshold(X, level), magnitude_threshold(hidden(W1, X), level)
    X = without_small(X, t1)
    W1 = pruned(W1, X)
    return Combined(W1, pruned(W2, without_small(hidden(W1, X), t2)), t1, t2)
