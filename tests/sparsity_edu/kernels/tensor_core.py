"""A sparse tensor core in numpy: `mma.sp.m16n8k32`, from the tables of the PTX ISA (section "mma.sp"), for the interpreter."""

import re
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from triton import language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

INSTRUCTION = re.compile(
    r"mma\.sp::ordered_metadata\.sync\.aligned\.m16n8k32\.row\.col\.f32\.(f16|bf16)\.\1\.f32 "
    r"\{\$0,\$1,\$2,\$3\}, \{\$4,\$5,\$6,\$7\}, \{\$8,\$9,\$10,\$11\}, \{\$12,\$13,\$14,\$15\}, \$16, 0x0;"
)


def halves(registers: np.ndarray, kind: str) -> np.ndarray:
    """Two numbers of each 32-bit register, the one in the lower bits first: (n, 2) float32."""
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16}[kind]
    return torch.from_numpy(registers.astype(np.int32).view(np.int16)).view(dtype).float().view(-1, 2).numpy()


def mma_sp(a: list, b: list, c: list, e: np.ndarray, kind: str) -> list[np.ndarray]:
    """One instruction of one warp: lists of registers, each of 32 threads."""
    kept, B, D = np.zeros((16, 16), np.float32), np.zeros((32, 8), np.float32), np.zeros((16, 8), np.float32)
    A, place = np.zeros((16, 32), np.float32), np.zeros((16, 8, 2), int)
    for lane in range(32):
        group, inside = divmod(lane, 4)
        for i in range(8):  # a_i: "row = groupID for a0, a1, a4, a5, groupID + 8 otherwise"; two of four columns each
            row = group if i in (0, 1, 4, 5) else group + 8
            kept[row, 2 * inside + (i & 1) + (8 if i >= 4 else 0)] = halves(a[i // 2], kind)[lane, i & 1]
        for i in range(8):  # b_i: "row = threadID_in_group * 2 + (i & 1)", plus 8 for each pair of them; col = groupID
            B[2 * inside + (i & 1) + 8 * (i // 2), group] = halves(b[i // 2], kind)[lane, i & 1]
        for i in range(4):
            D[group if i < 2 else group + 8, 2 * inside + (i & 1)] = c[i][lane]
        if inside < 2:  # selector 0: the first two threads of four give the indices
            word = int(e[lane]) & 0xFFFFFFFF
            for half, row in enumerate((group, group + 8)):
                for k in range(4):
                    nibble = word >> (16 * half + 4 * k) & 15
                    place[row, 4 * inside + k] = nibble & 3, nibble >> 2
    assert (place[..., 0] < place[..., 1]).all(), "indices that do not ascend are undefined"
    for row in range(16):
        for k in range(8):
            A[row, 4 * k + place[row, k]] = kept[row, 2 * k : 2 * k + 2]
    D += A @ B
    lanes = np.arange(32)
    return [D[lanes // 4 + 8 * (i // 2), 2 * (lanes % 4) + (i & 1)] for i in range(4)]


@contextmanager
def emulated():
    """The interpreter knows the instruction, and no other."""

    def create_inline_asm(builder, text, constraints, values, types, is_pure, pack):
        match = INSTRUCTION.fullmatch(text)
        assert match, f"another instruction: {text}"
        assert constraints == "=f,=f,=f,=f,r,r,r,r,r,r,r,r,f,f,f,f,r"
        assert pack == 1
        data = [np.asarray(value.data).reshape(-1, 32) for value in values]  # (warps, 32) each
        warps = [
            mma_sp([r[w] for r in data[:4]], [r[w] for r in data[4:8]], [r[w] for r in data[8:12]], data[12][w], match[1])
            for w in range(len(data[0]))
        ]
        results = [np.concatenate([warp[i] for warp in warps]).astype(np.float32) for i in range(4)]
        handles = [TensorHandle(result, tl.float32) for result in results]
        return _Results(handles)

    class _Results:
        """What the compiler's builder gives: an operation with several results."""

        def __init__(self, handles):
            self.handles = handles

        def get_result(self, i):
            return self.handles[i]

    with patch.object(InterpreterBuilder, "create_inline_asm", create_inline_asm):
        yield
