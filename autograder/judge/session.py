"""One submission in one sandbox: its cells run in order; where a check stands, its answer is kept for the judge's questions.

All cells run first. Only then are snapshots asked, so no hidden input exists in any process whose output people see.
"""

import asyncio
import contextlib
import math
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from queue import Empty

import psutil
import zmq.asyncio
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from autograder.checking.exercise import Exercise
from autograder.inside.case import Case
from autograder.inside.outcome import Outcome, Raised, TimeUp
from autograder.inside.wire import Refused, decode_plain, encode, receive, send
from autograder.judge.bench import Bench, BenchError
from autograder.judge.feedback import MAX_CELL
from autograder.judge.scratch import private_folder
from autograder.sandbox.bubblewrap import MB, Limits, SandboxError, environment
from autograder.sandbox.guard import Guard
from autograder.sandbox.provisioner import SandboxProvisioner, SandboxSpecs, Submission

# a statement, not a call of `__import__`: it looks up no name that the student may have given to something else
OFFER = "from autograder.inside import answer as _judge_; _judge_.offer({!r}, {})"
DISPLAYS = ("display_data", "execute_result", "update_display_data")
DRAWN = 10  # times the limit on output, for what is displayed and not kept


class Session:
    """Runs a notebook and answers for it.

        with Session(files, limits) as session:
            session.run(notebook, checks)
            session.outcome_of(exercise)(case)

    `incidents` are sentences on what went wrong, for the report.
    """

    def __init__(self, files: Mapping[str, bytes], limits: Limits, hide: Iterable[Path] = (), sandboxed: bool = True) -> None:
        self.files, self.limits, self.hide, self.sandboxed = files, limits, tuple(hide), sandboxed
        self.incidents: list[str] = []
        self.reached = 0  # index of the cell that ran last
        self._guard: Guard | None = None
        self._snapshots: dict[str, socket.socket] = {}
        self._gone: dict[str, Outcome] = {}  # why a snapshot does not answer any more
        self._bench = Bench(limits, self.hide)
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> "Session":
        self._private = self._resources.enter_context(private_folder())
        self._folder = self._private / "inside"  # this one is there in the sandbox too, where student code runs as whoever
        self._folder.mkdir()
        self._folder.chmod(0o755)
        self._listener = self._resources.enter_context(socket.socket(socket.AF_UNIX))
        self._listener.bind(str(self._folder / "socket"))
        (self._folder / "socket").chmod(0o777)
        self._listener.listen(16)
        return self

    def __exit__(self, *_) -> None:
        for snapshot in self._snapshots.values():
            snapshot.close()
        self._bench.end()
        if self._guard:
            self._guard.kill()
        self._resources.close()

    def run(self, notebook: NotebookNode, checks: Mapping[str, Exercise]) -> None:
        """Run the notebook's code cells in place; at each check, keep a snapshot of the answer instead.

        Args:
            notebook: the rebuilt submission.
            checks: exercise by the id of its check cell.

        Raises:
            SandboxError: there is no sandbox, or no kernel starts in it. Whatever student code does raises nothing.
        """
        asyncio.run(self._run(notebook, checks))
        if self._guard.reason:
            self.incidents.append(f"The notebook was stopped: {self._guard.reason}.")
        self._guard.stop()

    @property
    def is_lost(self) -> bool:
        """Whether the whole sandbox has ended, snapshots and all."""
        return self._guard.process.poll() is not None

    async def _run(self, notebook: NotebookNode, checks: Mapping[str, Exercise]) -> None:
        context = zmq.asyncio.Context()
        context.maxmsgsize, context.rcvhwm, context.linger = self.limits.output, 100, 0  # for every socket made from it
        if self.sandboxed:  # its kernel listens already; later, student code could put a link to elsewhere in a socket's place
            context.reconnect_ivl = -1
        context.sndtimeo = 1000  # ms; where nobody is connected any more, sending would wait for ever
        manager = _Manager(context=context, kernel_spec_manager=SandboxSpecs() if self.sandboxed else _PlainSpecs())
        if self.sandboxed:
            manager.provisioner = SandboxProvisioner(kernel_id="", kernel_spec=manager.kernel_spec, parent=manager)
        client = _Client(notebook, km=manager, timeout=math.ceil(self.limits.cell))
        client.left, client.drawn, client.flooded = self.limits.output, DRAWN * self.limits.output, self._flooded
        deaf = None
        try:
            await client.async_start_new_kernel(**self._start())
            self._guard = self._guard_of(manager)
            await client.async_start_new_kernel_client()
            deaf = asyncio.create_task(self._notice_silence(client))
            for index, cell in enumerate(notebook.cells):
                self.reached = index
                if cell.cell_type == "code" and not await self._step(client, cell, index, checks.get(cell.id)):
                    break
        except SandboxError:
            raise
        except RuntimeError as error:  # what jupyter_client raises when a kernel dies at its start
            if not (self._guard and self._guard.reason):  # or is ended then, since time is up
                raise SandboxError(f"the kernel does not start: {error}") from error
        finally:
            if deaf:
                deaf.cancel()
            context.destroy(linger=0)  # not client.kc.stop_channels(), which would first connect to what is not connected yet

    async def _notice_silence(self, client: "_Client") -> None:
        """One message beyond the limit ends the connection for what cells display: nothing more of it would be heard."""
        await client.kc.iopub_channel.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED).poll()
        await asyncio.sleep(1)  # a kernel that has died is another matter
        if await client.km.is_alive():
            self._flooded()

    def _flooded(self) -> None:
        self._guard.stop(f"it printed more than {self.limits.output / MB:g} MB")

    async def _step(self, client: "_Client", cell: NotebookNode, index: int, check: Exercise | None) -> bool:
        """Run one cell, or keep the answer where a check is; False if the notebook has to end here."""
        try:
            if check:
                await self._keep(client, check)
            elif "skip-execution" not in cell.metadata.get("tags", []):
                client.interrupted = False
                await asyncio.wait_for(client.async_execute_cell(cell, index), self.limits.cell + self.limits.patience)
                if client.interrupted:
                    self.incidents.append(f"Cell {index + 1} ran longer than {self.limits.cell:g} seconds and was interrupted.")
            return True
        except (DeadKernelError, TimeoutError, CellTimeoutError):  # nbclient takes any cancellation for the kernel's death
            is_alive = await client.km.is_alive()
            what = f"Cell {index + 1} could not be interrupted" if is_alive else f"The kernel died in cell {index + 1}"
            self.incidents.append(f"{what}; what comes after it was not run.")
        except Exception as error:  # messages that are none: student code has taken hold of the kernel
            self.incidents.append(f"The kernel answered nonsense in cell {index + 1} ({type(error).__name__}).")
        return False

    async def _keep(self, client: "_Client", exercise: Exercise) -> None:
        """Keep what the exercise's name stands for now."""
        lifetime = 2 * int(self.limits.exercise) + 2  # seconds: a snapshot outlives the judge's patience, which it has twice
        code = OFFER.format(exercise.defines, lifetime)
        request = client.kc.execute(code, silent=True, store_history=False)
        deadline = time.monotonic() + self.limits.cell
        reply = None
        while reply is None or reply["parent_header"].get("msg_id") != request:
            if time.monotonic() > deadline:  # also where a kernel sends other replies without end
                raise TimeoutError
            await client._async_check_alive()
            with contextlib.suppress(Empty):
                reply = await client.kc.get_shell_msg(timeout=0.5)
        self._accept(exercise)

    def _accept(self, exercise: Exercise) -> None:
        deadline = time.monotonic() + self.limits.patience  # it has been made; a program that made none has no answer
        while exercise.id not in self._snapshots and time.monotonic() < deadline:
            with contextlib.suppress(EOFError, Refused, OSError):
                self._listener.settimeout(0.5)
                snapshot, _ = self._listener.accept()
                if receive(snapshot, time.monotonic() + 1, most=200) == exercise.defines.encode():
                    self._snapshots[exercise.id] = snapshot
                    pid = struct.unpack("3i", snapshot.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
                    with contextlib.suppress(psutil.Error, ValueError):
                        self._guard.spared.append(psutil.Process(pid))

    def outcome_of(self, exercise: Exercise, hidden: bool = False) -> Callable[[Case], Outcome]:
        """What the snapshot of an answer makes of cases.

        Args:
            exercise: the exercise.
            hidden: whether the outcomes count: then kernels run on the bench, and the snapshot never sees what they read.

        Returns:
            A function for `checking.score`. A snapshot that is gone, or too slow, or answers nonsense, gives outcomes
            with that error; cases that were answered before keep their outcomes.
        """
        deadline = min(time.monotonic() + self.limits.exercise, self._guard.deadline)

        def asked(case: Case, reply: Callable[[dict], dict] | None = None) -> Outcome:
            snapshot = self._snapshots[exercise.id]
            message = case
            while True:
                snapshot.settimeout(max(0.1, deadline - time.monotonic()))
                send(snapshot, encode(message))
                said = decode_plain(receive(snapshot, deadline))
                if isinstance(said, Outcome):
                    return said
                if not (reply and isinstance(said, dict)):
                    raise Refused("what came out of the sandbox is no outcome")
                message = reply(said)

        def outcome_of(case: Case) -> Outcome:
            nonlocal deadline
            if exercise.id not in self._snapshots:
                return _failure("NotRun", "the notebook was stopped before this check")
            if exercise.id in self._gone:
                return self._gone[exercise.id]
            try:
                if not (case.watched and self.sandboxed):
                    return asked(case)
                if not hidden:
                    self._bench.start()  # so that it is there when it is needed
                    return asked(case)
                deadline += self._bench.wait()
                return self._bench.outcome(case, asked, deadline)
            except TimeoutError:
                gone = _failure(TimeUp.__name__, f"no answer within {self.limits.exercise:g} seconds for the whole exercise")
            except (EOFError, OSError):
                gone = _failure("Died", "the process ended: a crash, too much memory, or an exit")
            except (Refused, BenchError) as error:
                gone = _failure("Refused", str(error))
            self._gone[exercise.id] = gone
            return gone

        return outcome_of

    def _start(self) -> dict:
        if self.sandboxed:
            return {"submission": Submission(self.files, self._folder, self.hide, self.limits)}
        work = self._private / "work"
        work.mkdir()
        for name, data in self.files.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(data)
        return {"cwd": str(work), "env": {**os.environ, **environment(), "AUTOGRADER_JUDGE": str(self._folder / "socket")}}

    def _guard_of(self, manager: AsyncKernelManager) -> Guard:
        return manager.provisioner.guard if self.sandboxed else Guard(manager.provisioner.process, None, self.limits)


def _failure(kind: str, message: str) -> Outcome:
    return Outcome(error=Raised((kind,), message, ours=True))


class _PlainSpecs(KernelSpecManager):
    """The same kernel without a sandbox, in which this whole project can be seen."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        project = Path(__file__).parents[2]
        script = project / "autograder" / "inside" / "kernel.py"
        return KernelSpec(argv=[sys.executable, "-I", str(script), str(project), "{connection_file}"], language="python")


class _Channels(AsyncKernelClient):
    """jupyter_client's, without a heartbeat, which would connect again and again: the provisioner sees whether it lives."""

    def start_channels(self, **_) -> None:
        super().start_channels(stdin=False, hb=False)


class _Manager(AsyncKernelManager):
    """jupyter_client's, whose channels use its own context: the limits there hold for all sockets."""

    def client(self, **kwargs) -> AsyncKernelClient:
        self.client_factory = _Channels
        return super().client(context=self.context, **kwargs)


class _Client(NotebookClient):
    """nbclient's, which listens to so much output and no more."""

    left: int  # characters that are kept
    drawn: int  # characters of pictures and the like that are not, because nobody would see them
    flooded: Callable[[], None]
    interrupted = False

    def __init__(self, notebook: NotebookNode, **kwargs) -> None:
        # not coalesce_streams: one long line, and its regular expressions hold this process for hours; `clean` joins them
        self.shown = Counter()  # characters displayed, by cell
        super().__init__(notebook, allow_errors=True, interrupt_on_timeout=True, raise_on_iopub_timeout=False, **kwargs)

    async def _async_handle_timeout(self, timeout: int, cell: NotebookNode | None = None) -> dict | None:
        self.interrupted = True
        return await super()._async_handle_timeout(timeout, cell)

    def process_message(self, msg: dict, cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Count what comes, and keep it as nbclient does; of pictures no more than people will see."""
        size = len(repr(msg["content"]))
        if msg["msg_type"] in DISPLAYS:
            self.shown[cell_index] += size
            if self.shown[cell_index] > MAX_CELL:
                msg["content"]["data"] = {"text/plain": "(too large to be shown)"}
                self.shown[cell_index] -= size
                self.drawn, size = self.drawn - size, 0
        self.left -= size
        if min(self.left, self.drawn) < 0:
            self.flooded()
            return None
        return super().process_message(msg, cell, cell_index)
