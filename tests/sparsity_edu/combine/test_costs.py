"""Bytes against what is really stored and against a count of inputs; times against the roofline by hand."""

import pytest
import torch

from sparsity_edu.combine.costs import Model, speedups, step_bytes, step_seconds, tokens_read, weight_bytes
from sparsity_edu.kernels.roofline import Machine, decode_attention
from sparsity_edu.patterns import n_m, unstructured
from sparsity_edu.storage import Bitmap, TwoFour

MODEL, MACHINE = Model(1_000_000, 2048, 40_000), Machine("made up", 1e9, 1e11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_read_of_stored_weights_is_what_is_stored(dtype):
    W = torch.randn(16, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    pairs = W * n_m(W.abs(), 2, 4)
    sparse = W * unstructured(W.abs(), 0.75, "row")
    assert weight_bytes(640, "dense", itemsize=W.itemsize) == W.nbytes
    assert weight_bytes(640, "2:4", itemsize=W.itemsize) == TwoFour.encode(pairs).nbytes
    assert weight_bytes(640, 0.75, itemsize=W.itemsize) == Bitmap.encode(sparse).nbytes


@pytest.mark.parametrize(("stored", "together"), [("dense", 1), (0.6, 1), ("2:4", 4)])
@pytest.mark.parametrize("batch", [1, 3])
def test_an_input_is_skipped_if_no_sequence_needs_it(stored, together, batch):
    small = torch.rand(batch, 400_000, generator=torch.Generator().manual_seed(1)) < 0.7
    needed = ~small.all(dim=0).view(-1, together).all(dim=1)
    share = weight_bytes(1000, stored, 0.7, batch) / weight_bytes(1000, stored)
    assert share == pytest.approx(needed.double().mean().item(), abs=5e-3)


def test_pages_are_read_as_attention_over_pages_reads_them():
    kv_heads, head_dim, page, budget, context = 2, 64, 16, 256, 1600
    work = decode_attention(context, kv_heads, head_dim, page=page, kept=budget)
    queries_and_results = 2 * 2 * kv_heads * head_dim
    _, caches = step_bytes(0, "dense", 0.0, 1, context, 2 * kv_heads * head_dim, page, budget)
    assert caches == work.bytes - queries_and_results
    assert tokens_read(context, page, budget) * 4 * kv_heads * head_dim == work.operations


def test_tokens_read():
    assert tokens_read(1000) == 1000
    assert tokens_read(1000, budget=64) == 64
    assert tokens_read(50, budget=64) == 50
    assert tokens_read(1001, page=100, budget=64) == 11 + 64
    assert tokens_read(1001, page=100, budget=4000) == 11 + 1001


def test_a_step_takes_the_longer_of_reading_and_computing():
    dense = step_seconds(MODEL, MACHINE, 1, 100)
    assert dense == pytest.approx(2_000_000 / 1e9 + 409_600 / 1e9)
    many = step_seconds(MODEL, MACHINE, 1000, 100)
    assert many == pytest.approx(2_000_000_000 / 1e11 + 409_600_000 / 1e9)
    pruned = step_seconds(MODEL, MACHINE, 1000, 0, stored=0.75)
    assert pruned == pytest.approx(500_000_000 / 1e11)


def test_what_pays_depends_on_batch_and_context():
    short, long = (speedups(1, context, MODEL, MACHINE, 0.5, 16, 512) for context in (100, 100_000))
    assert short["skip"] > short["2:4"] > 1 > short["pages"]
    assert long["pages"] > 5 > 1.1 > long["2:4"]
    batch = speedups(8, 0, MODEL, MACHINE, 0.5, 16, 512)
    assert batch["2:4"] == pytest.approx(16 / 9)
    assert batch["skip"] == pytest.approx(1 / (1 - 0.5**8))
    assert batch["pages"] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weight_bytes(4, "3:4"), "stored must be dense, 2:4 or a sparsity"),
        (lambda: weight_bytes(4, 1.0), "stored must be dense, 2:4 or a sparsity"),
        (lambda: weight_bytes(4, "dense", 1.5), "skipped must be in"),
        (lambda: weight_bytes(4, "dense", 0.5, 0), "batch at least 1"),
        (lambda: tokens_read(10, page=4), "budget must be given with pages"),
        (lambda: tokens_read(10, page=0, budget=4), "nor page below 1"),
        (lambda: tokens_read(-1), "must not be negative"),
    ],
)
def test_what_is_not_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()
