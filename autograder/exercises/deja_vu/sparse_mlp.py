"""Exercise 13.6: an MLP on chosen neurons."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.deja_vu.fixtures import normal
from autograder.exercises.deja_vu.sparse_mlp_mistakes import mistakes
from autograder.inside.case import Case, call


def reference(
    x: Tensor,
    chosen: Tensor,
    up: Tensor,
    down: Tensor,
    gate: Tensor | None = None,
    b_up: Tensor | None = None,
    b_down: Tensor | None = None,
) -> Tensor:
    """Neuron by neuron, in float64."""
    y = torch.zeros(len(down), dtype=torch.float64) if b_down is None else b_down.double()
    for n in chosen.nonzero().view(-1).tolist():
        h = (up[n].double() * x.double()).sum() + (0 if b_up is None else b_up[n].double())
        h = h.clamp(min=0) if gate is None else (gate[n].double() * x.double()).sum().clamp(min=0) * h
        y = y + h * down[:, n].double()
    return y.float()


sparse_mlp = Exercise(
    "deja_vu.sparse_mlp",
    defines="sparse_mlp",
    title="An MLP on chosen neurons",
    minutes=12,
    difficulty=2,
    hints=(
        "It is the MLP that you know, with smaller matrices: the rows of the first layer and the columns of the second that "
        "belong to the chosen neurons. Take them out before you multiply.",
        "Index with the mask: rows of up and gate, entries of the first bias, columns of down. The second bias has nothing "
        "to do with neurons and is added as it is.",
        "`h = up[chosen] @ x`, plus `b_up[chosen]` if there is one; `h = torch.relu(h)` without a gate, else "
        "`torch.relu(gate[chosen] @ x) * h`; `down.T[chosen].T @ h`, plus `b_down` if there is one.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


def case(
    g: torch.Generator,
    hidden: int,
    neurons: int,
    share: float,
    *,
    gated=False,
    biases=False,
    unread=False,
    active=False,
    one=False,
    size=1.0,
    **more,
) -> Case:
    """A share of the neurons, the active ones, or one; what may not be read is NaN or infinite if `unread`."""
    x = normal(g, hidden, size=size)
    up, gate = (normal(g, neurons, hidden, size=1.4 / hidden**0.5) for _ in range(2))
    down, b_up, b_down = normal(g, hidden, neurons), normal(g, neurons, size=0.7), normal(g, hidden)
    gate, b_up, b_down = gate if gated else None, b_up if biases else None, b_down if biases else None
    decides = F.linear(x, gate) if gated else F.linear(x, up, b_up)
    chosen = torch.zeros(neurons, dtype=torch.bool)
    chosen[torch.randperm(neurons, generator=g)[: round(share * neurons)]] = True
    if active:
        chosen = decides > 0
    elif one:
        chosen = torch.arange(neurons) == decides.argmax()
    elif 0 < share < 1:  # some that are active are left out, and some that are not are chosen
        order = decides.argsort()
        chosen[order[:2]], chosen[order[-1]], chosen[order[-2]] = True, False, True
    if unread:
        bad = torch.where(torch.rand(neurons, generator=g) < 0.5, torch.nan, torch.inf)
        for W in (up, gate, b_up):
            if W is not None:
                W[~chosen] = bad[~chosen].view(-1, *[1] * (W.ndim - 1)).expand(-1, *W.shape[1:])
        down[:, ~chosen] = bad.flip(0)[~chosen]
    return call(x, chosen, up, down, gate, b_up, b_down, **more)


@sparse_mlp.stage(
    "the chosen neurons only",
    points=1,
    exposes="With ReLU, as in OPT: the sum over the chosen neurons of what ReLU gives times the neuron's column of down. "
    "What is not chosen does not count, "
    "though it may be active, and nothing makes up for it.",
)
def _(g):
    yield case(g, 7, 12, 0.5)
    yield case(g, 5, 30, 0.3)
    yield case(g, 300, 40, 0.4)
    yield case(g, 9, 9, 0.6)
    yield case(g, 4, 1200, 0.1)
    yield case(g, 8, 10, 0, one=True)
    yield case(g, 6, 14, 0.5, size=1e3)  # ReLU has no upper end,
    yield case(g, 7, 11, 0.5, size=1e-8)  # and begins at zero


@sparse_mlp.stage(
    "with a gate, and with biases",
    points=1,
    exposes="With a gate it is relu(gate x) * (up x + b_up), without one relu(up x + b_up), with the entries of b_up that belong to "
    "the chosen neurons. b_down is added at the end.",
)
def _(g):
    yield case(g, 6, 90, 0.5, gated=True)
    yield case(g, 8, 11, 0.4, biases=True)
    yield case(g, 5, 37, 0.5, gated=True, biases=True)
    x, chosen, up, down, _, b_up, b_down = case(g, 6, 13, 0.5, biases=True).args
    yield call(x, chosen, up, down, b_down=b_down)
    yield call(x, chosen, up, down, b_up=b_up)
    x, chosen, up, down, gate, b_up, b_down = case(g, 7, 31, 0.5, gated=True, biases=True).args
    yield call(x, chosen, up, down, gate, b_down=b_down)
    yield call(x, chosen, up, down, gate, b_up)
    yield case(g, 5, 12, 0, gated=True, biases=True, one=True)


@sparse_mlp.stage(
    "reads nothing else",
    points=2,
    exposes="Rows of up and gate, entries of b_up and columns of down that are not chosen are NaN or infinite here. They may "
    "not be read.",
)
def _(g):
    yield case(g, 7, 13, 0.5, unread=True)
    yield case(g, 6, 40, 0.2, gated=True, unread=True)
    yield case(g, 9, 21, 0.3, biases=True, unread=True)
    yield case(g, 5, 300, 0.1, gated=True, biases=True, unread=True)


@sparse_mlp.stage(
    "exact where all active ones are chosen",
    points=1,
    exposes="With all active neurons chosen it is the dense MLP. All may be chosen, and there may be none: then b_down is "
    "left, or 0.",
)
def _(g):
    yield case(g, 8, 30, 0, active=True, unread=True)
    yield case(g, 6, 25, 0, active=True, gated=True, unread=True)
    yield case(g, 7, 70, 0, active=True, biases=True)
    yield case(g, 5, 9, 1.0, gated=True)
    yield case(g, 6, 8, 0, biases=True, unread=True)
    yield case(g, 4, 7, 0, gated=True, unread=True)


@sparse_mlp.stage(
    "leaves its arguments alone",
    points=1,
    exposes="Weights, biases and the hidden state stay as they are, in this call and the next.",
    pure=True,
)
def _(g):
    yield case(g, 6, 10, 0.5, biases=True)
    yield case(g, 7, 150, 0.4, gated=True, biases=True, unread=True)
    yield case(g, 5, 9, 0, biases=True)


@sparse_mlp.accepts("by indices, with functional.linear")
def _(x, chosen, up, down, gate=None, b_up=None, b_down=None):
    idx = chosen.nonzero().squeeze(1)
    h = F.linear(x, up.index_select(0, idx), None if b_up is None else b_up[idx])
    h = F.relu(h) if gate is None else F.relu(F.linear(x, gate.index_select(0, idx))) * h
    return F.linear(h, down.index_select(1, idx), b_down)


@sparse_mlp.accepts("a sum of columns")
def _(x, chosen, up, down, gate=None, b_up=None, b_down=None):
    y = torch.zeros(down.shape[0]) if b_down is None else b_down.clone()
    for n in torch.arange(len(chosen))[chosen]:
        h = torch.dot(up[n], x)
        if b_up is not None:
            h = h + b_up[n]
        if gate is None:
            y += max(h, h * 0) * down[:, n]
        elif (opened := torch.dot(gate[n], x)) > 0:
            y += opened * h * down[:, n]
    return y


@sparse_mlp.accepts("down as rows, and only what is active after all")
def _(x, chosen, up, down, gate=None, b_up=None, b_down=None):
    rows = [i for i, used in enumerate(chosen.tolist()) if used]
    first = (up if gate is None else gate)[rows] @ x
    h = up[rows] @ x
    if b_up is not None:
        h = h + b_up[rows]
    first = h if gate is None else first
    alive = first > 0
    h = first[alive] if gate is None else first[alive] * h[alive]
    y = h @ down.T[rows][alive]
    return y if b_down is None else b_down + y
