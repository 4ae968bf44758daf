"""2:4 matrices as hardware wants them stored: two values of every four neighbours, and two 2-bit indices that say which.

    Packed24     row by row, as torch has it before it reorders the indices for CUTLASS
    Fragments    the same bits, in the order in which the threads of a sparse tensor core hold them

In fp16 a group takes 36 bits instead of 64: 0.5625 of the bytes.

Mishra et al. 2021, "Accelerating sparse deep neural networks"; the order of the fragments is that of the PTX ISA, "mma.sp".
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsity_edu.storage import TwoFour

DTYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Packed24:
    """Two values of every four neighbours and which two they are, row by row.

    A group is a nibble `i0 | i1 << 2` with i0 < i1, four groups to a 16-bit word, the first in the lowest bits: torch's order.
    These are the bytes of `storage.TwoFour`, in words that kernels can load and torch and tensor cores know.
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
    encoded = TwoFour.encode(W, fill=(2, 3, 0, 1))
    return Packed24(encoded.values, encoded.indices.view(torch.int16).view(W.shape[0], W.shape[1] // 16))


def unpack(packed: Packed24) -> Tensor:
    """The dense matrix (N, K)."""
    return TwoFour(packed.values, packed.codes.flatten().view(torch.uint8), packed.shape).decode()


# The same as torch has it


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


# The same as a sparse tensor core wants it


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
