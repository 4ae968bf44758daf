"""Exercise 1.5: 2:4: two values and where they were."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.patterns.fixtures import drawn, holed
from autograder.inside.case import call
from sparsity_edu import storage


def two_four_encode(W: Tensor) -> tuple[Tensor, Tensor]:
    encoded = storage.TwoFour.encode(W)
    nibbles = torch.stack([encoded.indices & 15, encoded.indices >> 4], dim=1).flatten()[: W.numel() // 4]  # (groups,)
    return encoded.values, torch.stack([nibbles & 3, nibbles >> 2], dim=1).view(encoded.values.shape)


two_four = Exercise(
    "patterns.two_four",
    defines="two_four_encode",
    title="2:4: two values and where they were",
    minutes=25,
    difficulty=3,
    hints=(
        "In every group of four choose two places: those of the non-zeros and, if there are too few, of the first zeros. "
        "Once you have the places in ascending order, `gather` fetches the values.",
        "One stable sort does the choosing: sort each group by *is it zero?*. The non-zeros come first, then the zeros, "
        "both from left to right. The first two positions are the two to store.",
        "`groups = W.reshape(-1, 4)`, `zero = groups == 0`. The places are `zero.int().argsort(dim=1, stable=True)[:, "
        ":2]`, sorted along dimension 1; `gather` the values with them, and reshape both to (rows, cols / 2), the places "
        "as uint8. Before that check that 4 divides the columns, and that every group has at least two zeros.",
    ),
    reference=two_four_encode,
    rules=Rules(tolerance=0),
    forbids=(
        "torch.sparse.to_sparse_semi_structured",
        "torch.sparse.SparseSemiStructuredTensor",
        "torch.sparse.SparseSemiStructuredTensorCUTLASS",
        "torch.sparse.semi_structured",
        "torch.sparse._semi_structured_conversions",
    ),
)


def two_of_four(g: torch.Generator, rows: int, cols: int, per_group: Tensor | int = 2, dtype=torch.float32) -> Tensor:
    """(rows, cols) with `per_group` non-zeros in every 4, of either sign; `per_group` may differ from group to group."""
    place = torch.rand(rows, cols // 4, 4, generator=g).argsort(-1)  # a permutation of 0..3 per group
    keep = place < torch.as_tensor(per_group)[..., None]
    return holed(g, rows, cols, zeros=0.0, dtype=dtype).masked_fill(~keep.view(rows, cols), 0)


@two_four.stage(
    "stores the two non-zeros of every group and their places",
    points=1,
    exposes="values (rows, cols / 2) in the order they had, in the dtype of W, whichever that is; indices uint8 of the same shape: the "
    "place 0, 1, 2 or 3 inside the group. What is stored is what is not zero, however small.",
)
def _(g):
    yield call(two_of_four(g, 2, 8))
    yield call(two_of_four(g, 5, 12, dtype=torch.float64) / 3e20)  # small is not zero, and float32 would round
    for dtype in (torch.float16, torch.bfloat16, torch.uint8, torch.int16, torch.bool):
        yield call(two_of_four(g, drawn(g, 2, 5), 4 * drawn(g, 3, 8), dtype=dtype))
    yield call(two_of_four(g, 3, 8, dtype=torch.int64) * (2**55 + 1))  # no float holds these
    lowest = two_of_four(g, 4, 8, dtype=torch.int8)
    yield call(lowest.masked_fill(lowest < -20, -128))  # has no magnitude in int8
    yield call(two_of_four(g, 6, 8).T.contiguous().T)  # not contiguous
    yield call(two_of_four(g, 2, 4 * drawn(g, 130, 140)))  # more columns than a byte counts


@two_four.stage(
    "fills groups that hold fewer than two non-zeros",
    points=1,
    exposes="Every group has two different indices in ascending order. What is missing is filled with the group's first zeros: a group "
    "with its only non-zero at 0 gets (0, 1), one with it at 3 gets (0, 3), an empty group (0, 1).",
    pure=True,
)
def _(g):
    yield call(torch.tensor([5.0, -6.0, 7.0, -8.0]).diag())
    yield call(torch.zeros(3, 8))
    yield call(two_of_four(g, 4, 12, per_group=1))
    for dtype in (torch.float16, torch.uint8):
        yield call(two_of_four(g, 6, 20, per_group=torch.randint(0, 3, (6, 5), generator=g), dtype=dtype))
    scales = torch.tensor([1.0, 1e-8, 1e-30, 1e-44, torch.inf])  # beside zeros, of which some are -0.0
    few = two_of_four(g, 5, 24, per_group=torch.randint(0, 3, (5, 6), generator=g))
    yield call(torch.where(few != 0, few.sign() * scales[torch.randint(len(scales), few.shape, generator=g)], -0.0))


@two_four.stage(
    "refuses a matrix that is not 2:4",
    points=1,
    exposes="A ValueError if any group holds more than two non-zeros, or if 4 does not divide the columns. Dropping a weight silently "
    "would change the model. A matrix that is 2:4 is not refused.",
)
def _(g):
    for most in (3, 4):  # in one group only: the matrix, and every row, still is at most half full
        per_group = torch.ones(4, 3, dtype=torch.int64)
        per_group[drawn(g, 0, 4)] = torch.tensor([0, most, 1])[torch.randperm(3, generator=g)]
        W = two_of_four(g, 4, 12, per_group=per_group)
        yield call(W)
        yield call(W * 1e-20)  # faint weights are weights
    yield call(holed(g, 4, 6, zeros=0.8))  # 24 entries: divisible by 4, but no row is
    yield call(torch.zeros(4, 4 * drawn(g, 2, 5) + 2))
    yield call(two_of_four(g, drawn(g, 2, 5), 8))


def check_two_four(W, count=True):
    if W.shape[1] % 4 or (count and ((W.unflatten(1, (-1, 4)) != 0).sum(-1) > 2).any()):
        raise ValueError("not 2:4")


def gathered(W: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Values and indices for the chosen places (groups, 2)."""
    shape = (W.shape[0], W.shape[1] // 2)
    return W.reshape(-1, 4).gather(1, chosen.long()).view(shape), chosen.to(torch.uint8).view(shape)


def nonzeros_first(W: Tensor) -> Tensor:
    """Places of every group (groups, 4), the non-zeros before the zeros, both from left to right."""
    return (W.reshape(-1, 4) == 0).int().argsort(dim=1, stable=True)


@two_four.misconception(
    "not sorted",
    "Your two indices are not always in ascending order: the filler comes after the non-zero, wherever it lies. The hardware reads the "
    "lower place first. Sort the two.",
)
def _(W):
    check_two_four(W)
    return gathered(W, nonzeros_first(W)[:, :2])


@two_four.misconception(
    "largest first",
    "You ordered the two values by size. They keep the order they had in the row: sort the two indices, then take the values.",
)
def _(W):
    check_two_four(W)
    return gathered(W, W.reshape(-1, 4).abs().argsort(dim=1, descending=True, stable=True)[:, :2])


@two_four.misconception(
    "signed",
    "You took the two largest values, and a zero is larger than a negative weight. Choose by `!= 0` (or by magnitude).",
)
def _(W):
    check_two_four(W)
    return gathered(W, W.reshape(-1, 4).argsort(dim=1, descending=True, stable=True)[:, :2].sort(1).values)


@two_four.misconception(
    "same index twice",
    "A group with one non-zero has two equal indices. Tensor cores leave that undefined: the second must be another place, one that "
    "holds a zero.",
)
def _(W):
    check_two_four(W)
    order, nonzero = nonzeros_first(W), (W.reshape(-1, 4) != 0).sum(1)
    filled = torch.where(nonzero[:, None] > torch.arange(2), order[:, :2], order[:, :1])
    return gathered(W, filled * (nonzero[:, None] > 0))


@two_four.misconception(
    "index 0 as filler",
    "Missing entries are filled with value 0 and index 0. If the only non-zero is at place 0 its index is then there twice, and after a "
    "non-zero the order falls. Fill with the group's first zeros.",
)
def _(W):
    check_two_four(W)
    order, nonzero = nonzeros_first(W), (W.reshape(-1, 4) != 0).sum(1)
    real = nonzero[:, None] > torch.arange(2)
    values, _ = gathered(W, order[:, :2])
    return values, (order[:, :2] * real).to(torch.uint8).view(values.shape)


@two_four.misconception(
    "filled with the last zeros",
    "You fill with the last zeros of the group. The rule says the first ones, as a stable sort gives.",
)
def _(W):
    check_two_four(W)
    last_first = (W.reshape(-1, 4) == 0).int().flip(1).argsort(dim=1, stable=True)
    return gathered(W, (3 - last_first[:, :2]).sort(1).values)


@two_four.misconception(
    "columns of the matrix",
    "Your indices are columns of the matrix. Inside a group of 4 there are only 4 places: 2 bits are enough, and that is the point.",
)
def _(W):
    check_two_four(W)
    values, indices = gathered(W, nonzeros_first(W)[:, :2].sort(1).values)
    return values, (torch.arange(W.shape[1] // 2) // 2 * 4 + indices).to(torch.uint8)


@two_four.misconception(
    "int64 indices",
    "Your indices are int64, which torch's sort and nonzero return: 8 bytes each for 2 bits of information. Convert to torch.uint8.",
)
def _(W):
    values, indices = two_four_encode(W)
    return values, indices.long()


@two_four.misconception(
    "one row per group", "Your tensors have a row per group, (rows * cols / 4, 2). Give them the shape (rows, cols / 2)."
)
def _(W):
    return tuple(part.reshape(-1, 2) for part in two_four_encode(W))


@two_four.misconception(
    "down the columns", "Your groups run down a column. They lie along a row, the dimension a dot product sums over."
)
def _(W):
    if W.shape[1] % 4:
        raise ValueError("cols")
    padded = F.pad(W.T, (0, -W.shape[0] % 4))  # (cols, rows to a multiple of 4)
    values, indices = gathered(padded, nonzeros_first(padded)[:, :2].sort(1).values)
    return values.T, indices.T


@two_four.misconception(
    "prunes instead of refusing",
    "A group with three non-zeros lost one without a word. Encoding must not change a matrix: raise a ValueError.",
)
def _(W):
    check_two_four(W, count=False)
    order = W.reshape(-1, 4).double().abs().argsort(dim=1, descending=True, stable=True)
    return gathered(W, order[:, :2].sort(1).values)


@two_four.misconception(
    "groups run over the end of a row",
    "You accept a row that 4 does not divide: after `reshape(-1, 4)` a group may hold the end of one row and the start of the next.",
)
def _(W):
    groups = W.reshape(-1, 4) if W.numel() % 4 == 0 else None
    if groups is None or ((groups != 0).sum(1) > 2).any():
        raise ValueError("not 2:4")
    return gathered(W, nonzeros_first(W)[:, :2].sort(1).values)


@two_four.misconception(
    "magnitudes that overflow",
    "You choose by magnitude in the dtype of W, but -128 has none in int8: abs() leaves it negative, and it loses against a zero. Choose by "
    "`!= 0`.",
)
def _(W):
    check_two_four(W)
    magnitudes = (W.byte() if W.dtype == torch.bool else W).reshape(-1, 4).abs()
    return gathered(W, magnitudes.argsort(dim=1, descending=True, stable=True)[:, :2].sort(1).values)


@two_four.misconception(
    "nearly zero",
    "You take small values for zeros and lose them. Encoding must not change a matrix: what is not exactly 0 is stored.",
)
def _(W):
    if W.is_floating_point():
        W = W.masked_fill(W.abs() < 1e-12, 0)
    return two_four_encode(W)


@two_four.accepts("loops over rows and groups")
def _(W):
    rows, cols = W.shape
    if cols % 4:
        raise ValueError("columns")
    values, indices = W.new_empty(rows, cols // 2), torch.empty(rows, cols // 2, dtype=torch.uint8)
    for r in range(rows):
        for c in range(0, cols, 4):
            group = W[r, c : c + 4].tolist()
            full = [i for i in range(4) if group[i] != 0]
            if len(full) > 2:
                raise ValueError(f"group at {r}, {c}")
            empty = [i for i in range(4) if group[i] == 0]
            pair = sorted(full + empty[: 2 - len(full)])
            for k, i in enumerate(pair):
                values[r, c // 2 + k], indices[r, c // 2 + k] = group[i], i
    return values, indices


@two_four.accepts("a table of the pairs, by bit pattern")
def _(W):
    if W.shape[-1] % 4 != 0:
        raise ValueError(W.shape)
    # pattern 0..15 of non-zeros (bit i = place i) -> the two places
    table = torch.tensor(
        [[0, 1], [0, 1], [0, 1], [0, 1], [0, 2], [0, 2], [1, 2], [9, 9], [0, 3], [0, 3], [1, 3]] + [[9, 9]] * 5
    )
    table[12] = torch.tensor([2, 3])
    groups = W.unflatten(-1, (-1, 4))
    pairs = table[((groups != 0) * torch.tensor([1, 2, 4, 8])).sum(-1)]  # (rows, groups, 2)
    if (pairs == 9).any():
        raise ValueError("more than two")
    return [torch.take_along_dim(groups, pairs, -1).flatten(1), pairs.flatten(1).byte()]
