"""Mistakes of exercise 9.4."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def choice(scores: Tensor, bias: Tensor, k: int) -> Tensor:
    return (scores + bias).topk(k, dim=-1).indices


def mistaken(
    name: str,
    says: str,
    *,
    choose=choice,
    weigh=lambda scores, bias, experts: scores.gather(-1, experts),
    missing=lambda counts, experts, scores: torch.sign(counts.mean() - counts),
    move=lambda bias, rate, step: bias + rate * step,
    default: float = 0.001,
):
    def wrong(scores, bias, k, rate=default):
        experts = choose(scores, bias, k)
        counts = experts.flatten().bincount(minlength=len(bias)).float()
        return experts, weigh(scores, bias, experts), move(bias, rate, missing(counts, experts, scores))

    mistakes(name, says)(wrong)


mistaken(
    "the bias in the weights",
    "Your weights are scores with the bias. It decides who is chosen and enters no weight: otherwise what balances would change what the layer computes.",
    weigh=lambda scores, bias, experts: (scores + bias).gather(-1, experts),
)
mistaken(
    "no bias in the choice",
    "You chose by the scores alone. The bias is there to change the choice: take the largest scores + bias.",
    choose=lambda scores, bias, k: scores.topk(k, dim=-1).indices,
)
mistaken(
    "ordered by score",
    "You chose the right experts but ordered them by score. The largest score + bias comes first.",
    choose=lambda scores, bias, k: choice(scores, bias, k).gather(
        -1, scores.gather(-1, choice(scores, bias, k)).argsort(dim=-1, descending=True)
    ),
)
mistaken(
    "ordered by index",
    "You sorted the experts by their numbers. The largest score + bias comes first.",
    choose=lambda scores, bias, k: choice(scores, bias, k).sort(dim=-1).values,
)
mistaken(
    "the smallest",
    "You chose the experts of the smallest scores + bias. Take the largest.",
    choose=lambda scores, bias, k: choice(-scores, -bias, k),
)
mistaken(
    "subtracted in the choice",
    "You subtracted the bias from the scores. It is added: an expert that is wanted more has a larger one.",
    choose=lambda scores, bias, k: choice(scores, -bias, k),
)
mistaken(
    "multiplied",
    "You multiplied the scores by 1 + bias. The bias is added.",
    choose=lambda scores, bias, k: (scores * (1 + bias)).topk(k, dim=-1).indices,
)
mistaken(
    "renormalised",
    "You divided the weights by their sum. Some routers do so, but later: the weights here are the scores.",
    weigh=lambda scores, bias, experts: F.normalize(scores.gather(-1, experts), p=1, dim=-1),
)
mistaken(
    "the bias taken off again",
    "You took the bias off the sums again. What was rounded away when it was added does not come back: take the weights out of `scores`.",
    weigh=lambda scores, bias, experts: (scores + bias).gather(-1, experts) - bias[experts],
)
mistaken(
    "weights by softmax",
    "You took a softmax of the chosen scores. The weights are the scores as they are.",
    weigh=lambda scores, bias, experts: scores.gather(-1, experts).softmax(dim=-1),
)
mistaken(
    "no gradient",
    "The values are right, but no gradient reaches the scores: detach(), numpy or torch.no_grad() cuts it off. The router learns through the weights.",
    weigh=lambda scores, bias, experts: scores.detach().gather(-1, experts),
)
mistaken(
    "the wrong way",
    "You lowered the bias of experts that were chosen too rarely. Raise it: they should be chosen more often.",
    missing=lambda counts, experts, scores: torch.sign(counts - counts.mean()),
)
mistaken(
    "in proportion",
    "You moved the bias in proportion to what is missing. Only the sign counts: every step has the size of rate.",
    missing=lambda counts, experts, scores: counts.mean() - counts,
)
mistaken(
    "in proportion to the share",
    "You moved the bias in proportion to what is missing, as a share. Only the sign counts: every step has the size of rate.",
    missing=lambda counts, experts, scores: 1 - counts / counts.mean(),
)
mistaken(
    "first choices only",
    "You counted only the first choice of each token. All k count: an expert works for all of them.",
    missing=lambda counts, experts, scores: torch.sign(
        experts[:, 0].bincount(minlength=len(counts)).float().mean() - experts[:, 0].bincount(minlength=len(counts))
    ),
)
mistaken(
    "median",
    "You compared the counts with their median. Compare with the mean: what each would have if all were chosen equally often.",
    missing=lambda counts, experts, scores: torch.sign(counts.median() - counts),
)
mistaken(
    "mean of those that were chosen",
    "You compared with the mean over the experts that were chosen. Those that nobody chose are experts too.",
    missing=lambda counts, experts, scores: torch.sign(counts[counts > 0].mean() - counts),
)
mistaken(
    "one for each token",
    "You compared the counts with tokens / E. Each token makes k choices: the mean is k times as large.",
    missing=lambda counts, experts, scores: torch.sign(len(experts) / len(counts) - counts),
)
mistaken(
    "weights instead of counts",
    "You compared the sums of weights. What is balanced is how often an expert is chosen, whatever its weight.",
    missing=lambda counts, experts, scores: torch.sign(
        (s := torch.zeros(len(counts)).index_add(0, experts.flatten(), scores.detach().gather(-1, experts).flatten())).mean()
        - s
    ).detach(),
)
mistaken(
    "up where nothing is missing",
    "You raised the bias of experts that were chosen exactly as often as the mean. They keep it: sign(0) is 0.",
    missing=lambda counts, experts, scores: torch.where(counts > counts.mean(), -1.0, 1.0),
)
mistaken(
    "down where nothing is missing",
    "You lowered the bias of experts that were chosen exactly as often as the mean. They keep it: sign(0) is 0.",
    missing=lambda counts, experts, scores: torch.where(counts < counts.mean(), 1.0, -1.0),
)
mistaken(
    "only upwards",
    "You raised what was chosen too rarely and left alone what was chosen too often. Those step down by rate.",
    missing=lambda counts, experts, scores: (counts < counts.mean()).float(),
)
mistaken(
    "centred",
    "You took the mean off the new bias. A constant in it changes no choice, but nothing said so: each moves by rate, or not at all.",
    move=lambda bias, rate, step: bias + rate * step - (bias + rate * step).mean(),
)
mistaken(
    "held above 0",
    "You cut the bias off at 0 or some other limit. It may be negative, and of any size.",
    move=lambda bias, rate, step: (bias + rate * step).clamp(min=0),
)
mistaken(
    "the step alone",
    "You return the step, not the new bias. Add it to the bias that you were given.",
    move=lambda bias, rate, step: rate * step,
)
mistaken(
    "in place",
    "The result is right, but you changed the bias that you were given: `bias += ...` does. Return a new tensor.",
    move=lambda bias, rate, step: bias.add_(rate * step),
)
mistaken("a rate of its own", "If rate is left out it is 0.001, as in the first line that you were given.", default=0.01)


@mistakes(
    "moved first",
    "You moved the bias before you chose. The batch is routed with the bias as it is; what it shows is for the next one.",
)
def _(scores, bias, k, rate=0.001):
    counts = choice(scores, bias, k).flatten().bincount(minlength=len(bias)).float()
    moved = bias + rate * torch.sign(counts.mean() - counts)
    experts = choice(scores, moved, k)
    return experts, scores.gather(-1, experts), moved
