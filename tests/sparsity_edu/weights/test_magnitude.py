"""Magnitude pruning: arithmetic by hand, masks held under every optimiser, and the schedule."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsity_edu.weights import magnitude


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.ReLU(), nn.Linear(12, 4))


def cnn(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 6), nn.ReLU(), nn.Linear(6, 3, bias=False)
    )


def zeros_where_dropped(model: nn.Module, masks: dict) -> bool:
    return all((model.get_submodule(name).weight[~mask] == 0).all() for name, mask in masks.items())


# ---- a tensor


def test_score():
    W = torch.tensor([[-3.0, 0.5], [-0.0, 2.0]])
    assert magnitude.score(W).tolist() == [[3.0, 0.5], [0.0, 2.0]]
    parameter = nn.Parameter(W)
    assert not magnitude.score(parameter).requires_grad
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert magnitude.score(W.to(dtype)).dtype == dtype


def test_score_of_int8_knows_its_smallest_number():
    W = torch.tensor([[-128, 127, 1, -2]], dtype=torch.int8)
    assert magnitude.score(W).tolist() == [[128, 127, 1, 2]]  # |-128| is no int8
    assert magnitude.prune(W, 0.5).tolist() == [[-128, 127, 0, 0]]
    assert magnitude.prune(W, 0.5).dtype == torch.int8


@pytest.mark.parametrize("function", [magnitude.score, lambda W: magnitude.prune(W, 0.5)])
def test_nan_is_refused(function):
    with pytest.raises(ValueError, match=r"^W must not hold NaN, got NaN in 2 of 6 entries$"):
        function(torch.tensor([[math.nan, 1, 2], [3, math.nan, 4]]))


@pytest.mark.parametrize(
    ("sparsity", "pattern", "expected"),
    [
        (0.5, "layer", [[0, -8, 0, 7], [6, 0, -5, 0]]),  # 4 smallest of 8: signs do not count
        (0.25, "row", [[0, -8, 3, 7], [6, 0, -5, -4]]),
        (0.5, "rows", [[1, -8, 3, 7], [0, 0, 0, 0]]),
        (0.5, "columns", [[0, -8, 0, 7], [0, 2, 0, -4]]),  # norms 6.1, 8.2, 5.8, 8.1
        (None, "1:4", [[0, -8, 0, 0], [6, 0, 0, 0]]),
        (0.5, "block 2x2", [[1, -8, 0, 0], [6, 2, 0, 0]]),  # norms sqrt(105) and sqrt(99)
    ],
)
def test_prune_by_hand(sparsity, pattern, expected):
    W = torch.tensor([[1.0, -8, 3, 7], [6, 2, -5, -4]])
    before = W.clone()
    pruned = magnitude.prune(W, sparsity, pattern)
    assert pruned.tolist() == expected
    assert torch.equal(W, before)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.floats(0, 1, exclude_max=True), st.integers(0, 99))
def test_prune_drops_exactly_the_smallest(rows, cols, sparsity, seed):
    W = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
    pruned = magnitude.prune(W, sparsity)
    kept = pruned != 0
    assert int((~kept).sum()) == int(sparsity * (rows * cols))
    assert torch.equal(pruned[kept], W[kept])
    assert not (~kept).any() or W[~kept].abs().max() <= W[kept].abs().min()


def test_prune_keeps_infinity_and_drops_to_a_true_zero():
    W = torch.tensor([[math.inf, -math.inf, 1.0, -1e-45]])
    assert magnitude.prune(W, 0.5).tolist() == [[math.inf, -math.inf, 0, 0]]
    assert magnitude.prune(W, 0.8).tolist() == [[0, -math.inf, 0, 0]]  # not inf * 0
    copy = magnitude.prune(W, 0.0)
    copy[0, 2] = 9
    assert W[0, 2] == 1


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan, "2:4"])
def test_sparsity_out_of_range(sparsity):
    for call in (lambda: magnitude.prune(torch.ones(2, 2), sparsity), lambda: magnitude.prune_(mlp(), sparsity, "model")):
        with pytest.raises(ValueError, match=r"^sparsity must be in \[0, 1\), got"):
            call()
    with pytest.raises(ValueError, match=r"^layer 0: sparsity must be in \[0, 1\), got"):
        magnitude.prune_(mlp(), sparsity)


# ---- a model


def test_each_layer_by_itself():
    model = cnn()
    weights = {name: model.get_submodule(name).weight.detach().clone() for name in ("0", "3", "5")}
    masks = magnitude.model_masks(model, 0.3)
    assert list(masks) == ["0", "3", "5"]
    for name, W in weights.items():
        assert masks[name].shape == W.shape
        assert torch.equal(model.get_submodule(name).weight, W)  # nothing is pruned yet
        smallest = np.argsort(W.abs().numpy().ravel(), kind="stable")[: int(0.3 * W.numel())]
        assert np.array_equal(np.flatnonzero(~masks[name].numpy()), np.sort(smallest))


def test_the_whole_model_under_one_threshold():
    model = cnn()
    with torch.no_grad():
        model[5].weight.mul_(100)
    weights = [model.get_submodule(name).weight.detach().numpy().ravel() for name in ("0", "3", "5")]
    everything = np.concatenate(weights)
    smallest = np.argsort(np.abs(everything), kind="stable")[: int(0.7 * everything.size)]
    masks = magnitude.prune_(model, 0.7, "model")
    got = np.concatenate([mask.numpy().ravel() for mask in masks.values()])
    assert np.array_equal(np.flatnonzero(~got), np.sort(smallest))
    assert masks["5"].float().mean() > 0.9  # the scaled layer loses less than the rest
    assert masks["0"].shape == (8, 4, 3, 3)
    assert zeros_where_dropped(model, masks)


def test_rows_of_a_convolution_are_its_output_channels():
    model = cnn()
    masks = magnitude.prune_(model, 0.5, "rows")
    dead = (model[0].weight == 0).flatten(1).all(dim=1)
    assert int(dead.sum()) == 4
    assert torch.equal(masks["0"].flatten(1).any(dim=1), ~dead)


def test_prune_touches_weights_only():
    model = mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    storage = model[0].weight.data_ptr()
    masks = magnitude.prune_(model, 0.4)
    for name, value in model.state_dict().items():
        expected = before[name] * masks[name[0]] if name in ("0.weight", "3.weight") else before[name]
        assert torch.equal(value, expected), name
    assert model[0].weight.data_ptr() == storage
    assert model[0].weight.requires_grad


def test_apply_writes_true_zeros():
    model = nn.Sequential(nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[math.inf, -1.0]]))
    magnitude.apply_(model, {"0": torch.tensor([[False, True]])})
    assert model[0].weight.tolist() == [[0.0, -1.0]]


def test_model_errors_name_the_layer():
    model = mlp()
    with torch.no_grad():
        model[3].weight[1, 2] = math.nan
    for pattern in ("layer", "model"):
        with pytest.raises(ValueError, match=r"^layer 3: W must not hold NaN, got NaN in 1 of 48 entries$"):
            magnitude.prune_(model, 0.5, pattern)
    odd = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(3, 8, 3))  # 36 inputs, 27 inputs
    before = odd[0].weight.clone()
    with pytest.raises(
        ValueError, match=r"^layer 1: the last dimension of score must be a multiple of m = 4, got shape \(8, 27\)$"
    ):
        magnitude.prune_(odd, pattern="2:4")
    assert torch.equal(odd[0].weight, before)  # nothing half done


def test_model_refuses():
    with pytest.raises(ValueError, match=r"^model must hold a linear or convolution layer, got ReLU without one$"):
        magnitude.prune_(nn.ReLU(), 0.5)
    with pytest.raises(ValueError, match=r'^sparsity must be given for pattern "model"$'):
        magnitude.prune_(mlp(), pattern="model")
    with pytest.raises(ValueError, match=r"sparsity must be given for pattern 'layer'$"):
        magnitude.prune_(mlp())
    with pytest.raises(ValueError, match=r"sparsity must be left out for pattern '2:4', which fixes it, got 0\.5$"):
        magnitude.prune_(mlp(), 0.5, "2:4")
    with pytest.raises(ValueError, match=r"pattern must be .+, got 'global'$"):
        magnitude.prune_(mlp(), 0.5, "global")


# ---- masks held while training

OPTIMISERS = {
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "nesterov and weight decay": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam, amsgrad, not fused": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, foreach=False),
    "adamw with weight decay": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
}


def loss_of(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(32, 8, generator=generator), torch.randint(0, 4, (32,), generator=generator)
    return nn.functional.cross_entropy(model(x), y)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()


def pruned_after_dense_training(make):
    """A model whose optimiser already carries moments of the weights that are then pruned."""
    model = mlp()
    optimizer = make(model.parameters())
    for _ in range(5):
        step(model, optimizer)
    return model, optimizer, magnitude.prune_(model, 0.6)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_hold_keeps_zeros_under_every_optimiser(name):
    model, optimizer, masks = pruned_after_dense_training(OPTIMISERS[name])
    before = {key: value.clone() for key, value in model.named_parameters()}
    handle = magnitude.hold_(optimizer, model, masks)
    for _ in range(4):
        step(model, optimizer)
        assert zeros_where_dropped(model, masks)
    for key, value in model.named_parameters():  # what is kept is trained, biases and norms too
        layer, _, kind = key.partition(".")
        kept = masks[layer] if kind == "weight" and layer in masks else torch.ones_like(value, dtype=torch.bool)
        assert (value[kept] != before[key][kept]).float().mean() > 0.5, key

    handle.remove()
    step(model, optimizer)
    assert not zeros_where_dropped(model, masks)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_masking_the_gradient_is_not_enough(name):
    """The fixture of the test above is sharp: with masked gradients alone the pruned weights move away from zero."""
    model, optimizer, masks = pruned_after_dense_training(OPTIMISERS[name])
    for layer, mask in masks.items():
        model.get_submodule(layer).weight.register_hook(lambda gradient, mask=mask: gradient * mask)
    for _ in range(4):
        step(model, optimizer)
    moved = [model.get_submodule(layer).weight[~mask] for layer, mask in masks.items()]
    assert (torch.cat(moved) != 0).float().mean() > 0.9


def test_hold_is_projected_gradient_descent():
    model = nn.Sequential(nn.Linear(3, 2))
    W, b = model[0].weight.detach().numpy().copy(), model[0].bias.detach().numpy().copy()
    mask = np.array([[True, False, True], [False, True, False]])
    x, y = np.array([[1.0, 2, -1], [0.5, -1, 3]], dtype="f"), np.array([[1.0, 0], [0, 2]], dtype="f")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    magnitude.hold_(optimizer, model, {"0": torch.from_numpy(mask)})
    assert np.array_equal(model[0].weight.detach().numpy() != 0, mask)  # at once, not only after the first step
    W *= mask
    for _ in range(3):
        optimizer.zero_grad()
        (model(torch.from_numpy(x)) - torch.from_numpy(y)).square().sum().backward()
        optimizer.step()
        error = 2 * (x @ W.T + b - y)
        W, b = (W - 0.1 * error.T @ x) * mask, b - 0.1 * error.sum(0)
        assert np.allclose(model[0].weight.detach().numpy(), W, atol=1e-4)


def test_hold_with_a_closure_a_scheduler_and_parameter_groups():
    model, _, masks = pruned_after_dense_training(OPTIMISERS["adam"])
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    magnitude.hold_(optimizer, model, masks)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert zeros_where_dropped(model, masks)

    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[3].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    magnitude.hold_(optimizer, model, masks)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(3):
        step(model, optimizer)
        scheduler.step()
        assert zeros_where_dropped(model, masks)


# ---- the gradual schedule


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (-5, 0.2),
        (10, 0.2),  # start
        (15, 0.43125),  # 0.6 - 0.4 * 0.75^3
        (20, 0.55),  # 0.6 - 0.4 * 0.5^3
        (25, 0.59375),  # 0.6 - 0.4 * 0.25^3
        (30, 0.6),  # end
        (99, 0.6),
    ],
)
def test_cubic_sparsity_by_hand(at, expected):
    assert magnitude.cubic_sparsity(at, start=10, end=30, final=0.6, initial=0.2) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(-9, 9), st.integers(1, 30), st.floats(0, 0.99), st.floats(0, 0.99))
def test_cubic_sparsity_is_exact_at_both_ends_and_never_falls(start, length, a, b):
    initial, final = sorted((a, b))
    ramp = [magnitude.cubic_sparsity(t, start, start + length, final, initial) for t in range(start - 2, start + length + 3)]
    assert ramp[:3] == [initial] * 3
    assert ramp[-3:] == [final] * 3
    assert all(earlier <= later + 1e-12 for earlier, later in pairwise(ramp))


def test_cubic_sparsity_starts_exactly_where_it_is_told():
    assert (
        magnitude.cubic_sparsity(0, 0, 10, final=0.7, initial=0.1) == 0.1
    )  # 0.7 + (0.1 - 0.7) is less: one of ten weights fewer


def test_cubic_sparsity_refuses():
    for end in (5, 4):
        with pytest.raises(ValueError, match=rf"^end must be after start, got start 5 and end {end}$"):
            magnitude.cubic_sparsity(0, 5, end, 0.5)
    for final, initial in [(1.0, 0.0), (0.5, 0.6), (0.5, -0.1), (math.nan, 0.0), (0.5, math.nan), (-0.5, -0.5)]:
        message = re.escape(f"sparsities must satisfy 0 <= initial <= final < 1, got initial {initial} and final {final}")
        with pytest.raises(ValueError, match=message):
            magnitude.cubic_sparsity(0, 0, 10, final, initial)


# ---- prune, retrain, prune again


def noise_(model: nn.Module, masks: dict) -> None:
    """A retraining that moves every weight, pruned or not."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def held_training_(model: nn.Module, masks: dict) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    handle = magnitude.hold_(optimizer, model, masks)
    for _ in range(3):
        step(model, optimizer)
    handle.remove()


@pytest.mark.parametrize("retrain", [held_training_, noise_])
@pytest.mark.parametrize("pattern", ["layer", "row", "model", "rows"])
def test_iterative_masks_grow_by_exact_counts(retrain, pattern):
    rounds = [0.25, 0.5, 0.5, 0.77]
    model, seen = mlp(), []

    def spy(module, masks):
        assert module is model
        assert zeros_where_dropped(model, masks)
        seen.append({name: mask.clone() for name, mask in masks.items()})
        retrain(module, masks)

    last = magnitude.iterative_prune_(model, (s for s in rounds), spy, pattern, progress=False)
    assert len(seen) == len(rounds)
    for earlier, later in pairwise(seen):
        assert all((later[name] <= earlier[name]).all() for name in earlier)  # once gone, gone
    for sparsity, masks in zip(rounds, seen, strict=True):
        dropped = {name: int((~mask).sum()) for name, mask in masks.items()}
        expected = {  # layers are 12 x 8 and 4 x 12
            "layer": {"0": int(sparsity * 96), "3": int(sparsity * 48)},
            "row": {"0": 12 * int(sparsity * 8), "3": 4 * int(sparsity * 12)},
            "rows": {"0": 8 * int(sparsity * 12), "3": 12 * int(sparsity * 4)},
        }
        if pattern == "model":
            assert sum(dropped.values()) == int(sparsity * 144)
        else:
            assert dropped == expected[pattern]
    assert {name: mask.tolist() for name, mask in last.items()} == {name: mask.tolist() for name, mask in seen[-1].items()}
    assert zeros_where_dropped(model, last)  # also after a retraining that let them go


def test_iterative_ranks_the_weights_as_retraining_left_them():
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2, 3, 4]]))

    def retrain(module, masks):
        with torch.no_grad():
            module[0].weight.copy_(torch.tensor([[9.0, 8, 7, 0.5]]))

    masks = magnitude.iterative_prune_(model, [0.25, 0.5], retrain, progress=False)
    assert masks["0"].tolist() == [[False, True, True, False]]  # not [F, F, T, T], and 9.0 does not come back
    assert model[0].weight.tolist() == [[0.0, 8.0, 7.0, 0.0]]


@pytest.mark.parametrize("sparsities", [[], [0.5, 0.4], [0.5, 1.0], [-0.1, 0.5], [0.2, math.nan], [math.nan]])
def test_iterative_refuses_before_it_starts(sparsities):
    model = mlp()
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=r"^sparsities must hold at least one round, not fall, and be in \[0, 1\), got \["):
        magnitude.iterative_prune_(model, sparsities, lambda *_: pytest.fail("retrained"), progress=False)
    assert torch.equal(model[0].weight, before)


def test_iterative_shows_its_rounds_only_when_asked(capsys):
    magnitude.iterative_prune_(mlp(), [0.1, 0.2], held_training_, progress=False)
    assert capsys.readouterr().err == ""
    magnitude.iterative_prune_(mlp(), [0.1, 0.2], held_training_)
    assert "prune and retrain" in capsys.readouterr().err


# ---- summary


def test_summary_measures_and_says_what_is_left_alone():
    model = mlp()
    magnitude.prune_(model, 0.5)
    with torch.no_grad():
        model[3].weight.zero_()  # measured on the weights, not remembered from a mask
    lines = magnitude.summary(model).splitlines()
    assert [re.split(r"  +", line, maxsplit=1)[0] for line in lines] == ["0", "3", "all prunable layers", "left alone"]
    assert re.search(r"50\.00% of +96$", lines[0])
    assert re.search(r"100\.00% of +48$", lines[1])
    assert re.search(r"66\.67% of +144$", lines[2])
    assert re.search(r" 40: bias, weight$", lines[3])  # 12 + 4 biases, 2 x 12 of the norm
    assert "nothing" in magnitude.summary(nn.Linear(2, 2, bias=False)).splitlines()[-1]
    assert re.search(r"0\.00% of +0$", magnitude.summary(nn.LayerNorm(3)).splitlines()[0])
