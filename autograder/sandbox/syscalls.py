"""System calls that student code does not need and that no limit holds.

Memory behind memfd_create and System V segments belongs to no process, so nobody can count it; keys, message queues, io_uring
and inotify keep kernel memory in the same way, and so do pages that vmsplice lends to a pipe; keys are shared with whoever has
started the grader; ptrace and its kin look into other processes; and a worker's processors are chosen outside. All these answer
"not implemented".

Sockets and pipes are needed, and what waits in them is in no process's memory either. They keep the size that they have at
first, so that the guard can count them, and there are none of unusual families.

The filter is a program for the kernel's packet filter machine, as bubblewrap takes it (`--seccomp`).
"""

import platform
import struct

X86_64 = {
    **{"shmget": 29, "semget": 64, "msgget": 68, "ptrace": 101, "sched_setaffinity": 203, "add_key": 248, "request_key": 249},
    **{"keyctl": 250, "perf_event_open": 298, "process_vm_readv": 310, "process_vm_writev": 311, "memfd_create": 319},
    **{"bpf": 321, "userfaultfd": 323, "io_uring_setup": 425, "pidfd_getfd": 438, "memfd_secret": 447},
    **{"mq_open": 240, "inotify_init": 253, "vmsplice": 278, "inotify_init1": 294, "fanotify_init": 300},
}
AARCH64 = {
    **{"ptrace": 117, "sched_setaffinity": 122, "msgget": 186, "semget": 190, "shmget": 194, "add_key": 217},
    **{"request_key": 218, "keyctl": 219, "perf_event_open": 241, "process_vm_readv": 270, "process_vm_writev": 271},
    **{"memfd_create": 279, "bpf": 280, "userfaultfd": 282, "io_uring_setup": 425, "pidfd_getfd": 438, "memfd_secret": 447},
    **{"inotify_init1": 26, "vmsplice": 75, "mq_open": 180, "fanotify_init": 262},
}
NUMBERS = {"x86_64": (0xC000003E, X86_64), "aarch64": (0xC00000B7, AARCH64)}  # the machine's name in the kernel's audit.h
FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET and AF_INET6 (Jupyter's kernel talks to itself), AF_NETLINK
BUFFERS = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF and their forced kin
F_SETPIPE_SZ = 1031
# calls that are not permitted for some values of an argument: number by machine, position, values, whether for all others
RULES = (
    ({"x86_64": 41, "aarch64": 198}, 0, FAMILIES, True),  # socket
    ({"x86_64": 54, "aarch64": 208}, 2, BUFFERS, False),  # setsockopt
    ({"x86_64": 72, "aarch64": 25}, 1, (F_SETPIPE_SZ,), False),  # fcntl
)
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER, MACHINE, ARGUMENTS = 0, 4, 16  # where they are in the kernel's seccomp_data; an argument has 8 bytes
ALLOW, NOT_IMPLEMENTED, NOT_PERMITTED = 0x7FFF0000, 0x00050000 | 38, 0x00050000 | 1
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
    numbers, ruled = list(calls.values()), [part for rule in RULES for part in _rule(machine, *rule)]
    program = [
        (LOAD, 0, 0, MACHINE),
        (EQUAL, 1, 0, name),
        (RETURN, 0, 0, NOT_IMPLEMENTED),  # another machine's calls, such as those of 32 bits
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, len(numbers), 0, OTHER_ABI),
    ]
    program += [(EQUAL, len(numbers) - i - 1, 0, number) for i, number in enumerate(numbers[:-1])]
    program += [(EQUAL, 0, 1, numbers[-1]), (RETURN, 0, 0, NOT_IMPLEMENTED), *ruled, (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _rule(machine: str, numbers: dict[str, int], position: int, values: tuple[int, ...], others: bool) -> list[tuple]:
    """Instructions for one of `RULES`, which begin and end with the call's number."""
    hit, miss = (ALLOW, NOT_PERMITTED) if others else (NOT_PERMITTED, ALLOW)
    tests = [(EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    block = [(LOAD, 0, 0, ARGUMENTS + 8 * position), *tests, (RETURN, 0, 0, miss), (RETURN, 0, 0, hit)]
    return [(EQUAL, 0, len(block), numbers[machine]), *block]
