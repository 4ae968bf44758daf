"""SparseGPT: Optimal Brain Surgeon for a whole layer, with one inverse Hessian shared by all rows.

The output error of a linear layer is a quadratic function of its weights, row by row, and its Hessian depends on the inputs
alone:

    |w X - (w + dw) X|^2 = dw (X X^T) dw^T        H = X X^T, the same for every row of W

OBS would remove weights in a different order in each row, and so need a different inverse for each. SparseGPT goes through the
columns from left to right in all rows at once; a removed weight is made up for by the weights to its right only. What it needs
at column j is then the inverse of H[j:, j:], whatever was removed before, and one Cholesky factorisation holds all of these:

    H^-1 = U^T U, U upper triangular     =>     U[j, j:] / U[j, j] = row 1 of (H[j:, j:])^-1 / its first entry
                                                U[j, j]^2          = the first entry of (H[j:, j:])^-1

    score of a weight     s_ij = W_ij^2 / U_jj^2            (OBS: w_q^2 / [H^-1]_qq)
    removing it           W[i, j:] -= W_ij / U_jj * U[j, j:]

Frantar and Alistarh 2023, "SparseGPT: Massive language models can be accurately pruned in one-shot", algorithm 1; results equal
those of the authors' code, whose conventions are named below.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sparsity_edu.patterns import drop_smallest, parse_n_m, prune_count

BLOCK_SIZE = 128  # columns whose mask is chosen together, and after which the rest of the matrix is brought up to date
DAMPING = 0.01  # of the mean of the Hessian's diagonal


class Hessian:
    """The running Hessian of a layer's inputs, H = 2/n sum_x x x^T, with n counting sequences.

    The factor and the average change no mask (every score is scaled alike); they keep the entries of the order of one however
    much text is read.
    """

    def __init__(self, cols: int, device: torch.device | str = "cpu") -> None:
        self.H = torch.zeros(cols, cols, device=device)  # (cols, cols) float32
        self.n = 0

    def add(self, X: Tensor) -> None:
        """Add inputs.

        Args:
            X: (sequences, tokens, cols), or (tokens, cols) for one sequence.
        """
        if X.ndim == 2:
            X = X[None]
        self.H *= self.n / (self.n + len(X))  # a running average: batches may be of unequal size
        self.n += len(X)
        x = (2 / self.n) ** 0.5 * X.detach().flatten(0, -2).T.float()  # (cols, all tokens)
        self.H += x @ x.T  # exactly the authors' operations: the inverse makes much of a rounding error


def inverse_factor(H: Tensor, damping: float = DAMPING) -> Tensor:
    """The upper Cholesky factor of the inverse Hessian: everything that pruning needs to know of the inputs.

    Args:
        H: (cols, cols) Hessian of the inputs, symmetric.
        damping: added to the diagonal, as a fraction of its mean; >= 0.

    Returns:
        U (cols, cols), upper triangular with positive diagonal: (H + damping)^-1 = U^T U. A dead input, one that was always 0,
        gets a 1 on H's diagonal (before the mean is taken, as in the authors' code).

    Raises:
        ValueError: `H` is no square matrix or holds a NaN, `damping` is negative, or the damped H is not positive definite.

    Source: SparseGPT, sec. 3.3 and the authors' `fasterprune`.
    """
    if H.ndim != 2 or H.shape[0] != H.shape[1]:
        raise ValueError(f"H must be square, got shape {tuple(H.shape)}")
    if not H.isfinite().all():
        raise ValueError("H must be finite, got a NaN or an infinity: look at the calibration inputs")
    if not damping >= 0:
        raise ValueError(f"damping must be at least 0, got {damping}")
    H = H.clone()
    diagonal = H.diagonal()  # a view
    diagonal[diagonal == 0] = 1
    diagonal += damping * torch.diag(H).mean()  # of a copy: the sum over a view is rounded otherwise
    L, failed = torch.linalg.cholesky_ex(H)
    if not failed:
        U, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(L), upper=True)
    if failed:
        raise ValueError(
            f"the Hessian of {len(H)} inputs is not positive definite with damping {damping:g}: use more calibration tokens, "
            f"or a larger damping, such as {max(10 * damping, DAMPING):g}"
        )
    return U


def prune(
    W: Tensor,
    H: Tensor,
    sparsity: float | None = None,
    pattern: str | None = None,
    *,
    damping: float = DAMPING,
    block_size: int = BLOCK_SIZE,
    count: str = "published",
) -> Tensor:
    """Prune one matrix.

    Args:
        W: (rows, cols) weights; not changed.
        H: (cols, cols) Hessian of the inputs, as `Hessian` collects it.
        sparsity: fraction to remove, in [0, 1); left out for a pattern.
        pattern: "n:m", n of every m neighbours in a row stay; left out for a sparsity.
        damping: see `inverse_factor`.
        block_size: columns that compete with each other, all rows together; for n:m without influence on the result.
        count: of n weights in a block, "exact" removes int(sparsity * n) and "published" one more: the authors' code removes
            all scores up to and including the one at that index.

    Returns:
        (rows, cols), dtype of `W`: exact zeros, and the remaining weights changed to make up for them.

    Raises:
        ValueError: an argument is not allowed, or as in `inverse_factor`.

    Source: SparseGPT, algorithm 1.
    """
    if W.ndim != 2 or H.shape != (W.shape[1], W.shape[1]):
        raise ValueError(f"W must be (rows, cols) and H (cols, cols), got shapes {tuple(W.shape)} and {tuple(H.shape)}")
    dead = H.diagonal() == 0
    [pruned] = prune_together([W], inverse_factor(H, damping), dead, sparsity, pattern, block_size=block_size, count=count)
    return pruned


@torch.no_grad()
def prune_together(
    Ws: list[Tensor],
    U: Tensor,
    dead: Tensor,
    sparsity: float | None = None,
    pattern: str | None = None,
    *,
    block_size: int = BLOCK_SIZE,
    count: str = "published",
) -> list[Tensor]:
    """Prune matrices that read the same inputs, such as those of queries, keys and values: each as `prune` would.

    Args:
        Ws: (rows, cols) each, with as many columns; not changed.
        U: (cols, cols), from `inverse_factor`.
        dead: (cols,) boolean, True where an input was always 0; such weights become 0.
        sparsity, pattern, block_size, count: see `prune`.

    Returns:
        The pruned matrices.

    Raises:
        ValueError: an argument is not allowed.
    """
    choose, m = _chooser([len(W) for W in Ws], sparsity, pattern, count)
    if block_size < m:
        raise ValueError(f"block_size must be at least {m}, got {block_size}")
    cols = U.shape[0]
    if cols % m:
        raise ValueError(f"the number of columns must be a multiple of m = {m}, got {cols}")
    block = block_size - block_size % m  # groups of m are never cut
    # One row per column of the matrices, so that what a step reads and writes lies side by side. The arithmetic is the authors'
    # to the bit: over a whole model, one weight that falls on the other side of a threshold changes many after it.
    T = torch.cat([W.detach().float() for W in Ws]).T.contiguous()  # (cols, all rows)
    T[dead] = 0
    d = U.diagonal()  # (cols,)
    for start in range(0, cols, block):
        stop = min(start + block, cols)
        B, V = T[start:stop], U[start:stop, start:stop]  # this block's weights, a view, and its part of U
        E = torch.empty_like(B)  # (block, all rows): weight / U_jj where it goes, 0 where it stays
        gone = torch.empty_like(B)  # (block, all rows): 1 where a weight goes, 0 where it stays
        if m == 1:
            gone[:] = ~choose(B**2 / d[start:stop, None] ** 2)  # once for the block, before its own updates
        for j in range(stop - start):
            if m > 1 and j % m == 0:  # from weights that already make up for all groups to the left
                gone[j : j + m] = ~choose(B[j : j + m] ** 2 / d[start + j : start + j + m, None] ** 2)
            torch.div(B[j], V[j, j], out=E[j]).mul_(gone[j])
            B[j:] -= torch.outer(V[j, j:], E[j])  # W[i, j:] -= E_ij U[j, j:], to the end of the block
        B.masked_fill_(gone.bool(), 0)  # exactly
        T[stop:].addmm_(U[start:stop, stop:].T, E, alpha=-1)  # the rest of the matrix, for the block at once
    return [part.T.to(W.dtype) for part, W in zip(T.split([len(W) for W in Ws], dim=1), Ws, strict=True)]


def _chooser(
    rows: list[int], sparsity: float | None, pattern: str | None, count: str
) -> tuple[Callable[[Tensor], Tensor], int]:
    """What decides who stays, from scores (columns that compete, all rows); and m, or 1 if whole blocks compete."""
    if (sparsity is None) == (pattern is None):
        raise ValueError(f"give either sparsity or pattern, got sparsity {sparsity} and pattern {pattern}")
    if count not in ("published", "exact"):
        raise ValueError(f'count must be "published" or "exact", got {count!r}')
    if pattern is not None:
        n, m = parse_n_m(pattern)

        def choose(score: Tensor) -> Tensor:
            smallest = score.topk(m - n, dim=0, largest=False).indices  # (m - n, all rows)
            return torch.ones_like(score, dtype=torch.bool).scatter_(0, smallest, False)

        return choose, m
    prune_count(1, sparsity)  # refuses what is no sparsity

    def choose(score: Tensor) -> Tensor:
        return torch.cat([_largest(part, sparsity, count) for part in score.split(rows, dim=1)], dim=1)

    return choose, 1


def _largest(score: Tensor, sparsity: float, count: str) -> Tensor:
    flat = score.flatten()
    dropped = prune_count(len(flat), sparsity)
    if count == "exact":
        return drop_smallest(flat, dropped).view_as(score)
    # numpy's partition finds the same entry several times faster than torch's kthvalue, on a CPU
    threshold = flat.kthvalue(dropped + 1).values if flat.is_cuda else float(np.partition(flat.numpy(), dropped)[dropped])
    return score > threshold
