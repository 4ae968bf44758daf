"""Triton's interpreter, run in another order: on a GPU programs run in none."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
from triton.runtime.interpreter import InterpreterBuilder


@contextmanager
def shuffled(seed: int) -> Iterator[list]:
    """Run the programs of each launch in a random order.

    Yields:
        The order of all programs, as it comes.
    """
    order, place, left = [], InterpreterBuilder.set_grid_idx, []
    g = np.random.default_rng(seed)

    def set_grid_idx(builder, x, y, z):
        if (x, y, z) == (0, 0, 0):
            left[:] = g.permutation(np.prod(builder.grid_dim)).tolist()
        program = np.unravel_index(left.pop(), builder.grid_dim)
        order.append(program)
        place(builder, *map(int, program))

    with patch.object(InterpreterBuilder, "set_grid_idx", set_grid_idx):
        yield order
