"""Unit 09: subtle mistakes are rejected."""

import pytest
import torch
from worked import first_difference

from autograder.exercises import find
from autograder.exercises.training_the_router import variants

COUNTS = ("sum", "mean", "first")


def balancing(known=lambda count: count in COUNTS, counts=lambda probs, experts: torch.ones_like(experts, dtype=torch.bool)):
    """The load-balancing loss of whoever knows these names, and counts these choices."""

    def answer(probs, experts, count="sum", mask=None):
        if not known(count):
            raise ValueError(count)
        count = "sum" if count not in COUNTS else count
        votes = torch.zeros_like(probs).scatter(1, experts, counts(probs, experts).to(probs.dtype))
        if count == "first":
            votes = torch.zeros_like(probs).scatter(1, experts[:, :1], 1.0)
        mask = torch.ones(len(probs), dtype=torch.bool) if mask is None else mask
        f = votes[mask].mean(dim=0) / (experts.shape[1] if count == "mean" else 1)
        return probs.shape[1] * (f * probs[mask].mean(dim=0)).sum()

    return answer


def biased(choose=lambda sums: sums, step=lambda missing: missing.sign(), limit=1e9, least=0.0):
    """Who chooses by something else than the sums, steps otherwise, or holds bias or scores within limits."""

    def answer(scores, bias, k, rate=0.001):
        experts = choose(scores + bias).topk(k, dim=-1).indices
        counts = experts.flatten().bincount(minlength=len(bias)).float()
        moved = (bias + rate * step(counts.mean() - counts)).clamp(-limit, limit)
        return experts, scores.gather(-1, experts).clamp(min=least), moved

    return answer


def drawing(far=lambda ratio, z, best, eps: ratio > 2 * eps, out=-torch.inf, heard=lambda noise: noise):
    def answer(logits, noise, eps, taken=None):
        left = variants.without(logits, taken)
        best = left.amax(dim=-1, keepdim=True)
        masked = left.masked_fill(far((best - logits) / logits.abs().maximum(best), left, best, eps), out)
        return (masked if noise is None else masked - heard(noise).log()).argmax(dim=-1), masked.softmax(dim=-1)

    return answer


def mixed(above):
    return lambda *args: variants.mix(*args, small=0.5, above=above, factor=2.0)


def nearly_minus_infinity(logits, noise, coin, eps):
    """The expert that was chosen first has a logit of -10,000."""
    found, z = [], logits
    for j in range(2):
        of_choice = (None, None) if noise is None else (noise[j], coin[j])
        found.append(variants.mix(z, *of_choice, eps, small=1 / 3, above=0.75, factor=1.0))
        z = logits.scatter(-1, found[0][0][:, None], -1e4)
    experts, weights = zip(*found, strict=True)
    return torch.stack(experts, dim=1), torch.stack(weights, dim=1)


def z_loss_clamped(logits, mask=None):
    logits = logits if mask is None else logits[mask]
    return logits.clamp(min=-1000).logsumexp(dim=-1).square().mean()


SUBTLE = {
    "a name within a text": ("balance", balancing(known=lambda count: count in "sum mean first")),
    "a name in capitals": ("balance", balancing(known=lambda count: count.lower() in COUNTS)),
    "None for the default": ("balance", balancing(known=lambda count: count is None or count in COUNTS)),
    "counts where there is a probability": (
        "balance",
        balancing(counts=lambda probs, experts: probs.gather(1, experts) > 1e-5),
    ),
    "logits held above -1000": ("z_loss", z_loss_clamped),
    "the sums in half precision": ("bias", biased(choose=torch.Tensor.half)),
    "no step near the mean": ("bias", biased(step=lambda missing: missing.sign() * (missing.abs() > 1))),
    "a bias of 100 at most": ("bias", biased(limit=100.0)),
    "a score of 1e-6 at least": ("bias", biased(least=1e-6)),
    "no rate of 0": ("bias", lambda scores, bias, k, rate=None: biased()(scores, bias, k, rate or 0.001)),
    "out at the limit, but for the best": (
        "draw",
        drawing(far=lambda ratio, z, best, eps: (ratio >= 2 * eps) & (z < best)),
    ),
    "-10,000 for those that are out": ("draw", drawing(out=-1e4)),
    "noise held above 0.01": ("draw", drawing(heard=lambda noise: noise.clamp(min=0.01))),
    "noise held below 3": ("draw", drawing(heard=lambda noise: noise.clamp(max=3))),
    "expert 0 cannot be taken": (
        "draw",
        lambda logits, noise, eps, taken=None: drawing()(
            logits, noise, eps, taken if taken is not None and taken.any() else None
        ),
    ),
    "a coin just above the limit": ("v1", mixed(0.501)),
    "-10,000 for the first": ("v2", nearly_minus_infinity),
}


@pytest.mark.parametrize("seed", ["public", "a secret"])
@pytest.mark.parametrize("name", SUBTLE)
def test_subtle_mistakes_are_rejected(name, seed):
    id, wrong = SUBTLE[name]
    assert first_difference(find(f"training_the_router.{id}"), wrong, seed) is not None


def test_without_their_faults_they_are_right():
    rights = {"balance": balancing(), "bias": biased(), "draw": drawing(), "v1": mixed(0.5)}
    for id, answer in rights.items():
        assert first_difference(find(f"training_the_router.{id}"), answer) is None
