"""Labels, predictor, loss and training as in the authors' code."""

import copy

import pytest
import torch
from authors import dejavu_head_labels, dejavu_train
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsity_edu.activations.labels import active_heads, active_neurons, chosen
from sparsity_edu.activations.predictor import Predictor, evaluate, quality, train, train_epoch, weighted_loss


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learnable(tokens=600, inputs=12, units=30, rank=4, seed=0):
    """States, and labels that a predictor of that rank tells from them; a fifth of them True."""
    x = some(tokens, inputs, seed=seed)
    scores = x @ some(inputs, rank, seed=seed + 1) @ some(rank, units, seed=seed + 2)
    return x, scores > scores.quantile(0.8, dim=1, keepdim=True)


def test_neurons_that_are_not_zero():
    x = torch.tensor([[0.5, -1.0, 0.0], [0.0, 2.0, 1e-9]])
    assert active_neurons(x).tolist() == [[True, False, False], [False, True, True]]
    assert active_neurons(x.relu()).tolist() == active_neurons(x).tolist()
    assert active_neurons(x, 0.34).tolist() == [[False, True, False], [False, True, False]]


@given(st.integers(1, 9), st.sampled_from([0.3, 0.5, 0.7, 1.0]), st.integers(0, 20))
def test_heads_with_the_largest_outputs(heads, share, seed):
    out = some(4, heads, 5, seed=seed)
    if int(heads * share) < 1:
        with pytest.raises(ValueError, match="share must be of"):
            active_heads(out, share)
        return
    assert torch.equal(active_heads(out, share).float(), dejavu_head_labels(out.flatten(1), heads, share))


def test_the_k_best_of_each_token():
    scores = torch.tensor([[-3.0, -1.0, -2.0, -9.0], [4.0, 5.0, 6.0, 7.0]])  # none exceeds 0 in the first, all in the second
    assert chosen(scores, 2).tolist() == [[False, True, True, False], [False, False, True, True]]
    assert chosen(scores, 9).all()
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        chosen(scores, 0)
    for share in (0, 1.5, 0.2):
        with pytest.raises(ValueError, match=r"share must be of \(0, 1\] and leave at least one of 4"):
            active_neurons(scores, share)


def test_a_predictor_is_a_matrix_of_low_rank():
    predictor, x = Predictor(12, 3, 30), some(5, 12)
    W = predictor.up.weight @ predictor.down.weight
    torch.testing.assert_close(predictor(x), x @ W.T)
    torch.testing.assert_close(predictor(-x), -predictor(x))
    assert sum(p.numel() for p in predictor.parameters()) == 3 * (12 + 30)


@pytest.mark.parametrize("extra", [0.0, 0.005])
def test_loss_and_gradient(extra):
    z, y = some(7, 9).double().requires_grad_(), some(7, 9, seed=1) > 0.9
    w = float(y.double().mean()) + extra
    p = z.sigmoid()
    expected = -(y * p.log() + w * ~y * (1 - p).log()).sum() / z.numel()
    loss = weighted_loss(z, y, extra)
    torch.testing.assert_close(loss, expected)
    (got,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(got, (torch.where(y, p - 1, w * p) / z.numel()).detach())
    assert weighted_loss(torch.full((2, 2), 200.0), torch.zeros(2, 2, dtype=torch.bool), 0.5) == pytest.approx(100)


@pytest.mark.parametrize(("extra", "lr"), [(0.0, 1e-2), (0.005, 1e-3)])
def test_epochs_are_the_authors(extra, lr):
    x, y = learnable()
    torch.manual_seed(3)
    theirs = Predictor(12, 5, 30)
    ours = copy.deepcopy(theirs)
    batches = [(x[i : i + 64], y[i : i + 64]) for i in range(0, 512, 64)]
    expected = dejavu_train(theirs, batches, (x[512:], y[512:]), lr, extra, 3)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=lr, weight_decay=0.01)
    got = [evaluate(ours, x[512:], y[512:], extra)]
    for epoch in range(3):
        train_epoch(ours, optimizer, batches, extra)
        got.append(evaluate(ours, x[512:], y[512:], extra, epoch))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    for mine, stated in zip(got, expected, strict=True):
        assert mine.loss == pytest.approx(stated["Loss"], rel=1e-5)
        assert mine.recall == pytest.approx(stated["Recall"], rel=1e-5)
        assert (1 - mine.sparsity) * 30 == pytest.approx(stated["Classifier Sparsity"], rel=1e-5)
        assert (1 - mine.true_sparsity) * 30 == pytest.approx(stated["True Sparsity"], rel=1e-5)


def test_recall_is_not_accuracy():
    said = torch.tensor([[True, True, False, False, False]])
    needed = torch.tensor([[True, False, True, True, False]])
    assert quality(said, needed)[1:5] == pytest.approx((1 / 3, 1 / 2, 3 / 5, 2 / 5))
    nothing = torch.zeros(1, 5, dtype=torch.bool)
    assert quality(nothing, nothing)[1:5] == (1.0, 1.0, 1.0, 1.0)


def test_training_learns_what_can_be_told_and_keeps_the_best():
    x, y = learnable(2000)
    torch.manual_seed(0)
    predictor = Predictor(12, 6, 30)
    curve = train(predictor, x, y, torch.Generator().manual_seed(1), rate=1e-2, epochs=15, batch=128)
    assert curve[0].recall < 0.7
    best = max(point.recall for point in curve)
    assert best > 0.9
    held_out = torch.randperm(2000, generator=torch.Generator().manual_seed(1))[:100]
    assert evaluate(predictor, x[held_out], y[held_out]).recall == best
    assert quality(chosen(predictor(x), 6), y).precision > 0.8
    assert len(curve) == 16 or best > 0.99 or all(point.recall <= best for point in curve[-5:])


def test_training_stops_without_gain():
    x, y = some(100, 4), some(100, 3, seed=1) > 0
    always = nn.Linear(4, 3)
    with torch.no_grad():
        always.weight.zero_()
        always.bias.fill_(50.0)  # says yes to everything: its recall is 1 from the start
    before = copy.deepcopy(always.state_dict())
    curve = train(always, x, y, torch.Generator().manual_seed(0), rate=1e-6, select="recall")
    assert len(curve) == 2  # enough at once
    assert curve[0].recall == 1
    assert curve[0].sparsity == 0
    assert all(torch.equal(before[name], value) for name, value in always.state_dict().items())
    torch.manual_seed(0)
    hopeless = Predictor(4, 2, 3)
    by_loss = train(hopeless, x, y, torch.Generator().manual_seed(0), rate=1.0, epochs=50, select="loss")
    assert 6 <= len(by_loss) < 51
    for arguments, sentence in (
        ((x[:19], y[:19]), "at least 20, got 19 and 19"),
        ((x, y[:50]), "of the same tokens, at least 20, got 100 and 50"),
    ):
        with pytest.raises(ValueError, match=sentence):
            train(hopeless, *arguments, torch.Generator())
    with pytest.raises(ValueError, match="select must be recall or loss, got 'accuracy'"):
        train(hopeless, x, y, torch.Generator(), select="accuracy")
