"""Bytes as one counts them by hand, times as the roofline gives them."""

import matplotlib
import pytest
import torch
from matrices import two_four_matrix

from autograder.inside.sanitizer import watch
from sparsity_edu.kernels import roofline, two_four
from sparsity_edu.kernels.roofline import Machine, decode_attention, dense_gemv, row_gemv, threshold_gemv, two_four_gemv
from sparsity_edu.kernels.sparse_attention import page_bounds, page_scores, sparse_decode
from sparsity_edu.kernels.sparse_gemv import gemv_rows, gemv_threshold

MACHINE = Machine("made up", bandwidth=2e12, peak=8e14)


def moved(seen):
    """Bytes that have to come from memory or go there: what is read twice is read once."""
    return sum(memory.bytes_read + memory.bytes_written for memory in seen.memories)


def test_dense():
    work = dense_gemv(14336, 4096, tokens=3)
    assert work.bytes == 2 * 14336 * 4096 + 2 * 3 * (14336 + 4096)
    assert work.operations == 2 * 3 * 14336 * 4096
    assert work.seconds(MACHINE) == work.bytes / 2e12
    many = dense_gemv(14336, 4096, tokens=4096)
    assert many.seconds(MACHINE) == many.operations / 8e14
    assert many.intensity > MACHINE.ridge == 400 > work.intensity


@pytest.mark.parametrize("tokens", [1, 3])
def test_two_four_is_what_its_kernel_moves(tokens):
    packed, x = two_four.pack(two_four_matrix(130, 2096)), torch.ones(tokens, 2096).half()
    with watch() as seen:
        two_four.gemv(packed, x)
    assert moved(seen) == two_four_gemv(130, 2096, tokens).bytes


@pytest.mark.parametrize("tokens", [1, 3])
def test_threshold_is_what_its_kernels_move(tokens):
    g = torch.Generator().manual_seed(0)
    W, x = torch.randn(600, 137, generator=g).half(), torch.randn(tokens, 600, generator=g).half()
    with watch() as seen:
        gemv_threshold(W, x, 0.5)
    kept = int((x.abs() > 0.5).any(dim=0).sum())
    tables = 4 + 4 * 3 * 2  # a threshold, and two blocks of columns
    assert moved(seen) == threshold_gemv(137, 600, kept, tokens, splits=3).bytes + tables


def test_rows_are_what_their_kernel_moves():
    g = torch.Generator().manual_seed(0)
    W, x = torch.randn(137, 600, generator=g).half(), torch.randn(1, 600, generator=g).half()
    with watch() as seen:
        gemv_rows(W, torch.randperm(137, generator=g)[:50].int(), x)
    assert moved(seen) == row_gemv(50, 600).bytes + 4  # and how many there are


def test_attention_is_what_its_kernels_read():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, *rest, 64, generator=g) for heads, rest in ((6, ()), (2, (320,)), (2, (320,))))
    low, high = page_bounds(k)
    pages = torch.arange(0, 20, 4).expand(1, 2, 5).contiguous()
    with watch() as seen:
        page_scores(q, low, high)
        y = sparse_decode(q, k, v, pages)
    read = sum(seen.of(tensor).bytes_read for tensor in (q, k, v, low, high)) + y.nbytes
    assert read == decode_attention(320, 2, 64, heads=6, page=16, kept=80, itemsize=4).bytes
    assert decode_attention(320, 2, 64, heads=6).operations == 2 * 6 * 64 * 2 * 320
    whole, some = decode_attention(32768, 8, 128), decode_attention(32768, 8, 128, page=16, kept=2048)
    assert whole.bytes / some.bytes == pytest.approx(8, rel=0.01)  # 1 / 16 + 2048 / 32768


def test_this_machine_is_measured():
    machine = roofline.this_machine("cpu", megabytes=16)
    assert 1e8 < machine.bandwidth < 1e13
    assert 1e8 < machine.peak < 1e15
    assert "CPU" in machine.name


def test_the_plot_shows_what_was_reached():
    matplotlib.use("agg")
    works = [dense_gemv(4096, 4096), threshold_gemv(4096, 4096, 2048)]
    ax = roofline.draw(works, MACHINE, [2 * works[0].seconds(MACHINE), None])
    marks = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in ax.lines if len(line.get_xdata()) == 1]
    assert marks[0] == pytest.approx((works[0].intensity, works[0].intensity * 2e3))  # on the roof
    assert marks[1] == pytest.approx((works[0].intensity, works[0].intensity * 1e3))  # half as high
    assert len(marks) == 3
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["dense", "threshold", "measured"]
