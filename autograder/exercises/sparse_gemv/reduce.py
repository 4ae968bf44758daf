"""Exercise 16.4: adding the parts up."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.sparse_gemv.partials import kernels
from autograder.inside.case import call


def add_partials(partials: Tensor) -> Tensor:
    return kernels().added(partials)


reduce = Exercise(
    "sparse_gemv.reduce",
    defines="add_partials",
    title="Add the parts, round once",
    minutes=12,
    difficulty=2,
    hints=(
        "One program takes a block of outputs and goes through all parts, from the first to the last, so that the order "
        "is always the same.",
        "Keep a total of BLOCK numbers in float32. The sum of part s for output n lies at `s * N + n`. It is rounded "
        "once, after the loop, when the total is stored.",
        "In `for split in range(splits):` add `tl.load(partials + split * N + cols, mask=cols < N, other=0.0)`. Store the "
        "total into a float16 tensor, with the same mask. The grid has `triton.cdiv(N, BLOCK)` programs.",
    ),
    reference=add_partials,
    rules=Rules(tolerance=1e-3),
    ordered=True,
    contiguous=True,
    forbids=("triton.language.atomic_add",),
)


@reduce.stage(
    "the sum over the parts",
    points=1,
    exposes="float16 (N,): column by column, the sum of all parts. A kernel reads every partial sum once.",
)
def _(g):
    yield call(torch.randn(4, 128, generator=g), watched=(0,), veiled=True)
    yield call(torch.randn(8, 64, generator=g), watched=(0,))


@reduce.stage(
    "any number of parts and columns",
    points=1,
    exposes="Parts and columns that fill no block. Masks keep a program inside its tensors, and masked lanes hold nothing in particular.",
    pure=True,
)
def _(g):
    yield call(torch.randn(7, 150, generator=g), watched=(0,))
    yield call(torch.randn(1, 33, generator=g), watched=(0,))
    yield call(torch.randn(37, 5, generator=g), watched=(0,))
    yield call(torch.randn(1100, 1, generator=g), watched=(0,))  # more parts than a block of 1024
    yield call(torch.randn(2, 4200, generator=g), watched=(0,))  # and more columns than one of 4096


@reduce.stage(
    "added in float32, rounded once",
    points=1,
    exposes="Partial sums can be larger than any float16 where their sum is not, and differences that a float16 cannot hold count. Only the last step rounds.",
)
def _(g):
    large = 1024.0 * torch.randint(60, 100, (3, 40), generator=g)  # all sums are exact in float32, in any order
    small = torch.randint(-64, 64, (2, 40), generator=g) / 16
    yield call(torch.cat([large, small, -large]), watched=(0,))
    fine = 2049 + 2 * torch.randint(0, 500, (2, 30), generator=g)  # odd numbers that float16 cannot hold
    yield call(torch.cat([fine, torch.full((1, 30), 0.25), 1 - fine]), watched=(0,))
    yield call(1 + torch.rand(150, 24, generator=g), watched=(0,))
    yield call(2.0**-22 * torch.randint(-9, 10, (5, 40), generator=g), watched=(0,))  # small sums are sums


def mistaken(name: str, says: str, wrong=None, kernel: str = "", **how):
    reduce.misconception(name, says)(wrong or (lambda partials: kernels().added(partials, kernel, **how)))


mistaken("on the host", "Torch has added these up, not a kernel. Read `partials` in yours.", lambda p: p.sum(0).half())
mistaken(
    "another copy",
    "Your kernel reads a copy that torch has made, in float16. Read the float32 sums themselves.",
    lambda p: kernels().added(p.half()),
)
mistaken(
    "added in float16",
    "You add in float16: the total is rounded at every step. Keep it float32, and let the store round.",
    kernel="float16",
)
mistaken(
    "parts rounded",
    "You round each part to float16 before you add. Add the float32 sums as they are.",
    kernel="parts in float16",
)
mistaken(
    "rounded at every step",
    "You round the total at every step. It is rounded once, after the last part.",
    kernel="rounded every step",
)
mistaken(
    "keeps float32", "Your result is float32. Make y with `dtype=torch.float16`, and the store rounds.", kind=torch.float32
)
mistaken("mean", "You divided by the number of parts. The parts are summed.", kernel="mean")
mistaken(
    "last block only", "Your total is set anew in each step: only the last parts are left. Add to it.", kernel="last block only"
)
mistaken(
    "parts left over",
    "Parts that fill no block are left out. Go on to the last part, with a mask, or take them one by one.",
    kernel="left-over splits",
)
mistaken(
    "the first block of parts",
    "You add a fixed number of parts, and there can be more. The loop has to go on to the last part.",
    kernel="first block only",
    splits=16,
)
mistaken(
    "columns left over",
    "The last columns are never added: `triton.cdiv(N, BLOCK)` programs.",
    kernel="left-over columns",
)
mistaken(
    "no mask for parts",
    "Your loads go past the last part: `split < splits` belongs into their mask.",
    kernel="no split mask",
)
mistaken(
    "no mask for columns",
    "Your loads go past the last column: in the middle of the tensor that is the next part. `cols < N` belongs into the mask.",
    kernel="no column mask",
)
mistaken("no mask in the store", "You store results for columns that do not exist: `mask=cols < N`.", kernel="no store mask")
mistaken(
    "nothing in masked lanes",
    "Masked lanes hold anything unless you say `other=0.0`, and one NaN in a sum is enough.",
    kernel="no other",
)
mistaken(
    "columns apart",
    "You look for the sums of one output next to each other. Part s of output n lies at `s * N + n`.",
    kernel="columns apart",
)
mistaken(
    "parts that overwrite each other",
    "A program for each part loads a result, adds and stores it. They run at the same time on a GPU, and all but one are lost. Let one program add all parts of an output.",
    lambda p: kernels().added_by_many(p, "race"),
)
mistaken(
    "atomic sums",
    "A program for each part adds to the result atomically. They end in any order, and floating-point sums depend on it. Let one program add all parts of an output, in "
    "a loop.",
    lambda p: kernels().added_by_many(p),
)
mistaken(
    "atomic sums in float16",
    "You add into a float16 result: every one of the parts is rounded. Add in float32, and round at the end.",
    lambda p: kernels().added_by_many(p, kind=torch.float16),
)


@reduce.accepts("one part after the other")
def _(partials):
    return kernels().added(partials, splits=1, block=256)


@reduce.accepts("all parts in one block")
def _(partials):
    from triton import next_power_of_2

    return kernels().added(partials, splits=next_power_of_2(len(partials)), block=128)


@reduce.accepts("in float32, rounded by torch")
def _(partials):
    return kernels().added(partials, splits=16, block=256, kind=torch.float32).half()
