"""The products on a CPU: compiled loops where these know the numbers, and torch elsewhere.

`threshold`, `columns`, `rows` and `compact_` are all that others use. Arguments are those of products.py, checked; x is
(tokens, K), and (..., K) for `threshold`. Both ways give the same.
"""

from types import ModuleType

from torch import Tensor

from sparsity_edu.kernels.compiled import can_run
from sparsity_edu.kernels.sparse_gemv import in_torch, loops
from sparsity_edu.kernels.sparse_gemv.in_torch import compact_

__all__ = ["columns", "compact_", "rows", "threshold"]


def threshold(W: Tensor, x: Tensor, thresholds: tuple[float, ...], sizes: tuple[int, ...], atomic: bool = False) -> Tensor:
    """`gemv_threshold`, a threshold for each projection. Each token reads the rows that it needs itself.

    Args:
        W: (K, N), contiguous.
        x: (..., K), any number of tokens.
        thresholds: one for each of `sizes`.
        sizes: they sum to N.
        atomic: changes nothing here, where sums are always added in the same order.

    Returns:
        (..., N).
    """
    return _way(W, x).threshold(W, x, thresholds, sizes)


def columns(W: Tensor, idx: Tensor, x: Tensor, count: Tensor | None, group: int) -> Tensor:
    """`gemv_columns`: (tokens, n * group) to (tokens, N)."""
    return _way(W, x).columns(W, idx, x, count, group)


def rows(W: Tensor, idx: Tensor, x: Tensor, count: Tensor | None, group: int) -> Tensor:
    """`gemv_rows`: (tokens, K) to (tokens, n * group)."""
    return _way(W, x).rows(W, idx, x, count, group)


def _way(W: Tensor, x: Tensor) -> ModuleType:
    return loops if can_run(W, x) and W.dtype == x.dtype and W.is_contiguous() else in_torch
