"""Runs student code: a case goes in, an outcome of plain values comes out. Nothing here knows what is right.

This is the part that the sandboxed judge runs on the other side of its wall; it must not import exercises or references.
"""

import builtins
import contextlib
import gc
import io
import linecache
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from autograder.inside.case import HELD, Case
from autograder.inside.observe import observe
from autograder.inside.recipes import RECIPES

SECONDS_PER_CASE = 10
MAX_PRINTED = 2000  # characters of student output that are kept
FAULT = "Fault"  # the kind of error that says: a watched kernel did what no GPU forgives
# The kinds of an error that says: the exercise's name stands for no function or class.
UNDEFINED = ("NameError", "Exception", "Undefined")
_HERE = Path(__file__).parents[1]  # this whole package
_LIBRARIES = tuple(
    f"{folder}{os.sep}"
    for folder in (_HERE, _HERE.parent / "sparsity_edu", Path(torch.__file__).parents[1], Path(os.__file__).parent)
)


@dataclass(frozen=True)
class Raised:
    """An exception of student code."""

    types: tuple[str, ...]  # names of its class and its bases, so that a subclass of ValueError is a ValueError
    message: str
    line: str = ""  # where in the student's own code
    inside: str = ""  # the function that raised it, if it was not the answer itself
    ours: bool = False  # whether the message is the judge's own

    def without_values(self) -> str:
        """What can be told of it where the inputs are hidden, for a student's names and messages may hold them."""
        if self.ours:
            return self.message
        if self.types[0] == FAULT:
            return "a kernel reads or writes where it must not"
        kind = getattr(builtins, self.types[0], None)
        known = isinstance(kind, type) and issubclass(kind, BaseException)
        return "it took too long" if self.types[0] == TimeUp.__name__ else self.types[0] if known else "an exception"

    def __str__(self) -> str:
        message = self.message
        if self.types[0] == "NotImplementedError" and self.inside:
            message = f"{self.inside} is not written yet"
        return self.types[0] + (f": {message}" if message else "") + (f", in {self.line}" if self.line else "")


@dataclass(frozen=True)
class Outcome:
    """What one case did."""

    value: object = None  # observed return value, or the list of them for a class
    after: dict = field(default_factory=dict)  # observed arguments that the case is meant to change, by position
    touched: tuple[int | str, ...] = ()  # arguments that were changed though they must not be
    error: Raised | None = None
    printed: str = ""
    # what kernels did with bytes, of a watched case: of each watched argument, by its position, how many (different ones, all)
    # of each row they read; then of those read "elsewhere", that is of tensors that are no arguments, and "written" anywhere,
    # and of those that programs "met" in, how many, of the different ones written;
    # of a veiled one also how many of the results come "again", of one, when only kernels see what watched arguments hold
    traffic: dict[int | str, tuple[Tensor, Tensor] | tuple[int, int]] = field(default_factory=dict)


class TimeUp(BaseException):
    """Raised in student code when a case takes too long; no Exception, so that `except Exception` does not swallow it."""


def run(case: Case, answer: Callable, seconds: float = SECONDS_PER_CASE) -> Outcome:
    """Use the learner's function or class as a case says.

    Args:
        case: arguments are built afresh, so that nothing the answer does to them reaches another call.
        answer: the learner's function or class.
        seconds: time limit; kept by a signal, so only in a main thread on a system that has SIGALRM.

    Returns:
        The outcome; an exception of the answer is part of it. Only KeyboardInterrupt passes through.
    """
    printed = _Printed()
    value, before, after, traffic, error = None, {}, {}, {}, None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), _fixed_settings():
        args, kwargs = _build(case)
        steps = [(method, _build(Case(tuple(given)))[0]) for method, *given in case.calls]
        arguments = {**dict(enumerate(args)), **kwargs}
        for method, given in steps:
            arguments.setdefault(of_method(method), []).append(given)
        before = {key: observe(argument) for key, argument in arguments.items()}
        try:
            with _time_limit(seconds):
                if case.watched is not None:
                    value, traffic = _use_watched(case, answer, args, kwargs)
                else:
                    value = _use(case, answer, args, kwargs, steps)
                after = {key: observe(argument) for key, argument in arguments.items()}
        except KeyboardInterrupt:
            raise
        except BaseException as exception:  # SystemExit too: student code does not end the notebook's check
            value, traffic, error = None, {}, _raised(exception, answer)
    touched = tuple(key for key in after if key not in case.changes and not equal(before[key], after[key]))
    return Outcome(value, {i: after.get(i) for i in case.changes}, touched, error, _printable(printed.getvalue()), traffic)


def of_method(method: str) -> str:
    """The name of what a method is given, in `Outcome.touched`; continues "the argument"."""
    return f"of {method}()"


def _use(case: Case, answer: Callable, args: list, kwargs: dict, steps: list[tuple[str | int, list]]):
    """What the answer makes of a case; every value is observed at once, as a later call may change it."""
    if steps:
        thing = answer(*args, **kwargs)
        return [_held(thing, *given) if name == HELD else observe(_callee(thing, args, name)(*given)) for name, given in steps]
    values = []
    for _ in range(case.times):
        result = answer(*args, **kwargs)
        values.append(observe(result))
        if case.fresh:
            _overwrite(result)
    return values if case.times > 1 else values[0]


def _held(thing, most: int) -> str:
    """What all tensors take to which an object leads, but for those of classes, modules and functions, which others share."""
    waiting, seen, sizes = [thing], set(), {}
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, type | ModuleType | FunctionType):
            continue
        seen.add(id(part))
        if isinstance(part, Tensor):
            sizes[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        elif isinstance(part, np.ndarray):
            sizes[part.ctypes.data] = part.nbytes
        else:
            waiting += gc.get_referents(part)
    return f"{sum(sizes.values())} bytes" if sum(sizes.values()) > most else f"at most {most} bytes"


def _overwrite(result) -> None:
    """Zeros in all tensors of a result: what shares their memory changes too."""
    match result:
        case Tensor():
            with contextlib.suppress(RuntimeError):  # some cannot be written to, and so do no harm
                result.detach().zero_()
        case nn.Module():
            _overwrite(result.state_dict())
        case dict():
            _overwrite(list(result.values()))
        case list() | tuple():
            for entry in result:
                _overwrite(entry)


def _use_watched(case: Case, answer: Callable, args: list, kwargs: dict) -> tuple:
    """What the answer makes of a case, and what its kernels read and write for that."""
    from autograder.inside.sanitizer import watch  # imports triton, which takes a second

    with watch() as seen, _nothing_is_zero_by_chance():
        value = _use(case, answer, args, kwargs, [])
    given = {argument.untyped_storage().data_ptr() for argument in args if isinstance(argument, Tensor)}
    traffic = {i: seen.of(args[i]).by_row(len(args[i])) for i in case.watched}
    own = [memory for memory in seen.memories if memory.start not in given]
    traffic["elsewhere"] = sum(memory.bytes_read for memory in own), sum(memory.bytes_loaded for memory in own)
    written = [memory.bytes_written for memory in seen.memories], [int(memory.writes.sum()) for memory in seen.memories]
    traffic["written"] = sum(written[0]), sum(written[1])
    traffic["met"] = sum(memory.bytes_met for memory in seen.memories), sum(written[0])
    if case.veiled:
        again, kwargs = _build(case)
        with watch([again[i] for i in case.watched]), _nothing_is_zero_by_chance():
            traffic["again"] = int(equal(value, _use(case, answer, again, kwargs, []))), 1
    return value, traffic


@contextlib.contextmanager
def _nothing_is_zero_by_chance() -> Iterator[None]:
    """Fill new tensors that nobody has filled with NaN: on a GPU they hold what was there before."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    set_mode = torch._C._set_deterministic_algorithms  # the public function also imports a compiler: seconds, in every snapshot
    set_mode(True, warn_only=True)
    try:
        yield
    finally:
        set_mode(before[0], warn_only=before[1])


def _callee(thing, args: list, name: str | int) -> Callable:
    return args[name] if isinstance(name, int) else getattr(thing, name)


def _build(case: Case) -> tuple[list, dict]:
    built: list = []
    for argument in case.args:
        built.append(_fresh(argument, built))
    return built, {name: _fresh(argument, built) for name, argument in case.kwargs.items()}


def _fresh(value, built: list):
    match value:
        case Tensor():
            return value.clone(memory_format=torch.preserve_format)
        case list() | tuple():
            return type(value)(_fresh(entry, built) for entry in value)
        case dict():
            return {key: _fresh(entry, built) for key, entry in value.items()}
    return value.build(built) if isinstance(value, RECIPES) else value


def equal(a, b) -> bool:
    """Whether two observed values are the same to the bit (here NaN equals NaN: an untouched NaN is untouched)."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


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
def _time_limit(seconds: float):
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


def _raised(exception: BaseException, answer: Callable) -> Raised:
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
