"""Runs student code: a case goes in, an outcome of plain values comes out. Nothing here knows what is right.

This is the part that the sandboxed judge runs on the other side of its wall; it must not import exercises or references.
"""

import contextlib
import io
import linecache
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from autograder.inside.case import Case
from autograder.inside.outcome import Outcome, Raised, TimeUp
from autograder.inside.use import Use, away, probed, used, watched

SECONDS_PER_CASE = 10
MAX_PRINTED = 2000  # characters of student output that are kept
_HERE = Path(__file__).parents[1]  # this whole package
_LIBRARIES = tuple(
    f"{folder}{os.sep}"
    for folder in (_HERE, _HERE.parent / "sparsity_edu", Path(torch.__file__).parents[1], Path(os.__file__).parent)
)


def run(
    case: Case, answer: Callable, seconds: float = SECONDS_PER_CASE, *, ask: Callable[[dict], dict] | None = None
) -> Outcome:
    """Use the learner's function or class as a case says.

    Args:
        case: arguments are built afresh, so that nothing the answer does to them reaches another call.
        answer: the learner's function or class.
        seconds: time limit; kept by a signal, so only in a main thread on a system that has SIGALRM.
        ask: has a kernel run elsewhere, for a case that wants it `away`.

    Returns:
        The outcome; an exception of the answer is part of it. Only KeyboardInterrupt passes through.
    """
    printed = _Printed()
    seen, error = {}, None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), _fixed_settings():
        uses = [Use(case, answer)]
        if case.probe:
            uses.append(Use(replace(case.beside or case, probe=case.probe), answer, evaluated=True))
        try:
            with time_limit(seconds):
                if case.probe:
                    seen = probed(*uses)
                elif case.watched is None:
                    seen = used(*uses)
                else:
                    seen = away(*uses, ask) if case.away else watched(*uses)
        except KeyboardInterrupt:
            raise
        except BaseException as exception:  # SystemExit too: student code does not end the notebook's check
            error = raised(exception, answer)
    return Outcome(**seen, error=error, printed=_printable(printed.getvalue()))


class _Printed(io.StringIO):
    """What student code prints, as much of it as is kept."""

    def write(self, text: str) -> int:
        super().write(text[: max(0, MAX_PRINTED - self.tell())])
        return len(text)

    def close(self) -> None:
        """Stays open: it is student code that closes sys.stdout."""


@contextlib.contextmanager
def _fixed_settings():
    """The same random numbers, default dtype and gradients for every call; the notebook's own are put back afterwards."""
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(0)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in what takes longer."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_):
        raise TimeUp(f"took longer than {seconds:g} seconds (an endless loop?)")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)  # again, should a bare `except` swallow it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def raised(exception: BaseException, answer: Callable) -> Raised:
    """An exception of an answer, in plain values."""
    while type(exception).__name__ == "InterpreterError" and exception.__cause__:  # triton's, around what really happened
        exception = exception.__cause__
    types = tuple(cls.__name__ for cls in type(exception).__mro__ if cls not in (object, BaseException))
    try:
        message = str(exception)
    except Exception:
        message = "(its message cannot be printed)"
    *_, (raiser, _) = traceback.walk_tb(exception.__traceback__)
    inside = "" if raiser.f_code in _own_code(answer) else raiser.f_code.co_qualname
    return Raised(types, _printable(message.strip().split("\n")[0][:300]), _own_line(exception), inside)


def _own_code(answer: Callable) -> list:
    """The code of a function, or of a class's constructor."""
    try:
        return [answer.__init__.__code__ if isinstance(answer, type) else answer.__code__]
    except Exception:  # a callable object; it may answer to any name, or to none
        return []


def _printable(text: str) -> str:
    """Text that can be written as UTF-8 wherever the verdict goes (half a surrogate pair cannot)."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _own_line(exception: BaseException) -> str:
    """The deepest line of the traceback that is the student's own."""
    places = ((frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(exception.__traceback__))
    own = [place for place in places if not place[0].startswith((*_LIBRARIES, "<frozen"))]
    return f"line {own[-1][1]}: {linecache.getline(*own[-1]).strip()}" if own else ""
