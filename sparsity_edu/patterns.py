"""Which entries stay: one selection rule, applied to different groups of entries.

Every pattern of the lecture is the same step - drop the entries with the smallest scores - and differs only in *who competes
with whom*: a whole layer, one row, m neighbours, or whole rows, columns and blocks that live or die together.

    unstructured    x . x . . x x .     any entry may go
    n:m  (2:4)      x . x . . . x x     n stay of every m neighbours in a row
    block           x x . . x x . .     tiles stay or go as one
    rows, columns                       whole outputs or inputs go: the matrix really gets smaller

Two conventions hold everywhere in this module and in the modules that build on it:

* **Count.** Of n competitors, exactly `int(sparsity * n)` go (rounded down, as in Wanda and llm-compressor; SparseGPT's and
  the lottery-ticket code's thresholds remove one more, the course-lab `kthvalue(round(n * s))` may too).
* **Ties.** Of equal scores the earlier index goes first (as in a stable ascending sort, which Wanda uses).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor


def prune_count(n: int, sparsity: float) -> int:
    """How many of `n` competitors go.

    Args:
        n: number of competitors.
        sparsity: fraction to remove, in [0, 1).

    Returns:
        `int(sparsity * n)`, the floating-point product rounded down: 28 for n = 100 and 0.29, since 0.29 * 100 < 29.

    Raises:
        ValueError: `sparsity` is outside [0, 1).
    """
    if isinstance(sparsity, str) or not 0 <= sparsity < 1:  # a str: `prune(W, "2:4")`; NaN fails the comparison
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    return int(sparsity * n)


def drop_smallest(score: Tensor, count: int) -> Tensor:
    """Mask that drops the `count` smallest entries along the last dimension: the one rule behind every pattern.

    Args:
        score: (..., n) importance of each entry.
        count: entries to drop from every group of n.

    Returns:
        Boolean mask (..., n), True = kept; exactly `count` False in every group.

    Raises:
        ValueError: `count` is outside [0, n], or `score` holds a NaN, which has no rank.
    """
    if not 0 <= count <= score.shape[-1]:
        raise ValueError(f"count must be in [0, {score.shape[-1]}], the size of a group, got {count}")
    if score.isnan().any():
        raise ValueError(f"score must not hold NaN, got NaN in {int(score.isnan().sum())} of {score.numel()} entries")
    if count == 0:
        return torch.ones_like(score, dtype=torch.bool)
    # (..., 1): the largest score that goes. A partial sort: a fifth of the time of a full one on a large layer
    threshold = score.topk(count, dim=-1, largest=False, sorted=False).values.amax(dim=-1, keepdim=True)
    below, tied = score < threshold, score == threshold
    left_to_drop = count - below.sum(dim=-1, keepdim=True)  # (..., 1): that many of the tied, the earliest
    return ~(below | tied & (tied.cumsum(dim=-1) <= left_to_drop))


def unstructured(score: Tensor, sparsity: float, per: str = "layer") -> Tensor:
    """Mask for unstructured sparsity: any entry may go.

    Args:
        score: importance of each entry; any shape for per="layer", (rows, cols) for per="row".
        sparsity: fraction to remove, in [0, 1).
        per: who competes: "layer" (all entries together) or "row" (each output's weights among themselves, Wanda's choice).

    Returns:
        Boolean mask of the shape of `score`, True = kept.

    Raises:
        ValueError: `sparsity`, `per` or the shape is not allowed, or a score is NaN.
    """
    if per == "layer":
        flat = score.flatten()  # (rows * cols,): one group
        return drop_smallest(flat, prune_count(flat.numel(), sparsity)).view_as(score)
    if per == "row":
        _need_matrix(score)
        return drop_smallest(score, prune_count(score.shape[1], sparsity))  # (rows, cols): a group per row
    raise ValueError(f'per must be "layer" or "row", got {per!r}; for a whole model use unstructured_model')


def unstructured_model(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Masks for unstructured sparsity with one threshold for the whole model ("global" pruning).

    Layers with small scores lose more than `sparsity`, layers with large scores less; only the total is fixed.

    Args:
        scores: importance of each entry by layer name, any shapes. Their order decides ties.
        sparsity: fraction of all entries together to remove, in [0, 1).

    Returns:
        Boolean mask by layer name, True = kept.

    Raises:
        ValueError: `sparsity` is outside [0, 1), or a score is NaN.
    """
    if not scores:
        return {}
    everything = torch.cat([score.flatten() for score in scores.values()])  # (all entries of the model,)
    mask = drop_smallest(everything, prune_count(everything.numel(), sparsity))
    parts = mask.split([score.numel() for score in scores.values()])
    return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}


def rows(score: Tensor, sparsity: float, norm: float = 2) -> Tensor:
    """Mask that drops whole rows (outputs: neurons, channels, heads).

    Args:
        score: (rows, cols) importance of each entry.
        sparsity: fraction of rows to remove, in [0, 1).
        norm: a row's score is this vector norm of its entries: 2 (usual), or 1 (Li et al. 2017, "Pruning filters", sec. 3.1).

    Returns:
        Boolean mask (rows, cols), True = kept, constant along each row.

    Raises:
        ValueError: `score` is not 2-D or holds a NaN, or `sparsity` is outside [0, 1).
    """
    _need_matrix(score)
    row_score = torch.linalg.vector_norm(_at_least_float32(score), ord=norm, dim=1)  # (rows,)
    keep = drop_smallest(row_score, prune_count(len(row_score), sparsity))
    return keep[:, None].expand_as(score).contiguous()


def columns(score: Tensor, sparsity: float, norm: float = 2) -> Tensor:
    """Mask that drops whole columns (inputs); `rows` of the transposed matrix.

    Args:
        score: (rows, cols) importance of each entry.
        sparsity: fraction of columns to remove, in [0, 1).
        norm: vector norm that scores a column.

    Returns:
        Boolean mask (rows, cols), True = kept, constant along each column.

    Raises:
        ValueError: `score` is not 2-D or holds a NaN, or `sparsity` is outside [0, 1).
    """
    _need_matrix(score)
    return rows(score.T, sparsity, norm).T.contiguous()


def n_m(score: Tensor, n: int, m: int) -> Tensor:
    """Mask for n:m sparsity: the n largest of every m neighbours along the last (input) dimension stay.

    n counts what is *kept*, as hardware and the lecture count it ("2:4": at most 2 non-zeros in 4). SparseGPT's and Wanda's
    code call the number of zeros `prunen`; the two agree only at n = m / 2.

    Args:
        score: (..., cols) importance of each entry; cols a multiple of m.
        n: kept entries per group, 1 <= n <= m.
        m: group size.

    Returns:
        Boolean mask of the shape of `score`, True = kept; exactly n True in every group.

    Raises:
        ValueError: n, m or the shape is not allowed, or a score is NaN.
    """
    if not 1 <= n <= m:
        raise ValueError(f"n:m needs 1 <= n <= m, got {n}:{m}")
    if score.ndim == 0 or score.shape[-1] % m:
        raise ValueError(f"the last dimension of score must be a multiple of m = {m}, got shape {tuple(score.shape)}")
    groups = score.unflatten(-1, (-1, m))  # (..., cols / m, m): a group of m neighbours each
    return drop_smallest(groups, m - n).flatten(-2)


def block(score: Tensor, sparsity: float, shape: tuple[int, int] = (4, 4), norm: float = 2) -> Tensor:
    """Mask that drops whole tiles of the matrix.

    Args:
        score: (rows, cols) importance of each entry.
        sparsity: fraction of tiles to remove, in [0, 1).
        shape: (tile rows, tile cols); must divide the matrix.
        norm: a tile's score is this vector norm of its entries.

    Returns:
        Boolean mask (rows, cols), True = kept, constant inside each tile.

    Raises:
        ValueError: `score` is not 2-D, holds a NaN or is not divisible into tiles, or `sparsity` is outside [0, 1).
    """
    _need_matrix(score)
    tile_score = torch.linalg.vector_norm(
        _at_least_float32(tiles(score, shape)), ord=norm, dim=(1, 3)
    )  # (tile rows, tile cols)
    keep = unstructured(tile_score, sparsity)
    return keep.repeat_interleave(shape[0], dim=0).repeat_interleave(shape[1], dim=1)


def tiles(matrix: Tensor, shape: tuple[int, int]) -> Tensor:
    """View a matrix as a grid of tiles.

    Args:
        matrix: (rows, cols).
        shape: (tile height h, tile width w); must divide the matrix.

    Returns:
        View (rows / h, h, cols / w, w): tile (i, j) is `[i, :, j, :]`.

    Raises:
        ValueError: `matrix` is not 2-D or is not divisible into tiles.
    """
    _need_matrix(matrix, "matrix")
    height, width = shape
    if height < 1 or width < 1 or matrix.shape[0] % height or matrix.shape[1] % width:
        raise ValueError(f"tile shape must divide the matrix, of shape {tuple(matrix.shape)}, got {height}x{width}")
    return matrix.unflatten(1, (-1, width)).unflatten(0, (-1, height))


def select(score: Tensor, pattern: str, sparsity: float | None = None) -> Tensor:
    """Mask for a pattern given by name: what command lines and drivers call.

    Args:
        score: (rows, cols) importance of each entry.
        pattern: "layer", "row", "rows", "columns", "n:m" such as "2:4", or "block HxW" such as "block 4x4".
        sparsity: fraction to remove, in [0, 1); for n:m it follows from the pattern and must be left out.

    Returns:
        Boolean mask (rows, cols), True = kept.

    Raises:
        ValueError: the pattern is unknown, or `sparsity` is missing, superfluous or out of range.
    """
    if re.fullmatch(r"\d+:\d+", pattern):
        if sparsity is not None:
            raise ValueError(f"sparsity must be left out for pattern {pattern!r}, which fixes it, got {sparsity}")
        return n_m(score, *parse_n_m(pattern))
    if sparsity is None:
        raise ValueError(f"sparsity must be given for pattern {pattern!r}")
    if pattern in ("layer", "row"):
        return unstructured(score, sparsity, per=pattern)
    if pattern in ("rows", "columns"):
        return {"rows": rows, "columns": columns}[pattern](score, sparsity)
    if tile := re.fullmatch(r"block (\d+)x(\d+)", pattern):
        return block(score, sparsity, (int(tile[1]), int(tile[2])))
    raise ValueError(f'pattern must be "layer", "row", "rows", "columns", "n:m" or "block HxW", got {pattern!r}')


def parse_n_m(pattern: str) -> tuple[int, int]:
    """n and m of a pattern such as "2:4".

    Args:
        pattern: "n:m": n of every m neighbours are kept.

    Returns:
        n and m.

    Raises:
        ValueError: it is no such pattern.
    """
    ratio = re.fullmatch(r"(\d+):(\d+)", pattern)
    if not ratio or not 1 <= int(ratio[1]) <= int(ratio[2]):
        raise ValueError(f'pattern must be "n:m" with 1 <= n <= m, such as "2:4", got {pattern!r}')
    return int(ratio[1]), int(ratio[2])


def sparsity_of(tensor: Tensor) -> float:
    """Fraction of entries that are exactly zero (or, for a boolean mask, False).

    Args:
        tensor: weights or a mask, any shape, at least one entry.

    Returns:
        A number in [0, 1], measured, not intended.

    Raises:
        ValueError: `tensor` has no entries.
    """
    if tensor.numel() == 0:
        raise ValueError(f"tensor must have at least one entry, got shape {tuple(tensor.shape)}")
    return (tensor.numel() - int(torch.count_nonzero(tensor))) / tensor.numel()


def _need_matrix(tensor: Tensor, name: str = "score") -> None:
    if tensor.ndim != 2:
        raise ValueError(f"{name} must be 2-D (rows, cols), got shape {tuple(tensor.shape)}")


def _at_least_float32(score: Tensor) -> Tensor:
    return score.to(torch.promote_types(score.dtype, torch.float32))  # a norm over thousands of fp16 entries overflows
