"""A control group of its own for a sandbox, where systemd makes one: what its processes use together then has a hard limit.

That limit counts what is in no process's memory too, such as what waits in sockets. Elsewhere system calls are denied
(`syscalls`) and the guard counts.
"""

import os
import subprocess
from functools import cache

BUS = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")  # environment variables by which systemd-run finds a user's systemd
_TRIAL = 'cat "/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/memory.max"'


def scope(memory: int, processes: int) -> list[str]:
    """The command that starts another one, given behind it, in a control group.

    Args:
        memory: bytes; the guard comes first, so half as much again.
        processes: how many, without threads.

    Returns:
        The command, empty where there are no control groups to be had.
    """
    limits = [f"MemoryMax={memory * 3 // 2}", "MemorySwapMax=0", f"TasksMax={4 * processes + 64}"]
    return [*_systemd_run(), *(part for limit in limits for part in ("-p", limit)), "--"] if has_cgroup() else []


@cache
def has_cgroup() -> bool:
    """Whether systemd makes control groups here whose limit on memory holds."""
    try:
        command = [*_systemd_run(), "-p", f"MemoryMax={2**26}", "--", "sh", "-c", _TRIAL]
        tried = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.stdout.strip() == str(2**26)


def _systemd_run() -> list[str]:
    return ["systemd-run", *(["--user"] if os.getuid() else []), "--scope", "--quiet", "--collect"]
