"""Mistakes of exercise 13.5."""

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def first_best(logits: Tensor, k: int, *, last: bool = False) -> Tensor:
    """(..., units) boolean, the k largest; of equal ones the first, or the last."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if last:
        return first_best(logits.flip(-1), k).flip(-1)
    best = logits.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.zeros(logits.shape, dtype=torch.bool).scatter(-1, best, True)


def checked(of):
    """A mistake that knows which k there may be."""

    def wrong(logits, k):
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        return of(logits, k)

    return wrong


mistakes(
    "by a limit of 0.5",
    "You chose what has a probability of 0.5 or more. That is how predictors are evaluated in training; at inference k units "
    "are taken, whatever their logits.",
)(checked(lambda z, k: z >= 0))
mistakes(
    "positive ones only",
    "You chose the k largest, but only those above 0. A token gets k units also if all its logits are negative.",
)(checked(lambda z, k: first_best(z, k) & (z > 0)))
mistakes(
    "probabilities",
    "You ranked probabilities. Those of sure logits round to 1 and are equal, and the first is taken, not the largest. Rank "
    "the logits.",
)(checked(lambda z, k: first_best(z.sigmoid(), k)))
mistakes(
    "an epsilon for the order",
    "You took a little off later units, so that no two are equal. Where logits differ by less, that changes their order: use "
    "a stable sort.",
)(checked(lambda z, k: first_best(z - 1e-6 * torch.arange(z.shape[1]), k)))
mistakes("in size", "You ranked logits by their size. A large negative logit means: surely not needed.")(
    checked(lambda z, k: first_best(z.abs(), k))
)
mistakes("the smallest", "You chose the k smallest logits. The largest ones are most likely needed.")(
    checked(lambda z, k: first_best(-z, k))
)
mistakes("the others", "You marked the units that are left out. True means used.")(checked(lambda z, k: ~first_best(z, k)))
mistakes(
    "among all tokens",
    "You chose among all tokens together, so that some have many units and others few. Each token has k of its own.",
)(checked(lambda z, k: first_best(z.flatten(), k * len(z)).view(z.shape)))
mistakes("tokens for units", "You chose k tokens for each unit. It is k units for each token: the last axis.")(
    checked(lambda z, k: first_best(z.T, k).T.contiguous())
)
mistakes(
    "the mean of the tokens",
    "You chose once for all tokens, by their mean. That is a static mask of the batch: each token has its own units.",
)(checked(lambda z, k: first_best(z.mean(dim=0), k).expand(z.shape).clone()))
mistakes(
    "the first token's",
    "You kept the first token's choice for all. Which units are needed changes from token to token.",
)(checked(lambda z, k: first_best(z[0], k).expand(z.shape).clone()))
mistakes(
    "any token's",
    "You marked what any of the tokens chose. Each token has k units, and no more.",
)(checked(lambda z, k: first_best(z, k).any(dim=0).expand(z.shape).clone()))
mistakes(
    "all that are as good",
    "You took all units that are as good as the k-th. Of equal ones only as many are taken as there is room for.",
)(checked(lambda z, k: z >= z.topk(min(k, z.shape[1]), dim=-1).values[:, -1:]))
mistakes(
    "above the k-th",
    "You took what is strictly above the k-th largest. The k-th itself is chosen, too.",
)(checked(lambda z, k: z > z.topk(min(k, z.shape[1]), dim=-1).values[:, -1:]))
mistakes("the last of equal ones", "Of equal logits you took the last. The unit with the lower number comes first.")(
    checked(lambda z, k: first_best(z, k, last=True))
)
mistakes("one more", "You chose one unit more than k.")(checked(lambda z, k: first_best(z, k + 1)))
mistakes("one less", "You chose one unit less than k.")(
    checked(lambda z, k: first_best(z, k) & ~first_best(z, 1) if k > 1 else first_best(z, k))
)


@mistakes(
    "no more than there are",
    "You refuse a k that is larger than the number of units. All are chosen then.",
)
def _(z, k):
    return first_best(z, 0 if k > z.shape[1] else k)


mistakes("k of nothing", "You take any k. One below 1 is a ValueError.")(
    lambda z, k: first_best(z, k) if k > 0 else torch.zeros(z.shape, dtype=torch.bool)
)
mistakes("places", "You return the places of the units. Return a mask: True at these places.")(
    checked(lambda z, k: z.sort(dim=-1, descending=True, stable=True).indices[:, :k])
)
mistakes("numbers", "You return zeros and ones. A mask is boolean.")(checked(lambda z, k: first_best(z, k).to(z.dtype)))
mistakes("the logits kept", "You return the logits that were chosen, and zeros. Return a boolean mask.")(
    checked(lambda z, k: z * first_best(z, k))
)
