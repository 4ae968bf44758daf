"""The filter program, run by a machine of four instructions, and in a sandbox."""

import struct
import subprocess
import sys

import pytest

from autograder.sandbox import syscalls
from autograder.sandbox.bubblewrap import Limits, launch

ALLOWED, DENIED, NOT_PERMITTED = 0x7FFF0000, 0x00050026, 0x00050001  # linux/seccomp.h; 38 is ENOSYS, 1 EPERM
EVERYDAY = {"x86_64": (0, 1, 9, 56, 59, 231, 257, 435), "aarch64": (56, 63, 64, 93, 220, 221, 222, 435)}  # read, write, mmap...


def run(program: bytes, machine: int, number: int, *arguments: int) -> int:
    at, value = 0, 0
    data = {0: number, 4: machine} | {16 + 8 * i: (*arguments, 0, 0, 0)[i] for i in range(3)}
    while True:
        code, yes, no, k = struct.unpack_from("HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            value = data[k]
        elif code == 0x15:
            at += yes if value == k else no
        elif code == 0x35:
            at += yes if value >= k else no
        else:
            assert code == 0x06
            return k


@pytest.mark.parametrize("machine", syscalls.NUMBERS)
def test_denies_what_it_names_and_nothing_else(machine):
    name, calls = syscalls.NUMBERS[machine]
    program = syscalls.deny_filter(machine)
    assert len(program) % 8 == 0
    denied = {number for number in range(600) if run(program, name, number) == DENIED}
    assert denied == set(calls.values())
    assert not denied & set(EVERYDAY[machine])
    assert {run(program, name, number) for number in EVERYDAY[machine]} == {ALLOWED}


@pytest.mark.parametrize("machine", syscalls.NUMBERS)
def test_sockets_and_pipes_are_of_one_kind_and_keep_their_size(machine):
    name, program = syscalls.NUMBERS[machine][0], syscalls.deny_filter(machine)
    new, option, control = (numbers[machine] for numbers, *_ in syscalls.RULES)
    assert {family for family in range(50) if run(program, name, new, family) == ALLOWED} == {1, 2, 10, 16}
    assert {o for o in range(80) if run(program, name, option, 5, 1, o) == NOT_PERMITTED} == {7, 8, 32, 33}
    assert {c for c in range(2000) if run(program, name, control, 5, c) == NOT_PERMITTED} == {1031}


@pytest.mark.parametrize("machine", syscalls.NUMBERS)
def test_denies_all_calls_by_another_door(machine):
    name = syscalls.NUMBERS[machine][0]
    program = syscalls.deny_filter(machine)
    assert {run(program, 0x40000003, number) for number in range(600)} == {DENIED}  # i386
    assert run(program, name, 0x40000000 | 1) == DENIED  # x32


def test_a_machine_whose_numbers_are_not_known_has_no_filter():
    assert syscalls.deny_filter("riscv64") is None


def test_the_kernel_answers_not_implemented(sandbox):
    code = "import ctypes; l = ctypes.CDLL(None, use_errno=True); print(l.memfd_create(b'x', 0), ctypes.get_errno())"
    process, _ = launch([sys.executable, "-I", "-c", code], {}, None, [], Limits())
    try:
        assert process.communicate(timeout=30)[0] == b"-1 38\n"
    finally:
        process.kill()


def test_outside_it_is_there():
    code = "import os; os.close(os.memfd_create('x'))"
    assert subprocess.run([sys.executable, "-I", "-c", code]).returncode == 0
