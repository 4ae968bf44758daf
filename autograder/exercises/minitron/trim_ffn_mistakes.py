"""Mistakes of exercise 7.4, and the parts that they vary."""

import copy

import torch
from torch import Tensor, nn

from autograder.checking.exercise import Mistakes


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


mistakes = Mistakes()


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

    mistakes(name, says)(wrong)


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


@mistakes("gate and up swapped", "You return gate and up in each other's place. The order is gate, up, down.")
def _(gate, up, down, neurons):
    gate, up, down = trim_(gate, up, down, neurons)
    return up, gate, down


@mistakes(
    "a bias for every layer",
    "Your new layers all have a bias, also where the large one has none: pass `bias=layer.bias is not None`.",
)
def _(gate, up, down, neurons):
    def with_bias(part):
        return part if part.bias is not None else layer(part.weight.detach(), torch.zeros(len(part.weight)))

    return tuple(map(with_bias, trim_(gate, up, down, neurons)))


@mistakes(
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


@mistakes(
    "nothing to cut, nothing new",
    "Where all neurons stay you return the layers that you were given. The student would be the teacher: make new layers, always, in the order "
    "of `neurons`.",
)
def _(gate, up, down, neurons):
    return (gate, up, down) if len(neurons) == gate.out_features else trim_(gate, up, down, neurons)


@mistakes(
    "down's bias shared",
    "The new down has the very bias of the old one (`new.bias = down.bias`, or nn.Parameter of it, makes no copy): where the small model is "
    "trained, the large one changes. Copy the values.",
)
def _(gate, up, down, neurons):
    gate, up, small = trim_(gate, up, down, neurons)
    small.bias = down.bias
    return gate, up, small


@mistakes(
    "sizes not updated",
    "Your layers have smaller weights, but in_features and out_features of the large ones, and whoever asks for them is misled. Make new "
    "nn.Linear of the right sizes.",
)
def _(gate, up, down, neurons):
    small = copy.deepcopy((gate, up, down))
    for part, new in zip(small, trim_(gate, up, down, neurons), strict=True):
        part.weight, part.bias = new.weight, new.bias
    return small


@mistakes(
    "states instead of layers",
    "You return dicts of weights and biases. Return three nn.Linear, which can be called.",
)
def _(gate, up, down, neurons):
    return tuple(part.state_dict() for part in trim_(gate, up, down, neurons))


@mistakes(
    "cut in place",
    "You cut the layers that you were given. They belong to the large model, which is still needed: build new ones.",
)
def _(gate, up, down, neurons):
    for part, new in zip((gate, up, down), trim_(gate, up, down, neurons), strict=True):
        part.weight, part.bias = new.weight, new.bias
    return gate, up, down
