"""SparseGPT as a right answer may look, with its parts exchangeable: for mistakes in one part."""

import torch
from torch import Tensor


def factor(H: Tensor, damping: float = 0.01, dead: bool = True, damp=lambda H: H.diagonal().mean()) -> Tensor:
    """U with U^T U = (H + damping)^-1."""
    H = H.double()
    if dead:
        H = H + torch.diag((H.diagonal() == 0).double())
    H = H + damping * damp(H) * torch.eye(len(H), dtype=H.dtype)
    return torch.linalg.cholesky(torch.linalg.inv(H), upper=True).float()


def published(scores: Tensor, sparsity: float) -> Tensor:
    """Keep what lies above the score at index int(n * sparsity) of the sorted ones."""
    return scores > scores.flatten().sort().values[int(scores.numel() * sparsity)]


def smallest(scores: Tensor, count: int) -> Tensor:
    """Keep all but the `count` smallest of each row."""
    return torch.ones_like(scores, dtype=torch.bool).scatter_(1, scores.topk(count, dim=1, largest=False).indices, False)


def obs_score(w: Tensor, d: Tensor) -> Tensor:
    return (w / d) ** 2


def prune(
    W: Tensor,
    U: Tensor,
    size: int,
    choose,
    *,
    block_size: int = 128,
    score=obs_score,
    diagonal: Tensor | None = None,
    error=lambda w, d: w / d,
    row=lambda U, j: U[j],
    reach=lambda j, stop: slice(j, stop),
    lazy=lambda W, E, U, start, stop: -(E @ U[start:stop, stop:]),
    up_front: bool = False,
    per_block: bool = False,
    from_dense: bool = False,
    tail: bool = True,
) -> tuple[Tensor, Tensor]:
    """Prune from left to right.

    Args:
        W: (rows, cols), dead inputs' weights already 0.
        U: (cols, cols).
        size: columns that are chosen together.
        choose: makes a mask of the scores (rows, size).
        block_size: columns after which the rest is brought up to date.
        score: of weights and `diagonal`.
        diagonal: (cols,), that of U if left out.
        error: of weights and a diagonal entry.
        row: what is subtracted from the columns, times the error.
        reach: which columns of a block a removal changes.
        lazy: what is added to the columns right of a block.
        up_front: choose all masks before anything is removed.
        per_block: choose a block's masks when it begins.
        from_dense: scores of the weights as they were given.
        tail: whether a last, shorter block is pruned.

    Returns:
        The pruned matrix, and the errors.
    """
    dense, W, E = W.clone(), W.clone(), torch.zeros_like(W)
    cols, d = W.shape[1], U.diagonal()
    diagonal = d if diagonal is None else diagonal
    keep = torch.ones_like(W, dtype=torch.bool)

    def choose_from(V: Tensor, start: int, stop: int) -> None:
        for first in range(start, stop, size):
            group = slice(first, min(first + size, cols))
            keep[:, group] = choose(score(V[:, group], diagonal[group]))

    if up_front:
        choose_from(dense, 0, cols)
    for start in range(0, cols, block_size):
        stop = min(start + block_size, cols)
        if stop - start < block_size and start and not tail:
            break
        if per_block:
            choose_from(W, start, stop)
        for j in range(start, stop):
            if j % size == 0 and not (up_front or per_block):
                choose_from(dense if from_dense else W, j, j + size)
            E[:, j] = error(W[:, j], d[j]).masked_fill(keep[:, j], 0)
            where = reach(j, stop)
            W[:, where] -= torch.outer(E[:, j], row(U, j)[where])
            W[:, j].masked_fill_(~keep[:, j], 0)
        W[:, stop:] += lazy(W, E[:, start:stop], U, start, stop)
    return W.masked_fill(~keep, 0), E
