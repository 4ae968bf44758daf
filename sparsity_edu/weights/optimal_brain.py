"""Optimal Brain Damage and Optimal Brain Surgeon: ask the loss which weight to remove.

Around a minimum the gradient vanishes, and the loss changes by

    dE = 1/2 dw^T H dw                          H: Hessian of the loss, (d, d) for d weights

    OBD   take H to be diagonal, delete, change nothing else     dE_q = 1/2 h_qq w_q^2
    OBS   w_q must become 0, all others may follow               dw   = - w_q / [H^-1]_qq * H^-1[:, q]
                                                                 dE_q = 1/2 w_q^2 / [H^-1]_qq

The half belongs to both: slides and code that leave it out rank the weights alike but report twice the loss. E is the mean over
the samples of a loss of one output and one target; what H is, and how it is had: `curvature`.

LeCun, Denker and Solla 1990, "Optimal brain damage"; Hassibi and Stork 1993, "Second order derivatives for network pruning:
optimal brain surgeon".
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sparsity_edu.weights.curvature import DIAGONALS, Loss, gauss_newton_vectors, half_squared_error

# Optimal Brain Damage


def damage_saliency(w: Tensor, h: Tensor) -> Tensor:
    """What the loss is expected to rise by if a weight is deleted and nothing else changes, 1/2 h_qq w_q^2.

    Args:
        w: (d,) weights.
        h: (d,) diagonal of the Hessian, one of `DIAGONALS`.

    Returns:
        (d,); negative where `h` is.

    Source: LeCun et al. 1990, sec. 2.2, step 4.
    """
    return h * w.square() / 2


def damage(w: Tensor, h: Tensor, count: int) -> Tensor:
    """Delete the weights of smallest saliency.

    Args:
        w: (d,) weights; not changed. Those that are 0 already are counted among the `count`: they cost nothing.
        h: (d,) diagonal of the Hessian.
        count: weights that are 0 afterwards, in [0, d].

    Returns:
        (d,).

    Raises:
        ValueError: `count` is out of range.
    """
    if not 0 <= count <= len(w):
        raise ValueError(f"count must be in [0, {len(w)}], got {count}")
    saliency = damage_saliency(w, h).masked_fill(w == 0, -math.inf)
    return w.index_fill(0, saliency.argsort(stable=True)[:count], 0)


# Optimal Brain Surgeon


def inverse_hessian(g: Tensor, samples: int | None = None, alpha: float = 1e-6) -> Tensor:
    """The inverse of H = alpha I + 1/P sum_k g_k g_k^T, one sample at a time, without ever inverting a matrix.

        H^-1_0 = 1/alpha I        H^-1_k = H^-1_{k-1} - (H^-1_{k-1} g_k)(H^-1_{k-1} g_k)^T / (P + g_k^T H^-1_{k-1} g_k)

    Args:
        g: (n, d) vectors: `gauss_newton_vectors`, or `gradients`.
        samples: P; n if left out. (A sample of several outputs has several vectors.)
        alpha: > 0; the paper takes 1e-8 to 1e-4. Small ones need the float64 that is used here: in float32 the first steps
            cancel nearly all of 1/alpha.

    Returns:
        (d, d) float64, symmetric.

    Raises:
        ValueError: `alpha` or `samples` is not positive, or `g` holds a NaN.

    Source: Hassibi and Stork 1993, eq. 14 to 17 (the Woodbury identity).
    """
    P = len(g) if samples is None else samples
    if not alpha > 0 or not P > 0:
        raise ValueError(f"alpha and samples must be positive, got alpha {alpha} and {P} samples")
    if not g.isfinite().all():
        raise ValueError("g must be finite, got a NaN or an infinity")
    Hinv = torch.eye(g.shape[1], dtype=torch.float64, device=g.device) / alpha
    for g_k in g.double():
        v = Hinv @ g_k  # (d,)
        Hinv.addr_(v, v / (P + g_k @ v), alpha=-1)
    return Hinv


def surgeon_saliency(w: Tensor, Hinv: Tensor) -> Tensor:
    """What the loss is expected to rise by if a weight is deleted and all others make up for it, 1/2 w_q^2 / [H^-1]_qq.

    Args:
        w: (d,) weights.
        Hinv: (d, d) inverse Hessian.

    Returns:
        (d,).

    Source: Hassibi and Stork 1993, eq. 5.
    """
    return w.square() / Hinv.diagonal() / 2


def surgeon_step(w: Tensor, Hinv: Tensor, q: int) -> Tensor:
    """Delete weight q and move all others, w - w_q / [H^-1]_qq H^-1[:, q].

    Args:
        w: (d,) weights; not changed.
        Hinv: (d, d) inverse Hessian.
        q: which.

    Returns:
        (d,), exactly 0 at q.

    Source: Hassibi and Stork 1993, eq. 5.
    """
    w = w - w[q] / Hinv[q, q] * Hinv[:, q]
    w[q] = 0
    return w


def downdate(Hinv: Tensor, q: int) -> Tensor:
    """The inverse of the Hessian without weight q, from the inverse with it.

        H^-1 - H^-1[:, q] H^-1[q, :] / [H^-1]_qq

    Args:
        Hinv: (d, d) inverse Hessian; not changed.
        q: the weight that is gone.

    Returns:
        (d, d), exactly 0 in row and column q: this weight moves no more.

    Source: one step of Gaussian elimination; Frantar and Alistarh 2022, lemma 1.
    """
    Hinv = Hinv - torch.outer(Hinv[:, q], Hinv[q] / Hinv[q, q])
    Hinv[q, :] = Hinv[:, q] = 0
    return Hinv


class Surgery(NamedTuple):
    """What a surgeon did."""

    w: Tensor  # (d,) float64 weights afterwards
    removed: list[int]  # in this order
    increases: list[float]  # of the loss, as expected, by each removal


def surgeon(
    w: Tensor, Hinv: Tensor, count: int | None = None, max_increase: float | None = None, alive: Tensor | None = None
) -> Surgery:
    """Remove weights one by one, always the one that costs least, and let the others make up for it.

    Args:
        w: (d,) weights; not changed.
        Hinv: (d, d) inverse Hessian.
        count: how many to remove; all of them if left out.
        max_increase: stop before the expected increases add up to more than this.
        alive: (d,) boolean, False where a weight must not be chosen: removed before, or not to be pruned; all if left out. Of
            those removed before, `Hinv` must hold zeros, see `downdate`.

    Returns:
        The weights, the order, and the costs.

    Raises:
        ValueError: neither `count` nor `max_increase` is given, or there are fewer than `count` weights.
    """
    w, Hinv = w.double().clone(), Hinv.double()
    alive = torch.ones(len(w), dtype=torch.bool, device=w.device) if alive is None else alive.clone()
    if count is None and max_increase is None:
        raise ValueError("give count, max_increase, or both")
    if count is not None and not 0 <= count <= int(alive.sum()):
        raise ValueError(f"count must be in [0, {int(alive.sum())}], got {count}")
    removed, increases = [], []
    for _ in range(int(alive.sum()) if count is None else count):
        saliency = surgeon_saliency(w, Hinv).masked_fill(~alive, math.inf)  # (d,); 0 / 0 where a weight is gone
        q = int(saliency.argmin())
        if max_increase is not None and sum(increases) + float(saliency[q]) > max_increase:
            break
        w, Hinv = surgeon_step(w, Hinv, q), downdate(Hinv, q)
        alive[q] = False
        removed.append(q)
        increases.append(float(saliency[q]))
    return Surgery(w, removed, increases)


# On a model


@torch.no_grad()
def prune_(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Loss = half_squared_error,
    method: str = "obs",
    *,
    count: int | None = None,
    max_increase: float | None = None,
    diagonal: str = "gauss-newton",
    alpha: float = 1e-6,
    refresh: int | None = None,
) -> Surgery:
    """Remove parameters of a small model, in place, until enough are gone or the loss would rise too much.

    Parameters that are 0 when it begins are taken to be removed before, and stay so.

    Args:
        model: any module; all its parameters are candidates, biases too, as in both papers. OBS needs d^2 numbers and, for all
            weights, d^3 operations: a few thousand parameters.
        x: (P, ...) training inputs.
        y: (P, ...) targets.
        loss: of one sample.
        method: "obs", "obd", or "magnitude" (which costs nothing and expects nothing: its increases are those of OBD).
        count: how many to remove.
        max_increase: stop before the expected increases of the loss add up to more than this.
        diagonal: OBD's curvature, one of `DIAGONALS`.
        alpha: OBS's damping, see `inverse_hessian`.
        refresh: after how many removals the curvature is computed anew; never if left out.

    Returns:
        What was done; `removed` are positions in the vector of all parameters.

    Raises:
        ValueError: an argument is not allowed.
    """
    if method not in ("obs", "obd", "magnitude"):
        raise ValueError(f'method must be "obs", "obd" or "magnitude", got {method!r}')
    if diagonal not in DIAGONALS:
        raise ValueError(f"diagonal must be one of {', '.join(DIAGONALS)}, got {diagonal!r}")
    if count is None and max_increase is None:
        raise ValueError("give count, max_increase, or both")
    removed: list[int] = []
    increases: list[float] = []
    w = parameters_to_vector(model.parameters()).double()
    alive = w != 0
    left = int(alive.sum()) if count is None else count
    if left > int(alive.sum()):
        raise ValueError(f"count must be at most {int(alive.sum())}, the parameters that are not 0, got {count}")
    while left:
        part = min(left, refresh or left)
        budget = None if max_increase is None else max_increase - sum(increases)
        if method == "obs":
            Hinv = _inverse_of_living(gauss_newton_vectors(model, x, y, loss), len(x), alpha, alive)
            done = surgeon(w, Hinv, part, budget, alive)
        else:
            saliency = damage_saliency(w, DIAGONALS[diagonal](model, x, y, loss).double())
            done = _delete(w, saliency, w.abs() if method == "magnitude" else saliency, part, budget, alive)
        w = done.w
        removed += done.removed
        increases += done.increases
        alive[done.removed] = False
        vector_to_parameters(w.to(next(model.parameters()).dtype), model.parameters())
        if len(done.removed) < part:
            break
        left -= part
    return Surgery(w, removed, increases)


def _delete(w: Tensor, cost: Tensor, rank: Tensor, count: int, budget: float | None, alive: Tensor) -> Surgery:
    order = rank.masked_fill(~alive, math.inf).argsort(stable=True)[:count]
    within = cost[order].cumsum(0) <= (math.inf if budget is None else budget)
    order = order[: int(within.cumprod(0).sum())]
    return Surgery(w.index_fill(0, order, 0), order.tolist(), cost[order].tolist())


def _inverse_of_living(g: Tensor, samples: int, alpha: float, alive: Tensor) -> Tensor:
    Hinv = torch.zeros(len(alive), len(alive), dtype=torch.float64, device=g.device)
    Hinv[alive[:, None] & alive] = inverse_hessian(g[:, alive], samples, alpha).flatten()
    return Hinv
