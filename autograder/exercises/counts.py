"""Sizes and sparsities for which a count that is worked out in another way is another one."""

import math
from functools import cache

import numpy as np
import torch


def just_below(n: int, sparsity: float) -> bool:
    """Whether n * sparsity falls just short of a whole number, as 100 * 0.29 does; in float32, or with an epsilon, it does not."""
    return int(n * sparsity) not in (int(np.float32(sparsity) * np.float32(n)), int(n * sparsity + 1e-9))


def in_between(n: int, sparsity: float) -> bool:
    """Whether rounding, whole percents and interpolated quantiles count otherwise: much is cut off, of a small sparsity."""
    others = round(n * sparsity), int(100 * sparsity) * n // 100, math.ceil((n - 1) * sparsity), int((n - 1) * sparsity) + 1
    return int(n * sparsity) not in others and 0.01 < n * sparsity % 1 < 0.99


@cache
def _candidates(sizes: tuple[tuple[int, ...], ...], accept) -> list[tuple[tuple[int, ...], float]]:
    fitting = []
    for size in sizes:
        n = math.prod(size)
        for thousandths in range(20, 980):
            sparsity = thousandths / 1000
            one_by_one = sparsity
            for length in size:
                one_by_one *= length
            if accept(n, sparsity) and int(one_by_one) == int(n * sparsity) > 0:  # in whatever order they are multiplied
                fitting.append((size, sparsity))
    return fitting


def draw(g: torch.Generator, sizes: tuple[tuple[int, ...], ...], accept) -> tuple[tuple[int, ...], float]:
    """A size and a sparsity that `accept`s their product.

    Args:
        g: the generator of a stage.
        sizes: what there is to choose from.
        accept: `just_below` or `in_between`.

    Returns:
        One of the sizes, and a sparsity of whole thousandths.
    """
    candidates = _candidates(sizes, accept)
    return candidates[int(torch.randint(len(candidates), (), generator=g))]
