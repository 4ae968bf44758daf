"""What an object holds: the bytes of all that it can reach, whatever they are kept in."""

import dis
import os
import sys
from collections.abc import Iterator
from gc import get_referents
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import numpy as np
import torch
from torch import Tensor

_OURS = Path(__file__).parents[1]
_SHARED = tuple(  # what a class or function of these files leads to belongs to everybody
    f"{folder}{os.sep}"
    for folder in (_OURS, _OURS.parent / "sparsity_edu", Path(torch.__file__).parents[1], Path(os.__file__).parent)
)
_HEAP = 1 << 9  # the flag of classes that Python code has made: their __sizeof__ is anybody's


def weigh(thing) -> tuple[int, int]:
    """Bytes of an object, and of all to which it leads.

    That is what its attributes hold, closures, defaults and constants of its functions, its class if that is a student's own,
    and the globals that functions of theirs name. Modules, and classes and functions of libraries, are nobody's.

    Args:
        thing: anything.

    Returns:
        Of tensors and arrays, of which memory that they share counts once; and of all else, a KB or two for a common object.
    """
    waiting, seen, memories, rest = [thing], {}, {}, 0
    while waiting:
        part = waiting.pop()
        if id(part) in seen or _is_shared(part):
            continue
        seen[id(part)] = part  # kept, so that no other object gets its id
        if isinstance(part, Tensor):
            memories[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        elif isinstance(part, np.ndarray):
            if _base_of(part) is None:  # no view
                memories[_interface_of(part)["data"][0]] = _size(part)
        else:
            rest += _size(part)
        waiting += _leads_to(part)
    return sum(memories.values()), rest


def _size(part) -> int:
    """Of the object itself, as its first built-in class tells, or of the memory behind it, as of a mapping."""
    if isinstance(part, FunctionType | CodeType | type):
        return 0  # a program, not what it keeps
    kind = next(kind for kind in type(part).__mro__ if not kind.__flags__ & _HEAP)
    try:
        return max(kind.__sizeof__(part), memoryview(part).nbytes)
    except (TypeError, ValueError, BufferError):
        return kind.__sizeof__(part)


_base_of, _interface_of = np.ndarray.base.__get__, np.ndarray.__array_interface__.__get__  # whatever a subclass says


def _leads_to(part) -> list:
    if isinstance(part, np.ndarray):
        return [_base_of(part), *(part.flat if part.dtype.hasobject else ())]
    if isinstance(part, type):
        return [*vars(part).values(), *part.__bases__]
    if isinstance(part, FunctionType):
        named = [part.__globals__[name] for name in _globals_of(part.__code__) if name in part.__globals__]
        own = part.__code__, part.__closure__, part.__defaults__, part.__kwdefaults__, part.__dict__
        return [*named, *own]
    if isinstance(part, CodeType):
        return list(part.co_consts)
    return get_referents(part)


def _globals_of(code: CodeType) -> Iterator[str]:
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _globals_of(inner)


def _is_shared(part) -> bool:
    if isinstance(part, FunctionType):
        return part.__closure__ is None and part.__code__.co_filename.startswith(_SHARED)
    if isinstance(part, type):
        file = getattr(sys.modules.get(part.__module__), "__file__", None)
        return not part.__flags__ & _HEAP or bool(file and file.startswith(_SHARED))
    return isinstance(part, ModuleType | torch.dtype | torch.device)
