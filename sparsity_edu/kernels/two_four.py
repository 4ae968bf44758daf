"""2:4 sparsity that the hardware knows: of every four neighbouring weights two are stored, and which two.

A token is decoded by reading every weight once, so time is bytes. In fp16 two values and two 2-bit indices take the place of
four values: 36 bits instead of 64, 0.5625 of the bytes, at best 1 / 0.5625 = 1.78 times as fast.

    Packed24         values and indices, row by row, as torch has them before it reorders them for CUTLASS
    Fragments        the same bits in the order in which the threads of a sparse tensor core want them
    linear           y = x W^T: a matrix-vector product per token for a few tokens, decompression for many
    TwoFourLinear    a linear layer that holds nothing else; `sparsify_linear_` puts it into a model

Mishra et al. 2021, "Accelerating sparse deep neural networks"; the layouts are those of the PTX ISA, "mma.sp".
"""

import functools
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsity_edu.models.layers import prunable_layers

DTYPES = (torch.float16, torch.bfloat16)
FEW_TOKENS = 8  # the width of a tensor core's tile: as many tokens for the price of one


@dataclass(frozen=True)
class Packed24:
    """Two values of every four neighbours and which two they are, row by row.

    A group is a nibble `i0 | i1 << 2` with i0 < i1, four groups to a 16-bit word, the first in the lowest bits: torch's order.
    """

    values: Tensor  # (N, K / 2), float16 or bfloat16
    codes: Tensor  # int16 (N, K / 16)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the dense matrix, (N, K)."""
        return self.values.shape[0], 2 * self.values.shape[1]

    @property
    def nbytes(self) -> int:
        """Stored bytes: 0.5625 of the dense ones."""
        return self.values.nbytes + self.codes.nbytes


@torch.no_grad()
def pack(W: Tensor) -> Packed24:
    """Store a 2:4 matrix as its kept values and their places.

    A group with fewer than two non-zeros stores zeros too, since hardware wants two distinct places in ascending order: those
    at 2, 3, 0, 1, whichever is free first. So does torch.

    Args:
        W: (N, K), float16 or bfloat16, at most 2 non-zeros in every 4 neighbours of a row, K a multiple of 16.

    Returns:
        The packed matrix.

    Raises:
        ValueError: `W` has another dtype or shape, or a group holds more than 2 non-zeros.
    """
    if W.ndim != 2 or W.dtype not in DTYPES or W.shape[1] % 16:
        raise ValueError(f"W must be (N, K) in float16 or bfloat16, K a multiple of 16, got {tuple(W.shape)} in {W.dtype}")
    N, K = W.shape
    groups = W.reshape(N, K // 4, 4)
    nonzero = groups != 0  # NaN is a value too
    if (excess := nonzero.sum(dim=2) > 2).any():
        row, group = excess.nonzero()[0].tolist()
        where = f"row {row}, columns {4 * group} to {4 * group + 3}"
        raise ValueError(f"W must hold at most 2 non-zeros in every 4, got {int(nonzero[row, group].sum())} in {where}")
    preference = torch.tensor([1, 0, 3, 2], device=W.device) + 4 * nonzero  # non-zeros before zeros
    place = preference.topk(2, dim=2).indices.sort(dim=2).values  # (N, K/4, 2), ascending
    nibble = place[..., 0] | place[..., 1] << 2  # (N, K/4)
    words = (nibble.view(N, K // 16, 4) << torch.tensor([0, 4, 8, 12], device=W.device)).sum(dim=2)
    return Packed24(groups.gather(2, place).view(N, K // 2), words.to(torch.uint16).view(torch.int16))


def unpack(packed: Packed24) -> Tensor:
    """The dense matrix (N, K)."""
    N, K = packed.shape
    shifts = torch.tensor([0, 4, 8, 12], device=packed.codes.device)
    nibble = (packed.codes.long()[:, :, None] >> shifts & 15).view(N, K // 4)
    place = torch.stack([nibble & 3, nibble >> 2], dim=2)  # (N, K/4, 2)
    zeros = packed.values.new_zeros(N, K // 4, 4)
    return zeros.scatter_(2, place, packed.values.view(N, K // 4, 2)).view(N, K)


# What torch has


def to_torch(packed: Packed24) -> tuple[Tensor, Tensor]:
    """What `torch.sparse.SparseSemiStructuredTensorCUTLASS` keeps: values, and the words in CUTLASS's order.

    Args:
        packed: N a multiple of 32 and K of 32.

    Returns:
        packed (N, K/2) and meta int16 (N, K/16), as that class's attributes of these names.

    Raises:
        ValueError: the shape is none that CUTLASS has an order for.
    """
    order = _cutlass_order(packed.codes)
    meta = torch.empty_like(packed.codes).flatten()
    meta[order] = packed.codes.flatten()
    return packed.values, meta.view_as(packed.codes)


def from_torch(values: Tensor, meta: Tensor) -> Packed24:
    """Inverse of `to_torch`."""
    return Packed24(values, meta.flatten()[_cutlass_order(meta)].view_as(meta))


def to_semi_structured(packed: Packed24) -> Tensor:
    """A torch tensor that multiplies by CUTLASS's sparse kernels; on a GPU only."""
    values, meta = to_torch(packed)
    kind = torch.sparse.SparseSemiStructuredTensorCUTLASS
    return kind(packed.shape, packed=values, meta=meta, packed_t=None, meta_t=None, compressed_swizzled_bitmask=None)


def from_semi_structured(tensor: Tensor) -> Packed24:
    """Pack one of torch's semi-structured tensors, CUTLASS's or cuSPARSELt's."""
    if isinstance(tensor, torch.sparse.SparseSemiStructuredTensorCUTLASS):
        return from_torch(tensor.packed, tensor.meta)
    return pack(tensor.to_dense())  # cuSPARSELt's bytes are its own


def _cutlass_order(codes: Tensor) -> Tensor:
    """Where each word goes: (N * K / 16,).

    Of 32 rows, row 8 a + b goes to 4 b + a, so that a thread's four rows are neighbours; in each 2 x 2 square the off-diagonal
    words change places; then pairs of columns are stored as columns of pairs.
    """
    N, words = codes.shape
    if N % 32 or words % 2:
        raise ValueError(f"N and K must be multiples of 32 for torch's order, got {N} and {16 * words}")
    row, col = torch.arange(N, device=codes.device)[:, None], torch.arange(words, device=codes.device)[None, :]
    row = row // 32 * 32 + row % 8 * 4 + row % 32 // 8
    swap = (col % 2 - row % 2).broadcast_to(N, words)  # 1 right above the diagonal, -1 left below it
    row, col = row + swap, col - swap
    return (col // 2 * 2 * N + row * 2 + col % 2).flatten()


# What a sparse tensor core wants


@dataclass(frozen=True)
class Fragments:
    """A packed matrix cut into 16 x 32 pieces, each as the 32 threads of a warp hold it for one mma.sp instruction.

    Thread 4 g + t holds of rows g and g + 8 the kept values 2 t, 2 t + 1 and 8 + 2 t, 9 + 2 t (of 16 in a piece). Word 2 g + c
    holds the indices of columns 16 c to 16 c + 15, of row g in the lower half and of row g + 8 in the upper.
    """

    registers: Tensor  # int32 (N / 16, K / 32, 32 threads, 4): two values each
    words: Tensor  # int32 (N / 16, K / 32, 16)
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """Of the dense matrix, (N, K)."""
        return 16 * self.words.shape[0], 32 * self.words.shape[1]

    @property
    def nbytes(self) -> int:
        """Stored bytes, as many as in rows."""
        return self.registers.nbytes + self.words.nbytes


def to_fragments(packed: Packed24) -> Fragments:
    """Reorder a packed matrix for sparse tensor cores.

    Args:
        packed: N a multiple of 16, K of 32.

    Returns:
        The same bits in another order.

    Raises:
        ValueError: the shape cannot be cut into such pieces.
    """
    N, K = packed.shape
    if N % 16 or K % 32:
        raise ValueError(f"N must be a multiple of 16 and K of 32, got {N} and {K}")
    values = packed.values.view(N // 16, 2, 8, K // 32, 2, 4, 2)  # tile, upper or lower row, g, piece, half, t, value
    registers = values.permute(0, 3, 2, 5, 4, 1, 6).reshape(N // 16, K // 32, 32, 8).view(torch.int32)
    codes = packed.codes.view(N // 16, 2, 8, K // 32, 2)  # tile, upper or lower row, g, piece, c
    words = codes.permute(0, 3, 2, 4, 1).reshape(N // 16, K // 32, 32).view(torch.int32)
    return Fragments(registers, words, packed.values.dtype)


def from_fragments(fragments: Fragments) -> Packed24:
    """Inverse of `to_fragments`."""
    N, K = fragments.shape
    registers = fragments.registers.view(fragments.dtype).view(N // 16, K // 32, 8, 4, 2, 2, 2)
    values = registers.permute(0, 5, 2, 1, 4, 3, 6).reshape(N, K // 2)
    words = fragments.words.view(torch.int16).view(N // 16, K // 32, 8, 2, 2)
    return Packed24(values, words.permute(0, 4, 2, 1, 3).reshape(N, K // 16))


# Products


def gemv(W: Packed24 | Fragments, x: Tensor) -> Tensor:
    """y = x W^T for a few tokens, in time that follows the stored bytes.

    Fragments are multiplied on sparse tensor cores, up to 8 tokens at once. Rows are read by a kernel that selects the inputs,
    on any GPU and in the interpreter. On a CPU without the interpreter, torch multiplies by the unpacked matrix.

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
    if not _runs_kernels(x):
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


def gemm(W: Packed24 | Fragments, x: Tensor) -> Tensor:
    """y = x W^T for many tokens. Right, but no faster than a dense product: there, multiplications count and not bytes.

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
    if not _runs_kernels(x) or isinstance(W, Fragments):
        return _dense(W, x)
    import triton.language as tl

    from sparsity_edu.kernels import two_four_kernels as kernels

    tokens = x.reshape(-1, K)
    y = tokens.new_empty(len(tokens), N)
    rows, wide, words = (64, 64, 4) if x.is_cuda else (128, 128, 8)
    in_type = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[x.dtype] if x.is_cuda else tl.float32
    if len(tokens):
        kernels.gemm_decompress[(-(-N // rows), -(-len(tokens) // wide))](
            W.values, W.codes, tokens, y, len(tokens), N, K, K, N, ROWS=rows, TOKENS=wide, WORDS=words, MULTIPLY_IN=in_type
        )
    return y.view(*x.shape[:-1], N)


def _check(W: Packed24 | Fragments, x: Tensor) -> None:
    dtype, device = (W.dtype, W.words.device) if isinstance(W, Fragments) else (W.values.dtype, W.values.device)
    if x.shape[-1] != W.shape[1] or x.dtype != dtype or x.device != device:
        wanted = f"(..., {W.shape[1]}) in {dtype} on {device}"
        raise ValueError(f"x must be {wanted}, got {tuple(x.shape)} in {x.dtype} on {x.device}")
    if not x.is_contiguous():
        raise ValueError("x must be contiguous: call x.contiguous() first")


def _dense(W: Packed24 | Fragments, x: Tensor) -> Tensor:
    dense = unpack(from_fragments(W) if isinstance(W, Fragments) else W)
    return F.linear(x, dense) if x.is_cuda else F.linear(x.float(), dense.float()).to(x.dtype)


def _split(pieces: int) -> tuple[int, int]:
    """Warps, and steps that are unrolled, of a row of pieces: powers of two whose product divides their number."""
    share = pieces & -pieces  # the largest power of two that divides it
    warps = min(8, share)
    return warps, min(4, share // warps)


def _runs_kernels(x: Tensor) -> bool:
    if x.is_cuda:
        return True
    try:
        import triton
    except ImportError:  # there is none for macOS
        return False
    return triton.knobs.runtime.interpret


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


class TwoFourLinear(nn.Module):
    """A linear layer whose weights are stored as 2:4, and only so."""

    def __init__(self, W: Packed24 | Fragments, bias: Tensor | None = None) -> None:
        super().__init__()
        names = ("registers", "words") if isinstance(W, Fragments) else ("values", "codes")
        self.names, self.dtype = names, W.dtype if isinstance(W, Fragments) else W.values.dtype
        for name in names:
            self.register_buffer(name, getattr(W, name))
        self.register_buffer("bias", bias)

    @classmethod
    def of(cls, layer: nn.Linear) -> "TwoFourLinear":
        """From a linear layer that is 2:4; on sparse tensor cores where there are some and its size allows it."""
        packed = pack(layer.weight.detach())
        N, K = packed.shape
        if N % 16 == 0 and K % 32 == 0 and tensor_cores_work(layer.weight.device, layer.weight.dtype):
            packed = to_fragments(packed)
        return cls(packed, None if layer.bias is None else layer.bias.detach())

    @property
    def packed(self) -> Packed24 | Fragments:
        """The weights."""
        first, second = (getattr(self, name) for name in self.names)
        return Fragments(first, second, self.dtype) if "words" in self.names else Packed24(first, second)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N)."""
        few = x.numel() // x.shape[-1] <= FEW_TOKENS
        y = (gemv if few else gemm)(self.packed, x.contiguous())
        return y if self.bias is None else y + self.bias

    def dense(self) -> nn.Linear:
        """The linear layer that this one stands for."""
        packed = self.packed
        W = unpack(from_fragments(packed) if isinstance(packed, Fragments) else packed)
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
    for name, layer in prunable_layers(model).items():
        try:
            if not isinstance(layer, nn.Linear):
                raise ValueError(f"it is a {type(layer).__name__}")
            model.set_submodule(name, TwoFourLinear.of(layer))
        except ValueError as error:
            dense[name] = str(error)
    return dense


def densify_linear_(model: nn.Module) -> None:
    """Undo `sparsify_linear_`, in place: the dense weights are back to the bit (a -0.0 that was not kept is a 0.0)."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, TwoFourLinear):
            model.set_submodule(name, layer.dense())
