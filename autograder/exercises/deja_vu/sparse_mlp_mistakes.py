"""Mistakes of exercise 13.6, and the right answer that they vary."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def gathered(
    x: Tensor,
    chosen: Tensor,
    up: Tensor,
    down: Tensor,
    gate: Tensor | None = None,
    b_up: Tensor | None = None,
    b_down: Tensor | None = None,
    *,
    pick: Callable = lambda W, chosen: W[chosen],
    biased: Callable = lambda h, b, chosen: h if b is None else h + b[chosen],
    act: Callable = torch.relu,
    combine: Callable = lambda act, g, h: act(g) * h,
    alone: Callable = lambda act, h: act(h),
    scale: Callable = lambda h, chosen: h,
    ends: Callable = lambda y, b, chosen: y if b is None else y + b,
) -> Tensor:
    """With its parts exchangeable."""
    h = biased(pick(up, chosen) @ x, b_up, chosen)
    h = alone(act, h) if gate is None else combine(act, pick(gate, chosen) @ x, h)
    return ends(pick(down.T, chosen).T @ scale(h, chosen), b_down, chosen)


def varied(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda *args, **options: gathered(*args, **options, **parts))


def dense(x, chosen, up, down, gate=None, b_up=None, b_down=None, *, mask=lambda h, chosen: torch.where(chosen, h, 0.0)):
    h = F.linear(x, up, b_up)
    h = h.relu() if gate is None else F.linear(x, gate).relu() * h
    return F.linear(mask(h, chosen), down, b_down)


mistakes("all neurons", "You computed the whole MLP. Only the chosen neurons count.")(
    lambda *args, **options: dense(*args, **options, mask=lambda h, chosen: h)
)
mistakes(
    "a mask",
    "You computed all neurons and put zeros where they are not chosen: nothing is saved. Read only the chosen rows of `up` "
    "and `gate`, and only the "
    "chosen columns of `down`.",
)(dense)
varied("no ReLU", "The ReLU between the two layers is missing.", act=lambda z: z)
varied("GELU", "You took GELU, which is not zero below zero. The model has ReLU.", act=F.gelu)
varied("SiLU", "You took SiLU, as Llama has it. Here it is ReLU.", act=F.silu)
varied(
    "ReLU of the product",
    "With a gate you put ReLU on the product. It is on the gate alone: relu(gate x) * (up x).",
    combine=lambda act, g, h: act(g * h),
)
varied(
    "ReLU of up",
    "With a gate you put ReLU on `up`. It is on the gate: relu(gate x) * (up x).",
    combine=lambda act, g, h: g * act(h),
)
varied(
    "ReLU of both",
    "With a gate you put ReLU on both. It is on the gate alone: relu(gate x) * (up x).",
    combine=lambda act, g, h: act(g) * act(h),
)
varied("gate added", "You added gate and up. They are multiplied.", combine=lambda act, g, h: act(g) + h)
varied("gate left out", "You left the gate out.", combine=lambda act, g, h: act(h))
varied("no bias of up", "You left `b_up` out.", biased=lambda h, b, chosen: h)
varied(
    "bias behind ReLU",
    "You added `b_up` behind ReLU. It comes before: the bias decides whether a neuron is zero.",
    biased=lambda h, b, chosen: h if b is None else Later(h, b[chosen]),
    alone=lambda act, h: act(h.value) + h.bias if isinstance(h, Later) else act(h),
    combine=lambda act, g, h: act(g) * h.value + h.bias if isinstance(h, Later) else act(g) * h,
)
varied(
    "bias of the gate",
    "With a gate you added `b_up` to the gate. It belongs to up, as its name says: relu(gate x) * (up x + b_up).",
    biased=lambda h, b, chosen: h if b is None else Later(h, b[chosen]),
    alone=lambda act, h: act(h.value + h.bias) if isinstance(h, Later) else act(h),
    combine=lambda act, g, h: act(g + h.bias) * h.value if isinstance(h, Later) else act(g) * h,
)
varied(
    "first biases",
    "You took the first entries of `b_up`. Take those of the chosen neurons.",
    biased=lambda h, b, chosen: h if b is None else h + b[: len(h)].nan_to_num(0.5),
)
varied("no bias of down", "You left `b_down` out. It is added whatever was chosen.", ends=lambda y, b, chosen: y)
varied(
    "no bias of down without neurons",
    "You left `b_down` out where no neuron is chosen. The result is `b_down` then.",
    ends=lambda y, b, chosen: y if b is None or not chosen.any() else y + b,
)
varied(
    "rescaled",
    "You scaled the sum up by neurons / chosen, as dropout does. What was left out is zero, or counts as zero: nothing makes "
    "up for it.",
    scale=lambda h, chosen: h * len(chosen) / max(1, int(chosen.sum())),
)
varied(
    "the mean of neurons",
    "You divided by the number of neurons. They are summed.",
    scale=lambda h, chosen: h / max(1, int(chosen.sum())),
)
varied(
    "the others",
    "You used the neurons that were not chosen. True means used.",
    pick=lambda W, chosen: W[~chosen],
    biased=lambda h, b, chosen: h if b is None else h + b[~chosen],
)
varied(
    "the first so many",
    "You used the first neurons, as many as were chosen. `chosen` says which ones.",
    pick=lambda W, chosen: W[: int(chosen.sum())],
    biased=lambda h, b, chosen: h if b is None else h + b[: int(chosen.sum())],
)
varied(
    "other columns than rows",
    "The columns of `down` are in another order than the rows of `up`. Neuron by neuron they belong together.",
    pick=lambda W, chosen: W[chosen] if W.stride(0) > 1 or len(W) == 1 else W[chosen].flip(0),
)


@mistakes(
    "a neuron alone",
    "With a single chosen neuron `nonzero().squeeze()` is a number, not a list of one, and its row is a vector. Take "
    "squeeze(1), or index with the mask.",
)
def _(x, chosen, up, down, gate=None, b_up=None, b_down=None):
    used = chosen.nonzero().squeeze()
    h = F.linear(x, up[used], None if b_up is None else b_up[used])
    h = h.relu() if gate is None else F.linear(x, gate[used]).relu() * h
    return F.linear(h, down[:, used], b_down)


class Later:
    """A value and a bias that is added later."""

    def __init__(self, value: Tensor, bias: Tensor) -> None:
        self.value, self.bias = value, bias
