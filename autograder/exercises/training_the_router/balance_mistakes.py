"""Mistakes of exercise 9.2, and the loss that they vary."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()
COUNTS = ("sum", "mean", "first")


def votes(probs: Tensor, experts: Tensor, count: str) -> Tensor:
    """(tokens, E): what each token adds to f, before it is divided by the tokens."""
    E, k = probs.shape[-1], experts.shape[1]
    chosen = experts[:, :1] if count == "first" else experts
    return F.one_hot(chosen, E).sum(dim=1).to(probs.dtype) / (k if count == "mean" else 1)


def product(f: Tensor, P: Tensor) -> Tensor:
    return len(f) * (f * P).sum()


def mistaken(name: str, says: str, of, default: str = "sum"):
    """A mistake in what becomes of real tokens: (probs, experts, count)."""

    def wrong(probs, experts, count=default, mask=None):
        if count not in COUNTS:
            raise ValueError(f"count must be sum, mean or first, got {count}")
        return of(probs, experts, count) if mask is None else of(probs[mask], experts[mask], count)

    mistakes(name, says)(wrong)


def loss(probs, experts, count):
    return product(votes(probs, experts, count).mean(dim=0), probs.mean(dim=0))


def of_f(name: str, says: str, f):
    """A mistake in f: (probs, experts, count) to (E,)."""
    mistaken(name, says, lambda probs, experts, count: product(f(probs, experts, count), probs.mean(dim=0)))


def of_P(name: str, says: str, P):
    mistaken(name, says, lambda probs, experts, count: product(votes(probs, experts, count).mean(dim=0), P(probs, experts)))


def chosen_only(probs, experts):
    return probs * F.one_hot(experts, probs.shape[1]).sum(dim=1)


mistaken(
    "E missing",
    "The factor E is missing: without it a balanced router has the loss 1 / E, and the coefficient depends on the number of experts.",
    lambda *of: loss(*of) / of[0].shape[1],
)
mistaken(
    "E squared with a sum",
    "You multiplied by E squared. That goes with a mean over experts, as in the code of Switch; with a sum the factor is E.",
    lambda *of: loss(*of) * of[0].shape[1],
)
of_f(
    "P times P",
    "You multiplied P with itself. One of the two is f, the share of tokens that were sent to the expert: it is what should be balanced.",
    lambda probs, experts, count: probs.mean(dim=0),
)
of_P(
    "f times f",
    "You multiplied f with itself. f is a count and has no gradient, so nothing would be learned: the other factor is P, the mean probability.",
    lambda probs, experts: F.one_hot(experts, probs.shape[1]).sum(dim=1).float().mean(dim=0),
)
of_f(
    "f from the weights",
    "You added up the probabilities of the chosen experts for f. f counts: 1 for a token that goes there, 0 for one that does not.",
    lambda probs, experts, count: chosen_only(probs, experts).mean(dim=0),
)
of_f(
    "f from renormalised weights",
    "You took the weights of the chosen experts, renormalised, for f. f counts: 1 for a token that goes there, whatever its weight.",
    lambda probs, experts, count: (
        chosen_only(probs, experts) / chosen_only(probs, experts).sum(dim=1, keepdim=True) * experts.shape[1]
    ).mean(dim=0),
)
of_P(
    "P of the chosen only",
    "You averaged only the probabilities of chosen experts. P takes the probabilities of all experts, chosen or not.",
    lambda probs, experts: chosen_only(probs, experts).mean(dim=0),
)
of_P(
    "softmax once more",
    "You took a softmax of the probabilities. They are probabilities already; once more makes them nearly equal, and the loss blind.",
    lambda probs, experts: probs.softmax(dim=-1).mean(dim=0),
)
of_P(
    "softmax over the tokens",
    "Your P is not the mean over tokens of each expert's probability: you normalised along the tokens.",
    lambda probs, experts: (probs / probs.sum(dim=0, keepdim=True)).mean(dim=0),
)
of_f(
    "likeliest experts counted",
    "You chose the most probable experts yourself. Count `experts`: a router that samples sends tokens elsewhere.",
    lambda probs, experts, count: votes(probs, probs.topk(experts.shape[1], dim=-1).indices, count).mean(dim=0),
)
of_f(
    "the likeliest expert counted",
    "You counted the most probable expert of each token. Count what is in `experts`, with all k choices.",
    lambda probs, experts, count: votes(probs, probs.argmax(dim=-1, keepdim=True), "sum").mean(dim=0),
)
mistaken(
    "summed over tokens",
    "You did not divide by the number of tokens: f and P are shares. Otherwise the loss grows with the batch, squared.",
    lambda *of: loss(*of) * len(of[0]) ** 2,
)
mistaken(
    "divided by the tokens once",
    "You divided only one of f and P by the number of tokens. Both are means over tokens.",
    lambda *of: loss(*of) * len(of[0]),
)
mistaken(
    "always the sum",
    'f is the same for you whatever `count` is. "mean" divides by k, "first" counts the first column of experts only.',
    lambda probs, experts, count: loss(probs, experts, "sum"),
)
mistaken(
    "always the mean",
    'You divided by k always. With "sum", the default, f adds up to k; only "mean" divides.',
    lambda probs, experts, count: loss(probs, experts, "mean" if count == "sum" else count),
)
mistaken(
    "always the first",
    'You counted only the first choice where all k count. That is "first"; the default is "sum".',
    lambda probs, experts, count: loss(probs, experts, "first"),
)
mistaken(
    "the last choice",
    'For "first" you counted the last column of experts. The best comes first: experts[:, 0].',
    lambda probs, experts, count: loss(probs, experts[:, -1:] if count == "first" else experts, count),
)
mistaken(
    "another default",
    'If count is left out it is "sum": `count: str = "sum"`, as in the first line that you were given.',
    loss,
    default="mean",
)
mistaken(
    "the first divided by k",
    'You divided by k for "first" too. It counts one choice per token, so f adds up to 1 already.',
    lambda probs, experts, count: loss(probs, experts, count) / (experts.shape[1] if count == "first" else 1),
)
mistaken(
    "entropy",
    "You computed the entropy of the mean probabilities. The loss is E times the sum of f_e P_e.",
    lambda probs, experts, count: -(probs.mean(dim=0) * probs.mean(dim=0).log()).sum(),
)
mistaken(
    "the coefficient of variation",
    "You computed the squared coefficient of variation, the importance loss of Shazeer et al. (2017). Here it is E times the sum of f_e P_e.",
    lambda probs, experts, count: probs.sum(dim=0).var(unbiased=False) / probs.sum(dim=0).mean() ** 2,
)
mistaken(
    "with the coefficient",
    "You multiplied by a coefficient such as 0.01. It comes later, where the losses are added.",
    lambda *of: 0.01 * loss(*of),
)
mistaken(
    "gradient through f",
    "You let a gradient through f, by a straight-through trick. f is a count and stays a constant; the router learns through P alone.",
    lambda probs, experts, count: product(
        (votes(probs, experts, count) + probs - probs.detach()).mean(dim=0), probs.mean(dim=0)
    ),
)
of_P(
    "no gradient",
    "The value is right, but no gradient reaches the probabilities: detach(), numpy, item() or torch.no_grad() cuts it off. P is what the router "
    "learns through.",
    lambda probs, experts: probs.detach().mean(dim=0),
)


@mistakes(
    "no error", "An unknown `count` must raise a ValueError: a typing error would otherwise choose a convention silently."
)
def _(probs, experts, count="sum", mask=None):
    if mask is not None:
        probs, experts = probs[mask], experts[mask]
    return loss(probs, experts, count)


def padded(name: str, says: str, of):
    """A mistake in what becomes of the mask: (probs, votes, mask) with all tokens."""

    def wrong(probs, experts, count="sum", mask=None):
        if count not in COUNTS:
            raise ValueError(count)
        mask = torch.ones(len(probs), dtype=torch.bool) if mask is None else mask
        return of(probs, votes(probs, experts, count), mask)

    mistakes(name, says)(wrong)


padded(
    "padding counts",
    "You ignore the mask. Padding is routed like any token, and all of it alike, so it looks like an expert that is overrun: leave it out.",
    lambda probs, votes, mask: product(votes.mean(dim=0), probs.mean(dim=0)),
)
padded(
    "padding in the denominators",
    "You left padding out of the sums but divided by all tokens. Divide by the number of real ones.",
    lambda probs, votes, mask: product((votes * mask[:, None]).mean(dim=0), (probs * mask[:, None]).mean(dim=0)),
)
padded(
    "padding in the denominator of P",
    "Your f is right, but P is divided by all tokens: `.mean()` counts the rows that you set to 0. Divide by the number of real ones.",
    lambda probs, votes, mask: product(votes[mask].mean(dim=0), (probs * mask[:, None]).mean(dim=0)),
)
padded(
    "padding in P",
    "You left padding out of f but not out of P. Both are about real tokens.",
    lambda probs, votes, mask: product(votes[mask].mean(dim=0), probs.mean(dim=0)),
)
padded(
    "padding in f",
    "You left padding out of P but not out of f. Both are about real tokens.",
    lambda probs, votes, mask: product(votes.mean(dim=0), probs[mask].mean(dim=0)),
)
padded(
    "real tokens taken for padding",
    "You left the real tokens out and kept the padding: mask is True for real tokens.",
    lambda probs, votes, mask: product(*(part[~mask if (~mask).any() else mask].mean(dim=0) for part in (votes, probs))),
)


@mistakes(
    "probabilities changed",
    "The loss is right, but you set the probabilities of padding to 0 in the tensor that you were given. Work on a copy.",
)
def _(probs, experts, count="sum", mask=None):
    if count not in COUNTS:
        raise ValueError(count)
    if mask is None:
        return loss(probs, experts, count)
    probs.data[~mask] = 0
    return loss(probs[mask], experts[mask], count)


@mistakes(
    "experts that were chosen only",
    "You took the number of experts from `experts`. Some may never have been chosen: E is the number of columns of probs.",
)
def _(probs, experts, count="sum", mask=None):
    if count not in COUNTS:
        raise ValueError(count)
    if mask is not None:
        probs, experts = probs[mask], experts[mask]
    E = int(experts.max()) + 1
    return E * (votes(probs, experts, count).mean(dim=0) * probs.mean(dim=0))[:E].sum()
