"""Exercise 3.5: one weight goes, all others make up for it."""

import torch

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.optimal_brain.fixtures import inverse, redraw, weights
from autograder.exercises.optimal_brain.step_mistakes import SCORES, mistakes
from autograder.inside.case import call
from sparsity_edu.weights import optimal_brain


def obs_step(w, Hinv):
    saliency = optimal_brain.surgeon_saliency(w, Hinv).masked_fill(Hinv.diagonal() == 0, torch.inf)
    q = int(saliency.argmin())
    return optimal_brain.surgeon_step(w, Hinv, q), q


step = Exercise(
    "optimal_brain.step",
    defines="obs_step",
    title="One weight goes, all others make up for it",
    minutes=15,
    difficulty=2,
    hints=(
        "Two formulas from the box: the saliency says which weight q goes, and column q of the inverse says how all "
        "others move. A weight that is gone has a zero on the diagonal and must not be chosen.",
        "Its saliency would be 0 / 0, which is NaN: put infinity there before you look for the smallest. All weights move "
        "at once, by minus `w[q] / Hinv[q, q] * Hinv[:, q]`. Entry q of this is w_q itself, but only up to rounding.",
        "With `d = Hinv.diagonal()`: `saliency = (w.square() / d / 2).masked_fill(d == 0, torch.inf)`, and `q = "
        "int(saliency.argmin())`. Subtract the step from w, which makes a new tensor, then write an exact 0 at q. Return "
        "the tensor and q.",
    ),
    reference=obs_step,
    rules=Rules(tolerance=1e-8, exact_zeros=True),
    misconceptions=mistakes,
)


def telling(make, apart: tuple[str, ...]):
    """A case in which the right score and the named ones choose different weights, each its own."""
    while True:
        w, Hinv = make()
        d = Hinv.diagonal()
        chosen = {name: int(score(w, Hinv, d).masked_fill(d == 0, torch.inf).argmin()) for name, score in SCORES.items()}
        if len({chosen[name] for name in ("right", *apart)}) == 1 + len(apart):
            return call(w, even(w, Hinv))


def even(w, Hinv):
    """The inverse in units in which that of the weight that goes is 4: it comes out as 0 also without rounding up."""
    q = obs_step(w, Hinv)[1]
    return Hinv / Hinv[q, q] * 4


@step.stage(
    "removes the weight that costs least",
    points=1,
    exposes="The cost is 1/2 w_q^2 / [H^-1]_qq. Here H is diagonal: nothing else moves, and the choice is all there is.",
)
def _(g):
    def make():
        return weights(g, 9), torch.diag(2.0 ** torch.randint(-2, 4, (9,), generator=g)).double()

    yield call(weights(g, 4), torch.diag(torch.tensor([0.5, 2.0, 8.0, 1.0], dtype=torch.float64)))
    yield telling(make, ("magnitude", "times the inverse"))
    yield telling(make, ("inverse squared", "signed"))


@step.stage(
    "chooses by the inverse and moves all others",
    points=2,
    exposes="[H^-1]_qq is not 1 / H_qq once weights depend on each other, and dw = -w_q / [H^-1]_qq times column q of H^-1.",
)
def _(g):
    w = weights(g, 3)
    yield call(w, even(w, inverse(g, 3)))
    Hinv = inverse(g, 150)
    w = redraw(lambda: weights(g, 150), lambda w: obs_step(w, Hinv)[1] >= 130)
    yield call(w, even(w, Hinv))
    yield telling(lambda: (weights(g, 6), inverse(g, 6)), ("chooses by OBD",))
    yield telling(lambda: (weights(g, 14), inverse(g, 14)), ("chooses by OBD", "inverse squared", "magnitude"))
    yield telling(lambda: (weights(g, 25), inverse(g, 25)), ("by the whole column", "times the inverse"))


@step.stage(
    "leaves removed weights removed",
    points=1,
    exposes="A weight that is gone has zeros in its row and column of H^-1: it is never chosen again (0 / 0 is NaN, and argmin finds NaN), "
    "and it stays exactly 0, as does the one that goes now. w and Hinv do not change.",
    pure=True,
)
def _(g):
    def leaves_rest(drawn):
        """Whether rounding leaves something of the weight that goes, in whatever order one computes."""
        w, Hinv = drawn
        _, q = obs_step(w, Hinv)
        value, pivot = w[q], Hinv[q, q]
        return (value - value / pivot * pivot) * (value - pivot / pivot.sqrt() * (value / pivot.sqrt())) != 0

    for d, gone in ((5, (0,)), (9, (1, 4, 8)), (12, (0, 2, 3, 5, 7, 9, 10, 11)), (4, (0, 1, 3))):
        yield call(*redraw(lambda d=d, gone=gone: (weights(g, d, gone), inverse(g, d, gone=gone)), leaves_rest))
    yield telling(lambda: (weights(g, 13, (4, 9)), inverse(g, 13, gone=(4, 9))), ("chooses by OBD", "inverse squared"))
    small = redraw(lambda: (weights(g, 6, (2,)), 1e-6 * inverse(g, 6, gone=(2,))), lambda drawn: obs_step(*drawn)[1] > 0)
    yield call(*small)  # and not gone
    w, Hinv = weights(g, 7, (3,)), inverse(g, 7, gone=(3,))
    yield call(1e-12 * w, 1e-30 * Hinv)
    yield call(1e12 * w, 1e-20 * Hinv)
    w[int(torch.randint(3, (), generator=g))] = 0.0  # and not gone: to remove it costs nothing
    yield call(w, Hinv)
    w, Hinv = weights(g, 9), inverse(g, 9)
    q = obs_step(w, Hinv)[1]
    order = torch.cat([torch.arange(9), torch.tensor([q])])  # a second one like that which goes, and 1e-10 dearer
    twins, values = torch.zeros(10, 10, dtype=w.dtype), w[order]
    twins[:9, :9], twins[9, 9] = Hinv, Hinv[q, q]
    values[9] *= 1 - 1e-10
    yield call(values, twins)


@step.accepts("constraint solved on the Hessian")
def _(w, Hinv):
    here = Hinv.diagonal() > 0
    H = torch.linalg.inv(Hinv[here][:, here])
    positions = here.nonzero().flatten()
    best = None
    for i in range(len(positions)):
        others = torch.arange(len(positions)) != i
        move = torch.zeros(len(positions), dtype=w.dtype)
        move[i] = -w[positions[i]]
        move[others] = -torch.linalg.solve(H[others][:, others], H[others, i] * move[i])
        cost = move @ H @ move / 2
        if best is None or cost < best[0]:
            best = cost, i, move
    _, i, move = best
    moved = w.clone()
    moved[positions] += move
    moved[positions[i]] = 0
    return moved, positions[i]


@step.accepts("as in the official Optimal Brain Compression")
def _(w, Hinv):
    w, mask = w.clone(), torch.diag(Hinv) == 0
    diag = torch.diag(Hinv).clone()
    diag[mask] = 1
    scores = w**2 / diag
    scores[mask] = float("inf")
    j = torch.argmin(scores, 0)
    w -= Hinv[j, :] * (w[j] / diag[j])
    mask[j] = True
    w[mask] = 0
    return w, j


@step.accepts("numpy and a loop")
def _(w, Hinv):
    values, inverse = w.numpy(), Hinv.numpy()
    costs = {q: values[q] ** 2 / (2 * inverse[q, q]) for q in range(len(values)) if inverse[q, q] != 0}
    q = min(costs, key=costs.get)
    moved = values - values[q] * inverse[q] / inverse[q, q]
    moved[q] = 0
    return torch.from_numpy(moved), q
