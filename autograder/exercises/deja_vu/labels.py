"""Exercise 13.1: what a token needs."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.deja_vu import fixtures
from autograder.exercises.deja_vu.labels_mistakes import mistakes
from autograder.inside.case import Case, call


def reference(pre: Tensor, outputs: Tensor, share: float = 0.7) -> tuple[Tensor, Tensor]:
    """By counting for each head how many are larger, in float64."""
    heads = outputs.shape[1]
    count = int(share * heads)
    if count < 1 or count > heads:
        raise ValueError(f"share must leave 1 to {heads} heads, got {share}")
    size = outputs.double().square().sum(dim=-1)
    return pre.relu() > 0, (size[:, None, :] > size[:, :, None]).sum(dim=-1) < count


labels = Exercise(
    "deja_vu.labels",
    defines="needed",
    title="What a token needs",
    minutes=10,
    difficulty=1,
    hints=(
        "The two are of different kinds. A neuron is needed or not by itself, so that a token may need many or none. Of "
        "heads a fixed number is needed, those with the largest outputs.",
        "For neurons one comparison with zero does. For heads take the l2 norm over the last axis, find the `int(share * "
        "heads)` largest of each token, and write True at their places.",
        "`neurons = pre > 0`; `sizes = outputs.norm(dim=-1)`; `best = sizes.topk(count, dim=-1).indices`; `heads = "
        "torch.zeros_like(sizes, dtype=torch.bool).scatter(-1, best, True)`.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


def case(g: torch.Generator, tokens: int, neurons: int, heads: int, head_dim: int, *share: float, zeros=0.0, **more) -> Case:
    pre = fixtures.normal(g, tokens, neurons) - 0.5
    pre[torch.rand(pre.shape, generator=g) < zeros] = 0
    return call(pre, fixtures.head_outputs(g, tokens, heads, head_dim), *share, **more)


@labels.stage(
    "the largest heads of each token",
    points=1,
    exposes="Of each token's heads the int(share * heads) with the largest l2 norm are needed; of its neurons those that are "
    "above zero.",
)
def _(g):
    yield case(g, 40, 9, 6, 4, 0.5)
    yield case(g, 30, 12, 8, 5, 0.25)
    yield case(g, 60, 5, 12, 3)
    yield case(g, 1, 300, 5, 64, 0.4)
    yield case(g, 24, 7, 4, 1, 0.75)


@labels.stage(
    "neurons that ReLU leaves",
    points=1,
    exposes="A neuron is needed if what ReLU gives is not zero: strictly above zero, however faint, and for each token by "
    "itself. There may be none.",
)
def _(g):
    yield case(g, 60, 11, 6, 4, 0.5, zeros=0.3)
    yield case(g, 30, 130, 7, 3, 0.5, zeros=0.1)
    pre = fixtures.normal(g, 9, 40)
    pre[2], pre[4] = pre[2].abs() + 0.1, -pre[4].abs() - 0.1  # all of them, and none
    pre[6] *= 1e-30
    pre[:, 3] = 0
    yield call(pre, fixtures.head_outputs(g, 9, 6, 5), 0.5)


@labels.stage(
    "how many heads",
    points=1,
    exposes="int(share * heads) is cut down, never rounded. A share that leaves no head, or more than all, is a ValueError.",
)
def _(g):
    for heads, share in ((10, 0.39), (7, 0.7), (9, 0.3), (100, 0.29), (5, 1.0), (3, 0.34)):
        yield case(g, 20, 6, heads, 4, share)
    yield case(g, 5, 6, 13, 4)  # a share that is not said
    for share in (0.19, 0.0, -0.5, 1.3):
        yield case(g, 4, 6, 5, 3, share)


@labels.stage(
    "leaves its arguments alone",
    points=1,
    exposes="The activations are the model's: they stay as they are. Labels are boolean, of new memory, and the same in each "
    "call.",
    pure=True,
)
def _(g):
    yield case(g, 40, 8, 6, 5, share=0.5)
    yield case(g, 30, 17, 9, 3, share=0.35)


@labels.accepts("as the authors do: topk, and ones at its places")
def _(pre, outputs, share=0.7):
    count = int(outputs.shape[1] * share)
    if not 0 < count <= outputs.shape[1]:
        raise ValueError("share")
    _, best = torch.topk(torch.linalg.vector_norm(outputs, dim=-1), count, dim=1)
    label = torch.zeros(outputs.shape[:2])
    label[torch.arange(len(best))[:, None], best] = 1
    return torch.gt(torch.relu(pre), 0), label.bool()


@labels.accepts("by a limit: the smallest of those that are needed")
def _(pre, outputs, share=0.7):
    heads = outputs.size(1)
    n = int(share * heads)
    if n == 0 or share < 0 or n > heads:
        raise ValueError(f"{share=}")
    squares = (outputs * outputs).sum(-1)
    limit = squares.kthvalue(heads - n + 1, dim=-1, keepdim=True).values
    return pre.sign() == 1, squares >= limit


@labels.accepts("ranks by sorting twice")
def _(pre, outputs, share=0.7):
    n = int(share * outputs.shape[1])
    if n < 1 or n > outputs.shape[1]:
        raise ValueError(n)
    ranks = outputs.norm(dim=2).argsort(dim=1, descending=True).argsort(dim=1)
    return ~(pre <= 0), ranks < n


@labels.accepts("token by token, in lists")
def _(pre, outputs, share=0.7):
    heads = outputs.shape[1]
    if int(share * heads) not in range(1, heads + 1):
        raise ValueError("share")
    rows = []
    for token in outputs:
        order = sorted(range(heads), key=lambda h: -float((token[h].double() ** 2).sum()))
        rows.append([h in order[: int(share * heads)] for h in range(heads)])
    return torch.tensor([[value > 0 for value in row] for row in pre.tolist()]), torch.tensor(rows)
