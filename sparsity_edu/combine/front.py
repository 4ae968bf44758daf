"""The Pareto front: what is worth considering among points of cost and loss.

A point dominates another one if it is at most as costly and at most as lossy, and better in one of both. The rest is the front.
"""

import torch
from torch import Tensor


def dominated(costs: Tensor, losses: Tensor) -> Tensor:
    """Which points another one dominates.

    Args:
        costs: (points,).
        losses: (points,).

    Returns:
        Boolean (points,). A NaN compares with nothing: such a point neither dominates nor is dominated.
    """
    no_worse = (costs[:, None] <= costs) & (losses[:, None] <= losses)  # (points, points): row than column
    better = (costs[:, None] < costs) | (losses[:, None] < losses)
    return (no_worse & better).any(dim=0)


def front(costs: Tensor, losses: Tensor) -> Tensor:
    """The points that no other dominates.

    Args:
        costs: (points,), of any dtype; infinity is a number.
        losses: (points,) likewise.

    Returns:
        int64 indices, by rising cost, equal costs by index. Points that are equal in both are all there; NaN is not.

    Raises:
        ValueError: shapes are not (points,), or not alike.
    """
    if costs.ndim != 1 or costs.shape != losses.shape:
        raise ValueError(f"costs and losses must be (points,), got shapes {tuple(costs.shape)} and {tuple(losses.shape)}")
    on_it = ~(dominated(costs, losses) | torch.isnan(costs) | torch.isnan(losses))
    index = on_it.nonzero().flatten()
    return index[costs[index].argsort(stable=True)]
