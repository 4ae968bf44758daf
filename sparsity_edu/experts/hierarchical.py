"""A two-level mixture, trained by EM: a gate chooses a branch, the branch's gate a leaf, and a leaf is a linear model.

    p(y | x) = sum_i g_i(x) sum_j g_j|i(x) N(y; U_ij x, s_ij)        g = softmax(V x), x with a constant 1 at its end

    E-step    h_ij = g_i g_j|i N(y; U_ij x, s_ij) / sum of all       how likely it is that leaf ij made y
    M-step    leaves     least squares, weighted with h_ij; s_ij is the weighted mean square of what is left
              gates      softmax regression on h: V towards sum_j h_ij, V_i towards h_ij / h_i, weighted with h_i

There is no step size, and the log-likelihood never falls.

Jordan and Jacobs 1994, "Hierarchical mixtures of experts and the EM algorithm".
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_VARIANCE = 1e-6  # of a leaf: with a single sample the likelihood would have no maximum
NEWTON_STEPS, HALVINGS = 5, 20


class Tree(NamedTuple):
    """The parameters of I branches with J leaves each; `inputs` counts the constant 1. All float64."""

    top: Tensor  # V (I, inputs)
    lower: Tensor  # V_i (I, J, inputs)
    leaves: Tensor  # U_ij (I, J, out, inputs)
    variance: Tensor  # s_ij (I, J), the same for each output


def with_constant(x: Tensor) -> Tensor:
    """(samples, inputs - 1) -> (samples, inputs), float64: a constant 1 at the end."""
    return torch.cat([x.double(), x.new_ones(len(x), 1, dtype=torch.float64)], dim=1)


def start(x: Tensor, y: Tensor, branches: int, leaves: int, generator: torch.Generator) -> Tree:
    """A tree to begin with: leaves near the linear fit of all samples, and gates at random.

    Args:
        x: (samples, inputs), with the constant, each of the order of 1.
        y: (samples, out).
        branches: I.
        leaves: J, of each branch.
        generator: of what tells them apart.

    Returns:
        The tree.

    Raises:
        ValueError: there are no branches or leaves, or x and y do not fit.
    """
    if min(branches, leaves) < 1:
        raise ValueError(f"branches and leaves must be at least 1, got {branches} and {leaves}")
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"x must be (samples, inputs) and y (samples, out), got {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = x.double(), y.double()

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    fit = torch.linalg.lstsq(x, y, driver="gelsd").solution.T  # (out, inputs)
    spread = (y - x @ fit.T).square().mean().clamp(min=LEAST_VARIANCE)
    return Tree(
        noise(branches, x.shape[1]),
        noise(branches, leaves, x.shape[1]),
        fit + spread.sqrt() * noise(branches, leaves, *fit.shape),
        spread.expand(branches, leaves).clone(),
    )


def log_joint(tree: Tree, x: Tensor, y: Tensor) -> Tensor:
    """log (g_i g_j|i N(y; U_ij x, s_ij)).

    Args:
        tree: the parameters.
        x: (samples, inputs), with the constant.
        y: (samples, out).

    Returns:
        (samples, I, J).
    """
    x, y = x.double(), y.double()
    top = (x @ tree.top.T).log_softmax(dim=-1)  # (samples, I)
    lower = torch.einsum("sn,ijn->sij", x, tree.lower).log_softmax(dim=-1)
    error = (y[:, None, None] - torch.einsum("sn,ijon->sijo", x, tree.leaves)).square().sum(dim=-1)  # (samples, I, J)
    normal = -error / (2 * tree.variance) - y.shape[1] / 2 * (2 * math.pi * tree.variance).log()
    return top[:, :, None] + lower + normal


def log_likelihood(tree: Tree, x: Tensor, y: Tensor) -> Tensor:
    """The log-likelihood of all samples together, a scalar; arguments as in `log_joint`.

    Source: Jordan and Jacobs 1994, eq. 10.
    """
    return log_joint(tree, x, y).flatten(1).logsumexp(dim=1).sum()


def e_step(tree: Tree, x: Tensor, y: Tensor) -> Tensor:
    """The posterior probabilities h_ij of the leaves, given input and target; arguments as in `log_joint`.

    Returns:
        (samples, I, J), sums to 1 over the leaves of all branches.

    Source: Jordan and Jacobs 1994, eq. 6 to 8.
    """
    joint = log_joint(tree, x, y)
    return joint.flatten(1).softmax(dim=1).view_as(joint)


def m_step(tree: Tree, x: Tensor, y: Tensor, h: Tensor) -> Tree:
    """The parameters that make what is expected most likely.

    Args:
        tree: where the gates' regressions begin.
        x: (samples, inputs), with the constant.
        y: (samples, out).
        h: (samples, I, J), from `e_step`.

    Returns:
        A new tree. Leaves are exact maxima; gates are improved by a few Newton steps, of which none makes them worse, and that
        is all that the log-likelihood needs not to fall (generalised EM).

    Source: Jordan and Jacobs 1994, eq. 21 to 23.
    """
    x, y = x.double(), y.double()
    top = softmax_regression(tree.top, x, h.sum(dim=2))
    lower = torch.stack([softmax_regression(V, x, h[:, i]) for i, V in enumerate(tree.lower)])
    leaves, variance = torch.empty_like(tree.leaves), tree.variance.clone()
    for i, j in torch.cartesian_prod(*map(torch.arange, tree.variance.shape)).view(-1, 2).tolist():
        root = h[:, i, j].sqrt()[:, None]  # (samples, 1)
        U = torch.linalg.lstsq(root * x, root * y, driver="gelsd").solution  # (inputs, out); gelsd: fewer samples than inputs
        leaves[i, j] = U.T
        weight = h[:, i, j].sum() * y.shape[1]
        if weight > 0:
            variance[i, j] = (root * (y - x @ U)).square().sum() / weight
    return Tree(top, lower, leaves, variance.clamp(min=LEAST_VARIANCE))


def softmax_regression(V: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """Improve a gate by Newton's method: maximise sum_s sum_i h_si log g_i(x_s), which is concave in V.

    Args:
        V: (I, inputs), where to begin; not changed.
        x: (samples, inputs).
        h: (samples, I), at least 0: what g should be, times how much a sample counts.

    Returns:
        (I, inputs), never worse than V: a step that is too long is halved until it helps, or not taken.

    Source: iteratively reweighted least squares, Jordan and Jacobs 1994, appendix A.
    """
    n_classes, inputs = V.shape
    weight = h.sum(dim=1)  # (samples,)

    def objective(V: Tensor) -> Tensor:
        return (h * (x @ V.T).log_softmax(dim=1)).sum()

    now = objective(V)
    for _ in range(NEWTON_STEPS):
        g = (x @ V.T).softmax(dim=1)  # (samples, I)
        gradient = ((h - weight[:, None] * g).T @ x).flatten()  # (I * inputs,)
        curvature = torch.diag_embed(g) - g[:, :, None] * g[:, None]  # (samples, I, I): g_i (delta_ij - g_j)
        H = torch.einsum("s,sij,sn,sm->injm", weight, curvature, x, x).reshape(n_classes * inputs, -1)
        # A constant added to all rows of V changes nothing: H is singular, and the smallest step is taken
        step = torch.linalg.lstsq(H, gradient[:, None], driver="gelsd").solution.view_as(V)
        for _ in range(HALVINGS):
            if objective(V + step) > now:
                break
            step = step / 2
        else:
            return V
        V = V + step
        now = objective(V)
    return V


def fit(tree: Tree, x: Tensor, y: Tensor, steps: int) -> tuple[Tree, list[float]]:
    """Train by EM.

    Args:
        tree: where to begin, see `start`.
        x: (samples, inputs), with the constant.
        y: (samples, out).
        steps: how many times E and M.

    Returns:
        The tree, and the log-likelihood before each step and after the last.
    """
    curve = [log_likelihood(tree, x, y).item()]
    for _ in range(steps):
        tree = m_step(tree, x, y, e_step(tree, x, y))
        curve.append(log_likelihood(tree, x, y).item())
    return tree, curve


def predict(tree: Tree, x: Tensor) -> Tensor:
    """The mean of y given x.

    Args:
        tree: the parameters.
        x: (samples, inputs), with the constant.

    Returns:
        (samples, out).
    """
    x = x.double()
    top = (x @ tree.top.T).softmax(dim=-1)
    lower = torch.einsum("sn,ijn->sij", x, tree.lower).softmax(dim=-1)
    return torch.einsum("si,sij,sn,ijon->so", top, lower, x, tree.leaves)
