"""Exercise 5.5: the same function, other weights."""

import torch
from torch import Tensor, nn

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.wanda.fixtures import linear
from autograder.inside.case import Case, call
from autograder.inside.recipes import Module


@torch.no_grad()
def rescale_(norm: nn.Module, readers: list[nn.Linear], s: Tensor) -> None:
    for parameter in norm.parameters():
        parameter.copy_(parameter * s)
    for reader in readers:
        reader.weight.copy_(reader.weight @ torch.diag(1 / s))


rescale = Exercise(
    "wanda.rescale",
    defines="rescale_",
    title="The same function, other weights",
    minutes=10,
    difficulty=2,
    hints=(
        "A feature leaves the norm s_j times larger, so what reads it has to be s_j times smaller. In a reader the "
        "features are the columns.",
        "Everything is changed in place, under `torch.no_grad()`. A tensor of shape (cols,) lies along the last dimension "
        "by itself, in the gain as in the readers. A LayerNorm adds its bias after the gain, and the bias is a part of "
        "the feature. The bias of a reader is added after the product: does it change?",
        "`norm.weight.mul_(s)`; `norm.bias.mul_(s)` if there is one (`getattr(norm, 'bias', None)` is None for a norm "
        "without); `reader.weight.div_(s)` for each reader. Nothing else changes.",
    ),
    reference=rescale_,
    rules=Rules(tolerance=1e-5),
)


def rescale_case(
    g: torch.Generator, kind: str, cols: int, *rows: int, bias: str = "no", decades: float = 1.0, gain=lambda gain: gain
) -> Case:
    """Factors over so many decades on both sides of 1; a bias of "no", "every" or every "other" reader."""
    state = {"weight": gain(torch.rand(cols, generator=g) + 0.5)}
    if kind == "LayerNorm":
        state["bias"] = torch.randn(cols, generator=g)
    biased = {"no": [], "every": range(len(rows)), "other": range(1, len(rows), 2)}[bias]
    readers = [
        linear(torch.randn(r, cols, generator=g), torch.randn(r, generator=g) if i in biased else None)
        for i, r in enumerate(rows)
    ]
    s = 10 ** (decades * (2 * torch.rand(cols, generator=g) - 1))
    return call(Module(kind, (cols,), state), readers, s, changes=(0, 1))


@rescale.stage(
    "multiplies the gains and divides the columns",
    points=1,
    exposes="The gain of feature j (norm.weight[j]) times s_j, and column j of the layer that reads it divided by s_j, in place. s stays. "
    "A gain may be negative or 0, a factor of any size.",
    pure=True,
)
def _(g):
    yield rescale_case(g, "RMSNorm", 3, 2)
    yield rescale_case(g, "RMSNorm", 5, 5)
    yield rescale_case(g, "RMSNorm", 7, 4, bias="every")
    yield rescale_case(g, "RMSNorm", 8, 3, gain=lambda gain: gain * torch.tensor([1.0, -1, 0, 1, -1, 1, 0, -1]))
    yield rescale_case(g, "RMSNorm", 9, 4, decades=12.0)


@rescale.stage(
    "every layer that reads the norm",
    points=1,
    exposes="Queries, keys and values read the same norm: one that is left out computes something else now. Their biases are added after "
    "the product, so they stay.",
)
def _(g):
    yield rescale_case(g, "RMSNorm", 6, 4, 6, 3)
    yield rescale_case(g, "RMSNorm", 4, 5, 4, bias="every")
    yield rescale_case(g, "RMSNorm", 5, 3, 4, 5, 6, 2, 7, 3, 4, 5, bias="other")
    yield rescale_case(g, "RMSNorm", 6)  # nobody reads it yet


@rescale.stage(
    "a LayerNorm has a bias",
    points=1,
    exposes="LayerNorm gives gain * x + bias: both terms reach the columns that you divided, so both have to grow by s.",
)
def _(g):
    yield rescale_case(g, "LayerNorm", 5, 3)
    yield rescale_case(g, "LayerNorm", 6, 6, 2, bias="every")
    yield rescale_case(g, "LayerNorm", 7, 3, 4, bias="other", decades=12.0)


def apply_(
    norm, readers, s, gain=torch.mul, bias=torch.mul, column=torch.div, reader_bias=lambda b, s: b, of=lambda layers: layers
):
    """`rescale_` with its parts exchangeable, for mistakes in one part."""
    with torch.no_grad():
        norm.weight.copy_(gain(norm.weight, s))
        if getattr(norm, "bias", None) is not None:
            norm.bias.copy_(bias(norm.bias, s))
        for reader in of(readers):
            reader.weight.copy_(column(reader.weight, s))
            if reader.bias is not None:
                reader.bias.copy_(reader_bias(reader.bias, s))


@rescale.misconception(
    "other way round",
    "You divided the gains and multiplied the columns. The model's output is unchanged, but the features shrink where s asks them to grow.",
)
def _(norm, readers, s):
    apply_(norm, readers, 1 / s)


@rescale.misconception(
    "rows",
    "You divided the rows of the readers. Row i of a weight makes output i; feature j is read by column j: `reader.weight / s`.",
)
def _(norm, readers, s):
    apply_(norm, readers, s, column=lambda W, s: W / s[:, None])


@rescale.misconception("both multiplied", "You multiplied the columns too. What the gain multiplies, the columns must divide.")
def _(norm, readers, s):
    apply_(norm, readers, s, column=torch.mul)


@rescale.misconception(
    "gain only", "You changed the norm only. The layers that read it now see other inputs: divide their columns by s."
)
def _(norm, readers, s):
    apply_(norm, readers, s, column=lambda W, s: W)


@rescale.misconception("columns only", "You changed the readers only. The gains have to grow by what the columns lose.")
def _(norm, readers, s):
    apply_(norm, readers, s, gain=lambda gain, s: gain, bias=lambda bias, s: bias)


@rescale.misconception("gain replaced", "You set the gains to s. They have values of their own: multiply.")
def _(norm, readers, s):
    apply_(norm, readers, s, gain=lambda gain, s: s)


@rescale.misconception(
    "gain folded in",
    "You divided the columns by the new gain, s times the old one. The old gain stays where it is: divide by s alone.",
)
def _(norm, readers, s):
    apply_(norm, readers, s, column=lambda W, s: W / norm.weight)


@rescale.misconception("first reader only", "Only the first reader was changed. All that read the norm see its new output.")
def _(norm, readers, s):
    apply_(norm, readers, s, of=lambda layers: layers[:1])


@rescale.misconception("last reader only", "Only the last reader was changed. All that read the norm see its new output.")
def _(norm, readers, s):
    apply_(norm, readers, s, of=lambda layers: layers[-1:])


@rescale.misconception(
    "each reader once more",
    "You multiplied the gains once for every reader. They are shared: once is enough.",
)
def _(norm, readers, s):
    apply_(norm, readers, s, gain=lambda gain, s: gain * s ** len(readers), bias=lambda bias, s: bias * s ** len(readers))


@rescale.misconception(
    "bias of the readers divided",
    "You divided the readers' biases too. A bias is added after the product and never meets the feature: it stays.",
)
def _(norm, readers, s):
    apply_(norm, readers, s, reader_bias=lambda b, s: b / s[: len(b)] if len(b) <= len(s) else b / s.mean())


@rescale.misconception(
    "norm's bias forgotten",
    "The LayerNorm's bias was left alone, but the columns that read it were divided: it must grow by s as well.",
)
def _(norm, readers, s):
    apply_(norm, readers, s, bias=lambda bias, s: bias)


@rescale.misconception(
    "norm's bias divided", "You divided the LayerNorm's bias. It is part of the output, like the gain: multiply."
)
def _(norm, readers, s):
    apply_(norm, readers, s, bias=torch.div)


@rescale.misconception(
    "small number added",
    "You add a small number to s before you divide, or cut s off. s is positive: divide by it as it is, or the output changes.",
)
def _(norm, readers, s):
    apply_(norm, readers, s, column=lambda W, s: W / (s + 1e-8))


@rescale.misconception(
    "gain made positive", "You take the size or the logarithm of the gains. A gain may be negative, and stays so."
)
def _(norm, readers, s):
    apply_(norm, readers, s, gain=lambda gain, s: gain.abs() * s)


@rescale.misconception(
    "columns divided twice",
    "You divided by s squared. The output of the norm grows by s, once; so the columns are divided by s.",
)
def _(norm, readers, s):
    apply_(norm, readers, s, column=lambda W, s: W / s**2)


@rescale.misconception("on copies", "The modules are as they were: you changed copies. `norm.weight.mul_(s)` works in place.")
def _(norm, readers, s):
    pass


@rescale.misconception(
    "rows at a square",
    "You divided the rows where the matrix is square, and the columns elsewhere. It is always the columns: the inputs.",
)
def _(norm, readers, s):
    apply_(norm, readers, s, column=lambda W, s: W / s[:, None] if W.shape[0] == W.shape[1] else W / s)


@rescale.accepts("through .data, by transposing")
def _(norm, readers, s):
    for parameter in (norm.weight, getattr(norm, "bias", None)):
        if parameter is not None:
            parameter.data = parameter.data * s
    for reader in readers:
        reader.weight.data = (reader.weight.data.T / s[:, None]).T


@rescale.accepts("new data")
def _(norm, readers, s):
    norm.weight.data = norm.weight.detach() * s
    if isinstance(norm, nn.LayerNorm):
        norm.bias.data = norm.bias.detach() * s
    for reader in readers:
        reader.weight.data = reader.weight.detach() / s.unsqueeze(0)


@rescale.accepts("feature by feature, through the state")
def _(norm, readers, s):
    for j, factor in enumerate(s.tolist()):
        for tensor in norm.state_dict().values():
            tensor[j] *= factor
        for reader in readers:
            reader.state_dict()["weight"][:, j] /= factor
