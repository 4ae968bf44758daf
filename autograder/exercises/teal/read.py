"""Exercise 14.7: what is read."""

import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.teal.fixtures import PROJECTIONS, some
from autograder.inside.case import Case, call

Shapes = dict[str, tuple[int, int]]


def counted(
    shapes: Shapes,
    levels: dict[str, float],
    layers: int,
    rest: int,
    itemsize: int = 2,
    *,
    kept=lambda level: 1 - min(level, 1.0),
    size=lambda rows, cols: rows * cols,
    times=lambda layers: layers,
    beside=lambda rest, part: rest,
    missing=0.0,
    ratio=lambda dense, sparse: dense / sparse,
    bytes_of=lambda numbers, itemsize: itemsize * numbers,
) -> tuple[float, float]:
    """With its parts exchangeable, for mistakes in one part."""
    dense = times(layers) * sum(size(*shape) for shape in shapes.values()) + rest
    part = sum(size(*shape) * kept(levels.get(name, missing)) for name, shape in shapes.items())
    sparse = times(layers) * part + beside(rest, part / sum(size(*shape) for shape in shapes.values()))
    return float(bytes_of(sparse, itemsize)), ratio(dense, sparse)


read = Exercise(
    "teal.read",
    defines="token_cost",
    title="What is read",
    minutes=10,
    difficulty=1,
    hints=(
        "A small input saves the weights that it would meet: a column of the matrix. So a level is the share of a matrix that is not read.",
        "Of a projection `outputs * inputs * (1 - level)` weights are read, in every layer. The rest is read whatever the levels. The bound is what the dense "
        "model reads, the rest included, divided by what the sparse one reads.",
        "`dense = layers * sum(n * k for n, k in shapes.values()) + rest`; `sparse` is the same with `n * k * (1 - min(levels.get(name, 0), 1))`; return "
        "`itemsize * sparse, dense / sparse`.",
    ),
    reference=counted,
)


def case(g: torch.Generator, names=PROJECTIONS, given=PROJECTIONS, over=(), **more) -> Case:
    shapes = {name: (some(g, 30, 900), some(g, 30, 900)) for name in names}
    levels = {name: round(0.1 + 0.8 * float(torch.rand((), generator=g)), 3) for name in names if name in given}
    levels |= dict.fromkeys(over, 1.15)
    return call(shapes, levels, some(g, 5, 40), some(g, 200_000, 5_000_000), **more)


@read.stage(
    "one level",
    points=1,
    exposes="Of each projection a share 1 - level of the weights is read, in every layer; the rest is read in any case, once. In bytes.",
)
def _(g):
    yield case(g, ("up",), ("up",))
    yield call({"q": (640, 310), "down": (310, 990)}, {"q": 0.5, "down": 0.5}, some(g, 5, 30), some(g, 100_000, 900_000))
    yield case(g, ("gate",), ("gate",), itemsize=4)


@read.stage(
    "levels of their own",
    points=1,
    exposes="Levels weigh as much as their matrices. A projection without a level is read as a whole, and one whose level exceeds 1 not at all. "
    "Shapes and levels stay as they are.",
    pure=True,
)
def _(g):
    yield case(g)
    yield case(g, given=("gate", "up", "down"))
    yield case(g, over=("k",))
    yield case(g, given=(), itemsize=1)
    yield case(g, over=("q", "v"), itemsize=4)


def varied(name: str, says: str, **parts) -> None:
    read.misconception(name, says)(lambda *args, **options: counted(*args, **options, **parts))


varied(
    "what is skipped", "You counted what is not read: a level is the share that is skipped.", kept=lambda level: min(level, 1.0)
)
varied("nothing saved", "You counted every weight. A small input's weights are not read.", kept=lambda level: 1.0 + 0 * level)
varied("levels above 1", "You counted fewer than no weights: a level above 1 counts as 1.", kept=lambda level: 1 - level)
varied(
    "squared",
    "You took the share twice, for inputs and for outputs. Inputs alone are skipped.",
    kept=lambda level: (1 - min(level, 1.0)) ** 2,
)
varied("one layer", "You counted one layer. Each of them is read.", times=lambda layers: 1)
varied("inputs only", "You counted the inputs, not the weights that they meet.", size=lambda rows, cols: cols)
varied("outputs only", "You counted outputs. Weights are outputs times inputs.", size=lambda rows, cols: rows)
varied(
    "square matrices",
    "You took matrices for square. They have outputs times inputs weights.",
    size=lambda rows, cols: cols * cols,
)
varied("no rest", "You left out the rest, which is read for every token.", beside=lambda rest, part: 0)
varied("the rest saved too", "You saved on the rest as well. It is read in any case.", beside=lambda rest, part: rest * part)
varied("missing levels are 1", "A projection without a level is read as a whole.", missing=1.0)
varied("numbers, not bytes", "You counted numbers. Each has `itemsize` bytes.", bytes_of=lambda numbers, itemsize: numbers)
varied("always two bytes", "You ignore the argument `itemsize`.", bytes_of=lambda numbers, itemsize: 2 * numbers)
varied("bits", "You counted bits. `itemsize` is in bytes already.", bytes_of=lambda numbers, itemsize: 8 * itemsize * numbers)
varied(
    "the bound upside down",
    "Your bound is below 1: it is what the dense model reads, divided by what the sparse one reads.",
    ratio=lambda dense, sparse: sparse / dense,
)
varied(
    "what is saved",
    "You return the share that is saved. The bound is how many times as fast it can be.",
    ratio=lambda dense, sparse: 1 - sparse / dense,
)


@read.misconception("the rest in every layer", "You counted the rest once for each layer. It is that of the whole model.")
def _(shapes, levels, layers, rest, itemsize=2):
    return counted(shapes, levels, layers, rest * layers, itemsize)


@read.misconception("the mean of levels", "You took the mean of the levels. They weigh as much as their matrices.")
def _(shapes, levels, layers, rest, itemsize=2):
    mean = sum(min(levels.get(name, 0.0), 1.0) for name in shapes) / len(shapes)
    return counted(shapes, dict.fromkeys(shapes, mean), layers, rest, itemsize)


@read.misconception(
    "the bound without the rest", "Your bound is that of the projections alone. The rest takes its time in both models."
)
def _(shapes, levels, layers, rest, itemsize=2):
    return counted(shapes, levels, layers, rest, itemsize)[0], counted(shapes, levels, layers, 0, itemsize)[1]


@read.misconception("the bound first", "You return the bound first. Bytes come first.")
def _(*args, **options):
    return counted(*args, **options)[::-1]


@read.misconception("dense bytes", "You return what the dense model reads.")
def _(shapes, levels, layers, rest, itemsize=2):
    return counted(shapes, {}, layers, rest, itemsize)[0], counted(shapes, levels, layers, rest, itemsize)[1]


@read.accepts("two sums")
def _(shapes, levels, layers, rest, itemsize=2):
    dense = layers * sum(n * k for n, k in shapes.values()) + rest
    sparse = layers * sum(n * k * max(0, 1 - levels.get(name, 0)) for name, (n, k) in shapes.items()) + rest
    return itemsize * sparse, dense / sparse


@read.accepts("what is saved, subtracted")
def _(shapes, levels, layers, rest, itemsize=2):
    whole, saved = rest, 0.0
    for name in shapes:
        outputs, inputs = shapes[name]
        whole += layers * outputs * inputs
        if name in levels:
            saved += layers * outputs * inputs * min(1.0, levels[name])
    return (whole - saved) * itemsize, whole / (whole - saved)


@read.accepts("tensors")
def _(shapes, levels, layers, rest, itemsize=2):
    sizes = torch.tensor([n * k for n, k in shapes.values()], dtype=torch.float64)
    kept = 1 - torch.tensor([levels.get(name, 0.0) for name in shapes], dtype=torch.float64).clamp(max=1)
    sparse = layers * (sizes * kept).sum().item() + rest
    return itemsize * sparse, (layers * sizes.sum().item() + rest) / sparse
