"""Unit 01: sparsity patterns and what a sparse matrix costs to store."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.case import call, script
from autograder.compare import Rules
from autograder.exercise import Exercise
from sparsity_edu import patterns, storage

# ---------------------------------------------------------------------------------------------------------- drop_smallest


def drop_smallest(score: Tensor, count: int) -> Tensor:
    return patterns.drop_smallest(score, count)


drop = Exercise(
    "patterns.drop_smallest",
    defines="drop_smallest",
    title="The one rule: drop the smallest of a group",
    minutes=15,
    difficulty=1,
    hint="`order = score.argsort(dim=-1, stable=True)` lists the positions from the smallest score to the largest. The first `count` "
    "positions of every group go: `torch.ones_like(score, dtype=torch.bool).scatter(-1, order[..., :count], False)`.",
    reference=drop_smallest,
)


@drop.stage(
    "drops the smallest scores of one group",
    points=1,
    exposes="Of n scores the `count` smallest become False, the others True. A score is compared as it is, sign included.",
)
def _(g):
    yield call(torch.randn(7, generator=g), 3)
    yield call(torch.randn(12, generator=g) - 1.0, 5)
    yield call(torch.rand(9, generator=g), 1)


@drop.stage(
    "treats every group along the last dimension by itself",
    points=1,
    exposes="score is (..., n): every slice along the last dimension is a group of its own, whatever is in front of it.",
)
def _(g):
    yield call(torch.randn(4, 7, generator=g) * torch.tensor([[1.0], [100.0], [0.01], [10.0]]), 3)  # rows of unequal scale
    yield call(torch.randn(3, 2, 10, generator=g), 4)
    yield call(torch.randn(9, 5, generator=g).T, 2)  # not contiguous, so .view() may fail
    yield call(torch.randn(2, 3, 8, generator=g).transpose(0, 1), 5)
    yield call(torch.randperm(40, generator=g).view(5, 8).to(torch.float16) - 20, 3)


@drop.stage(
    "drops any count, from none to all, and leaves score alone",
    points=1,
    exposes="count = 0 keeps everything and count = n drops everything; score itself must not change.",
    pure=True,
)
def _(g):
    score = torch.randn(3, 6, generator=g)
    for count in (0, 1, 5, 6):
        yield call(score, count)
    yield call(torch.randn(11, generator=g, dtype=torch.float64), 0)


@drop.stage(
    "breaks ties by position: the earlier goes first",
    points=1,
    exposes="Exactly `count` go, also among equal scores: the one with the smaller index goes first. A stable ascending sort gives that "
    "order, `argsort(dim=-1, stable=True)`; without `stable=True` torch promises none.",
)
def _(g):
    yield call(torch.ones(3, 8), 3)
    yield call(torch.randint(-1, 3, (5, 14), generator=g).float(), 6)
    yield call(torch.randint(0, 3, (2, 60), generator=g).float(), 25)
    yield call(torch.relu(torch.randn(4, 12, generator=g)), 4)  # many zeros, as in a matrix that was pruned before
    yield call((torch.rand(2, 500, generator=g) + 100) * 1e-20, 200)  # close is not equal: rounding or a jitter would show


def rank(score: Tensor) -> Tensor:
    """0 for the smallest of its group, then 1, 2, ..."""
    return score.argsort(dim=-1, stable=True).argsort(dim=-1)


@drop.misconception(
    "inverted", "Your mask is True where an entry goes. In this course True = kept: return the opposite (`~mask`)."
)
def _(score, count):
    return rank(score) < count


@drop.misconception(
    "keeps count", "You kept `count` entries. `count` is how many go; n - count stay, and the mask has `count` False."
)
def _(score, count):
    return rank(score) >= score.shape[-1] - count


@drop.misconception(
    "drops the largest", "The largest scores went. A score says how much an entry matters: the small ones are dropped."
)
def _(score, count):
    return rank(score) < score.shape[-1] - count


@drop.misconception(
    "argsort is no rank",
    "`score.argsort() >= count` compares the wrong numbers: argsort gives, for each rank, the *position* that has it, not the rank of "
    "each position. Use the first `count` positions as indices (scatter), or argsort twice.",
)
def _(score, count):
    return score.argsort(dim=-1, stable=True) >= count


@drop.misconception(
    "one ranking for everything",
    "You ranked all entries together, so that one group loses many and another none. Every slice along the last dimension loses exactly "
    "`count`: sort with dim=-1 instead of flattening.",
)
def _(score, count):
    groups = score.numel() // score.shape[-1]
    return (rank(score.flatten()) >= count * groups).view(score.shape)


@drop.misconception(
    "along the first dimension",
    "You sorted along dim 0. The groups lie along the last dimension: dim=-1 (the default of argsort).",
)
def _(score, count):
    return rank(score.movedim(0, -1)).movedim(-1, 0) >= count


@drop.misconception(
    "by magnitude",
    "You ranked |score|. Here a score is already an importance: -5 is less important than 1. (Magnitude pruning passes `W.abs()` in.)",
)
def _(score, count):
    return rank(score.abs()) >= count


@drop.misconception(
    "float mask", "Your mask holds 0.0 and 1.0. A mask is boolean in this course (dtype=torch.bool, True = kept)."
)
def _(score, count):
    return (rank(score) >= count).float()


@drop.misconception(
    "index -1",
    "With count = 0 your threshold is entry -1 of the sorted scores, the largest, and everything goes. Python counts negative indices "
    "from the end: treat 0 by itself, or use the first `count` positions instead of a threshold.",
)
def _(score, count):
    return score > score.sort(dim=-1).values[..., count - 1, None]


@drop.misconception(
    "too many on a tie",
    "Scores equal to the threshold all go with `score > threshold`, so that more than `count` may go. Drop positions, not values.",
)
def _(score, count):
    if count == 0:
        return torch.ones_like(score, dtype=torch.bool)
    return score > score.sort(dim=-1).values[..., count - 1, None]


@drop.misconception(
    "too few on a tie",
    "Scores equal to the threshold all stay with `score >= threshold`, so that fewer than `count` may go. Drop positions, not values.",
)
def _(score, count):
    if count == score.shape[-1]:
        return torch.zeros_like(score, dtype=torch.bool)
    return score >= score.sort(dim=-1).values[..., count, None]


@drop.misconception(
    "later first",
    "Of equal scores you drop the later one. The course drops the earlier one first, as an ascending stable sort does (a descending sort, "
    "read from its end, does the opposite).",
)
def _(score, count):
    order = score.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1) < score.shape[-1] - count


@drop.misconception(
    "topk on a tie",
    "topk does not promise which of several equal scores it takes. A stable sort does: argsort(stable=True) keeps them in order.",
)
def _(score, count):
    mask = torch.ones_like(score, dtype=torch.bool)
    return mask.scatter(-1, score.topk(count, dim=-1, largest=False).indices, False)


@drop.misconception(
    "score overwritten", "You wrote into `score`. Whoever called you may still need it: work on `score.clone()`."
)
def _(score, count):
    mask = rank(score) >= count
    score[~mask] = float("inf")
    return mask


@drop.accepts("argsort of argsort")
def _(score, count):
    return score.sort(dim=-1, stable=True).indices.sort(dim=-1).indices >= count


@drop.accepts("plain Python, one group at a time")
def _(score, count):
    def one(group):
        gone = sorted(range(len(group)), key=lambda i: (group[i], i))[:count]
        return [i not in gone for i in range(len(group))]

    kept = [one(group) for group in score.reshape(-1, score.shape[-1]).tolist()]
    return torch.tensor(kept).reshape(score.shape)


@drop.accepts("counting who is smaller")
def _(score, count):
    other, own = score.unsqueeze(-2), score.unsqueeze(-1)  # (..., 1, n), (..., n, 1)
    earlier = torch.ones(score.shape[-1], score.shape[-1], dtype=torch.bool).tril(-1)
    smaller = (other < own) | ((other == own) & earlier)
    return smaller.sum(-1) >= count


@drop.accepts("removing the smallest again and again")
def _(score, count):
    left, kept = score.double().clone(), torch.ones(score.shape, dtype=torch.bool)
    for _ in range(count):
        first = (left == left.amin(-1, keepdim=True)).int().argmax(-1, keepdim=True)
        kept.scatter_(-1, first, False)
        left.scatter_(-1, first, float("inf"))
    return kept


# -------------------------------------------------------------------------------------------------------------------- n:m


def n_m_mask(score: Tensor, n: int, m: int) -> Tensor:
    return patterns.n_m(score, n, m)


n_m = Exercise(
    "patterns.n_m",
    defines="n_m_mask",
    title="n:m: groups of neighbours",
    minutes=10,
    difficulty=1,
    hint="Give the last dimension two: `groups = score.unflatten(1, (-1, m))` has shape (rows, cols / m, m). Your `drop_smallest` works "
    "along the last dimension, so it does the rest (how many go?). `.flatten(1)` undoes the unflatten.",
    reference=n_m_mask,
)


@n_m.stage(
    "keeps the 2 largest of every 4 neighbours",
    points=1,
    exposes="A group is m neighbours in one row; every group keeps exactly two.",
)
def _(g):
    yield call(torch.randn(2, 8, generator=g), 2, 4)
    yield call(torch.randn(5, 12, generator=g) - 0.5, 2, 4)
    yield call(torch.rand(3, 20, generator=g).cumsum(dim=1), 2, 4)  # a row that grows: groups by stride would show


@n_m.stage(
    "any n and m: n counts what is kept",
    points=1,
    exposes="n of every m stay, so m - n go. At 2:4 the two are the same number; at 1:4 they are not.",
    pure=True,
)
def _(g):
    for n, m, rows, cols in [
        (1, 4, 3, 8),
        (3, 4, 5, 12),
        (4, 8, 3, 16),
        (2, 5, 4, 10),
        (2, 3, 2, 9),
        (1, 1, 2, 3),
        (6, 6, 1, 6),
    ]:
        yield call(torch.randn(rows, cols, generator=g), n, m)
    yield call(torch.randn(6, 4, generator=g).T, 2, 3)  # not contiguous
    yield call(torch.randperm(32, generator=g).view(2, 16).to(torch.float16) - 16, 1, 8)


@n_m.stage(
    "refuses what has no n:m mask",
    points=1,
    exposes="A ValueError for n > m, and for a number of columns that m does not divide: a group must not run over the end of a row.",
)
def _(g):
    yield call(torch.randn(3, 8, generator=g), 5, 4)
    yield call(torch.randn(3, 8, generator=g), 9, 8)
    yield call(torch.randn(4, 6, generator=g), 2, 4)  # 24 entries: divisible by 4, but no row is
    yield call(torch.randn(3, 7, generator=g), 1, 4)


def check_n_m(score, n, m):
    if n > m or score.shape[1] % m:
        raise ValueError("n, m")


def grouped(score, n, m):
    """`n_m_mask`, for mistakes in what goes in or comes out."""
    check_n_m(score, n, m)
    return patterns.drop_smallest(score.unflatten(1, (-1, m)), m - n).flatten(1)


@n_m.misconception(
    "n zeros",
    "You made n zeros in every group. In n:m, n is what is *kept* (2:4: at most 2 non-zeros in 4). At 2:4 you cannot tell; at 1:4 you "
    "can. SparseGPT's and Wanda's code have the same trap: their `prunen` is the number of zeros.",
)
def _(score, n, m):
    check_n_m(score, n, m)
    return grouped(score, m - n, m)


@n_m.misconception("keeps the smallest", "You kept the n smallest scores of every group. The large ones matter: they stay.")
def _(score, n, m):
    return grouped(-score, n, m)


@n_m.misconception("inverted", "Your mask is True where an entry goes. In this course True = kept.")
def _(score, n, m):
    return ~grouped(score, n, m)


@n_m.misconception(
    "down the columns",
    "Your groups run down a column. They lie along a row: neighbours in the input dimension, the one a dot product sums over.",
)
def _(score, n, m):
    check_n_m(score, n, m)
    padded = F.pad(score.T, (0, -score.shape[0] % m), value=float("inf"))
    return grouped(padded, n, m)[:, : score.shape[0]].T


@n_m.misconception(
    "strided groups",
    "Your groups are entries far apart: `unflatten(1, (m, -1))` puts every (cols / m)-th entry together. Neighbours are `(-1, m)`.",
)
def _(score, n, m):
    check_n_m(score, n, m)
    return patterns.drop_smallest(score.unflatten(1, (m, -1)).transpose(1, 2), m - n).transpose(1, 2).flatten(1)


@n_m.misconception(
    "whole row", "The total is right, but whole rows compete: some groups keep 3, some 1. Every group must keep exactly n."
)
def _(score, n, m):
    check_n_m(score, n, m)
    return patterns.drop_smallest(score, score.shape[1] // m * (m - n))


@n_m.misconception("by magnitude", "You ranked |score|. A score is already an importance: compare it as it is, sign included.")
def _(score, n, m):
    return grouped(score.abs(), n, m)


@n_m.misconception(
    "n > m passes", "You check the columns but not n: keeping 5 of 4 makes no sense. Raise a ValueError if n > m."
)
def _(score, n, m):
    if score.shape[1] % m:
        raise ValueError("cols")
    return grouped(score, min(n, m), m)


@n_m.misconception("n = m refused", "You refuse n = m. It is allowed and keeps everything; only n > m makes no sense.")
def _(score, n, m):
    if n >= m:
        raise ValueError("n, m")
    return n_m_mask(score, n, m)


@n_m.misconception(
    "groups run over the end of a row",
    "You accept a row that m does not divide: after `reshape(-1, m)` a group may hold the end of one row and the start of the next. "
    "Raise a ValueError if score.shape[1] % m.",
)
def _(score, n, m):
    if n > m or score.numel() % m:
        raise ValueError("n, m")
    return patterns.drop_smallest(score.reshape(-1, m), m - n).view(score.shape)


@n_m.accepts("largest by topk")
def _(score, n, m):
    rows, cols = score.shape
    if cols % m != 0 or n > m:
        raise ValueError(f"cannot make {n}:{m} of {cols} columns")
    groups = score.reshape(-1, m)
    mask = torch.zeros(groups.shape, dtype=torch.bool)
    mask[torch.arange(len(groups))[:, None], groups.topk(n, dim=1).indices] = True
    return mask.reshape(rows, cols)


@n_m.accepts("group after group, as SparseGPT's code does")
def _(score, n, m):
    if n > m or score.shape[-1] % m:
        raise ValueError("n and m do not fit")
    mask = torch.ones(score.shape) == 1
    for start in range(0, score.shape[-1], m):
        block = score[:, start : start + m].float()
        if n < m:
            mask.scatter_(1, start + torch.topk(block, m - n, dim=1, largest=False)[1], False)
    return mask


@n_m.accepts("numpy partition")
def _(score, n, m):
    if not 1 <= n <= m or score.shape[1] % m:
        raise ValueError("n:m")
    groups = score.double().numpy().reshape(score.shape[0], -1, m)
    smallest_kept = np.partition(groups, m - n, axis=-1)[..., m - n, None]
    return torch.from_numpy((groups >= smallest_kept).reshape(tuple(score.shape)))


# ------------------------------------------------------------------------------------------------------------------ block


def block_mask(score: Tensor, sparsity: float, shape: tuple[int, int]) -> Tensor:
    return patterns.block(score, sparsity, shape)


block = Exercise(
    "patterns.block",
    defines="block_mask",
    title="Blocks, rows and columns: groups that go as one",
    minutes=20,
    difficulty=2,
    hint="`tiles = score.unflatten(1, (-1, w)).unflatten(0, (-1, h))` has shape (rows / h, h, cols / w, w): tile (i, j) is "
    "`tiles[i, :, j, :]`. Its norm is `tiles.square().sum(dim=(1, 3)).sqrt()`. Flatten those norms, call `drop_smallest` once, and "
    "enlarge the small mask with `repeat_interleave` along both dimensions.",
    reference=block_mask,
)


@block.stage(
    "tiles stay or go as one",
    points=1,
    exposes="The tiles compete with each other over the whole matrix; all entries of a tile share its fate.",
)
def _(g):
    for rows, cols, side, s in [(4, 6, 2, 0.5), (6, 12, 3, 0.25), (8, 20, 4, 0.7)]:
        scale = torch.randperm(rows * cols // side**2, generator=g).float().view(rows // side, cols // side) + 1
        score = torch.rand(rows, cols, generator=g) * 0.05 + 1  # tiles of distinct scale: every norm agrees
        yield call(score * torch.kron(scale, torch.ones(side, side)), s, (side, side))


@block.stage(
    "scores a tile by its L2 norm",
    points=1,
    exposes="A tile's score is the root of the sum of its squares: not the sum, the mean of |score| or the largest entry.",
)
def _(g):
    yield call(torch.tensor([[3.0, 0, 2, 2], [0, 0, 2, -1.9], [1.8, 1.8, -9, 9], [1.8, 1.8, 8, -8]]), 0.5, (2, 2))
    yield call(torch.randn(12, 20, generator=g), 0.5, (2, 2))
    yield call(torch.randn(9, 24, generator=g) ** 3, 0.625, (3, 3))


@block.stage(
    "any tile: rectangles, whole rows, whole columns",
    points=1,
    exposes="shape is (height, width). A row is the tile (1, cols), a column the tile (rows, 1); of t tiles int(sparsity * t) go.",
    pure=True,
)
def _(g):
    for rows, cols, tile, s in [(6, 20, (2, 5), 0.5), (7, 10, (1, 10), 0.45), (6, 11, (6, 1), 0.4), (5, 7, (1, 1), 0.7)]:
        yield call(torch.randn(rows, cols, generator=g), s, tile)
    yield call(torch.randn(8, 9, generator=g).T, 0.3, (3, 2))  # not contiguous
    yield call(torch.randn(6, 8, generator=g, dtype=torch.float64), 0.0, (3, 2))


@block.stage(
    "refuses tiles that do not fit, and a sparsity outside [0, 1)",
    points=1,
    exposes="A ValueError unless shape divides the matrix in both dimensions and 0 <= sparsity < 1.",
)
def _(g):
    score = torch.randn(6, 8, generator=g)
    yield call(score, 0.5, (4, 4))
    yield call(score, 0.5, (2, 3))  # 48 entries: 6 divides that, but 3 does not divide 8
    for s in (1.0, 1.7, -0.2):
        yield call(score, s, (2, 4))


def blocks(score, sparsity, shape, norm=lambda tiles: tiles.square().sum((1, 3)), select=patterns.unstructured, check=True):
    """`block_mask` with its parts exchangeable, for mistakes in one part."""
    if check:
        check_block(score, sparsity, shape)
    keep = select(norm(patterns.tiles(score, shape)), sparsity)
    return torch.kron(keep.int(), torch.ones(shape, dtype=torch.int)).bool()


def check_block(score, sparsity, shape):
    if not 0 <= sparsity < 1 or score.shape[0] % shape[0] or score.shape[1] % shape[1]:
        raise ValueError("sparsity, shape")


def drop_count(count):
    """A selection over a whole grid that drops count(sparsity * n) entries."""
    return lambda score, s: patterns.drop_smallest(score.flatten(), count(s * score.numel())).view(score.shape)


@block.misconception(
    "signed sum",
    "You added up the scores of a tile with their signs, so that +9 and -9 make a tile of score 0. Square first.",
)
def _(score, sparsity, shape):
    return blocks(score, sparsity, shape, norm=lambda tiles: tiles.sum((1, 3)))


@block.misconception(
    "L1 norm", "You scored a tile by the sum (or mean) of |score|. The L2 norm squares: one large entry counts for more."
)
def _(score, sparsity, shape):
    return blocks(score, sparsity, shape, norm=lambda tiles: tiles.abs().sum((1, 3)))


@block.misconception(
    "largest entry", "You scored a tile by its largest entry alone. The L2 norm adds up the squares of all of them."
)
def _(score, sparsity, shape):
    return blocks(score, sparsity, shape, norm=lambda tiles: tiles.abs().amax((1, 3)))


@block.misconception(
    "consecutive entries",
    "`reshape(-1, h * w)` cuts the matrix into runs of neighbours in reading order, not into tiles: the rows of a tile lie cols apart in "
    "memory. Split both dimensions (unflatten), then reduce over the two small ones.",
)
def _(score, sparsity, shape):
    check_block(score, sparsity, shape)
    keep = patterns.unstructured(score.reshape(-1, shape[0] * shape[1]).norm(dim=1), sparsity)
    return keep.repeat_interleave(shape[0] * shape[1]).view(score.shape)


@block.misconception(
    "repeat",
    "`repeat` lays copies of the small mask side by side. Each entry has to grow into a tile: repeat_interleave along both dimensions.",
)
def _(score, sparsity, shape):
    check_block(score, sparsity, shape)
    return patterns.unstructured(patterns.tiles(score, shape).square().sum((1, 3)), sparsity).repeat(*shape)


@block.misconception(
    "small mask", "You returned one entry per tile. The mask has the shape of score: enlarge every entry to its tile."
)
def _(score, sparsity, shape):
    check_block(score, sparsity, shape)
    return patterns.unstructured(patterns.tiles(score, shape).square().sum((1, 3)), sparsity)


@block.misconception(
    "single entries",
    "You dropped single entries, not tiles: the mask has the right number of zeros, but no hardware can use it.",
)
def _(score, sparsity, shape):
    check_block(score, sparsity, shape)
    return patterns.unstructured(score.abs(), sparsity)


@block.misconception(
    "per row of tiles",
    "Every row of tiles lost the same share. All tiles of the matrix compete: flatten the grid of norms first.",
)
def _(score, sparsity, shape):
    return blocks(score, sparsity, shape, select=lambda score, s: patterns.unstructured(score, s, per="row"))


@block.misconception(
    "height and width swapped",
    "shape is (height, width): rows first, as in score.shape. With square tiles you cannot tell; a whole row is (1, cols).",
)
def _(score, sparsity, shape):
    if score.shape[0] % shape[1] or score.shape[1] % shape[0]:
        raise ValueError("shape")
    return blocks(score, sparsity, shape[::-1])


@block.misconception("inverted", "Your mask is True where a tile goes. In this course True = kept.")
def _(score, sparsity, shape):
    return ~blocks(score, sparsity, shape)


@block.misconception("keeps the sparsity", "You kept a fraction `sparsity` of the tiles. Sparsity is what goes.")
def _(score, sparsity, shape):
    return blocks(score, sparsity, shape, select=drop_count(lambda x: score.numel() // (shape[0] * shape[1]) - int(x)))


@block.misconception(
    "rounded", "You rounded sparsity * tiles to the nearest integer. The course rounds down: int(sparsity * t)."
)
def _(score, sparsity, shape):
    return blocks(score, sparsity, shape, select=drop_count(round))


@block.misconception("rounded up", "You rounded sparsity * tiles up. The course rounds down: int(sparsity * t).")
def _(score, sparsity, shape):
    return blocks(score, sparsity, shape, select=drop_count(lambda x: -int(-x // 1)))


@block.misconception(
    "any sparsity",
    "You check the tiles but not the sparsity: raise a ValueError unless 0 <= sparsity < 1 (1.7 would drop more than all).",
)
def _(score, sparsity, shape):
    if score.shape[0] % shape[0] or score.shape[1] % shape[1]:
        raise ValueError("shape")
    tiles = score.numel() // (shape[0] * shape[1])
    return blocks(score, sparsity, shape, select=drop_count(lambda x: min(max(int(x), 0), tiles)), check=False)


@block.misconception(
    "leftover ignored",
    "A matrix that the tiles do not divide is cut off silently at the edge. Raise a ValueError if rows % height or cols % width.",
)
def _(score, sparsity, shape):
    if not 0 <= sparsity < 1:
        raise ValueError("sparsity")
    h, w = score.shape[0] // shape[0] * shape[0], score.shape[1] // shape[1] * shape[1]
    mask = torch.ones(score.shape, dtype=torch.bool)
    mask[:h, :w] = blocks(score[:h, :w], sparsity, shape, check=False)
    return mask


@block.accepts("loops over the tiles")
def _(score, sparsity, shape):
    (rows, cols), (h, w) = score.shape, shape
    if rows % h or cols % w or not (0 <= sparsity < 1):
        raise ValueError(f"{shape} in {tuple(score.shape)} at {sparsity}")
    corners = [(i, j) for i in range(0, rows, h) for j in range(0, cols, w)]
    corners.sort(key=lambda c: torch.linalg.matrix_norm(score[c[0] : c[0] + h, c[1] : c[1] + w]).item())
    mask = torch.ones_like(score, dtype=bool)
    for i, j in corners[: int(len(corners) * sparsity)]:
        mask[i : i + h, j : j + w] = False
    return mask


@block.accepts("pooling, and a threshold")
def _(score, sparsity, shape):
    if not 0 <= sparsity < 1 or any(size % side for size, side in zip(score.shape, shape, strict=True)):
        raise ValueError("shape or sparsity")
    energy = F.avg_pool2d(score[None, None] ** 2, tuple(shape), stride=tuple(shape))
    gone = int(sparsity * energy.numel())
    keep = energy >= energy.flatten().sort().values[gone]
    return F.interpolate(keep.float(), scale_factor=tuple(map(float, shape)), mode="nearest")[0, 0].bool()


@block.accepts("unfold and argsort")
def _(score, sparsity, shape):
    h, w = shape
    if score.shape[0] % h or score.shape[1] % w:
        raise ValueError("shape")
    if sparsity < 0 or sparsity >= 1:
        raise ValueError("sparsity")
    norms = score.unfold(0, h, h).unfold(1, w, w).norm(dim=(-2, -1))  # (rows / h, cols / w)
    keep = torch.ones(norms.numel(), dtype=torch.bool)
    keep[norms.flatten().argsort()[: int(sparsity * norms.numel())]] = False
    return keep.view(norms.shape)[:, None, :, None].expand(-1, h, -1, w).reshape(score.shape)


# ----------------------------------------------------------------------------------------------------------------- bitmap


class Bitmap:
    def __init__(self, W: Tensor):
        self.encoded = storage.Bitmap.encode(W)

    def bits(self) -> Tensor:
        return self.encoded.bits

    def decode(self) -> Tensor:
        return self.encoded.decode()

    def nbytes(self) -> int:
        return self.encoded.nbytes


bitmap = Exercise(
    "patterns.bitmap",
    defines="Bitmap",
    title="A bitmap: one bit per position",
    minutes=30,
    difficulty=2,
    hint="Keep three things: `W[W != 0]`, the packed bits, and `W.shape`. To pack, pad the flat mask with zeros to a multiple of 8 "
    "(`F.pad`), make it (bytes, 8), multiply by `2 ** torch.arange(8)`, sum, and make it uint8. To unpack, shift the other way: "
    "`(bytes[:, None] >> torch.arange(8) & 1).bool()`, flatten, cut off the padding. `dense[mask] = values` puts the values back in order.",
    reference=Bitmap,
    rules=Rules(tolerance=0, exact_zeros=True),
)


def holed(g: torch.Generator, *shape: int, zeros: float = 0.5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small non-zero numbers of either sign, which every dtype holds exactly, and a share of zeros."""
    values = torch.randint(1, 60, shape, generator=g) * (torch.randint(2, shape, generator=g) * 2 - 1)
    return values.masked_fill(torch.rand(shape, generator=g) < zeros, 0).to(dtype)


@bitmap.stage(
    "decode() gives the matrix back",
    points=1,
    exposes="decode() returns a tensor equal to W: shape, dtype, and every value at its place.",
)
def _(g):
    yield script(holed(g, 4, 6), calls=[("decode",)])
    tiny = holed(g, 3, 16, zeros=0.8, dtype=torch.float64) / 3e20  # small is not zero, and float32 would round
    yield script(tiny, calls=[("decode",), ("decode",)])
    yield script(holed(g, 8, 5, zeros=0.2, dtype=torch.float16), calls=[("decode",)])


@bitmap.stage(
    "bits() packs eight positions to a byte, the first in the lowest bit",
    points=1,
    exposes="A uint8 tensor of one dimension; entry i of the matrix, in reading order, is bit i % 8 of byte i // 8; 1 = non-zero.",
)
def _(g):
    yield script(torch.tensor([[5.0, 0, 0, 0, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0, 0, -1]]), calls=[("bits",)])
    yield script(holed(g, 4, 6), calls=[("bits",)])
    yield script(holed(g, 10, 4, zeros=0.7, dtype=torch.float16), calls=[("bits",)])


@bitmap.stage(
    "nbytes() counts the values in their own dtype, and the packed bits",
    points=1,
    exposes="nbytes() = bytes of the non-zero values (4 each in fp32, 2 in fp16, 1 in int8) + bytes of the packed bits. Nothing else.",
)
def _(g):
    for dtype in (torch.float32, torch.float16, torch.float64, torch.int8):
        yield script(holed(g, 6, 8, zeros=0.6, dtype=dtype), calls=[("nbytes",)])


@bitmap.stage(
    "awkward matrices: ragged, empty of non-zeros, full, transposed",
    points=1,
    exposes="7 entries still take a whole byte, its unused high bits 0; a matrix without any non-zero, or without any zero, is a matrix "
    "like any other; W itself does not change.",
    pure=True,
)
def _(g):
    every = [("bits",), ("nbytes",), ("decode",)]
    yield script(holed(g, 3, 5), calls=every)
    yield script(holed(g, 1, 7, zeros=0.3), calls=every)
    yield script(torch.zeros(3, 7, dtype=torch.float16), calls=every)
    yield script(holed(g, 5, 5, zeros=0.0, dtype=torch.int8), calls=every)
    yield script(holed(g, 6, 5).T, calls=every)  # not contiguous
    yield script(holed(g, 7, 11, zeros=0.9), calls=[*every[::-1], ("bits",)])


@bitmap.misconception(
    "highest bit first",
    "You put the first position into the highest bit (numpy's packbits does so by default). Here the first is the lowest: weights "
    "1, 2, 4, ..., 128; in numpy bitorder='little'.",
)
class _(Bitmap):
    def bits(self):
        reversed_bytes = [int(f"{byte:08b}"[::-1], 2) for byte in super().bits().tolist()]
        return torch.tensor(reversed_bytes, dtype=torch.uint8)


@bitmap.misconception(
    "bit set for zeros", "Your bit is 1 where the entry is zero. 1 means: here is a non-zero, a value follows."
)
class _(Bitmap):
    def __init__(self, W):
        super().__init__(W)
        self.flipped = storage.pack_bits(W == 0)

    def bits(self):
        return self.flipped


@bitmap.misconception(
    "bits not packed",
    "bits() has one entry per position. A boolean takes a whole byte in torch, as much as an int8 weight: pack eight to a byte.",
)
class _(Bitmap):
    def __init__(self, W):
        super().__init__(W)
        self.mask = (W != 0).flatten().to(torch.uint8)

    def bits(self):
        return self.mask

    def nbytes(self):
        return self.encoded.values.nbytes + self.mask.nbytes


@bitmap.misconception(
    "bits of the wrong dtype",
    "Your packed bits are int64: a sum of integers is int64 in torch, and each byte then takes eight. Convert with .to(torch.uint8).",
)
class _(Bitmap):
    def bits(self):
        return super().bits().long()

    def nbytes(self):
        return self.encoded.values.nbytes + self.bits().nbytes


@bitmap.misconception("column by column", "Your bits go down the columns. Reading order is row by row, as flatten() goes.")
class _(Bitmap):
    def __init__(self, W):
        super().__init__(W.T)

    def decode(self):
        return super().decode().T


@bitmap.misconception(
    "a byte per position",
    "nbytes() counts the bits as if each took a byte. That is the size of the boolean mask; packed it is an eighth.",
)
class _(Bitmap):
    def nbytes(self):
        return self.encoded.values.nbytes + self.decode().numel()


@bitmap.misconception(
    "values only", "nbytes() leaves out the bits. Saying where the values go is not free: that is the whole trade-off."
)
class _(Bitmap):
    def nbytes(self):
        return self.encoded.values.nbytes


@bitmap.misconception(
    "four bytes per value", "You count 4 bytes per value whatever the dtype. fp16 takes 2, int8 takes 1: use `.element_size()`."
)
class _(Bitmap):
    def nbytes(self):
        return 4 * self.encoded.values.numel() + self.encoded.bits.nbytes


@bitmap.misconception("positive only", "You keep entries above zero only. Negative weights are not zero: test W != 0.")
class _(Bitmap):
    def __init__(self, W):
        super().__init__(W * (W > 0))


@bitmap.misconception("flat", "decode() returns a flat tensor. Remember the shape of W, and give it back.")
class _(Bitmap):
    def decode(self):
        return super().decode().flatten()


@bitmap.misconception("always float32", "decode() always gives float32. The dtype of W is the dtype of what comes back.")
class _(Bitmap):
    def decode(self):
        return super().decode().float()


@bitmap.misconception(
    "last byte lost",
    "With 15 entries you store one byte instead of two: n // 8 rounds down. Pad to a multiple of 8 first, so that (n + 7) // 8 bytes hold "
    "all bits.",
)
class _(Bitmap):
    def bits(self):
        return super().bits()[: self.decode().numel() // 8]

    def nbytes(self):
        return self.encoded.values.nbytes + self.bits().nbytes


@bitmap.misconception("one byte too many", "n // 8 + 1 is one byte too many when 8 divides n. Round up with (n + 7) // 8.")
class _(Bitmap):
    def bits(self):
        return F.pad(super().bits(), (0, int(self.decode().numel() % 8 == 0)))

    def nbytes(self):
        return self.encoded.values.nbytes + self.bits().nbytes


@bitmap.accepts("numpy packbits, unpacked on demand")
class _:
    def __init__(self, W):
        self.shape, self.dtype = W.shape, W.dtype
        self.packed = np.packbits((W != 0).numpy().reshape(-1), bitorder="little")
        self.values = W.reshape(-1)[W.reshape(-1).nonzero()[:, 0]]

    def bits(self):
        return torch.from_numpy(self.packed)

    def decode(self):
        mask = torch.from_numpy(np.unpackbits(self.packed, count=self.shape.numel(), bitorder="little")).bool()
        return torch.zeros(self.shape, dtype=self.dtype).masked_scatter(mask.view(self.shape), self.values)

    def nbytes(self):
        return self.packed.nbytes + self.values.element_size() * len(self.values)


@bitmap.accepts("plain Python loops")
class _:
    def __init__(self, W):
        self.like = W.new_zeros(0)
        self.rows, self.cols = W.shape
        entries = W.flatten().tolist()
        self.values = [x for x in entries if x != 0]
        self.bytes = [0] * ((len(entries) + 7) // 8)
        for i, x in enumerate(entries):
            self.bytes[i // 8] |= (x != 0) << (i % 8)

    def bits(self):
        return torch.tensor(self.bytes, dtype=torch.uint8)

    def decode(self):
        values = iter(self.values)
        n = self.rows * self.cols
        flat = [next(values) if self.bytes[i // 8] >> (i % 8) & 1 else 0 for i in range(n)]
        return torch.tensor(flat, dtype=self.like.dtype).reshape(self.rows, self.cols)

    def nbytes(self):
        return len(self.bytes) + len(self.values) * self.like.element_size()


# --------------------------------------------------------------------------------------------------------------- two_four


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
    hint="`groups = W.reshape(-1, 4)`, `zero = groups == 0`. A stable argsort of `zero` lists the non-zeros first, then the zeros from left "
    "to right: its first two columns are the two to store. Sort these two, `gather` the values, and reshape both to (rows, cols / 2).",
    reference=two_four_encode,
    rules=Rules(tolerance=0),
)


def two_of_four(g: torch.Generator, rows: int, cols: int, per_group: Tensor | int = 2, dtype=torch.float32) -> Tensor:
    """(rows, cols) with `per_group` non-zeros in every 4, of either sign; `per_group` may differ from group to group."""
    place = torch.rand(rows, cols // 4, 4, generator=g).argsort(-1)  # a permutation of 0..3 per group
    keep = place < torch.as_tensor(per_group)[..., None]
    return holed(g, rows, cols, zeros=0.0, dtype=dtype).masked_fill(~keep.view(rows, cols), 0)


@two_four.stage(
    "stores the two non-zeros of every group and their places",
    points=1,
    exposes="values (rows, cols / 2) in the order they had; indices uint8 of the same shape: the place 0, 1, 2 or 3 inside the group.",
)
def _(g):
    yield call(two_of_four(g, 2, 8))
    yield call(two_of_four(g, 5, 12, dtype=torch.float64) / 3e20)  # small is not zero, and float32 would round
    yield call(two_of_four(g, 3, 28, dtype=torch.float16))
    yield call(two_of_four(g, 6, 8).T.contiguous().T)  # not contiguous


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
    yield call(two_of_four(g, 6, 20, per_group=torch.randint(0, 3, (6, 5), generator=g), dtype=torch.float16))


@two_four.stage(
    "refuses a matrix that is not 2:4",
    points=1,
    exposes="A ValueError if any group holds more than two non-zeros, or if 4 does not divide the columns. Dropping a weight silently "
    "would change the model.",
)
def _(g):
    for most in (3, 4):  # in one group only: the matrix, and every row, still is at most half full
        per_group = torch.ones(4, 3, dtype=torch.int64)
        per_group[2] = torch.tensor([0, most, 1])
        yield call(two_of_four(g, 4, 12, per_group=per_group))
    yield call(holed(g, 4, 6, zeros=0.8))  # 24 entries: divisible by 4, but no row is
    yield call(torch.zeros(4, 10))


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
    order = W.reshape(-1, 4).abs().argsort(dim=1, descending=True, stable=True)
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


# ------------------------------------------------------------------------------------------------------------- break_even


def break_even(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    return storage.break_even("block" if encoding == "csr" else encoding, shape, value_bits, index_bits, tile)


even = Exercise(
    "patterns.break_even",
    defines="break_even",
    title="When does an encoding pay?",
    minutes=20,
    difficulty=2,
    hint="Write the bits per matrix entry as a straight line in the density d = 1 - s: `per_kept * d + fixed`. Bitmap: `per_kept = "
    "value_bits`, `fixed = 1`. CSR: an index per kept *tile* makes `index_bits / (height * width)` per kept entry, and the row pointers "
    "are `fixed`. Set the line equal to `value_bits` and solve for s.",
    reference=break_even,
    rules=Rules(tolerance=1e-6, scale=1.0),  # float32 is precise enough, also for a small result
)


def drawn(g: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (), generator=g))


@even.stage(
    "bitmap: a bit for every entry",
    points=1,
    exposes="Kept entries cost value_bits, and every entry, kept or not, costs 1 bit more. Dense costs value_bits for every entry.",
)
def _(g):
    for bits in (32, 16, 8, drawn(g, 9, 15), drawn(g, 17, 31)):
        yield call("bitmap", (96, 40), bits)


@even.stage(
    "CSR: an index for every kept value",
    points=1,
    exposes="A kept entry costs value_bits + index_bits. (On this very wide matrix the row pointers hardly count.)",
)
def _(g):
    for value_bits, index_bits in [(32, 32), (16, 32), (8, 32), (32, 16), (16, 8)]:
        yield call("csr", (7, 10**8), value_bits, index_bits)
    yield call("csr", (7, 10**8), drawn(g, 9, 15), drawn(g, 17, 31))
    yield call("csr", (7, 10**8), 16)


@even.stage(
    "CSR of a small matrix: the row pointers count",
    points=1,
    exposes="rows + 1 pointers of 32 bits each, whatever index_bits is, spread over rows * cols entries.",
)
def _(g):
    for rows, cols, value_bits, index_bits in [(10, 30, 16, 16), (3, 50, 32, 32), (40, 9, 8, 16), (1, 64, 16, 8)]:
        yield call("csr", (rows, cols), value_bits, index_bits)
    yield call("csr", (drawn(g, 5, 30), drawn(g, 31, 60)), 16, 16)
    yield call("csr", (20, 1), 32)  # never pays: above 1


@even.stage(
    "tiles share one index",
    points=1,
    exposes="With tiles of height x width there is one index per kept tile, and rows / height + 1 pointers.",
)
def _(g):
    for tile in ((4, 4), (2, 8), (1, 4), (8, 1)):
        yield call("csr", (64, 96), 16, 32, tile)
    yield call("csr", (16, 24), 8, index_bits=16, tile=(4, 2))
    height, width = drawn(g, 2, 5), drawn(g, 5, 9)
    yield call("csr", (6 * height, 7 * width), 16, 16, (height, width))


def crossing(value_bits, per_kept, fixed):
    return 1 - (value_bits - fixed) / per_kept


def pointers(shape, tile=(1, 1), extra=1, bits=32):
    return bits * (shape[0] / tile[0] + extra) / (shape[0] * shape[1])


def csr_or(encoding, value_bits, csr):
    """The right answer for a bitmap; for CSR a wrong one."""
    return 1 / value_bits if encoding == "bitmap" else csr()


@even.misconception(
    "density", "You return the density at which they meet, what is kept. Sparsity is what is zero: 1 - density."
)
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    return 1 - break_even(encoding, shape, value_bits, index_bits, tile)


@even.misconception("a byte per flag", "You count the bitmap as a byte per entry. Packed, it is one bit per entry.")
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    return break_even(encoding, shape, value_bits, index_bits, tile) * (8 if encoding == "bitmap" else 1)


@even.misconception(
    "bits for kept entries only",
    "You pay the bitmap's bit for kept entries only. A zero needs its bit too: it is what says that there is a zero.",
)
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    if encoding == "bitmap":
        return crossing(value_bits, value_bits + 1, 0)
    return break_even(encoding, shape, value_bits, index_bits, tile)


@even.misconception(
    "index against value",
    "You compare the index with one value (index / value). A kept entry costs both: density * (value + index) = value.",
)
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    return csr_or(encoding, value_bits, lambda: index_bits / value_bits)


@even.misconception(
    "index for every entry",
    "You charge the index for every entry. CSR stores nothing at all for a zero: only kept values have an index.",
)
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    fixed = index_bits / (tile[0] * tile[1]) + pointers(shape, tile)
    return csr_or(encoding, value_bits, lambda: crossing(value_bits, value_bits, fixed))


@even.misconception(
    "row and column per value",
    "You store a row and a column index per value. That is COO; CSR has only the column there, and a pointer per row.",
)
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    return csr_or(encoding, value_bits, lambda: crossing(value_bits, value_bits + 2 * index_bits / (tile[0] * tile[1]), 0))


@even.misconception(
    "cut off at 1", "You cut the result off at 1. A break-even above 1 is an answer too: the encoding never pays."
)
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    return min(1.0, break_even(encoding, shape, value_bits, index_bits, tile))


@even.misconception("always 32-bit indices", "You ignore index_bits: a 16-bit column index costs half as much as a 32-bit one.")
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    return break_even(encoding, shape, value_bits, 32, tile)


@even.misconception(
    "no row pointers",
    "You left out the row pointers. In a narrow matrix they cost more than the indices: rows + 1 of 32 bits each.",
)
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    return csr_or(encoding, value_bits, lambda: crossing(value_bits, value_bits + index_bits / (tile[0] * tile[1]), 0))


@even.misconception("one pointer too few", "There are rows + 1 pointers: the last one says where the last row ends.")
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    per_kept = value_bits + index_bits / (tile[0] * tile[1])
    return csr_or(encoding, value_bits, lambda: crossing(value_bits, per_kept, pointers(shape, tile, extra=0)))


@even.misconception(
    "small row pointers",
    "You gave the row pointers index_bits too. They count up to rows * cols, not up to cols: 32 bits whatever the column index has.",
)
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    per_kept = value_bits + index_bits / (tile[0] * tile[1])
    return csr_or(encoding, value_bits, lambda: crossing(value_bits, per_kept, pointers(shape, tile, bits=index_bits)))


@even.misconception(
    "tile ignored",
    "You ignore the tile. A 4x4 tile needs one index for its 16 values, so an index costs a sixteenth per value.",
)
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    return break_even(encoding, shape, value_bits, index_bits)


@even.misconception(
    "pointers of single rows",
    "The indices are shared by a tile, but you still count a pointer per matrix row. There is one per row of *tiles*: rows / height + 1.",
)
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    per_kept = value_bits + index_bits / (tile[0] * tile[1])
    return csr_or(encoding, value_bits, lambda: crossing(value_bits, per_kept, pointers(shape)))


@even.accepts("total bits at two densities, straight line between")
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    rows, cols = shape
    n, per_tile = rows * cols, tile[0] * tile[1]

    def total(density):
        if encoding == "bitmap":
            return n * density * value_bits + n
        return n * density * value_bits + n * density / per_tile * index_bits + (rows / tile[0] + 1) * 32

    empty, full = total(0.0), total(1.0)
    return torch.tensor(1 - (n * value_bits - empty) / (full - empty), dtype=torch.float64)


@even.accepts("bisection")
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    def smaller_than_dense(s):
        if encoding == "bitmap":
            bits = (1 - s) * value_bits + 1
        else:
            bits = (1 - s) * (value_bits + index_bits / tile[0] / tile[1])
            bits += 32 * (shape[0] // tile[0] + 1) / shape[0] / shape[1]
        return bits < value_bits

    low, high = 0.0, 64.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if smaller_than_dense(middle) else (middle, high)
    return high


EXERCISES = (drop, n_m, block, bitmap, two_four, even)
