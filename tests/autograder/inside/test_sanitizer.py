"""The sanitizer passes a right kernel, and catches what the interpreter forgives."""

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from autograder.inside.sanitizer import Fault, watch

N, K, BLOCK = 37, 48, 16  # neither is a multiple of the block's rows or columns


@triton.jit
def right(W, x, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    """y = W x."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, COLS)
    inside = (rows[:, None] < N) & (cols[None, :] < K)
    w = tl.load(W + rows[:, None] * K + cols[None, :], mask=inside, other=0.0)
    v = tl.load(x + cols, mask=cols < K, other=0.0)
    tl.store(y + rows, tl.sum(w * v[None, :], axis=1), mask=rows < N)


@triton.jit
def without_row_mask(W, x, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, COLS)
    inside = (rows[:, None] >= 0) & (cols[None, :] < K)
    w = tl.load(W + rows[:, None] * K + cols[None, :], mask=inside, other=0.0)
    v = tl.load(x + cols, mask=cols < K, other=0.0)
    tl.store(y + rows, tl.sum(w * v[None, :], axis=1), mask=rows < N)


@triton.jit
def without_store_mask(W, x, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, COLS)
    inside = (rows[:, None] < N) & (cols[None, :] < K)
    w = tl.load(W + rows[:, None] * K + cols[None, :], mask=inside, other=0.0)
    v = tl.load(x + cols, mask=cols < K, other=0.0)
    tl.store(y + rows, tl.sum(w * v[None, :], axis=1))


@triton.jit
def without_other(W, x, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, COLS)
    inside = (rows[:, None] < N) & (cols[None, :] < K)
    w = tl.load(W + rows[:, None] * K + cols[None, :], mask=inside)
    v = tl.load(x + cols, mask=cols < K)
    tl.store(y + rows, tl.sum(w * v[None, :], axis=1), mask=rows < N)


@triton.jit
def partial_sums_in_one_place(W, x, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Each program takes half of the columns, and adds to what is there: right if they run one after the other."""
    rows, half = tl.arange(0, ROWS), tl.program_id(0)
    cols = half * COLS + tl.arange(0, COLS)
    inside = (rows[:, None] < N) & (cols[None, :] < K)
    w = tl.load(W + rows[:, None] * K + cols[None, :], mask=inside, other=0.0)
    v = tl.load(x + cols, mask=cols < K, other=0.0)
    before = tl.load(y + rows, mask=rows < N, other=0.0)
    tl.store(y + rows, before + tl.sum(w * v[None, :], axis=1), mask=rows < N)


@triton.jit
def atomic_partial_sums(W, x, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows, half = tl.arange(0, ROWS), tl.program_id(0)
    cols = half * COLS + tl.arange(0, COLS)
    inside = (rows[:, None] < N) & (cols[None, :] < K)
    w = tl.load(W + rows[:, None] * K + cols[None, :], mask=inside, other=0.0)
    v = tl.load(x + cols, mask=cols < K, other=0.0)
    tl.atomic_add(y + rows, tl.sum(w * v[None, :], axis=1), mask=rows < N)


@triton.jit
def one_stores_one_adds(W, x, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    """The first program clears what the others add to."""
    rows = tl.arange(0, ROWS)
    if tl.program_id(0) == 0:
        tl.store(y + rows, tl.zeros((ROWS,), tl.float32))
    tl.atomic_add(y + rows, tl.load(x + rows))


@triton.jit
def last_one_reads(W, x, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Each program leaves a number, and the last adds them up."""
    this, others = tl.program_id(0), tl.arange(0, COLS)
    tl.store(y + this, tl.load(x + this))
    if this == tl.num_programs(0) - 1:
        tl.store(y + COLS, tl.sum(tl.load(y + others), axis=0))


@triton.jit
def last_to_arrive_reads(W, x, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    """The same, and the last is who finds that all others have arrived."""
    this, others = tl.program_id(0), tl.arange(0, COLS)
    tl.store(y + this, tl.load(x + this))
    arrived = tl.atomic_add(y + COLS + 1, 1.0)
    if arrived == COLS - 1:
        tl.store(y + COLS, tl.sum(tl.load(y + others), axis=0))


@triton.jit
def lanes_in_one_place(W, x, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows = tl.arange(0, ROWS)
    tl.store(y + rows // 2, tl.load(x + rows))


@triton.jit
def all_then_masked(W, x, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Reads every weight, and multiplies those of zero inputs away."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, COLS)
    inside = (rows[:, None] < N) & (cols[None, :] < K)
    v = tl.load(x + cols, mask=cols < K, other=0.0)
    w = tl.load(W + rows[:, None] * K + cols[None, :], mask=inside, other=0.0)
    tl.store(y + rows, tl.sum(tl.where(v[None, :] != 0, w * v[None, :], 0.0), axis=1), mask=rows < N)


@triton.jit
def only_what_counts(W, x, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, COLS)
    v = tl.load(x + cols, mask=cols < K, other=0.0)
    inside = (rows[:, None] < N) & (v[None, :] != 0)
    w = tl.load(W + rows[:, None] * K + cols[None, :], mask=inside, other=0.0)
    tl.store(y + rows, tl.sum(w * v[None, :], axis=1), mask=rows < N)


def apart(*tensors, gap=4096):
    """Copies with much between them that is nobody's: else what a kernel reads behind one may by chance lie in another."""
    memory, copies = torch.zeros(sum(tensor.numel() + gap for tensor in tensors)).numpy(), []
    for tensor in tensors:
        part, memory = memory[: tensor.numel()], memory[tensor.numel() + gap :]
        copies.append(torch.from_numpy(part.reshape(tensor.shape)).copy_(tensor))  # each with a storage of its own
    return copies


def launch(kernel, programs=3, ROWS=16, COLS=64):
    g = torch.Generator().manual_seed(0)
    W, x, y = apart(torch.randn(N, K, generator=g), torch.randn(K, generator=g), torch.zeros(N))
    x[::3] = 0
    with watch() as seen:
        kernel[(programs,)](W, x, y, N, K, ROWS=ROWS, COLS=COLS)
    return W, x, y, seen


def test_a_right_kernel_passes_and_its_bytes_are_counted():
    W, x, y, seen = launch(right)
    torch.testing.assert_close(y, W @ x)
    assert seen.of(W).bytes_read == seen.of(W).bytes_loaded == W.nbytes
    assert (seen.of(x).bytes_read, seen.of(x).bytes_loaded) == (x.nbytes, 3 * x.nbytes)
    assert (seen.of(y).bytes_read, seen.of(y).bytes_written) == (0, y.nbytes)


@pytest.mark.parametrize(
    ("kernel", "options", "message"),
    [
        (without_row_mask, {}, "reads 528 elements outside all of its arguments"),  # 11 rows of 48
        (without_store_mask, {}, "writes 11 elements outside all of its arguments"),
        (partial_sums_in_one_place, dict(programs=2, ROWS=64, COLS=32), "two programs write to the same place"),
        (one_stores_one_adds, dict(programs=2), "a program adds to what another stores"),
        (last_one_reads, dict(programs=4, COLS=4), "a program reads what another writes"),
        (lanes_in_one_place, dict(programs=1), "two lanes of one store write to the same place"),
    ],
)
def test_what_a_gpu_would_not_forgive(kernel, options, message):
    with pytest.raises((InterpreterError, Fault), match=message):
        launch(kernel, **options)


def test_who_has_met_the_others_may_read_what_they_have_written():
    _, x, y, _ = launch(last_to_arrive_reads, programs=4, COLS=4)
    torch.testing.assert_close(y[4], x[:4].sum())


def test_where_programs_meet_is_counted():
    _, _, y, seen = launch(atomic_partial_sums, programs=2, ROWS=64, COLS=32)
    assert seen.of(y).bytes_met == y.nbytes
    _, _, y, seen = launch(right)
    assert seen.of(y).bytes_met == 0


def test_a_mask_of_a_scalar_and_a_vector_is_a_mask():
    x, y = torch.arange(16.0), torch.zeros(16)
    with watch() as seen:
        copy_in_the_first[(2,)](x, y, 5)
    assert y.tolist() == [0, 1, 2, 3, 4] + [0] * 11
    assert seen.of(x).bytes_loaded == 20


@triton.jit
def copy_in_the_first(x, y, n):
    at = tl.arange(0, 16)
    inside = (at < n) & (tl.program_id(0) < 1)
    tl.store(y + at, tl.load(x + at, mask=inside, other=0.0), mask=inside)


def test_masked_lanes_hold_nothing_in_particular():
    W, x, y, _ = launch(without_other)
    assert y.isnan().all()
    right_without_watching = torch.zeros(N)
    without_other[(3,)](W, x, right_without_watching, N, K, ROWS=16, COLS=64)
    torch.testing.assert_close(right_without_watching, W @ x)  # the interpreter alone forgives it


def test_atomic_sums_may_meet():
    W, x, y, _ = launch(atomic_partial_sums, programs=2, ROWS=64, COLS=32)
    torch.testing.assert_close(y, W @ x)


def test_a_saving_shows_in_bytes_and_not_in_results():
    (W, x, y, everything), (_, _, same, little) = launch(all_then_masked), launch(only_what_counts)
    torch.testing.assert_close(y, W @ x)
    assert torch.equal(y, same)
    assert everything.of(W).bytes_read == W.nbytes
    W, x, _, little = launch(only_what_counts)
    assert little.of(W).bytes_read == int((x != 0).sum()) * N * 4


def test_every_launch_may_write_anew():
    x, y = torch.arange(16.0), torch.zeros(16)
    W = torch.zeros(1)
    with watch() as seen:
        for _ in range(2):
            copy_kernel[(1,)](W, x, y, 1, 16, ROWS=16, COLS=16)
    assert seen.of(x).bytes_loaded == 2 * x.nbytes
    assert torch.equal(x, y)


@triton.jit
def copy_kernel(W, x, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows = tl.arange(0, ROWS)
    tl.store(y + rows, tl.load(x + rows))


@triton.jit
def one_each(x, y, shift):
    """Program i copies entry i + shift, around the end."""
    at = (tl.program_id(0) + shift) % tl.num_programs(0)
    tl.store(y + at, tl.load(x + at))


@triton.jit
def one_each_adds(x, y, shift):
    at = (tl.program_id(0) + shift) % tl.num_programs(0)
    tl.atomic_add(y + at, tl.load(x + at))


def test_another_program_may_write_in_the_next_launch():
    x, y = torch.arange(4.0), torch.zeros(4)
    with watch():
        one_each[(4,)](x, y, 0)
        one_each[(4,)](x, y, 1)
        one_each_adds[(4,)](x, y, 2)
    assert y.tolist() == [0, 2, 4, 6]


def test_a_fault_is_that_of_its_own_launch():
    x, y = torch.arange(4.0), torch.zeros(6)
    with watch():
        with pytest.raises(Fault, match="reads what another writes"):
            last_one_reads[(4,)](None, x, y, N, K, ROWS=1, COLS=4)
        one_each[(4,)](x, y, 0)


@triton.jit
def one_meets_and_the_next_reads(x, y):
    """Only the first program knows what others have done."""
    this = tl.program_id(0)
    if this == 0:
        tl.store(y, tl.load(x))
        tl.atomic_add(y + 1, 1.0)
    else:
        tl.store(y + 2, tl.load(y))


def test_what_one_program_knows_no_other_does():
    with watch(), pytest.raises(Fault, match="reads what another writes"):
        one_meets_and_the_next_reads[(2,)](torch.ones(1), torch.zeros(3))


@pytest.mark.parametrize("grid", [(2,), (1, 2), (1, 1, 2)])
def test_programs_are_told_apart_in_every_direction_of_the_grid(grid):
    with watch(), pytest.raises(InterpreterError, match="two programs write to the same place"):
        copy_kernel[grid](torch.zeros(1), torch.arange(16.0), torch.zeros(16), 1, 16, ROWS=16, COLS=16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_floats_and_integers_of_every_kind_are_poisoned(dtype):
    x, y = torch.ones(5, dtype=dtype), torch.zeros(8)
    i, j = torch.ones(5, dtype=torch.int16), torch.zeros(8)
    with watch():
        for source, result in ((x, y), (i, j)):
            masked_copy[(1,)](source, result, 5)
    assert y[:5].eq(1).all()
    assert y[5:].isinf().tolist() == [True, False, True]  # shows where numbers are compared
    assert y[5:].isnan().tolist() == [False, True, False]  # and where they are added
    assert j.tolist() == [1] * 5 + [32767] * 3


@triton.jit
def masked_copy(x, y, n):
    at = tl.arange(0, 8)
    tl.store(y + at, tl.load(x + at, mask=at < n).to(tl.float32))
