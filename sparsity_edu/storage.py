"""What a sparse matrix costs to store: four encodings, their exact bytes, and where each starts to pay.

A mask saves nothing by itself: zeros stored as zeros cost as much as any other number. An encoding drops the zeros and pays
for saying where the others were. `encode` and `decode` are exact inverses (only the sign of a -0.0 is lost); `nbytes` counts
what is really stored.

    Bitmap         non-zero values + 1 bit per position                       any pattern
    CSR            non-zero values + a column index each + a pointer per row  any pattern
    TwoFour        2 values of every 4 + two 2-bit indices                    2:4
    BlockSparse    non-zero tiles + a tile index each + a pointer per row     blocks (BSR)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsity_edu.patterns import tiles


def pack_bits(bits: Tensor) -> Tensor:
    """Eight booleans to a byte, the first in the lowest bit.

    Args:
        bits: boolean, n entries in reading order, any shape.

    Returns:
        uint8 (ceil(n / 8),); unused high bits of the last byte are 0.
    """
    padded = torch.nn.functional.pad(bits.flatten().to(torch.uint8), (0, -bits.numel() % 8)).view(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(dim=1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """Inverse of `pack_bits`.

    Args:
        packed: uint8 (ceil(n / 8),).
        n: number of booleans.

    Returns:
        Boolean (n,).
    """
    bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1
    return bits.flatten()[:n].bool()


@dataclass(frozen=True)
class Bitmap:
    """Non-zero values in reading order, and one bit per position that says whether it is one of them."""

    values: Tensor  # (non-zeros,)
    bits: Tensor  # uint8 (ceil(rows * cols / 8),)
    shape: tuple[int, int]

    @classmethod
    def encode(cls, W: Tensor) -> "Bitmap":
        """Encode a matrix (rows, cols) with any zeros."""
        _need_matrix(W)
        kept = W != 0
        return cls(W[kept], pack_bits(kept), tuple(W.shape))

    def decode(self) -> Tensor:
        """The dense matrix (rows, cols)."""
        W = self.values.new_zeros(self.shape)
        W[unpack_bits(self.bits, W.numel()).view(self.shape)] = self.values
        return W

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.values.nbytes + self.bits.nbytes


@dataclass(frozen=True)
class CSR:
    """Compressed sparse rows: non-zero values with their columns, and where each row starts among them."""

    values: Tensor  # (non-zeros,)
    columns: Tensor  # index dtype (non-zeros,)
    row_start: Tensor  # int32 (rows + 1,): row i is values[row_start[i]:row_start[i + 1]]
    shape: tuple[int, int]

    @classmethod
    def encode(cls, W: Tensor, index: torch.dtype = torch.int32) -> "CSR":
        """Encode a matrix (rows, cols) with any zeros.

        Args:
            W: (rows, cols).
            index: dtype of a column index; int32 is what libraries use, int16 what a tuned format can (cols <= 32768).

        Returns:
            The encoding.

        Raises:
            ValueError: `W` is not 2-D, or a column index does not fit `index`.
        """
        _need_matrix(W)
        if W.shape[1] - 1 > torch.iinfo(index).max:
            raise ValueError(f"index must hold columns up to {W.shape[1] - 1}, got {index} (up to {torch.iinfo(index).max})")
        row, column = (W != 0).nonzero(as_tuple=True)  # both (non-zeros,), in reading order
        per_row = torch.bincount(row, minlength=W.shape[0])  # (rows,)
        row_start = torch.cat([per_row.new_zeros(1), per_row.cumsum(0)]).to(torch.int32)
        return cls(W[row, column], column.to(index), row_start, tuple(W.shape))

    def decode(self) -> Tensor:
        """The dense matrix (rows, cols)."""
        W = self.values.new_zeros(self.shape)
        row = torch.arange(self.shape[0], device=W.device).repeat_interleave(self.row_start.diff())  # (non-zeros,)
        W[row, self.columns.long()] = self.values
        return W

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.values.nbytes + self.columns.nbytes + self.row_start.nbytes


@dataclass(frozen=True)
class TwoFour:
    """Two values of every four neighbours, and two 2-bit indices that say which two.

    The two indices of a group are always distinct and ascending, also when the group holds fewer than two non-zeros: tensor
    cores leave equal or descending indices undefined (PTX ISA, mma.sp). A group is a nibble `i0 | i1 << 2`, the lower nibble
    first, so that two bytes read as a 16-bit little-endian word are torch's metadata.
    """

    values: Tensor  # (rows, cols / 2)
    indices: Tensor  # uint8 (ceil(rows * cols / 8),): two groups to a byte
    shape: tuple[int, int]

    @classmethod
    def encode(cls, W: Tensor, fill: tuple[int, int, int, int] = (0, 1, 2, 3)) -> "TwoFour":
        """Encode a 2:4 matrix.

        Args:
            W: (rows, cols) with at most 2 non-zeros in every 4 neighbours of a row; cols a multiple of 4.
            fill: in which order zeros are taken where a group has fewer than two non-zeros. By default the first ones;
                torch takes (2, 3, 0, 1).

        Returns:
            The encoding.

        Raises:
            ValueError: `W` is not 2-D, cols is not a multiple of 4, a group holds more than 2 non-zeros, or `fill` is no
                order of the four places.
        """
        _need_matrix(W)
        if W.shape[1] % 4:
            raise ValueError(f"W must have a multiple of 4 columns, got shape {tuple(W.shape)}")
        if sorted(fill) != [0, 1, 2, 3]:
            raise ValueError(f"fill must be an order of 0, 1, 2 and 3, got {fill}")
        groups = W.reshape(-1, 4)  # (rows * cols / 4, 4)
        nonzero = groups != 0  # NaN is a value too
        per_group = nonzero.sum(dim=1)  # (groups,)
        if (per_group > 2).any():
            group = int((per_group > 2).nonzero()[0, 0])
            row, col = divmod(group * 4, W.shape[1])
            raise ValueError(
                f"W must hold at most 2 non-zeros in every 4, got {per_group[group]} at row {row}, columns {col}-{col + 3}"
            )
        # non-zeros first, then zeros to fill up to two; sorted, so that the indices ascend
        order = torch.tensor(fill, device=W.device)
        first = nonzero[:, order].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :2]  # (groups, 2)
        chosen = order[first].sort(dim=1).values
        nibble = (chosen[:, 0] | chosen[:, 1] << 2).to(torch.uint8)  # (groups,)
        pairs = torch.nn.functional.pad(nibble, (0, len(nibble) % 2)).view(-1, 2)
        values = groups.gather(1, chosen).view(W.shape[0], W.shape[1] // 2)
        return cls(values, pairs[:, 0] | pairs[:, 1] << 4, tuple(W.shape))

    def decode(self) -> Tensor:
        """The dense matrix (rows, cols)."""
        n_groups = self.shape[0] * self.shape[1] // 4
        nibble = torch.stack([self.indices & 15, self.indices >> 4], dim=1).flatten()[:n_groups].long()  # (groups,)
        chosen = torch.stack([nibble & 3, nibble >> 2], dim=1)  # (groups, 2)
        return self.values.new_zeros(n_groups, 4).scatter_(1, chosen, self.values.reshape(-1, 2)).view(self.shape)

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.values.nbytes + self.indices.nbytes


@dataclass(frozen=True)
class BlockSparse:
    """Block compressed sparse rows (BSR): CSR whose entries are whole tiles."""

    values: Tensor  # (kept tiles, tile height, tile width)
    columns: Tensor  # int32 (kept tiles,): the tile's column in the grid
    row_start: Tensor  # int32 (tile rows + 1,)
    shape: tuple[int, int]

    @classmethod
    def encode(cls, W: Tensor, tile: tuple[int, int] = (4, 4)) -> "BlockSparse":
        """Encode a matrix (rows, cols) whose zeros come in tiles; a tile with any non-zero is stored whole.

        Args:
            W: (rows, cols), divisible into tiles.
            tile: (height, width).

        Returns:
            The encoding.

        Raises:
            ValueError: `W` is not 2-D or is not divisible into tiles.
        """
        _need_matrix(W)
        grid = tiles(W, tile).transpose(1, 2)  # (tile rows, tile cols, height, width)
        kept = (grid != 0).any(dim=3).any(dim=2)  # (tile rows, tile cols)
        where = CSR.encode(kept)
        return cls(grid[kept], where.columns, where.row_start, tuple(W.shape))

    def decode(self) -> Tensor:
        """The dense matrix (rows, cols)."""
        height, width = self.values.shape[1:]
        W = self.values.new_zeros(self.shape)
        row = torch.arange(len(self.row_start) - 1, device=W.device).repeat_interleave(self.row_start.diff())
        tiles(W, (height, width)).transpose(1, 2)[row, self.columns.long()] = self.values
        return W

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.values.nbytes + self.columns.nbytes + self.row_start.nbytes


@dataclass(frozen=True)
class Cost:
    """Bits per matrix entry of an encoding, which are a straight line in the density: `per_kept * density + fixed`.

    Exact up to the padding of the last byte of a bitmap or of 2:4 indices.
    """

    per_kept: float  # bits per non-zero: its value and its index
    fixed: float  # bits per entry, zero or not: bitmap, row pointers, 2:4 indices
    min_sparsity: float = 0.0  # the format holds no matrix with fewer zeros than this

    formats: ClassVar[tuple[str, ...]] = ("bitmap", "csr", "2:4", "block")

    @classmethod
    def of(
        cls,
        encoding: str,
        shape: tuple[int, int],
        value_bits: int,
        index_bits: int = 32,
        tile: tuple[int, int] = (4, 4),
    ) -> "Cost":
        """Cost of an encoding.

        Args:
            encoding: one of `Cost.formats`.
            shape: (rows, cols) of the matrix.
            value_bits: 32 (fp32), 16 (fp16) or 8 (int8).
            index_bits: bits of a CSR column index or of a block's column index; row pointers have 32.
            tile: (height, width) for "block".

        Returns:
            The cost.

        Raises:
            ValueError: the encoding is unknown, the matrix is empty, or tiles do not divide it.
        """
        rows, cols = shape
        height, width = tile
        if rows < 1 or cols < 1:
            raise ValueError(f"shape must be (rows, cols) with at least one entry, got {tuple(shape)}")
        if encoding == "block" and (rows % height or cols % width):
            raise ValueError(f"tile must divide the matrix, of shape {tuple(shape)}, got {height}x{width}")
        if encoding == "bitmap":
            return cls(value_bits, 1)
        if encoding == "csr":
            return cls(value_bits + index_bits, 32 * (rows + 1) / (rows * cols))
        if encoding == "2:4":  # half of the values, and 2 x 2 bits per 4 entries, whatever the zeros
            return cls(0, value_bits / 2 + 1, min_sparsity=0.5)
        if encoding == "block":
            return cls(value_bits + index_bits / (height * width), 32 * (rows / height + 1) / (rows * cols))
        raise ValueError(f"encoding must be one of {', '.join(cls.formats)}, got {encoding!r}")

    def bits(self, sparsity: float) -> float:
        """Bits per entry at a sparsity in [0, 1]; for "block", of tiles. NaN where the format cannot hold the matrix."""
        if not 0 <= sparsity <= 1:
            raise ValueError(f"sparsity must be in [0, 1], got {sparsity}")
        return self.per_kept * (1 - sparsity) + self.fixed if sparsity >= self.min_sparsity else float("nan")


def break_even(
    encoding: str,
    shape: tuple[int, int],
    value_bits: int,
    index_bits: int = 32,
    tile: tuple[int, int] = (4, 4),
) -> float:
    """The sparsity above which an encoding is smaller than the dense matrix.

    Where the line `per_kept * (1 - s) + fixed` meets `value_bits`. For a bitmap that is 1 / value_bits, for CSR about
    index_bits / (value_bits + index_bits). 2:4 has no crossing: it is smaller as soon as it applies, at 50 %.

    Args:
        encoding: one of `Cost.formats`.
        shape: (rows, cols) of the matrix.
        value_bits: bits of a dense value: 32, 16 or 8.
        index_bits: bits of a column index.
        tile: (height, width) for "block".

    Returns:
        A sparsity; above 1 if the encoding never pays (a tiny matrix whose row pointers alone outweigh it).

    Raises:
        ValueError: as in `Cost.of`.
    """
    cost = Cost.of(encoding, shape, value_bits, index_bits, tile)
    if cost.min_sparsity:
        return cost.min_sparsity
    return 1 - (value_bits - cost.fixed) / cost.per_kept


def packed_bytes(matrices: Iterable[Tensor]) -> dict[str, int]:
    """What matrices would take packed, in each encoding that can hold all of them.

    Args:
        matrices: (rows, cols) each, with zeros; of one dtype.

    Returns:
        Bytes by encoding: "bitmap", "csr" with 32-bit indices, and "2:4" if no matrix has more than two non-zeros in any four
        neighbours. Up to a byte per matrix what `nbytes` of the encodings is.
    """
    matrices = list(matrices)
    fits = all(W.shape[1] % 4 == 0 and ((W.reshape(-1, 4) != 0).sum(dim=1) <= 2).all() for W in matrices)

    def stored(encoding: str, W: Tensor) -> float:
        zeros = int((W == 0).sum()) / W.numel()
        return Cost.of(encoding, tuple(W.shape), 8 * W.element_size()).bits(zeros) * W.numel() / 8

    return {name: round(sum(stored(name, W) for W in matrices)) for name in ("bitmap", "csr", *["2:4"] * fits)}


def _need_matrix(W: Tensor) -> None:
    if W.ndim != 2:
        raise ValueError(f"W must be 2-D (rows, cols), got shape {tuple(W.shape)}")
