"""Exercise 15.5: the kernel."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.two_four.fixtures import packed, two_four, unpacked
from autograder.inside.case import call
from sparsity_edu.kernels import two_four as two_four_kernels
from sparsity_edu.kernels.packed24 import Packed24


def kernels():
    from autograder.exercises.two_four import kernels

    return kernels


def gemv_2_4(values: Tensor, codes: Tensor, x: Tensor) -> Tensor:
    return kernels().few(values, codes, x[None])[0]


gemv = Exercise(
    "two_four.gemv",
    defines="gemv_2_4",
    title="The kernel",
    minutes=25,
    difficulty=3,
    hints=(
        "Go by the words. A program takes ROWS rows and, in a loop, a block of words of these rows. From a word it knows "
        "which two inputs every pair of values meets. It is `unpack_2_4` again; only, instead of writing a dense matrix, "
        "it fetches the inputs.",
        "Load `code` (ROWS, WORDS) and shift it to nibbles (ROWS, WORDS, 4). Group g of a row has its values at `2 * g` "
        "and `2 * g + 1` among the row's K / 2, and its inputs at `4 * g + place` of x. Every load has a mask and "
        "`other`, since a block may reach beyond the last row or the last word.",
        "1. `code = tl.load(codes + rows[:, None] * (K // 16) + words[None, :], mask=inside, other=0)`.\n"
        "2. `nibble = (code.to(tl.int32)[:, :, None] >> (4 * tl.arange(0, 4))[None, None, :]) & 15`; the group is `(4 * "
        "words[:, None] + tl.arange(0, 4)[None, :])[None, :, :]`.\n"
        "3. Values at `values + rows[:, None, None] * (K // 2) + 2 * group` and one further, inputs at `x + 4 * group` "
        "plus `nibble & 3` or `nibble >> 2`; the mask of all four is `inside[:, :, None] & (nibble >= 0)`, which has "
        "their shape.\n"
        "4. Multiply and add up in float32, sum over the last two dimensions after the loop, store with `mask=rows < N`. "
        "The grid has `triton.cdiv(N, ROWS)` programs.",
    ),
    reference=gemv_2_4,
    rules=Rules(tolerance=2e-3),
    contiguous=True,
)


LARGE = 270  # rows or words: more than a block of 256, and the other dimension is as small as it can be


def case(W: Tensor, x: Tensor, veiled: bool = False):
    return call(*packed(W), x, watched=(0, 1), veiled=veiled)


def inputs(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g).half()


@gemv.stage(
    "the product, from the stored bytes",
    points=2,
    exposes="y = W x for W (16, 256) and (16, 64), float16. Every kept value meets the input at the column that its two bits say, and a kernel reads every stored byte, "
    "once: a matrix that torch unpacked first is a dense product with extra work.",
)
def _(g):
    for N, K in ((16, 256), (16, 64)):  # the first fills blocks of 16: what leaves its tensors there, no mask could stop
        W = two_four(g, N, K)
        W[:, 12::16] = 1  # the last group of a word stores places 0 and 1: no word is negative
        W[:, 13::16], W[:, 14::16], W[:, 15::16] = -1, 0, 0
        yield case(W, inputs(g, K), veiled=True)


@gemv.stage(
    "all words, and rows and words that fill no block",
    points=2,
    exposes="Any number of rows, any K that is a multiple of 16, negative words, groups with fewer non-zeros. Masks keep a program inside its tensors, and what a "
    "masked lane holds is not zero by itself: give `other`.",
    pure=True,
)
def _(g):
    yield case(two_four(g, 16, 256), inputs(g, 256))
    yield case(two_four(g, 37, 80, least=0), inputs(g, 80))
    yield case(two_four(g, LARGE, 16), inputs(g, 16))  # more rows than a single block has
    faint = two_four(g, 1, 16).sign() * 2.0**-24  # the smallest float16
    yield case(faint.abs(), 2000 + inputs(g, 16).abs())


@gemv.stage(
    "sums in float32",
    points=1,
    exposes="Products and sums in float32, rounded to float16 once, at the end. A product of two float16 may be larger than any float16, and "
    "many small errors add up.",
)
def _(g):
    yield case(*too_large_on_the_way(two_four(g, 1, 16 * LARGE), inputs(g, 16 * LARGE)))  # and more words
    yield case(two_four(g, 4, 512).abs() * 30, inputs(g, 512).abs())
    odd = two_four(g, 3, 32).sign() * (1025 + 2 * torch.randint(0, 500, (3, 32), generator=g)).half()  # 11 bits each
    yield case(odd, (1 - 2 * torch.randint(0, 2, (32,), generator=g)).half())


def too_large_on_the_way(W: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """W and x with a product in the first word, and so in every sum without the last word, that no float16 holds."""
    W[:, :4], W[:, -4:] = torch.tensor([300.0, 0, 0, 0]), torch.tensor([-200.0, 0, 0, 0])
    x[..., 0] = x[..., -4] = 300
    return W, x


def mistaken(name: str, says: str, wrong=None, kernel: str = ""):
    def answer(values, codes, x):
        return kernels().few(values, codes, x[None], kernel)[0]

    gemv.misconception(name, says)(wrong or answer)


mistaken(
    "on the host",
    "Torch has computed this, not a kernel: the right result, with more bytes moved than a dense product needs. Read `values` and `codes` in your kernel.",
    lambda values, codes, x: (unpacked(values, codes).float() @ x.float()).half(),
)
mistaken(
    "dense in the kernel",
    "Your kernel reads a dense matrix that torch has unpacked before: the right result, and nothing saved. The stored values and words are "
    "what the kernel has to read.",
    lambda values, codes, x: kernels().unpacked_first(values, codes, x[None])[0],
)
mistaken(
    "a kernel for show",
    "Torch has computed this. A kernel has loaded the packed weights too, but nothing comes of it: it stores what torch gave it.",
    lambda values, codes, x: kernels().for_show(values, codes, x[None])[0],
)
mistaken(
    "words widened by torch",
    "Torch has made other numbers of the words, and your kernel reads these: 32-bit words are twice the bytes. Load the int16, and widen it in the kernel.",
    lambda values, codes, x: kernels().few(values, codes.int(), x[None])[0],
)
mistaken(
    "halves of a nibble swapped",
    "You take the lower place from the upper two bits. `nibble & 3` is the place of the first value, `nibble >> 2` that of the second.",
    kernel="swapped",
)
mistaken(
    "first group in the highest bits",
    "You read the groups of a word from the highest bits down. Shift by 0 for the first group, then 4, 8 and 12.",
    kernel="highest first",
)
mistaken(
    "rows of words too far apart",
    "Your loads leave their tensors where rows and words fill all blocks: no mask is missing, an address is wrong. A row has K // 2 values, K // 16 words, and K inputs; "
    "and a place is 0 to 3 only if all else of the word is cut off.",
    kernel="rows of words too far apart",
)
mistaken(
    "values of neighbouring groups",
    "Your values overlap: group g reads numbers g and g + 1 of its row. Every group has two values, so its first is at 2 * group.",
    kernel="values of neighbouring groups",
)
mistaken(
    "columns of the block",
    "Your columns begin at 0 again with each block of words. Words are counted from the start of the row, `start + tl.arange(0, WORDS)`, and so are groups and columns.",
    kernel="columns of the block",
)
mistaken(
    "place as column",
    "You load the input at the place inside the group. The column is 4 * group + place.",
    kernel="place as column",
)
mistaken(
    "the first value for both",
    "You multiply both inputs of a group by its first value. The second is its neighbour: at 2 * group + 1.",
    kernel="the first value for both",
)
mistaken(
    "the first two inputs",
    "You multiply the values by the first two inputs of each group. Which two it is, the nibble says.",
    kernel="values beside each other",
)
mistaken(
    "last block only",
    "Your total is set anew in each step of the loop: only the last block of words is left. Add to it.",
    kernel="last block only",
)
mistaken(
    "left-over words",
    "Your loop ends with the last full block of words. What is left over needs a step too, with a mask.",
    kernel="no tail of words",
)
mistaken(
    "left-over rows",
    "You launch N // ROWS programs, and the last rows are never computed. Round up: `triton.cdiv(N, ROWS)`.",
    kernel="rows left over",
)
mistaken(
    "no mask for rows",
    "Your loads go past the last row: where ROWS does not divide N, the last program needs `rows < N` in its mask.",
    kernel="no row mask",
)
mistaken(
    "no mask for words",
    "Your loads go past the last word of a row: in the middle of the matrix that is the next row, at its end nobody's memory. Mask with `words < K // 16`.",
    kernel="no word mask",
)
mistaken("no mask in the store", "You store results for rows that do not exist: `mask=rows < N`.", kernel="no store mask")
mistaken(
    "nothing in masked lanes",
    "Masked lanes hold anything unless you say `other=0.0`: the interpreter alone gives zero, a GPU whatever was in the register.",
    kernel="no other",
)
mistaken(
    "divided instead of shifted",
    "You divide words, and negative ones come out wrong: Triton rounds to zero, as C does. Shift and cut: `(code >> 4) & 15`.",
    kernel="divided",
)
mistaken(
    "values read twice",
    "Your kernel reads the values twice. What it has loaded it can use again: a byte that is loaded twice is no saving.",
    kernel="twice",
)
mistaken(
    "float16",
    "You multiply or add in float16, and something on the way is too large for it. Convert both sides with `.to(tl.float32)` right after the load, "
    "keep the total in float32, and round once, at the end.",
    kernel="float16",
)
mistaken(
    "a word for each nibble",
    "Your kernel loads a word once for each of its four nibbles. Load it once, as (ROWS, WORDS), and cut it up afterwards: `code[:, :, None] >> shifts`.",
    kernel="a word for each nibble",
)
mistaken(
    "keeps float32",
    "Your result is float32. It should have the dtype of x: make `y` with `dtype=x.dtype`, and the store rounds.",
    kernel="keeps float32",
)
mistaken(
    "parts that overwrite each other",
    "Several programs add to one result by a load and a store. They run at the same time on a GPU, and all but one are lost: `tl.atomic_add`, or one program per result.",
    lambda values, codes, x: kernels().split(values, codes, x, atomic=False),
)


@gemv.accepts("the library's, which selects inputs")
def _(values, codes, x):
    return two_four_kernels.gemv(Packed24(values, codes), x)


@gemv.accepts("parts of rows that meet in atomic sums")
def _(values, codes, x):
    return kernels().split(values, codes, x)


@gemv.accepts("other blocks")
def _(values, codes, x):
    return kernels().few(values, codes, x[None], rows=32, words=8)[0]
