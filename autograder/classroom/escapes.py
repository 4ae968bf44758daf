"""Attempts to break out, run inside the sandbox by `autograder doctor`: each says whether it was held, and what happened.

    python -I escapes.py NAME

This file is copied into the sandbox, beside a file with the arguments, and imports nothing of the project.
"""

import ctypes
import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time


def network(port: int) -> tuple[bool, str]:
    """Connect to a service of this machine, to the internet, and ask for a name."""
    reached = []
    for what, target in (("a local service", ("127.0.0.1", port)), ("the internet", ("1.1.1.1", 53))):
        try:
            socket.create_connection(target, timeout=2).close()
            reached.append(what)
        except OSError:
            pass
    try:
        socket.getaddrinfo("example.org", 80)
        reached.append("a name server")
    except OSError:
        pass
    return not reached, "reached " + ", ".join(reached) if reached else "no network"


def sockets(paths: list[str]) -> tuple[bool, str]:
    """Connect to UNIX sockets outside, one of them abstract."""
    for path in paths:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(path.replace("@", "\0"))
            except OSError:
                continue
            return False, f"connected to {path}"
    return True, "none can be reached"


def answers(forbidden: list[str]) -> tuple[bool, str]:
    """Import the reference and the checks, and look for them, for solutions, gradebook and secret in every folder."""
    sys.path.insert(0, "/student")
    for module in ("sparsity_edu.weights.magnitude", "sparsity_edu.patterns", "autograder.exercises", "autograder.checking"):
        try:
            __import__(module)
        except ImportError:
            continue
        return False, f"imported {module}"
    for path in forbidden:
        if os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
            return False, f"there is {path}"
    count = 0
    for folder, folders, files in os.walk("/"):
        folders[:] = [name for name in folders if folder != "/" or name not in ("proc", "sys")]
        count += len(files)
        names = {*files, *folders}
        is_ours = folder.endswith(("/sparsity_edu", "/autograder")) and names & {"weights", "exercises", "checking"}
        if is_ours or "magnitude.ipynb" in names:
            return False, f"found {folder}"
    return True, f"none among {count} files"


def environment(canary: str) -> tuple[bool, str]:
    """Look for the grader's environment in every process that can be seen."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("environ", "cmdline"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    content = file.read()
            except OSError:
                continue
            if canary.encode() in content:
                return False, f"found it in /proc/{pid}/{name}"
    return canary not in str(dict(os.environ)), f"{len(os.environ)} harmless variables"


def writing(paths: list[str]) -> tuple[bool, str]:
    """Write to the system, the environment, the student edition, the course and the home folder."""
    system = ["/", "/usr", "/etc", "/dev", "/proc/sys/kernel", os.path.dirname(sys.executable)]
    for folder in (*system, "/student/autograder", "/judge", *paths):
        try:
            with open(f"{folder}/written-by-student", "w"):
                return False, f"wrote to {folder}"
        except OSError:
            continue
    return True, "everything is read-only"


def privileges() -> tuple[bool, str]:
    """Become root, or make a new namespace in which one is root."""
    try:
        os.setuid(0)
        return os.getuid() != 0, "became root"
    except OSError:
        pass
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000) == 0:
        return False, "made a new user namespace"
    with open("/proc/self/status") as file:
        capabilities = next(line.split()[1] for line in file if line.startswith("CapEff"))
    return int(capabilities, 16) == 0, f"user {os.getuid()}, no capabilities, no new namespaces"


def processes() -> tuple[bool, str]:
    """See and signal processes outside."""
    seen = [pid for pid in os.listdir("/proc") if pid.isdigit()]
    return len(seen) < 20, f"{len(seen)} processes are seen, all of this sandbox"


def forking(most: int) -> tuple[bool, str]:
    """Fork without end."""
    count = 0
    while count <= 4 * most:
        try:
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
        except OSError:
            return count <= most, f"stopped at {count} processes"
        count += 1
    return False, f"{count} processes"


def memory(most: int) -> tuple[bool, str]:
    """Allocate without end."""
    held = []
    try:
        while len(held) * 2**28 <= 2 * most:
            held.append(bytearray(2**28))
    except MemoryError:
        return len(held) * 2**28 <= most, f"stopped at {len(held) / 4:g} GB"
    return False, f"{len(held) / 4:g} GB"


def shared_memory(most: int) -> tuple[bool, str]:
    """Allocate memory that counts for no single process, without end."""
    held = []
    for _ in range(2 * most // 2**28):
        held.append(mmap.mmap(-1, 2**28))
        for page in range(0, 2**28, mmap.PAGESIZE):
            held[-1][page] = 1
    return False, f"{len(held) / 4:g} GB"


def nobodys_memory() -> tuple[bool, str]:
    """Get memory that belongs to no process at all, or larger sockets and pipes."""
    libc = ctypes.CDLL(None, use_errno=True)
    made = {"a memfd": libc.memfd_create(b"memory", 0), "a segment": libc.shmget(0, 4096, 0o1600)}
    made |= {"a message queue": libc.syscall(240 if os.uname().machine == "x86_64" else 180, b"queue", os.O_CREAT, 0o600, None)}
    had = [name for name, result in made.items() if result >= 0]
    ends, pipe = socket.socketpair(), os.pipe()
    try:
        ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**22)
        had.append("a larger socket")
    except OSError:
        pass
    try:
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 2**20)
        had.append("a larger pipe")
    except OSError:
        pass
    return not had, "got " + " and ".join(had) if had else "there is none"


def kernel_memory(most: int) -> tuple[bool, str]:
    """Fill sockets: what waits in them is in no process's memory."""
    held, pairs = 0, []
    while held < most and len(pairs) < 500:  # never so much that it could matter to this machine
        pairs.append(socket.socketpair())
        for end in pairs[-1]:
            end.setblocking(False)
            try:
                while held < most:
                    held += end.send(bytes(2**14))
            except BlockingIOError:
                continue
    time.sleep(2)  # whoever counts has the time to
    return False, f"{held / 2**20:.0f} MB wait in {2 * len(pairs)} sockets"


def disk(most: int) -> tuple[bool, str]:
    """Fill every folder that can be written."""
    total = 0
    for folder in ("/submission", "/tmp", "/dev/shm"):
        try:
            for i in range(2 * most // 2**24):
                with open(f"{folder}/fill{i}", "wb") as file:
                    total += file.write(bytes(2**24))
        except OSError:
            continue
    return total <= 3 * most, f"stopped at {total / 2**20:g} MB"


def files(most: int) -> tuple[bool, str]:
    """Make a million files."""
    for i in range(1_000_000):
        open(f"/tmp/{i}", "w").close()
    return False, "made a million files"


def interrupts() -> tuple[bool, str]:
    """Go on for ever, whatever signal comes."""
    for number in range(1, signal.NSIG):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    while True:
        pass


def surviving(token: str) -> tuple[bool, str]:
    """Leave a process behind that belongs to nobody."""
    subprocess.Popen(["/bin/sh", "-c", f"trap '' HUP INT TERM; : {token}; sleep 600; :"], start_new_session=True)
    return True, "left one behind"


if __name__ == "__main__":
    with open("arguments") as given:
        held, told = globals()[sys.argv[1]](**json.load(given))
    print(json.dumps([bool(held), told]), flush=True)
    os._exit(0)
