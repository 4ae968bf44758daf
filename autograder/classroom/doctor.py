"""`autograder doctor`: proves the sandbox on this machine by trying to break out of it."""

import contextlib
import json
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from autograder.classroom import escapes
from autograder.judge.session import Session
from autograder.sandbox.bubblewrap import MB, WORK, Limits, launch
from autograder.sandbox.cgroup import has_cgroup
from autograder.sandbox.guard import Guard

COUNT = 17  # attempts
SMALL = Limits(memory=1024 * MB, disk=32 * MB, files=5000, processes=64, submission=8)
TIGHT = replace(SMALL, memory=64 * MB)  # little enough for this machine not to notice
PROTECTION = {True: "and has a control group of its own", False: "as the guard counts; there are no control groups here"}
PATIENT = replace(SMALL, submission=120)  # hundreds of thousands of files are looked at, on a slow disk perhaps


@dataclass(frozen=True)
class Attempt:
    """One attempt to break out."""

    what: str
    held: bool
    told: str
    seconds: float


def attempts(course: Path) -> Iterator[Attempt]:
    """Try every escape.

    Args:
        course: the course folder, of which nothing may be seen.

    Yields:
        The attempts, one after the other.

    Raises:
        SandboxError: there is no sandbox to try.
    """
    token = secrets.token_hex(8)
    secrets_of_course = [str(course / name) for name in ("solutions", "grading", "course", "autograder", "sparsity_edu")]
    elsewhere = [str(course), str(Path.home()), str(Path(escapes.__file__).parent)]
    with _services() as (port, sockets), _variable("AUTOGRADER_CANARY", token):
        yield _try("network", port=port)
        yield _try("sockets", paths=sockets)
        yield _try("answers", hide=course, limits=PATIENT, forbidden=secrets_of_course)
        yield _try("environment", canary=token)
        yield _try("writing", hide=course, paths=elsewhere)
    yield _try("privileges")
    yield _try("processes")
    yield _try("forking", expect="processes", most=SMALL.processes + 64)
    yield _try("memory", most=SMALL.memory)
    yield _try("shared_memory", expect="memory", most=SMALL.memory)
    yield _try("nobodys_memory")
    sockets = _try("kernel_memory", expect="memory", limits=TIGHT, most=2 * TIGHT.memory)
    yield replace(sockets, told=f"{sockets.told}, {PROTECTION[has_cgroup()]}")
    yield _try("disk", most=SMALL.disk)
    yield _try("files", expect="files", most=SMALL.files)
    yield _try("interrupts", expect="seconds", limits=replace(SMALL, submission=2))
    left = _try("surviving", token=token)
    survivors = [process for process in psutil.process_iter(["cmdline"]) if token in " ".join(process.info["cmdline"] or ())]
    yield replace(left, held=not survivors, told="it went with the sandbox" if not survivors else "it is still there")
    yield _flood()


def _try(name: str, expect: str = "", hide: Path | None = None, limits: Limits = SMALL, **arguments) -> Attempt:
    """Run one escape; `expect` is in the sentence with which the guard ends it, if the guard may have to."""
    what = getattr(escapes, name).__doc__.strip()
    start = time.monotonic()
    program = [sys.executable, "-I", f"{WORK}/escapes.py", name]
    files = {f"{WORK}/escapes.py": Path(escapes.__file__).read_bytes(), f"{WORK}/arguments": json.dumps(arguments).encode()}
    process, root = launch(program, files, None, [hide] if hide else [], limits)
    guard = Guard(process, root, limits)
    said = process.stdout.readline().decode(errors="replace")  # the first word counts, whatever goes on in there
    guard.kill()
    error = process.stderr.read().decode(errors="replace").strip()
    process.stdout.close()
    process.stderr.close()
    seconds = time.monotonic() - start
    try:
        held, sentence = json.loads(said)
    except ValueError:
        ended = guard.reason or f"it ended: {error[-200:] or said.strip() or 'without a word'}"
        return Attempt(what, bool(expect) and expect in guard.reason, ended, seconds)
    return Attempt(what, held, sentence, seconds)


def _flood() -> Attempt:
    """Print without end, through a real kernel."""
    import nbformat

    start = time.monotonic()
    cell = nbformat.v4.new_code_cell("while True:\n    print('x' * 100_000)")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    limits = replace(SMALL, memory=4096 * MB, output=1 * MB, cell=20, submission=40)
    with Session({}, limits) as session:
        session.run(notebook, {})
    told = " ".join(session.incidents)
    return Attempt("Print without end.", "printed more than" in told, told, time.monotonic() - start)


@contextlib.contextmanager
def _services() -> Iterator[tuple[int, list[str]]]:
    """A TCP service and two UNIX sockets outside, one of them abstract."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        names = [f"{folder}/socket", f"@autograder-doctor-{os.getpid()}"]
        for name in names:
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(name.replace("@", "\0"))
            server.listen()
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        yield tcp.getsockname()[1], names


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
