"""Exercise 15.2: two bits each, sixteen to a word."""

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.two_four.fixtures import places_of, two_four, words_of
from autograder.inside.case import call
from sparsity_edu.kernels.packed24 import _cutlass_order


def index_words(places: Tensor) -> Tensor:
    return words_of(places)


words = Exercise(
    "two_four.words",
    defines="index_words",
    title="Two bits each, sixteen to a word",
    minutes=10,
    difficulty=2,
    hints=(
        "It is a sum with place values, as in a decimal number: within a group the second place is worth 4 times the "
        "first, and a group is worth 16 times the one before.",
        "The nibble of a group is `i0 | i1 << 2`. Put four nibbles next to each other with `unflatten(1, (-1, 4))`, shift "
        "them by 0, 4, 8 and 12 bits, and add. Do all this in int64: in an int16 the highest bit is the sign.",
        "`nibbles = places[..., 0] | places[..., 1] << 2` is (N, K / 4). Unflattened and shifted by `torch.tensor([0, 4, "
        "8, 12])`, they are summed over the last dimension; `.to(torch.int16)` keeps the lowest 16 bits.",
    ),
    reference=index_words,
    forbids=("torch.sparse.to_sparse_semi_structured", "torch.sparse._semi_structured_conversions"),
)


@words.stage(
    "one word: four nibbles",
    points=1,
    exposes="int16 (N, K / 16). A group is the nibble i0 | i1 << 2; the first group lies in the lowest four bits.",
)
def _(g):
    for pairs in ([[0, 1], [0, 1], [0, 1], [0, 1]], [[2, 3], [0, 1], [0, 1], [0, 1]], [[1, 2], [1, 3], [0, 2], [0, 1]]):
        yield call(torch.tensor([pairs]))  # none with the highest bit set
    places = places_of(two_four(g, 1, 16))
    places[:, -1] = torch.tensor([0, 1])
    yield call(places)


@words.stage(
    "many words, and the highest bit",
    points=1,
    exposes="Four groups next to each other in a row make a word, and words lie in a row as its groups do. A last group with i1 = 2 or 3 sets "
    "the highest bit: as an int16 such a word is negative.",
    pure=True,
)
def _(g):
    yield call(torch.tensor([[[2, 3]] * 4]))
    yield call(places_of(two_four(g, 3, 64)))
    yield call(places_of(two_four(g, 5, 80)))
    yield call(places_of(two_four(g, 64, 32)))
    yield call(places_of(two_four(g, 300, 16)))
    yield call(places_of(two_four(g, 2, 16 * 270, least=0)))


def mistaken(name: str, says: str, wrong):
    words.misconception(name, says)(wrong)


def in_words(nibbles: Tensor, shifts=(0, 4, 8, 12)) -> Tensor:
    return (nibbles.unflatten(1, (-1, 4)) << torch.tensor(shifts)).sum(-1).to(torch.int16)


def nibbles_of(places: Tensor) -> Tensor:
    return places[..., 0] | places[..., 1] << 2


def pieces(bits: int):
    """A word of its own for every `bits` bits."""
    per = bits // 4

    def wrong(places):
        shifts = 4 * torch.arange(per)
        kind = {8: torch.uint8, 32: torch.int32}[bits]
        groups = nibbles_of(places)
        groups = torch.cat([groups, groups.new_zeros(len(groups), -groups.shape[1] % per)], 1)
        return (groups.unflatten(1, (-1, per)) << shifts).sum(-1).to(kind)

    return wrong


def reordered(places):
    """CUTLASS's order, where there is one."""
    w = words_of(places)
    N, cols = w.shape
    if N % 32 or cols % 2:
        return w
    out = torch.empty_like(w).flatten()
    out[_cutlass_order(w)] = w.flatten()
    return out.view_as(w)


mistaken(
    "halves of a nibble swapped",
    "Your nibble is i0 << 2 | i1. The lower place belongs into the lower two bits: i0 | i1 << 2.",
    lambda places: in_words(places[..., 1] | places[..., 0] << 2),
)
mistaken(
    "first group in the highest bits",
    "Your nibbles are in the order in which one writes a number: the first group in the highest bits. The first group goes into the lowest four.",
    lambda places: in_words(nibbles_of(places), (12, 8, 4, 0)),
)
mistaken(
    "all bits reversed",
    "The first place is in the highest two bits of your word, and so on down. Both orders are turned around: the first group goes into the lowest "
    "four bits, and its lower place into the lowest two.",
    lambda places: in_words(places[..., 1] | places[..., 0] << 2, (12, 8, 4, 0)),
)
mistaken(
    "bytes swapped",
    "The two bytes of your words are in the other order. Group 0 goes into bits 0 to 3, group 1 into 4 to 7, group 2 into 8 to 11.",
    lambda places: in_words(nibbles_of(places), (8, 12, 0, 4)),
)
mistaken(
    "nibbles of a byte swapped",
    "The two groups in each byte of your words are in the other order: the first one goes into the lower four bits.",
    lambda places: in_words(nibbles_of(places), (4, 0, 12, 8)),
)
mistaken(
    "shifts of two bits",
    "You shift the groups by 2 bits each, and they overlap. A group has two places of two bits: it takes four.",
    lambda places: in_words(nibbles_of(places), (0, 2, 4, 6)),
)
mistaken(
    "four bits for a place",
    "You gave each place four bits, so four groups need 32 and half of them are lost. Two bits say which of four.",
    lambda places: in_words(places[..., 0] | places[..., 1] << 4, (0, 8, 16, 24)),
)
mistaken(
    "a bit per place",
    "Your nibble is a bitmap: bit i is set where place i is stored. It has the same size, but tensor cores want the numbers of the two places.",
    lambda places: in_words((1 << places[..., 0]) | (1 << places[..., 1])),
)
mistaken(
    "strided groups",
    "A word of yours takes every (K / 16)-th group of the row. It holds four groups that are neighbours: `unflatten(1, (-1, 4))`, not `(4, -1)`.",
    lambda places: (nibbles_of(places).unflatten(1, (4, -1)) << torch.tensor([0, 4, 8, 12])[:, None]).sum(1).to(torch.int16),
)
mistaken(
    "places of both kinds apart",
    "Your word holds the four lower places in one half and the four upper ones in the other. The two places of a group stay together.",
    lambda places: (
        (places.unflatten(1, (-1, 4)) << torch.stack([2 * torch.arange(4), 8 + 2 * torch.arange(4)], 1))
        .sum((-1, -2))
        .to(torch.int16)
    ),
)
mistaken(
    "bytes",
    "Your words have 8 bits. Torch and the hardware take 16-bit words of four groups; as bytes they would lie in the same order, but they "
    "are other tensors.",
    pieces(8),
)
mistaken(
    "words of 32 bits",
    "Your words have 32 bits, eight groups each. Words of this format have 16: K needs only be a multiple of 16.",
    pieces(32),
)
mistaken(
    "int32",
    "Your words are numbers from 0 to 65535 in a wider type, so they take more bytes than they need. An int16 holds the same 16 bits: words above 32767 are "
    "negative numbers then.",
    lambda places: words_of(places).int() & 0xFFFF,
)
mistaken(
    "cut at 32767",
    "You limited words to the largest int16. The highest bit is a bit like the others: let the number become negative.",
    lambda places: (
        (nibbles_of(places).unflatten(1, (-1, 4)) << torch.tensor([0, 4, 8, 12])).sum(-1).clamp(max=32767).to(torch.int16)
    ),
)
mistaken(
    "highest bit dropped",
    "You cut words to 15 bits so that they stay positive, and the last group lost the upper bit of i1.",
    lambda places: ((nibbles_of(places).unflatten(1, (-1, 4)) << torch.tensor([0, 4, 8, 12])).sum(-1) & 0x7FFF).to(torch.int16),
)
mistaken(
    "CUTLASS's order",
    "Your words are right, but in the order into which torch brings them for CUTLASS's kernels. Here a row's words are in the row, from left to right.",
    reordered,
)


@words.accepts("numpy, bytes first")
def _(places):
    i0, i1 = places.numpy().astype(np.uint8).transpose(2, 0, 1)
    nibbles = i0 | i1 << 2
    as_bytes = np.ascontiguousarray(nibbles[:, ::2] | nibbles[:, 1::2] << 4)  # (N, K/8), little-endian
    return torch.from_numpy(as_bytes.view("<i2").copy())


@words.accepts("as torch does it")
def _(places):
    meta_4 = places[..., 0] | (places[..., 1] << 2)
    meta_n = meta_4.view(places.shape[0], -1, 4).to(torch.int16)
    return meta_n[:, :, 0] | (meta_n[:, :, 1] << 4) | (meta_n[:, :, 2] << 8) | (meta_n[:, :, 3] << 12)


@words.accepts("loops over Python numbers")
def _(places):
    rows = []
    for groups in places.tolist():
        row = []
        for start in range(0, len(groups), 4):
            word = sum((low + 4 * high) * 16**k for k, (low, high) in enumerate(groups[start : start + 4]))
            row.append(word - 65536 if word > 32767 else word)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.int16)
