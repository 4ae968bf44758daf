"""Mistakes of exercise 13.4."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Mistakes
from autograder.exercises.deja_vu.loss import reference as weighted_loss
from autograder.exercises.deja_vu.variants import shares, trained

mistakes = Mistakes()


def varied(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda *args, **options: trained(*args, **options, **parts))


varied(
    "SGD",
    "Your steps are those of SGD. The authors train with AdamW.",
    optimizer=lambda weights, rate: torch.optim.SGD(weights, lr=rate, weight_decay=0.01),
)
varied(
    "Adam",
    "You took Adam, which puts the weight decay into the gradient. AdamW takes it off the weights.",
    optimizer=lambda weights, rate: torch.optim.Adam(weights, lr=rate, weight_decay=0.01),
)
varied(
    "no weight decay",
    "Your weights do not decay. AdamW has a weight decay of 0.01 here.",
    optimizer=lambda weights, rate: torch.optim.AdamW(weights, lr=rate, weight_decay=0.0),
)
varied(
    "another decay",
    "Your weight decay is 0.1. It is 0.01 here.",
    optimizer=lambda weights, rate: torch.optim.AdamW(weights, lr=rate, weight_decay=0.1),
)
varied(
    "its own rate",
    "You ignore the argument `rate` and take 0.001, whatever it is.",
    optimizer=lambda weights, rate: torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.01),
)
varied(
    "only B trains",
    "A stays as it was: give both matrices to the optimiser.",
    optimizer=lambda weights, rate: torch.optim.AdamW(weights[1:], lr=rate, weight_decay=0.01),
)
varied(
    "a new optimiser each epoch",
    "You make a new optimiser for each epoch. Its moments go on from epoch to epoch: make it once.",
    each_epoch_new=True,
)
varied(
    "gradients that add up",
    "Gradients of earlier batches are still there: they add up unless you set them to zero before each step.",
    zero=lambda optimizer: None,
)
varied(
    "no weights in the loss",
    "You trained with the plain binary cross entropy. Use your weighted loss.",
    loss=lambda z, y, extra: F.binary_cross_entropy_with_logits(z, y.to(z.dtype)),
)
varied(
    "its own extra",
    "You ignore the argument `extra`: hand it on to the loss.",
    loss=lambda z, y, extra: weighted_loss(z, y, 0.005),
)
varied(
    "one large batch",
    "You made one step for all batches together. There is a step for each of them.",
    order=lambda batches, epoch: [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))],
)
varied(
    "from the last batch",
    "You went through the batches from the last to the first. They have an order.",
    order=lambda batches, epoch: batches[::-1],
)
varied(
    "a batch for each epoch",
    "You made one step in each epoch. An epoch is all batches, a step for each.",
    order=lambda batches, epoch: [batches[epoch % len(batches)]],
)
varied(
    "the last weights",
    "You return the weights of the last epoch. Return those of the epoch with the best recall, and keep them as copies: "
    "later steps change the weights "
    "in place.",
    result=lambda kept, weights, curve: (*weights, curve),
)
varied(
    "the last of the best",
    "Of epochs with the same recall you kept the last. Only a better one takes the place of the best.",
    better=lambda new, best: new >= best,
)
varied(
    "the untrained ones too",
    "You compare with the weights before training, too. The best of the epochs is wanted, even if it is worse.",
    first=True,
)
varied(
    "before the epoch",
    "You measured before the epoch. Each point of the curve is taken after one.",
    before=True,
)
varied(
    "no early end",
    "You went on after a recall above 0.99. Training stops there.",
    enough=lambda worth: False,
)
varied(
    "stops when something is lost",
    "You stopped at an epoch that was worse than the best. Only a recall above 0.99 ends training before its time.",
    impatient=True,
)
varied(
    "best by precision",
    "You chose the epoch by precision. The authors choose by recall alone.",
    worth=lambda point, loss: point[1],
    enough=lambda worth: False,
)
varied(
    "best by loss",
    "You chose the epoch by its loss. The authors choose by recall alone.",
    worth=lambda point, loss: -loss,
    enough=lambda worth: False,
)
varied(
    "measured on what it learned",
    "You measured on the batches. Recall is measured on held-out tokens, of which nothing is learned.",
    where=lambda batches, held_out: batches[0],
)
varied(
    "logits above 0.5",
    "You compared logits with 0.5. It is the probability that must be 0.5 or more, and then the logit is 0 or more.",
    yes=lambda z: z >= 0.5,
)

varied(
    "zero is no",
    "You take a logit of exactly 0 for a no. Its probability is 0.5, and 0.5 or more means yes.",
    yes=lambda z: z > 0,
)


@mistakes(
    "five epochs without gain",
    "You stopped after epochs without a gain, as the authors' code does. Here only a recall above 0.99 ends training before its "
    "time.",
)
def _(A, B, batches, held_out, epochs, rate=1e-3, extra=0.005):
    curve = trained(A, B, batches, held_out, epochs, rate, extra)[2]
    recalls = [point[0] for point in curve]
    ends = [i + 1 for i in range(len(recalls)) if i - recalls.index(max(recalls[: i + 1])) >= 5]
    return trained(A, B, batches, held_out, min([epochs, *ends]), rate, extra)


varied(
    "ends at a recall of 1",
    "You went on until the recall was 1. Training ends when it is above 0.99.",
    enough=lambda worth: worth >= 1,
)


def other(name: str, says: str, of) -> None:
    """Other shares than those wanted; training goes by the right recall."""

    def wrong(*args, **options):
        return trained(
            *args,
            **options,
            measure=lambda said, labels: (*shares(said, labels), *of(said, labels)),
            result=lambda kept, weights, curve: (*kept, [point[3:] for point in curve]),
        )

    mistakes(name, says)(wrong)


def accuracy(said: Tensor, labels: Tensor) -> float:
    return float((said == labels).double().mean())


other(
    "accuracy for recall",
    "Your recall is the accuracy: the share of units that were told right. Recall is the share of needed units that were "
    "predicted.",
    lambda said, labels: (accuracy(said, labels), *shares(said, labels)[1:]),
)
other(
    "recall and precision swapped",
    "You swapped recall and precision. Recall divides by the units that are needed, precision by those that were predicted.",
    lambda said, labels: (*shares(said, labels)[:2][::-1], shares(said, labels)[2]),
)
other(
    "recall of each token",
    "You took the recall of each token and then the mean. Count over all tokens together.",
    lambda said, labels: (
        float(((said & labels).sum(dim=1) / labels.sum(dim=1).clamp(min=1)).double().mean()),
        *shares(said, labels)[1:],
    ),
)
other(
    "the share predicted",
    "Your sparsity is the share of units that are predicted. It is the share of those that are not.",
    lambda said, labels: (*shares(said, labels)[:2], 1 - shares(said, labels)[2]),
)
other(
    "the labels' sparsity",
    "Your sparsity is that of the labels. It is the share of units that the predictor leaves out.",
    lambda said, labels: (*shares(said, labels)[:2], 1 - float(labels.double().mean())),
)
other(
    "precision of nothing",
    "With nothing predicted your precision is 0. A predictor that says nothing says nothing wrong: 1.",
    lambda said, labels: (shares(said, labels)[0], shares(said, labels)[1] * bool(said.any()), shares(said, labels)[2]),
)
varied(
    "always float64",
    "You return float64 for matrices in float32. The weights keep their dtype.",
    result=lambda kept, weights, curve: (*[W.double() for W in kept], curve),
)
varied(
    "in place",
    "You trained the matrices that you were given. Train copies, and leave the arguments as they are.",
    own=lambda W: W,
)
