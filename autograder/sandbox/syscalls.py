"""System calls that student code does not need and that no limit holds: they answer "not implemented".

Memory behind memfd_create and System V segments belongs to no process, so nobody can count it; keys and io_uring keep kernel
memory in the same way, and keys are shared with whoever has started the grader; ptrace and its kin look into other processes;
and a worker's processors are chosen outside. The filter is a program for the kernel's packet filter
machine, as bubblewrap takes it (`--seccomp`).
"""

import platform
import struct

X86_64 = {
    **{"shmget": 29, "semget": 64, "msgget": 68, "ptrace": 101, "sched_setaffinity": 203, "add_key": 248, "request_key": 249},
    **{"keyctl": 250, "perf_event_open": 298, "process_vm_readv": 310, "process_vm_writev": 311, "memfd_create": 319},
    **{"bpf": 321, "userfaultfd": 323, "io_uring_setup": 425, "pidfd_getfd": 438, "memfd_secret": 447},
}
AARCH64 = {
    **{"ptrace": 117, "sched_setaffinity": 122, "msgget": 186, "semget": 190, "shmget": 194, "add_key": 217},
    **{"request_key": 218, "keyctl": 219, "perf_event_open": 241, "process_vm_readv": 270, "process_vm_writev": 271},
    **{"memfd_create": 279, "bpf": 280, "userfaultfd": 282, "io_uring_setup": 425, "pidfd_getfd": 438, "memfd_secret": 447},
}
NUMBERS = {"x86_64": (0xC000003E, X86_64), "aarch64": (0xC00000B7, AARCH64)}  # the machine's name in the kernel's audit.h
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER, MACHINE = 0, 4  # where they are in the kernel's seccomp_data
ALLOW, NOT_IMPLEMENTED = 0x7FFF0000, 0x00050000 | 38
OTHER_ABI = 0x40000000  # x86_64's x32 numbers begin here


def deny_filter(machine: str = platform.machine()) -> bytes | None:
    """The filter program.

    Args:
        machine: as `platform.machine()` says it.

    Returns:
        Instructions of eight bytes each, None for a machine whose numbers are not known here.
    """
    if machine not in NUMBERS:
        return None
    name, calls = NUMBERS[machine]
    numbers = list(calls.values())
    program = [
        (LOAD, 0, 0, MACHINE),
        (EQUAL, 0, len(numbers) + 3, name),  # another machine's calls, such as those of 32 bits: all denied
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, len(numbers) + 1, 0, OTHER_ABI),
    ]
    program += [(EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    program += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, NOT_IMPLEMENTED)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)
