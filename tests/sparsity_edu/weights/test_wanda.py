"""Wanda against the authors' code line by line."""

import published
import pytest
import torch
from layers import layer

from sparsity_edu.weights import wanda

SETTINGS = [
    ({"sparsity": 0.45}, {"sparsity_ratio": 0.45}),
    ({"sparsity": 0.8}, {"sparsity_ratio": 0.8}),
    ({"pattern": "2:4"}, {"sparsity_ratio": 0.5, "prune_n": 2, "prune_m": 4}),
    ({"pattern": "1:4"}, {"sparsity_ratio": 0.75, "prune_n": 3, "prune_m": 4}),
    ({"pattern": "3:4"}, {"sparsity_ratio": 0.25, "prune_n": 1, "prune_m": 4}),
    ({"sparsity": 0.5, "variant": True}, {"sparsity_ratio": 0.5, "use_variant": True}),
    ({"sparsity": 0.7, "variant": True}, {"sparsity_ratio": 0.7, "use_variant": True}),
]


@pytest.fixture(scope="module")
def fixture():
    W, batches = layer(rows=37, cols=52, dead=())
    inputs, authors = wanda.InputNorm(52), published.WrappedGPT(W)
    for X in batches:
        inputs.add(X)
        authors.add_batch(X)
    return W, batches, inputs.norm, authors


@pytest.mark.parametrize(("ours", "theirs"), SETTINGS, ids=lambda setting: str(setting))
def test_equals_the_authors_code(fixture, ours, theirs):
    W, _, norm, authors = fixture
    assert torch.equal(wanda.prune(W, norm, **ours), authors.prune(**theirs))


def test_norm_is_over_all_tokens_in_any_batches(fixture):
    _, batches, norm, _ = fixture
    x = torch.cat([X.flatten(0, 1) for X in batches])
    torch.testing.assert_close(norm, x.norm(dim=0) / 6**0.5)  # six sequences
    one = wanda.InputNorm(52)
    for sequence in torch.cat(batches):
        one.add(sequence)
    torch.testing.assert_close(one.norm, norm)


def test_dead_inputs_go_first_and_the_earliest_of_them():
    W, batches = layer(rows=11, cols=20, dead=(2, 7, 11))
    inputs = wanda.InputNorm(20)
    for X in batches:
        inputs.add(X)
    authors = published.WrappedGPT(W)
    for X in batches:
        authors.add_batch(X)
    for sparsity in (0.1, 0.15, 0.5):
        pruned = wanda.prune(W, inputs.norm, sparsity)
        assert torch.equal(pruned, authors.prune(sparsity))
        assert (pruned[:, 2] == 0).all()


def test_scaling_an_input_and_its_weights_inversely_changes_no_mask(fixture):
    W, _, norm, _ = fixture
    s = 2.0 ** torch.arange(52).remainder(7)
    assert torch.equal(wanda.prune(W / s, norm * s, 0.5) == 0, wanda.prune(W, norm, 0.5) == 0)


def test_rows_and_layer_compete_differently(fixture):
    W, _, norm, _ = fixture
    assert set((wanda.prune(W, norm, 0.45) == 0).sum(dim=1).tolist()) == {23}
    layerwise = wanda.prune(W, norm, 0.45, per="layer")
    assert int((layerwise == 0).sum()) == int(0.45 * W.numel())
    assert len(set((layerwise == 0).sum(dim=1).tolist())) > 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "either sparsity or pattern"),
        ({"sparsity": 1}, r"sparsity must be in \[0, 1\)"),
        ({"sparsity": 0, "variant": True}, r"sparsity must be in \(0, 1\) for the variant"),
        ({"pattern": "2 of 4"}, 'pattern must be "n:m"'),
        ({"sparsity": 0.5, "per": "column"}, "per must be"),
    ],
)
def test_refuses(fixture, arguments, says):
    W, _, norm, _ = fixture
    with pytest.raises(ValueError, match=says):
        wanda.prune(W, norm, **arguments)


def test_shapes_are_named(fixture):
    W, _, norm, _ = fixture
    with pytest.raises(ValueError, match=r"got shapes \(52, 37\) and \(52,\)"):
        wanda.score(W.T, norm)
