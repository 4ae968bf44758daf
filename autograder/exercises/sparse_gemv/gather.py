"""Exercise 16.7: chosen rows, by a list."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.sparse_gemv.fixtures import eighths, faint, poisoned, weights
from autograder.exercises.sparse_gemv.partials import kernels
from autograder.inside.case import call


def gather_gemv(W: Tensor, idx: Tensor, count: Tensor, x: Tensor) -> Tensor:
    return kernels().gathered(W, idx, count, x)


def chosen(W: Tensor, idx: Tensor, count: Tensor, x: Tensor) -> Tensor:
    """Which rows of W the list names, (N,)."""
    return torch.zeros(len(W), dtype=torch.bool).index_fill(0, idx[: int(count)].long(), True)


gather = Exercise(
    "sparse_gemv.gather",
    defines="gather_gemv",
    title="Chosen rows, by a list",
    minutes=15,
    difficulty=2,
    hints=(
        "A program takes ROWS entries of the list: it loads the row numbers, then these rows. Entries from `count` on are "
        "masked out of every load, and their result is 0.",
        "`chosen = m < tl.load(count)` is the mask, and it belongs into the load of `idx` already: what lies behind may "
        "be nonsense. Input k of row r is at `r * K + k`. That product can be too large for 32 bits, so make the row "
        "number an int64.",
        "`row = tl.load(idx + m, mask=chosen, other=0).to(tl.int64)` with `m = tl.program_id(0) * ROWS + tl.arange(0, "
        "ROWS)`. In a loop over the inputs load `W + row[:, None] * K + cols[None, :]` with `mask=chosen[:, None] & "
        "(cols[None, :] < K)`, multiply by the inputs, sum over `axis=1`. Store to `y + m` with `mask=m < n`: all n "
        "entries, zeros too.",
    ),
    reference=gather_gemv,
    reads=lambda W, idx, count, x: {0: chosen(W, idx, count, x)},
    rules=Rules(tolerance=2e-3),
    contiguous=True,
)


def case(
    g: torch.Generator, N: int, K: int, n: int, count: int, padding, W: Tensor | None = None, x: Tensor | None = None, **how
):
    """A list of n entries of which `count` mean anything, the others hold `padding`."""
    W = weights(g, N, K) if W is None else W
    x = torch.randn(K, generator=g).half() if x is None else x
    idx = torch.full((n,), padding, dtype=torch.int32)
    idx[:count] = 1 + torch.randperm(N - 1, generator=g)[:count]  # never row 0
    used = torch.zeros(N, dtype=torch.bool).index_fill(0, idx[:count].long(), True)
    return call(poisoned(W, used), idx, torch.tensor([count], dtype=torch.int32), x, watched=(0,), **how)


@gather.stage(
    "the rows that the list names",
    points=2,
    exposes="float16 (n,): y[m] is the product of row idx[m] with x. A kernel reads these rows once, and no others.",
)
def _(g):
    yield case(g, 96, 64, 32, 32, 0, veiled=True)
    yield case(g, 64, 128, 16, 16, 0)


@gather.stage(
    "entries behind the count",
    points=1,
    exposes="Entries from count on mean nothing: no row is read for them, whatever they hold, and their results are 0.",
)
def _(g):
    yield case(g, 96, 64, 32, 19, 0)
    yield case(g, 80, 64, 32, 8, 1_000_000)
    yield case(g, 64, 48, 16, 0, -1)


@gather.stage(
    "any numbers",
    points=1,
    exposes="Entries and inputs that fill no block. Masks keep a program inside the list and inside its rows.",
    pure=True,
)
def _(g):
    yield case(g, 90, 75, 37, 37, 0)
    yield case(g, 40, 150, 11, 5, 2)
    yield case(g, 50, 50, 3, 3, 0, faint(weights(g, 50, 50)), 1024 * weights(g, 50).sign())  # small is not zero
    yield case(g, 66_000, 2, 40, 40, 0)  # some of 40 rows have numbers that fifteen bits do not hold
    yield case(g, 300, 1, 270, 265, 0)  # more entries than a block of 256
    yield case(g, 2, 4200, 1, 1, 0)  # and more inputs than one of 4096


@gather.stage(
    "sums in float32",
    points=1,
    exposes="Products and sums in float32, rounded to float16 once. A product of two float16 may be larger than any float16.",
)
def _(g):
    W, x = eighths(weights(g, 30, 70)), eighths(torch.randn(70, generator=g).half())
    W[:, 0], W[:, 1] = 300.0, -300.0
    x[:2] = 300.0
    yield case(g, 30, 70, 9, 9, 0, W, x)
    W, x = eighths(weights(g, 30, 300)), eighths(torch.randn(300, generator=g).half())
    W[:, 0], W[:, -1], x[0], x[-1] = 300.0, -300.0, 300.0, 300.0  # in different blocks
    yield case(g, 30, 300, 9, 9, 0, W, x)


def mistaken(name: str, says: str, wrong=None, kernel: str = "", **how):
    gather.misconception(name, says)(wrong or (lambda W, idx, count, x: kernels().gathered(W, idx, count, x, kernel, **how)))


def everything(W, idx, count, x):
    """All outputs in a kernel, and torch picks."""
    n = int(count)
    all_rows, of_all = torch.arange(len(W), dtype=torch.int32), torch.tensor([len(W)], dtype=torch.int32)
    y = torch.zeros(len(idx)).half()
    y[:n] = kernels().gathered(W, all_rows, of_all, x)[idx[:n].long()]
    return y


def copied(W, idx, count, x):
    some = idx.clone()
    some[int(count) :] = 0
    return kernels().gathered(W[some.long()], torch.arange(len(idx), dtype=torch.int32), count, x)


def on_the_host(W, idx, count, x):
    n, y = int(count), torch.zeros(len(idx))
    y[:n] = W[idx[:n].long()].float() @ x.float()
    return y.half()


mistaken("on the host", "Torch has computed this, not a kernel. Let a kernel read the rows of W.", on_the_host)
mistaken(
    "copied first",
    "Torch has copied the rows together before your kernel reads them: three times the bytes. Load from W at `row * K`, with the row from the list.",
    copied,
)
mistaken(
    "all outputs, then some",
    "Your kernel computes every output, and the list picks from them afterwards. Nothing is saved: read only the rows that the list names.",
    everything,
)
mistaken(
    "total in float16",
    "Your total is float16: the sum of every block is rounded, and can be larger than any float16 where the result is not. Take `tl.zeros((ROWS,), tl.float32)`.",
    kernel="total in float16",
)
mistaken(
    "padded entries",
    "Your kernel reads rows for entries behind the count. They mean nothing, and can point anywhere: `m < tl.load(count)` belongs into the masks.",
    kernel="padded entries",
)
mistaken(
    "padded with row 0",
    "Entries behind the count are masked in the load of the list, become 0 there, and your kernel reads row 0 for each of them. Mask the load of W too.",
    kernel="padded with 0",
)
mistaken(
    "only what counts",
    "Results behind the count are never stored: they hold what was in memory before. They have to be 0.",
    kernel="only what counts",
)
mistaken(
    "row m",
    "You read the first rows of W. Entry m of the list says which row it is: `tl.load(idx + m)`.",
    kernel="row m",
)
mistaken(
    "scattered",
    "You store the results at the places of their rows, in a vector of N. The result has an entry for each of the list: y[m], not y[idx[m]].",
    kernel="scattered",
)
mistaken(
    "cut at the count",
    "Your result has `count` entries. It has one for each entry of the list; those behind the count are 0.",
    lambda W, idx, count, x: gather_gemv(W, idx, count, x)[: int(count)],
)
mistaken(
    "input-major",
    "You step through W as if it were (K, N). Here it is as in a linear layer, (N, K): row r begins at `r * K`.",
    kernel="input-major",
)
mistaken(
    "entries left over",
    "The last entries of the list are never computed: `triton.cdiv(n, ROWS)` programs.",
    kernel="left-over rows",
)
mistaken(
    "no bound of the list",
    "You load entries of the list that do not exist: where ROWS does not divide n, the last program needs a mask.",
    kernel="no bound of the list",
)
mistaken(
    "inputs left over",
    "The loop ends with the last full block of inputs. What is left over needs a step too, with a mask.",
    kernel="left-over inputs",
)
mistaken(
    "no mask for inputs",
    "Your loads go past the end of a row, into the next one: `cols < K` belongs into the mask.",
    kernel="no column mask",
)
mistaken(
    "nothing in masked lanes",
    "Masked lanes hold anything unless you say `other=0.0`, and one NaN in a sum is enough.",
    kernel="no other",
)
mistaken(
    "last block only",
    "Your total is set anew in each step of the loop: only the last inputs are left. Add to it.",
    kernel="last block only",
)
mistaken("float16", "You multiply and add in float16. Convert with `.to(tl.float32)` right after the loads.", kernel="float16")
mistaken("keeps float32", "Your result is float32. Give y the dtype of x.", kind=torch.float32)


@gather.accepts("the library's")
def _(W, idx, count, x):
    return kernels().rows_by_the_library(W, idx, count, x)


@gather.accepts("an entry for each program")
def _(W, idx, count, x):
    return kernels().gathered(W, idx, count, x, rows=1, cols=256)


@gather.accepts("the count read on the host")
def _(W, idx, count, x):
    n, y = int(count), torch.zeros(len(idx), dtype=x.dtype)
    if n:
        y[:n] = kernels().gathered(W, idx[:n], count, x, rows=32, cols=128)
    return y
