"""Exercise 3.5: one weight goes, all others make up for it."""

import torch

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.optimal_brain.fixtures import inverse, redraw, weights
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
    hint="`saliency = w**2 / Hinv.diagonal() / 2`, then `masked_fill(Hinv.diagonal() == 0, torch.inf)`, and `q = int(saliency.argmin())`. "
    "The update is one line, `w - w[q] / Hinv[q, q] * Hinv[:, q]`, and a second one makes the 0 at q exact.",
    reference=obs_step,
    rules=Rules(tolerance=1e-8, exact_zeros=True),
)


SCORES = {
    "right": lambda w, Hinv, d: w**2 / d,
    "magnitude": lambda w, Hinv, d: w.abs(),
    "times the inverse": lambda w, Hinv, d: w**2 * d,
    "signed": lambda w, Hinv, d: w / d,
    "inverse squared": lambda w, Hinv, d: w**2 / d**2,
    "chooses by OBD": lambda w, Hinv, d: w**2 * hessian(Hinv).diagonal(),
    "by the whole column": lambda w, Hinv, d: w**2 / Hinv.norm(dim=0),
}


def hessian(Hinv):
    """H of the weights that are there, zero elsewhere."""
    here = (Hinv.diagonal() != 0).nonzero().flatten()
    H = torch.zeros_like(Hinv)
    H[here[:, None], here] = torch.linalg.inv(Hinv[here[:, None], here])
    return H


def telling(make, apart: tuple[str, ...]):
    """A case in which the right score and the named ones choose different weights, each its own."""
    while True:
        w, Hinv = make()
        d = Hinv.diagonal()
        chosen = {name: int(score(w, Hinv, d).masked_fill(d == 0, torch.inf).argmin()) for name, score in SCORES.items()}
        if len({chosen[name] for name in ("right", *apart)}) == 1 + len(apart):
            return call(w, Hinv)


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
    yield call(weights(g, 3), inverse(g, 3))
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
    small = redraw(lambda: (weights(g, 6, (2,)), 1e-6 * inverse(g, 6, gone=(2,))), lambda drawn: obs_step(*drawn)[1] > 0)
    yield call(*small)  # and not gone


def remove(w, Hinv, cost=SCORES["right"], move=lambda w, Hinv, q: -w[q] / Hinv[q, q] * Hinv[:, q], gone=True):
    """`obs_step` with its parts exchangeable, for mistakes in one part."""
    d = Hinv.diagonal()
    saliency = cost(w, Hinv, d)
    q = int((saliency.masked_fill(d == 0, torch.inf) if gone else saliency).argmin())
    w = w + move(w, Hinv, q)
    w[q] = 0
    return w, q


@step.misconception(
    "magnitude", "You remove the smallest weight. Its cost is 1/2 w_q^2 / [H^-1]_qq, which a large weight may have least of."
)
def _(w, Hinv):
    return remove(w, Hinv, cost=SCORES["magnitude"])


@step.misconception(
    "times the inverse",
    "You multiplied with [H^-1]_qq. OBS divides: where the inverse is large, the others can stand in for this weight.",
)
def _(w, Hinv):
    return remove(w, Hinv, cost=SCORES["times the inverse"])


@step.misconception("signed", "Your saliency keeps the sign of the weight, so a negative one goes first. Square it.")
def _(w, Hinv):
    return remove(w, Hinv, cost=SCORES["signed"])


@step.misconception(
    "inverse squared",
    "You divided by [H^-1]_qq squared (or |w_q| by [H^-1]_qq, which ranks the same). That square belongs to the Cholesky factor of the "
    "inverse (unit 04), whose diagonal is a root.",
)
def _(w, Hinv):
    return remove(w, Hinv, cost=SCORES["inverse squared"])


@step.misconception(
    "by the whole column",
    "You divided by the length of column q. Only its entry at q counts, [H^-1]_qq: the others say where the rest of the weights go.",
)
def _(w, Hinv):
    return remove(w, Hinv, cost=SCORES["by the whole column"])


@step.misconception(
    "removes the dearest", "You remove the weight of largest saliency, the one that the loss minds most: argmin, not argmax."
)
def _(w, Hinv):
    return remove(w, Hinv, cost=lambda w, Hinv, d: -(w**2) / d)


@step.misconception(
    "chooses by OBD",
    "You chose by 1/2 H_qq w_q^2, Optimal Brain Damage's saliency. OBS divides by the diagonal of the *inverse*: what remains of the cost "
    "once the others have made up for the weight.",
)
def _(w, Hinv):
    return remove(w, Hinv, cost=SCORES["chooses by OBD"])


@step.misconception(
    "nothing moves",
    "You only set w_q to zero. The others have to make up for it: w - w_q / [H^-1]_qq H^-1[:, q].",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: 0)


@step.misconception(
    "wrong direction",
    "The others move the wrong way: dw has a minus sign. (At q itself it must give -w_q.)",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: w[q] / Hinv[q, q] * Hinv[:, q])


@step.misconception(
    "not divided by the pivot",
    "dw is -w_q H^-1[:, q] *divided by* [H^-1]_qq: without it the step does not end at w_q = 0.",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: -w[q] * Hinv[:, q])


@step.misconception(
    "divided by the square",
    "You divided by [H^-1]_qq twice in the update. Once: the step must end at w_q = 0.",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: -w[q] / Hinv[q, q] ** 2 * Hinv[:, q])


@step.misconception(
    "the Hessian's column",
    "You moved the others along a column of H. It is a column of the *inverse*.",
)
def _(w, Hinv):
    def move(w, Hinv, q):
        H = hessian(Hinv)
        return -w[q] / H[q, q] * H[:, q]

    return remove(w, Hinv, move=move)


@step.misconception(
    "half in the update",
    "The half belongs to the saliency only. Half an update leaves half of the error in place.",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: -w[q] / Hinv[q, q] * Hinv[:, q] / 2)


@step.misconception(
    "each by its own weight",
    "You moved each weight in proportion to *itself*. All move in proportion to w_q, the weight that goes.",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: -w * Hinv[:, q] / Hinv[q, q])


@step.misconception(
    "each by its own pivot",
    "You divided each entry of the column by its own diagonal entry. All are divided by the same number, [H^-1]_qq.",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: (-w[q] * Hinv[:, q] / Hinv.diagonal()).nan_to_num())


@step.misconception(
    "index missing",
    "You return the weights only. Two values are asked for: the new weights and the index q of the one that went.",
)
def _(w, Hinv):
    return remove(w, Hinv)[0]


@step.misconception(
    "the saliency instead of the index",
    "The second value you return is the saliency. Return q, the index of the weight that goes.",
)
def _(w, Hinv):
    moved, q = remove(w, Hinv)
    return moved, float(w[q] ** 2 / Hinv[q, q] / 2)


@step.misconception(
    "chosen again",
    "A weight that is gone is chosen again: its saliency is 0 / 0, and argmin takes the NaN. Give weights with [H^-1]_qq = 0 an infinite "
    "saliency.",
)
def _(w, Hinv):
    return remove(w, Hinv, gone=False)


@step.misconception(
    "small taken for gone",
    "You take a small [H^-1]_qq for a weight that is gone. How small it is depends on the units of the loss: only an exact zero says gone.",
)
def _(w, Hinv):
    return remove(w, Hinv, cost=lambda w, Hinv, d: (w**2 / d).masked_fill(d < 1e-4, torch.inf))


@step.misconception(
    "epsilon in the denominator",
    "A small number in the denominators avoids the NaN but gives a weight that is gone the saliency 0: it is chosen again. Give it infinity.",
)
def _(w, Hinv):
    d = Hinv.diagonal() + 1e-12
    q = int((w**2 / d).argmin())
    moved = w - w[q] / d[q] * Hinv[:, q]
    moved[q] = 0
    return moved, q


@step.misconception(
    "not exactly zero",
    "w_q is zero up to rounding only. 1e-17 is not pruned: write w[q] = 0 after the update.",
)
def _(w, Hinv):
    _, q = remove(w, Hinv)
    return w - w[q] / Hinv[q, q] * Hinv[:, q], q


@step.misconception("in place", "You changed w itself. Work on a copy: `w = w - ...` makes one, `w -= ...` does not.")
def _(w, Hinv):
    moved, q = remove(w, Hinv)
    return w.copy_(moved), q


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
