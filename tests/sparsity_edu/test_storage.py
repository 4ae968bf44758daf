"""Encodings: exact round trips, torch's and numpy's own encoders, bytes counted by hand, break-even on real matrices."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity_edu.storage import CSR, Bitmap, BlockSparse, Cost, TwoFour, break_even, pack_bits, packed_bytes, unpack_bits

quick = settings(max_examples=60, deadline=None)
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
DTYPES = [*FLOATS, torch.int8, torch.int32]
VALUE_DTYPE = {32: torch.float32, 16: torch.float16, 8: torch.int8}


def random_matrix(rows: int, cols: int, zeros: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """A matrix with exactly `zeros` zeros at random places and other entries in 1 ... 100."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randint(1, 101, (rows * cols,), generator=generator)
    W[torch.randperm(rows * cols, generator=generator)[:zeros]] = 0
    return W.view(rows, cols).to(dtype)


def random_two_four(rows: int, cols: int, dtype: torch.dtype, non_zeros: int = 2, seed: int = 0) -> torch.Tensor:
    """A matrix with exactly `non_zeros` (at most 2) non-zeros in every 4 neighbours, at random places."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.zeros(rows * cols // 4, 4, dtype=torch.int64)
    places = torch.rand(groups.shape, generator=generator).argsort(dim=1)[:, :non_zeros]
    groups.scatter_(1, places, torch.randint(1, 101, places.shape, generator=generator))
    return groups.view(rows, cols).to(dtype)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


# ---- bits


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 16, 63, 1000])
def test_pack_bits_is_numpy_packbits_little_endian(n):
    bits = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.5
    packed = pack_bits(bits)
    assert packed.dtype == torch.uint8
    assert np.array_equal(packed.numpy(), np.packbits(bits.numpy(), bitorder="little"))
    assert same(unpack_bits(packed, n), bits)


def test_pack_bits_by_hand_and_of_a_matrix():
    assert pack_bits(torch.tensor([True] + [False] * 7 + [False, True])).tolist() == [1, 2]
    matrix = torch.tensor([[True, False, True], [False, True, True]])
    assert pack_bits(matrix).tolist() == [0b110101]
    assert pack_bits(matrix.T).tolist() == [0b111001]  # reading order, whatever the layout


# ---- round trips


@quick
@given(st.integers(0, 7), st.integers(0, 9), st.floats(0, 1), st.sampled_from(DTYPES), st.booleans(), st.integers(0, 99))
def test_bitmap_and_csr_round_trip(rows, cols, sparsity, dtype, transposed, seed):
    W = random_matrix(rows, cols, int(sparsity * (rows * cols)), dtype, seed)
    W = W.T if transposed else W
    before = W.clone()
    for encoding in (Bitmap.encode(W), CSR.encode(W)):
        assert same(encoding.decode(), before)
        assert same(encoding.values, before[before != 0])  # in reading order
        assert encoding.shape == tuple(before.shape)
    assert same(W, before)


@quick
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2), st.sampled_from(DTYPES), st.booleans(), st.integers(0, 99))
def test_two_four_round_trip(rows, groups, non_zeros, dtype, strided, seed):
    W = random_two_four(rows, 4 * groups, dtype, non_zeros, seed)
    encoding = TwoFour.encode(W.T.contiguous().T if strided else W)
    assert same(encoding.decode(), W)
    assert encoding.values.shape == (rows, 2 * groups)


@quick
@given(
    st.integers(0, 3), st.integers(0, 3), st.sampled_from([(1, 1), (2, 4), (4, 2), (3, 5)]), st.floats(0, 1),
    st.sampled_from(DTYPES), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_block_round_trip(down, across, tile, sparsity, dtype, strided, seed):
    grid = random_matrix(down, across, int(sparsity * down * across), torch.int64, seed)
    inside = random_matrix(*tile, tile[0] * tile[1] // 2, torch.int64, seed)  # zeros inside of a tile stay in it
    W = torch.kron(grid.sign(), inside).to(dtype)
    encoding = BlockSparse.encode(W.T.contiguous().T if strided else W, tile)
    assert same(encoding.decode(), W)
    assert encoding.values.shape == (int((grid != 0).sum()), *tile)


def all_encodings(W: torch.Tensor) -> list:
    return [Bitmap.encode(W), CSR.encode(W), TwoFour.encode(W), BlockSparse.encode(W, (1, 4))]


def test_strange_values_survive_and_the_sign_of_zero_does_not_count():
    W = torch.tensor([[math.nan, 0, -math.inf, 0], [0, -0.0, 0, 1e-45]])
    for encoding in all_encodings(W):
        decoded = encoding.decode()
        assert decoded.nan_to_num(7.0).tolist() == W.nan_to_num(7.0).tolist()  # 0.0 == -0.0
        assert decoded[0, 0].isnan()
    assert Bitmap.encode(W).values.numel() == CSR.encode(W).values.numel() == 3


def test_nothing_but_zeros_and_a_parameter():
    for encoding in all_encodings(torch.zeros(8, 8)):
        assert same(encoding.decode(), torch.zeros(8, 8))
    weight = torch.nn.Parameter(random_two_four(4, 8, torch.float32))
    for encoding in all_encodings(weight):
        assert same(encoding.decode().detach(), weight.detach())


# ---- against torch's own encoders


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("zeros", [0, 1, 20, 62, 63])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_csr_is_torch_csr(zeros, dtype):
    W = random_matrix(7, 9, zeros, dtype)
    ours, theirs = CSR.encode(W), W.to_sparse_csr()
    assert torch.equal(ours.values, theirs.values())
    assert torch.equal(ours.columns.long(), theirs.col_indices())
    assert torch.equal(ours.row_start.long(), theirs.crow_indices())
    assert ours.columns.dtype == ours.row_start.dtype == torch.int32


@pytest.mark.filterwarnings("ignore:Sparse BSR tensor support is in beta")
@pytest.mark.parametrize("tile", [(1, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("zeros", [0, 50, 90, 96])
def test_block_is_torch_bsr(tile, zeros):
    W = random_matrix(8, 12, zeros)
    ours, theirs = BlockSparse.encode(W, tile), W.to_sparse_bsr(tile)
    assert torch.equal(ours.values, theirs.values())
    assert torch.equal(ours.columns.long(), theirs.col_indices())
    assert torch.equal(ours.row_start.long(), theirs.crow_indices())
    assert ours.columns.dtype == ours.row_start.dtype == torch.int32


@pytest.mark.parametrize(
    ("group", "nibble"),
    [  # the six full patterns, as in torch's table of 2:4 metadata
        ([5, 6, 0, 0], 0b0100),
        ([5, 0, 6, 0], 0b1000),
        ([5, 0, 0, 6], 0b1100),
        ([0, 5, 6, 0], 0b1001),
        ([0, 5, 0, 6], 0b1101),
        ([0, 0, 5, 6], 0b1110),
    ],
)
def test_two_four_nibbles(group, nibble):
    other = [0, 0, 7, 8]
    encoding = TwoFour.encode(torch.tensor([group + other]))
    assert encoding.values.tolist() == [[5, 6, 7, 8]]
    assert encoding.indices.tolist() == [nibble | 0b1110 << 4]  # the first group in the lower nibble
    assert TwoFour.encode(torch.tensor([group])).indices.tolist() == [nibble]  # an odd group: the high nibble is 0


def test_two_four_indices_ascend_also_where_a_group_is_not_full():
    groups = torch.tensor([[0, 0, 0, 0], [5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 5, 0], [0, 0, 0, 5]])
    nibbles = TwoFour.encode(groups.view(1, 20)).indices.tolist()
    for nibble in [half for byte in nibbles for half in (byte & 15, byte >> 4)][:5]:
        assert nibble & 3 < nibble >> 2


@pytest.mark.parametrize(
    ("dtype", "word"), [(torch.float16, torch.int16), (torch.bfloat16, torch.int16), (torch.int8, torch.int32)]
)
def test_two_four_is_torch_metadata(dtype, word):
    torch_two_four = pytest.importorskip("torch.sparse._semi_structured_conversions")
    rows, cols = 64, 128
    W = random_two_four(rows, cols, dtype)
    ours = TwoFour.encode(W)
    values, reordered = torch_two_four.sparse_semi_structured_from_dense_cutlass(W)
    words = ours.indices.view(word).view(rows, -1)  # little-endian words of 4 or 8 nibbles
    # the tensor core's order of the words; what the words say is the encoding
    order = torch_two_four._calculate_meta_reordering_scatter_offsets(rows, words.shape[1], word, "cpu")
    assert torch.equal(ours.values, values)
    assert torch.equal(words.flatten(), reordered.flatten()[order])

    underfull = random_two_four(rows, cols, dtype, non_zeros=1)  # torch fills with other zeros, and can read ours too
    ours = TwoFour.encode(underfull)
    reordered = torch.empty_like(words.flatten()).scatter_(0, order, ours.indices.view(word)).view(rows, -1)
    assert torch.equal(torch_two_four.sparse_semi_structured_to_dense_cutlass(ours.values, reordered), underfull)
    ours = TwoFour.encode(underfull, fill=(2, 3, 0, 1))
    values, reordered = torch_two_four.sparse_semi_structured_from_dense_cutlass(underfull)
    assert torch.equal(ours.values, values)
    assert torch.equal(ours.indices.view(word), reordered.flatten()[order])


# ---- bytes


def test_bytes_by_hand():
    W = torch.zeros(3, 5)
    W[0, 1] = W[0, 4] = W[2, 0] = W[2, 2] = 1.0
    assert Bitmap.encode(W).nbytes == 4 * 4 + 2  # 4 values, 15 bits
    assert CSR.encode(W).nbytes == 4 * 4 + 4 * 4 + 4 * 4  # 4 values, 4 columns, 4 pointers
    assert CSR.encode(W.half(), torch.int16).nbytes == 4 * 2 + 4 * 2 + 4 * 4
    assert CSR.encode(W.to(torch.int8), torch.uint8).nbytes == 4 + 4 + 4 * 4

    W = torch.zeros(8, 8, dtype=torch.float16)
    W[5, 2] = 1
    assert BlockSparse.encode(W).nbytes == 16 * 2 + 1 * 4 + 3 * 4  # a tile of 16, its column, 3 pointers
    assert BlockSparse.encode(W, (2, 8)).nbytes == 16 * 2 + 1 * 4 + 5 * 4
    assert TwoFour.encode(W).nbytes == 32 * 2 + 8  # half of the values, 16 nibbles
    assert TwoFour.encode(torch.zeros(3, 4, dtype=torch.int8)).nbytes == 6 + 2  # 3 nibbles


@pytest.mark.parametrize(
    ("dtype", "ratio"), [(torch.float32, 0.53125), (torch.float16, 0.5625), (torch.bfloat16, 0.5625), (torch.int8, 0.625)]
)
def test_two_four_ratio(dtype, ratio):
    W = random_two_four(64, 96, dtype)
    assert TwoFour.encode(W).nbytes / W.nbytes == ratio


def encode(encoding: str, W: torch.Tensor, index_bits: int = 32, tile: tuple[int, int] = (4, 4)):
    index = {16: torch.int16, 32: torch.int32}[index_bits]
    return {
        "bitmap": lambda: Bitmap.encode(W),
        "csr": lambda: CSR.encode(W, index),
        "2:4": lambda: TwoFour.encode(W),
        "block": lambda: BlockSparse.encode(W, tile),
    }[encoding]()


@pytest.mark.parametrize("value_bits", [32, 16, 8])
@pytest.mark.parametrize(("encoding", "index_bits", "tile"), [
    ("bitmap", 32, (4, 4)), ("csr", 32, (4, 4)), ("csr", 16, (4, 4)), ("2:4", 32, (4, 4)),
    ("block", 32, (4, 4)), ("block", 32, (2, 8)), ("block", 32, (8, 1)),
])  # fmt: skip
def test_cost_is_what_is_stored(encoding, index_bits, tile, value_bits):
    assert set(Cost.formats) == {"bitmap", "csr", "2:4", "block"}
    shape = (32, 48)
    cost = Cost.of(encoding, shape, value_bits, index_bits, tile)
    for sparsity in (0.5, 0.75, 1.0) if encoding == "2:4" else (0.0, 0.25, 0.5, 0.875, 1.0):
        if encoding == "2:4":
            W = random_two_four(*shape, VALUE_DTYPE[value_bits], non_zeros=round(4 * (1 - sparsity)))
        elif encoding == "block":
            grid = random_matrix(shape[0] // tile[0], shape[1] // tile[1], round(sparsity * 1536 / math.prod(tile)))
            W = torch.kron(grid, torch.ones(tile)).to(VALUE_DTYPE[value_bits])
        else:
            W = random_matrix(*shape, round(sparsity * 1536), VALUE_DTYPE[value_bits])
        assert (W == 0).float().mean() == sparsity
        assert cost.bits(sparsity) * 1536 / 8 == pytest.approx(encode(encoding, W, index_bits, tile).nbytes, rel=1e-12)


def test_cost_out_of_reach_and_bad_input():
    assert math.isnan(Cost.of("2:4", (8, 8), 16).bits(0.49))
    assert Cost.of("2:4", (8, 8), 16).bits(0.5) == 9
    for sparsity in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"^sparsity must be in \[0, 1\], got {sparsity}$"):
            Cost.of("csr", (8, 8), 16).bits(sparsity)
    for function in (Cost.of, break_even):
        with pytest.raises(ValueError, match=r"^encoding must be one of bitmap, csr, 2:4, block, got 'coo'$"):
            function("coo", (8, 8), 16)
        with pytest.raises(ValueError, match=r"^shape must be \(rows, cols\) with at least one entry, got \(0, 8\)$"):
            function("csr", (0, 8), 16)
        with pytest.raises(ValueError, match=r"^tile must divide the matrix, of shape \(8, 6\), got 4x4$"):
            function("block", (8, 6), 16)


# ---- break-even


@pytest.mark.parametrize("value_bits", [32, 16, 8])
def test_break_even_by_hand(value_bits):
    v = value_bits
    assert break_even("bitmap", (64, 64), v) == pytest.approx(1 / v)
    assert break_even("2:4", (64, 64), v) == 0.5
    # v (1 - s) + 32 (1 - s) + 32 * 65 / 4096 = v
    assert break_even("csr", (64, 64), v) == pytest.approx(float((32 + Fraction(65, 128)) / (v + 32)))
    assert break_even("csr", (64, 64), v, index_bits=16) == pytest.approx(float((16 + Fraction(65, 128)) / (v + 16)))
    assert break_even("csr", (10**4, 10**6), v) == pytest.approx(32 / (v + 32), abs=1e-5)
    # (v + 32 / 16) (1 - s) + 32 * 17 / 4096 = v
    assert break_even("block", (64, 64), v) == pytest.approx(float((2 + Fraction(17, 128)) / (v + 2)))


@pytest.mark.parametrize("value_bits", [32, 16, 8])
@pytest.mark.parametrize(("encoding", "index_bits", "tile"), [
    ("bitmap", 32, (4, 4)), ("csr", 32, (4, 4)), ("csr", 16, (4, 4)), ("block", 32, (4, 4)), ("block", 32, (1, 8)),
])  # fmt: skip
def test_break_even_on_matrices_just_below_and_just_above(encoding, index_bits, tile, value_bits):
    rows, cols = 64, 96
    shape = (rows // tile[0], cols // tile[1]) if encoding == "block" else (rows, cols)  # of what can be zero
    crossing = break_even(encoding, (rows, cols), value_bits, index_bits, tile) * math.prod(shape)
    most_that_do_not_pay = math.floor(crossing + 1e-6)

    def sizes(zeros):
        W = random_matrix(*shape, zeros, torch.int64)
        if encoding == "block":
            W = torch.kron(W, torch.ones(tile, dtype=torch.int64))
        W = W.to(VALUE_DTYPE[value_bits])
        encoded = encode(encoding, W, index_bits, tile)
        assert torch.equal(encoded.decode(), W)
        return encoded.nbytes, W.nbytes

    encoded, dense = sizes(most_that_do_not_pay)
    assert encoded >= dense
    encoded, dense = sizes(most_that_do_not_pay + 1)
    assert encoded < dense


def test_a_tiny_matrix_never_pays():
    assert break_even("csr", (2, 2), 8) > 1
    assert CSR.encode(torch.zeros(2, 2, dtype=torch.int8)).nbytes > 4
    assert break_even("block", (4, 4), 8, tile=(4, 4)) < 1  # one tile of 16 bytes against two pointers
    assert BlockSparse.encode(torch.zeros(4, 4, dtype=torch.int8)).nbytes < 16


# ---- bad input


@pytest.mark.parametrize("encoder", [Bitmap, CSR, TwoFour, BlockSparse])
@pytest.mark.parametrize("shape", [(8,), (4, 4, 4), ()])
def test_encoders_need_a_matrix(encoder, shape):
    with pytest.raises(ValueError, match=r"^W must be 2-D \(rows, cols\), got shape \("):
        encoder.encode(torch.zeros(shape))


def test_csr_index_too_narrow():
    for index, columns in ((torch.int8, 128), (torch.uint8, 256), (torch.int16, 32768)):
        W = torch.zeros(1, columns)
        W[0, -1] = 1
        assert same(CSR.encode(W, index).decode(), W)  # the last column that fits
        with pytest.raises(
            ValueError, match=rf"^index must hold columns up to {columns}, got {index} \(up to {columns - 1}\)$"
        ):
            CSR.encode(torch.zeros(1, columns + 1), index)


def test_two_four_refuses():
    W = random_two_four(3, 12, torch.float32)
    W[1, 4:8] = torch.tensor([1.0, 0, 2, 3])
    with pytest.raises(ValueError, match=r"^W must hold at most 2 non-zeros in every 4, got 3 at row 1, columns 4-7$"):
        TwoFour.encode(W)
    with pytest.raises(ValueError, match=r"^W must have a multiple of 4 columns, got shape \(4, 6\)$"):
        TwoFour.encode(torch.zeros(4, 6))
    with pytest.raises(ValueError, match=r"^fill must be an order of 0, 1, 2 and 3, got \(0, 1, 2, 2\)$"):
        TwoFour.encode(torch.zeros(4, 8), fill=(0, 1, 2, 2))


def test_block_refuses():
    with pytest.raises(ValueError, match=r"^tile shape must divide the matrix, of shape \(6, 8\), got 4x4$"):
        BlockSparse.encode(torch.zeros(6, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_bytes_are_those_of_the_encodings(dtype):
    matrices = [random_matrix(7, 12, zeros=50, dtype=dtype), random_matrix(5, 20, zeros=31, dtype=dtype, seed=1)]
    assert packed_bytes(matrices) == {
        "bitmap": pytest.approx(sum(Bitmap.encode(W).nbytes for W in matrices), abs=2),
        "csr": sum(CSR.encode(W).nbytes for W in matrices),
    }
    for W in matrices:
        W.view(-1, 4)[:, 1:3] = 0
    packed = packed_bytes(iter(matrices))
    assert packed["2:4"] == pytest.approx(sum(TwoFour.encode(W).nbytes for W in matrices), abs=2)
    matrices[1][0, :3] = 1
    assert list(packed_bytes(matrices)) == ["bitmap", "csr"]
    assert list(packed_bytes([torch.zeros(3, 6)])) == ["bitmap", "csr"]  # columns that 4 does not divide
