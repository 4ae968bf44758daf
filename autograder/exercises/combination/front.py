"""Exercise 17.4: the Pareto front."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.combination.fixtures import redraw
from autograder.inside.case import Case, call


def along(
    costs: Tensor,
    losses: Tensor,
    *,
    dominates: Callable = lambda a, b: a[0] <= b[0] and a[1] <= b[1] and a != b,
    counts: Callable = lambda point: not any(map(math.isnan, point)),
    rank: Callable = lambda point, i: (point[0], i),
    read: Callable = lambda x: x.tolist(),
    result: Callable = lambda chosen: torch.tensor(chosen, dtype=torch.int64),
) -> Tensor:
    """In Python's numbers, with parts exchangeable, for mistakes in one part."""
    points = list(zip(read(costs), read(losses), strict=True))
    there = [i for i, point in enumerate(points) if counts(point)]
    kept = [i for i in there if not any(dominates(points[j], points[i]) for j in there if j != i)]
    return result(sorted(kept, key=lambda i: rank(points[i], i)))


def reference(costs: Tensor, losses: Tensor) -> Tensor:
    return along(costs, losses)


front = Exercise(
    "combination.front",
    defines="front",
    title="The Pareto front",
    minutes=15,
    difficulty=2,
    hints=(
        "Compare each point with each other one. Who is beaten by anybody is not on the front.",
        "Point i beats point j if it is no worse in both, and better in one. With `costs[:, None] <= costs` all pairs are compared at once. A comparison with NaN "
        "is False, so it beats nobody, but nobody beats it either: take it out by hand.",
        "`no_worse = (costs[:, None] <= costs) & (losses[:, None] <= losses)`, `better` is the same with `<` and `|`, and `beaten = (no_worse & better).any(dim=0)`. Of "
        "the indices that are left, `i = (~beaten & ~nan).nonzero().flatten()`, return `i[costs[i].argsort(stable=True)]`.",
    ),
    reference=reference,
)


def scattered(g: torch.Generator, n: int, fine: int = 10**6) -> tuple[Tensor, Tensor]:
    """(n,) costs and losses about a falling curve, on a grid."""
    costs = torch.rand(n, generator=g)
    losses = 0.1 / (costs + 0.1) + 0.4 * torch.rand(n, generator=g)
    return (costs * fine).round() / fine, (losses * fine).round() / fine


def on_a_grid(g: torch.Generator, n: int, fine: int) -> tuple[Tensor, Tensor]:
    """With equal points on the front, points of equal cost or loss, and the front in another order than that of indices."""

    def many_ties(drawn: tuple[Tensor, Tensor]) -> bool:
        costs, losses = drawn
        chosen = along(costs, losses)
        pairs = [(float(c), float(y)) for c, y in zip(costs[chosen], losses[chosen], strict=True)]
        points = list(zip(costs.tolist(), losses.tolist(), strict=True))
        beside = any(p not in pairs and any(p[k] == q[k] for q in pairs) for k in (0,) for p in points)
        above = any(p not in pairs and any(p[k] == q[k] for q in pairs) for k in (1,) for p in points)
        apart = [
            (i, j)
            for i, j in zip(chosen[:-1].tolist(), chosen[1:].tolist(), strict=True)
            if points[i] == points[j] and j - i > 1
        ]
        corners = sorted(set(pairs))
        bulges = any(
            pairs.count(q) == 1 and (q[1] - p[1]) * (r[0] - p[0]) > (r[1] - p[1]) * (q[0] - p[0]) + 1e-6
            for p, q, r in zip(corners, corners[1:], corners[2:], strict=False)
        )  # q lies above the line from p to r
        return len(pairs) > len(corners) and bulges and beside and above and bool(apart)

    return redraw(lambda: scattered(g, n, fine), many_ties)


def case(g: torch.Generator, n: int, dtype: torch.dtype = torch.float32, least: int = 5) -> Case:
    def unsorted(drawn: tuple[Tensor, Tensor]) -> bool:
        chosen = along(*drawn)
        return len(chosen) >= least and not torch.equal(chosen, chosen.sort().values)

    return call(*(x.to(dtype) for x in redraw(lambda: scattered(g, n), unsorted)))


@front.stage(
    "who is beaten",
    points=1,
    exposes="A point is beaten by one that is at most as costly and at most as lossy, and better in one of both. The others are the front, by rising cost: all of them, "
    "also those above the straight line between two others.",
)
def _(g):
    yield case(g, 14)
    yield case(g, 40)
    yield case(g, 60, torch.float64)


@front.stage(
    "equal costs, equal losses",
    points=1,
    exposes="Of points that are equally costly, only the least lossy can be on it, and of those that are equally lossy only the least costly. Points that are equal in "
    "both beat each other not: all are on it, by rising index.",
)
def _(g):
    yield call(*on_a_grid(g, 24, 6))
    yield call(*on_a_grid(g, 40, 8))
    yield call(*on_a_grid(g, 70, 12))


def marked(g: torch.Generator, n: int, *values: tuple[float, float]) -> Case:
    """Points, and among them some that hold what is no usual number."""
    costs, losses = redraw(lambda: scattered(g, n), lambda drawn: len(along(*drawn)) > 3)
    places = torch.randperm(n, generator=g)[: len(values)]
    for i, (cost, loss) in zip(places.tolist(), values, strict=True):
        costs[i] = costs[i] if cost is None else cost
        losses[i] = losses[i] if loss is None else loss
    return call(costs, losses)


NAN, INF = math.nan, math.inf


@front.stage(
    "NaN and infinity",
    points=1,
    exposes="What is NaN in either is never on the front, and beats nothing. Infinity is a number: a loss of infinity is beaten by any other at that cost, and is on the "
    "front if nothing else is as cheap.",
)
def _(g):
    yield marked(g, 20, (NAN, -1.0), (None, NAN))
    yield marked(g, 20, (-1.0, NAN), (NAN, NAN))
    yield marked(g, 18, (-0.5, INF), (-0.4, INF))  # the second is beaten by the first alone
    yield marked(g, 18, (INF, -0.5), (INF, -0.4), (INF, INF))
    yield marked(g, 18, (-INF, 2.0), (NAN, -INF), (0.5, -INF))
    both = torch.rand(3, generator=g)
    yield call(torch.tensor([INF, NAN, INF]), torch.tensor([INF, both[0].item(), INF]))
    yield call(torch.full((4,), NAN), torch.rand(4, generator=g))


@front.stage(
    "few points, any type",
    points=1,
    exposes="No points have an empty front, of int64. Costs may be whole numbers such as bytes, which float32 cannot tell apart. The arguments stay as they are.",
    pure=True,
)
def _(g):
    yield call(torch.empty(0), torch.empty(0))
    yield call(torch.rand(1, generator=g), torch.rand(1, generator=g))

    def bytes_of_many():
        return 4 * 10**9 + torch.randperm(100, generator=g)[:25], scattered(g, 25)[1]

    def told_apart(drawn: tuple[Tensor, Tensor]) -> bool:
        return len(along(*drawn)) > 3

    yield call(*redraw(bytes_of_many, told_apart))
    costs, losses = scattered(g, 30)
    yield call((10**6 * costs).long(), (10**6 * losses).long())
    wide = 1 + 1e-9 * torch.randperm(60, generator=g)[:20].double()
    yield call(wide, scattered(g, 20)[1])


def varied(name: str, says: str, **parts) -> None:
    front.misconception(name, says)(lambda *args: along(*args, **parts))


varied(
    "better in both",
    "You say that a point must be better in both to beat another one. No worse in both and better in one is enough.",
    dominates=lambda a, b: a[0] < b[0] and a[1] < b[1],
)
varied(
    "no worse in both",
    "Your equal points beat each other, so that none of them is left. One of both must be better.",
    dominates=lambda a, b: a[0] <= b[0] and a[1] <= b[1],
)
varied(
    "cheaper and no worse",
    "You left points of equal cost. Of these the less lossy one beats the others.",
    dominates=lambda a, b: a[0] < b[0] and a[1] <= b[1],
)
varied(
    "no dearer and better",
    "You left points of equal loss. Of these the cheaper one beats the others.",
    dominates=lambda a, b: a[0] <= b[0] and a[1] < b[1],
)
varied(
    "better in one",
    "You say that a point beats another one as soon as it is better in one of both. It must be no worse in the other.",
    dominates=lambda a, b: a[0] < b[0] or a[1] < b[1],
)
varied(
    "more is better",
    "You took a larger loss for a better one.",
    dominates=lambda a, b: a[0] <= b[0] and a[1] >= b[1] and a != b,
)
varied("by index", "You return indices by rising index. They are by rising cost.", rank=lambda point, i: i)
varied(
    "by falling cost",
    "You return the costliest first, which is the least lossy. The cheapest comes first.",
    rank=lambda point, i: (-point[0], i),
)
varied(
    "equal ones backwards",
    "Of equal points you return the last one first. They are by rising index.",
    rank=lambda point, i: (point[0], -i),
)
varied(
    "NaN of losses only",
    "You took out NaN of losses only. A cost may be NaN too.",
    counts=lambda point: not math.isnan(point[1]),
)
varied(
    "NaN of costs only",
    "You took out NaN of costs only. A loss may be NaN too.",
    counts=lambda point: not math.isnan(point[0]),
)
varied(
    "NaN in both only",
    "You took out points that are NaN in both. One of both is enough.",
    counts=lambda point: not (math.isnan(point[0]) and math.isnan(point[1])),
)
varied("NaN left", "You left NaN: a comparison with it is False, so nobody beats it.", counts=lambda point: True)
varied("finite only", "You took out infinity. It is a number.", counts=lambda point: all(map(math.isfinite, point)))
varied(
    "NaN as 0",
    "You took NaN for 0, so that it beats others.",
    counts=lambda point: True,
    read=lambda x: x.nan_to_num(0.0, posinf=INF, neginf=-INF).tolist() if x.is_floating_point() else x.tolist(),
)
varied(
    "NaN as infinity",
    "You took NaN for infinity. Such a point is on the front if it is the best in the other.",
    counts=lambda point: True,
    read=lambda x: [INF if value != value else value for value in x.tolist()],
)
varied("in float32", "You compared in float32. It cannot tell apart what the arguments can.", read=lambda x: x.float().tolist())
varied("int32", "Your indices are int32. Return int64.", result=lambda chosen: torch.tensor(chosen, dtype=torch.int32))
varied("no type for none", "An empty front is int64 too.", result=lambda chosen: torch.tensor(chosen))
varied(
    "without the ends",
    "You left out the two ends. The cheapest and the least lossy point are on the front.",
    result=lambda chosen: torch.tensor(chosen[1:-1], dtype=torch.int64),
)


@front.misconception("a mask", "You return who is on the front as a mask. Return indices.")
def _(costs, losses):
    return torch.zeros(len(costs), dtype=torch.bool).index_fill(0, along(costs, losses), True)


@front.misconception("costs", "You return the costs of the front. Return indices.")
def _(costs, losses):
    return costs[along(costs, losses)]


@front.misconception("places in the order", "You return places in the sorted order. Return indices of the arguments.")
def _(costs, losses):
    order = costs.argsort(stable=True)
    return along(costs[order], losses[order])


@front.misconception("one of equal ones", "Of equal points you keep the first. All are on the front.")
def _(costs, losses):
    seen = {}
    for i in along(costs, losses).tolist():
        seen.setdefault((costs[i].item(), losses[i].item()), i)
    return torch.tensor(list(seen.values()), dtype=torch.int64)


@front.misconception(
    "the lower hull",
    "You return the lower convex hull. A point above the line between two others is on the front if no single point beats it.",
)
def _(costs, losses):
    hull = []
    for i in along(costs, losses).tolist():
        x, y = costs[i].item(), losses[i].item()
        while len(hull) > 1:
            (a, b), (c, d) = ((costs[j].item(), losses[j].item()) for j in hull[-2:])
            if (d - b) * (x - a) <= (y - b) * (c - a):
                break
            hull.pop()
        hull.append(i)
    return torch.tensor(hull, dtype=torch.int64)


@front.accepts("point by point, in torch")
def _(costs, losses):
    kept = []
    for i, (cost, loss) in enumerate(zip(costs, losses, strict=True)):
        rivals = torch.logical_and(costs.le(cost), losses.le(loss))
        alike = torch.logical_and(costs.eq(cost), losses.eq(loss))
        if alike[i] and torch.equal(rivals, alike):  # NaN is not like itself
            kept.append((cost.item(), i))
    return torch.tensor([i for _, i in sorted(kept)], dtype=torch.int64)


@front.accepts("sorted, and the least loss so far")
def _(costs, losses):
    points = [(c, y, i) for i, (c, y) in enumerate(zip(costs.tolist(), losses.tolist(), strict=True)) if c == c and y == y]
    chosen, last = [], (None, math.inf)
    for c, y, i in sorted(points):
        if y < last[1] or (c, y) == last or not chosen:
            chosen.append(i)
            last = c, y
    return torch.tensor(chosen, dtype=torch.long)


@front.accepts("numpy's lexsort")
def _(costs, losses):
    c, y = costs.numpy(), losses.numpy()
    order = np.lexsort((np.arange(len(c)), y, c))
    order = order[~(np.isnan(c[order]) | np.isnan(y[order]))]
    kept = [i for n, i in enumerate(order) if not any((c[j], y[j]) != (c[i], y[i]) and y[j] <= y[i] for j in order[:n])]
    return torch.from_numpy(np.array(kept, dtype=np.int64))
