"""Matrices, sizes and fractions that the exercises of unit 01 work on."""

import math

import torch
from torch import Tensor


def holed(g: torch.Generator, *shape: int, zeros: float = 0.5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small non-zero numbers, of either sign if the dtype has one, which every dtype holds exactly, and a share of zeros."""
    values = torch.randint(1, 60, shape, generator=g)
    if dtype.is_signed:
        values *= torch.randint(2, shape, generator=g) * 2 - 1
    return values.masked_fill(torch.rand(shape, generator=g) < zeros, 0).to(dtype)


def drawn(g: torch.Generator, low: int, high: int) -> int:
    """A number from low to high - 1."""
    return int(torch.randint(low, high, (), generator=g))


def any_of(g: torch.Generator, *choices):
    """One of the choices."""
    return choices[drawn(g, 0, len(choices))]


def near_whole(g: torch.Generator, *sides: int, below: bool = True) -> float:
    """A fraction s for which int(s * n), n the product of the sides, is not what careless arithmetic makes of it.

    Args:
        g: draws one of those with three decimals.
        *sides: multiplied one after the other, s comes to the same count.
        below: s * n is a hair below a whole number, as 0.29 * 100 is, and one more with an epsilon, in decimals, or in float32;
            else it is whole, one less with s rounded to float32, and another with n - ceil((1 - s) * n).
    """
    n, fractions, found = math.prod(sides), [k / 1000 for k in range(10, 990)], []
    rounded = torch.tensor(fractions, dtype=torch.float32)
    for s, single, product in zip(fractions, rounded.tolist(), (rounded * n).tolist(), strict=True):
        count, one_by_one = int(s * n), s
        for side in sides:
            one_by_one *= side
        if below:
            apart = int(s * n + 1e-9) == int(product) == count + 1
        else:
            apart = int(single * n) == count - 1 and n - math.ceil((1 - s) * n) != count
        if apart and int(one_by_one) == count:
            found.append(s)
    return any_of(g, *found)
