"""Mistakes of exercise 13.1, and the right answer that they vary."""

from collections.abc import Callable

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def largest(sizes: Tensor, count: int) -> Tensor:
    """The `count` largest of the last axis."""
    best = sizes.topk(count, dim=-1).indices
    return torch.zeros(sizes.shape, dtype=torch.bool).scatter(-1, best, True)


def counted(share: float, heads: int) -> int:
    count = int(share * heads)
    if not 1 <= count <= heads:
        raise ValueError(f"share must leave 1 to {heads} heads, got {share}")
    return count


def varied(
    name: str,
    says: str,
    *,
    neurons: Callable = lambda pre: pre > 0,
    size: Callable = lambda outputs: outputs.norm(dim=-1),
    count: Callable = counted,
    heads: Callable = largest,
    results: Callable = lambda neurons, heads: (neurons, heads),
) -> None:
    """The right answer with some of its parts exchanged."""

    def wrong(pre, outputs, share=0.7):
        return results(neurons(pre), heads(size(outputs), count(share, outputs.shape[1])))

    mistakes(name, says)(wrong)


varied(
    "zero too",
    "You counted neurons with 0 before ReLU. What ReLU gives is 0 then, and the neuron is not needed: strictly above zero.",
    neurons=lambda pre: pre >= 0,
)
varied(
    "at least zero after ReLU",
    "You compared with >= 0 after ReLU. Everything is at least zero there, so that all neurons are needed.",
    neurons=lambda pre: pre.relu() >= 0,
)
varied(
    "not zero",
    "You took all neurons that are not zero before ReLU. It makes zeros of the negative ones.",
    neurons=lambda pre: pre != 0,
)
varied(
    "neurons that are zero",
    "You marked the neurons that ReLU makes zero. True means needed.",
    neurons=lambda pre: pre <= 0,
)
varied(
    "neurons above the mean",
    "You compared with a token's mean. Every neuron above zero is needed, however faint.",
    neurons=lambda pre: pre > pre.relu().mean(dim=-1, keepdim=True),
)
varied(
    "a share of the neurons",
    "You took a share of the neurons, the largest. The share is for heads; a neuron is needed if it is above zero, and how "
    "many are is up to the token.",
    neurons=lambda pre: largest(pre, max(1, int(0.7 * pre.shape[-1]))),
)
varied(
    "neurons in size",
    "You took neurons of a large magnitude before ReLU. Those far below zero are zero after it.",
    neurons=lambda pre: pre.abs() > 0.5,
)
varied(
    "neurons of any token",
    "You marked a neuron if any token needs it. Each token has labels of its own: that is what makes it contextual.",
    neurons=lambda pre: (pre > 0).any(dim=0).expand_as(pre).clone(),
)
varied(
    "sum of magnitudes",
    "You measured a head by the sum of its magnitudes. It is the l2 norm: the root of the sum of squares.",
    size=lambda outputs: outputs.abs().sum(dim=-1),
)
varied(
    "largest magnitude",
    "You measured a head by its largest channel. It is the l2 norm over all its channels.",
    size=lambda outputs: outputs.abs().amax(dim=-1),
)
varied(
    "sum",
    "You summed a head's channels, where positive and negative ones cancel. It is the l2 norm.",
    size=lambda outputs: outputs.sum(dim=-1),
)
varied(
    "norm over tokens",
    "You took the norm over all tokens, so that all have the same heads. Each token has heads of its own.",
    size=lambda outputs: outputs.norm(dim=(0, 2)).expand(len(outputs), -1),
)
varied(
    "channel by channel",
    "You divided by the mean size of each head. Heads are compared as they are.",
    size=lambda outputs: outputs.norm(dim=-1) / outputs.norm(dim=-1).mean(dim=0),
)
varied(
    "smallest heads",
    "You marked the smallest heads. Those with the largest outputs are needed.",
    size=lambda outputs: -outputs.norm(dim=-1),
)
varied(
    "heads left out",
    "You marked the heads that are left out. True means needed.",
    heads=lambda sizes, count: ~largest(sizes, count),
)
varied(
    "heads of all tokens together",
    "You chose among all tokens together, so that some have many heads and others none. Each token has int(share * heads).",
    heads=lambda sizes, count: largest(sizes.flatten(), count * len(sizes)).view(sizes.shape),
)
varied(
    "rounded",
    "You rounded share * heads. It is cut down: int().",
    count=lambda share, heads: round(share * heads) if counted(share, heads) else 0,
)
varied(
    "rounded up",
    "You rounded share * heads up. It is cut down: int().",
    count=lambda share, heads: -int(-share * heads // 1) if counted(share, heads) else 0,
)
varied(
    "the share is dropped",
    "You dropped that share of the heads. It says how many are needed.",
    count=lambda share, heads: heads - counted(share, heads),
)
varied(
    "its own share",
    "You ignore the argument `share` and take 0.7, whatever it is.",
    count=lambda share, heads: int(0.7 * heads) if counted(share, heads) else 0,
)
varied(
    "any share",
    "You take any share. One that leaves no head, or more than there are, is a ValueError.",
    count=lambda share, heads: min(max(int(share * heads), 0), heads),
)
varied(
    "at least one",
    "You keep at least one head, however small the share. A share that leaves none is a ValueError.",
    count=lambda share, heads: max(int(share * heads), 1) if share * heads < 1 else counted(share, heads),
)
varied("heads first", "You return heads first. Neurons come first.", results=lambda neurons, heads: (heads, neurons))
varied(
    "numbers",
    "You return zeros and ones. Labels are boolean.",
    results=lambda neurons, heads: (neurons.float(), heads.float()),
)
