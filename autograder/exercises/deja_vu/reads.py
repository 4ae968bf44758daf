"""Exercise 13.7: lookahead."""

import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.deja_vu.fixtures import some
from autograder.exercises.deja_vu.reads_mistakes import looked_up, mistakes
from autograder.inside.case import call

CONVENTIONS, KINDS = ("training", "accuracy", "latency"), ("heads", "neurons")


def reference(convention: str, kind: str, layer: int) -> tuple[str, int] | None:
    return looked_up(convention, kind, layer)


reads = Exercise(
    "deja_vu.reads",
    defines="reads",
    title="Lookahead",
    minutes=8,
    difficulty=1,
    hints=(
        "It is the table above, and one question more: is there such a block? For which predictors is there none?",
        "Each entry of the table is a point and how many blocks back its state is. Take the layer, go back, and see whether you are below "
        "block 0.",
        '`point, back = {"training": {"heads": ("block", 1), "neurons": ("mlp", 0)}, ...}[convention][kind]`, then `(point, '
        "layer - back) if layer >= back else None`; a name that is not in the table is a `ValueError`.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


@reads.stage(
    "heads",
    points=1,
    exposes="By all three conventions heads are predicted from what the block before reads. The first block has none before "
    "it: None.",
)
def _(g):
    for convention in CONVENTIONS:
        yield call(convention, "heads", some(g, 6, 90))
        yield call(convention, "heads", 1)
        yield call(convention, "heads", 0)


@reads.stage(
    "neurons",
    points=1,
    exposes="In training neurons are predicted from what their own MLP reads, for accuracy from what their own block reads, for "
    "latency from what the MLP of the block before reads.",
)
def _(g):
    for convention in CONVENTIONS:
        yield call(convention, "neurons", some(g, 6, 90))
        yield call(convention, "neurons", some(g, 2, 6))


@reads.stage(
    "the first blocks",
    points=1,
    exposes="Block 0 has a state of its own, and none of a block before. Block 1 has both.",
)
def _(g):
    for convention in CONVENTIONS:
        for layer in (0, 1):
            yield call(convention, "neurons", layer)
    yield call("latency", "heads", some(g, 2, 90))


@reads.stage(
    "names that do not exist",
    points=1,
    exposes="There are three conventions and two kinds. Any other name is a ValueError.",
    pure=True,
)
def _(g):
    layer = some(g, 2, 60)
    for convention, kind in (
        ("next", "heads"),
        ("Latency", "neurons"),
        ("accuracy", "mlp"),
        ("training", "head"),
        ("", "heads"),
        ("latency", "mlp"),
        ("latency", "Heads"),
        ("accuracy", "neuron"),
        ("train", "neurons"),
        ("pretraining", "neurons"),
        ("accuracy ", "heads"),
    ):
        yield call(convention, kind, layer)
    for convention, kind in (("next", "heads"), ("next", "neurons"), ("latency", "mlp"), ("training", "head")):
        yield call(convention, kind, 0)  # before it is asked if there is such a block
    yield call("accuracy", "neurons", layer)


@reads.accepts("by match")
def _(convention, kind, layer):
    match (convention, kind):
        case ("training" | "accuracy" | "latency", "heads"):
            point, block = "block", layer - 1
        case ("training", "neurons"):
            point, block = "mlp", layer
        case ("accuracy", "neurons"):
            point, block = "block", layer
        case ("latency", "neurons"):
            point, block = "mlp", layer - 1
        case _:
            raise ValueError(f"no such predictor: {convention} {kind}")
    return None if block < 0 else (point, block)


@reads.accepts("by a list of all states in their order")
def _(convention, kind, layer):
    if convention not in CONVENTIONS:
        raise ValueError("convention")
    states = [(point, block) for block in range(layer + 1) for point in ("block", "mlp")]
    if kind == "heads":
        back = 4
    elif kind == "neurons":
        back = {"training": 1, "accuracy": 2, "latency": 3}[convention]
    else:
        raise ValueError("kind")
    return states[-back] if back <= len(states) else None


@reads.accepts("with torch's numbers")
def _(convention, kind, layer):
    backs = {"training": torch.tensor([1, 0]), "accuracy": torch.tensor([1, 0]), "latency": torch.tensor([1, 1])}
    if convention not in backs or kind not in KINDS:
        raise ValueError(convention, kind)
    block = layer - int(backs[convention][KINDS.index(kind)])
    if block < 0:
        return None
    return ["block" if kind == "heads" or convention == "accuracy" else "mlp", block]
