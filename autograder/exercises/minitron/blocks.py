"""Exercise 7.3: which blocks change little."""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.minitron.fixtures import clear, redraw
from autograder.inside.case import Case, call

Batches = list[list[Tensor]]


def cosine(before: Tensor, after: Tensor) -> Tensor:
    """(sequences, tokens): of every token's vector."""
    before, after = before.double(), after.double()
    return (before * after).sum(dim=-1) / (before.square().sum(dim=-1) * after.square().sum(dim=-1)).sqrt()


def changes(before: Tensor, after: Tensor) -> Tensor:
    return 1 - cosine(before, after)


def influence(
    batches: Batches, of=changes, over_tokens=torch.mean, over_batches=lambda of_batches: of_batches.sum(dim=0)
) -> Tensor:
    """The scores (layers,), with their parts exchangeable, for mistakes in one part."""
    rows = [torch.stack([over_tokens(of(states[i], states[i + 1])) for i in range(len(states) - 1)]) for states in batches]
    return over_batches(torch.stack(rows)).float()


def best(scores: Tensor, keep: int) -> Tensor:
    return scores.topk(keep).indices.sort().values


def block_influence(batches: Batches, keep: int) -> tuple[Tensor, Tensor]:
    scores = influence(batches)
    return scores, best(scores, keep)


blocks = Exercise(
    "minitron.block_influence",
    defines="block_influence",
    title="Which blocks change little",
    minutes=12,
    difficulty=2,
    hints=(
        "Compare what enters a block with what leaves it, token by token: 1 minus the cosine of the two vectors. A batch "
        "adds the mean of this over its tokens.",
        "`F.cosine_similarity(a, b, dim=-1)` of two tensors (sequences, tokens, hidden) is (sequences, tokens). Convert "
        "them to float32 before. Block i has `states[i]` before it and `states[i + 1]` behind it. To choose: rank, cut, "
        "and sort what is kept.",
        "For each batch and block add `(1 - F.cosine_similarity(states[i].float(), states[i + 1].float(), "
        "dim=-1)).mean()` to `scores[i]`. The kept blocks are `scores.argsort(descending=True)[:keep]`, in ascending "
        "order.",
    ),
    reference=block_influence,
    rules=Rules(tolerance=1e-5, scale=0.1),  # a small score is a difference of numbers near 1
)


def run(
    g: torch.Generator, sequences: int, tokens: int, hidden: int, strength: Tensor, scale: float = 1.0, drift: float = 0.5
) -> list:
    """What enters and leaves the blocks of a residual network; tokens differ in how much a block does to them, and in size."""
    states = [scale * (torch.randn(sequences, tokens, hidden, generator=g) + torch.randn(hidden, generator=g))]
    for of_block in strength:
        size = states[-1].norm(dim=-1, keepdim=True) / hidden**0.5
        update = torch.randn(states[-1].shape, generator=g) + drift * states[-1] / size
        of_token = 3 ** (2 * torch.rand(sequences, tokens, 1, generator=g) - 1)
        states.append(states[-1] + of_block * of_token * size * update)
        states[-1] = states[-1] * 2 ** (2 * torch.rand(sequences, tokens, 1, generator=g) - 0.5)
    return states


def blocks_case(
    g: torch.Generator,
    layers: int,
    keep: int,
    *sizes: tuple[int, int],
    hidden: int = 6,
    dtype=torch.float32,
    scale: float = 1.0,
    drift: float = 0.5,
) -> Case:
    """A batch for each (sequences, tokens); blocks differ in strength, and in each batch in another way."""

    def draw():
        strengths = [0.2 + torch.rand(layers, generator=g) * 1.5**i for i in range(len(sizes))]
        return [
            [state.to(dtype) for state in run(g, *size, hidden, strength, scale * 3.0**i, drift)]
            for i, (size, strength) in enumerate(zip(sizes, strengths, strict=True))
        ]

    def accept(batches):  # float16 ends at 65504, and some draws grow beyond
        return all(state.isfinite().all() for states in batches for state in states) and clear(influence(batches), keep)

    return call(redraw(draw, accept), keep)


@blocks.stage(
    "one batch: one minus the cosine, the mean over tokens",
    points=1,
    exposes="For every token the cosine between what enters block i, states[i], and what leaves it, states[i + 1], along the last dimension; the "
    "score is the mean over all tokens of 1 - cos. All blocks stay here.",
)
def _(g):
    yield blocks_case(g, 3, 3, (1, 5))
    yield blocks_case(g, 4, 4, (3, 7), hidden=5)
    yield blocks_case(g, 1, 1, (1, 1))
    yield blocks_case(g, 2, 2, (4, 1), hidden=3)
    yield blocks_case(g, 3, 3, (1, 700), hidden=2)
    yield blocks_case(g, 2, 2, (1, 2), hidden=1100)
    yield blocks_case(g, 3, 3, (2, 4), drift=-2.0)  # some blocks turn vectors around
    yield blocks_case(g, 3, 3, (2, 4), scale=1e-4)


@blocks.stage(
    "keeps the blocks that change most, in order",
    points=1,
    exposes="A block that hardly turns anything can go: the `keep` blocks with the largest scores stay, as int64 indices from small to large.",
)
def _(g):
    yield blocks_case(g, 7, 4, (2, 6), drift=-2.0)
    yield blocks_case(g, 9, 3, (3, 4), hidden=8)
    yield blocks_case(g, 5, 1, (4, 3), hidden=7)
    yield blocks_case(g, 12, 5, (2, 2), hidden=4)


@blocks.stage(
    "adds up over batches of unequal size",
    points=1,
    exposes="Each batch adds its own mean over tokens, whatever its size.",
)
def _(g):
    yield blocks_case(g, 6, 3, (2, 7), (1, 4), (5, 3), hidden=5, drift=-2.0)
    yield blocks_case(g, 8, 5, (1, 3), (4, 9), hidden=7)


@blocks.stage(
    "in half precision too",
    points=1,
    exposes="States may be float16: compute in float32, as a cosine close to 1 needs all its digits. The states stay as they are, "
    "float32 ones too.",
    pure=True,
)
def _(g):
    yield blocks_case(g, 3, 2, (2, 5), drift=-2.0)
    yield blocks_case(g, 5, 2, (2, 6), (3, 4), hidden=9, dtype=torch.float16)
    yield blocks_case(g, 4, 3, (3, 5), dtype=torch.bfloat16, hidden=7)
    yield blocks_case(g, 3, 2, (2, 3), (1, 4), dtype=torch.bfloat16, scale=1e6)  # too large for float16
    yield blocks_case(g, 2, 1, (2, 3), dtype=torch.float16, scale=1e3)  # as the squares are


def mistaken(name: str, says: str, choose=best, **parts):
    """A mistake in the score or in the choice."""

    def wrong(batches, keep):
        scores = influence(batches, **parts)
        return scores, choose(scores, keep)

    blocks.misconception(name, says)(wrong)


def flat(before: Tensor, after: Tensor) -> Tensor:
    return changes(before.flatten(), after.flatten())


mistaken(
    "one cosine for the whole batch",
    "You took the cosine of the flattened tensors, in which long vectors count for more. Every token has its own cosine; then their mean.",
    of=flat,
)
mistaken(
    "one cosine for each sequence",
    "You took one cosine for each sequence, tokens and all. Every token has its own cosine; then their mean.",
    of=lambda before, after: changes(before.flatten(1), after.flatten(1)),
)
mistaken(
    "cosine over the tokens",
    "You took the cosine along the tokens, dim=1. A token's vector lies along the last dimension: dim=-1.",
    of=lambda before, after: changes(before.transpose(1, 2), after.transpose(1, 2)),
)
mistaken(
    "mean vectors compared",
    "You averaged the vectors of all tokens and compared the averages. Compare every token with itself, then average.",
    of=lambda before, after: changes(before.double().mean(dim=(0, 1)), after.double().mean(dim=(0, 1))),
)
mistaken(
    "similarity",
    "Your score is the cosine, which is large where a block does nothing. Importance is 1 - cos.",
    of=cosine,
)
mistaken(
    "the most similar stay",
    "You keep the blocks with the smallest scores: those that change nothing. Keep those with the largest.",
    choose=lambda scores, keep: (-scores).topk(keep).indices.sort().values,
)
mistaken(
    "most important first",
    "Your indices are ordered by score. The blocks that stay run in their old order: sort the indices.",
    choose=lambda scores, keep: scores.topk(keep).indices,
)
mistaken(
    "those that go",
    "You return the blocks that go. Return those that stay.",
    choose=lambda scores, keep: (-scores).topk(len(scores) - keep).indices.sort().values,
)
mistaken(
    "the first blocks",
    "You keep the first blocks whatever their scores.",
    choose=lambda scores, keep: torch.arange(keep),
)
mistaken(
    "a mask",
    "You return a mask of the blocks. Return the int64 indices of those that stay, `mask.nonzero().flatten()`.",
    choose=lambda scores, keep: torch.zeros(len(scores), dtype=torch.bool).index_fill(0, best(scores, keep), True),
)
mistaken(
    "sum over tokens",
    "You added up over the tokens of a batch. A batch adds the mean over its tokens.",
    over_tokens=torch.sum,
)
mistaken(
    "mean over batches",
    "You averaged over batches. The order is the same, but here the means are added up, as in the authors' code.",
    over_batches=lambda rows: rows.mean(dim=0),
)
mistaken(
    "l2 norm over batches",
    "You took the l2 norm over batches, which is for the activations. Here the means of the batches are added up.",
    over_batches=lambda rows: rows.norm(dim=0),
)
mistaken(
    "last batch only",
    "You return the scores of the last batch. All batches count.",
    over_batches=lambda rows: rows[-1],
)


mistaken(
    "the size of the cosine",
    "You took the magnitude of the cosine. A block that turns a vector around changes it more than any other: 1 - cos is 2 there.",
    of=lambda before, after: 1 - cosine(before, after).abs(),
)
mistaken(
    "negative cosines cut off",
    "You cut negative cosines off at 0. A block that turns a vector around changes it more than any other: 1 - cos is 2 there.",
    of=lambda before, after: 1 - cosine(before, after).clamp_min(0),
)
mistaken(
    "a constant in the denominator",
    "You added a small constant to the product of the norms. Hidden states can be small too, and no state is zero: divide by the product as it is.",
    of=lambda before, after: (
        1 - (before.double() * after.double()).sum(dim=-1) / (before.double().norm(dim=-1) * after.double().norm(dim=-1) + 1e-8)
    ),
)


@blocks.misconception(
    "with the model's input",
    "You compared what leaves a block with what entered the model, states[0]. Compare it with what entered this block, states[i].",
)
def _(batches, keep):
    rows = [torch.stack([changes(states[0], after).mean() for after in states[1:]]) for states in batches]
    scores = torch.stack(rows).sum(dim=0).float()
    return scores, best(scores, keep)


@blocks.misconception(
    "one mean over all tokens",
    "You put the tokens of all batches together before you averaged. Each batch adds the mean over its own tokens.",
)
def _(batches, keep):
    layers = len(batches[0]) - 1
    scores = torch.stack(
        [torch.cat([changes(states[i], states[i + 1]).flatten() for states in batches]).mean() for i in range(layers)]
    ).float()
    return scores, best(scores, keep)


mistaken(
    "angle",
    "You return the angle. The score is 1 - cos, without arccos.",
    of=lambda before, after: cosine(before, after).clamp(-1, 1).arccos(),
)
mistaken(
    "relative size of the change",
    "You measured how long the change is, relative to the input. Block influence looks at the direction only: 1 - cos.",
    of=lambda before, after: (after.double() - before.double()).norm(dim=-1) / before.double().norm(dim=-1),
)
mistaken(
    "squared cosine",
    "You return 1 - cos^2. The score is 1 - cos.",
    of=lambda before, after: 1 - cosine(before, after) ** 2,
)
mistaken(
    "means subtracted",
    "You subtracted each vector's mean first: that is a correlation. The cosine takes the vectors as they are.",
    of=lambda before, after: changes(
        before.double() - before.double().mean(dim=-1, keepdim=True), after.double() - after.double().mean(dim=-1, keepdim=True)
    ),
)
mistaken(
    "with the change",
    "You took the cosine between the input and the change. Take it between the input and what leaves the block, states[i + 1].",
    of=lambda before, after: changes(before.double(), after.double() - before.double()),
)


def normalised_in_place(before: Tensor, after: Tensor) -> Tensor:
    before, after = before.float(), after.float()
    before /= before.norm(dim=-1, keepdim=True)
    after /= after.norm(dim=-1, keepdim=True)
    return 1 - (before * after).sum(dim=-1)


mistaken(
    "states changed",
    "You divided the states by their norms in place. `.float()` is no copy where a state is float32 already: write `x = x / ...`, not `x /= ...`.",
    of=normalised_in_place,
)
mistaken(
    "in half precision",
    "You computed in the precision of the states. Call `.float()` first: 1 - cos is a small difference of two large numbers.",
    of=lambda before, after: 1 - F.cosine_similarity(before, after, dim=-1),
)


@blocks.accepts("official code, sequence first")
def _(batches, num_layers):
    scores = {}
    for states in batches:
        for layer, (inp, out) in enumerate(pairwise(states)):
            inp, out = (x.transpose(0, 1).to(torch.float32) for x in (inp, out))
            score = 1 - F.cosine_similarity(inp, out, dim=2).mean()
            scores[layer] = scores.get(layer, 0) + score.item()
    ranked = sorted(scores, key=lambda layer: scores[layer], reverse=True)
    return torch.tensor([scores[layer] for layer in sorted(scores)]), torch.tensor(sorted(ranked[:num_layers]))


@blocks.accepts("unit vectors")
def _(batches, keep):
    scores = 0
    for states in batches:
        unit = torch.stack([F.normalize(state.float(), dim=-1) for state in states])  # (layers + 1, sequences, tokens, hidden)
        scores = scores + (1 - torch.einsum("lsth,lsth->lst", unit[:-1], unit[1:])).mean(dim=(1, 2))
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[scores.topk(keep).indices] = True
    return scores, mask.nonzero()[:, 0]


@blocks.accepts("numpy, token by token")
def _(batches, keep):
    scores = np.zeros(len(batches[0]) - 1)
    for states in batches:
        arrays = [state.double().numpy().reshape(-1, state.shape[-1]) for state in states]
        for i, (before, after) in enumerate(pairwise(arrays)):
            scores[i] += np.mean([1 - b @ a / np.sqrt((b @ b) * (a @ a)) for b, a in zip(before, after, strict=True)])
    kept = np.sort(np.argsort(scores)[len(scores) - keep :])
    return torch.tensor(scores, dtype=torch.float32), torch.from_numpy(kept)
