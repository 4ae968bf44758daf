"""The products on a GPU, and in the interpreter: how the kernels of sparse_gemv_kernels.py are cut up and launched.

Arguments are those of products.py, checked; x is (tokens, K), and (..., K) for `threshold`.
"""

import functools

import torch
import triton.language as tl
from torch import Tensor

from sparsity_edu.kernels import sparse_gemv_kernels as kernels
from sparsity_edu.kernels.devices import processors


def threshold(W: Tensor, x: Tensor, thresholds: tuple[float, ...], sizes: tuple[int, ...], atomic: bool) -> Tensor:
    """`gemv_threshold`, a threshold for each projection: (..., K) to (..., N)."""
    (K, N), few = W.shape, x.shape[:-1].numel()
    tile = _tile(x)
    blocks = _blocks(sizes, tile["COLS"], W.device)
    splits, share = _splits(K, len(blocks), tile["ROWS"], W)
    aligned = 16 if all(size % 16 == 0 for size in sizes) else 1
    limits = _on_device(thresholds, W.device)
    out = (torch.zeros if atomic else torch.empty)(few if atomic else splits * few, N, device=W.device)
    kernels.threshold_partials[(len(blocks), splits)](
        W, x, limits, blocks, out, few, K, N, share, **tile, ALIGNED=aligned, ATOMIC=atomic, num_warps=4
    )
    return (out.to(x.dtype) if atomic else _added(out, splits, x, N)).view(*x.shape[:-1], N)


def columns(W: Tensor, idx: Tensor, x: Tensor, count: Tensor | None, group: int) -> Tensor:
    """`gemv_columns`: (tokens, n * group) to (tokens, N)."""
    N = W.shape[1]
    tile = _tile(x)
    blocks = -(-N // tile["COLS"])
    splits, share = _splits(x.shape[1], blocks, tile["ROWS"], W)
    out = torch.empty(splits * len(x), N, device=W.device)
    count = _all_of(idx) if count is None else count
    kernels.column_partials[(blocks, splits)](W, idx, count, x, out, *x.shape, N, share, GROUP=group, **tile, num_warps=4)
    return _added(out, splits, x, N)


def rows(W: Tensor, idx: Tensor, x: Tensor, count: Tensor | None, group: int) -> Tensor:
    """`gemv_rows`: (tokens, K) to (tokens, n * group)."""
    M, K = len(idx) * group, W.shape[1]
    y = x.new_empty(len(x), M)
    tile = _tile(x)
    if x.is_cuda:
        tile |= dict(ROWS=8, COLS=512) if len(x) == 1 else dict(ROWS=16, COLS=128)
    count = _all_of(idx) if count is None else count
    if y.numel():
        kernels.row_products[(-(-M // tile["ROWS"]),)](W, idx, count, x, y, len(x), M, K, GROUP=group, **tile, num_warps=4)
    return y


def compact_(mask: Tensor, idx: Tensor, count: Tensor) -> None:
    """`compact`, into idx and count."""
    kernels.compact_mask[(1,)](mask.view(torch.int8), idx, count, len(mask), BLOCK=4096, num_warps=16)


def _tile(x: Tensor) -> dict:
    """A program's tile: 128 threads hold 64 sums each. In the interpreter a program costs much and its size little."""
    few = 1 if x.shape[:-1].numel() == 1 else 16  # a tensor core takes no fewer
    if not x.is_cuda:
        return dict(TOKENS=few, ROWS=64, COLS=128, MULTIPLY_IN=tl.float32)
    kind = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}.get(x.dtype, tl.float32)
    return dict(TOKENS=few, ROWS=32, COLS=256, MULTIPLY_IN=kind)


def _splits(rows: int, blocks: int, step: int, W: Tensor) -> tuple[int, int]:
    """Into how many parts the rows are split, and the rows of a part: at least four programs for each processor."""
    wanted = -(-4 * processors(W.device) // blocks)
    share = max(128, -(-rows // wanted)) if W.is_cuda else max(step, -(-rows // 3))
    share = -(-share // step) * step
    return max(1, -(-rows // share)), share


@functools.lru_cache(maxsize=256)
def _blocks(sizes: tuple[int, ...], cols: int, device: torch.device) -> Tensor:
    """(blocks, 3): first column, end, projection."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    firsts = [(first, end, i) for i, end in enumerate(ends) for first in range(end - sizes[i], end, cols)]
    return torch.tensor(firsts, dtype=torch.int32, device=device)


@functools.lru_cache(maxsize=4096)
def _on_device(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32, device=device)


def _all_of(idx: Tensor) -> Tensor:
    return torch.full((1,), len(idx), dtype=torch.int32, device=idx.device)


def _added(partials: Tensor, splits: int, x: Tensor, N: int) -> Tensor:
    """The sums of partials (splits * tokens, N) over splits, in the dtype of x."""
    y = x.new_empty(x.shape[:-1].numel(), N)
    block = 64 if y.is_cuda else 1024
    if y.numel():
        kernels.add_partials[(-(-y.numel() // block),)](partials, y, y.numel(), splits, SPLITS=16, BLOCK=block, num_warps=4)
    return y
