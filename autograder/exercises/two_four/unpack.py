"""Exercise 15.3: back again."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.two_four.fixtures import packed, two_four, unpacked
from autograder.inside.case import call


def unpack_2_4(values: Tensor, codes: Tensor) -> Tensor:
    return unpacked(values, codes)


unpack = Exercise(
    "two_four.unpack",
    defines="unpack_2_4",
    title="Back again",
    minutes=12,
    difficulty=2,
    hints=(
        "Go the other way: cut each word into four nibbles, each nibble into two places, and put the two values of the "
        "group there.",
        "Convert the words to int64; shifted right by 0, 4, 8 and 12 bits and cut with `& 15` they give the nibbles, also "
        "where a word is negative. `nibble & 3` is the lower place, `nibble >> 2` the upper one. `scatter` puts values at "
        "places along a dimension.",
        "`(codes.long()[..., None] >> torch.tensor([0, 4, 8, 12]) & 15).flatten(1)` are the nibbles (N, K / 4). Stack the "
        "two places to (N, K / 4, 2). Into zeros (N, K / 4, 4) of the values' dtype `scatter(2, places, ...)` the values, "
        "unflattened to pairs; then `.flatten(1)`.",
    ),
    reference=unpack_2_4,
    rules=Rules(tolerance=0),
)


@unpack.stage(
    "puts every value back to its place",
    points=1,
    exposes="(N, K) in the dtype of the values. Value 2 g of a row goes to the lower place of group g, value 2 g + 1 to the upper one.",
)
def _(g):
    W = two_four(g, 3, 16)
    W[:, 12:] = torch.tensor([1.0, -2, 0, 0]).half()  # no word has its highest bit set
    yield call(*packed(W))


@unpack.stage(
    "words with the highest bit set, empty groups, every word of a row",
    points=1,
    exposes="A negative int16 is 16 bits like the others: cut out the lowest four bits after the shift (`& 15`). Groups with fewer non-zeros hold zeros "
    "as values; a row has as many words as K / 16.",
    pure=True,
)
def _(g):
    yield call(*packed(two_four(g, 1, 16)))
    yield call(*packed(two_four(g, 5, 48)))
    yield call(*packed(two_four(g, 7, 80, least=0)))
    yield call(*packed(two_four(g, 48, 32, dtype=torch.bfloat16)))
    yield call(*packed(two_four(g, 300, 16)))
    yield call(*packed(two_four(g, 2, 16 * 270)))
    for dtype, smallest, largest in ((torch.float16, 6e-8, 65504), (torch.bfloat16, 1e-38, 3e38)):
        signs = two_four(g, 4, 32).sign().to(dtype)
        yield call(*packed(torch.cat([signs * smallest, signs * largest])))


def mistaken(name: str, says: str, wrong):
    unpack.misconception(name, says)(wrong)


def halves(values, codes, places):
    """The dense matrix by given places (N, K/4, 2)."""
    return values.new_zeros(*places.shape[:2], 4).scatter(-1, places, values.unflatten(1, (-1, 2))).flatten(1)


def nibbles(codes):
    return (codes.long()[..., None] >> torch.tensor([0, 4, 8, 12]) & 15).flatten(1)


def by_division(values, codes):
    words = codes.long()[..., None]
    found = torch.div(words, torch.tensor([1, 16, 256, 4096]), rounding_mode="trunc").remainder(16).flatten(1)
    return halves(values, codes, torch.stack([found & 3, found >> 2], -1))


def values_by_position(values, codes):
    n = nibbles(codes)
    places = torch.stack([n & 3, n >> 2], -1)
    half = values.shape[1] // 2
    pairs = torch.stack([values[:, :half], values[:, half:]], -1)  # all first values, then all second ones
    return values.new_zeros(*places.shape[:2], 4).scatter(-1, places, pairs).flatten(1)


def one_word_per_row(values, codes):
    n = nibbles(codes[:, :1].expand_as(codes))
    return halves(values, codes, torch.stack([n & 3, n >> 2], -1))


mistaken(
    "halves of a nibble swapped",
    "You read the lower place from the upper two bits of a nibble. It is in the lower two: `nibble & 3`; the upper place is `nibble >> 2`.",
    lambda values, codes: unpacked(values, codes, swap=True),
)
mistaken(
    "first group in the highest bits",
    "You read the groups of a word from the highest bits down. The first group lies in the lowest four.",
    lambda values, codes: unpacked(values, codes, (3, 2, 1, 0)),
)
mistaken(
    "bytes swapped",
    "You read the two bytes of a word in the other order. Group 0 lies in bits 0 to 3, group 1 in 4 to 7, group 2 in 8 to 11.",
    lambda values, codes: unpacked(values, codes, (2, 3, 0, 1)),
)
mistaken(
    "nibbles of a byte swapped",
    "You read the two groups in a byte in the other order: the lower four bits come first.",
    lambda values, codes: unpacked(values, codes, (1, 0, 3, 2)),
)
mistaken(
    "shifts of two bits",
    "You shift by 0, 2, 4 and 6 bits. A group takes four bits, so the shifts are 0, 4, 8 and 12.",
    lambda values, codes: halves(
        values,
        codes,
        torch.stack([(n := (codes.long()[..., None] >> torch.tensor([0, 2, 4, 6]) & 15).flatten(1)) & 3, n >> 2], -1),
    ),
)
mistaken(
    "divided instead of shifted",
    "You divide words by 16, 256 and 4096, and negative words come out wrong. Shift and cut (`>> 4 & 15`), then the sign is a bit like others.",
    by_division,
)
mistaken(
    "absolute words",
    "You took the absolute value of negative words. Their bits are not those of the positive number: cut with `& 15` after the shift.",
    lambda values, codes: unpacked(values, codes.int().abs()),
)
mistaken(
    "limited at 0",
    "You set negative words to zero. The highest bit is not a sign here, it is the upper bit of the last group's upper place.",
    lambda values, codes: unpacked(values, codes.clamp(min=0)),
)
mistaken(
    "fifteen bits",
    "You drop the highest bit of a word, and the last group's upper place loses its upper bit.",
    lambda values, codes: unpacked(values, codes.int() & 0x7FFF),
)
mistaken(
    "first values, then second values",
    "You take the first half of a row of values for the lower places and the second half for the upper. The two values of a group are neighbours.",
    values_by_position,
)
mistaken(
    "the first word for all",
    "You read every group of a row from the row's first word. Word w of a row holds groups 4 w to 4 w + 3.",
    one_word_per_row,
)
mistaken(
    "values at the front",
    "You put the two values at the first two places of each group. Where they belong is what the words say.",
    lambda values, codes: halves(values, codes, torch.tensor([0, 1]).expand(len(values), values.shape[1] // 2, 2)),
)
mistaken(
    "transposed",
    "Your matrix is transposed. W has a row per output: (N, K).",
    lambda values, codes: unpacked(values, codes).T,
)
mistaken(
    "always float32",
    "Your matrix is float32 whatever the values are. It should be what was packed, in the same dtype.",
    lambda values, codes: unpacked(values, codes).float(),
)


@unpack.accepts("a comparison of all places")
def _(values, codes):
    word = codes.to(torch.int32) & 0xFFFF
    n = torch.stack([word >> 4 * k & 0xF for k in range(4)], dim=2).reshape(len(codes), -1, 1)  # (N, K/4, 1)
    v0, v1 = values[:, 0::2, None], values[:, 1::2, None]
    p = torch.arange(4)
    dense = torch.where(n % 4 == p, v0, torch.where(n // 4 == p, v1, torch.zeros((), dtype=values.dtype)))
    return dense.reshape(len(codes), -1)


@unpack.accepts("flat offsets, as torch does it")
def _(values, codes):
    m, k = values.shape
    meta = torch.stack([codes & 3] + [(codes >> s) & 3 for s in range(2, 16, 2)], -1).view(-1)
    offsets = meta.long() + torch.arange(0, 2 * m * k, 4).view(-1, 1).repeat(1, 2).view(-1)
    dense = torch.zeros(2 * m * k, dtype=values.dtype)
    dense[offsets] = values.reshape(-1)
    return dense.view(m, 2 * k)


@unpack.accepts("loops")
def _(values, codes):
    N, half = values.shape
    W = torch.zeros(N, 2 * half, dtype=values.dtype)
    for r in range(N):
        for group in range(half // 2):
            nibble = (int(codes[r, group // 4]) % 65536) // 16 ** (group % 4) % 16
            W[r, 4 * group + nibble // 4] = values[r, 2 * group + 1]
            W[r, 4 * group + nibble % 4] = values[r, 2 * group]
    return W
