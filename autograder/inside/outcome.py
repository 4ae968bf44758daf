"""What comes back from student code, as plain values."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

FAULT = "Fault"  # the kind of error that says: a watched kernel did what no GPU forgives
# The kinds of an error that says: the exercise's name stands for no function or class.
UNDEFINED = ("NameError", "Exception", "Undefined")


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
        # not which: a student's code could choose between dozens, by the inputs
        return "it took too long" if self.types[0] == TimeUp.__name__ else "an exception"

    def __str__(self) -> str:
        message = self.message
        if self.types[0] == "NotImplementedError" and self.inside:
            message = f"{self.inside} is not written yet"
        return self.types[0] + (f": {message}" if message else "") + (f", in {self.line}" if self.line else "")


@dataclass(frozen=True)
class Outcome:
    """What one case did."""

    value: object = None  # observed return value, or the list of them for a class
    after: dict[int | str, object] = field(default_factory=dict)  # observed arguments, by position or name
    gradients: dict[int | str, object] = field(default_factory=dict)  # by argument; None: nothing depends on it
    again: dict[str, object] = field(default_factory=dict)  # of a probe, see `probed`
    error: Raised | None = None
    printed: str = ""
    # what kernels did with bytes, of a watched case: of each watched argument, by its position, how many (different ones, all)
    # of each row they read; then of those read "elsewhere", that is of tensors that are no arguments, and "written" anywhere,
    # and of those that programs "met" in, how many, of the different ones written;
    # of a veiled one also how many of the results come "again", of one, when only kernels see what watched arguments hold
    traffic: dict[int | str, tuple[Tensor, Tensor] | tuple[int, int]] = field(default_factory=dict)


class TimeUp(BaseException):
    """Raised in student code when a case takes too long; no Exception, so that `except Exception` does not swallow it."""


def equal(a, b) -> bool:
    """Whether two observed values are the same to the bit (here NaN equals NaN: an untouched NaN is untouched)."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b
