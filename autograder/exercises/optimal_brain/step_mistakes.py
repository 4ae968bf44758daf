"""Mistakes of exercise 3.5, and the right answer that they vary."""

import torch

from autograder.checking.exercise import Mistakes

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


def remove(w, Hinv, cost=SCORES["right"], move=lambda w, Hinv, q: -w[q] / Hinv[q, q] * Hinv[:, q], gone=True):
    """`obs_step` with its parts exchangeable, for mistakes in one part."""
    d = Hinv.diagonal()
    saliency = cost(w, Hinv, d)
    q = int((saliency.masked_fill(d == 0, torch.inf) if gone else saliency).argmin())
    w = w + move(w, Hinv, q)
    w[q] = 0
    return w, q


mistakes = Mistakes()


@mistakes(
    "magnitude", "You remove the smallest weight. Its cost is 1/2 w_q^2 / [H^-1]_qq, which a large weight may have least of."
)
def _(w, Hinv):
    return remove(w, Hinv, cost=SCORES["magnitude"])


@mistakes(
    "times the inverse",
    "You multiplied with [H^-1]_qq. OBS divides: where the inverse is large, the others can stand in for this weight.",
)
def _(w, Hinv):
    return remove(w, Hinv, cost=SCORES["times the inverse"])


@mistakes("signed", "Your saliency keeps the sign of the weight, so a negative one goes first. Square it.")
def _(w, Hinv):
    return remove(w, Hinv, cost=SCORES["signed"])


@mistakes(
    "inverse squared",
    "You divided by [H^-1]_qq squared (or |w_q| by [H^-1]_qq, which ranks the same). That square belongs to the Cholesky factor of the "
    "inverse (unit 04), whose diagonal is a root.",
)
def _(w, Hinv):
    return remove(w, Hinv, cost=SCORES["inverse squared"])


@mistakes(
    "by the whole column",
    "You divided by the length of column q. Only its entry at q counts, [H^-1]_qq: the others say where the rest of the weights go.",
)
def _(w, Hinv):
    return remove(w, Hinv, cost=SCORES["by the whole column"])


@mistakes(
    "removes the dearest", "You remove the weight of largest saliency, the one that the loss minds most: argmin, not argmax."
)
def _(w, Hinv):
    return remove(w, Hinv, cost=lambda w, Hinv, d: -(w**2) / d)


@mistakes(
    "chooses by OBD",
    "You chose by 1/2 H_qq w_q^2, Optimal Brain Damage's saliency. OBS divides by the diagonal of the *inverse*: what remains of the cost "
    "once the others have made up for the weight.",
)
def _(w, Hinv):
    return remove(w, Hinv, cost=SCORES["chooses by OBD"])


@mistakes(
    "nothing moves",
    "You only set w_q to zero. The others have to make up for it: w - w_q / [H^-1]_qq H^-1[:, q].",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: 0)


@mistakes(
    "wrong direction",
    "The others move the wrong way: dw has a minus sign. (At q itself it must give -w_q.)",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: w[q] / Hinv[q, q] * Hinv[:, q])


@mistakes(
    "not divided by the pivot",
    "dw is -w_q H^-1[:, q] *divided by* [H^-1]_qq: without it the step does not end at w_q = 0.",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: -w[q] * Hinv[:, q])


@mistakes(
    "divided by the square",
    "You divided by [H^-1]_qq twice in the update. Once: the step must end at w_q = 0.",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: -w[q] / Hinv[q, q] ** 2 * Hinv[:, q])


@mistakes(
    "the Hessian's column",
    "You moved the others along a column of H. It is a column of the *inverse*.",
)
def _(w, Hinv):
    def move(w, Hinv, q):
        H = hessian(Hinv)
        return -w[q] / H[q, q] * H[:, q]

    return remove(w, Hinv, move=move)


@mistakes(
    "half in the update",
    "The half belongs to the saliency only. Half an update leaves half of the error in place.",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: -w[q] / Hinv[q, q] * Hinv[:, q] / 2)


@mistakes(
    "each by its own weight",
    "You moved each weight in proportion to *itself*. All move in proportion to w_q, the weight that goes.",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: -w * Hinv[:, q] / Hinv[q, q])


@mistakes(
    "each by its own pivot",
    "You divided each entry of the column by its own diagonal entry. All are divided by the same number, [H^-1]_qq.",
)
def _(w, Hinv):
    return remove(w, Hinv, move=lambda w, Hinv, q: (-w[q] * Hinv[:, q] / Hinv.diagonal()).nan_to_num())


@mistakes(
    "index missing",
    "You return the weights only. Two values are asked for: the new weights and the index q of the one that went.",
)
def _(w, Hinv):
    return remove(w, Hinv)[0]


@mistakes(
    "the saliency instead of the index",
    "The second value you return is the saliency. Return q, the index of the weight that goes.",
)
def _(w, Hinv):
    moved, q = remove(w, Hinv)
    return moved, float(w[q] ** 2 / Hinv[q, q] / 2)


@mistakes(
    "chosen again",
    "A weight that is gone is chosen again: its saliency is 0 / 0, and argmin takes the NaN. Give weights with [H^-1]_qq = 0 an infinite "
    "saliency.",
)
def _(w, Hinv):
    return remove(w, Hinv, gone=False)


@mistakes(
    "small taken for gone",
    "You take a small [H^-1]_qq for a weight that is gone. How small it is depends on the units of the loss: only an exact zero says gone.",
)
def _(w, Hinv):
    return remove(w, Hinv, cost=lambda w, Hinv, d: (w**2 / d).masked_fill(d < 1e-4, torch.inf))


@mistakes(
    "epsilon in the denominator",
    "A small number in the denominators avoids the NaN but gives a weight that is gone the saliency 0: it is chosen again. Give it infinity.",
)
def _(w, Hinv):
    d = Hinv.diagonal() + 1e-12
    q = int((w**2 / d).argmin())
    moved = w - w[q] / d[q] * Hinv[:, q]
    moved[q] = 0
    return moved, q


@mistakes(
    "not exactly zero",
    "w_q is zero up to rounding only. 1e-17 is not pruned: write w[q] = 0 after the update.",
)
def _(w, Hinv):
    _, q = remove(w, Hinv)
    return w - w[q] / Hinv[q, q] * Hinv[:, q], q


@mistakes("in place", "You changed w itself. Work on a copy: `w = w - ...` makes one, `w -= ...` does not.")
def _(w, Hinv):
    moved, q = remove(w, Hinv)
    return w.copy_(moved), q


@mistakes(
    "zero taken for gone",
    "You take a weight that is 0 for one that is gone. Only a zero on the diagonal of H^-1 says gone; a weight that happens to be 0 costs "
    "nothing, and is the first to go.",
)
def _(w, Hinv):
    return remove(w, Hinv, cost=lambda w, Hinv, d: (w**2 / d).masked_fill(w == 0, torch.inf))


@mistakes(
    "ranked in float32",
    "You rank in float32, in which two saliencies that differ may be the same. Stay in float64.",
)
def _(w, Hinv):
    return remove(w, Hinv, cost=lambda w, Hinv, d: (w**2 / d).float())


def unwritten(name: str, says: str, move):
    """A wrong update as it comes, without a zero written at q."""

    @mistakes(name, says)
    def _(w, Hinv):
        q = remove(w, Hinv)[1]
        return w + move(w, Hinv, q), q


unwritten(
    "not divided by the pivot, nothing written",
    "dw is -w_q H^-1[:, q] *divided by* [H^-1]_qq: look at your result at q, where it should come out as 0.",
    lambda w, Hinv, q: -w[q] * Hinv[:, q],
)
unwritten(
    "divided by the square, nothing written",
    "You divided by [H^-1]_qq twice in the update: look at your result at q, where it should come out as 0.",
    lambda w, Hinv, q: -w[q] / Hinv[q, q] ** 2 * Hinv[:, q],
)
unwritten(
    "wrong direction, nothing written",
    "You add where you should subtract: w_q has doubled, look at your result at q.",
    lambda w, Hinv, q: w[q] / Hinv[q, q] * Hinv[:, q],
)
unwritten(
    "half in the update, nothing written",
    "Half an update leaves half of w_q where it was. The half belongs to the saliency only.",
    lambda w, Hinv, q: -w[q] / Hinv[q, q] * Hinv[:, q] / 2,
)
