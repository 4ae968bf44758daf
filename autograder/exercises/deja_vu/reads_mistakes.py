"""Mistakes of exercise 13.7, and the right answer that they vary."""

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()

TABLE = {
    ("training", "heads"): ("block", 1),
    ("training", "neurons"): ("mlp", 0),
    ("accuracy", "heads"): ("block", 1),
    ("accuracy", "neurons"): ("block", 0),
    ("latency", "heads"): ("block", 1),
    ("latency", "neurons"): ("mlp", 1),
}

KNOWN = ("training", "accuracy", "latency")


def looked_up(convention, kind, layer, *, table=None, found=None):
    """From the table, with some entries exchanged; `found` makes the answer of point, block and the layer asked about."""
    entries = TABLE | (table or {})
    if (convention, kind) not in entries:
        raise ValueError(f"unknown: {convention!r}, {kind!r}")
    point, back = entries[convention, kind]
    if found:
        return found(point, layer - back, layer)
    return (point, layer - back) if layer >= back else None


def varied(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda convention, kind, layer: looked_up(convention, kind, layer, **parts))


def everywhere(point_back, kind):
    return {(convention, kind): point_back for convention in ("training", "accuracy", "latency")}


varied(
    "before the first",
    "For the first block you return a block -1. There is none, so nothing is predicted: None. (In a list, -1 would be the "
    "last block, silently.)",
    found=lambda point, block, layer: (point, block),
)
varied(
    "the first block from itself",
    "For the first block you return its own state where an earlier one is wanted. Where there is none, nothing is predicted: "
    "None.",
    found=lambda point, block, layer: (point, max(block, 0)),
)
varied(
    "nothing for the first",
    "You predict nothing for the first block. It has a state of its own, which some predictors read.",
    found=lambda point, block, layer: (point, block) if layer and block >= 0 else None,
)
varied(
    "nothing from the first",
    "You predict nothing from the state of block 0. It is a state as any other.",
    found=lambda point, block, layer: (point, block) if block > 0 else None,
)
varied(
    "one block ahead",
    "You went the other way: the state that a predictor reads is there before, so it is of the block before, not of the next.",
    found=lambda point, block, layer: (point, 2 * layer - block) if block >= 0 else None,
)
varied(
    "how far back",
    "You return how many blocks back the state is. Return the number of the block.",
    found=lambda point, block, layer: (point, layer - block) if block >= 0 else None,
)
varied(
    "block before point",
    "You return the block first. The point comes first.",
    found=lambda point, block, layer: (block, point) if block >= 0 else None,
)
varied(
    "heads from their own block",
    "You predict heads from what their own block reads. Attention begins with that, so it would have to wait for the "
    "predictor: all conventions read the block before.",
    table=everywhere(("block", 0), "heads"),
)
varied(
    "heads from the MLP before",
    "You predict heads from what the MLP of the block before reads. All conventions read what that block reads.",
    table=everywhere(("mlp", 1), "heads"),
)
varied(
    "heads two blocks before",
    "You predict heads from two blocks before. It is the block before.",
    table=everywhere(("block", 2), "heads"),
)
varied(
    "no lookahead anywhere",
    "You predict neurons from what their own MLP reads, by all conventions. That is how they are trained; where accuracy and "
    "latency are measured, the state is an earlier one.",
    table=everywhere(("mlp", 0), "neurons"),
)
varied(
    "always what the block reads",
    "You predict neurons from what their own block reads, by all conventions. That is how accuracy is measured.",
    table=everywhere(("block", 0), "neurons"),
)
varied(
    "always the MLP before",
    "You predict neurons from what the MLP before reads, by all conventions. That is how latency is measured.",
    table=everywhere(("mlp", 1), "neurons"),
)
varied(
    "neurons from the block before",
    "You predict neurons from what the block before reads, as heads are. No convention does.",
    table=everywhere(("block", 1), "neurons"),
)
varied(
    "training and accuracy swapped",
    "You swapped training and accuracy. In training neurons are predicted from what their own MLP reads.",
    table={("training", "neurons"): ("block", 0), ("accuracy", "neurons"): ("mlp", 0)},
)
varied(
    "accuracy and latency swapped",
    "You swapped accuracy and latency. To save time neurons are predicted a block ahead, while the MLP before is at work.",
    table={("accuracy", "neurons"): ("mlp", 1), ("latency", "neurons"): ("block", 0)},
)
varied(
    "training and latency swapped",
    "You swapped training and latency. In training there is no lookahead for neurons, in latency there is.",
    table={("training", "neurons"): ("mlp", 1), ("latency", "neurons"): ("mlp", 0)},
)
varied(
    "latency reads the block",
    "By latency you predict neurons from what the block before reads. Its MLP comes later, and what that reads is the newest "
    "state that there is in time.",
    table={("latency", "neurons"): ("block", 1)},
)
varied(
    "latency from its own block",
    "By latency you predict neurons from what their own block reads. They are predicted while the MLP of the block before is "
    "at work, from what that reads.",
    table={("latency", "neurons"): ("block", 0)},
)
mistakes("any name", "You take any convention and any kind. Those that do not exist are a ValueError.")(
    lambda convention, kind, layer: looked_up(
        convention if convention in ("training", "latency") else "accuracy", kind if kind == "heads" else "neurons", layer
    )
)
mistakes("any kind", "You take any kind for neurons. There are heads and neurons, and no other.")(
    lambda convention, kind, layer: looked_up(convention, kind if kind == "heads" else "neurons", layer)
)
mistakes(
    "the block before the names",
    "For block 0 you return None before you look at the names. A name that does not exist is a ValueError for any block.",
)(
    lambda convention, kind, layer: (
        None if layer == 0 and (kind != "neurons" or convention not in KNOWN) else looked_up(convention, kind, layer)
    )
)
mistakes("no error", "For an unknown convention or kind you return None. It is a ValueError.")(
    lambda convention, kind, layer: looked_up(convention, kind, layer) if (convention, kind) in TABLE else None
)
