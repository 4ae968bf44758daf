"""Losses against transformers' and against sums written out; noise against the draws that others make."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func as mixtrals
from transformers.models.switch_transformers.modeling_switch_transformers import load_balancing_loss_func as switchs
from transformers.models.switch_transformers.modeling_switch_transformers import router_z_loss_func

from sparsity_edu.experts.losses import bias_update, jitter, load_balancing, noisy_logits, z_loss
from sparsity_edu.experts.routing import group_limited


def logits(*shape, seed=0, scale=2.0):
    """Unbalanced: later experts are chosen more often."""
    z = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (z + torch.linspace(0, 2, shape[-1])).requires_grad_()


def same(mine, theirs, of):
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    a, b = (torch.autograd.grad(loss, of, retain_graph=True)[0] for loss in (mine, theirs))
    assert b.abs().max() > 1e-4
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_mixtral(k, padded):
    z = logits(3, 11, 6)
    mask = torch.arange(11) < torch.tensor([[11], [7], [4]]) if padded else None
    p = z.softmax(-1)
    theirs = mixtrals((z.flatten(0, 1),), 6, k, None if mask is None else mask.long())
    same(load_balancing(p, p.topk(k).indices, mask=mask), theirs, z)


def test_transformers_joins_the_layers_and_does_not_see_that_each_is_collapsed():
    z = torch.full((2, 40, 4), -30.0)  # layers, tokens, experts
    z[0, :, :2], z[1, :, 2:] = 30, 30  # each layer uses two experts of its own for everything
    joined = load_balancing(z.softmax(-1), z.topk(2).indices)
    torch.testing.assert_close(joined, mixtrals((z[0], z[1]), 4, 2))
    assert joined.item() == pytest.approx(2)  # as if balanced
    layers = [load_balancing(layer.softmax(-1), layer.topk(2).indices).item() for layer in z]
    assert layers == pytest.approx([4, 4])


def test_equals_switch_in_each_sequence():
    z = logits(3, 11, 6)
    p = z.softmax(-1)
    choice = p.argmax(-1)
    same(load_balancing(p, choice[..., None], per="group"), switchs(p, choice), z)
    assert load_balancing(p, choice[..., None]) < 0.99 * load_balancing(p, choice[..., None], per="group")


def by_hand(p, experts, counted, mask):
    """One group, a token at a time."""
    E, n = p.shape[-1], int(mask.sum())
    f, P = torch.zeros(E), torch.zeros(E)
    for t in range(len(p)):
        if mask[t]:
            for e in experts[t, :counted].tolist():
                f[e] += 1 / n
            P = P + p[t] / n
    return E * (f * P).sum()


@pytest.mark.parametrize("per", ["all", "group"])
def test_what_is_counted(per):
    z = logits(3, 11, 6)
    mask = torch.arange(11) < torch.tensor([[11], [7], [4]])
    p = z.softmax(-1)
    experts = p.topk(2).indices

    def expected(counted):
        if per == "all":
            return by_hand(p.flatten(0, 1), experts.flatten(0, 1), counted, mask.flatten())
        return sum(by_hand(*group, counted, real) for *group, real in zip(p, experts, mask, strict=True)) / 3

    same(load_balancing(p, experts, count="sum", per=per, mask=mask), expected(2), z)
    same(load_balancing(p, experts, count="mean", per=per, mask=mask), expected(2) / 2, z)
    same(load_balancing(p, experts, count="first", per=per, mask=mask), expected(1), z)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_balance_costs_the_same_whatever_the_probabilities(k, turns, seed):
    E, tokens = 4, 4 * turns
    experts = (torch.arange(tokens)[:, None] + torch.arange(k)) % E  # each expert as often as the others
    p = torch.rand(tokens, E, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    assert load_balancing(p, experts).item() == pytest.approx(k)
    assert load_balancing(p, experts, count="mean").item() == pytest.approx(1)
    assert load_balancing(p, experts, count="first").item() == pytest.approx(1)
    collapsed = torch.zeros(tokens, E).index_fill(1, torch.arange(k), 1 / k)
    assert load_balancing(collapsed, torch.arange(k).expand(tokens, k)).item() == pytest.approx(E)


def test_padding_may_hold_anything_and_a_group_of_it_has_no_say():
    z = logits(3, 5, 4).detach()
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [False] * 5])
    z[~mask] = torch.nan
    z.requires_grad_()
    p = z.softmax(-1)
    experts = p.nan_to_num().topk(2).indices
    for per in ("all", "group"):
        loss = load_balancing(p, experts, per=per, mask=mask)
        expected = load_balancing(p[:2].nan_to_num(), experts[:2], per=per, mask=mask[:2])
        torch.testing.assert_close(loss, expected)
    for padding in ("leave out", "zero logits"):
        loss = z_loss(z, mask=mask, padding=padding)
        [gradient] = torch.autograd.grad(loss, z)
        assert (gradient[~mask] == 0).all()
        assert (gradient[mask] != 0).any()
    nothing = torch.zeros_like(mask)
    assert load_balancing(p, experts, mask=nothing) == 0
    assert z_loss(z, mask=nothing) == 0


def test_half_precision_is_summed_in_float32():
    z = logits(1, 4000, 4).detach().bfloat16()
    assert z_loss(z).dtype == torch.float32
    torch.testing.assert_close(z_loss(z), z_loss(z.float()))
    p = z.softmax(-1)
    torch.testing.assert_close(load_balancing(p, p.topk(1).indices), load_balancing(p.float(), p.topk(1).indices))


# z-loss


def test_z_loss_equals_transformers_and_a_sum():
    z = logits(3, 11, 6)
    same(z_loss(z), router_z_loss_func(z), z)
    same(z_loss(z), (z.exp().sum(-1).log() ** 2).sum() / 33, z)
    assert z_loss(z.log_softmax(-1)).abs() < 1e-10  # of log-probabilities it says nothing


def test_z_loss_of_padding():
    z = logits(3, 11, 6)
    mask = torch.arange(11) < torch.tensor([[11], [7], [4]])
    squares = z.exp().sum(-1).log() ** 2
    same(z_loss(z, mask=mask), squares[mask].sum() / 22, z)
    same(z_loss(z, mask=mask, padding="zero logits"), (squares[mask].sum() + 11 * math.log(6) ** 2) / 33, z)


# Noise


def test_jitter_is_the_uniform_factor_that_others_draw():
    x = torch.randn(4, 7, 5)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(3))
    theirs = torch.empty_like(x).uniform_(0.9, 1.1, generator=torch.Generator().manual_seed(3))
    kept = x.clone()
    torch.testing.assert_close(jitter(x, noise, 0.1), x * theirs)
    assert torch.equal(x, kept)
    assert jitter(x, None, 0.1) is x
    assert jitter(x.bfloat16(), noise).dtype == torch.bfloat16
    ends = jitter(torch.ones(2), torch.tensor([0.0, 1.0]), 0.25)
    assert ends.tolist() == [0.75, 1.25]


def test_learned_noise():
    z, size = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, -1.0]], requires_grad=True)
    noise = torch.tensor([[2.0, -3.0]])
    noisy = noisy_logits(z, size, noise)
    expected = torch.tensor([[1 + 2 * math.log(2), 2 - 3 * math.log(1 + math.exp(-1))]])
    torch.testing.assert_close(noisy, expected)
    torch.testing.assert_close(torch.autograd.grad(noisy.sum(), size)[0], noise * size.sigmoid())
    assert noisy_logits(z, size, None) is z


# The bias


def test_bias_steps_towards_balance_by_hand():
    bias = torch.tensor([0.5, 0.0, -0.5, 0.1])
    kept = bias.clone()
    new = bias_update(bias, torch.tensor([10, 2, 0, 4]), rate=0.01)  # mean 4
    torch.testing.assert_close(new, torch.tensor([0.49, 0.01, -0.49, 0.1]))
    assert torch.equal(bias, kept)


def test_bias_balances_a_router_that_is_never_trained():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(512, 8, generator=generator) + torch.linspace(0, 1.5, 8)

    def shares(bias):
        return group_limited(z, 2, bias=bias).experts.flatten().bincount(minlength=8) / 1024

    bias = torch.zeros(8)
    assert shares(bias).max() > 2 / 8
    for _ in range(600):
        bias = bias_update(bias, shares(bias), rate=1e-3)
    assert shares(bias).max() < 1.1 / 8
    assert shares(bias).min() > 0.9 / 8
    weights = group_limited(z, 2, bias=bias).weights
    chosen = group_limited(z, 2, bias=bias).experts
    torch.testing.assert_close(weights, F.normalize(z.sigmoid().gather(-1, chosen), p=1, dim=-1))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda z: load_balancing(z, z.long(), count="all"), 'count must be "sum" or "mean" or "first", got \'all\''),
        (lambda z: load_balancing(z, z.long(), per="token"), "per must be"),
        (lambda z: load_balancing(z, z[:2].long()), r"got shapes \(3, 4\) and \(2, 4\)"),
        (lambda z: load_balancing(z, z.long(), mask=torch.ones(3)), "mask must be boolean of shape .3,., got torch.float32"),
        (lambda z: z_loss(z, mask=torch.ones(2, dtype=torch.bool)), "mask must be boolean of shape"),
        (lambda z: z_loss(z, padding="ignore"), "padding must be"),
        (lambda z: jitter(z, z[:2]), r"noise must have the shape of x, \(3, 4\), got \(2, 4\)"),
        (lambda z: jitter(z, z, eps=1.0), r"eps must be in \[0, 1\), got 1.0"),
        (lambda z: noisy_logits(z, z[0], z), "noise_logits must have the shape of logits"),
        (lambda z: bias_update(z[0], z[:, 0]), "counts must have the shape of bias"),
    ],
)
def test_refuses(call, says):
    with pytest.raises(ValueError, match=says):
        call(torch.zeros(3, 4))
