"""Exercise 16.5: the whole product, for a few tokens."""

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


def sparse_gemv(W: Tensor, x: Tensor, threshold: float) -> Tensor:
    return kernels().two_stages(W, x, threshold)


gemv = Exercise(
    "sparse_gemv.gemv",
    defines="sparse_gemv",
    title="The whole product, for a few tokens",
    minutes=22,
    difficulty=3,
    hints=(
        "The kernel of the partial sums with one more dimension, the tokens. A row is read if *any* token needs it, but a "
        "token multiplies its *own* large inputs only. These are two different masks.",
        "The inputs are a block (TOKENS, ROWS), TOKENS a power of two. `large = tl.abs(v) > threshold` speaks for each "
        "token, its maximum over the tokens for the row: mask the inputs with the first, the load of the weights with the "
        "second. Make the partial sums (splits, T * N), then your second kernel can add them. They have at most half the "
        "bytes of W if `4 * splits * T <= K`.",
        "`live = tl.max(large.to(tl.int32), axis=0) > 0`. With the weights `w` (ROWS, COLS) loaded once, `own = "
        "tl.where(large, v, 0.0)` in float32 and `tl.sum(own[:, :, None] * w[None, :, :], axis=1)` is what a block adds "
        "to the total (TOKENS, COLS). Token t of part s is stored at `(s * T + t) * N + cols`, if `t < T`. Then "
        "`add_partials(...)` and `.view(T, N)`.",
    ),
    reference=sparse_gemv,
    reads=lambda W, x, threshold: {0: wanted(x, threshold)},
    rules=Rules(tolerance=2e-3),
    contiguous=True,
)


def case(W: Tensor, x: Tensor, threshold: float = THRESHOLD):
    return call(poisoned(W, wanted(x, threshold)), x, threshold, watched=(0,))


@gemv.stage(
    "one token",
    points=2,
    exposes="y = W^T x over the inputs above the threshold, float16 (1, N). Kernels read the rows of large inputs once, and no others.",
)
def _(g):
    yield call(weights(g, 64, 96), inputs(g, 1, 64), THRESHOLD, watched=(0,), veiled=True)
    yield call(weights(g, 256, 32), 1 + inputs(g, 1, 256).abs(), THRESHOLD, watched=(0,))  # no masked lanes but of columns


@gemv.stage(
    "several tokens, one reading",
    points=2,
    exposes="A row that any token needs is read once for all. Each token counts its own large inputs only: what it gets does not depend on who is decoded beside it.",
)
def _(g):
    yield case(weights(g, 160, 80), inputs(g, 4, 160, live=0.2))
    yield case(weights(g, 96, 32), inputs(g, 2, 96, live=0.3))


@gemv.stage(
    "any numbers, and inputs close to the threshold",
    points=1,
    exposes="1 to 8 tokens, not only powers of two; rows and columns that fill no block; strict comparison in float32. Where nothing is large, the result is 0.",
    pure=True,
)
def _(g):
    yield case(weights(g, 2 * LARGE, 16), inputs(g, 1, 2 * LARGE, live=0.8))
    yield case(weights(g, 64, LARGE), inputs(g, 2, 64))
    yield case(weights(g, 170, 35), edges(inputs(g, 5, 170, live=0.1)))
    yield case(weights(g, 50, 150), edges(inputs(g, 1, 50)), ROUNDED)
    yield case(weights(g, 101, 21), edges(inputs(g, 3, 101, live=0.2)))
    yield case(weights(g, 260, 20), inputs(g, 8, 260, live=0.1))
    yield case(weights(g, 65, 65), inputs(g, 2, 65, live=0.0).clamp(-THRESHOLD, THRESHOLD) / 2)


@gemv.stage(
    "float32 until the end",
    points=1,
    exposes="Products and partial sums in float32, rounded to float16 once. A product, or the sum of a part, may be larger than any float16.",
)
def _(g):
    W, x = eighths(weights(g, 96, 40)), eighths(inputs(g, 2, 96))
    W[0], W[1] = 300.0, -300.0
    x[:, :2] = 300.0
    yield case(W, x)
    yield case(W.roll(-1, 0), x.roll(-1, 1))  # the two in different parts
    yield case(weights(g, 256, 24).abs() * 8, inputs(g, 1, 256).abs() * 8)
    yield case(weights(g, 64, 10).sign(), faint(inputs(g, 2, 64)), 0.0)  # small is not zero
    yield case(faint(weights(g, 64, 10)), 1024 * inputs(g, 1, 64).sign())


def mistaken(name: str, says: str, wrong=None, kernel: str = "", **how):
    gemv.misconception(name, says)(wrong or (lambda W, x, threshold: kernels().two_stages(W, x, threshold, kernel, **how)))


mistaken(
    "on the host",
    "Torch has computed this, not a kernel. Let kernels read W, and only the rows that count.",
    lambda W, x, t: product(W, x, t).half(),
)
mistaken(
    "rows copied first",
    "Torch has gathered the rows before your kernel reads them. Reading, writing and reading again is three times the bytes: mask the load of W instead.",
    lambda W, x, t: sparse_gemv(W[wanted(x, t)], x[:, wanted(x, t)].contiguous(), t),
)
mistaken(
    "a launch per token",
    "Every token reads its rows again. Load a block of weights once, then use it for all tokens.",
    lambda W, x, t: torch.cat([sparse_gemv(W, token[None], t) for token in x]),
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
    "The threshold was rounded to float16 before it was compared. Pass it as a number, and compare in float32.",
    kernel="threshold in float16",
)
mistaken("not below", "You read what is not below the threshold, and that is true of NaN. Ask for `>`.", kernel="not below")
mistaken(
    "neighbours' inputs",
    "A token counts its small inputs wherever another token has a large one. Then its result depends on who is decoded beside it: mask its own inputs too.",
    kernel="neighbours' inputs",
)
mistaken(
    "large in every token",
    "You read the rows that every token needs. A row is needed if any token needs it.",
    kernel="every token",
)
mistaken(
    "first token decides",
    "The first token alone decides which rows are read. Any token can need one.",
    kernel="first token decides",
)
mistaken(
    "mean decides",
    "You compare the mean over tokens. One token with a large input needs the row, whatever the others have.",
    kernel="mean of tokens",
)
mistaken(
    "tokens in one sum",
    "Every token's result is the sum over all tokens: each needs a total of its own.",
    kernel="tokens in one sum",
)
mistaken(
    "the first token only",
    "Only the first token's row is computed; the others stay as they were made.",
    lambda W, x, t: torch.cat([sparse_gemv(W, x[:1], t), torch.zeros(len(x) - 1, W.shape[1]).half()]),
)
mistaken(
    "stored as if transposed",
    "The shape is right, but sums lie as in (N, tokens). Those of token t begin at `t * N`.",
    lambda W, x, t: sparse_gemv(W, x, t).T.reshape(len(x), -1),
)
mistaken("weights alone", "You add up the rows as they are. Each is multiplied by its input.", kernel="weights alone")
mistaken(
    "row-major",
    "You step through W as if it were (N, K). Here it is input-major, (K, N): weight k of output n lies at `k * N + n`.",
    kernel="row-major",
)
mistaken("last block only", "Your total is set anew for every block of rows. Add to it.", kernel="last block only")
mistaken(
    "rows left over", "Rows that fill no block are lost. Go on to the end of the part, with a mask.", kernel="no tail of rows"
)
mistaken(
    "nothing in masked lanes",
    "Skipped rows hold anything unless you say `other=0.0`. NaN times zero is NaN.",
    kernel="no other",
)
mistaken(
    "not cleared",
    "You add to memory that nobody has cleared: `torch.empty` holds what was there before. Take `torch.zeros`.",
    lambda W, x, t: torch.stack([kernels().in_one(W, token, t, buffer=torch.empty) for token in x]),
)
mistaken(
    "inputs without other",
    "Inputs behind the end of a part, or of tokens that do not exist, hold anything unless you say `other=0.0`. Some are large, and their rows are read.",
    kernel="inputs without other",
)
mistaken(
    "no mask for columns",
    "Your loads go past the last column or row, into others or nobody's memory: `cols < N`, and for the inputs `rows < end` with `other=0.0`.",
    kernel="no column mask",
)
mistaken("float16", "You multiply and add in float16. Convert with `.to(tl.float32)` right after the loads.", kernel="float16")
mistaken(
    "parts rounded",
    "Your partial sums are float16. They stay float32 until they are added: a part can be larger than any float16 where the result is not.",
    kernel="parts in float16",
)
mistaken("keeps float32", "Your result is float32. It has the dtype of x.", kind=torch.float32)


@gemv.accepts("other blocks and more parts")
def _(W, x, threshold):
    return kernels().two_stages(W, x, threshold, splits=5, rows=64, cols=64)


@gemv.accepts("one part, nothing to add")
def _(W, x, threshold):
    return kernels().parts(W, x, threshold, 1, kind=torch.float16, rows=64, cols=32)[0]


@gemv.accepts("the library's, atomic for one token")
def _(W, x, threshold):
    return kernels().by_the_library(W, x, threshold, atomic=len(x) == 1)
