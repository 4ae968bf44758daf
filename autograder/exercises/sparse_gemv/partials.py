"""Exercise 16.3: the kernel that skips."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.sparse_gemv.fixtures import (
    ROUNDED,
    THRESHOLD,
    edges,
    faint,
    inputs,
    poisoned,
    product,
    wanted,
    weights,
)
from autograder.inside.case import call


def kernels():
    from autograder.exercises.sparse_gemv import kernels

    return kernels


def partial_sums(W: Tensor, x: Tensor, threshold: float, splits: int) -> Tensor:
    return kernels().parts_of_one(W, x, threshold, splits)


partials = Exercise(
    "sparse_gemv.partials",
    defines="partial_sums",
    title="The kernel that skips",
    minutes=25,
    difficulty=3,
    hints=(
        "A program has a block of outputs and a part of the rows, and goes through its rows a block at a time: first the "
        "inputs, then the weights of those inputs that are large. All the skipping is in the mask of the second load.",
        "Part s has the rows from `s * share` to `min(s * share + share, K)`, with `share = triton.cdiv(K, splits)`. "
        "Compare in float32. The mask of the weights is (ROWS, COLS): the row is live *and* the column exists. An input "
        "that is not live counts as 0, also if it is NaN, and an empty part still stores its zeros.",
        "1. `v = tl.load(x + rows, mask=rows < end, other=0.0).to(tl.float32)`, `live = tl.abs(v) > threshold`, and then "
        "`tl.where(live, v, 0.0)` in place of v.\n"
        "2. The weights: `W + rows[:, None] * N + cols[None, :]`, with `mask=live[:, None] & (cols[None, :] < N)` and "
        "`other=0.0`.\n"
        "3. Add `tl.sum(v[:, None] * w.to(tl.float32), axis=0)` to the total, and after the loop store it at `out + split "
        "* N + cols`. The grid is `(triton.cdiv(N, COLS), splits)`.",
    ),
    reference=partial_sums,
    reads=lambda W, x, threshold, splits: {0: wanted(x, threshold)},
    contiguous=True,
)
LARGE = 1100  # rows or columns: more than a block of 1024, and the other dimension is as small as it can be


def case(W: Tensor, x: Tensor, splits: int, threshold: float = THRESHOLD):
    return call(poisoned(W, wanted(x, threshold)), x, threshold, splits, watched=(0,))


@partials.stage(
    "sums of the rows above the threshold, part by part",
    points=2,
    exposes="Row s of the result is the sum of W[k] x[k] over the rows k of part s with |x[k]| > threshold. A kernel reads every weight of these rows once, and "
    "no other.",
)
def _(g):
    yield call(weights(g, 64, 96), inputs(g, 64), THRESHOLD, 2, watched=(0,), veiled=True)
    yield call(weights(g, 256, 32), 1 + inputs(g, 256).abs(), THRESHOLD, 2, watched=(0,))  # no masked lanes but of columns


@partials.stage(
    "close to the threshold, and what is skipped",
    points=1,
    exposes="Strictly larger, in float32: an input at the threshold is skipped, one between the threshold and its float16 is not. NaN is skipped. What "
    "is skipped may hold infinities and NaN: it is not zero, it is not there.",
)
def _(g):
    x = edges(inputs(g, 64))
    yield case(weights(g, 64, 48), x, 2)
    yield case(weights(g, 64, 48), x, 1, ROUNDED)
    yield case(weights(g, 32, 48), edges(inputs(g, 32)), 1, 0.0)
    x = inputs(g, 16)
    x[5:8] = 0
    yield case(faint(weights(g, 16, 12)), faint(x), 1, 0.0)  # small is not zero


@partials.stage(
    "any number of rows, columns and parts",
    points=2,
    exposes="Rows of a part and columns that fill no block, parts that are shorter than others, or empty: their sums are 0. Where no input is large, all sums are 0.",
    pure=True,
)
def _(g):
    yield case(weights(g, 90, 150), inputs(g, 90), 2)
    yield case(weights(g, 500, 7), inputs(g, 500), 2)
    yield case(weights(g, 37, 75), inputs(g, 37), 5)
    yield case(weights(g, 9, 21), inputs(g, 9), 4)  # three parts of three rows, and one of none
    yield case(weights(g, 40, 40), inputs(g, 40), 3)
    yield case(weights(g, LARGE, 31), inputs(g, LARGE, live=0.9), 1)  # numbers that fifteen bits do not hold, too
    yield case(weights(g, 3, LARGE), inputs(g, 3), 1)
    yield case(weights(g, 33, 17), 0.5 * inputs(g, 33, live=0.0).clamp(-THRESHOLD, THRESHOLD), 2)


@partials.stage(
    "sums in float32",
    points=1,
    exposes="Products and sums in float32, and partial sums that stay float32. A product of two float16 may be larger than any float16, and rounding "
    "before the last step is what the second kernel is there to avoid.",
)
def _(g):
    W, x = weights(g, 70, 40), inputs(g, 70)
    yield case(W.abs(), x.abs() + 40, 2)
    yield case(W.abs() + 250, x.abs() + 300, 3)


def mistaken(name: str, says: str, wrong=None, kernel: str = "", **how):
    partials.misconception(name, says)(
        wrong or (lambda W, x, threshold, splits: kernels().parts_of_one(W, x, threshold, splits, kernel, **how))
    )


def on_the_host(W, x, threshold, splits):
    share = -(-len(x) // splits)
    kept = [
        (W[part], x[part]) for s in range(splits) for part in [slice(s * share, max(s * share, min(len(x), s * share + share)))]
    ]
    return torch.stack([product(w, v, threshold).float() if len(v) else torch.zeros(W.shape[1]) for w, v in kept])


def copied_first(W, x, threshold, splits):
    live = wanted(x, threshold)
    W = torch.where(live[:, None], W, 0)
    return kernels().parts_of_one(W, torch.where(live, x, 0), threshold, splits)


mistaken(
    "on the host",
    "Torch has computed this, not a kernel. Let a kernel read W, and only the rows that count.",
    on_the_host,
)
mistaken(
    "copied first",
    "Torch has copied W before your kernel reads it: that reads and writes more than a dense product does. Give the kernel W itself, and mask its loads.",
    copied_first,
)
mistaken(
    "dense, then masked",
    "Your kernel loads every row and multiplies the small inputs' by zero: the right result, and nothing saved. The mask belongs into the load of W.",
    kernel="dense",
)
mistaken(
    "no magnitude",
    "You compare the inputs themselves: rows of large negative inputs are lost. `tl.abs(v) > threshold`.",
    kernel="no abs",
)
mistaken(
    "at the threshold",
    "You also read rows whose input equals the threshold. It has to be exceeded: `>`.",
    kernel="at the threshold",
)
mistaken(
    "threshold rounded",
    "The threshold was rounded to float16 before it was compared. 0.3 becomes 0.30004883. Pass it as a number, or in a float32 tensor, and compare in float32.",
    kernel="threshold in float16",
)
mistaken(
    "not below",
    "You read what is not below the threshold, and that is true of NaN. Ask for `>`, and use what it says for the inputs too.",
    kernel="not below",
)
mistaken(
    "small ones",
    "You read the rows of the small inputs and skip those of the large ones. `>` is what asks for the large.",
    kernel="small ones",
)
mistaken(
    "inputs as they are",
    "You mask the weights and multiply them by all inputs. Where an input is NaN, that is NaN times zero: mask the inputs too, `tl.where(live, v, 0.0)`.",
    kernel="inputs as they are",
)
mistaken(
    "weights alone",
    "You add up the rows as they are. Each is multiplied by its input.",
    kernel="weights alone",
)
mistaken(
    "row-major",
    "You step through W as if it were (N, K): weight k of output n lies at `n * K + k` there. Here it is input-major, (K, N): at `k * N + n`. "
    "In a square matrix nothing but the result shows it.",
    kernel="row-major",
)
mistaken(
    "no part in the index",
    "Parts store to the same places, and which one stays is chance. Part s has the N places from `split * N` on, for `cols < N`.",
    kernel="no split in the index",
)
mistaken(
    "past the part's end",
    "The last block of a part goes on into the next part's rows: mask with the end of the part, not of the matrix.",
    kernel="past the share",
)
mistaken(
    "rows left over in a part",
    "Rows of a part that fill no block are lost. Go on to the end of the part, with a mask.",
    kernel="no tail of rows",
)
mistaken(
    "rows left over by the parts",
    "You round K / splits down, and the last rows belong to no part: `triton.cdiv(K, splits)`.",
    lambda W, x, threshold, splits: kernels().parts_of_one(W, x, threshold, splits, share=max(1, len(x) // splits)),
)
mistaken(
    "columns left over",
    "The last columns are never computed where COLS does not divide N: `triton.cdiv(N, COLS)` blocks.",
    kernel="left-over columns",
)
mistaken(
    "no mask for columns",
    "Your loads leave their row: in the middle of W that is the next one, at its end nobody's memory. `cols < N` belongs into the mask, and row k begins at `k * N`.",
    kernel="no column mask",
)
mistaken(
    "no mask in the store",
    "You store sums for columns that do not exist, into the next part's places: `split * N + cols` with `mask=cols < N`.",
    kernel="no store mask",
)
mistaken(
    "not cleared",
    "You add to memory that nobody has cleared: `torch.empty` holds what was there before. No other program stores a part's sums, so a store will do.",
    add="atomic parts",
)
mistaken(
    "inputs without other",
    "Inputs behind the end of a part hold anything unless you say `other=0.0`. Some are large, and their rows are read.",
    kernel="inputs without other",
)
mistaken(
    "nothing in masked lanes",
    "Skipped rows hold anything unless you say `other=0.0`: the interpreter alone gives zero, a GPU whatever was in the register. NaN times zero is NaN.",
    kernel="no other",
)
mistaken(
    "last block only",
    "Your total is set anew in each step of the loop: only the last block of rows is left. Add to it.",
    kernel="last block only",
)
mistaken(
    "interleaved parts",
    "Your part s takes every splits-th row, from row s on. It should take `share` rows that are neighbours.",
    kernel="interleaved",
)
mistaken(
    "float16",
    "You multiply and add in float16. Convert both sides with `.to(tl.float32)` right after the load.",
    kernel="float16",
)
mistaken(
    "parts rounded",
    "Your partial sums were float16 once. They stay float32 until the second kernel has added them.",
    lambda W, x, threshold, splits: kernels().parts_of_one(W, x, threshold, splits, kind=torch.float16).float(),
)
mistaken("parts in float16", "Your partial sums are float16. They have to be float32.", kind=torch.float16)
mistaken(
    "transposed",
    "Your result is (N, splits). A part's sums belong into one row: (splits, N).",
    lambda W, x, threshold, splits: partial_sums(W, x, threshold, splits).T,
)
mistaken(
    "added up",
    "You have added the parts up already. Give a row of sums for each of them, (splits, N); adding them is the next exercise.",
    lambda W, x, threshold, splits: partial_sums(W, x, threshold, splits).sum(0),
)


@partials.accepts("a row at a time, skipped by an if")
def _(W, x, threshold, splits):
    return kernels().one_by_one(W, x, threshold, splits)


@partials.accepts("other blocks")
def _(W, x, threshold, splits):
    return kernels().parts_of_one(W, x, threshold, splits, rows=64, cols=64)


@partials.accepts("a launch for each part")
def _(W, x, threshold, splits):
    share = -(-len(x) // splits)
    some = [s for s in range(splits) if s * share < len(x)]
    parts = [kernels().parts(W[s * share :][:share], x[s * share :][:share][None], threshold, 1)[0, 0] for s in some]
    return torch.stack(parts + [torch.zeros(W.shape[1])] * (splits - len(some)))
