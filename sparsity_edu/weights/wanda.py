"""Wanda: the size of a weight times the size of the input that it meets.

    score    s_ij = |W_ij| * |X_j|          |X_j|: l2 norm of input j over all tokens
    prune    keep the largest of each row (an output's weights compete with each other, nobody else)

No weight is changed. In SparseGPT's terms the Hessian is taken to be diagonal: W_ij^2 / [H^-1]_jj is then W_ij^2 |X_j|^2, the
square of this score. Sun et al. 2024, "A simple and effective pruning approach for large language models".
"""

import torch
from torch import Tensor

from sparsity_edu.patterns import n_m, parse_n_m, unstructured


class InputNorm:
    """The running norm of a layer's inputs: the mean over sequences of sum_x x_j^2, and its root.

    Source: the authors' `WrappedGPT`; dividing by the number of sequences changes no mask.
    """

    def __init__(self, cols: int, device: torch.device | str = "cpu") -> None:
        self.squares = torch.zeros(cols, device=device)  # (cols,) float32
        self.n = 0

    def add(self, X: Tensor) -> None:
        """Add inputs.

        Args:
            X: (sequences, tokens, cols), or (tokens, cols) for one sequence.
        """
        if X.ndim == 2:
            X = X[None]
        self.squares *= self.n / (self.n + len(X))  # a running average: batches may be of unequal size
        self.n += len(X)
        self.squares += X.detach().flatten(0, -2).float().norm(dim=0) ** 2 / self.n

    @property
    def norm(self) -> Tensor:
        """(cols,) float32."""
        return self.squares.sqrt()


def score(W: Tensor, norm: Tensor) -> Tensor:
    """Importance of each weight, |W_ij| * |X_j|.

    Args:
        W: (rows, cols) weights.
        norm: (cols,) norm of each input.

    Returns:
        (rows, cols) float32.

    Raises:
        ValueError: the shapes do not fit.

    Source: Sun et al. 2024, eq. 1.
    """
    if W.ndim != 2 or norm.shape != W.shape[1:]:
        raise ValueError(f"W must be (rows, cols) and norm (cols,), got shapes {tuple(W.shape)} and {tuple(norm.shape)}")
    return W.detach().float().abs() * norm


def prune(
    W: Tensor,
    norm: Tensor,
    sparsity: float | None = None,
    pattern: str | None = None,
    *,
    per: str = "row",
    variant: bool = False,
) -> Tensor:
    """Prune one matrix.

    Args:
        W: (rows, cols) weights; not changed.
        norm: (cols,) norm of each input, as `InputNorm` collects it.
        sparsity: fraction to remove, in [0, 1); left out for a pattern.
        pattern: "n:m", n of every m neighbours in a row stay; left out for a sparsity.
        per: "row", exactly int(sparsity * cols) of each row go, or "layer", for comparison.
        variant: rows of unequal sparsity instead, see `variant_mask`.

    Returns:
        A copy of `W` with exact zeros.

    Raises:
        ValueError: an argument is not allowed.

    Source: Sun et al. 2024, algorithm 1.
    """
    if (sparsity is None) == (pattern is None):
        raise ValueError(f"give either sparsity or pattern, got sparsity {sparsity} and pattern {pattern}")
    s = score(W, norm)
    if pattern is not None:
        mask = n_m(s, *parse_n_m(pattern))
    elif variant:
        mask = variant_mask(s, sparsity)
    else:
        mask = unstructured(s, sparsity, per)
    return W.detach().masked_fill(~mask, 0)


def variant_mask(score: Tensor, sparsity: float, tolerance: float = 1e-3) -> Tensor:
    """The paper's variant: every row gives up the same share of its total score, found by bisection.

    A row whose scores are unequal has many small ones and loses more of them.

    Args:
        score: (rows, cols).
        sparsity: fraction of the whole matrix to remove, in (0, 1).
        tolerance: how far off the result may be; also the last width of the bisection.

    Returns:
        Boolean mask (rows, cols), True = kept.

    Raises:
        ValueError: `sparsity` is not in (0, 1).

    Source: the authors' code, `--use_variant`: shares from 0 to 0.8, beginning with 0.4.
    """
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity must be in (0, 1) for the variant, got {sparsity}")
    ascending = score.sort(dim=1).values
    share = ascending.cumsum(dim=1) / score.sum(dim=1, keepdim=True)  # (rows, cols): what goes with the k smallest
    low, alpha, high = 0.0, 0.4, 0.8
    while True:
        last = (share <= alpha).sum(dim=1, keepdim=True).clamp(min=1) - 1  # (rows, 1): the largest that goes
        mask = score > ascending.gather(1, last)
        reached = float((~mask).float().mean())
        if abs(reached - sparsity) <= tolerance or high - low < tolerance:
            return mask
        low, high = (low, alpha) if reached > sparsity else (alpha, high)
        alpha = (low + high) / 2
