"""Mistakes of exercise 1.4, and the right answer that they vary."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Mistakes
from sparsity_edu import storage


class Bitmap:
    def __init__(self, W: Tensor):
        self.encoded = storage.Bitmap.encode(W)

    def bits(self) -> Tensor:
        return self.encoded.bits

    def decode(self) -> Tensor:
        return self.encoded.decode()

    def nbytes(self) -> int:
        return self.encoded.nbytes


mistakes = Mistakes()


@mistakes(
    "highest bit first",
    "You put the first position into the highest bit (numpy's packbits does so by default). Here the first is the lowest: weights "
    "1, 2, 4, ..., 128; in numpy bitorder='little'.",
)
class _(Bitmap):
    def bits(self):
        reversed_bytes = [int(f"{byte:08b}"[::-1], 2) for byte in super().bits().tolist()]
        return torch.tensor(reversed_bytes, dtype=torch.uint8)


@mistakes("bit set for zeros", "Your bit is 1 where the entry is zero. 1 means: here is a non-zero, a value follows.")
class _(Bitmap):
    def __init__(self, W):
        super().__init__(W)
        self.flipped = storage.pack_bits(W == 0)

    def bits(self):
        return self.flipped


@mistakes(
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


@mistakes(
    "bits of the wrong dtype",
    "Your packed bits are int64: a sum of integers is int64 in torch, and each byte then takes eight. Convert with .to(torch.uint8).",
)
class _(Bitmap):
    def bits(self):
        return super().bits().long()

    def nbytes(self):
        return self.encoded.values.nbytes + self.bits().nbytes


@mistakes("column by column", "Your bits go down the columns. Reading order is row by row, as flatten() goes.")
class _(Bitmap):
    def __init__(self, W):
        super().__init__(W.T)

    def decode(self):
        return super().decode().T


@mistakes(
    "a byte per position",
    "nbytes() counts the bits as if each took a byte. That is the size of the boolean mask; packed it is an eighth.",
)
class _(Bitmap):
    def nbytes(self):
        return self.encoded.values.nbytes + self.decode().numel()


@mistakes("values only", "nbytes() leaves out the bits. Saying where the values go is not free: that is the whole trade-off.")
class _(Bitmap):
    def nbytes(self):
        return self.encoded.values.nbytes


@mistakes(
    "four bytes per value", "You count 4 bytes per value whatever the dtype. fp16 takes 2, int8 takes 1: use `.element_size()`."
)
class _(Bitmap):
    def nbytes(self):
        return 4 * self.encoded.values.numel() + self.encoded.bits.nbytes


@mistakes("positive only", "You keep entries above zero only. Negative weights are not zero: test W != 0.")
class _(Bitmap):
    def __init__(self, W):
        super().__init__(W * (W > 0))


@mistakes("flat", "decode() returns a flat tensor. Remember the shape of W, and give it back.")
class _(Bitmap):
    def decode(self):
        return super().decode().flatten()


@mistakes("always float32", "decode() always gives float32. The dtype of W is the dtype of what comes back.")
class _(Bitmap):
    def decode(self):
        return super().decode().float()


@mistakes(
    "last byte lost",
    "With 15 entries you store one byte instead of two: n // 8 rounds down. Pad to a multiple of 8 first, so that (n + 7) // 8 bytes hold "
    "all bits.",
)
class _(Bitmap):
    def bits(self):
        return super().bits()[: self.decode().numel() // 8]

    def nbytes(self):
        return self.encoded.values.nbytes + self.bits().nbytes


@mistakes("one byte too many", "n // 8 + 1 is one byte too many when 8 divides n. Round up with (n + 7) // 8.")
class _(Bitmap):
    def bits(self):
        return F.pad(super().bits(), (0, int(self.decode().numel() % 8 == 0)))

    def nbytes(self):
        return self.encoded.values.nbytes + self.bits().nbytes


@mistakes(
    "nearly zero",
    "You take small values for zeros. 1e-44 is a number like any other, and decode() has to give it back: only == 0 is a zero.",
)
class _(Bitmap):
    def __init__(self, W):
        super().__init__(W.masked_fill(W.abs() < 1e-12, 0) if W.is_floating_point() else W)


@mistakes(
    "multiplied into place",
    "You multiply by the mask to leave zeros: an infinite value times 0 is NaN. Write the values to their places: `dense[mask] = values`.",
)
class _(Bitmap):
    def decode(self):
        W = super().decode()
        mask = W != 0
        return (W[mask][(mask.flatten().cumsum(0) - 1).clamp(min=0)] * mask.flatten()).view(W.shape) if mask.any() else W
