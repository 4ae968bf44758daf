"""The products for users: arguments are checked here, and the work is done where the tensors are."""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from sparsity_edu.kernels.devices import runs_kernels
from sparsity_edu.kernels.sparse_gemv import cpu

FEW_TOKENS = 8  # beyond that almost every row is wanted by some token, and a dense product is faster


def gemv_threshold(
    W: Tensor, x: Tensor, threshold: float | Sequence[float], sizes: Sequence[int] | None = None, atomic: bool = False
) -> Tensor:
    """y = W^T (x * 1[|x| > threshold]): rows of W whose input is too small for every token are not read.

    The rows are split among programs, whose float32 sums are added by a second kernel in a fixed order: the result is the same
    in every run. TEAL's kernel adds in float16 and in the order in which programs end.

    Args:
        W: (K, N), input-major: the transpose of a linear layer's weight, contiguous.
        x: (..., K), contiguous, in the dtype of W; at most 8 tokens.
        threshold: inputs must exceed it, compared in float32; one for each projection.
        sizes: outputs of each projection, where W holds several side by side that share their input (Q, K and V); they sum
            to N. Default: W is one.
        atomic: add in float32 in the order in which programs end: one kernel less, but no two runs are the same. One token.

    Returns:
        (..., N), accumulated in float32 and rounded once. A row that no token needs counts as 0, even an infinite one.

    Raises:
        ValueError: shapes, dtypes, devices or the number of thresholds do not fit, a tensor is not contiguous, or there are
            several tokens to add atomically.

    Source: Liu et al. 2024, Training-free activation sparsity in large language models (TEAL), section 4.4.
    """
    K, N = W.shape
    tokens = _count_tokens(x, W, K)
    sizes = (N,) if sizes is None else tuple(sizes)
    thresholds = tuple(map(float, threshold)) if isinstance(threshold, Sequence) else (float(threshold),) * len(sizes)
    if sum(sizes) != N or min(sizes) < 1:
        raise ValueError(f"sizes must be positive and sum to {N}, the columns of W, got {sizes}")
    if len(thresholds) != len(sizes):
        raise ValueError(f"threshold must be one number or one for each of {len(sizes)} projections, got {len(thresholds)}")
    if atomic and tokens > 1:
        raise ValueError(f"atomic sums are for one token, got {tokens}")
    return _way(x).threshold(W, x, thresholds, sizes, atomic)


def gemv_columns(W: Tensor, idx: Tensor, x: Tensor, count: Tensor | None = None, group: int = 1) -> Tensor:
    """y = sum over m of W[idx[m]] x[m]: a product with the chosen columns of a layer's weight, which are rows of W.

    Args:
        W: (K, N), input-major, contiguous: the down projection's weight transposed, say.
        idx: (n,) int32 or int64: the inputs that are there, each once.
        x: (..., n * group), contiguous, in the dtype of W: their values, in the order of `idx`; at most 8 tokens.
        count: int32 (1,): how many of idx count, for what `compact` returns. Default: all. The rest of x is not read.
        group: each of idx stands for so many neighbouring inputs: the dimension of a head, say.

    Returns:
        (..., N), accumulated in float32 and rounded once.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or a tensor is not contiguous.

    Source: Liu et al. 2023, Deja Vu: Contextual sparsity for efficient LLMs at inference time, section 4.3 and appendix C.
    """
    tokens = _tokens(x, W, len(idx) * group)
    _check_indices(W, idx, group)
    return _way(x).columns(W, idx, tokens, count, group).view(*x.shape[:-1], W.shape[1])


def gemv_rows(W: Tensor, idx: Tensor, x: Tensor, count: Tensor | None = None, group: int = 1) -> Tensor:
    """y[m] = W[idx[m]] x: a product with the chosen rows of a layer's weight.

    Args:
        W: (N, K), as in a linear layer, contiguous.
        idx: (n,) int32 or int64: the outputs that are asked for.
        x: (..., K), contiguous, in the dtype of W; at most 8 tokens.
        count: int32 (1,): how many of idx count, for what `compact` returns. Default: all. The rest of the result is 0.
        group: each of idx stands for so many neighbouring outputs: the dimension of a head, say.

    Returns:
        (..., n * group), accumulated in float32 and rounded once.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or a tensor is not contiguous.

    Source: Liu et al. 2023, Deja Vu, section 4.3 and appendix C.
    """
    tokens = _tokens(x, W, W.shape[1])
    _check_indices(W, idx, group)
    return _way(x).rows(W, idx, tokens, count, group).view(*x.shape[:-1], len(idx) * group)


def compact(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The places where a mask is True, without waiting for the device to say how many there are.

    Args:
        mask: (n,) bool, contiguous.

    Returns:
        idx int32 (n,), ascending, of which only the first `count` mean anything, and count int32 (1,), on the mask's device:
        for `gemv_rows` and `gemv_columns`.

    Raises:
        ValueError: the mask is none.
    """
    if mask.ndim != 1 or mask.dtype != torch.bool or not mask.is_contiguous():
        raise ValueError(f"mask must be contiguous, of shape (n,), and bool, got {tuple(mask.shape)} in {mask.dtype}")
    idx, count = (torch.zeros(n, dtype=torch.int32, device=mask.device) for n in (len(mask), 1))
    _way(mask).compact_(mask, idx, count)
    return idx, count


def _way(x: Tensor) -> ModuleType:
    """The file whose functions work on this tensor: `threshold`, `columns`, `rows` and `compact_`."""
    if not runs_kernels(x):
        return cpu
    from sparsity_edu.kernels.sparse_gemv import launch  # imports triton, which not every machine has

    return launch


def _tokens(x: Tensor, W: Tensor, K: int) -> Tensor:
    """x as (tokens, K), once it is known to fit."""
    _count_tokens(x, W, K)
    return x[None] if x.ndim == 1 else x.flatten(0, -2)


def _count_tokens(x: Tensor, W: Tensor, K: int) -> int:
    """How many x (..., K) holds, once it is known to fit."""
    if x.ndim < 1 or x.shape[-1] != K or x.dtype != W.dtype or x.device != W.device:
        wanted = f"(..., {K}) in {W.dtype} on {W.device}"
        raise ValueError(f"x must be {wanted}, got {tuple(x.shape)} in {x.dtype} on {x.device}")
    if not x.is_contiguous() or not W.is_contiguous():
        name = "W" if x.is_contiguous() else "x"
        raise ValueError(f"{name} must be contiguous: call {name}.contiguous() first")
    tokens = x.shape[:-1].numel()
    if tokens > FEW_TOKENS:
        raise ValueError(f"x must hold at most {FEW_TOKENS} tokens, got {tokens}: a dense product is faster then")
    return tokens


def _check_indices(W: Tensor, idx: Tensor, group: int) -> None:
    if idx.ndim != 1 or idx.dtype not in (torch.int32, torch.int64) or idx.device != W.device:
        raise ValueError(
            f"idx must be (n,) in int32 or int64 on {W.device}, got {tuple(idx.shape)} in {idx.dtype} on {idx.device}"
        )
    if group < 1 or len(W) % group:
        raise ValueError(f"group must divide the {len(W)} rows of W, got {group}")
