"""What the compiler makes of the kernels for GPUs that are not here: wide loads, no spills, sparse tensor cores."""

import pytest
from machine_code import compiled

from sparsity_edu.kernels import two_four_kernels as kernels

POINTERS = dict(x="*fp16", y="*fp16")
STRIDES = dict(K="i32", x_stride="i32", y_stride="i32")
ROWS = dict(values="*fp16", codes="*i16")
ARCHITECTURES = pytest.mark.parametrize("architecture", [80, 90])  # A100, H100


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
    assert len(code.loop) / 16 <= 14  # 4 x 64 x 8 kept weights for 128 threads


@ARCHITECTURES
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_decompressing_gemm(architecture, dtype):
    import triton.language as tl

    signature = with_type(ROWS | POINTERS, dtype) | dict(tokens="i32", N="i32") | STRIDES
    constants = dict(ROWS=64, TOKENS=64, WORDS=4, MULTIPLY_IN={"fp16": tl.float16, "bf16": tl.bfloat16}[dtype])
    code = compiled(kernels.gemm_decompress, signature, constants, architecture)
    assert any(op.startswith(("HMMA", "HGMMA")) for op in code.opcodes)
    assert code.resources["STACK"] == 0


def test_without_alignment_loads_are_narrow():
    """The assertions above can fail: a size that is no multiple of 16 costs the wide loads."""
    signature = ROWS | POINTERS | dict(N="i32") | STRIDES
    code = compiled(kernels.gemv_select, signature, dict(ROWS=4, WORDS=64), 90, aligned=False)
    assert "LDG.E.128" not in code.opcodes
