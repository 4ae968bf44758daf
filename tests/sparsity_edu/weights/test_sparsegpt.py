"""SparseGPT against the authors' algorithm line by line, and against what the mathematics promises."""

import published
import pytest
import torch
from layers import COLS, DEAD, layer

from sparsity_edu.weights import sparsegpt

SETTINGS = [  # ours, and the authors': they count zeros
    ({"sparsity": 0.5}, {"sparsity": 0.5}),
    ({"sparsity": 0.83}, {"sparsity": 0.83}),
    ({"sparsity": 0.0}, {"sparsity": 0.0}),
    ({"pattern": "2:4"}, {"sparsity": 0, "prunen": 2, "prunem": 4}),
    ({"pattern": "1:4"}, {"sparsity": 0, "prunen": 3, "prunem": 4}),
    ({"pattern": "3:4"}, {"sparsity": 0, "prunen": 1, "prunem": 4}),
    ({"sparsity": 0.5, "damping": 0.1}, {"sparsity": 0.5, "percdamp": 0.1}),
    ({"sparsity": 0.5, "block_size": 64}, {"sparsity": 0.5, "blocksize": 64}),
]


@pytest.fixture(scope="module")
def fixture():
    W, batches = layer()
    H, authors = sparsegpt.Hessian(COLS), published.SparseGPT(W)
    for X in batches:
        H.add(X)
        authors.add_batch(X)
    return W, batches, H.H, authors


@pytest.mark.parametrize(("ours", "theirs"), SETTINGS, ids=lambda setting: str(setting))
def test_equals_the_authors_algorithm(fixture, ours, theirs):
    W, _, H, authors = fixture
    got, want = sparsegpt.prune(W, H, **ours), authors.fasterprune(**theirs)
    assert torch.equal(got == 0, want == 0)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cols", [24, 128, 160, 257])
def test_equals_the_authors_algorithm_at_other_widths(cols):
    W, batches = layer(rows=17, cols=cols, dead=(5,))
    authors, H = published.SparseGPT(W), sparsegpt.Hessian(cols)
    for X in batches:
        authors.add_batch(X)
        H.add(X)
    got, want = sparsegpt.prune(W, H.H, 0.6), authors.fasterprune(0.6)
    assert torch.equal(got == 0, want == 0)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_hessian_is_the_mean_over_sequences_in_any_batches(fixture):
    _, batches, H, _ = fixture
    x = torch.cat([X.flatten(0, 1) for X in batches]).double()
    torch.testing.assert_close(H.double(), 2 / 6 * x.T @ x, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(H, H.T)
    one = sparsegpt.Hessian(COLS)
    for sequence in torch.cat(batches):
        one.add(sequence)
    torch.testing.assert_close(one.H, H, rtol=1e-4, atol=1e-3)


def test_the_factor_holds_the_inverse_of_every_remaining_hessian(fixture):
    H = fixture[2]
    U = sparsegpt.inverse_factor(H).double()
    damped = H.double().clone()
    damped.diagonal()[list(DEAD)] = 1
    damped += 0.01 * damped.diagonal().mean() * torch.eye(COLS)
    for j in (0, 7, 128, 250, COLS - 1):
        inverse = torch.linalg.inv(damped[j:, j:])
        torch.testing.assert_close(U[j, j] ** 2, inverse[0, 0], rtol=1e-3, atol=0)
        torch.testing.assert_close(U[j, j:] / U[j, j], inverse[0] / inverse[0, 0], rtol=1e-3, atol=1e-4)
    assert torch.equal(U, U.triu())


def test_what_is_right_of_the_last_removed_weight_makes_up_for_all_of_them():
    """There the gradient of the output error vanishes: these weights were free until the end."""
    W, batches = layer(rows=40, cols=24, dead=())
    H = sparsegpt.Hessian(24)
    for X in batches:
        H.add(X)
    pruned = sparsegpt.prune(W, H.H, 0.3).double()
    damped = H.H.double() + 0.01 * H.H.diagonal().mean().double() * torch.eye(24)
    gradient = (pruned - W) @ damped  # (rows, cols)
    free = (pruned == 0).flip(1).cumsum(1).flip(1) == 0  # right of the last zero
    assert free.sum() > 20
    assert gradient[free].abs().max() < 1e-3 * gradient[~free].abs().mean()


def test_matrices_that_share_their_inputs_are_pruned_as_one_by_one(fixture):
    W, _, H, _ = fixture
    parts = [W[:13], W[13:60], W[60:]]
    U, dead = sparsegpt.inverse_factor(H), H.diagonal() == 0
    for target in ({"sparsity": 0.45}, {"pattern": "1:4"}):
        together = sparsegpt.prune_together(parts, U, dead, **target)
        for got, part in zip(together, parts, strict=True):
            want = sparsegpt.prune(part, H, **target)
            assert torch.equal(got == 0, want == 0)
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_exact_count_removes_exactly_so_many_of_a_block():
    W, batches = layer(rows=7, cols=50, dead=())
    H = sparsegpt.Hessian(50)
    for X in batches:
        H.add(X)
    zeros = [int((sparsegpt.prune(W, H.H, 0.3, count=count) == 0).sum()) for count in ("exact", "published")]
    assert zeros == [int(0.3 * 350), int(0.3 * 350) + 1]


def test_compensation_lowers_the_error_on_held_out_inputs():
    W, (first, second, held_out) = layer(rows=31, cols=100, dead=())
    H = sparsegpt.Hessian(100)
    H.add(first)
    H.add(second)
    pruned = sparsegpt.prune(W, H.H, 0.5)
    masked_only = W * (pruned != 0)
    X = held_out.flatten(0, 1)
    assert ((pruned - W) @ X.T).norm() < 0.95 * ((masked_only - W) @ X.T).norm()


def test_neither_weights_nor_hessian_change(fixture):
    W, _, H, _ = fixture
    before = W.clone(), H.clone()
    sparsegpt.prune(W, H, 0.5)
    sparsegpt.prune(W, H, pattern="2:4")
    assert torch.equal(W, before[0])
    assert torch.equal(H, before[1])


def test_half_precision_weights_stay_half(fixture):
    W, _, H, _ = fixture
    assert sparsegpt.prune(W.half(), H, 0.5).dtype == torch.float16


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "either sparsity or pattern"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "either sparsity or pattern"),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"pattern": "4:2"}, "1 <= n <= m"),
        ({"pattern": "3:7"}, "multiple of m = 7"),
        ({"pattern": "2:4", "block_size": 3}, "block_size must be at least 4"),
        ({"sparsity": 0.5, "count": "all"}, "count must be"),
        ({"sparsity": 0.5, "damping": -1}, "damping must be at least 0"),
    ],
)
def test_refuses(fixture, arguments, says):
    W, _, H, _ = fixture
    with pytest.raises(ValueError, match=says):
        sparsegpt.prune(W, H, **arguments)


def test_a_failed_factorisation_says_what_to_change():
    with pytest.raises(ValueError, match=r"more calibration tokens, or a larger damping, such as 0\.01"):
        sparsegpt.inverse_factor(torch.ones(6, 6) - 1e-3 * torch.eye(6), damping=0)
    with pytest.raises(ValueError, match="must be finite"):
        sparsegpt.inverse_factor(torch.full((3, 3), torch.nan))
