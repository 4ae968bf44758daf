"""Exercise 15.6: several tokens for one reading."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.two_four.fixtures import packed, two_four, unpacked
from autograder.exercises.two_four.gemv import LARGE, case, inputs, kernels, too_large_on_the_way
from autograder.inside.case import call


def multiply_2_4(values: Tensor, codes: Tensor, x: Tensor) -> Tensor:
    return kernels().few(values, codes, x)


tokens = Exercise(
    "two_four.tokens",
    defines="multiply_2_4",
    title="Several tokens for one reading",
    minutes=15,
    difficulty=3,
    hints=(
        "The grid stays as it was, over rows only, so that every program reads its weights once. The tokens go into a "
        "loop inside.",
        "Load words and values of a block as before. Then a second loop, `for t in range(T)`, loads the inputs of token t "
        "and makes its sums. A total (TOKENS, ROWS) holds those of all tokens; TOKENS is `triton.next_power_of_2(T)`, "
        "because blocks are powers of two.",
        "The product of token t is (ROWS,): `tl.sum(tl.sum(first * x0 + second * x1, axis=2), axis=1)`, with inputs at `x "
        "+ t * K + ...`. With `token = tl.arange(0, TOKENS)`, add it to its line by `tl.where(token[:, None] == t, "
        "product[None, :], 0.0)`. Store at `y + token[:, None] * N + rows[None, :]`, masked in both.",
    ),
    reference=multiply_2_4,
    rules=Rules(tolerance=2e-3),
    contiguous=True,
)


@tokens.stage(
    "every token's product",
    points=1,
    exposes="y[t] = W x[t], (tokens, N) in float16, from the stored bytes.",
)
def _(g):
    yield case(two_four(g, 16, 64), inputs(g, 1, 64), veiled=True)
    yield call(*packed(two_four(g, 32, 64)), inputs(g, 4, 64), watched=())


@tokens.stage(
    "the weights are read once for all tokens",
    points=2,
    exposes="A byte of the weights is read once, however many tokens there are: a program takes its rows for all of them. A program, or a launch, per token reads "
    "everything again.",
)
def _(g):
    yield case(two_four(g, 32, 64), inputs(g, 4, 64))
    yield case(two_four(g, 16, 128), inputs(g, 2, 128))


@tokens.stage(
    "any numbers of tokens, rows and words",
    points=1,
    exposes="1 to 8 tokens, not only powers of two; rows and words that fill no block; sums in float32.",
    pure=True,
)
def _(g):
    yield case(two_four(g, 37, 80, least=0), inputs(g, 5, 80))
    yield case(two_four(g, 3, 144).sign() * 2.0**-24, 2000 + inputs(g, 8, 144).abs())  # the smallest float16
    yield case(*too_large_on_the_way(two_four(g, 1, 16 * LARGE), inputs(g, 3, 16 * LARGE)))
    yield case(two_four(g, LARGE, 16), inputs(g, 1, 16))


def mistaken(name: str, says: str, wrong=None, kernel: str = ""):
    def answer(values, codes, x):
        return kernels().few(values, codes, x, kernel)

    tokens.misconception(name, says)(wrong or answer)


def per_token(values, codes, x):
    return torch.cat([kernels().few(values, codes, token[None]) for token in x])


mistaken(
    "a launch per token",
    "All weights are read again for every token. That is what a batch should save: load a block of weights once, then use it for all tokens.",
    per_token,
)
mistaken(
    "on the host",
    "Torch has computed this from an unpacked matrix. Your kernel has to read the stored values and words.",
    lambda values, codes, x: (x.float() @ unpacked(values, codes).float().T).half(),
)
mistaken(
    "dense in the kernel",
    "Your kernel multiplies by a dense matrix that torch unpacked before. Read the stored values and words instead.",
    lambda values, codes, x: kernels().unpacked_first(values, codes, x),
)
mistaken(
    "a kernel for show",
    "Torch has computed this. A kernel has loaded the packed weights too, but it stores what torch gave it.",
    lambda values, codes, x: kernels().for_show(values, codes, x),
)
mistaken(
    "transposed",
    "Your result is (N, tokens). A token's results belong into one row: (tokens, N).",
    lambda values, codes, x: multiply_2_4(values, codes, x).T,
)
mistaken(
    "stored as if transposed",
    "The shape is right, but results lie as in (N, tokens): y[t, row] is stored at row * tokens + t. It belongs to t * N + row.",
    kernel="stored transposed",
)
mistaken(
    "tokens in one sum",
    "Every token's result is the sum over all tokens: each needs a total of its own.",
    kernel="tokens in one sum",
)
mistaken(
    "tokens N apart",
    "You look for the next token N numbers further on. A token has K inputs: rows of x are K apart.",
    kernel="tokens N apart",
)
mistaken(
    "the first token only",
    "Only the first token's row is computed; the others stay as they were made.",
    lambda values, codes, x: torch.cat([kernels().few(values, codes, x[:1]), torch.zeros(len(x) - 1, len(values)).half()]),
)
mistaken(
    "the first token for all",
    "Every row of your result is that of the first token: the inputs have to be loaded at t * K.",
    lambda values, codes, x: kernels().few(values, codes, x[:1]).repeat(len(x), 1),
)
mistaken(
    "halves of a nibble swapped",
    "You take the lower place from the upper two bits of a nibble: it is in the lower two.",
    kernel="swapped",
)
mistaken("last block only", "Totals are set anew for every block of words. Add to them.", kernel="last block only")
mistaken(
    "left-over words",
    "Words that fill no block are left out: the loop has to go on to K // 16, with a mask.",
    kernel="no tail of words",
)
mistaken(
    "left-over rows",
    "The last rows are never computed where ROWS does not divide N: `triton.cdiv(N, ROWS)` programs.",
    kernel="rows left over",
)
mistaken("no mask for rows", "Loads go past the last row: `rows < N` belongs into their mask.", kernel="no row mask")
mistaken(
    "nothing in masked lanes",
    "Masked lanes hold anything unless you say `other=0.0`, and one NaN in a sum is enough.",
    kernel="no other",
)
mistaken(
    "float16",
    "You multiply or add in float16. Convert with `.to(tl.float32)` right after the loads, and keep totals in float32.",
    kernel="float16",
)
mistaken("keeps float32", "Your result is float32. Give `y` the dtype of x.", kernel="keeps float32")


@tokens.accepts("other blocks")
def _(values, codes, x):
    return kernels().few(values, codes, x, rows=32, words=8)


@tokens.accepts("all words of a row in one block")
def _(values, codes, x):
    return kernels().few(values, codes, x, rows=1, words=32)
