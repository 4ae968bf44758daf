"""Mistakes of exercise 7.3, and the parts that they vary."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Mistakes

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


mistakes = Mistakes()


def mistaken(name: str, says: str, choose=best, **parts):
    """A mistake in the score or in the choice."""

    def wrong(batches, keep):
        scores = influence(batches, **parts)
        return scores, choose(scores, keep)

    mistakes(name, says)(wrong)


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


@mistakes(
    "with the model's input",
    "You compared what leaves a block with what entered the model, states[0]. Compare it with what entered this block, states[i].",
)
def _(batches, keep):
    rows = [torch.stack([changes(states[0], after).mean() for after in states[1:]]) for states in batches]
    scores = torch.stack(rows).sum(dim=0).float()
    return scores, best(scores, keep)


@mistakes(
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
