"""A Jupyter kernel in the sandbox: jupyter_client's provisioner around bubblewrap.

The kernel's sockets lie in a folder of the sandbox's own memory; the judge reaches them through the process's root in /proc, so
nothing outside has to be writable inside. When the kernel dies, the sandbox stays: snapshots of the student's program, which
`answer.py` has made, still answer.
"""

import asyncio
import json
import os
import select
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.provisioning import LocalProvisioner

from autograder.sandbox.bubblewrap import HOME, STUDENT, WORK, Limits, SandboxError, launch
from autograder.sandbox.guard import Guard

CONNECTION = "/tmp/kernel.json"
SOCKETS = "/tmp/kernel-socket"
START = 60  # seconds that a kernel may take to start


@dataclass(frozen=True)
class Submission:
    """What one sandbox is made for."""

    files: Mapping[str, bytes]  # the submission's other files, by their path in the work folder
    judge: Path  # folder with the judge's socket
    hide: tuple[Path, ...] = ()  # folders that must not be seen
    limits: Limits = field(default_factory=Limits)


@cache
def _font_lists() -> dict[str, bytes]:
    """Lists of this system's fonts, which matplotlib would make anew in every sandbox; none that names a user's own fonts."""
    folders = [os.environ.get("MPLCONFIGDIR", ""), f"{os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')}/matplotlib"]
    paths = [path for folder in folders if folder for path in Path(folder).glob("fontlist-v*.json") if path.is_file()]
    lists = {f"{HOME}/.cache/matplotlib/{path.name}": path.read_bytes() for path in paths}
    return {path: content for path, content in lists.items() if str(Path.home()).encode() not in content}


class SandboxSpecs(KernelSpecManager):
    """Knows the one kernel that runs in the sandbox; nothing has to be installed for it."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernel, whatever a notebook says it wants."""
        script = f"{STUDENT}/autograder/inside/kernel.py"
        return KernelSpec(
            argv=[sys.executable, "-I", script, STUDENT, CONNECTION],
            language="python",
            interrupt_mode="message",  # signals do not reach another process namespace
        )


class SandboxProvisioner(LocalProvisioner):
    """Starts a kernel in the sandbox; `KernelManager.start_kernel(submission=...)` says what is in it."""

    guard: Guard | None = None
    _exit: int | None = None

    async def pre_launch(self, **kwargs) -> dict:
        """Choose the connection: sockets in a folder of the sandbox."""
        self.submission = kwargs.pop("submission")
        manager = self.parent
        manager.transport, manager.ip = "ipc", SOCKETS
        manager.shell_port, manager.iopub_port, manager.stdin_port, manager.hb_port, manager.control_port = range(1, 6)
        self.connection_info = manager.get_connection_info()
        return await super(LocalProvisioner, self).pre_launch(cmd=self.kernel_spec.argv, **kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs) -> dict:
        """Start the sandbox and wait until the kernel listens.

        Raises:
            SandboxError: there is no sandbox, or the kernel does not start in it.
        """
        info = self.connection_info | {"key": self.connection_info["key"].decode()}
        files = {f"{WORK}/{name}": data for name, data in self.submission.files.items()}
        files |= _font_lists() | {CONNECTION: json.dumps(info).encode()}
        # the shell outlives the kernel (which has a process group of its own, and whose end nobody need hear of), and with it
        # the sandbox
        shell = 'trap "" PIPE; setsid --wait "$@" >/dev/null; echo $?; exec sleep infinity'
        program = ["/bin/sh", "-c", shell, "sh", *cmd]
        about = self.submission
        self.process, root = launch(program, files, about.judge, about.hide, about.limits)
        self.pid = self.process.pid
        self.guard = Guard(self.process, root, about.limits)
        self.connection_info["ip"] = f"{root}{SOCKETS}"
        await self._listening()
        return self.connection_info

    async def _listening(self) -> None:
        deadline = time.monotonic() + START
        while not all(os.path.exists(f"{self.connection_info['ip']}-{port}") for port in range(1, 6)):
            if await self.poll() is not None or time.monotonic() > deadline:
                self.guard.kill("the kernel did not start")
                said = self.process.stderr.read().decode(errors="replace").strip()
                raise SandboxError(f"the kernel does not start in the sandbox: {said[-500:] or 'it says nothing'}")
            await asyncio.sleep(0.02)
        self.process.stderr.close()  # from here on only student code could write to it
        self.guard.started()

    async def poll(self) -> int | None:
        """None as long as the kernel lives, else its exit code."""
        if self._exit is None and self.process is not None:
            if select.select([self.process.stdout], [], [], 0)[0]:  # the shell tells that the kernel has ended
                said = os.read(self.process.stdout.fileno(), 100).strip()  # whatever is there, if student code has got at it
                self._exit = int(said) if said.isdigit() else -9
            else:
                self._exit = self.process.poll()
        return self._exit

    @property
    def has_process(self) -> bool:
        """Whether there is a sandbox."""
        return self.process is not None

    async def wait(self) -> int | None:
        """Wait for the end of the sandbox."""
        if self.process is not None:
            await asyncio.to_thread(self.process.wait)
        return self._exit

    async def kill(self, restart: bool = False) -> None:
        """End the sandbox and everything in it."""
        if self.guard:
            self.guard.kill()

    terminate = kill

    async def send_signal(self, signum: int) -> None:
        """Signals end at the wall."""

    async def cleanup(self, restart: bool = False) -> None:
        """Nothing is left outside."""
        if self.process is not None:
            self.process.stdout.close()
            self.process = None
