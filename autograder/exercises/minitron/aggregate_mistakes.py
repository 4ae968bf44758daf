"""Mistakes of exercise 7.1, and the parts that they vary."""

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes


class ChannelScore:
    """Keeps all that it is given, and computes from it when asked: whatever runs must give the same."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.batches: list[Tensor] = []  # (sequences, tokens, channels) each

    def add(self, X: Tensor) -> None:
        self.batches.append(X)

    def score(self) -> Tensor:
        return self.of_sequences(lambda X: X.abs().mean(dim=1)).square().sum(dim=0).sqrt().float()

    def of_sequences(self, reduced) -> Tensor:
        """(all sequences, channels): every batch reduced to a row for each of its sequences."""
        return torch.cat([reduced(X.double()) for X in self.batches])

    def of_batches(self, reduced) -> Tensor:
        """(batches, channels): every batch reduced to one row."""
        return torch.stack([reduced(X.double()) for X in self.batches])

    def tokens(self) -> Tensor:
        """(all tokens, channels)."""
        return torch.cat([X.double().flatten(0, 1) for X in self.batches])


mistakes = Mistakes()


def mistaken(name: str, says: str, of):
    """A mistake in what is computed of the activations."""

    class Mistaken(ChannelScore):
        def score(self) -> Tensor:
            return of(self).float()

    mistakes(name, says)(Mistaken)


mistaken(
    "no magnitude",
    "You averaged the activations themselves. Positive and negative ones cancel: take the absolute value first.",
    lambda kept: kept.of_sequences(lambda X: X.mean(dim=1)).norm(dim=0),
)


mistaken(
    "sequence first",
    "You averaged over dimension 0, which is the batch here. (The authors' tensors come sequence first; ours are (sequences, tokens, "
    "channels).) Average over dimension 1.",
    lambda kept: kept.of_sequences(lambda X: X.abs().mean(dim=0)).norm(dim=0),
)


mistaken(
    "norm first, then mean",
    "You took the l2 norm over the tokens and the mean over sequences. It is the other way round: mean over tokens, l2 norm over sequences.",
    lambda kept: kept.of_sequences(lambda X: X.norm(dim=1)).mean(dim=0),
)


mistaken(
    "l2 norm over the tokens too",
    "You took the l2 norm over all tokens, which is Wanda's statistic. Here the tokens of a sequence are averaged first.",
    lambda kept: kept.tokens().norm(dim=0),
)


mistaken(
    "root mean square over the tokens",
    "Over the tokens you took the root of the mean square. Take the mean of the absolute values.",
    lambda kept: kept.of_sequences(lambda X: X.square().mean(dim=1).sqrt()).norm(dim=0),
)


mistaken(
    "mean over all tokens",
    "You took one mean over all tokens of all sequences. The mean is over the tokens of a sequence; over sequences it is the l2 norm.",
    lambda kept: kept.tokens().abs().mean(dim=0),
)


mistaken(
    "mean over sequences",
    "You averaged over sequences where the l2 norm belongs: square the means, add them up, take the root.",
    lambda kept: kept.of_sequences(lambda X: X.abs().mean(dim=1)).mean(dim=0),
)


mistaken(
    "sum over sequences",
    "You added the means of the sequences up. The l2 norm squares each, adds up, and takes the root.",
    lambda kept: kept.of_sequences(lambda X: X.abs().mean(dim=1)).sum(dim=0),
)


mistaken(
    "root of the mean",
    "You divided by the number of sequences under the root. The l2 norm is the root of the sum of squares, not of their mean.",
    lambda kept: kept.of_sequences(lambda X: X.abs().mean(dim=1)).square().mean(dim=0).sqrt(),
)


mistaken(
    "no root",
    "You return the sum of squares: the root is missing. It changes no order of one layer's neurons, but hidden channels add up the "
    "scores of several norms, and a sum of roots is not the root of a sum.",
    lambda kept: kept.of_sequences(lambda X: X.abs().mean(dim=1)).square().sum(dim=0),
)


mistaken(
    "sum over tokens",
    "You added up over the tokens. Take their mean: a long sequence must not count for more than a short one.",
    lambda kept: kept.of_sequences(lambda X: X.abs().sum(dim=1)).norm(dim=0),
)


mistaken(
    "largest token",
    "You took the largest magnitude of a sequence. Take the mean over its tokens.",
    lambda kept: kept.of_sequences(lambda X: X.abs().amax(dim=1)).norm(dim=0),
)


mistaken(
    "standard deviation",
    "You took the standard deviation over the tokens, which subtracts the mean. A channel that is always 10 matters, though it never varies.",
    lambda kept: kept.of_sequences(lambda X: X.std(dim=1, correction=0)).norm(dim=0),
)


mistaken(
    "norms of the batches added",
    "You took a norm for every batch and added them up. Add up the squares over all batches, and take the root once, at the end.",
    lambda kept: kept.of_batches(lambda X: X.abs().mean(dim=1).norm(dim=0)).sum(dim=0),
)


mistaken(
    "norms of the batches averaged",
    "You took a norm for every batch and averaged them. Add up the squares over all batches, and take the root once, at the end.",
    lambda kept: kept.of_batches(lambda X: X.abs().mean(dim=1).norm(dim=0)).mean(dim=0),
)


mistaken(
    "mean over the batch",
    "You averaged a whole batch, tokens and sequences, before you squared. Average over tokens only; each sequence adds a square.",
    lambda kept: kept.of_batches(lambda X: X.abs().mean(dim=(0, 1))).norm(dim=0),
)


mistaken(
    "last batch only",
    "You return the score of the last batch. Calibration text comes in many batches, and all of them count.",
    lambda kept: kept.batches[-1].double().abs().mean(dim=1).norm(dim=0),
)


mistaken(
    "weighted by length",
    "You weighted sequences by their length. Every sequence adds the square of its mean once, long or short.",
    lambda kept: (
        kept.of_sequences(lambda X: X.abs().mean(dim=1) * X.shape[1] ** 0.5).norm(dim=0)
        / (len(kept.tokens()) / sum(map(len, kept.batches))) ** 0.5
    ),
)


@mistakes(
    "in half precision",
    "You computed in the activations' own precision: 300 squared is infinite in float16. Call `X.float()` first.",
)
class _(ChannelScore):
    def score(self):
        squares = sum(X.abs().mean(dim=1).square().sum(dim=0).float() for X in self.batches)
        return squares.sqrt()


@mistakes(
    "mean in half precision",
    "You averaged in float16 and converted the mean. A float16 has three decimal digits: call `X.float()` first.",
)
class _(ChannelScore):
    def score(self):
        return sum(X.abs().mean(dim=1).float().square().sum(dim=0) for X in self.batches).sqrt()


@mistakes(
    "zeros left out",
    "You averaged over the tokens where a channel is not 0. A channel that is nearly always 0 can go: its zeros count, divide by all tokens.",
)
class _(ChannelScore):
    def score(self):
        return self.of_sequences(lambda X: X.abs().sum(dim=1) / (X != 0).sum(dim=1).clamp_min(1)).norm(dim=0).float()


@mistakes(
    "activations changed",
    "You changed X in place, as `X.abs_()` does, also behind `X.float()`, which is X itself where X is float32 already. The model is still "
    "computing with this tensor: use X.abs().",
)
class _(ChannelScore):
    def add(self, X):
        super().add(X.float().abs_())


@mistakes(
    "a constant under the root",
    "You added a small constant under the root. There is nothing to divide by here; a channel that is always 0 has score 0.",
)
class _(ChannelScore):
    def score(self):
        return (super().score().square() + 1e-12).sqrt()


@mistakes(
    "root in place",
    "score() replaces the sum of squares by its root, so that the next call takes the root of a root. Asking must change nothing.",
)
class _(ChannelScore):
    def __init__(self, channels):
        self.squares = torch.zeros(channels)

    def add(self, X):
        self.squares = self.squares + X.float().abs().mean(dim=1).square().sum(dim=0)

    def score(self):
        self.squares = self.squares.sqrt()
        return self.squares


@mistakes(
    "starts again",
    "score() throws away what was collected, so that the next batches start from nothing. Asking must change nothing.",
)
class _(ChannelScore):
    def score(self):
        value, self.batches = super().score() if self.batches else torch.zeros(self.channels), []
        return value
