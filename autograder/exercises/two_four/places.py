"""Exercise 15.1: which two of four."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.two_four.fixtures import places_of, two_four
from autograder.inside.case import call


def kept_places(W: Tensor) -> Tensor:
    _require(W)
    return places_of(W)


def _require(W: Tensor) -> None:
    if W.shape[1] % 16 or ((W.unflatten(1, (-1, 4)) != 0).sum(-1) > 2).any():
        raise ValueError("not 2:4, or K is no multiple of 16")


places = Exercise(
    "two_four.places",
    defines="kept_places",
    title="Which two of four",
    minutes=12,
    difficulty=2,
    hints=(
        "Choose two places of every four: non-zeros first, then free places in the order 2, 3, 0, 1. The best two of four "
        "are what `topk` finds, if each place has a number that says how much it is wanted.",
        "By position: 3 for place 2, 2 for place 3, 1 for place 0, 0 for place 1. Add 4 where the entry is not zero, and "
        "any non-zero is ahead of any zero. The two largest are to be stored, the lower place first.",
        "Check K first, then `nonzero = W.unflatten(1, (-1, 4)) != 0`, and that no group has more than two. "
        "`torch.tensor([1, 0, 3, 2]) + 4 * nonzero` says how much a place is wanted; its `topk(2, dim=-1).indices`, "
        "sorted along the last dimension, are the places.",
    ),
    reference=kept_places,
    forbids=("torch.sparse.to_sparse_semi_structured", "torch.sparse._semi_structured_conversions"),
)


@places.stage(
    "the two non-zeros of every group",
    points=1,
    exposes="(N, K / 4, 2) int64: the places 0 to 3 inside the group, the lower one first. Groups are four neighbours in a row.",
)
def _(g):
    yield call(two_four(g, 1, 16))
    yield call(two_four(g, 5, 48))
    yield call(two_four(g, 4, 32, dtype=torch.bfloat16))
    yield call(two_four(g, 300, 16))
    yield call(two_four(g, 2, 16 * 70, dtype=torch.bfloat16))


@places.stage(
    "two different places also where there are fewer non-zeros",
    points=1,
    exposes="Hardware wants two different places in ascending order, always. Free places are taken in the order 2, 3, 0, 1: a group with its "
    "only non-zero at 0 stores 0 and 2, one with it at 2 or at 3 stores 2 and 3, an empty group 2 and 3.",
    pure=True,
)
def _(g):
    yield call((torch.eye(4) * torch.tensor([1.0, -2.0, 3.0, -4.0])).repeat(1, 4).half())
    yield call(torch.zeros(3, 16).bfloat16())
    yield call(-torch.zeros(2, 32).half())  # -0.0 is a zero
    yield call(two_four(g, 7, 32, least=0))
    for dtype, smallest in ((torch.float16, 6e-8), (torch.bfloat16, 1e-38)):  # small is not zero
        yield call(two_four(g, 6, 48, most=1, least=0).sign().to(dtype) * smallest)


@places.stage(
    "refuses what is not 2:4",
    points=1,
    exposes="A ValueError if any group holds more than two non-zeros, or K is no multiple of 16. Two non-zeros are right, and so are none.",
)
def _(g):
    for most in (3, 4):  # in one group only
        W = two_four(g, 5, 32, most=1, least=0)
        row, column = (int(torch.randint(n, (), generator=g)) for n in (5, 8))
        signs = torch.tensor([1, -1, 1, -1]) * (torch.arange(4) < most)  # their sum says nothing
        W[row, 4 * column : 4 * column + 4] = signs[torch.randperm(4, generator=g)].half()
        yield call(W)
    W = two_four(g, 3, 16, most=0, least=0, dtype=torch.bfloat16)
    W[1, 5:8] = 1e-38  # three, however small
    yield call(W)
    yield call(torch.randn(2, 32, generator=g).half())  # more than half of a row as well
    for K in (4, 24, 40, 20 + 16 * int(torch.randint(9, (), generator=g))):
        yield call(two_four(g, 4, K))
    yield call(two_four(g, 2, 16, least=0))


def mistaken(name: str, says: str):
    return places.misconception(name, says)


@mistaken(
    "not sorted",
    "Your two places are not always in ascending order. The hardware reads the lower place first, and gives the first value to it: sort the two.",
)
def _(W):
    _require(W)
    rank = (W.unflatten(1, (-1, 4)) != 0) * 10 - torch.tensor([2, 3, 0, 1])
    return rank.argsort(dim=-1, descending=True)[..., :2]


@mistaken("descending", "The higher place comes first in all of your groups. The lower one does: sort in ascending order.")
def _(W):
    return kept_places(W).flip(-1)


@mistaken("by size", "You ordered the two by size. They stay in the order that they have in the row: the lower place first.")
def _(W):
    _require(W)
    groups = W.float().unflatten(1, (-1, 4))
    return (groups.abs() * 1e6 - torch.tensor([2.0, 3.0, 0.0, 1.0]) * 1e-9).argsort(dim=-1, descending=True, stable=True)[
        ..., :2
    ]


@mistaken("signed", "You took the two largest values, and a zero is larger than a negative weight. Choose by `!= 0`.")
def _(W):
    _require(W)
    return W.float().unflatten(1, (-1, 4)).argsort(dim=-1, descending=True, stable=True)[..., :2].sort(-1).values


@mistaken(
    "filled with the first zeros",
    "You fill groups with their first zeros, as unit 01 did. Torch takes the free places in the order 2, 3, 0, 1, and this unit follows torch.",
)
def _(W):
    _require(W)
    zero = (W.unflatten(1, (-1, 4)) == 0).int()
    return zero.argsort(dim=-1, stable=True)[..., :2].sort(-1).values


@mistaken(
    "filled with the last zeros",
    "You fill groups with their last zeros. The order of free places is 2, 3, 0, 1: an empty group stores 2 and 3, one with a non-zero at 0 stores 0 and 2.",
)
def _(W):
    _require(W)
    zero = (W.unflatten(1, (-1, 4)) == 0).int().flip(-1)
    return (3 - zero.argsort(dim=-1, stable=True)[..., :2]).sort(-1).values


@mistaken(
    "the same place twice",
    "A group with one non-zero has the same place twice. Tensor cores leave that undefined: the second must be another place, one that holds a zero.",
)
def _(W):
    _require(W)
    count = (W.unflatten(1, (-1, 4)) != 0).sum(-1, keepdim=True)
    only = (W.unflatten(1, (-1, 4)) != 0).int().argmax(-1, keepdim=True)
    return torch.where(count < 2, only, places_of(W))


@mistaken(
    "place 0 as filler",
    "What is missing is filled with place 0, whether it is free or not, and before or after. Fill with a free place, and sort.",
)
def _(W):
    _require(W)
    count = (W.unflatten(1, (-1, 4)) != 0).sum(-1, keepdim=True)
    order = (W.unflatten(1, (-1, 4)) == 0).int().argsort(dim=-1, stable=True)[..., :2]
    return order * (torch.arange(2) < count)


@mistaken(
    "columns of the matrix",
    "Your places are columns of the matrix. Inside a group there are four places: that is why two bits are enough.",
)
def _(W):
    _require(W)
    return places_of(W) + 4 * torch.arange(W.shape[1] // 4)[:, None]


@mistaken("one row per matrix row", "Your result is (N, K / 2). Keep the groups apart: (N, K / 4, 2).")
def _(W):
    return kept_places(W).flatten(1)


@mistaken(
    "all groups in one list", "Your result has a row per group, without the rows of the matrix. The shape is (N, K / 4, 2)."
)
def _(W):
    return kept_places(W).flatten(0, 1)


@mistaken(
    "groups down the columns",
    "Your groups run down a column. They lie along a row, the dimension that a dot product sums over.",
)
def _(W):
    if W.shape[1] % 16:
        raise ValueError("K")
    return places_of(W.T.reshape(1, -1)).view(W.shape[0], -1, 2)


@mistaken(
    "three are cut to two",
    "A group with three non-zeros lost one without a word. Packing must not change a matrix: raise a ValueError.",
)
def _(W):
    if W.shape[1] % 16:
        raise ValueError("K")
    return places_of(W)


@mistaken(
    "refuses nothing",
    "You raise no error. A group of three non-zeros cannot be stored in two values, and a word holds four groups: K must be a multiple of 16.",
)
def _(W):
    return places_of(W)


@mistaken(
    "small is zero",
    "You take a small weight for a zero. Only a zero is one: compare with 0 exactly, in the dtype that W has.",
)
def _(W):
    _require(W)
    return places_of(W * (W.abs() > 1e-5))


@mistaken(
    "counts the whole row",
    "You counted non-zeros in a row and not in each group of four: half of a row may be zero while one group is full.",
)
def _(W):
    if W.shape[1] % 16 or ((W != 0).sum(1) > W.shape[1] // 2).any():
        raise ValueError("too many")
    return places_of(W)


@mistaken(
    "exactly two",
    "You refuse groups with fewer than two non-zeros. At most two are allowed; pruned matrices have groups with one or none.",
)
def _(W):
    if W.shape[1] % 16 or ((W.unflatten(1, (-1, 4)) != 0).sum(-1) != 2).any():
        raise ValueError("each group must hold 2")
    return places_of(W)


@mistaken(
    "only groups of four", "You accept every K that 4 divides. A 16-bit word holds four groups, so K must be a multiple of 16."
)
def _(W):
    if ((W.unflatten(1, (-1, 4)) != 0).sum(-1) > 2).any():
        raise ValueError("not 2:4")
    return places_of(W)


@places.accepts("torch's own formulas, of its bits")
def _(W):
    K = W.shape[1]
    if K % 16:
        raise ValueError(f"{K} columns")
    m0, m1, m2, m3 = (W.view(-1, K // 4, 4) != 0).unbind(-1)
    if (m0.int() + m1 + m2 + m3 > 2).any():
        raise ValueError("more than two")
    expr0, expr1, expr2 = m0 & m1, ~m0 & m1, ~m0 & ~m1
    idx0 = expr1.long() | (expr2.long() << 1)
    idx1 = (expr0 | expr2 | m3).long() | ((expr1 | ~m1).long() << 1)
    return torch.stack([idx0, idx1], dim=-1)


@places.accepts("loops")
def _(W):
    rows = []
    if W.size(1) % 16 != 0:
        raise ValueError("multiple of 16")
    for row in W.tolist():
        groups = []
        for start in range(0, len(row), 4):
            full = [i for i in range(4) if row[start + i] != 0]
            if len(full) > 2:
                raise ValueError(f"{len(full)} non-zeros")
            free = [i for i in (2, 3, 0, 1) if i not in full]
            groups.append(sorted((full + free)[:2]))
        rows.append(groups)
    return torch.tensor(rows)
