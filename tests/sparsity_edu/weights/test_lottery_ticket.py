"""Lottery tickets: the masks are those of the authors' two codes over five levels; what is rewound is rewound to the bit."""

from itertools import pairwise

import numpy as np
import published
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsity_edu.weights import lottery_ticket as lt

NAMES = ("0", "3", "5")  # the linear layers of `network`


def network(seed=0):
    torch.manual_seed(seed)
    layers = [nn.Linear(12, 23), nn.BatchNorm1d(23), nn.ReLU(), nn.Linear(23, 17), nn.Dropout(0.1), nn.Linear(17, 5)]
    return nn.Sequential(*layers)


def training(seed=0, data_seed=3):
    """With everything that has a state: momentum, schedule, running means, dropout, the order of the data."""
    model = network(seed)
    g = torch.Generator().manual_seed(1)
    X = torch.randn(200, 12, generator=g)
    y = (X[:, :5] + 0.3 * torch.randn(200, 5, generator=g)).argmax(dim=1)

    def batch(order):
        chosen = torch.randint(200, (16,), generator=order)
        return X[chosen], y[chosen]

    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.5)
    return lt.Training(model, optimizer, batch, F.cross_entropy, scheduler, seed=data_seed)


def weights_and_masks(seed=0):
    g = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(shape, generator=g) * size
        for name, shape, size in zip("abc", ((7, 11), (5, 7), (3, 5)), (1, 3, 0.5), strict=True)
    }
    return weights, {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def flat(state):
    """All tensors and numbers in a state, by where they are."""
    if isinstance(state, dict):
        return {f"{key}.{rest}": value for key, part in state.items() for rest, value in flat(part).items()}
    if isinstance(state, list | tuple):
        return flat(dict(enumerate(state)))
    return {"": state}


def assert_same_state(a, b):
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key], key


@pytest.mark.parametrize("skip", [(), ("c",)])
def test_five_levels_as_in_open_lth(skip):
    weights, masks = weights_and_masks()
    theirs = {name: mask.numpy().astype(float) for name, mask in masks.items()}
    for level in range(5):
        weights = {
            name: w + 0.3 * torch.randn(w.shape, generator=torch.Generator().manual_seed(level)) for name, w in weights.items()
        }
        masks = lt.drop_remaining(weights, masks, 0.2, count="open_lth", skip=skip)
        theirs = published.open_lth_sparse_global({n: w.numpy() for n, w in weights.items()}, theirs, 0.2, skip)
        assert all(np.array_equal(masks[name].numpy(), theirs[name] == 1) for name in masks)
    assert 0 < lt.density(masks) < 0.5


def test_five_levels_as_in_the_first_code():
    weights, masks = weights_and_masks(1)
    rates = {"a": 0.2, "b": 0.2, "c": 0.1}
    theirs = {name: mask.numpy().astype(float) for name, mask in masks.items()}
    for level in range(5):
        weights = {
            name: w + 0.3 * torch.randn(w.shape, generator=torch.Generator().manual_seed(level)) for name, w in weights.items()
        }
        masks = lt.drop_remaining(weights, masks, rates, scope="layer", count="google")
        theirs = published.google_prune_by_percent(rates, theirs, {n: w.numpy() for n, w in weights.items()})
        assert all(np.array_equal(masks[name].numpy(), theirs[name] == 1) for name in masks)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_fraction_of_what_is_left_goes_and_stays_gone(scope):
    weights, masks = weights_and_masks(2)
    left = {name: mask.numel() for name, mask in masks.items()}
    total = sum(left.values())
    for _ in range(6):
        new = lt.drop_remaining(weights, masks, 0.3, scope)
        assert all((new[name] <= masks[name]).all() for name in masks)  # monotone
        total -= int(0.3 * total)
        left = {name: n - int(0.3 * n) for name, n in left.items()}
        if scope == "global":
            assert sum(int(mask.sum()) for mask in new.values()) == total
            kept = torch.cat([weights[n].abs()[new[n]] for n in new])
            gone = torch.cat([weights[n].abs()[masks[n] & ~new[n]] for n in new])
            assert gone.max() < kept.min()
        else:
            assert {name: int(mask.sum()) for name, mask in new.items()} == left
        masks, weights = new, {name: w * -3 for name, w in weights.items()}  # whatever the gone ones become


def test_of_equal_weights_exactly_the_fraction_goes():
    masks = lt.drop_remaining({"a": torch.ones(10)}, {"a": torch.ones(10, dtype=torch.bool)}, 0.35)
    assert masks["a"].tolist() == [False] * 3 + [True] * 7
    masks = lt.drop_remaining({"a": torch.ones(10)}, {"a": torch.ones(10, dtype=torch.bool)}, 0.35, count="open_lth")
    assert not masks["a"].any()  # a threshold cannot tell them apart


@pytest.mark.parametrize("steps", [0, 5])
def test_everything_is_rewound_to_the_bit(steps):
    one = training()
    one.run_(steps)
    start = one.state()
    one.run_(12)
    first = one.state()
    assert not torch.equal(first["model"]["1.running_mean"], start["model"]["1.running_mean"])
    one.load_(start)
    assert_same_state(one.state(), start)
    one.run_(12)
    assert_same_state(one.state(), first)  # the same training again: nothing that matters was left out


def test_a_state_is_not_changed_by_training_on():
    one = training()
    start = one.state()
    before = {key: value.clone() for key, value in start["model"].items()}
    for _ in range(2):
        one.load_(start)
        one.run_(4)
    assert same(start["model"], before)


def test_pruned_weights_stay_zero_and_negative_ones_train():
    one = training()
    masks = lt.drop_remaining(
        {n: one.model.get_submodule(n).weight for n in NAMES},
        {n: torch.ones_like(one.model.get_submodule(n).weight, dtype=torch.bool) for n in NAMES},
        0.5,
    )
    start = one.state()
    zeros = []
    lt.train_from_(
        one,
        start,
        masks,
        9,
        lambda t: zeros.append(all((t.model.get_submodule(n).weight[~masks[n]] == 0).all() for n in NAMES)),
    )
    assert zeros == [True] * 9
    for name in NAMES:
        before, after = start["model"][f"{name}.weight"], one.model.get_submodule(name).weight
        negative = masks[name] & (before < 0)
        assert (before != after)[negative].float().mean() > 0.95


@pytest.mark.parametrize("rewind", [0, 6])
def test_tickets_begin_where_the_dense_network_was(rewind):
    one = training()
    start, levels = lt.find_tickets(one, 20, 3, rate=0.4, rewind=rewind, progress=False)
    alone = training()
    alone.run_(rewind)
    assert_same_state(alone.state(), start)
    alone.run_(20 - rewind)
    assert_same_state(alone.state(), levels[0].end)  # level 0 is the dense network, trained without a break
    assert [round(level.density, 2) for level in levels] == [1.0, 0.6, 0.36, 0.22]
    for before, after in pairwise(levels):
        wanted = lt.drop_remaining({n: before.end["model"][f"{n}.weight"] for n in NAMES}, before.masks, 0.4)
        assert same(after.masks, wanted)
        assert after.end["step"] == 20
    lt.train_from_(one, start, levels[2].masks, 20 - rewind)
    assert_same_state(one.state(), levels[2].end)


def test_controls_differ_from_the_ticket_in_one_thing():
    one = training()
    start, levels = lt.find_tickets(one, 8, 1, rewind=2, progress=False)
    fresh = network(seed=9)
    reset = lt.with_weights(start, fresh)
    assert same(reset["model"], fresh.state_dict())
    tuned = lt.with_weights(start, levels[1].end["model"])
    for state in (reset, tuned):
        assert_same_state({**state, "model": None}, {**start, "model": None})
    fresh[0].weight.data.zero_()
    assert reset["model"]["0.weight"].any()  # a copy


def test_random_masks_keep_as_many():
    _, masks = weights_and_masks()
    masks = {
        name: torch.rand(mask.shape, generator=torch.Generator().manual_seed(5)) < p
        for (name, mask), p in zip(masks.items(), (0.2, 0.5, 0.9), strict=True)
    }
    for scope in ("layer", "global"):
        new = lt.shuffled(masks, torch.Generator().manual_seed(0), scope)
        assert lt.density(new) == lt.density(masks)
        assert [mask.shape for mask in new.values()] == [mask.shape for mask in masks.values()]
        assert not same(new, masks)
        counts = [int(mask.sum()) for mask in new.values()] == [int(mask.sum()) for mask in masks.values()]
        assert counts == (scope == "layer")
        assert same(new, lt.shuffled(masks, torch.Generator().manual_seed(0), scope))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "row"}, "scope must be"),
        ({"count": "ceil"}, "count one of floor, open_lth, google, got"),
        ({"skip": ["z"]}, "skip must name layers, got z; there are a, b, c"),
        ({"rate": 1.0}, r"rate must be in \[0, 1\), got 1.0"),
        ({"rate": {"a": 0.1, "b": 0.1, "c": 0.1}}, 'one number with scope "global"'),
    ],
)
def test_what_is_not_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        lt.drop_remaining(*weights_and_masks(), **options)


def test_steps_out_of_order_are_refused():
    with pytest.raises(ValueError, match="rewind must be in"):
        lt.find_tickets(training(), 5, 1, rewind=5)
    with pytest.raises(ValueError, match="levels must not be negative, got -1"):
        lt.find_tickets(training(), 5, -1)
    with pytest.raises(ValueError, match='scope must be "layer" or "global", got'):
        lt.shuffled({"a": torch.ones(2, dtype=torch.bool)}, torch.Generator(), "row")
