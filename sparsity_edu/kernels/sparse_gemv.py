"""Products that skip the weights of inputs and outputs that do not count: y = W x for one token, or a few.

When a token is decoded every weight is read once, for one multiplication. A weight whose input is zero need not be read, nor
one whose output nobody asks for. Whole rows of a stored matrix are skipped, so the matrix is stored such that these are rows:

    gemv_threshold   W (K, N), input-major: only the rows of inputs with |x| > threshold (TEAL)
    gemv_rows        W (N, K), output-major: only the outputs asked for (Deja Vu's gate and up, heads of Q)
    gemv_columns     W (K, N), input-major: only the rows of inputs that are there (Deja Vu's down, heads of O)

On a GPU, and in the interpreter, kernels do it (sparse_gemv_kernels.py); on a CPU torch does, in a way that saves time there.
"""

import functools
import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sparsity_edu.kernels.devices import processors, runs_kernels
from sparsity_edu.models.layers import prunable_layers

FEW_TOKENS = 8  # beyond that almost every row is wanted by some token, and a dense product is faster
BAG = 2**20  # bytes of rows that a CPU sums at a time: they stay in a core's cache while it goes from columns to columns


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
    tokens = _tokens(x, W, K)
    sizes = (N,) if sizes is None else tuple(sizes)
    thresholds = tuple(map(float, threshold)) if isinstance(threshold, Sequence) else (float(threshold),) * len(sizes)
    if sum(sizes) != N or min(sizes) < 1:
        raise ValueError(f"sizes must be positive and sum to {N}, the columns of W, got {sizes}")
    if len(thresholds) != len(sizes):
        raise ValueError(f"threshold must be one number or one for each of {len(sizes)} projections, got {len(thresholds)}")
    if atomic and len(tokens) > 1:
        raise ValueError(f"atomic sums are for one token, got {len(tokens)}")
    if not runs_kernels(x):
        return _threshold_on_cpu(W, x, thresholds, sizes)
    from sparsity_edu.kernels import sparse_gemv_kernels as kernels

    few = len(tokens)
    tile = _tile(tokens)
    blocks = _blocks(sizes, tile["COLS"], W.device)
    splits, share = _splits(K, len(blocks), tile["ROWS"], W)
    aligned = 16 if all(size % 16 == 0 for size in sizes) else 1
    limits = _on_device(thresholds, W.device)
    out = (torch.zeros if atomic else torch.empty)(few if atomic else splits * few, N, device=W.device)
    kernels.threshold_partials[(len(blocks), splits)](
        W, tokens, limits, blocks, out, few, K, N, share, **tile, ALIGNED=aligned, ATOMIC=atomic, num_warps=4
    )
    return (out.to(x.dtype) if atomic else _added(out, splits, tokens, N)).view(*x.shape[:-1], N)


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
    N = W.shape[1]
    tokens = _tokens(x, W, len(idx) * group)
    _check_indices(W, idx, group)
    if not runs_kernels(x):
        rows = _rows(idx, count, group)
        return _joined([_weighted_rows(W, rows, token[: len(rows)], 0, N) for token in tokens], x, N)
    from sparsity_edu.kernels import sparse_gemv_kernels as kernels

    tile = _tile(tokens)
    blocks = -(-N // tile["COLS"])
    splits, share = _splits(tokens.shape[1], blocks, tile["ROWS"], W)
    out = torch.empty(splits * len(tokens), N, device=W.device)
    count = _all_of(idx) if count is None else count
    kernels.column_partials[(blocks, splits)](
        W, idx, count, tokens, out, *tokens.shape, N, share, GROUP=group, **tile, num_warps=4
    )
    return _added(out, splits, tokens, N).view(*x.shape[:-1], N)


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
    K = W.shape[1]
    tokens = _tokens(x, W, K)
    _check_indices(W, idx, group)
    M = len(idx) * group
    if not runs_kernels(x):
        return _rows_on_cpu(W, _rows(idx, count, group), tokens, M).view(*x.shape[:-1], M)
    from sparsity_edu.kernels import sparse_gemv_kernels as kernels

    y = tokens.new_empty(len(tokens), M)
    tile = _tile(tokens)
    if x.is_cuda:
        tile |= dict(ROWS=8, COLS=512) if len(tokens) == 1 else dict(ROWS=16, COLS=128)
    count = _all_of(idx) if count is None else count
    if y.numel():
        kernels.row_products[(-(-M // tile["ROWS"]),)](
            W, idx, count, tokens, y, len(tokens), M, K, GROUP=group, **tile, num_warps=4
        )
    return y.view(*x.shape[:-1], M)


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
    if not runs_kernels(mask):
        chosen = mask.nonzero().squeeze(1)
        idx[: len(chosen)], count[0] = chosen, len(chosen)
    else:
        from sparsity_edu.kernels import sparse_gemv_kernels as kernels

        kernels.compact_mask[(1,)](mask.view(torch.int8), idx, count, len(mask), BLOCK=4096, num_warps=16)
    return idx, count


# In a model


class ThresholdLinear(nn.Module):
    """A linear layer that takes inputs with |x| <= threshold for zeros, and does not read their weights in decoding.

    Args:
        product: the weights of this layer and of those that share its input.
        place: which of them is this layer's.
        bias: (N,) or None.
    """

    def __init__(self, product: "SharedProduct", place: int, bias: Tensor | None) -> None:
        super().__init__()
        self.product, self.place = product, place
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N)."""
        y = self.product.result(x, self.place)
        return y if self.bias is None else y + self.bias

    @property
    def threshold(self) -> float:
        """What inputs must exceed."""
        return self.product.threshold

    def dense(self) -> nn.Linear:
        """The linear layer that this one stands for."""
        W = self.product.W.split(self.product.sizes, dim=1)[self.place]
        layer = nn.utils.skip_init(nn.Linear, *W.shape, self.bias is not None, device=W.device, dtype=W.dtype)
        with torch.no_grad():
            layer.weight.copy_(W.T)
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer

    def extra_repr(self) -> str:
        """What `print(model)` says of it."""
        K, N = len(self.product.W), self.product.sizes[self.place]
        return f"in_features={K}, out_features={N}, bias={self.bias is not None}, threshold={self.threshold:.3g}"


class SharedProduct(nn.Module):
    """The product of one input with the weights of several layers, worked out when the first of them is called.

    Q, K and V of a block have the same input, as have gate and up. Finding what to skip once for all of them, and launching
    once, is a good part of what a small layer costs.

    Args:
        layers: linear layers with the same input. Their weights are copied, transposed, side by side.
        threshold: as for `gemv_threshold`.
    """

    def __init__(self, layers: Sequence[nn.Linear], threshold: float) -> None:
        super().__init__()
        self.register_buffer("W", torch.cat([layer.weight.detach().T for layer in layers], dim=1).contiguous())
        self.sizes, self.threshold = [layer.out_features for layer in layers], float(threshold)
        self._x, self._version, self._results = None, None, {}

    def result(self, x: Tensor, place: int) -> Tensor:
        """(..., K) to the (..., N) of one layer. What the others will ask for waits for them; a second question starts anew."""
        if len(self.sizes) == 1:
            return self._product(x)
        version = None if x.is_inference() else x._version  # counts changes in place; inference tensors keep no count
        if x is not self._x or version != self._version or place not in self._results:
            self._x, self._version = x, version
            self._results = dict(enumerate(self._product(x).split(self.sizes, dim=-1)))
        result = self._results.pop(place)
        if not self._results:
            self._x = None
        return result

    def _product(self, x: Tensor) -> Tensor:
        """On a CPU always torch's way: in the interpreter a model would take minutes for a word."""
        if x.numel() > FEW_TOKENS * len(self.W):
            return torch.where(x.abs().float() > self.threshold, x, 0) @ self.W
        if x.is_cuda:
            return gemv_threshold(self.W, x.contiguous(), self.threshold)
        return _threshold_on_cpu(self.W, x, (self.threshold,), ())


SHARED_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # as Llama, Mistral, Qwen and Gemma name them


def threshold_linear_(model: nn.Module, thresholds: dict[str, float] | float) -> None:
    """Let the linear layers of a model's blocks skip small inputs, in place.

    Args:
        model: a Hugging Face decoder, or any module.
        thresholds: by layer name, or one for all linear layers that pruning would touch. Q, K and V, or gate and up, become
            one product where theirs are equal.

    Raises:
        ValueError: a name is that of no linear layer.
    """
    layers = {name: layer for name, layer in prunable_layers(model).items() if isinstance(layer, nn.Linear)}
    if not isinstance(thresholds, dict):
        thresholds = dict.fromkeys(layers, thresholds)
    if unknown := [name for name in thresholds if name not in layers]:
        raise ValueError(f"thresholds must name linear layers of the model's blocks, got {unknown[0]!r}")
    together: dict[tuple, list[str]] = {}
    for name, threshold in thresholds.items():
        parent, _, own = name.rpartition(".")
        siblings = next((names for names in SHARED_INPUT if own in names), own)
        together.setdefault((parent, siblings, threshold), []).append(name)
    for (_, _, threshold), names in together.items():
        product = SharedProduct([layers[name] for name in names], threshold)
        for place, name in enumerate(names):
            model.set_submodule(name, ThresholdLinear(product, place, layers[name].bias))


def unthreshold_linear_(model: nn.Module) -> None:
    """Undo `threshold_linear_`, in place."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, ThresholdLinear):
            model.set_submodule(name, layer.dense())


# On a CPU


def _threshold_on_cpu(W: Tensor, x: Tensor, thresholds: tuple[float, ...], sizes: tuple[int, ...]) -> Tensor:
    """Each token reads the rows that it needs itself."""
    if len(set(thresholds)) == 1:
        if x.numel() == len(W) and x.dtype == torch.float32:
            return _one_token(W, x, thresholds[0])
        thresholds, sizes = thresholds[:1], W.shape[1:]
    parts = []
    for token in x.reshape(x.shape[:-1].numel(), len(W)):
        magnitude, first = token.abs().float(), 0
        for threshold, size in zip(thresholds, sizes, strict=True):
            rows = (magnitude > threshold).nonzero().view(-1)
            parts.append(_weighted_rows(W, rows, token.index_select(0, rows), first, first + size))
            first += size
    return _joined(parts, x, W.shape[1])


def _one_token(W: Tensor, x: Tensor, threshold: float) -> Tensor:
    """The same with as few calls as there can be, half of them into numpy, which costs less.

    Weights that stream through the caches leave nothing of what runs between two products: every function is a cold one, and
    a dozen calls into torch take as long as a small layer.
    """
    values = x.numpy(force=True)
    rows = np.flatnonzero(np.abs(values) > threshold)
    y = _sum_of_rows(W, torch.from_numpy(rows), torch.from_numpy(values.take(rows)))
    return y.view(x.shape[:-1] + W.shape[1:])


def _sum_of_rows(W: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """weights @ W[rows] in float32, without a copy of these rows: an embedding bag with weights reads each where it is.

    A thread sums bags of a few rows, and the sums of bags are added.
    """
    n, threads = len(rows), torch.get_num_threads()
    if not n:
        return W.new_zeros(W.shape[1])
    rounds = -(-n * W.shape[1] * W.itemsize // (threads * BAG))
    return _bags(W, rows, _starts(n, -(-n // (threads * rounds))), weights).sum(dim=0)


def _weighted_rows(W: Tensor, rows: Tensor, weights: Tensor, first: int, end: int) -> Tensor:
    """weights @ W[rows, first:end], in any dtype.

    Sums that were rounded to 16 bits should not be added: a bag is all rows there, and a block of columns for each thread.
    """
    if W.dtype == torch.float32 and end - first == W.shape[1]:
        return _sum_of_rows(W, rows, weights)
    if not len(rows):
        return W.new_zeros(end - first)
    width, places = _blocks_of_rows(*W.shape, first, end, torch.get_num_threads())
    which = places.index_select(1, rows)  # (blocks, n)
    starts = _starts(which.numel(), len(rows))
    return _bags(W.view(-1, width), which.view(-1), starts, weights.repeat(len(which))).view(-1)


def _bags(table: Tensor, which: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """What functional.embedding_bag calls, after checks of its own. Mode 0 is the sum."""
    return torch.embedding_bag(table, which, starts, mode=0, per_sample_weights=weights)[0]


@functools.lru_cache(maxsize=4096)
def _starts(n: int, step: int) -> Tensor:
    return torch.arange(0, n, step)


@functools.lru_cache(maxsize=256)
def _blocks_of_rows(K: int, N: int, first: int, end: int, pieces: int) -> tuple[int, Tensor]:
    """Of W as (K * N / width, width): the width, and where the blocks of columns first:end of each row stand, (blocks, K)."""
    width = math.gcd(first, end, N)
    width //= max(count for count in range(1, pieces + 1) if width % count == 0)
    return width, torch.arange(K) * (N // width) + torch.arange(first // width, end // width)[:, None]


def _joined(parts: list[Tensor], x: Tensor, N: int) -> Tensor:
    """Parts of tokens, one after the other, as the (..., N) of x."""
    return (parts[0] if len(parts) == 1 else torch.cat([x.new_empty(0), *parts])).view(*x.shape[:-1], N)


def _rows_on_cpu(W: Tensor, rows: Tensor, tokens: Tensor, M: int) -> Tensor:
    """For several tokens, or in 16 bits, the chosen rows are copied few at a time: they are multiplied while they are in the
    cache, and memory is read once."""
    y = tokens.new_zeros(len(tokens), M)
    if len(tokens) == 1 and W.dtype == torch.float32 and len(rows):
        y[0, : len(rows)] = _sampled(W, rows, tokens)
        return y
    few = W.new_empty(max(1, 2 * BAG // (W.shape[1] * W.itemsize)), W.shape[1])
    x = tokens[0] if len(tokens) == 1 else tokens.T  # a product with a vector is the faster one
    for start in range(0, len(rows), len(few)):
        some = rows[start : start + len(few)]
        chosen = torch.index_select(W, 0, some, out=few[: len(some)])
        y[:, start : start + len(some)] = (chosen @ x).view(len(some), -1).T
    return y


def _sampled(W: Tensor, rows: Tensor, x: Tensor) -> Tensor:
    """x @ W[rows].T without a copy: as chosen entries of a matrix product, which torch computes one by one.

    Each row of that product is one thread's: x once for each, and a share of the entries.
    """
    low, high = rows.aminmax()
    if low < 0 or high >= len(W):
        raise IndexError(f"idx must be of rows of W, 0 to {len(W) - 1}, got {int(low)} to {int(high)}")
    _csr_is_beta()
    n, threads = len(rows), torch.get_num_threads()
    ends = torch.tensor([n * thread // threads for thread in range(threads + 1)])
    # its indices need not ascend, as they should in a CSR matrix: nothing but this product sees it
    entries = torch.sparse_csr_tensor(ends, rows, W.new_zeros(n), (threads, len(W)), check_invariants=False)
    return torch.sparse.sampled_addmm(entries, x.expand(threads, -1), W.T, beta=0.0).values()


@functools.cache
def _csr_is_beta() -> None:
    """Torch warns of it, once in a process: now, unheard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [0.0], check_invariants=True)


def _rows(idx: Tensor, count: Tensor | None, group: int) -> Tensor:
    """The rows that indices of groups stand for."""
    chosen = idx if count is None else idx[: int(count)]
    return (chosen.long()[:, None] * group + torch.arange(group)).flatten()


# How kernels are launched


def _tile(tokens: Tensor) -> dict:
    """A program's tile: 128 threads hold 64 sums each. In the interpreter a program costs much and its size little."""
    import triton.language as tl

    few = 1 if len(tokens) == 1 else 16  # a tensor core takes no fewer
    if not tokens.is_cuda:
        return dict(TOKENS=few, ROWS=64, COLS=128, MULTIPLY_IN=tl.float32)
    kind = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}.get(tokens.dtype, tl.float32)
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


def _added(partials: Tensor, splits: int, tokens: Tensor, N: int) -> Tensor:
    from sparsity_edu.kernels import sparse_gemv_kernels as kernels

    y = tokens.new_empty(len(tokens), N)
    rows, block = (16, 64) if y.is_cuda else (16, 1024)
    if y.numel():
        kernels.add_partials[(-(-y.numel() // block),)](partials, y, y.numel(), splits, SPLITS=rows, BLOCK=block, num_warps=4)
    return y


def _tokens(x: Tensor, W: Tensor, K: int) -> Tensor:
    """x as (tokens, K), once it is known to fit."""
    if x.ndim < 1 or x.shape[-1] != K or x.dtype != W.dtype or x.device != W.device:
        wanted = f"(..., {K}) in {W.dtype} on {W.device}"
        raise ValueError(f"x must be {wanted}, got {tuple(x.shape)} in {x.dtype} on {x.device}")
    if not x.is_contiguous() or not W.is_contiguous():
        name = "W" if x.is_contiguous() else "x"
        raise ValueError(f"{name} must be contiguous: call {name}.contiguous() first")
    tokens = x[None] if x.ndim == 1 else x.flatten(0, -2)
    if len(tokens) > FEW_TOKENS:
        raise ValueError(f"x must hold at most {FEW_TOKENS} tokens, got {len(tokens)}: a dense product is faster then")
    return tokens


def _check_indices(W: Tensor, idx: Tensor, group: int) -> None:
    if idx.ndim != 1 or idx.dtype not in (torch.int32, torch.int64) or idx.device != W.device:
        raise ValueError(
            f"idx must be (n,) in int32 or int64 on {W.device}, got {tuple(idx.shape)} in {idx.dtype} on {idx.device}"
        )
    if group < 1 or len(W) % group:
        raise ValueError(f"group must divide the {len(W)} rows of W, got {group}")
