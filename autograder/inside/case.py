"""What crosses to student code: a case, in plain values and recipes."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """One use of the learner's function or class, in plain values and recipes: this is all that student code ever receives.

    A function is called with `args` and `kwargs`; where something must hold from step to step, `times` times in a row, and the
    answer is the list of what it returns. A class is constructed with them, then `calls` are made in order: of its methods, or
    of an argument that can be called, such as a training that goes on in between.
    """

    args: tuple = ()
    kwargs: dict = field(default_factory=dict)
    calls: tuple[tuple, ...] = ()  # ("method" or a position in `args`, *arguments) each; the answer is all they return
    changes: tuple[int, ...] = ()  # positions in `args` that the call is meant to change in place; all others must stay
    times: int = 1
    gradients: tuple[int | str, ...] = ()  # arguments with respect to which what is returned is differentiated
    watched: tuple[int, ...] | None = None  # positions in `args` of tensors whose bytes that count kernels must read, once
    veiled: bool = False  # whether to look if results are made of the numbers that kernels see of these, not those torch sees
    away: bool = False  # whether kernels run in another process; watched arguments hold other numbers here
    probe: str = ""  # AGAIN or STRIDED: use the answer twice, in turns, and look at the first results again
    beside: "Case | None" = None  # how it is used the second time in a probe, if otherwise: an object with another state


# Whether an answer keeps apart what it is given, what it returns and what it does a second time shows in two uses side by side:
# of the same arguments, or
AGAIN = "again"
# of the same values in tensors that are not contiguous; and modules have been in use: in evaluation mode, with gradients
STRIDED = "strided"
HELD = "bytes held"  # in place of a method, before a number: whether all that the object can reach takes so many bytes at most


def call(
    *args,
    changes: tuple[int, ...] = (),
    times: int = 1,
    gradients: tuple[int | str, ...] = (),
    watched: tuple[int, ...] | None = None,
    veiled: bool = False,
    **kwargs,
) -> Case:
    """A case for a function.

    Args:
        *args: positional arguments: tensors, numbers, strings, None, lists, dicts and recipes.
        changes: positions of arguments that the function is meant to change in place; they become part of the answer.
        times: how often it is called with these (the same) arguments.
        gradients: positions or names of arguments (tensors, or models: their parameters) that require gradients; those of a
            fixed weighted sum of what is returned become part of the answer.
        watched: positions of tensors of which Triton kernels must read each byte once, of all rows or those that the exercise
            `reads`; the kernels run in the interpreter, under `sanitizer.watch`. With (), what they read
            is not counted, but a load or store outside of their tensors is an error and does not end the process.
        veiled: call it a second time, with watched tensors that hold their numbers only while a kernel runs and others
            before and after: what torch works out of these is another result.
        **kwargs: keyword arguments.

    Returns:
        The case.
    """
    return Case(args, kwargs, changes=changes, times=times, gradients=gradients, watched=watched, veiled=veiled)


def script(*args, calls: Iterable[tuple], **kwargs) -> Case:
    """A case for a class.

    Args:
        *args: arguments of the constructor.
        calls: ("method", *arguments) each, made in order on the one object; (i, *arguments) calls argument number i, and
            (HELD, n) looks whether all that the object can reach takes n bytes at most, Python's own objects included.
        **kwargs: keyword arguments of the constructor.

    Returns:
        The case.
    """
    return Case(args, kwargs, calls=tuple(calls))


MODULE = "a module"  # the key that tells an observed module from a dict of the same tensors


@dataclass(frozen=True, repr=False)
class Opaque:
    """Something an answer may not consist of, by the name of its type."""

    kind: str

    def __repr__(self) -> str:
        return f"an object of type {self.kind}"
