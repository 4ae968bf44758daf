"""Exercise 13.4: training."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F

from autograder.checking.exercise import Exercise
from autograder.exercises.deja_vu.fixtures import normal, redraw
from autograder.exercises.deja_vu.train_mistakes import mistakes
from autograder.exercises.deja_vu.variants import shares, trained
from autograder.inside.case import Case, call


def reference(A, B, batches, held_out, epochs, rate=1e-3, extra=0.005):
    return trained(A, B, batches, held_out, epochs, rate, extra)


train = Exercise(
    "deja_vu.train",
    defines="train_predictor",
    title="Training",
    minutes=20,
    difficulty=3,
    hints=(
        "An ordinary training loop on copies of the two matrices, with your predictor and your loss. After each epoch the "
        "held-out tokens are looked at, and if the recall is the best so far, the weights are copied once more.",
        "Make leaf copies that require gradients, and one AdamW for both. In an epoch each batch is one step. Then, without "
        "gradients, `predict(states, A, B) >= 0` says what is predicted; count hits, needed and predicted units over all "
        "tokens. Keep copies when the recall is above the best until now, and stop above 0.99.",
        "`A, B = (W.clone().requires_grad_() for W in (A, B))`; `optimizer = torch.optim.AdamW([A, B], lr=rate, "
        "weight_decay=0.01)`; for each epoch and batch `optimizer.zero_grad()`, `weighted_loss(predict(x, A, B), y, "
        "extra).backward()`, `optimizer.step()`; then `hits = (said & labels).sum()` and its quotients, and `kept = "
        "A.detach().clone(), B.detach().clone()`.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


def case(
    g: torch.Generator,
    epochs: int,
    *settings: float,
    inputs=6,
    rank=3,
    units=5,
    sizes=(7, 9, 5),
    held=23,
    start=0.7,
    lean=0.0,
    size=1.0,
    blank=False,
    wanted=lambda *_: True,
    dtype=torch.float64,
    **more,
) -> Case:
    """Labels that a predictor of that rank can mostly learn; drawn until the curve shows what the case is there to show."""

    def draw() -> Case:
        A, B = normal(g, rank, inputs, dtype=torch.float64), normal(g, units, rank, dtype=torch.float64)
        x = normal(g, sum(sizes) + held, inputs, dtype=torch.float64)
        x[:, 0] = 1
        if blank:  # the last token's logits are exactly 0
            x[-1] = 0
        teacher = normal(g, units, rank, dtype=torch.float64) @ normal(g, rank, inputs, dtype=torch.float64)
        score = x @ teacher.T + 0.3 * normal(g, len(x), units, dtype=torch.float64)
        y = score > score.quantile(0.7)
        parts = list(zip((size * x).split([*sizes, held]), y.split([*sizes, held]), strict=True))
        parts = [(states.to(dtype, copy=True), labels.clone()) for states, labels in parts]
        first = start * A / inputs**0.5
        if lean:
            first[:, 0], B = 1, B * 0.1 + lean / rank
        return call(first.to(dtype), (B / rank**0.5).to(dtype), parts[:-1], parts[-1], epochs, *settings, **more)

    def accept(made: Case) -> bool:
        with_labels = bool(made.args[3][1].any()) and all(bool(y.any()) for _, y in made.args[2])
        return with_labels and wanted(*curve_of(made.args, made.kwargs)) and (dtype == torch.float64 or sure(made))

    return redraw(draw, accept)


def sure(made: Case) -> bool:
    """Whether rounding to float32 decides nothing: no gradient of AdamW's first steps is as small as that."""
    A, B, batches, (states, labels), *rest = made.args
    wide = ([(x.double(), y) for x, y in batches], (states.double(), labels), *rest)
    (*mine, curve), (*exact, right) = trained(*made.args, **made.kwargs), trained(A.double(), B.double(), *wide, **made.kwargs)
    return curve == right and all(((a - b).abs() < 1e-6 * b.abs().max()).all() for a, b in zip(mine, exact, strict=True))


def curve_of(args: tuple, keywords: dict) -> tuple[list, list, float]:
    """The points of the curve, the losses beside them, and the recall before training."""
    losses: list[float] = []

    def noted(point, loss):
        losses.append(loss)
        return point[0]

    A, B, _, (states, labels), *_ = args
    return trained(*args, **keywords, worth=noted)[-1], losses, shares((states @ A.T) @ B.T >= 0, labels)[0]


def patterned(g: torch.Generator, counts: dict[str, int], *settings, **more) -> Case:
    """Held-out labels chosen so that of the needed units so many are predicted (y) or not (n) after each of the first epochs."""

    def draw() -> Case | None:
        made, masks = case(g, *settings, **more), []
        A, B, batches, (states, labels), *rest = made.args

        def noted(said, labels):
            masks.append(said)
            return shares(said, labels)

        trained(*made.args, **made.kwargs, measure=noted, enough=lambda worth: False)
        needed = torch.zeros_like(labels)
        for pattern, count in counts.items():
            fits = torch.stack([mask == (letter == "y") for mask, letter in zip(masks, pattern, strict=False)]).all(dim=0)
            places = fits.flatten().nonzero().view(-1)
            if len(places) < count:
                return None
            needed.view(-1)[places[torch.randperm(len(places), generator=g)[:count]]] = True
        return replace(made, args=(A, B, batches, (states, needed), *rest))

    def accept(made: Case | None) -> bool:
        if made is None:
            return False
        curve, _, untrained = curve_of(made.args, made.kwargs)
        return untrained < max(recalls(curve))

    return redraw(draw, accept)


def recalls(curve: list) -> list[float]:
    return [point[0] for point in curve]


def gains(curve: list, losses: list, untrained: float) -> bool:
    """Whether all shares move, none is 0 or 1, recall never falls, and the last epoch is the best by every measure."""
    r, p = recalls(curve), [point[1] for point in curve]
    return (
        all(0 < value < 1 for point in curve for value in point)
        and untrained < max(r) <= 0.99
        and r == sorted(r)
        and all(max(values) == values[-1] and values.count(values[-1]) == 1 for values in (r, p, [-loss for loss in losses]))
    )


def peaks(curve: list, losses: list, untrained: float) -> bool:
    """Whether recall is best in the middle, less than six epochs before the end, then again as good, and falls on its way and at
    the end; loss and precision are best at another time."""
    r, p = recalls(curve), [point[1] for point in curve]
    best = r.index(max(r))
    return (
        max(1, len(r) - 6) <= best < len(r) - 2
        and r.count(max(r)) > 1
        and r[-1] < max(r)
        and any(r[i] < max(r[:i]) for i in range(1, len(r) - 1))
        and untrained < max(r) <= 0.99
        and losses.index(min(losses)) != best
        and p.index(max(p)) != best
    )


def falls_and_ends(curve: list, losses: list, untrained: float) -> bool:
    """Whether recall falls on its way, and training ends early all the same."""
    r = recalls(curve)
    return 3 <= len(r) <= 9 and r[-1] > 0.99 and r != sorted(r)


@train.stage(
    "one step",
    points=1,
    exposes="A step is that of AdamW, with a weight decay of 0.01, on the weighted loss of a batch, for both matrices. "
    "Recall, precision and sparsity are those of the held-out tokens.",
)
def _(g):
    yield case(g, 1, 0.02, sizes=(11,), blank=True, wanted=gains)
    yield case(g, 1, 0.05, 0.3, sizes=(8,), inputs=5, rank=4, units=7, wanted=gains)
    yield case(g, 1, sizes=(13,), inputs=7, rank=2, units=6, wanted=gains)
    yield case(g, 1, 0.03, 0.1, sizes=(12,), dtype=torch.float32, wanted=gains)


@train.stage(
    "epochs",
    points=1,
    exposes="An epoch is one step for each batch, in their order, and the optimiser goes on from epoch to epoch. There is a "
    "point of the curve after each.",
)
def _(g):
    yield case(g, 2, 0.05, wanted=gains)
    yield case(g, 3, 0.03, 0.02, wanted=gains)
    yield case(g, 4, 0.02, extra=0.1, inputs=5, rank=2, units=8, sizes=(6, 4), wanted=gains)


@train.stage(
    "the best weights",
    points=2,
    exposes="The weights returned are those of the epoch with the highest recall, the first of equal ones, as they were then.",
)
def _(g):
    yield case(g, 7, 0.25, 0.05, held=9, wanted=peaks)
    yield case(g, 8, 0.2, 0.02, inputs=4, rank=2, units=6, held=8, wanted=peaks)
    # worse than before training, which does not count
    yield case(
        g,
        3,
        0.1,
        0.0,
        lean=3.0,
        held=31,
        wanted=lambda curve, _, untrained: max(recalls(curve)) < untrained and len(set(recalls(curve))) > 1,
    )


@train.stage(
    "an early end, and nothing predicted",
    points=1,
    exposes="Training ends after an epoch whose recall is above 0.99, and not before, gain or no gain. Where nothing is predicted precision "
    "is 1.",
)
def _(g):
    yield case(g, 9, 0.02, 0.01, lean=2.0, held=10, wanted=lambda curve, *_: len(curve) == 1)
    yield case(g, 12, 0.1, 0.01, held=6, wanted=falls_and_ends)
    # recalls of 0.985, not enough, and 0.995, enough without being all; gradients so large that a limit on them would show
    yield patterned(g, {"yy": 197, "ny": 2, "nn": 1}, 4, 0.1, held=160, size=10.0)
    # five epochs without a gain, and then one
    yield patterned(g, {"yyyyyyy": 10, "ynnnnnn": 1, "nnnnnny": 2}, 7, 0.05, held=160)
    yield case(g, 2, 0.001, 0.1, lean=-6.0, wanted=lambda curve, *_: curve[-1][2] == 1)


@train.stage(
    "leaves its arguments alone",
    points=1,
    exposes="Copies of the matrices are trained. What you return needs no gradient, and the batches stay as they are.",
    pure=True,
)
def _(g):
    yield case(g, 2, 0.05, 0.02, wanted=gains)


@train.accepts("a model of torch, its state kept")
def _(A, B, batches, held_out, epochs, rate=1e-3, extra=0.005):
    model = torch.nn.Sequential(
        torch.nn.Linear(A.shape[1], len(A), bias=False, dtype=A.dtype),
        torch.nn.Linear(len(A), len(B), bias=False, dtype=B.dtype),
    )
    model.load_state_dict({"0.weight": A, "1.weight": B})
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    curve, best = [], -1.0
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            w = y.to(x.dtype).mean() + extra
            F.binary_cross_entropy_with_logits(model(x), y.to(x.dtype), weight=torch.where(y, 1.0, w)).backward()
            optimizer.step()
        with torch.no_grad():
            said, labels = model(held_out[0]).sigmoid() >= 0.5, held_out[1]
        hits = (said & labels).sum().item()
        recall = hits / labels.sum().item()
        curve.append((recall, hits / max(1, said.sum().item()) if said.any() else 1.0, 1 - said.sum().item() / said.numel()))
        if recall > best:
            best, state = recall, {name: W.clone() for name, W in model.state_dict().items()}
        if recall > 0.99:
            break
    return state["0.weight"], state["1.weight"], curve


@train.accepts("AdamW by hand")
def _(A, B, batches, held_out, epochs, rate=1e-3, extra=0.005):
    weights, moments, n = [A.clone(), B.clone()], [[torch.zeros_like(W), torch.zeros_like(W)] for W in (A, B)], 0
    curve, kept = [], []
    for _ in range(epochs):
        for x, y in batches:
            n += 1
            h = x @ weights[0].T
            p, w = torch.sigmoid(h @ weights[1].T), y.double().mean() + extra
            d = torch.where(y, p - 1, w * p) / y.numel()
            for i, grad in enumerate(((d @ weights[1]).T @ x, d.T @ h)):
                m, v = moments[i]
                m.mul_(0.9).add_(grad, alpha=0.1)
                v.mul_(0.999).add_(grad * grad, alpha=0.001)
                step = (m / (1 - 0.9**n)) / ((v / (1 - 0.999**n)).sqrt() + 1e-8)
                weights[i] = weights[i] * (1 - rate * 0.01) - rate * step
        said = held_out[0] @ weights[0].T @ weights[1].T >= 0
        curve.append(list(shares(said, held_out[1])))
        kept.append(weights.copy())
        if curve[-1][0] > 0.99:
            break
    best = max(range(len(curve)), key=lambda i: curve[i][0])
    return kept[best][0], kept[best][1], curve


@train.accepts("matrices as parameters, a scan for the best at the end")
def _(A, B, batches, held_out, epochs, rate=1e-3, extra=0.005):
    P = torch.nn.ParameterList([A.clone(), B.clone()])
    optimizer = torch.optim.AdamW(P, lr=rate)  # 0.01 is torch's own
    history = []
    while len(history) < epochs and not (history and history[-1][0][0] > 0.99):
        for x, y in batches:
            z = F.linear(F.linear(x, P[0]), P[1])
            weight = y + ~y * (y.double().mean() + extra)
            loss = (weight * F.softplus(torch.where(y, -z, z))).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        x, y = held_out
        yes = F.linear(F.linear(x, P[0]), P[1]).detach() >= 0
        true = torch.count_nonzero(yes * y)
        point = (true / y.sum(), true / yes.sum() if yes.any() else torch.tensor(1.0), (~yes).double().mean())
        history.append(([float(share.double()) for share in point], P[0].detach().clone(), P[1].detach().clone()))
    best = -math.inf
    for (recall, *_), *weights in history:
        if recall > best:
            best, (first, second) = recall, weights
    return first, second, [point for point, *_ in history]
