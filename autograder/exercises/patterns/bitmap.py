"""Exercise 1.4: a bitmap: one bit per position."""

import numpy as np
import torch

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.patterns.bitmap_mistakes import Bitmap, mistakes
from autograder.exercises.patterns.fixtures import drawn, holed
from autograder.inside.case import script

bitmap = Exercise(
    "patterns.bitmap",
    defines="Bitmap",
    title="A bitmap: one bit per position",
    minutes=30,
    difficulty=2,
    hints=(
        "A bitmap is two lists: the values that are not zero, in reading order, and one bit for each entry. Keep these "
        "two and the shape; all three methods follow from them.",
        "Eight bits make a byte, and bit i of it is worth `2 ** i`. Fill the flat mask up with zeros to a multiple of 8, "
        "make it (bytes, 8), multiply by `2 ** torch.arange(8)` and sum. To read it back shift the other way: `byte >> i "
        "& 1` is bit i.",
        "1. Keep `W[W != 0]`, `W.shape` and the packed bits as uint8; the filling is `F.pad(mask.int(), (0, -len(mask) % "
        "8))` on the flat mask.\n"
        "2. For `decode`: `packed[:, None] >> torch.arange(8) & 1`, flattened and cut to the number of entries, is the "
        "mask. Bring it to W's shape, as bool; then `dense[mask] = values` on zeros of the values' dtype.\n"
        "3. `nbytes` adds the `.nbytes` of the two tensors.",
    ),
    reference=Bitmap,
    misconceptions=mistakes,
    rules=Rules(tolerance=0, exact_zeros=True),
)


def sides(g: torch.Generator) -> tuple[int, int]:
    return drawn(g, 3, 9), drawn(g, 5, 12)


@bitmap.stage(
    "decode() gives the matrix back",
    points=1,
    exposes="decode() returns a tensor equal to W: shape, dtype (any: bfloat16, which numpy does not know, integers that a float cannot "
    "hold, booleans), and every value at its place.",
)
def _(g):
    yield script(holed(g, *sides(g)), calls=[("decode",)])
    tiny = holed(g, 3, 16, zeros=0.8, dtype=torch.float64) / 3e20  # small is not zero, and float32 would round
    yield script(tiny, calls=[("decode",), ("decode",)])
    for dtype in (torch.float16, torch.bfloat16, torch.uint8, torch.int16, torch.bool):
        yield script(holed(g, *sides(g), zeros=0.3, dtype=dtype), calls=[("decode",)])
    yield script(holed(g, 5, 4, dtype=torch.int64) * (2**55 + 1), calls=[("decode",)])


@bitmap.stage(
    "bits() packs eight positions to a byte, the first in the lowest bit",
    points=1,
    exposes="A uint8 tensor of one dimension; entry i of the matrix, in reading order, is bit i % 8 of byte i // 8; 1 = non-zero.",
)
def _(g):
    yield script(torch.tensor([[5.0, 0, 0, 0, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0, 0, -1]]), calls=[("bits",)])
    yield script(holed(g, 4, 6), calls=[("bits",)])
    yield script(holed(g, 10, 4, zeros=0.7, dtype=torch.float16), calls=[("bits",)])
    yield script(holed(g, drawn(g, 2, 5), 304, dtype=torch.bfloat16), calls=[("bits",)])


@bitmap.stage(
    "nbytes() counts the values in their own dtype, and the packed bits",
    points=1,
    exposes="nbytes() = bytes of the non-zero values (4 each in fp32, 2 in fp16, 1 in int8) + bytes of the packed bits. Nothing else.",
)
def _(g):
    for dtype in (torch.float32, torch.float16, torch.float64, torch.int8, torch.bfloat16, torch.uint8):
        yield script(holed(g, 8, drawn(g, 6, 30), zeros=0.6, dtype=dtype), calls=[("nbytes",)])


@bitmap.stage(
    "awkward matrices: ragged, empty of non-zeros, full, transposed",
    points=1,
    exposes="7 entries still take a whole byte, its unused high bits 0; a matrix without any non-zero, or without any zero, is a matrix "
    "like any other, and so is one with infinite values, or with values of 1e-44, which are not zero; W itself does not change.",
    pure=True,
)
def _(g):
    every = [("bits",), ("nbytes",), ("decode",)]
    yield script(holed(g, 3, 5), calls=every)
    yield script(holed(g, 1, 7, zeros=0.3), calls=every)
    yield script(holed(g, 1, 1, zeros=0.0), calls=every)
    yield script(holed(g, drawn(g, 9, 14), 1, dtype=torch.bfloat16), calls=every)
    yield script(torch.zeros(3, 7, dtype=torch.float16), calls=every)
    yield script(holed(g, 5, 5, zeros=0.0, dtype=torch.int8), calls=every)
    yield script(holed(g, 6, 5).T, calls=every)  # not contiguous
    yield script(holed(g, 7, 11, zeros=0.9), calls=[*every[::-1], ("bits",)])
    scales = torch.tensor([1.0, 1e-8, 1e-30, 1e-44, torch.inf, -0.0])
    yield script(scales[torch.randint(len(scales), (7, 13), generator=g)], calls=every)
    yield script(holed(g, 9, 301, zeros=0.1), calls=every)  # counts and places beyond a byte


@bitmap.accepts("masked_scatter, bits with a matrix product")
class _:
    def __init__(self, W):
        flags = (W != 0).reshape(-1)
        rows = torch.cat([flags, flags.new_zeros(-flags.numel() % 8)]).reshape(-1, 8)
        self.code = (rows.float() @ 2.0 ** torch.arange(8)).byte()
        self.kept, self.size, self.where = torch.masked_select(W, W != 0), W.size(), flags.nonzero().squeeze(1)

    def bits(self):
        return self.code.clone()

    def decode(self):
        return self.kept.new_zeros(self.size.numel()).index_put((self.where,), self.kept).reshape(self.size)

    def nbytes(self):
        return self.kept.numel() * self.kept.itemsize + self.code.numel()


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
