"""SparseGPT by its definition, slowly: an inverse of its own for every column, in float64. It is what answers are compared with.

No Cholesky factor, no lazy updates and nothing of the reference library: an independent formula.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Walk(NamedTuple):
    """What becomes of a matrix whose columns are pruned from left to right."""

    pruned: Tensor  # (rows, cols)
    errors: Tensor  # (rows, cols): weight / sqrt of the inverse's first entry where it goes, 0 where it stays
    gap: float  # the closest decision: how much larger the smallest score that stayed is, as a share


def hessian(batches: list[Tensor]) -> Tensor:
    """2/n sum_x x x^T over batches (sequences, tokens, cols) or (tokens, cols), n counting sequences; float64."""
    sequences = [sequence for X in batches for sequence in (X if X.ndim == 3 else X[None]).double()]
    return 2 / len(sequences) * sum(x.T @ x for x in sequences)


def damped(H: Tensor, damping: float) -> Tensor:
    """H with a 1 for each dead input, then `damping` times the mean of its diagonal added to the diagonal; float64."""
    H = H.double() + torch.diag((H.diagonal() == 0).double())
    return H + damping * H.diagonal().mean() * torch.eye(len(H), dtype=H.dtype)


def factor(H: Tensor, damping: float) -> Tensor:
    """Row j is the first row of the inverse of H[j:, j:], divided by the root of its first entry; float64."""
    H = damped(H, damping)
    U = torch.zeros_like(H)
    for j in range(len(H)):
        first = torch.linalg.inv(H[j:, j:])[0]
        U[j, j:] = first / first[0].sqrt()
    return U


def threshold(sparsity: float):
    """Who goes of a block: all scores up to and including the one at index int(n * sparsity) of the sorted ones."""

    def groups(scores: Tensor) -> tuple[Tensor, int]:
        return scores.reshape(1, -1), int(scores.numel() * sparsity) + 1

    return groups


def largest(n: int, m: int):
    """Who goes of m neighbours: all but the n largest."""

    def groups(scores: Tensor) -> tuple[Tensor, int]:
        return scores, m - n

    return groups


def walk(W: Tensor, H: Tensor, size: int, groups) -> Walk:
    """Prune column by column.

    Args:
        W: (rows, cols).
        H: (cols, cols), positive definite.
        size: columns whose mask is chosen together, just before the first of them is pruned.
        groups: makes (groups of competitors, how many go of each) of the scores of these columns.

    Returns:
        The result, float64.
    """
    W, H = W.double().clone(), H.double()
    pruned, errors, gap = torch.zeros_like(W), torch.zeros_like(W), torch.inf
    inverses = [torch.linalg.inv(H[j:, j:]) for j in range(len(H))]
    for j, inverse in enumerate(inverses):
        if j % size == 0:
            d = torch.stack([inverse[0, 0] for inverse in inverses[j : j + size]])
            scores = W[:, j : j + size] ** 2 / d
            competitors, dropped = groups(scores)
            ascending = competitors.sort(dim=1).values
            keep = (competitors > ascending[:, dropped - 1, None]).view(scores.shape)
            if dropped < ascending.shape[1]:
                last, first = ascending[:, dropped - 1], ascending[:, dropped]
                gap = min(gap, torch.where(first > 0, 1 - last / first, 1.0).min().item())
        w = W[:, j].masked_fill(keep[:, j % size], 0)  # what goes
        pruned[:, j] = W[:, j] - w
        errors[:, j] = w / inverse[0, 0].sqrt()
        W[:, j:] -= torch.outer(w / inverse[0, 0], inverse[0])
    return Walk(pruned, errors, gap)


def prune(W: Tensor, H: Tensor, size: int, groups, damping: float) -> Walk:
    """`walk` with damping, and with the weights of dead inputs set to 0."""
    return walk(W.masked_fill(H.diagonal() == 0, 0), damped(H, damping), size, groups)
