"""Exercise 11.5: parts of a softmax."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.quest.merge_mistakes import merged, mistakes
from autograder.inside.case import Case, call


def reference(parts: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
    return merged(parts, masses)


merge = Exercise(
    "quest.merge",
    defines="merge",
    title="Parts of a softmax",
    minutes=15,
    difficulty=2,
    hints=(
        "Each part is a sum of exp(score) * value, divided by its own sum of exp(score). Multiply the division away, add, and divide by "
        "the sum over all parts: so a part counts in proportion to exp(mass). Nobody needs these numbers themselves, only their ratios.",
        "`softmax` over the parts gives these ratios, and takes the largest mass off first. `logsumexp` gives the mass of all. Two things "
        "remain: a head for which every part is empty, where softmax gives NaN, and empty parts, in which anything may stand, and 0 * NaN is NaN.",
        "`weights = masses.softmax(dim=0).nan_to_num(0.0)`, `parts = parts.masked_fill((masses == -torch.inf)[..., None], 0.0)`, and "
        "`(weights[..., None] * parts).sum(dim=0), masses.logsumexp(dim=0)`.",
    ),
    reference=reference,
    misconceptions=mistakes,
    rules=Rules(tolerance=1e-4),  # merged one after the other, each mass of 150 is rounded to 1e-5
)


def drawn(g: torch.Generator, splits: int, heads: int, dim: int, spread: float = 2.0, shift: float = 0.0) -> Case:
    return call(torch.randn(splits, heads, dim, generator=g), shift + spread * torch.randn(splits, heads, generator=g))


@merge.stage(
    "weighs parts by their exponentials",
    points=1,
    exposes="A part counts in proportion to exp(mass), by head. The second result is the logarithm of the sum over all parts, so that what is merged can be "
    "merged again.",
)
def _(g):
    yield drawn(g, 2, 1, 4)
    yield drawn(g, 3, 5, 4)
    yield drawn(g, 7, 2, 6, spread=1.0)
    yield drawn(g, 40, 3, 5)
    yield drawn(g, 1, 3, 4)  # one part is the result


@merge.stage(
    "very large and very faint masses",
    points=1,
    exposes="Masses of 150 or -150 are as good as others: only differences count, and each head has its own. A part that is fainter by 200 has no "
    "weight, and one that is fainter by 14 has some.",
)
def _(g):
    yield drawn(g, 3, 2, 4, shift=120.0)
    yield drawn(g, 4, 3, 5, shift=-120.0)
    parts, masses = drawn(g, 3, 4, 6).args
    yield call(parts, masses + torch.tensor([150.0, -150, 100, -95]))  # heads that have little to do with each other
    yield drawn(g, 5, 3, 4, spread=400.0)
    parts, masses = drawn(g, 2, 3, 4, spread=0.5).args
    yield call(parts * torch.tensor([1.0, 1e6]).view(2, 1, 1), masses - torch.tensor([[0.0], [14]]))
    parts, masses = drawn(g, 4, 4, 5).args
    ranks = masses.argsort(dim=0).argsort(dim=0)  # far apart, so that none is rounded away and one part is the result
    yield call(parts, 2.0**12 * ranks + torch.tensor([0.0, -5e4, 5e4, -(2.0**31)]))


@merge.stage(
    "empty parts",
    points=1,
    exposes="A mass of minus infinity is that of a part without tokens: it has no weight, whatever stands in it, NaN too. Where all parts of a head are "
    "empty, the result is 0, and its mass minus infinity.",
)
def _(g):
    parts, masses = drawn(g, 3, 2, 4).args
    masses[1] = -torch.inf
    parts[1] = 0
    yield call(parts, masses)
    parts, masses = drawn(g, 4, 3, 5).args
    masses[2, 1] = masses[0] = -torch.inf
    yield call(parts, masses)  # anything stands in an empty part
    parts, masses = parts.clone(), masses.clone()
    parts[2, 1] = parts[0] = torch.nan
    yield call(parts, masses)
    parts = parts.clone()
    parts[2, 1], parts[0] = torch.inf, -torch.inf
    yield call(parts, masses)
    parts, masses = drawn(g, 3, 3, 4).args
    masses[:, 1] = -torch.inf
    parts[:, 1] = 0
    yield call(parts, masses)  # a head without tokens
    yield call(torch.full((2, 2, 3), torch.nan), torch.full((2, 2), -torch.inf))


@merge.stage(
    "leaves the parts as they are",
    points=1,
    exposes="The arguments stay as they were: also where a part is empty.",
    pure=True,
)
def _(g):
    parts, masses = drawn(g, 3, 4, 5).args
    masses[1, 2] = -torch.inf
    parts[1, 2] = torch.nan
    yield call(parts, masses)
    yield drawn(g, 4, 2, 6, shift=100.0)


@merge.accepts("the largest mass off, sums, and a division")
def _(parts, masses):
    top = masses.max(dim=0, keepdim=True).values
    e = torch.where(masses == -torch.inf, 0.0, torch.exp(masses - top))
    total = e.sum(dim=0)
    weighted = torch.where(e[..., None] > 0, parts * e[..., None], torch.zeros(()))
    out = weighted.sum(dim=0) / total.clamp(min=1e-30)[..., None]
    return out, torch.where(total > 0, top[0] + torch.log(total), top[0])


@merge.accepts("one after the other, with logaddexp")
def _(parts, masses):
    out, mass = torch.zeros_like(parts[0]), torch.full_like(masses[0], -torch.inf)
    for part, m in zip(parts, masses, strict=True):
        new = torch.logaddexp(mass, m)
        old_share, share = (torch.where(x == -torch.inf, 0.0, (x - new).exp())[:, None] for x in (mass, m))
        out = out * old_share + torch.where(share == 0, 0.0, part * share)
        mass = new
    return out, mass


@merge.accepts("head by head, over the parts that have tokens, in float64")
def _(parts, masses):
    out = torch.zeros(parts.shape[1:], dtype=parts.dtype)
    for h in range(parts.shape[1]):
        there = masses[:, h].isfinite()
        if there.any():
            out[h] = (masses[there, h].double().softmax(0) @ parts[there, h].double()).float()
    return out, torch.logsumexp(masses, 0)
