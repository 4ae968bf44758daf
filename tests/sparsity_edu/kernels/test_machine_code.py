"""What the compiler makes of the kernels for GPUs that are not here: wide loads, no spills, sparse tensor cores."""

import pytest
from machine_code import compiled

from sparsity_edu.kernels import sparse_attention_kernels, sparse_gemv_kernels
from sparsity_edu.kernels import two_four_kernels as kernels

POINTERS = dict(x="*fp16", y="*fp16")
STRIDES = dict(K="i32", x_stride="i32", y_stride="i32")
ROWS = dict(values="*fp16", codes="*i16")
ARCHITECTURES = pytest.mark.parametrize("architecture", [80, 90])  # A100, H100


def kind(dtype):
    import triton.language as tl

    return {"fp16": tl.float16, "bf16": tl.bfloat16, "fp32": tl.float32}[dtype]


def with_type(signature, dtype):
    return {name: kind.replace("fp16", dtype) for name, kind in signature.items()}


@ARCHITECTURES
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_tensor_core_gemv(architecture, dtype):
    signature = dict(fragments="*i32", words="*i32") | with_type(POINTERS, dtype) | STRIDES | dict(tokens="i32")
    code = compiled(kernels.gemv_mma, signature, dict(WARPS=8, UNROLL=4), architecture, num_warps=8)
    suffix = ".BF16" if dtype == "bf16" else ""
    assert code.opcodes[f"HMMA.SP.16832.F32{suffix}"] == 4
    loads = [op for op in code.loop if op.startswith("LDG")]
    assert sum(".128" in op for op in loads) == 4  # the weights of a piece each
    assert not [op for op in code.loop if op.startswith(("LDS", "STS", "BAR"))]  # nothing passes through shared memory
    assert code.resources["STACK"] == 0
    assert len(code.loop) / (4 * 8) <= 2.5  # instructions per kept weight: a thread holds 8 of each piece


@ARCHITECTURES
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_select_gemv(architecture, dtype):
    signature = with_type(ROWS | POINTERS, dtype) | dict(N="i32") | STRIDES
    code = compiled(kernels.gemv_select, signature, dict(ROWS=4, WORDS=64), architecture)
    assert "LDG.E.128" in code.opcodes
    assert code.resources["STACK"] == 0
    assert not [op for op in code.opcodes if op.startswith(("LDL", "STL"))]
    assert len(code.loop) / 16 <= 15  # 4 x 64 x 8 kept weights for 128 threads


@ARCHITECTURES
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_decompressing_gemm(architecture, dtype):
    signature = with_type(ROWS | POINTERS, dtype) | dict(tokens="i32", N="i32") | STRIDES
    constants = dict(ROWS=64, TOKENS=64, WORDS=4, MULTIPLY_IN=kind(dtype))
    code = compiled(kernels.gemm_decompress, signature, constants, architecture)
    assert any(op.startswith(("HMMA", "HGMMA")) for op in code.opcodes)
    assert code.resources["STACK"] == 0


def test_without_alignment_loads_are_narrow():
    """The assertions above can fail: a size that is no multiple of 16 costs the wide loads."""
    signature = ROWS | POINTERS | dict(N="i32") | STRIDES
    code = compiled(kernels.gemv_select, signature, dict(ROWS=4, WORDS=64), 90, aligned=False)
    assert "LDG.E.128" not in code.opcodes


def weights_per_thread(constants, warps=4):
    return constants["ROWS"] * constants["COLS"] / (32 * warps)


SHARES = dict(tokens="i32", N="i32", share="i32")
FEW, SEVERAL = dict(TOKENS=1, ROWS=32, COLS=256), dict(TOKENS=16, ROWS=32, COLS=256)


@ARCHITECTURES
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("tile", [FEW, SEVERAL], ids=["one token", "several"])
def test_threshold_gemv(architecture, dtype, tile):
    signature = (
        with_type(dict(W="*fp16", x="*fp16"), dtype) | dict(thresholds="*fp32", blocks="*i32", out="*fp32", K="i32") | SHARES
    )
    constants = tile | dict(ALIGNED=16, MULTIPLY_IN=kind(dtype), ATOMIC=False)
    code = compiled(sparse_gemv_kernels.threshold_partials, signature, constants, architecture)
    assert code.resources["STACK"] == 0
    if tile is FEW:
        wide = code.guarded("LDG.E.EF.128")  # rows that are skipped cause no traffic: each load has a predicate
        assert wide == code.opcodes["LDG.E.EF.128"] == weights_per_thread(tile) / (4 if dtype == "fp32" else 8)
        assert not [op for op in code.loop if op.startswith(("LDS", "STS", "BAR"))]  # nothing passes through shared memory
        assert len(code.loop) / weights_per_thread(tile) <= (10 if dtype == "fp32" else 8)
    else:
        assert code.opcodes["LDGSTS.E.BYPASS.128"] > 0  # from memory to shared memory, 16 bytes at a time
        assert any(op.startswith(("HMMA", "HGMMA", "FFMA")) for op in code.opcodes)


@ARCHITECTURES
def test_threshold_gemv_with_atomic_sums(architecture):
    signature = dict(W="*fp16", x="*fp16", thresholds="*fp32", blocks="*i32", out="*fp32", K="i32") | SHARES
    constants = FEW | dict(ALIGNED=16, MULTIPLY_IN=kind("fp16"), ATOMIC=True)
    code = compiled(sparse_gemv_kernels.threshold_partials, signature, constants, architecture)
    assert any(op.startswith("RED") for op in code.opcodes)  # added by the memory itself
    assert code.resources["STACK"] == 0


@ARCHITECTURES
@pytest.mark.parametrize("tile", [FEW, SEVERAL], ids=["one token", "several"])
def test_gathering_gemvs(architecture, tile):
    chosen = dict(W="*fp16", idx="*i32", count="*i32", x="*fp16")
    columns = compiled(
        sparse_gemv_kernels.column_partials,
        chosen | dict(out="*fp32", M="i32") | SHARES,
        tile | dict(GROUP=1, MULTIPLY_IN=kind("fp16")),
        architecture,
    )
    across = tile | (dict(ROWS=8, COLS=512) if tile is FEW else dict(ROWS=16, COLS=128))
    rows = compiled(
        sparse_gemv_kernels.row_products,
        chosen | dict(y="*fp16", tokens="i32", M="i32", K="i32"),
        across | dict(GROUP=1, MULTIPLY_IN=kind("fp16")),
        architecture,
    )
    for code in (columns, rows):
        assert code.resources["STACK"] == 0
        assert code.opcodes["LDG.E.EF.128"] + code.opcodes["LDGSTS.E.BYPASS.128"] >= 4


@ARCHITECTURES
def test_sums_of_partials_and_compaction(architecture):
    partials = dict(partials="*fp32", y="*fp16", size="i32", splits="i32")
    code = compiled(sparse_gemv_kernels.add_partials, partials, dict(SPLITS=16, BLOCK=64), architecture)
    assert code.opcodes["LDG.E.128"] > 0
    assert code.resources["STACK"] == 0
    mask = dict(mask="*i8", idx="*i32", count="*i32", n="i32")
    assert (
        compiled(sparse_gemv_kernels.compact_mask, mask, dict(BLOCK=4096), architecture, num_warps=16).resources["STACK"] == 0
    )


@ARCHITECTURES
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("rows", [True, False], ids=["rows", "all rows alike"])
def test_attention_over_pages(architecture, dtype, rows):
    bounds = with_type(dict(q="*fp16", low="*fp16", high="*fp16"), dtype) | dict(scores="*fp32", pages="i32")
    scores = compiled(sparse_attention_kernels.score_pages, bounds, dict(QUERIES=4, WIDTH=128, PAGES=32, DIM=128), architecture)
    sums = dict(tops="*fp32", masses="*fp32", sums="*fp32")
    attend = compiled(
        sparse_attention_kernels.attend_split,
        with_type(dict(q="*fp16", k="*fp16", v="*fp16"), dtype)
        | dict(chosen="*i32", scale="fp32", tokens="i32", kv_heads="i32", lists="i32", entries="i32", share="i32")
        | (dict(rows="*i64") if rows else {})
        | sums,
        ({} if rows else dict(rows=None))
        | dict(QUERIES=4, WIDTH=128, PAGE=16, ROWS=16, TOKENS=64, DIM=128, MULTIPLY_IN=kind(dtype)),
        architecture,
    )
    combine = compiled(
        sparse_attention_kernels.combine_splits,
        with_type(dict(y="*fp16"), dtype) | dict(splits="i32") | sums,
        dict(WIDTH=128, SPLITS=16, DIM=128),
        architecture,
    )
    assert scores.opcodes["LDG.E.128"] >= 8
    assert attend.opcodes["LDGSTS.E.BYPASS.128"] + attend.opcodes["LDG.E.128"] >= 16  # keys and values
    assert any(op.startswith(("HMMA", "HGMMA")) for op in attend.opcodes)
    assert all(code.resources["STACK"] == 0 for code in (scores, attend, combine))


def test_columns_that_are_not_aligned_are_read_one_by_one():
    signature = dict(W="*fp16", x="*fp16", thresholds="*fp32", blocks="*i32", out="*fp32", K="i32") | SHARES
    constants = FEW | dict(ALIGNED=1, MULTIPLY_IN=kind("fp16"), ATOMIC=False)
    code = compiled(sparse_gemv_kernels.threshold_partials, signature, constants, 90)
    assert "LDG.E.EF.128" not in code.opcodes
