"""Do errors add up? The loss with two techniques, against the dense loss plus what each of them adds by itself.

    interaction = (both - dense) - (a - dense) - (b - dense) = both - a - b + dense

Text by text, since texts differ by far more than techniques do: what they have in common drops out, also of the error bar.
"""

from typing import NamedTuple

from torch import Tensor


class Interaction(NamedTuple):
    """More than 0: together they hurt more than both by themselves."""

    mean: float
    standard_error: float


def interaction(dense: Tensor, a: Tensor, b: Tensor, both: Tensor) -> Interaction:
    """By how much the loss with two techniques exceeds the sum of what each of them does.

    Args:
        dense: losses (texts,) without either, two texts or more.
        a: of the same texts with the first technique.
        b: with the second one.
        both: with both.

    Returns:
        Mean over texts and its standard error (of n - 1 degrees of freedom), worked out in float64.

    Raises:
        ValueError: shapes are not (texts,), not alike, or there are fewer than two texts.
    """
    shapes = [tuple(losses.shape) for losses in (dense, a, b, both)]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1 or shapes[0][0] < 2:
        raise ValueError(f"losses must be (texts,) each, of two texts or more, got shapes {shapes}")
    gaps = both.double() - a.double() - b.double() + dense.double()
    return Interaction(gaps.mean().item(), (gaps.std() / len(gaps) ** 0.5).item())
