"""Watches a sandbox from outside and ends what must end: what its processes use together has no limit of its own."""

import contextlib
import os
import subprocess
import threading
import time
from pathlib import Path

import psutil

from autograder.sandbox.bubblewrap import GB, WRITABLE, Limits

INTERVAL = 0.1  # seconds between two looks
SOCKET = 320 * 1024  # bytes that can wait in a socket of the size which it has at first, 208 KB and one message
TCP = 16 * 2**20  # those of TCP grow
OWN_GROWTH = 2 * GB  # memory that the judge may come to use itself while it listens


class Guard:
    """A thread that looks at a sandbox ten times a second.

    When it uses more than it may, the notebook's part of it is ended; the snapshots that wait for the judge in `spared` go on,
    because they did nothing. If that does not help, or time is up, everything is ended. `reason` says why.
    """

    def __init__(self, process: subprocess.Popen, root: Path | None, limits: Limits) -> None:
        self.process, self.root, self.limits = process, root, limits
        self.reason = ""
        self.deadline = time.monotonic() + limits.submission
        self.spared: list[psutil.Process] = []
        self._wrapping: list[psutil.Process] = []  # bubblewrap's own processes and the shell
        self._stopped = False
        self._before = psutil.Process().memory_info().rss
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="sandbox guard", daemon=True).start()

    def started(self) -> None:
        """The kernel listens, and no student code has run: all processes but the last one of this chain are ours."""
        self._wrapping = self._processes()[:-1]

    def stop(self, reason: str = "") -> None:
        """End the kernel and all that the notebook has started, but for the snapshots."""
        self.reason = self.reason or reason
        self._stopped = True
        self.deadline = time.monotonic() + self.limits.submission  # as long again for the judge's questions
        for process in reversed(self._processes()):
            if process not in self._wrapping and process not in self.spared:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def kill(self, reason: str = "") -> None:
        """End every process of the sandbox; the first reason is kept."""
        self.reason = self.reason or reason
        self._ended.set()
        for process in self._processes():  # among them process 1 of the namespace: with it all others go
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()

    def _processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL) and self.process.poll() is None:
            try:
                if reason := self._too_long() or self._excess(1):
                    too_late = self._stopped or self._excess(1.5)
                    self.kill(reason) if too_late else self.stop(reason)
            except (psutil.Error, OSError):  # processes come and go while we look
                continue

    def _too_long(self) -> str:
        return f"it took longer than {self.limits.submission:g} seconds in all" if time.monotonic() > self.deadline else ""

    def _excess(self, times: float) -> str:
        limits, processes = self.limits, self._processes()
        if psutil.Process().memory_info().rss - self._before > OWN_GROWTH:
            return "it sent more than the judge can hold"
        if len(processes) > times * limits.processes:
            return f"it started more than {limits.processes} processes"
        rest = times * limits.memory - self._waiting()
        if _memory(processes, "rss") > rest and _memory(processes, "pss") > rest:
            return f"it used more than {limits.memory / GB:g} GB of memory"
        if self.root and sum(self._files(folder) for folder in WRITABLE) > times * limits.files:
            return f"it made more than {limits.files} files"
        return ""

    def _waiting(self) -> int:
        """What may wait in all sockets, which is in no process's memory."""
        if not self.root:
            return 0
        lines = (self.root.parent / "net" / "sockstat").read_text().splitlines()  # sockets: used 12; TCP: inuse 1 orphan 0 ...
        sockets, tcp = (int(line.split()[2]) for line in lines if line.startswith(("sockets:", "TCP:")))
        return sockets * SOCKET + tcp * TCP

    def _files(self, folder: str) -> int:
        kept = os.statvfs(f"{self.root}{folder}")
        return kept.f_files - kept.f_ffree


def _memory(processes: list[psutil.Process], measure: str) -> int:
    """Memory of all processes: resident, which is quick, or proportional, which counts shared pages once."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_info().rss if measure == "rss" else process.memory_full_info().pss
    return total
