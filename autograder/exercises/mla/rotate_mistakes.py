"""Mistakes of exercise 12.2, and the right answer that they vary."""

from collections.abc import Callable

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def frequencies(d: int, base: float) -> Tensor:
    return base ** (-torch.arange(0, d, 2) / d)


def turned(a: Tensor, b: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    return a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()


def parted(x: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    return (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)


def joined(a: Tensor, b: Tensor, interleaved: bool) -> Tensor:
    return torch.stack((a, b), dim=-1).flatten(-2) if interleaved else torch.cat((a, b), dim=-1)


def over_heads(angle: Tensor, x: Tensor) -> Tensor:
    return angle[:, :, None] if x.ndim == 4 else angle


def rotated(
    x,
    positions,
    base=10000.0,
    interleaved=True,
    *,
    freq=frequencies,
    turn=turned,
    part=parted,
    join=joined,
    spread=over_heads,
    place=lambda p: p,
):
    """With its parts exchangeable, for mistakes in one part."""
    angle = place(positions)[..., None] * freq(x.shape[-1], base)
    return join(*turn(*part(x, interleaved), spread(angle, x)), interleaved)


def varied(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda *args, **options: rotated(*args, **options, **parts))


def in_layout(name: str, says: str, layout: Callable[[bool], bool]) -> None:
    """A mistake that takes another layout than it was asked for."""
    mistakes(name, says)(lambda x, positions, base=10000.0, interleaved=True: rotated(x, positions, base, layout(interleaved)))


mistakes("not rotated", "You return x as it is: no key would know its position.")(lambda x, *args, **options: x * 1.0)
in_layout("always interleaved", "You ignore `interleaved=False`: there channels j and j + d/2 are the pair.", lambda _: True)
in_layout(
    "always by halves",
    "You turn channels j and j + d/2 together whatever `interleaved` says. Its default is True: neighbours, as in DeepSeek's weights.",
    lambda _: False,
)
in_layout(
    "the other layout",
    "You took the two layouts for each other: interleaved are channels 2j and 2j+1.",
    lambda interleaved: not interleaved,
)
varied(
    "halves put together",
    "You took pairs of neighbours and put them back as two halves, as `transformers` does for DeepSeek. Scores are the same if queries and keys both have "
    "it, but the contract is that each channel stays where it was.",
    join=lambda a, b, interleaved: torch.cat((a, b), dim=-1),
)
varied(
    "the other way round",
    "You turn the other way: the first of a pair is a cos - b sin, the second b cos + a sin.",
    turn=lambda a, b, angle: turned(a, b, -angle),
)
varied(
    "a sign",
    "A sign is wrong: with a plus in both, lengths change. The first of a pair is a cos - b sin.",
    turn=lambda a, b, angle: (a * angle.cos() + b * angle.sin(), b * angle.cos() + a * angle.sin()),
)
varied(
    "second from the first turned",
    "You computed the second of a pair from the first as it was turned already. Both come from the old values.",
    turn=lambda a, b, angle: (
        a * angle.cos() - b * angle.sin(),
        b * angle.cos() + (a * angle.cos() - b * angle.sin()) * angle.sin(),
    ),
)
varied(
    "sine and cosine exchanged",
    "You exchanged sine and cosine: at position 0 nothing turns, so the cosine must be the factor of what stays.",
    turn=lambda a, b, angle: (a * angle.sin() - b * angle.cos(), b * angle.sin() + a * angle.cos()),
)
varied(
    "only the first of a pair",
    "You turned the first channel of each pair and left the second as it was.",
    turn=lambda a, b, angle: (a * angle.cos() - b * angle.sin(), b),
)
varied(
    "exponent j / d",
    "Your frequencies fall half as fast as they should: the exponent is -2j / d for pair j.",
    freq=lambda d, base: base ** (-torch.arange(d // 2) / d),
)
varied(
    "exponent by the next pair",
    "Your frequencies begin with pair 1. Pair 0 turns by the position itself: base to the power of 0.",
    freq=lambda d, base: base ** (-torch.arange(2, d + 2, 2) / d),
)
varied(
    "up to the last pair",
    "You spread the exponents so that the last pair has 1 / base. The exponent is -2j / d, and j ends at d/2 - 1.",
    freq=lambda d, base: base ** -torch.linspace(0, 1, d // 2),
)
varied(
    "frequencies from the end",
    "Your frequencies are in the other order: pair 0 turns fastest.",
    freq=lambda d, base: frequencies(d, base).flip(0),
)
varied(
    "frequencies that grow",
    "Your frequencies grow with the pair: the exponent is negative.",
    freq=lambda d, base: 1 / frequencies(d, base),
)
varied(
    "one frequency",
    "All your pairs turn alike. Pair j turns by position * base^(-2j / d).",
    freq=lambda d, base: torch.ones(d // 2),
)
varied("base ignored", "You ignore `base` and take 10000.", freq=lambda d, base: frequencies(d, 10000.0))
varied(
    "in full turns",
    "You multiplied by 2 pi. The angle is position * frequency, in radians as it stands.",
    freq=lambda d, base: 2 * torch.pi * frequencies(d, base),
)
varied(
    "counted anew",
    "You number the tokens 0, 1, 2, ... yourself and ignore `positions`. In a cache they go on from what is there, and padding has none.",
    place=lambda p: torch.arange(p.shape[1]).expand_as(p),
)
varied(
    "from the first",
    "You count positions from each sequence's first one. They are absolute: the cached keys were rotated at theirs.",
    place=lambda p: p - p[:, :1],
)
varied(
    "positions of the first sequence",
    "You rotate all sequences by the positions of the first. Each has its own.",
    place=lambda p: p[:1].expand_as(p),
)
varied("positions from 1", "You added 1 to the positions. Position 0 is not turned at all.", place=lambda p: p + 1)
varied(
    "in order",
    "You take the first position of a sequence and count on. Positions need not follow each other.",
    place=lambda p: p[:, :1] + torch.arange(p.shape[1]),
)


@mistakes(
    "angle by head",
    "With heads, your angle follows the head, not the token: put a dimension of size 1 where the heads are.",
)
def _(x, positions, base=10000.0, interleaved=True):
    if x.ndim == 3:
        return rotated(x, positions, base, interleaved)
    by_head = torch.arange(x.shape[2]).expand(x.shape[0], -1)
    return rotated(x.transpose(1, 2), by_head, base, interleaved).transpose(1, 2)


@mistakes(
    "the first head only",
    "You rotated the first head only. All heads have positions.",
)
def _(x, positions, base=10000.0, interleaved=True):
    y = rotated(x, positions, base, interleaved)
    return y if x.ndim == 3 else torch.cat([y[:, :, :1], x[:, :, 1:]], dim=2)


@mistakes(
    "x changed",
    "The result is right, but x has changed: `x[..., ::2] = ...` writes into what you were given. Work on a copy.",
)
def _(x, positions, base=10000.0, interleaved=True):
    y = rotated(x, positions, base, interleaved)
    x.data.copy_(y)
    return y
