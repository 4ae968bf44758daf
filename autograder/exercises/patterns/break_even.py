"""Exercise 1.6: when does an encoding pay?."""

from fractions import Fraction

import torch

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.patterns.fixtures import drawn
from autograder.inside.case import call
from sparsity_edu import storage


def break_even(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    return storage.break_even("block" if encoding == "csr" else encoding, shape, value_bits, index_bits, tile)


even = Exercise(
    "patterns.break_even",
    defines="break_even",
    title="When does an encoding pay?",
    minutes=20,
    difficulty=2,
    hints=(
        "Write the bits per matrix entry as a straight line in the density d = 1 - s: so many bits for a kept entry, so "
        "many for every entry. At the break-even the line is as high as the dense matrix, `value_bits`.",
        "Bitmap: a kept entry takes `value_bits`, and every entry 1 bit. CSR: each kept *tile* has one index, and each of "
        "its entries bears its share of that. The row pointers are there whatever is kept: divide their bits by the "
        "number of all entries.",
        "For CSR `per_kept = value_bits + index_bits / (height * width)`, and `fixed` is 32 bits for each of `rows / "
        "height + 1` pointers, over `rows * cols`; for the bitmap they are `value_bits` and 1. Solve `per_kept * d + "
        "fixed = value_bits` for d. The sparsity is 1 - d.",
    ),
    reference=break_even,
    rules=Rules(tolerance=1e-6, scale=1.0),  # float32 is precise enough, also for a small result
)


@even.stage(
    "bitmap: a bit for every entry",
    points=1,
    exposes="Kept entries cost value_bits, and every entry, kept or not, costs 1 bit more. Dense costs value_bits for every entry. "
    "A bitmap has no index and no tiles: whatever these are, it is the same.",
)
def _(g):
    for bits in (32, 16, 8, 4, drawn(g, 9, 15), drawn(g, 17, 31)):
        yield call("bitmap", (drawn(g, 20, 99), drawn(g, 20, 99)), bits)
    height, width = drawn(g, 2, 5), drawn(g, 5, 9)
    yield call("bitmap", (3 * height, 5 * width), drawn(g, 5, 13), index_bits=8, tile=(height, width))


@even.stage(
    "CSR: an index for every kept value",
    points=1,
    exposes="A kept entry costs value_bits + index_bits. (On this very wide matrix the row pointers hardly count.)",
)
def _(g):
    for value_bits, index_bits in [(32, 32), (16, 32), (8, 32), (32, 16), (16, 8)]:
        yield call("csr", (7, 10**8), value_bits, index_bits)
    yield call("csr", (7, 10**8), drawn(g, 9, 15), drawn(g, 17, 31))
    yield call("csr", (drawn(g, 3, 9), 10**8), drawn(g, 9, 15))  # 32 bits, when nothing is said


@even.stage(
    "CSR of a small matrix: the row pointers count",
    points=1,
    exposes="rows + 1 pointers of 32 bits each, whatever index_bits is, spread over rows * cols entries.",
)
def _(g):
    for rows, cols, value_bits, index_bits in [(10, 30, 16, 16), (3, 50, 32, 32), (40, 9, 8, 16), (1, 64, 16, 8)]:
        yield call("csr", (rows, cols), value_bits, index_bits)
    yield call("csr", (drawn(g, 5, 30), drawn(g, 31, 60)), drawn(g, 9, 15), 16)
    yield call(encoding="csr", value_bits=drawn(g, 20, 30), shape=(drawn(g, 31, 60), drawn(g, 5, 30)))
    yield call("csr", (drawn(g, 15, 25), 1), 32)  # never pays: above 1


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
    yield call("csr", (9 * width, 2 * height), drawn(g, 9, 15), tile=(width, height))
    yield call("csr", (height, width), drawn(g, 8, 14), drawn(g, 17, 31), (height, width))  # one tile


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


@even.misconception(
    "tile or index for a bitmap",
    "You charge a bitmap for an index, or less for tiles. It has one bit per entry and nothing else: index_bits and tile are for CSR only.",
)
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    return break_even(encoding, shape, value_bits, index_bits, tile) / (tile[0] * tile[1] if encoding == "bitmap" else 1)


@even.accepts("exact fractions")
def _(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    rows, cols = shape
    if encoding == "bitmap":
        return float(Fraction(1, value_bits))
    index = Fraction(index_bits, tile[0] * tile[1])
    pointers = Fraction(32 * (rows // tile[0] + 1), rows * cols)
    return float((index + pointers) / (value_bits + index))


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
