"""One budget of quality for several techniques: which settings cost least?

Every combination within the budget is tried, so that the cost may be any function: packed 2:4 and skipped inputs, for one, do
not save independently. Damages are taken to add up; `interaction` says how far they do.
"""

from collections.abc import Callable, Sequence
from itertools import product

Settings = tuple[int, ...]


def allocate(cost: Callable[[Settings], float], damage: Sequence[Sequence[float]], budget: float) -> Settings:
    """The cheapest settings within a budget.

    Args:
        cost: bytes of settings, one for each technique; called once for each that is within the budget.
        damage: for each technique, by how much each of its settings raises the loss.
        budget: what the damages of the settings may sum to.

    Returns:
        The settings; of equal cost those with the least damage, then the first in lexicographic order.

    Raises:
        ValueError: no settings are within the budget.
    """
    found = []
    for settings in product(*(range(len(losses)) for losses in damage)):
        hurt = sum(losses[i] for losses, i in zip(damage, settings, strict=True))
        if hurt <= budget:
            found.append((cost(settings), hurt, settings))
    if not found:
        least = sum(min(losses) for losses in damage)
        raise ValueError(f"budget must be at least the least damage, {least:g}, got {budget:g}")
    return min(found)[-1]
