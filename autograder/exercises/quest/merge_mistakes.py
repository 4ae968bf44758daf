"""Mistakes of exercise 11.5."""

import math

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def shares(masses: Tensor) -> Tensor:
    return masses.softmax(dim=0).nan_to_num(0.0)


def emptied(parts: Tensor, masses: Tensor) -> Tensor:
    return parts.masked_fill((masses == -torch.inf)[..., None], 0.0)


def merged(
    parts: Tensor,
    masses: Tensor,
    *,
    weigh=shares,
    clean=emptied,
    mass=lambda masses: masses.logsumexp(dim=0),
    after=lambda out, mass: (out, mass),
) -> tuple[Tensor, Tensor]:
    """In float64, with exchangeable parts."""
    wide = masses.double()
    out = (weigh(wide)[..., None] * clean(parts.double(), wide)).sum(dim=0)
    return after(out.float(), mass(wide).float())


def mistaken(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda p, m: merged(p, m, **parts))


mistaken(
    "the mean",
    "You took the mean of the parts. A part in which softmax found more counts for more: in proportion to exp(mass).",
    weigh=lambda m: torch.full_like(m, 1 / len(m)),
)
mistaken(
    "the sum",
    "You added the parts up. Each is a mean of values, and so is the result: the weights sum to 1.",
    weigh=torch.ones_like,
)
mistaken(
    "softmax over heads",
    "Your weights sum to 1 over heads. Each head is a softmax of its own: the weights sum to 1 over its parts.",
    weigh=lambda m: m.softmax(dim=1).nan_to_num(0.0),
)
mistaken(
    "weights not normalised",
    "Your weights are exp(mass - largest), and do not sum to 1. Divide by their sum.",
    weigh=lambda m: (m - m.amax(dim=0)).exp().nan_to_num(0.0),
)
mistaken(
    "the exponentials themselves",
    "exp(mass) overflows, or all of them are 0. Take the largest mass off first: only differences count.",
    weigh=lambda m: (m.float().exp() / m.float().exp().sum(dim=0)).double(),
    mass=lambda m: m.float().exp().sum(dim=0).log(),
)
mistaken(
    "the exponentials in the mass",
    "The first result is right. The second is the logarithm of a sum that overflows, or is 0: use `logsumexp`.",
    mass=lambda m: m.float().exp().sum(dim=0).log(),
)
mistaken(
    "masses as weights",
    "You weighed the parts by their masses. Masses are logarithms: it is exp(mass) that counts.",
    weigh=lambda m: (m.nan_to_num(neginf=0.0) / m.nan_to_num(neginf=0.0).sum(dim=0)).nan_to_num(0.0),
)
mistaken(
    "the heaviest part",
    "You returned the part with the largest mass. The others count too, in proportion to exp(mass).",
    weigh=lambda m: (m == m.amax(dim=0)).double(),
)
mistaken(
    "one largest mass for all heads",
    "You took off the largest mass of all heads. For a head that is far fainter every exponential is 0 then: take the largest of each head.",
    weigh=lambda m: ((e := (m - m.max()).float().exp()) / e.sum(dim=0)).double(),
    mass=lambda m: (m - m.max()).float().exp().sum(dim=0).log() + m.max(),
)
mistaken(
    "the same weights for all heads",
    "You weigh a part alike in all heads. Each head has masses of its own.",
    weigh=lambda m: shares(m.nan_to_num(neginf=-1e9).mean(dim=1, keepdim=True).expand_as(m)),
)
mistaken(
    "negative masses for empty",
    "You take a part with a negative mass for empty. A mass is a logarithm: it may be negative, and only minus infinity says that there are no tokens.",
    weigh=lambda m: shares(m.masked_fill(m < 0, -torch.inf)),
)
mistaken(
    "the reverse",
    "Your weights fall as the mass rises. A part counts in proportion to exp(mass).",
    weigh=lambda m: shares(-m.nan_to_num(neginf=1e9)),
)
mistaken(
    "base 2", "You took 2 to the power of the masses. They are natural logarithms.", weigh=lambda m: shares(m * math.log(2))
)
mistaken(
    "the largest mass not added back",
    "Your second result is the logarithm of the sum relative to the largest mass. Add the mass that you took off.",
    mass=lambda m: (m - m.amax(dim=0).nan_to_num(neginf=0.0)).exp().sum(dim=0).log(),
)
mistaken(
    "the largest mass",
    "Your second result is the largest mass. The mass of all is the logarithm of the sum of exp(mass).",
    mass=lambda m: m.amax(dim=0),
)
mistaken(
    "the sum of masses", "You added up the masses. They are logarithms: what adds up is exp(mass).", mass=lambda m: m.sum(dim=0)
)
mistaken(
    "the mean of masses",
    "You took the mean of the masses. The mass of all is the logarithm of the sum of exp(mass).",
    mass=lambda m: m.mean(dim=0),
)
mistaken(
    "the mean of the exponentials",
    "Your second result is the logarithm of the mean of exp(mass). It is that of the sum.",
    mass=lambda m: m.logsumexp(dim=0) - math.log(len(m)),
)
mistaken(
    "the sum itself",
    "Your second result is the sum of the exponentials, which overflows. Return its logarithm, so that it can be merged again.",
    mass=lambda m: m.exp().sum(dim=0),
)
mistaken("only the output", "You return one tensor. Asked for are two: the result, and its mass.", after=lambda out, mass: out)
mistaken("the mass first", "You return the mass first. The result comes first.", after=lambda out, mass: (mass, out))
mistaken(
    "NaN from an empty part",
    "Something that is no number stands in an empty part, and reaches the result: 0 * NaN is NaN. Put 0 there before you multiply.",
    clean=lambda p, m: p,
)
mistaken(
    "NaN without tokens",
    "Where all parts of a head are empty you get NaN: the largest mass is minus infinity, and -inf - (-inf) is no number. The result is 0 there.",
    weigh=lambda m: m.softmax(dim=0),
)
mistaken(
    "a finite mass without tokens",
    "Where all parts of a head are empty its mass is minus infinity. Yours is finite: merged again, it would take a share.",
    mass=lambda m: m.clamp(min=-1e4).logsumexp(dim=0) if m.isinf().all(dim=0).any() else m.logsumexp(dim=0),
)
mistaken(
    "all that is no number set to 0",
    "Where all parts of a head are empty you set its mass to 0. It is minus infinity, the logarithm of no weight at all.",
    mass=lambda m: m.logsumexp(dim=0).nan_to_num(neginf=0.0),
)


@mistakes(
    "an empty part in the mean",
    "You gave empty parts the weight of a mass of 0. They have no weight: exp(minus infinity) is 0.",
)
def _(parts, masses):
    return merged(parts, masses.nan_to_num(neginf=0.0))


@mistakes(
    "in place",
    "The result is right, but you changed the parts that you were given. `parts[...] = 0` and `*=` do: work on a copy.",
)
def _(parts, masses):
    made = merged(parts, masses)
    parts.mul_(shares(masses)[..., None]).nan_to_num_()
    return made
