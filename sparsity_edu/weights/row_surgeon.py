"""Optimal Brain Surgeon for the rows of a linear layer: exact, and the measure of what SparseGPT gives up for speed.

The output error of a row is a quadratic function of its weights, with the same Hessian for all rows, H = X X^T. So OBS needs no
approximation here; but every row loses its weights in another order, hence needs an inverse of its own: rows * cols^3
operations, where SparseGPT needs cols^3.

Frantar and Alistarh 2022, "Optimal brain compression".
"""

import math

import torch
from torch import Tensor


def prune_rows(
    W: Tensor, H: Tensor, sparsity: float, *, damping: float = 0.01, per: str = "layer", rows_at_once: int = 64
) -> Tensor:
    """Exact OBS of a linear layer: each row is a problem of its own with the same Hessian, solved greedily.

    Of a quadratic function the surgeon's steps one after another lead to the same place as all removals at once,
    dw = -H^-1[:, S] (H^-1[S, S])^-1 w_S. So the order is found first, and each row is solved for once.

    Args:
        W: (rows, cols) weights; not changed.
        H: (cols, cols) Hessian of the inputs, see `sparsegpt.Hessian`.
        sparsity: fraction to remove, in [0, 1).
        damping: added to H's diagonal, as a fraction of its mean.
        per: "row", int(sparsity * cols) of each row; or "layer", the ceil(sparsity * rows * cols) cheapest removals of all
            rows, whose numbers differ (the authors' choice).
        rows_at_once: each needs cols^2 numbers in float64.

    Returns:
        (rows, cols), dtype of `W`, with exact zeros.

    Raises:
        ValueError: an argument is not allowed, or the damped H is not positive definite.

    Source: Frantar and Alistarh 2022, algorithm 1 and sec. 4 ("step 2: global").
    """
    rows, cols = W.shape
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    if per not in ("row", "layer"):
        raise ValueError(f'per must be "row" or "layer", got {per!r}')
    H = H.double()
    dead = H.diagonal() == 0
    H = H + torch.diag(damping * H.diagonal().mean() + dead.double())
    L, failed = torch.linalg.cholesky_ex(H)
    if failed:
        raise ValueError(f"H is not positive definite with damping {damping:g}: use more inputs or a larger damping")
    Hinv = torch.cholesky_inverse(L)
    w = W.detach().double().masked_fill(dead, 0)
    parts = [_removal_order(part, Hinv) for part in w.split(rows_at_once)]
    order, costs = (torch.cat(part) for part in zip(*parts, strict=True))  # (rows, cols) each
    counts = torch.full((rows,), int(sparsity * cols))
    if per == "layer":
        cheapest = costs.flatten().argsort(stable=True)[: math.ceil(sparsity * rows * cols)]
        counts = torch.bincount(cheapest // cols, minlength=rows)
    for i in range(rows):
        S = order[i, : counts[i]]
        w[i] -= Hinv[:, S] @ torch.linalg.solve(Hinv[S[:, None], S], w[i, S])
        w[i, S] = 0
    return w.to(W.dtype)


def _removal_order(w: Tensor, Hinv: Tensor) -> tuple[Tensor, Tensor]:
    """In which order each row loses all its weights, and what each removal costs; both (rows, cols)."""
    w, Hinv = w.clone(), Hinv.expand(len(w), -1, -1).clone()  # (rows, cols), (rows, cols, cols)
    row, alive = torch.arange(len(w)), torch.ones_like(w, dtype=torch.bool)
    order, costs = [], []
    for _ in range(w.shape[1]):
        d = Hinv.diagonal(dim1=1, dim2=2)  # (rows, cols)
        saliency = (w.square() / d / 2).masked_fill(~alive, math.inf)
        q = saliency.argmin(dim=1)  # (rows,)
        order.append(q)
        costs.append(saliency[row, q])
        column, pivot = Hinv[row, :, q], d[row, q][:, None]  # (rows, cols), (rows, 1)
        w -= w[row, q][:, None] / pivot * column
        Hinv -= (column / pivot)[:, :, None] * column[:, None, :]
        alive[row, q] = False
    return torch.stack(order, dim=1), torch.stack(costs, dim=1)
