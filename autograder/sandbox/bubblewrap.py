"""The wall around student code: a bubblewrap command line, and limits for each process.

Inside there is no network, nothing can be written but a few capped folders in memory, and the only files are the system's, the
environment's, the submission's own, and the student edition of this project: what lessons build on, and none of the answers.
"""

import importlib.util
import json
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from autograder.sandbox.cgroup import BUS, scope
from autograder.sandbox.syscalls import deny_filter

GB, MB = 2**30, 2**20
WORK = "/submission"  # where the submission's files are
HOME = "/tmp/home"
WRITABLE = (WORK, "/tmp", "/dev/shm")  # all in memory, and capped
STUDENT = "/student"  # where the student edition is
JUDGE = "/judge"  # where the judge's socket is
OUTSIDER = 60977  # an unused user id: what root's sandboxes run as, because no limit on processes holds for root

# The student edition, all that student code may see of this project: there are no answers in these files and folders.
EDITION = (
    "autograder/inside",
    "sparsity_edu/__init__.py",
    "sparsity_edu/plots.py",
    "sparsity_edu/models",
    "sparsity_edu/data",
)
NO_SANDBOX = (
    "student code runs only in a sandbox, and {}. {} Then try `autograder doctor`. "
    "For submissions that you trust as your own code there is --no-sandbox."
)
INSTALL = "Install bubblewrap (Debian and Ubuntu: sudo apt install bubblewrap; Fedora: sudo dnf install bubblewrap)."
ALLOW = (
    "The system forbids it user namespaces: on Ubuntu 24.04 give bwrap an AppArmor profile with `userns,` (see the README); "
    "in a container, allow them (docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined)."
)


class SandboxError(RuntimeError):
    """There is no sandbox; the message says how to get one."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    memory: int = 4 * GB  # of all its processes together
    disk: int = 256 * MB  # in each folder that can be written; it is memory
    files: int = 20_000  # in all of these together
    processes: int = 64  # at once; an ordinary submission has about 15
    open_files: int = 1024
    output: int = 32 * MB  # what its cells may print and draw
    cell: float = 60  # seconds of one cell
    patience: float = 10  # seconds that an interrupted cell has to end, and a snapshot to call
    exercise: float = 60  # seconds for all cases of one exercise
    submission: float = 300  # seconds from start to end


def launch(
    program: list[str], files: Mapping[str, bytes], judge: Path | None, hide: Iterable[Path], limits: Limits
) -> tuple[subprocess.Popen, Path]:
    """Start a program in a sandbox.

    Args:
        program: what to run, and its arguments.
        files: path inside -> content.
        judge: folder with the judge's socket.
        hide: folders that must not be seen even if they lie in one that is there inside, such as the course.
        limits: what it may use.

    Returns:
        bubblewrap's process, with pipes for output and errors, which ends with the thread that called this; and the sandbox's
        root as it is seen from outside.

    Raises:
        SandboxError: this system has no sandbox.
    """
    require()
    contents = {path: _memory_file(data) for path, data in files.items()}
    options, command = _bubblewrap(contents, judge, hide, program, limits)
    # not as arguments, nor in an environment: those of the first process in there can be read by the others
    if program_of_filter := deny_filter():
        contents["filter"] = _memory_file(program_of_filter)
        options += ["--seccomp", str(contents["filter"])]
    written = _memory_file(b"".join(option.encode() + b"\0" for option in options))
    status, inside = os.pipe()
    descriptors = (*contents.values(), written, inside)
    try:
        process = subprocess.Popen(
            [
                *scope(limits.memory, limits.processes),
                "bwrap",
                "--args",
                str(written),
                "--info-fd",
                str(inside),
                "--",
                *command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={name: os.environ[name] for name in ("PATH", *BUS) if name in os.environ},
            pass_fds=descriptors,
        )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    with os.fdopen(status) as told:
        first = json.loads(told.read() or '{"child-pid": 0}')["child-pid"]
    return process, Path(f"/proc/{first}/root")


def _memory_file(content: bytes) -> int:
    descriptor = os.memfd_create("sandbox")
    with open(os.dup(descriptor), "wb") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _bubblewrap(
    files: Mapping[str, int], judge: Path | None, hide: Iterable[Path], program: list[str], limits: Limits
) -> tuple[list[str], list[str]]:
    """bubblewrap's options, and the command that it runs."""
    options = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    options += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    for path in map(Path, ("/bin", "/lib", "/lib32", "/lib64", "/sbin")):
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), str(path)]
    for path in ("/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts", "/etc/localtime", "/etc/ssl/openssl.cnf"):
        options += [*_parents(Path(path)), "--ro-bind-try", path, path]
    options += ["--proc", "/proc", "--dev", "/dev"]
    for path in WRITABLE:
        options += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", path]
    options += ["--perms", "0777", "--dir", HOME]
    shown = _shown()
    hidden = _hidden(shown, hide)
    for path in sorted(shown | hidden):  # a folder before what lies in it
        bind = ["--tmpfs", str(path), "--remount-ro", str(path)] if path in hidden else ["--ro-bind", str(path), str(path)]
        options += [*_parents(path), *bind]
    for inside, outside in edition().items():
        options += [*_parents(Path(inside)), "--ro-bind", str(outside), inside]
    if judge:
        options += ["--ro-bind", str(judge), JUDGE]
    for inside, descriptor in files.items():
        options += [*_parents(Path(inside), "0777"), "--perms", "0666", "--file", str(descriptor), inside]
    options += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORK]
    for name, value in environment().items():
        options += ["--setenv", name, value]

    user, limited = ["--unshare-user", "--disable-userns"], [*_limited(limits), *program]
    if os.getuid():
        return [*options, *user], limited
    # root's process becomes an outsider first, and then enters a user namespace of its own
    outsider = ["setpriv", f"--reuid={OUTSIDER}", f"--regid={OUTSIDER}", "--clear-groups", "--inh-caps=-all"]
    outsider += ["--bounding-set=-all", "--no-new-privs", "bwrap", *user, "--dev-bind", "/", "/", "--"]
    return [*options, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"], [*outsider, *limited]


def environment() -> dict[str, str]:
    """The whole environment of student code."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": HOME,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "NBGRADER_EXECUTION": "autograde",  # lessons choose their fast setting
        "OMP_NUM_THREADS": "1",  # snapshots are forks, and a pool of threads does not survive one
        "OMP_THREAD_LIMIT": "1",  # also after torch.set_num_threads(4)
        "TORCHDYNAMO_DISABLE": "1",  # torch.compile gives the function itself: compiling takes longer than a case may
        "TRITON_INTERPRET": "1",  # there is no GPU inside, and checks watch kernels in the interpreter
        "HF_HUB_OFFLINE": "1",
        "AUTOGRADER_JUDGE": f"{JUDGE}/socket",
    }


def edition() -> dict[str, Path]:
    """The student edition: path inside -> file or folder outside."""
    roots = {name: Path(importlib.util.find_spec(name).origin).parents[1] for name in ("sparsity_edu", "autograder")}
    files = {f"{STUDENT}/{name}": roots[name.split("/")[0]] / name for name in EDITION}
    # in place of the package that judges: its `check` says that the judge is elsewhere
    return files | {f"{STUDENT}/autograder/__init__.py": roots["autograder"] / "autograder/inside/package.py"}


def available() -> bool:
    """Whether this system has a sandbox."""
    try:
        require()
    except SandboxError:
        return False
    return True


@cache
def require() -> None:
    """Raise SandboxError, which says how to get one, if this system has no sandbox."""
    if not shutil.which("bwrap"):
        raise SandboxError(NO_SANDBOX.format("bubblewrap is not installed", INSTALL))
    if not shutil.which("prlimit"):
        raise SandboxError(NO_SANDBOX.format("prlimit is not installed", "It comes with util-linux."))
    trial = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    tried = subprocess.run(trial, capture_output=True, text=True, timeout=30)
    if tried.returncode:
        raise SandboxError(NO_SANDBOX.format(f"bubblewrap cannot make one here ({tried.stderr.strip()})", ALLOW))


def _limited(limits: Limits) -> list[str]:
    """Limits of each process; the guard watches what they use together."""
    return [
        "prlimit",
        f"--data={limits.memory}",
        f"--as={limits.memory + 16 * GB}",  # libraries map far more than they use
        f"--nproc={limits.processes + 64}",  # counts threads too
        f"--nofile={limits.open_files}",
        f"--fsize={limits.disk}",
        f"--cpu={int(2 * limits.submission)}",
        "--core=0",
        "--msgqueue=0",
        "--",
    ]


def _shown() -> set[Path]:
    """The system's folders, and those of this Python and its environment: all that is there inside, read-only."""
    python = {sys.prefix, sys.base_prefix, *site.getsitepackages(), Path(os.path.realpath(sys.executable)).parents[1]}
    system = [path for path in ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/sbin") if not os.path.islink(path)]
    return {Path(path) for path in (*system, *python) if os.path.isdir(path)}


def _hidden(shown: set[Path], hide: Iterable[Path]) -> set[Path]:
    """Where an installed copy of this project, or the course itself, would be seen in a folder that is there inside."""
    packages = {Path(importlib.util.find_spec(name).origin).parent for name in ("sparsity_edu", "autograder")}
    for folder in (*shown, Path("/usr/local")):
        for libraries in (*folder.glob("lib*/python3*/site-packages"), *folder.glob("lib/python3*/dist-packages")):
            packages |= {
                path for name in ("sparsity_edu", "autograder") for path in libraries.glob(f"{name}*") if path.is_dir()
            }
    return {path for path in {*packages, *hide} if any(path != outer and path.is_relative_to(outer) for outer in shown)}


def _parents(path: Path, mode: str = "0755") -> list[str]:
    """Options that make the folders above a path; those that bubblewrap makes by itself are closed to others."""
    above = [folder for folder in reversed(path.parents) if not any(folder == Path(top) for top in ("/", *WRITABLE))]
    return [part for folder in above for part in ("--perms", mode, "--dir", str(folder))]
