"""Exercise 1.3: blocks, rows and columns: groups that go as one."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.patterns.fixtures import drawn, near_whole
from autograder.inside.case import call
from sparsity_edu import patterns


def block_mask(score: Tensor, sparsity: float, shape: tuple[int, int]) -> Tensor:
    return patterns.block(score, sparsity, shape)


block = Exercise(
    "patterns.block",
    defines="block_mask",
    title="Blocks, rows and columns: groups that go as one",
    minutes=20,
    difficulty=2,
    hints=(
        "A tile is one competitor. So make a small matrix with one number for each tile, its norm; let `drop_smallest` "
        "choose among them; then enlarge the small mask to the size of the matrix.",
        "`score.unflatten(1, (-1, w)).unflatten(0, (-1, h))` has the shape (rows / h, h, cols / w, w): tile (i, j) is "
        "`tiles[i, :, j, :]`, so its norm sums over dimensions 1 and 3. All tiles compete: flatten the norms before you "
        "call `drop_smallest`. Of t tiles `int(sparsity * t)` go.",
        "After the ValueErrors: `norms = tiles.square().sum(dim=(1, 3)).sqrt()`, then `drop_smallest(norms.flatten(), "
        "int(sparsity * norms.numel()))` in the shape of the norms. `repeat_interleave(h, dim=0)` and "
        "`repeat_interleave(w, dim=1)` make a tile of every entry of the small mask.",
    ),
    reference=block_mask,
    forbids=("torch.ao.pruning",),
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
    exposes="A tile's score is the root of the sum of its squares: not the sum, the mean of |score| or the largest entry. Zeros inside a "
    "tile that stays stay too.",
)
def _(g):
    yield call(torch.tensor([[3.0, 0, 2, 2], [0, 0, 2, -1.9], [1.8, 1.8, -9, 9], [1.8, 1.8, 8, -8]]), 0.5, (2, 2))
    yield call(torch.randn(12, 20, generator=g), 0.5, (2, 2))
    yield call(torch.randn(9, 24, generator=g) ** 3, 0.625, (3, 3))
    W = torch.randn(8, 12, generator=g)
    yield call(W * (torch.rand(W.shape, generator=g) < 0.7), 0.25, (4, 3))  # some zeros in every tile
    W[0, 0] = -torch.inf
    yield call(W, 0.5, (2, 2))


@block.stage(
    "any tile: rectangles, whole rows, whole columns",
    points=1,
    exposes="shape is (height, width). A row is the tile (1, cols), a column the tile (rows, 1); of t tiles int(sparsity * t) go, as "
    "Python computes it: 28 of 100 at 0.29, for 0.29 * 100 is a hair below 29.",
    pure=True,
)
def _(g):
    for rows, cols, tile, s in [(6, 20, (2, 5), 0.5), (7, 10, (1, 10), 0.45), (6, 11, (6, 1), 0.4), (5, 7, (1, 1), 0.7)]:
        yield call(torch.randn(rows, cols, generator=g), s, tile)
    height, width = drawn(g, 2, 4), drawn(g, 4, 7)
    yield call(torch.randn(height * drawn(g, 4, 7), width * drawn(g, 7, 10), generator=g), 0.55, (height, width))
    yield call(torch.randn(8, 9, generator=g).T, 0.3, (3, 2))  # not contiguous
    yield call(torch.randn(6, 8, generator=g, dtype=torch.float64), 0.0, (3, 2))
    yield call(1 + 1e-10 * torch.rand(10, 12, generator=g, dtype=torch.float64), 0.6, (2, 2))  # float32 would round
    for rows, cols, tile, below in [(8, 50, (1, 2), True), (100, 3, (1, 3), True), (40, 15, (2, 3), False)]:
        tiles = rows // tile[0], cols // tile[1]
        yield call(torch.randn(rows, cols, generator=g), near_whole(g, *tiles, below=below), tile)


@block.stage(
    "refuses tiles that do not fit, and a sparsity outside [0, 1)",
    points=1,
    exposes="A ValueError unless shape divides the matrix in both dimensions and 0 <= sparsity < 1. What fits is not refused.",
)
def _(g):
    height, width = drawn(g, 3, 5), drawn(g, 5, 8)
    score = torch.randn(2 * height, 3 * width, generator=g)
    yield call(score, 0.5, (height, width - 1))
    yield call(score, 0.5, (height + 1, width))
    yield call(score, 0.5, (4 * height, width))  # higher than the matrix
    yield call(torch.randn(6, 8, generator=g), 0.5, (2, 3))  # 48 entries: 6 divides that, but 3 does not divide 8
    for s in (1.0, 1 + drawn(g, 1, 9) / 10, -drawn(g, 1, 9) / 10, -1e-9):
        yield call(score, s, (height, width))
    yield call(torch.arange(1.0, 25).view(4, 6), 0.999, (2, 2))  # positive and growing: any norm ranks these tiles alike


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
    "reshaped to tiles",
    "Your mask has tiles, but the scores are not theirs: `reshape(rows / h, cols / w, h, w)` fills each tile in reading order. Split each dimension where it "
    "is, (rows / h, h, cols / w, w), and reduce over dims 1 and 3.",
)
def _(score, sparsity, shape):
    check_block(score, sparsity, shape)
    grid = score.shape[0] // shape[0], score.shape[1] // shape[1]
    keep = patterns.unstructured(score.reshape(*grid, *shape).double().norm(dim=(2, 3)), sparsity)
    return keep.repeat_interleave(shape[0], dim=0).repeat_interleave(shape[1], dim=1)


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


@block.misconception(
    "not quite a whole number",
    "You count sparsity * tiles in float32, in decimals, or with an epsilon added, and get one tile more where the product is a hair "
    "below a whole number. The course counts int(sparsity * t), as Python computes it: 28 of 100 at 0.29.",
)
def _(score, sparsity, shape):
    return blocks(score, sparsity, shape, select=drop_count(lambda x: int(x + 1e-9)))


@block.misconception(
    "quantile",
    "torch.quantile interpolates between two norms, so the number below it is not always int(sparsity * t). Sort instead.",
)
def _(score, sparsity, shape):
    return blocks(score, sparsity, shape, select=lambda norms, s: norms >= torch.quantile(norms.flatten(), s))


@block.misconception(
    "mask from the scores",
    "You set the scores that go to zero and keep what is not zero, so that a zero inside a tile that stays counts as gone. A tile's "
    "entries share its fate: enlarge the small mask.",
)
def _(score, sparsity, shape):
    return blocks(score, sparsity, shape) & (score != 0)


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
