"""Mistakes of exercise 13.3."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def varied(
    name: str,
    says: str,
    *,
    weights: Callable = lambda y, extra: y + (1 - y) * (y.mean() + extra),
    entropy: Callable = lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none"),
    total: Callable = lambda losses, weights, y: (losses * weights).mean(),
) -> None:
    """The right answer with one of its parts exchanged."""

    def wrong(logits: Tensor, labels: Tensor, extra: float = 0.005) -> Tensor:
        y = labels.to(logits.dtype)
        w = weights(y, extra)
        return total(entropy(logits, y) * torch.ones_like(w), w, y)

    mistakes(name, says)(wrong)


varied(
    "no weight",
    "All units weigh the same in your loss. Few are needed, so a predictor that never says yes would have a small one: those "
    "that are not needed weigh w.",
    weights=lambda y, extra: torch.ones_like(y) + 0 * extra,
)
varied(
    "weights swapped",
    "You gave w to the units that are needed and 1 to the others. It is the other way round.",
    weights=lambda y, extra: 1 - y + y * (y.mean() + extra),
)
varied(
    "as pos_weight",
    "You gave the needed units (1 - w) / w, as `pos_weight` is often set. Here they weigh exactly 1, and the others w.",
    weights=lambda y, extra: 1 - y + y * (1 - y.mean() - extra) / (y.mean() + extra),
)
varied(
    "1 / w in place of 1",
    "You gave the needed units 1 / w and the others 1, as `pos_weight=1 / w` does. That is the loss divided by w: multiply it by w.",
    weights=lambda y, extra: y / (y.mean() + extra) + (1 - y),
)
varied(
    "the share of the others",
    "You took the share of units that are not needed. w is the share of those that are.",
    weights=lambda y, extra: y + (1 - y) * (1 - y.mean() + extra),
)
varied(
    "a share for each token",
    "You took a share for each token. w is one number: the mean over all tokens and units.",
    weights=lambda y, extra: y + (1 - y) * (y.mean(dim=1, keepdim=True) + extra),
)
varied(
    "a share for each unit",
    "You took a share for each unit. w is one number: the mean over all tokens and units.",
    weights=lambda y, extra: y + (1 - y) * (y.mean(dim=0) + extra),
)
varied(
    "no extra",
    "You left `extra` out. It is added to w, so that units that are not needed count even if w is tiny.",
    weights=lambda y, extra: y + (1 - y) * y.mean(),
)
varied(
    "its own extra",
    "You ignore the argument `extra` and take 0.005, whatever it is.",
    weights=lambda y, extra: y + (1 - y) * (y.mean() + 0.005),
)
varied(
    "extra multiplied",
    "You multiplied by 1 + extra. It is added.",
    weights=lambda y, extra: y + (1 - y) * y.mean() * (1 + extra),
)
varied(
    "extra for all",
    "You added `extra` to all weights. Units that are needed weigh exactly 1.",
    weights=lambda y, extra: y + (1 - y) * y.mean() + extra,
)
varied(
    "extra as the least",
    "You took `extra` as a lower limit of w. It is added.",
    weights=lambda y, extra: y + (1 - y) * y.mean().clamp(min=extra),
)
varied(
    "sum",
    "You summed. The loss is the mean over tokens and units, so that it does not grow with the batch.",
    total=lambda losses, w, y: (losses * w).sum(),
)
varied(
    "sum over units",
    "You summed over units, and took the mean over tokens. The mean is over both.",
    total=lambda losses, w, y: (losses * w).sum(dim=1).mean(),
)
varied(
    "divided by the weights",
    "You divided by the sum of the weights. The mean is over the number of tokens and units, whatever their weights.",
    total=lambda losses, w, y: (losses * w).sum() / w.sum(),
)
varied(
    "not reduced",
    "You return a loss for each unit. Take the mean: a scalar.",
    total=lambda losses, w, y: losses * w,
)
varied(
    "sigmoid twice",
    "You put a sigmoid before a loss that has one. `binary_cross_entropy_with_logits` takes logits.",
    entropy=lambda z, y: F.binary_cross_entropy_with_logits(z.sigmoid(), y, reduction="none"),
)
varied(
    "through probabilities",
    "You took the logarithm of probabilities. For a sure predictor these round to 0 or 1, and their logarithms to -inf or to "
    "-100. Work on logits.",
    entropy=lambda z, y: F.binary_cross_entropy(z.sigmoid(), y, reduction="none"),
)
varied(
    "probabilities kept away from 0 and 1",
    "You keep probabilities away from 0 and 1 by an epsilon. The loss of a sure mistake stops growing then, and its gradient "
    "is 0. Work on logits.",
    entropy=lambda z, y: F.binary_cross_entropy(z.sigmoid().clamp(1e-6, 1 - 1e-6), y, reduction="none"),
)
varied(
    "only the needed",
    "You counted the units that are needed, and no others. A predictor that always says yes would have no loss at all.",
    weights=lambda y, extra: y + 0 * extra,
)
varied(
    "labels turned",
    "You turned the labels round. A needed unit should have a large logit.",
    entropy=lambda z, y: F.binary_cross_entropy_with_logits(z, 1 - y, reduction="none"),
)
varied(
    "squared error",
    "You took the squared error of probabilities. The loss is binary cross entropy.",
    entropy=lambda z, y: (z.sigmoid() - y).square(),
)
varied(
    "softmax over the units",
    "You took a softmax over the units. They do not compete: each has a binary cross entropy of its own.",
    entropy=lambda z, y: -y * z.log_softmax(dim=-1) + (1 - y) * 0,
)
varied(
    "a number",
    "The value is right, but it is a plain number or a constant: no gradient reaches the logits.",
    total=lambda losses, w, y: (losses * w).mean().detach() + 0 * losses.sum(),
)
