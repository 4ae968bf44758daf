"""Exercise 16.6: one kernel, atomic sums."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.sparse_gemv.fixtures import (
    ROUNDED,
    THRESHOLD,
    edges,
    eighths,
    faint,
    inputs,
    poisoned,
    product,
    wanted,
    weights,
)
from autograder.exercises.sparse_gemv.partials import LARGE, kernels
from autograder.inside.case import call


def atomic_gemv(W: Tensor, x: Tensor, threshold: float) -> Tensor:
    return kernels().in_one(W, x, threshold)


atomic = Exercise(
    "sparse_gemv.atomic",
    defines="atomic_gemv",
    title="One kernel, atomic sums",
    minutes=12,
    difficulty=2,
    hints=(
        "The kernel of the partial sums with another last line: instead of storing its sum at a place of its own, a "
        "program adds it to the result.",
        "`tl.atomic_add(pointer, value, mask=...)` does this without a race. The result has to hold zeros before the "
        "kernel starts, and to be float32, so that additions lose nothing. It becomes float16 once, at the end.",
        "`y = torch.zeros(N, dtype=torch.float32)`, a grid of blocks and a few parts (4 will do), `tl.atomic_add(y + "
        "cols, total, mask=cols < N)` in the kernel, and `y.to(x.dtype)` in the end.",
    ),
    reference=atomic_gemv,
    reads=lambda W, x, threshold: {0: wanted(x, threshold)},
    scratch=False,
    meets=256,
    rules=Rules(tolerance=2e-3),
    contiguous=True,
)


def case(W: Tensor, x: Tensor, threshold: float = THRESHOLD):
    return call(poisoned(W, wanted(x, threshold)), x, threshold, watched=(0,))


@atomic.stage(
    "all parts meet in the result",
    points=1,
    exposes="float16 (N,): every program adds what it has to the result, atomically, and nothing is left in between for a second kernel or torch.",
)
def _(g):
    yield call(weights(g, 32, 64), inputs(g, 32), THRESHOLD, times=2, watched=())  # nothing is left of the call before
    yield call(weights(g, 256, 32), 1 + inputs(g, 256).abs(), THRESHOLD, watched=(0,), veiled=True)
    yield call(weights(g, 64, 160), inputs(g, 64), THRESHOLD, watched=(0,))


@atomic.stage(
    "any number of rows and columns",
    points=1,
    exposes="Rows and columns that fill no block, inputs at the threshold, and nothing large at all: then the result is 0.",
    pure=True,
)
def _(g):
    yield case(weights(g, 70, 150), edges(inputs(g, 70)))
    yield case(weights(g, 37, 75), edges(inputs(g, 37)), ROUNDED)
    yield case(weights(g, 2 * LARGE, 16), inputs(g, 2 * LARGE, live=0.8))
    yield case(weights(g, 64, LARGE), inputs(g, 64))
    yield case(weights(g, 64, 10).sign(), faint(inputs(g, 64)), 0.0)  # small is not zero
    yield case(weights(g, 17, 33), inputs(g, 17, live=0.0).clamp(-THRESHOLD, THRESHOLD) / 2)


@atomic.stage(
    "added in float32",
    points=1,
    exposes="The place where programs meet is float32. In float16 every addition rounds, and the sum of a part can be larger than any float16.",
)
def _(g):
    W, x = eighths(weights(g, 64, 140)), eighths(inputs(g, 64))
    W[0], W[1] = 300.0, -300.0
    x[:2] = 300.0
    yield case(W, x)
    yield case(W.roll(-1, 0), x.roll(-1))  # the two in different parts


def mistaken(name: str, says: str, wrong=None, kernel: str = "", **how):
    atomic.misconception(name, says)(wrong or (lambda W, x, threshold: kernels().in_one(W, x, threshold, kernel, **how)))


mistaken(
    "not cleared",
    "You add to memory that nobody has cleared: `torch.empty` holds what was there before. Take `torch.zeros`.",
    buffer=torch.empty,
)


def kept_between_calls(W, x, threshold, kept={}):  # noqa: B006
    """For each matrix a buffer that its second call finds as the first has left it."""
    key = W.shape[1], int(W.view(torch.int16).long().sum())
    y = kept.pop(key, None)
    if y is None:
        y = kept[key] = torch.zeros(W.shape[1])
    return kernels().in_one(W, x, threshold, buffer=lambda N, dtype: y)


mistaken(
    "cleared once",
    "Your first call is right, and the next one adds to what it has left: a buffer that is kept between calls has to be cleared in each. "
    "Make a new one, `torch.zeros`, every time.",
    kept_between_calls,
)
mistaken(
    "load, add, store",
    "Several programs store to one result: by a load and a store, or without adding at all. They run at the same time on a GPU, and all but one are lost. The "
    "interpreter runs them one by one and hides it. `tl.atomic_add` is one step that nothing can come between.",
    add="race",
)
mistaken(
    "two kernels",
    "This is right, and it is the product of the last exercise: a second kernel reads what the first has left. Let the programs add to the result themselves.",
    lambda W, x, t: kernels().two_stages(W, x[None], t)[0],
)
mistaken(
    "nothing meets",
    "No two programs of a launch add to the same place: one has all the rows, or each part has a place or a launch of its own. Split the rows among the programs of "
    "one launch, and let all of them add to y.",
    lambda W, x, t: kernels().parts(W, x[None], t, 2)[:, 0].sum(0).half(),
)
mistaken(
    "cleared by a program",
    "One program stores to the result first, and the others add to it. On a GPU none of them is the first: what is added before that store is lost. Clear the result "
    "before the kernel: `torch.zeros`.",
    buffer=torch.empty,
    add="first stores",
)
mistaken(
    "atomic sums in float16",
    "You add numbers in float16, as TEAL's kernel does: every part or addition is rounded, and large parts overflow. Add in float32, and round at the end.",
    kind=torch.float16,
)
mistaken(
    "on the host",
    "Torch has computed this, not a kernel. Let a kernel read W, and only the rows that count.",
    lambda W, x, t: product(W, x, t).half(),
)
mistaken(
    "dense, then masked",
    "Your kernel loads every row. The right result, and nothing saved: the mask belongs into the load of W.",
    kernel="dense",
)
mistaken(
    "no magnitude",
    "You compare the inputs themselves: large negative inputs are lost. `tl.abs(v) > threshold`.",
    kernel="no abs",
)
mistaken(
    "at the threshold",
    "You also read rows whose input equals the threshold. It has to be exceeded: `>`.",
    kernel="at the threshold",
)
mistaken(
    "threshold rounded",
    "The threshold was rounded to float16 before it was compared. It is a number, or a float32 tensor, and is compared in float32.",
    kernel="threshold in float16",
)
mistaken(
    "inputs as they are",
    "You mask the weights and multiply them by all inputs. Where an input is NaN, that is NaN times zero: mask the inputs too, `tl.where(live, v, 0.0)`.",
    kernel="inputs as they are",
)
mistaken("weights alone", "You add up the rows as they are. Each is multiplied by its input.", kernel="weights alone")
mistaken(
    "no mask in the sum",
    "You add to outputs that do not exist: `tl.atomic_add` takes a mask too.",
    kernel="no store mask",
)
mistaken(
    "no mask for columns",
    "Your loads go past the last column or row, into others or nobody's memory: `cols < N`, and for the inputs `rows < end` with `other=0.0`.",
    kernel="no column mask",
)
mistaken(
    "nothing in masked lanes",
    "Skipped rows hold anything unless you say `other=0.0`. NaN times zero is NaN.",
    kernel="no other",
)
mistaken(
    "inputs without other",
    "Inputs behind the end of a part hold anything unless you say `other=0.0`. Some are large, and their rows are read.",
    kernel="inputs without other",
)
mistaken("columns left over", "The last columns get nothing: `triton.cdiv(N, COLS)` blocks.", kernel="left-over columns")
mistaken("rows left over", "The last rows belong to no part: round K / splits up.", kernel="left-over rows")
mistaken("float16", "You multiply and add in float16. Convert with `.to(tl.float32)` right after the loads.", kernel="float16")
mistaken("keeps float32", "Your result is float32. Convert it to the dtype of x at the end.", kernel="keeps float32")


@atomic.accepts("the library's")
def _(W, x, threshold):
    return kernels().by_the_library(W, x, threshold, atomic=True)


@atomic.accepts("more parts, other blocks")
def _(W, x, threshold):
    return kernels().in_one(W, x, threshold, splits=6, rows=64, cols=64)


@atomic.accepts("cleared by hand")
def _(W, x, threshold):
    return kernels().in_one(W, x, threshold, buffer=lambda *shape, dtype: torch.empty(*shape, dtype=dtype).zero_())
