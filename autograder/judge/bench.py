"""Where the kernels of answers run when it counts: a sandbox of its own, in which no student's cell has run."""

import contextlib
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from autograder.inside.case import Case
from autograder.inside.outcome import Outcome, Raised, equal
from autograder.inside.wire import Refused, decode_outcome, decode_plain, encode, receive, send
from autograder.sandbox.bubblewrap import STUDENT, Limits, launch
from autograder.sandbox.guard import Guard

START = 60  # seconds that it may take to start
Answer = Callable[[Case, Callable[[dict], dict]], Outcome]


class BenchError(RuntimeError):
    """It has ended, or answers nonsense."""


class Bench:
    """Runs launches of kernels. It starts when it is needed, and again after it has failed; who has made it has to `end` it."""

    def __init__(self, limits: Limits, hide: Iterable[Path] = ()) -> None:
        self.limits, self.hide = limits, tuple(hide)
        self._listener: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._resources = contextlib.ExitStack()

    def end(self) -> None:
        """End it."""
        self._listener = self._connection = None
        self._resources.close()

    def outcome(self, case: Case, answer: Answer, deadline: float) -> Outcome:
        """What an answer makes of a case with watched arguments, of which it never sees the numbers; `wait` comes first.

        Args:
            case: the case.
            answer: gives the outcome of a case, by a function that replies to launches.
            deadline: on `time.monotonic`'s clock.

        Returns:
            The outcome; what was read and written, errors of kernels, and watched arguments after the call are from here.

        Raises:
            BenchError: kernels have ended the process in which they run, or it is too slow.
        """
        args, errors = list(case.args), []
        hidden = tuple(_shuffled(arg) if i in case.watched else arg for i, arg in enumerate(args))

        def reply(asked: dict) -> dict:
            said = decode_plain(self._asked(asked, deadline))
            if not isinstance(said, dict) or not isinstance(error := said.get("error"), Raised | None):
                raise BenchError("it answered nonsense")
            errors.extend([error] if error else [])
            return said

        self._send({"args": args, "watched": list(case.watched)}, deadline)
        try:
            outcome = answer(replace(case, args=hidden, away=True, veiled=False), reply)
            counted = decode_outcome(self._asked({"done": True}, deadline))
        except BaseException:
            self.end()  # in the middle of a case
            raise
        untouched = [i for i in case.watched if equal(outcome.after.get(i), hidden[i])]
        after = outcome.after | {i: counted.after.get(i) for i in untouched}
        error = errors[0] if errors else outcome.error
        return replace(outcome, after=after, error=error, traffic=counted.traffic)

    def _asked(self, message: dict, deadline: float) -> bytes:
        self._send(message, deadline)
        try:
            return receive(self._connection, deadline)
        except (EOFError, OSError, Refused) as error:
            raise BenchError("kernels ended the process in which they run, or took too long") from error

    def _send(self, message: dict, deadline: float) -> None:
        try:
            self._connection.settimeout(max(0.1, deadline - time.monotonic()))
            send(self._connection, encode(message))
        except OSError as error:
            self.end()
            raise BenchError("the process in which kernels run has ended") from error

    def wait(self) -> float:
        """Wait until it has started; for how many seconds."""
        start = time.monotonic()
        if self._connection is None:
            self.start()
            try:
                self._connection = self._resources.enter_context(self._listener.accept()[0])
            except OSError as error:
                self.end()
                raise BenchError("the process in which kernels run does not start") from error
        return time.monotonic() - start

    def start(self) -> None:
        """Have it started by the time that it is needed."""
        if self._listener:
            return
        folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))) / "inside"
        folder.mkdir(mode=0o755)
        self._listener = self._resources.enter_context(socket.socket(socket.AF_UNIX))
        self._listener.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        self._listener.listen(1)
        self._listener.settimeout(START)
        program = [sys.executable, "-I", f"{STUDENT}/autograder/inside/bench.py", STUDENT]
        process, root = launch(program, {}, folder, self.hide, self.limits)
        self._resources.callback(process.stderr.close)
        self._resources.callback(process.stdout.close)
        self._resources.callback(Guard(process, root, self.limits).kill)


def _shuffled(tensor: Tensor) -> Tensor:
    """The same numbers in another order, which nobody can undo."""
    order = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(secrets.randbits(63)))
    return tensor.flatten()[order].view(tensor.shape)
