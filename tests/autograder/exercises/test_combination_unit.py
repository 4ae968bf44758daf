"""Unit 17: what its exercises take for right is what the library does, and each sentence of a contract has a case.

Wrong answers here are wrong in one sentence only, and on no list of mistakes; right ones are written unlike the listed ones.
"""

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import worked
from torch.nn import functional as F

from autograder.checking.score import score_object
from autograder.exercises import find
from autograder.exercises.combination.allocate_mistakes import cheapest, searched
from autograder.exercises.combination.front import along
from autograder.exercises.combination.interaction import beyond
from autograder.exercises.combination.order_mistakes import combined, gone, kth, silu
from autograder.exercises.combination.read_mistakes import by_format, by_union, counted
from autograder.exercises.combination.speedup import predicted
from sparsity_edu.combine import costs
from sparsity_edu.combine.allocation import allocate
from sparsity_edu.combine.front import front
from sparsity_edu.combine.interaction import interaction
from sparsity_edu.combine.order import combine
from sparsity_edu.kernels.roofline import Machine


def test_bytes_are_the_librarys():
    for case, read in worked.cases("combination.read"):
        assert list(costs.step_bytes(*case.args, **case.kwargs)) == pytest.approx(read)


def test_two_techniques_are_the_librarys():
    for case, (W1, W2, *thresholds) in worked.cases("combination.order"):
        found = combine(*case.args)
        assert torch.equal(found.W1, W1)
        assert torch.equal(found.W2, W2)
        assert [found.t1, found.t2] == pytest.approx(thresholds, rel=1e-5)


def test_settings_are_the_librarys():
    for case, chosen in worked.cases("combination.allocate"):
        prices, damage, budget = case.args
        assert list(allocate(prices.build([]), damage, budget)) == chosen


def test_the_front_is_the_librarys():
    for case, chosen in worked.cases("combination.front"):
        assert torch.equal(front(*case.args), chosen)


def test_speed_ups_are_the_librarys():
    for case, times in worked.cases("combination.speedup"):
        batch, context, model, machine, *others = case.args
        found = costs.speedups(batch, context, costs.Model(**model), Machine("", **machine), *others)
        assert found == pytest.approx(times)


def test_interactions_are_the_librarys():
    for case, found in worked.cases("combination.interaction"):
        assert list(interaction(*case.args)) == pytest.approx(found, rel=1e-9)


def bits_in_itemsize(stored, itemsize):
    value, where = by_format(stored, itemsize)
    return value, where * itemsize / 2


def bounds_in_two_bytes(*args, **options):
    weights, caches = counted(*args, **options)
    itemsize = options.get("itemsize", args[8] if len(args) > 8 else 2)
    page = args[6] if len(args) > 6 else None
    return weights, caches - (itemsize - 2) * (args[3] * args[5] * -(-args[4] // page) if page else 0)


def equal_at_t2(W1, W2, X, sparsity, level, first):
    """With `<` for the inputs of W1, `<=` for those of W2."""
    seen = []

    def small(x, t):
        seen.append(t)
        return x * ((x.abs() >= t) if len(seen) == 1 else (x.abs() > t))

    return combined(W1, W2, X, sparsity, level, first, small=small)


def half_norms(W, x, s):
    return gone(W, x, s, score=lambda W, x: W.abs() * x.half().norm(dim=0).double())


def a_copy_unless_equal(W1, W2, X, sparsity, level, first):
    P1, P2, *thresholds = combined(W1, W2, X, sparsity, level, first)
    return W1 if torch.equal(P1, W1) else P1, W2 if torch.equal(P2, W2) else P2, *thresholds


def stopped_at_monotone(cost, damage, budget):
    """Takes for granted that the last settings within the budget of each technique are the cheapest."""
    every = list(itertools.product(*(range(len(losses)) for losses in damage)))
    fitting = [s for s in every if sum(losses[i] for losses, i in zip(damage, s, strict=True)) <= budget]
    if not fitting:
        raise ValueError
    ends = [s for s in fitting if not any(all(a <= b for a, b in zip(s, t, strict=True)) and s != t for t in fitting)]
    rows = [(cost(s), sum(losses[i] for losses, i in zip(damage, s, strict=True)), s) for s in fitting]
    return cheapest([row for row in rows if row[2] in ends])[2]


def an_epsilon_of_budget(cost, damage, budget):
    return searched(cost, damage, budget + 1e-6)


def never_asked_twice_in_turn(cost, damage, budget):
    chosen = searched(cost, damage, budget)
    first = (0,) * len(damage)
    if chosen != first and budget >= 0:
        cost(first)  # to say how much is saved
    return chosen


def shortest_list(cost, damage, budget):
    return searched(cost, [losses[:4] for losses in damage], budget)


def raises_for_zero(cost, damage, budget):
    chosen = searched(cost, damage, budget)
    if budget < 0 and len(damage) > 1 and any(chosen):
        raise ValueError("budget must not be negative")
    return chosen


def isclose(costs_, losses):
    def dominates(a, b):
        return a[0] <= b[0] * (1 + 1e-6) and a[1] <= b[1] and (b[0] - a[0] > 1e-6 * abs(b[0]) or a[1] < b[1])

    return along(costs_, losses, dominates=dominates)


def infinity_is_none(costs_, losses):
    return along(costs_, losses, counts=lambda point: not any(map(math.isnan, point)) and -math.inf not in point)


def beaten_by_nan(costs_, losses):
    """A running minimum that NaN spoils."""
    order = costs_.argsort(stable=True).tolist()
    kept = along(costs_, losses).tolist()
    spoiled = next((n for n, i in enumerate(order) if losses[i] != losses[i]), len(order))
    return torch.tensor([i for i in kept if i in order[:spoiled]], dtype=torch.int64)


def one_type(costs_, losses):
    return along(costs_.to(losses.dtype), losses)


def dense_attention_where_faster(*args):
    """Quest with the bounds left unread where the budget holds all."""
    _, context, *_, page, budget = args
    return predicted(*args, bounds_read=lambda *_: 0 if budget >= context else -(-context // page))


def bits_for_2_4_left_out_of_compute(*args):
    return predicted(*args, multiplied=lambda stored, small, batch: (9 / 16 if stored == "2:4" else 1) * (1 - small))


def never_below_one(*args):
    found = predicted(*args)
    return {name: max(times, 1.0) if name == "pages" else times for name, times in found.items()}


def halves_first(dense, a, b, both):
    return beyond(dense, a, b, both, exact=lambda x: x.double() if x.dtype == torch.float64 else x.float())


def differences_first(dense, a, b, both):
    return beyond((dense - a).double() * 0, (a - dense).double(), (b - dense).double(), (both - dense).double())


def lengths_alone(dense, a, b, both):
    if len({len(x) for x in (dense, a, b, both)}) > 1 or len(dense) < 2:
        raise ValueError("not of the same texts")
    return beyond(dense, a, b, both, allowed=lambda *shapes: True)


def only_both(dense, a, b, both):
    return beyond(
        dense, a, b, both, allowed=lambda *shapes: shapes[3] == shapes[1] and len(shapes[3]) == 1 and shapes[3][0] > 1
    )


def three_texts(dense, a, b, both):
    return beyond(dense, a, b, both, allowed=lambda *shapes: len(set(shapes)) == 1 and len(shapes[0]) == 1 and shapes[0][0] > 2)


SUBTLE = {
    "the last page only where not all is read": (
        "read",
        functools.partial(
            counted, pages=lambda context, page, budget: (context - 1) // page + 1 if budget < context else context // page
        ),
    ),
    "bits grow with numbers": ("read", functools.partial(counted, held=bits_in_itemsize)),
    "bounds in two bytes": ("read", bounds_in_two_bytes),
    "2:4 in groups for one sequence only": (
        "read",
        functools.partial(
            counted, needed=lambda stored, skipped, batch: by_union(stored if batch == 1 else "dense", skipped, batch)
        ),
    ),
    "four sequences for four inputs": (
        "read",
        functools.partial(
            counted, needed=lambda stored, skipped, batch: 1 - skipped ** (batch + (3 if stored == "2:4" else 0))
        ),
    ),
    "none above a sparsity of a half": (
        "read",
        functools.partial(counted, held=lambda stored, size: by_format("dense" if stored == 0.0 else stored, size)),
    ),
    "equal ones stay in X": ("order", equal_at_t2),
    "norms in half precision": ("order", functools.partial(combined, prune=half_norms)),
    "no copy where nothing goes": ("order", a_copy_unless_equal),
    "hidden numbers in half precision": (
        "order",
        lambda W1, *others: combined(W1, *others, act=lambda z: silu(z).to(W1.dtype).double()),
    ),
    "thresholds in half precision": (
        "order",
        lambda W1, *others: combined(W1, *others, threshold=lambda x, level: float(torch.tensor(kth(x, level)).to(W1.dtype))),
    ),
    "a count with an epsilon": (
        "order",
        functools.partial(combined, threshold=lambda x, level: kth(x, level, count=lambda n: int(n + 1e-6))),
    ),
    "a count in float32": (
        "order",
        functools.partial(
            combined, prune=lambda W, x, s: gone(W, x, s, count=lambda n: int(np.float32(s) * np.float32(W.shape[1])))
        ),
    ),
    "at least one input": (
        "order",
        functools.partial(combined, threshold=lambda x, level: kth(x, level, count=lambda n: max(1, int(n)))),
    ),
    "at least one weight": (
        "order",
        functools.partial(combined, prune=lambda W, x, s: gone(W, x, s, count=lambda n: max(1, int(n)))),
    ),
    "the ends only": ("allocate", stopped_at_monotone),
    "an epsilon of budget": ("allocate", an_epsilon_of_budget),
    "without asked for again": ("allocate", never_asked_twice_in_turn),
    "four settings at most": ("allocate", shortest_list),
    "a budget below 0": ("allocate", raises_for_zero),
    "nearly equal costs": ("front", isclose),
    "minus infinity is none": ("front", infinity_is_none),
    "spoiled by NaN": ("front", beaten_by_nan),
    "costs in the type of losses": ("front", one_type),
    "no bounds where all is read": ("speedup", dense_attention_where_faster),
    "2:4 computes as it reads": ("speedup", bits_for_2_4_left_out_of_compute),
    "pages never slower": ("speedup", never_below_one),
    "float32 where not float64": ("interaction", halves_first),
    "converted after the difference": ("interaction", differences_first),
    "lengths alone": ("interaction", lengths_alone),
    "the shapes of two": ("interaction", only_both),
    "three texts at least": ("interaction", three_texts),
}


EVERYWHERE = ("the ends only",)  # that it is wrong may show in each stage


@pytest.mark.parametrize("seed", ["public", "a secret"])
@pytest.mark.parametrize("name", SUBTLE)
def test_subtle_mistakes_are_rejected(name, seed):
    id, wrong = SUBTLE[name]
    verdict = score_object(find(f"combination.{id}"), wrong, seed)
    assert not verdict.passed
    assert verdict.points > 0 or name in EVERYWHERE, "wrong in one respect only"


def exact_fractions(weights, stored, skipped, batch, context, kv, page=None, budget=None, itemsize=2):
    bits = {"dense": 8 * itemsize, "2:4": 4 * itemsize + 1}.get(stored) or 8 * itemsize * (1 - Fraction(stored)) + 1
    needed = 1 - Fraction(skipped) ** (4 * batch if stored == "2:4" else batch)
    tokens = sorted((context, budget if budget is not None else context))[0]
    tokens += len(range(0, context, page)) if page else 0
    return float(weights * needed * bits / 8), float(batch * tokens * kv * itemsize)


def with_modules(W1, W2, X, sparsity, level, first):
    """Layers of torch, hooks that note what they read, masks at the end."""
    with torch.no_grad():
        first_layer, second_layer = (torch.nn.Linear(W.shape[1], len(W), bias=False, dtype=torch.float64) for W in (W1, W2))
        first_layer.weight.copy_(W1)
        second_layer.weight.copy_(W2)
        net = torch.nn.Sequential(first_layer, torch.nn.SiLU(), second_layer)
        limits = {}

        def read(layer, given):
            x = given[0]
            t = limits.get(layer)
            return x if t is None else x.where(x.abs() > t, torch.zeros_like(x))

        def calibrate():
            for layer, x in ((first_layer, X.double()), (second_layer, F.silu(first_layer(X.double())))):
                flat = sorted(x.abs().flatten().tolist())
                k = int(level * len(flat))
                limits[layer] = flat[k - 1] if k else 0.0

        def prune():
            for layer in (first_layer, second_layer):
                seen = []
                handle = layer.register_forward_pre_hook(lambda layer, given, seen=seen: seen.append(read(layer, given)))
                inputs = read(first_layer, (X.double(),))
                net[2](net[1](net[0](inputs)))
                handle.remove()
                norms = torch.linalg.vector_norm(seen[0], dim=0)
                ranks = torch.einsum("oi,i->oi", layer.weight.abs(), norms).argsort(dim=1).argsort(dim=1)
                layer.weight.masked_fill_(ranks < int(sparsity * layer.in_features), 0)

        for step in (prune, calibrate) if first == "weights" else (calibrate, prune):
            step()
        return (
            first_layer.weight.to(W1.dtype).clone(),
            second_layer.weight.to(W2.dtype).clone(),
            limits[first_layer],
            limits[second_layer],
        )


def by_numpy(cost, damage, budget):
    sums = functools.reduce(np.add.outer, [np.asarray(losses) for losses in damage])
    fitting = [tuple(int(i) for i in place) for place in np.argwhere(sums <= budget)]
    if not fitting:
        raise ValueError("no settings fit")
    costs_ = {place: cost(place) for place in fitting}
    return sorted(fitting, key=lambda place: (costs_[place], sums[place], place))[0]


def as_a_list(cost, damage, budget):
    return list(searched(cost, damage, budget))


def one_by_one(costs_, losses):
    chosen = []
    for i in range(len(costs_)):
        others = torch.arange(len(costs_)) != i
        no_worse = (costs_[others] <= costs_[i]) & (losses[others] <= losses[i])
        better = (costs_[others] < costs_[i]) | (losses[others] < losses[i])
        if not (no_worse & better).any() and not (torch.isnan(costs_[i]) or torch.isnan(losses[i])):
            chosen.append(i)
    return torch.tensor(sorted(chosen, key=lambda i: costs_[i].item()), dtype=torch.int64)


def by_step_bytes(batch, context, model, machine, level, page, budget):
    def seconds(read, products, attended):
        both = ((read[0], products), (read[1], attended))
        return sum(max(b / machine["bandwidth"], o / machine["peak"]) for b, o in both)

    w, kv, a = (model[name] for name in ("weights", "kv", "attention"))
    dense = seconds(exact_fractions(w, "dense", 0, batch, context, kv), 2 * w * batch, a * context * batch)
    rows = {
        "2:4": (exact_fractions(w, "2:4", 0, batch, context, kv), w * batch, a * context * batch),
        "skip": (exact_fractions(w, "dense", level, batch, context, kv), 2 * w * batch * (1 - level), a * context * batch),
        "pages": (
            exact_fractions(w, "dense", 0, batch, context, kv, page, budget),
            2 * w * batch,
            a * batch * (len(range(0, context, page)) + min(budget, context)),
        ),
    }
    return {name: torch.tensor(dense / seconds(*row), dtype=torch.float64) for name, row in rows.items()}


def with_fractions(dense, a, b, both):
    if len({tuple(x.shape) for x in (dense, a, b, both)}) > 1 or dense.dim() != 1 or len(dense) <= 1:
        raise ValueError("four losses of the same two texts or more")
    rows = [[Fraction(value) for value in row] for row in torch.stack([x.double() for x in (dense, a, b, both)]).T.tolist()]
    gaps = [w - y - z + x for x, y, z, w in rows]
    mean = sum(gaps) / len(gaps)
    return float(mean), math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1) / len(gaps))


UNUSUAL = {
    "exact fractions": ("read", exact_fractions),
    "modules and hooks": ("order", with_modules),
    "sums by an outer sum": ("allocate", by_numpy),
    "a list": ("allocate", as_a_list),
    "point by point": ("front", one_by_one),
    "by fractions": ("speedup", by_step_bytes),
    "in fractions": ("interaction", with_fractions),
}


@pytest.mark.parametrize("seed", ["public", "a secret"])
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_right_answers_get_full_marks(name, seed):
    id, right = UNUSUAL[name]
    verdict = score_object(find(f"combination.{id}"), right, seed)
    assert verdict.passed, str(verdict)
