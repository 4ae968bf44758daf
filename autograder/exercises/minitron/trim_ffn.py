"""Exercise 7.4: a narrower feed-forward layer."""

import copy

import torch
from torch import nn

from autograder.checking.exercise import Exercise
from autograder.exercises.minitron.fixtures import linear, redraw, some
from autograder.exercises.minitron.trim_ffn_mistakes import mistakes, trim_
from autograder.inside.case import Case, call
from autograder.inside.recipes import Module

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
    misconceptions=mistakes,
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
