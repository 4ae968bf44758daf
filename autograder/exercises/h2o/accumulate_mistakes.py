"""Mistakes of exercise 10.2."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def add(new: Tensor, scores: Tensor) -> Tensor:
    return new + F.pad(scores, (0, new.shape[-1] - scores.shape[-1]))


def mistaken(name: str, says: str, *, of=lambda p: p.float().sum(dim=2), join=add, after=lambda total, p: total):
    def wrong(scores, p):
        new = of(p)
        return after(new if scores is None else join(new, scores), p)

    mistakes(name, says)(wrong)


mistaken(
    "the last query only",
    "You took the probabilities of the last query alone. That is another method, TOVA. H2O adds up over all queries: a token that all looked at "
    "but the last is still a heavy hitter.",
    of=lambda p: p[:, :, -1].float(),
)
mistaken(
    "mean over queries",
    "You averaged over the queries of a step. Then a prompt of 1000 tokens counts as much as one step of decoding. Add up, and divide by nothing.",
    of=lambda p: p.float().mean(dim=2),
)
mistaken(
    "over the keys",
    "You added up over the keys, which gives 1 for every query. What a token GETS is the sum over queries, dimension 2.",
    of=lambda p: p.float().sum(dim=3),
)
mistaken(
    "summed over the batch",
    "You added up over the sequences of the batch. They have nothing to do with each other. (The authors' code does this: its issue 14.)",
    of=lambda p: p.float().sum(dim=2).sum(dim=0, keepdim=True).expand(p.shape[0], -1, -1).clone(),
)
mistaken(
    "summed over heads",
    "You added up over the heads. Every head looks at tokens of its own, and keeps scores of its own.",
    of=lambda p: p.float().sum(dim=2).sum(dim=1, keepdim=True).expand(-1, p.shape[1], -1).clone(),
)
mistaken(
    "forgets the old scores",
    "You return what the newest queries gave and forgot the old scores. They are sums over the whole text.",
    join=lambda new, scores: new,
)
mistaken(
    "new tokens begin with 0",
    "Your new tokens begin with 0. They begin with what the new queries, their own among them, gave to them. (The authors' FlexGen version begins with 0.)",
    join=lambda new, scores: torch.cat(
        [new[..., : scores.shape[-1]] + scores, torch.zeros_like(new[..., scores.shape[-1] :])], dim=-1
    ),
)
mistaken(
    "new tokens first",
    "You added the old scores to the last tokens. The tokens that were there before are the first ones; new ones come behind them.",
    join=lambda new, scores: new + F.pad(scores, (new.shape[-1] - scores.shape[-1], 0)),
)
mistaken(
    "only the old tokens",
    "Your result has no scores for the new tokens. There is one for each token that is held, new ones included.",
    join=lambda new, scores: new[..., : scores.shape[-1]] + scores,
)
mistaken(
    "moving average",
    "You mixed old and new scores as a moving average. H2O forgets nothing: they are sums.",
    join=lambda new, scores: add(0.1 * new, 0.9 * scores),
)
mistaken(
    "largest instead of sum",
    "You took the larger of the old score and the new probability. Add them up.",
    join=lambda new, scores: torch.maximum(new, F.pad(scores, (0, new.shape[-1] - scores.shape[-1]))),
)
mistaken(
    "largest over the queries",
    "You took the largest probability over the queries. The score is the sum.",
    of=lambda p: p.float().amax(dim=2),
)
mistaken(
    "normalised to 1",
    "You divided the scores so that they add up to 1. Sums of steps of different length could not be compared any more; leave them as they are.",
    after=lambda total, p: total / total.sum(dim=-1, keepdim=True),
)
mistaken(
    "divided by the queries that could see it",
    "You divided by the number of queries that could see the token. That is a good idea, and comes later: the sums themselves are kept as they are.",
    of=lambda p: p.float().sum(dim=2) / (p.shape[2] - (torch.arange(p.shape[3]) - (p.shape[3] - p.shape[2])).clamp(min=0)),
)
mistaken(
    "squares",
    "You added up squares. The score is the sum of the probabilities themselves.",
    of=lambda p: p.float().square().sum(dim=2),
)
mistaken(
    "counts",
    "You counted how often a token was looked at most. The score is the sum of the probabilities.",
    of=lambda p: F.one_hot(p.argmax(dim=3), p.shape[3]).sum(dim=2).float(),
)
mistaken(
    "summed in bfloat16",
    "You added up in the dtype of the probabilities. In bfloat16 256 + 1 is 256, and scores stop growing: convert to float32 first.",
    of=lambda p: p.sum(dim=2).float(),
)
mistaken(
    "bfloat16 comes back",
    "Your scores are in the dtype of the probabilities. They are float32.",
    of=lambda p: p.sum(dim=2),
)
mistaken(
    "without its own",
    "You left out what the new queries gave to the new tokens' own keys on the diagonal. A token's own query counts like any other.",
    of=lambda p: (p.float() * (1 - torch.eye(p.shape[3])[p.shape[3] - p.shape[2] :])).sum(dim=2),
)


@mistakes("in place", "The result is right, but the scores that you were given have changed: `+=` did that. Make a new tensor.")
def _(scores, p):
    new = p.float().sum(dim=2)
    if scores is not None:
        scores += new[..., : scores.shape[-1]]
        new = torch.cat([scores, new[..., scores.shape[-1] :]], dim=-1)
    return new
