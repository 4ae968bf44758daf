"""Exercise 7.4: a narrower feed-forward layer."""

import copy

import torch
from torch import Tensor, nn

from autograder.checking.exercise import Exercise
from autograder.exercises.minitron.fixtures import linear, redraw, some
from autograder.inside.case import Case, call
from autograder.inside.recipes import Module


def layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    new = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    new.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return new


def trim_(gate, up, down, neurons) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    g, u, d = (part.weight.detach().numpy() for part in (gate, up, down))
    of_gate, of_up, of_down = (None if part.bias is None else part.bias.detach().numpy() for part in (gate, up, down))
    at = neurons.numpy()
    arrays = (
        (g[at], of_gate if of_gate is None else of_gate[at]),
        (u[at], of_up if of_up is None else of_up[at]),
        (d[:, at], of_down),
    )
    return tuple(layer(torch.tensor(w), None if b is None else torch.tensor(b)) for w, b in arrays)


trim_ffn = Exercise(
    "minitron.trim_ffn",
    defines="trim_ffn",
    title="A narrower feed-forward layer",
    minutes=12,
    difficulty=2,
    hints=(
        "A neuron is a row of gate, the same row of up, and a column of down. Cut all three with the same index, into new "
        "layers of the right sizes.",
        "A bias belongs to the outputs: those of gate and up are cut like the rows, that of down is copied whole. Each "
        "layer has a bias or has none, by itself. Make new `nn.Linear` and `.copy_` into their parameters under "
        "`torch.no_grad()`: so they can be trained, and share nothing.",
        "`nn.Linear(gate.in_features, len(neurons), bias=gate.bias is not None)` takes `gate.weight[neurons]` and, if "
        "there is one, `gate.bias[neurons]`. Up is the same. Down has `len(neurons)` inputs and takes `down.weight[:, "
        "neurons]`.",
    ),
    reference=trim_,
)


def ffn_case(
    g: torch.Generator, hidden: int, ffn: int, count: int, biases: tuple[bool, bool, bool] = (False, False, False)
) -> Case:
    return call(*layers(g, hidden, ffn, biases), some(g, ffn, count))


def layers(g: torch.Generator, hidden: int, ffn: int, biases: tuple[bool, bool, bool]) -> tuple[Module, ...]:
    """gate, up and down."""
    shapes = ((ffn, hidden), (ffn, hidden), (hidden, ffn))
    return tuple(linear(g, *shape, bias) for shape, bias in zip(shapes, biases, strict=True))


@trim_ffn.stage(
    "cuts rows of gate and up, columns of down",
    points=1,
    exposes="With `count` neurons the new layers have the weights (count, hidden), (count, hidden) and (hidden, count), and neuron k of the new "
    "ones is neuron neurons[k] of the large ones.",
)
def _(g):
    yield ffn_case(g, 3, 7, 4)
    yield ffn_case(g, 5, 11, 6)
    yield ffn_case(g, 8, 6, 3)
    yield ffn_case(g, 4, 9, 1)
    yield ffn_case(g, 3, 300, 140)
    *parts, neurons = ffn_case(g, 4, 6, 3).args
    for part in parts[:2]:  # a neuron that is 0 stays as any other, where it is named
        part.state["weight"][neurons[1]] = 0
    yield call(*parts, neurons)


@trim_ffn.stage(
    "when all widths are equal too",
    points=1,
    exposes="gate and up have neurons as rows, down has them as columns, whatever the sizes are; the sizes cannot tell you which is which.",
)
def _(g):
    yield ffn_case(g, 7, 7, 4)
    yield ffn_case(g, 4, 9, 4)
    yield ffn_case(g, 6, 6, 5)
    some_order = redraw(lambda: torch.randperm(6, generator=g), lambda drawn: not drawn.equal(drawn.sort().values))
    yield call(*layers(g, 5, 6, (True, False, True)), some_order)  # all stay, in another order


@trim_ffn.stage(
    "biases",
    points=1,
    exposes="Where gate or up has a bias, it is one number for each neuron and is cut with it; down's bias is one for each output and stays "
    "whole. A layer without a bias gets none.",
)
def _(g):
    yield ffn_case(g, 4, 9, 5, (True, True, True))
    yield ffn_case(g, 6, 8, 3, (False, False, True))
    yield ffn_case(g, 5, 7, 5, (True, True, False))
    yield ffn_case(g, 4, 8, 3, (True, False, False))
    yield ffn_case(g, 4, 7, 3, (False, True, True))
    yield ffn_case(g, 6, 9, 4, (True, False, True))
    yield ffn_case(g, 3, 8, 2, (False, True, False))
    yield ffn_case(g, 6, 6, 4, (True, True, True))
    new = layers(g, 4, 7, (True, True, True))
    for part in new:
        part.state["bias"].zero_()  # as of a layer that has just been made
    yield call(*new, some(g, 7, 4))


@trim_ffn.stage(
    "leaves the large layers as they are",
    points=1,
    exposes="The large model becomes the teacher: build new layers, change none of the old ones, and share no tensor with them, not even "
    "down's bias, or the student's training trains the teacher.",
    pure=True,
)
def _(g):
    yield ffn_case(g, 6, 9, 5, (True, True, True))
    yield ffn_case(g, 4, 6, 2)
    yield call(*layers(g, 4, 6, (True, True, True)), torch.arange(6))  # all stay: new layers all the same


def mistaken(name: str, says: str, gate=None, up=None, down=None):
    """A mistake in what becomes of (weight, bias) of one part; the others are cut rightly."""

    def rows(weight, bias, neurons):
        return weight[neurons], None if bias is None else bias[neurons]

    def cols(weight, bias, neurons):
        return weight[:, neurons], bias

    def wrong(*arguments):
        *parts, neurons = arguments
        made = [
            (how or right)(part.weight.detach(), None if part.bias is None else part.bias.detach(), neurons)
            for part, how, right in zip(parts, (gate, up, down), (rows, rows, cols), strict=True)
        ]
        return tuple(layer(*one) for one in made)

    trim_ffn.misconception(name, says)(wrong)


def rows_at(index):
    """Rows and their biases, chosen by a function of the neurons and their number."""
    return lambda W, b, n: (W[index(n, len(W))], None if b is None else b[index(n, len(W))])


def cols_at(index):
    return lambda W, b, n: (W[:, index(n, W.shape[1])], b)


def prefix(neurons, of):
    return torch.arange(len(neurons))


def complement(neurons, of):
    return torch.ones(of).index_fill(0, neurons, 0).nonzero().flatten()


def ascending(neurons, of):
    return neurons.sort().values


mistaken(
    "down cut with other columns",
    "gate and up are cut to the right neurons, but down to its first columns: each neuron now writes with another one's weights.",
    down=cols_at(prefix),
)
mistaken(
    "the first neurons",
    "You kept the first neurons. Keep those that `neurons` names.",
    rows_at(prefix),
    rows_at(prefix),
    cols_at(prefix),
)
mistaken(
    "gate not the same as up",
    "gate is cut to its first rows, up to the right ones. The two are multiplied neuron by neuron: they need the same index.",
    gate=rows_at(prefix),
)
mistaken("gate not cut", "gate still has all its rows. A neuron is a row of gate and of up.", gate=lambda W, b, n: (W, b))
mistaken("down not cut", "down still has all its columns: it would not fit the fewer neurons.", down=lambda W, b, n: (W, b))
mistaken(
    "neurons removed",
    "You removed the neurons that `neurons` names. They are the ones that stay.",
    rows_at(complement),
    rows_at(complement),
    cols_at(complement),
)
mistaken(
    "sorted",
    "You sorted the neurons. The function is the same, but here the new neurons come in the order of `neurons`.",
    rows_at(ascending),
    rows_at(ascending),
    cols_at(ascending),
)
mistaken(
    "down sorted",
    "down's columns are in ascending order, the rows of gate and up in the order of `neurons`: they no longer belong together.",
    down=cols_at(ascending),
)


def zeroed(W, b, neurons):
    kept = torch.zeros(len(W), 1).index_fill(0, neurons, 1)
    return W * kept, None if b is None else b * kept[:, 0]


mistaken(
    "zeroed, not cut",
    "You set the other neurons to zero. The layers are as large and as slow as before: make smaller ones.",
    zeroed,
    zeroed,
    lambda W, b, n: (W * torch.zeros(W.shape[1]).index_fill(0, n, 1), b),
)
mistaken(
    "rows of down",
    "You cut rows of down, which are its outputs. A neuron is one of its inputs: a column.",
    down=lambda W, b, n: (W[n % len(W)], None if b is None else b[n % len(W)]),
)
mistaken(
    "columns of gate and up",
    "You cut columns of gate and up, which are their inputs. A neuron is one of their outputs: a row.",
    lambda W, b, n: (W[:, n % W.shape[1]], b),
    lambda W, b, n: (W[:, n % W.shape[1]], b),
)
mistaken(
    "biases of gate and up dropped",
    "The biases of gate and up are gone. They are cut with the rows.",
    lambda W, b, n: (W[n], None),
    lambda W, b, n: (W[n], None),
)
mistaken(
    "biases of gate and up not cut with the rows",
    "The biases of gate and up are the first ones, not those of the neurons that stay.",
    lambda W, b, n: (W[n], None if b is None else b[: len(n)]),
    lambda W, b, n: (W[n], None if b is None else b[: len(n)]),
)
mistaken(
    "down's bias dropped",
    "down's bias is gone. It is added to every output and has nothing to do with neurons: it stays.",
    down=lambda W, b, n: (W[:, n], None),
)
mistaken(
    "down's bias cut",
    "You cut down's bias. It has an entry for each output, not for each neuron: it stays whole.",
    down=lambda W, b, n: (W[:, n], None if b is None else b * torch.zeros(len(b)).index_fill(0, n[n < len(b)], 1)),
)
mistaken(
    "down scaled up",
    "You multiplied down by the share of neurons that is missing, as dropout does. The neurons that stay do what they did.",
    down=lambda W, b, n: (W[:, n] * (W.shape[1] / len(n)), b),
)


@trim_ffn.misconception("gate and up swapped", "You return gate and up in each other's place. The order is gate, up, down.")
def _(gate, up, down, neurons):
    gate, up, down = trim_(gate, up, down, neurons)
    return up, gate, down


@trim_ffn.misconception(
    "a bias for every layer",
    "Your new layers all have a bias, also where the large one has none: pass `bias=layer.bias is not None`.",
)
def _(gate, up, down, neurons):
    def with_bias(part):
        return part if part.bias is not None else layer(part.weight.detach(), torch.zeros(len(part.weight)))

    return tuple(map(with_bias, trim_(gate, up, down, neurons)))


@trim_ffn.misconception(
    "one bias decides for gate and up",
    "You asked gate whether there are biases, and took its answer for up too. Ask each layer: `bias=up.bias is not None` for up.",
)
def _(gate, up, down, neurons):
    small_gate, small_up, small_down = trim_(gate, up, down, neurons)
    if gate.bias is None:
        small_up = layer(small_up.weight.detach(), None)
    elif up.bias is None:
        small_up = layer(small_up.weight.detach(), torch.zeros(len(neurons)))
    return small_gate, small_up, small_down


@trim_ffn.misconception(
    "nothing to cut, nothing new",
    "Where all neurons stay you return the layers that you were given. The student would be the teacher: make new layers, always, in the order "
    "of `neurons`.",
)
def _(gate, up, down, neurons):
    return (gate, up, down) if len(neurons) == gate.out_features else trim_(gate, up, down, neurons)


@trim_ffn.misconception(
    "down's bias shared",
    "The new down has the very bias of the old one (`new.bias = down.bias`, or nn.Parameter of it, makes no copy): where the small model is "
    "trained, the large one changes. Copy the values.",
)
def _(gate, up, down, neurons):
    gate, up, small = trim_(gate, up, down, neurons)
    small.bias = down.bias
    return gate, up, small


@trim_ffn.misconception(
    "sizes not updated",
    "Your layers have smaller weights, but in_features and out_features of the large ones, and whoever asks for them is misled. Make new "
    "nn.Linear of the right sizes.",
)
def _(gate, up, down, neurons):
    small = copy.deepcopy((gate, up, down))
    for part, new in zip(small, trim_(gate, up, down, neurons), strict=True):
        part.weight, part.bias = new.weight, new.bias
    return small


@trim_ffn.misconception(
    "states instead of layers",
    "You return dicts of weights and biases. Return three nn.Linear, which can be called.",
)
def _(gate, up, down, neurons):
    return tuple(part.state_dict() for part in trim_(gate, up, down, neurons))


@trim_ffn.misconception(
    "cut in place",
    "You cut the layers that you were given. They belong to the large model, which is still needed: build new ones.",
)
def _(gate, up, down, neurons):
    for part, new in zip((gate, up, down), trim_(gate, up, down, neurons), strict=True):
        part.weight, part.bias = new.weight, new.bias
    return gate, up, down


@trim_ffn.accepts("new parameters in copies")
def _(gate, up, down, neurons):
    small = [copy.deepcopy(part) for part in (gate, up, down)]
    for part in small[:2]:
        part.weight = nn.Parameter(part.weight[neurons].detach().clone())
        part.out_features = len(neurons)
        if part.bias is not None:
            part.bias = nn.Parameter(part.bias[neurons].detach().clone())
    small[2].weight = nn.Parameter(small[2].weight[:, neurons].detach().clone())
    small[2].in_features = len(neurons)
    return small


@trim_ffn.accepts("selection by a matrix")
def _(gate, up, down, neurons):
    S = torch.eye(gate.out_features)[neurons]  # (count, ffn)

    def made(W, b):
        new = nn.Linear(W.shape[1], W.shape[0], bias=b is not None)
        with torch.no_grad():
            new.weight.copy_(W)
            if b is not None:
                new.bias.copy_(b)
        return new

    return (
        made(S @ gate.weight, None if gate.bias is None else S @ gate.bias),
        made(S @ up.weight, None if up.bias is None else S @ up.bias),
        made(down.weight @ S.T, down.bias),
    )


@trim_ffn.accepts("index_select, through .data")
def _(gate, up, down, neurons):
    def cut(old, dim):
        rows, cols = old.weight.shape
        sizes = (cols, len(neurons)) if dim == 0 else (len(neurons), rows)
        new = nn.Linear(*sizes, bias=old.bias is not None)
        new.weight.data = old.weight.data.index_select(dim, neurons)
        if old.bias is not None:
            new.bias.data = old.bias.data.index_select(0, neurons) if dim == 0 else old.bias.data.clone()
        return new

    return [cut(gate, 0), cut(up, 0), cut(down, 1)]
