"""The objectives of 1991 against sums written out, their gradients, and what they make of the vowels."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsity_edu.data import vowels
from sparsity_edu.experts.adaptive import (
    AdaptiveMixture,
    competing,
    cooperating,
    expected,
    mean_answer,
    responsibilities,
)


@pytest.fixture
def made():
    generator = torch.Generator().manual_seed(0)
    shapes = ((7, 4, 3), (7, 4), (7, 3))  # outputs, gate logits, target
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def test_equals_sums_over_samples_and_experts(made):
    outputs, z, target = made
    for s in range(7):
        p = [math.exp(v) / sum(math.exp(u) for u in z[s].tolist()) for v in z[s].tolist()]
        errors = [((target[s] - outputs[s, i]) ** 2).sum().item() for i in range(4)]
        mean = sum(p[i] * outputs[s, i] for i in range(4))
        assert cooperating(*made)[s].item() == pytest.approx(((target[s] - mean) ** 2).sum().item())
        assert expected(*made)[s].item() == pytest.approx(sum(a * b for a, b in zip(p, errors, strict=True)))
        joint = [a * math.exp(-b / 2) for a, b in zip(p, errors, strict=True)]
        assert competing(*made)[s].item() == pytest.approx(-math.log(sum(joint)))
        assert responsibilities(*made)[s].tolist() == pytest.approx([a / sum(joint) for a in joint])


def test_each_expert_is_taught_as_far_as_it_is_responsible(made):
    outputs, z, target = made
    by_outputs, by_gate = torch.autograd.grad(competing(*made).sum(), (outputs, z))
    h = responsibilities(*made)
    torch.testing.assert_close(by_outputs, -h[..., None] * (target[:, None] - outputs))
    torch.testing.assert_close(by_gate, z.softmax(-1) - h)

    p = z.softmax(-1)[..., None]  # as far as it is likely, by its own error
    torch.testing.assert_close(torch.autograd.grad(expected(*made).sum(), outputs)[0], -2 * p * (target[:, None] - outputs))
    # cooperating: by the error of all together
    torch.testing.assert_close(
        torch.autograd.grad(cooperating(*made).sum(), outputs)[0], -2 * p * (target - mean_answer(outputs, z))[:, None]
    )


def test_far_from_every_expert_nothing_overflows(made):
    outputs, z, target = made
    loss = competing(outputs, z, target + 1e4)
    assert loss.isfinite().all()
    assert torch.autograd.grad(loss.sum(), outputs)[0].isfinite().all()


def test_competing_experts_split_the_vowels():
    """Two of four linear experts are left, each for one of the two pairs of vowels, and the gate hardly ever hesitates."""
    data = vowels()
    mean, std = data.train_inputs.mean(0), data.train_inputs.std(0)
    x, target = (data.train_inputs - mean) / std, F.one_hot(data.train_labels, 4).float()
    torch.manual_seed(0)
    mixture = AdaptiveMixture(2, 4, lambda: nn.Linear(2, 4))
    optimizer = torch.optim.SGD(mixture.parameters(), lr=0.1, momentum=0.9)
    for _ in range(800):
        optimizer.zero_grad()
        competing(*mixture(x), target).mean().backward()
        optimizer.step()
    with torch.no_grad():
        outputs, z = mixture((data.test_inputs - mean) / std)
    expert = z.argmax(-1)
    assert z.softmax(-1).max(-1).values.mean() > 0.9
    of_pair = [set(expert[(data.test_labels // 2) == pair].tolist()) for pair in (0, 1)]  # i and ɪ; ɑ and ʌ
    assert [len(experts) for experts in of_pair] == [1, 1]
    assert of_pair[0] != of_pair[1]
    right = mean_answer(outputs, z).argmax(-1) == data.test_labels
    assert right.float().mean() > 0.85


def test_shapes_are_named(made):
    outputs, z, target = made
    with pytest.raises(ValueError, match=r"target \(samples, out\), got \(7, 4, 3\), \(7, 4\) and \(7, 2\)"):
        competing(outputs, z, target[:, :2])
    with pytest.raises(ValueError, match=r"gate_logits \(samples, E\)"):
        expected(outputs, z[:, :3], target)
