"""2:4 packing: torch's own, word for word, and back to the bit."""

import itertools

import pytest
import torch
from matrices import DTYPES, two_four_matrix
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from sparsity_edu.kernels import packed24


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(32, 32), (96, 160), (64, 1024)])
def test_packed_word_for_word_as_torch_does(shape, dtype):
    W = two_four_matrix(*shape, dtype)
    values, meta = packed24.to_torch(packed24.pack(W))
    theirs, their_meta = sparse_semi_structured_from_dense_cutlass(W)
    assert torch.equal(values, theirs)
    assert torch.equal(meta, their_meta)
    back = packed24.from_torch(theirs, their_meta)
    assert torch.equal(packed24.unpack(back), W)
    assert torch.equal(back.codes, packed24.pack(W).codes)


def test_every_group_has_two_places_in_ascending_order():
    patterns = [p for p in itertools.product([0.0, 1.5], repeat=4) if sum(map(bool, p)) <= 2]
    W = torch.tensor(patterns + patterns[:1]).half().view(3, 16)
    packed = packed24.pack(W)
    nibbles = [int(word) >> shift & 15 for word in packed.codes.flatten().tolist() for shift in (0, 4, 8, 12)]
    assert all(nibble & 3 < nibble >> 2 for nibble in nibbles)
    full = {tuple(i for i, v in enumerate(p) if v): nibble for p, nibble in zip(patterns, nibbles, strict=False)}
    assert {
        (0, 1): 0b0100,
        (0, 2): 0b1000,
        (1, 2): 0b1001,
        (0, 3): 0b1100,
        (1, 3): 0b1101,
        (2, 3): 0b1110,
    }.items() <= full.items()
    assert torch.equal(packed24.unpack(packed), W)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes(dtype):
    W = two_four_matrix(48, 96, dtype)
    packed = packed24.pack(W)
    assert packed.shape == (48, 96)
    assert packed.nbytes == packed24.to_fragments(packed).nbytes == 0.5625 * W.nbytes


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_survive_to_the_bit(dtype):
    W = two_four_matrix(16, 64, dtype)
    W[3, 5:8], W[4, 60:] = torch.tensor([float("nan"), 0, float("-inf")]), torch.tensor([0, 0, 6e-8, 0])
    W[3, 4] = 0
    packed = packed24.pack(W)
    assert torch.equal(packed24.unpack(packed).nan_to_num(99), W.nan_to_num(99))
    fragments = packed24.to_fragments(packed)
    again = packed24.from_fragments(fragments)
    assert fragments.shape == (16, 64)
    assert torch.equal(again.values.view(torch.int16), packed.values.view(torch.int16))
    assert torch.equal(again.codes, packed.codes)


@pytest.mark.parametrize(
    ("W", "message"),
    [
        (torch.zeros(2, 16), r"float16 or bfloat16, K a multiple of 16, got \(2, 16\) in torch.float32"),
        (torch.zeros(2, 24).half(), r"got \(2, 24\)"),
        (torch.zeros(16).half(), r"got \(16,\)"),
        (torch.eye(16)[:3].half() + torch.tensor([0] * 12 + [0, 1, 1, 1.0]).half(), "got 3 at row 0, columns 12-15"),
    ],
)
def test_what_cannot_be_packed(W, message):
    with pytest.raises(ValueError, match=message):
        packed24.pack(W)


def test_shapes_that_have_no_other_order():
    packed = packed24.pack(two_four_matrix(24, 48))
    with pytest.raises(ValueError, match="multiples of 32 for torch's order, got 24 and 48"):
        packed24.to_torch(packed)
    with pytest.raises(ValueError, match="N must be a multiple of 16 and K of 32, got 24 and 48"):
        packed24.to_fragments(packed)
