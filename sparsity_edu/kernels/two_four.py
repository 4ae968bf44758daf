"""Products with 2:4 weights: fewer bytes, and for a few tokens at a time less time.

A token is decoded by reading every weight once, so time is bytes: at best a 2:4 matrix is 1 / 0.5625 = 1.78 times as fast as a
dense one. With many tokens at once multiplications count, and the bytes no longer do.

    gemv             a few tokens: on sparse tensor cores, or by selecting inputs
    gemm             many tokens: the fastest of what this machine has
    TwoFourLinear    a linear layer that holds nothing else; `sparsify_linear_` puts it into a model

The format is in packed24.py, the kernels are in two_four_kernels.py.
"""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsity_edu.kernels import two_four_cpu
from sparsity_edu.kernels.devices import runs_kernels
from sparsity_edu.kernels.packed24 import (
    DTYPES,
    Fragments,
    Packed24,
    from_fragments,
    pack,
    to_fragments,
    to_semi_structured,
    unpack,
)
from sparsity_edu.kernels.two_four_cpu import Columns24
from sparsity_edu.models.layers import prunable_matrices

FEW_TOKENS = 8  # the width of a tensor core's tile: as many tokens for the price of one


def gemv(W: Packed24 | Fragments | Columns24, x: Tensor) -> Tensor:
    """y = x W^T for a few tokens, in time that follows the stored bytes.

    Fragments are multiplied on sparse tensor cores, up to 8 tokens at once. Rows are read by a kernel that selects the inputs,
    on any GPU and in the interpreter. On a CPU without the interpreter, columns are read by a compiled loop; by all else,
    unpacked, torch multiplies.

    Args:
        W: the weights.
        x: (..., K), contiguous, in the dtype of the weights.

    Returns:
        (..., N), accumulated in float32 and rounded once.

    Raises:
        ValueError: `x` has another width, dtype or device, or is not contiguous.
    """
    _check(W, x)
    N, K = W.shape
    if isinstance(W, Columns24):
        return two_four_cpu.gemv(W, x) if two_four_cpu.can_run(W.values, x) else _dense(W, x)
    if not runs_kernels(x):
        return _dense(W, x)
    from sparsity_edu.kernels import two_four_kernels as kernels

    tokens = x.reshape(-1, K)
    y = tokens.new_empty(len(tokens), N)
    if isinstance(W, Fragments):
        warps, unroll = _split(K // 32)
        for start in range(0, len(tokens), FEW_TOKENS):
            few, out = tokens[start : start + FEW_TOKENS], y[start : start + FEW_TOKENS]
            kernels.gemv_mma[(N // 16,)](
                W.registers, W.words, few, out, K, K, N, len(few), WARPS=warps, UNROLL=unroll, num_warps=warps
            )
    elif len(tokens):
        rows, words = (4, 64) if x.is_cuda else (64, 64)  # in the interpreter a program costs much and its size little
        kernels.gemv_select[(len(tokens), -(-N // rows))](
            W.values, W.codes, tokens, y, N, K, K, N, ROWS=rows, WORDS=words, num_warps=4
        )
    return y.view(*x.shape[:-1], N)


def gemm(W: Packed24 | Fragments | Columns24, x: Tensor) -> Tensor:
    """y = x W^T for many tokens, where multiplications count and not bytes.

    Writing the zeros out again is right, but no faster than a dense product. Torch's own sparse product does half of the
    multiplications, and still is not faster everywhere: on a GPU all ways that it has are timed once per size, and the fastest
    is taken.

    Args:
        W: the weights.
        x: (..., K), contiguous, in the dtype of the weights.

    Returns:
        (..., N), accumulated in float32 and rounded once.

    Raises:
        ValueError: `x` has another width, dtype or device, or is not contiguous.
    """
    _check(W, x)
    ways = _ways(W, x)
    if len(ways) == 1:
        return ways.popitem()[1]()
    size = (type(W), *W.shape, 1 << (x.numel() // W.shape[1]).bit_length(), x.dtype, x.device)
    if size not in _fastest:
        _fastest[size] = min(ways, key=lambda name: _seconds(ways[name]))
    return ways[_fastest[size]]()


_fastest: dict[tuple, str] = {}


def _ways(W: Packed24 | Fragments | Columns24, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """All ways to multiply by many tokens here."""
    N, K = W.shape
    ways = {"dense": lambda: _dense(W, x)}
    if not runs_kernels(x) or not isinstance(W, Packed24):
        return ways
    decompress = {"decompress": lambda: _decompress(W, x)}
    if not x.is_cuda:
        return decompress
    if N % 32 == 0 and K % 64 == 0 and torch.cuda.get_device_capability(x.device)[0] >= 8:
        ways["torch"] = lambda: F.linear(x, to_semi_structured(W))
    return ways | decompress


def _seconds(call: Callable[[], Tensor]) -> float:
    try:
        call()
        times = []
        for _ in range(3):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return min(times)
    except (RuntimeError, NotImplementedError):  # a way that this machine does not have after all
        return float("inf")


def _decompress(W: Packed24, x: Tensor) -> Tensor:
    import triton.language as tl

    from sparsity_edu.kernels import two_four_kernels as kernels

    N, K = W.shape
    tokens = x.reshape(-1, K)
    y = tokens.new_empty(len(tokens), N)
    rows, wide, words = (64, 64, 4) if x.is_cuda else (128, 128, 8)
    in_type = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[x.dtype] if x.is_cuda else tl.float32
    if len(tokens):
        kernels.gemm_decompress[(-(-N // rows), -(-len(tokens) // wide))](
            W.values, W.codes, tokens, y, len(tokens), N, K, K, N, ROWS=rows, TOKENS=wide, WORDS=words, MULTIPLY_IN=in_type
        )
    return y.view(*x.shape[:-1], N)


def _check(W: Packed24 | Fragments | Columns24, x: Tensor) -> None:
    dtype, device = (W.dtype, W.words.device) if isinstance(W, Fragments) else (W.values.dtype, W.values.device)
    if x.shape[-1] != W.shape[1] or x.dtype != dtype or x.device != device:
        wanted = f"(..., {W.shape[1]}) in {dtype} on {device}"
        raise ValueError(f"x must be {wanted}, got {tuple(x.shape)} in {x.dtype} on {x.device}")
    if not x.is_contiguous():
        raise ValueError("x must be contiguous: call x.contiguous() first")


def to_dense(W: Packed24 | Fragments | Columns24) -> Tensor:
    """The dense matrix (N, K)."""
    if isinstance(W, Columns24):
        return W.dense()
    return unpack(from_fragments(W) if isinstance(W, Fragments) else W)


def _dense(W: Packed24 | Fragments | Columns24, x: Tensor) -> Tensor:
    dense = to_dense(W)
    return F.linear(x, dense) if x.is_cuda else F.linear(x.float(), dense.float()).to(x.dtype)


def _split(pieces: int) -> tuple[int, int]:
    """Warps, and steps that are unrolled, of a row of pieces: powers of two whose product divides their number."""
    share = pieces & -pieces  # the largest power of two that divides it
    warps = min(8, share)
    return warps, min(4, share // warps)


@functools.cache
def tensor_cores_work(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `gemv` can multiply by fragments here, and gives the right result; tried once per device.

    Args:
        device: any.
        dtype: float16 or bfloat16.

    Returns:
        False also where the kernel does not compile, with a warning that says why.
    """
    return device.type == "cuda" and _fragments_are_right(device, dtype)


def _fragments_are_right(device: torch.device, dtype: torch.dtype) -> bool:
    """Try all six patterns, in all places."""
    g = torch.Generator().manual_seed(0)
    pairs = torch.combinations(torch.arange(4))  # (6, 2)
    place = pairs[torch.randint(6, (64, 128 // 4), generator=g)]
    W = torch.zeros(64, 128 // 4, 4).scatter_(2, place, torch.randint(1, 4, place.shape, generator=g).float()).view(64, 128)
    x = torch.randint(-1, 2, (FEW_TOKENS, 128), generator=g).float()  # sums of at most 192: exact in bfloat16 too
    try:
        y = gemv(to_fragments(pack(W.to(device, dtype))), x.to(device, dtype))
    except Exception as error:
        warnings.warn(f"sparse tensor cores are not used: {error}", stacklevel=2)
        return False
    return torch.equal(y.cpu(), (x @ W.T).to(dtype))


# In a model


def is_fast(W: Tensor) -> bool:
    """Whether a matrix (N, K) that is 2:4 is multiplied by a token faster packed than dense, on its device."""
    if W.is_cuda:
        return W.dtype in DTYPES and W.shape[1] % 16 == 0
    return two_four_cpu.is_fast(W)


class TwoFourLinear(nn.Module):
    """A linear layer whose weights are stored as 2:4, and only so."""

    def __init__(self, W: Packed24 | Fragments | Columns24, bias: Tensor | None = None) -> None:
        super().__init__()
        names = ("registers", "words") if isinstance(W, Fragments) else ("values", "codes")
        self.kind, self.names, self.dtype = type(W), names, W.dtype if isinstance(W, Fragments) else W.values.dtype
        for name in names:
            self.register_buffer(name, getattr(W, name))
        self.register_buffer("bias", bias)

    @classmethod
    def of(cls, layer: nn.Linear) -> "TwoFourLinear":
        """From a linear layer that is 2:4: for sparse tensor cores, for a kernel, or in float32 for the loop of a CPU."""
        if layer.weight.dtype not in DTYPES and two_four_cpu.can_multiply(layer.weight):
            return cls(Columns24.of(layer.weight.detach()), None if layer.bias is None else layer.bias.detach())
        packed = pack(layer.weight.detach())
        N, K = packed.shape
        if N % 16 == 0 and K % 32 == 0 and tensor_cores_work(layer.weight.device, layer.weight.dtype):
            packed = to_fragments(packed)
        return cls(packed, None if layer.bias is None else layer.bias.detach())

    @property
    def packed(self) -> Packed24 | Fragments | Columns24:
        """The weights."""
        first, second = (getattr(self, name) for name in self.names)
        return Fragments(first, second, self.dtype) if self.kind is Fragments else self.kind(first, second)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N)."""
        few = x.numel() // x.shape[-1] <= FEW_TOKENS
        y = (gemv if few else gemm)(self.packed, x.contiguous())
        return y if self.bias is None else y + self.bias

    def dense(self) -> nn.Linear:
        """The linear layer that this one stands for."""
        W = to_dense(self.packed)
        layer = nn.Linear(W.shape[1], W.shape[0], self.bias is not None, W.device, W.dtype)
        with torch.no_grad():
            layer.weight.copy_(W)
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer

    def extra_repr(self) -> str:
        """What `print(model)` says of it."""
        N, K = self.packed.shape
        return f"in_features={K}, out_features={N}, bias={self.bias is not None}, stored as {type(self.packed).__name__}"


def sparsify_linear_(model: nn.Module, pattern: str = "2:4") -> dict[str, str]:
    """Replace the linear layers of a pruned model by ones that store 2:4, in place.

    Args:
        model: pruned at 2:4, in float16 or bfloat16; the layers that pruning leaves alone stay as they are.
        pattern: "2:4", the only one that hardware knows.

    Returns:
        The layers that stay dense though pruning would touch them, with the reason.

    Raises:
        ValueError: the pattern is another.
    """
    if pattern != "2:4":
        raise ValueError(f'pattern must be "2:4", got {pattern!r}')
    dense = {}
    for name, layer in prunable_matrices(model).items():
        try:
            if not isinstance(layer, nn.Linear):
                raise ValueError(f"it is a {type(layer).__name__}" if isinstance(layer, nn.Module) else "it is an expert's")
            model.set_submodule(name, TwoFourLinear.of(layer))
        except ValueError as error:
            dense[name] = str(error)
    return dense


def densify_linear_(model: nn.Module) -> None:
    """Undo `sparsify_linear_`, in place: the dense weights are back to the bit (a -0.0 that was not kept is a 0.0)."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, TwoFourLinear):
            model.set_submodule(name, layer.dense())
