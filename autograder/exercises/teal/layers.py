"""Exercise 14.4: thresholds, layer by layer."""

import torch
from torch import Tensor, nn

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.teal import fixtures
from autograder.inside.case import Case, call
from autograder.inside.recipes import Module


@torch.no_grad()
def reference(model: nn.Sequential, batches: list[Tensor], sparsity: float) -> dict[str, float]:
    """With the other references."""
    found = {}
    for name, part in model.named_children():
        if isinstance(part, nn.Linear):
            x = torch.cat([batch.flatten() for batch in batches])
            found[name] = fixtures.limit(*fixtures.distribution(x, 10_000), sparsity)
        batches = [part(batch) for batch in batches]
    return found


layers = Exercise(
    "teal.layers",
    defines="layer_thresholds",
    title="Layer by layer",
    minutes=15,
    difficulty=2,
    hints=(
        "Carry the batches through the model, part by part. A linear part is met with what the dense parts before it have made.",
        "All numbers of all batches that reach a linear part go into one histogram. Then run the part as it is, linear or not, without gradients.",
        "`for name, part in model.named_children():`, and for an `nn.Linear`: `x = torch.cat([batch.flatten() for batch in batches])`; "
        "`found[name] = threshold(*histogram(x), sparsity)`; then for every part `batches = [part(batch) for batch in batches]`. All of it under "
        "`torch.no_grad()`.",
    ),
    reference=reference,
    rules=Rules(tolerance=4e-3),  # a number that rounding moves to the next bin moves a threshold by the width of a bin
)


def _apart(x: Tensor, s: float) -> bool:
    one, two = (fixtures.limit(*fixtures.distribution(x, 10_000, outliers), s) for outliers in (0.01, 0.02))
    return abs(two / one - 1) > 0.02


def case(
    g: torch.Generator, *parts: int | str, batches=((2, 9), (1, 13)), sparsity=(0.35, 0.65), size=1.0, bias=True, names=()
) -> Case:
    """`parts`: the number of inputs, then outputs of linear layers and kinds of other modules; `names`: of all of these."""
    cols, modules, widths = parts[0], [], []
    for part in parts[1:]:
        if isinstance(part, int):
            widths.append(cols)
            state = {"weight": 2 * torch.randn(part, cols, generator=g) / cols**0.5}
            state |= {"bias": 0.4 + torch.randn(part, generator=g)} if bias else {}
            modules.append(Module("Linear", (cols, part, bias), state))
            cols = part
        elif part == "LayerNorm":
            state = {"weight": torch.rand(cols, generator=g) + 0.5, "bias": 0.3 + torch.randn(cols, generator=g)}
            modules.append(Module(part, (cols,), state))
        else:
            modules.append(Module(part))

    def read() -> list[Tensor]:
        return [size * 1.7**i * fixtures.inputs(g, *shape, parts[0], shift=0.3) for i, shape in enumerate(batches)]

    X = read()
    tokens = sum(a * b for a, b in batches)

    def draw() -> float:
        return round(sparsity[0] + (sparsity[1] - sparsity[0]) * float(torch.rand((), generator=g)), 3)

    s = fixtures.redraw(draw, lambda s: all(0.15 < (0.5 + s / 2) * tokens * width % 1 < 0.85 for width in widths))
    if s > 0.9:  # the outliers decide: other ones give another threshold
        X = fixtures.redraw(read, lambda X: _apart(torch.cat([x.flatten() for x in X]), s))
    arguments = (dict(zip(names, modules, strict=True)),) if names else tuple(modules)
    return call(Module("Sequential", arguments), X, s)


@layers.stage(
    "one layer",
    points=1,
    exposes="The threshold of a layer comes from all numbers of all batches that it reads, by your histogram with its defaults: where only outliers are to "
    "stay, it lies between the last two middles.",
)
def _(g):
    yield case(g, 21, 4, batches=((1, 11),))
    yield case(g, 15, 6)
    yield case(g, 11, 3, batches=((1, 10), (3, 7), (2, 2)))
    yield case(g, 14, 5, size=1e-8)
    yield case(g, 20, 3, sparsity=(0.988, 0.992), batches=((2, 11), (1, 19)))  # 8.2 of 820 are the outliers


@layers.stage(
    "every linear layer, by its name",
    points=1,
    exposes="Thresholds are given for the linear layers alone, each by its name in the model, from what reaches it, behind the activation before it.",
)
def _(g):
    yield case(g, 17, 19, "GELU", 13)
    yield case(g, 15, "LayerNorm", 18, "Tanh", 14, "Tanh", 11)
    yield case(g, 16, 14, 15, "SiLU", 3, batches=((3, 8), (1, 5)))
    yield case(g, 13, 16, "Tanh", 5, bias=False, names=("up", "act", "down"))


@layers.stage(
    "from dense inputs",
    points=1,
    exposes="No layer sees the zeros of those before it: all inputs are those of the dense model. The model and the batches stay as they are.",
    pure=True,
)
def _(g):
    yield case(g, 18, 22, "Tanh", 17, "GELU", 15, sparsity=(0.75, 0.85))
    yield case(g, 16, 24, 18, 14, sparsity=(0.7, 0.8), batches=((1, 20), (1, 9)))


def made(
    model,
    batches,
    sparsity,
    *,
    of=lambda batches: torch.cat([batch.flatten() for batch in batches]),
    limit=lambda x, s: fixtures.limit(*fixtures.distribution(x, 10_000), s),
    goes_on=lambda part, batches, t: [part(batch) for batch in batches],
    named=lambda name, linear: name,
    place=None,
):
    """With its parts exchangeable, for mistakes in one part."""
    found = {}
    with torch.no_grad():
        for i, (name, part) in enumerate(model.named_children()):
            t = None
            if isinstance(part, nn.Linear):
                t = limit(of(batches), sparsity)
                found[place(i) if place else named(name, len(found))] = t
            batches = goes_on(part, batches, t)
    return found


def varied(name: str, says: str, **parts) -> None:
    layers.misconception(name, says)(lambda *args, **options: made(*args, **options, **parts))


def zeroed(batches: list[Tensor], t: float | None) -> list[Tensor]:
    return batches if t is None else [batch.masked_fill(batch.abs() <= t, 0) for batch in batches]


def outputs_of(model, batches, sparsity):
    found = {}
    with torch.no_grad():
        for name, part in model.named_children():
            batches = [part(batch) for batch in batches]
            if isinstance(part, nn.Linear):
                found[name] = fixtures.limit(
                    *fixtures.distribution(torch.cat([b.flatten() for b in batches]), 10_000), sparsity
                )
    return found


layers.misconception("outputs", "You took what the layers give. What is skipped is what they read.")(outputs_of)
varied("the first batch", "You took the first batch only.", of=lambda batches: batches[0].flatten())
varied("the last batch", "You took the last batch only.", of=lambda batches: batches[-1].flatten())
varied(
    "the first sequence",
    "You took the first sequence of each batch only.",
    of=lambda batches: torch.cat([b[0].flatten() for b in batches]),
)
varied(
    "the last token",
    "You took the last token of each sequence only. All tokens count.",
    of=lambda batches: torch.cat([b[:, -1:].flatten().repeat(30) for b in batches]),
)
varied(
    "sparse inputs",
    "Your later layers see what the sparse ones before them make. Thresholds come from the dense model.",
    goes_on=lambda part, batches, t: [part(batch) for batch in zeroed(batches, t)],
)
varied(
    "sparsified inputs",
    "Your later layers read what your sparsifier leaves. Thresholds come from the dense model: run its layers on all inputs.",
    goes_on=lambda part, batches, t: [
        part(batch if t is None else torch.cat([batch[:, :half], *zeroed([batch[:, half:]], t)], dim=1))
        for batch in batches
        for half in [(batch.shape[1] + 1) // 2]
    ],
)
varied(
    "all layers read the first's",
    "You never ran the model: every layer gets the thresholds of the model's own inputs.",
    goes_on=lambda part, batches, t: batches,
)
varied(
    "without what is between",
    "You ran the linear layers only. What a layer reads is behind the activation.",
    goes_on=lambda part, batches, t: [part(batch) for batch in batches] if t is not None else batches,
)
varied(
    "numbered",
    "You named the layers by counting them. Their names are those in the model.",
    named=lambda name, linear: str(linear + 1),
)
varied(
    "places for names",
    "You named layers by their places. The names are those of `named_children`, which need not be numbers.",
    place=str,
)
varied(
    "other outliers",
    "Your histogram has other outliers than 1 % on either side. Leave its defaults as they are.",
    limit=lambda x, s: fixtures.limit(*fixtures.distribution(x, 10_000, 0.02), s),
)
varied(
    "magnitudes",
    "You took the quantile of the magnitudes. Use your own histogram and threshold.",
    limit=lambda x, s: float(x.abs().quantile(s)),
)
varied(
    "signed quantile",
    "You took the quantile s of the signed inputs. It is 0.5 + s / 2.",
    limit=lambda x, s: float(x.quantile(s)),
)
varied(
    "half of it",
    "Your level is another one than `sparsity`.",
    limit=lambda x, s: fixtures.limit(*fixtures.distribution(x, 10_000), s / 2),
)
varied(
    "few bins",
    "Your histogram has few bins, and its thresholds are rough. Leave its defaults as they are.",
    limit=lambda x, s: fixtures.limit(*fixtures.distribution(x, 20), s),
)


@layers.misconception("mean over batches", "You averaged the thresholds of the batches. All inputs go into one histogram.")
def _(model, batches, sparsity):
    each = [reference(model, [torch.cat([batch] * 30)], sparsity) for batch in batches]
    return {name: sum(found[name] for found in each) / len(each) for name in each[0]}


@layers.misconception("one for all layers", "You gave all layers one threshold. Each has its own inputs.")
def _(model, batches, sparsity):
    found = reference(model, batches, sparsity)
    return dict.fromkeys(found, next(iter(found.values())))


@layers.misconception("every part", "You gave thresholds to parts that are no linear layers.")
def _(model, batches, sparsity):
    found = {}
    with torch.no_grad():
        for name, part in model.named_children():
            found[name] = fixtures.limit(*fixtures.distribution(torch.cat([b.flatten() for b in batches]), 10_000), sparsity)
            batches = [part(batch) for batch in batches]
    return found


@layers.misconception(
    "the list changed", "The thresholds are right, but the caller's list of batches has changed: make a new list."
)
def _(model, batches, sparsity):
    found = reference(model, list(batches), sparsity)
    with torch.no_grad():
        for i, batch in enumerate(batches):
            batches[i] = model(batch)
    return found


def authors(x: Tensor, sparsity: float) -> float:
    a = torch.sort(x.flatten().float())[0]
    few = int(0.01 * len(a))
    edges = torch.cat((a[:1], torch.linspace(a[few].item(), a[-few].item(), 9999), a[-1:]))
    counts, edges = torch.histogram(a, edges)
    centers, total = (edges[:-1] + edges[1:]) / 2, counts.cumsum(0)
    target = (0.5 + sparsity / 2) * total[-1]
    i = int(torch.searchsorted(total, target))
    return float(centers[i - 1] + (target - total[i - 1]) / (total[i] - total[i - 1]) * (centers[i] - centers[i - 1]))


@layers.accepts("hooks, and the whole model once for each batch")
def _(model, batches, sparsity):
    seen, handles = {}, []
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear):
            handles.append(
                part.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(args[0].flatten()))
            )
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    return {name: authors(torch.cat(parts), sparsity) for name, parts in seen.items()}


@layers.accepts("a growing prefix of the model")
def _(model, batches, sparsity):
    with torch.no_grad():
        return {
            name: authors(torch.cat([model[:i](batch).flatten() for batch in batches]), sparsity)
            for i, (name, part) in enumerate(model.named_children())
            if isinstance(part, nn.Linear)
        }


@layers.accepts("a copy, and activations in a list")
def _(model, batches, sparsity):
    found, current = {}, [batch.detach().clone() for batch in batches]
    for name in model._modules:
        part = model.get_submodule(name)
        if type(part) is nn.Linear:
            found[name] = authors(torch.cat([x.reshape(-1) for x in current]), sparsity)
        current = [part(x).detach() for x in current]
    return found
