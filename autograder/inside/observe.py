"""What student code made, as plain values: all that is compared, shown or sent to another process.

Objects of a student's own classes do not get through, so nothing that they overload (==, repr, len) has a say in a verdict.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from autograder.inside.case import MODULE, Opaque


class Recorder:
    """A callback that keeps what it says of each of its calls, None being nothing; observed, it is the list of that."""

    def __init__(self, callback: Callable) -> None:
        self.callback = callback
        self.calls: list = []

    def __call__(self, *args, **kwargs) -> None:
        if (said := self.callback(*args, **kwargs)) is not None:
            self.calls.append(observe(said))


class Watched(ABC):
    """An object of the judge's that student code works on; observed, it is what `seen` says."""

    @abstractmethod
    def seen(self):
        """What is to be seen of it."""


def observe(value):
    """Plain copy of a value: tensors detached, dense and on the CPU, modules as marked states, the unknown by its type's name.

    Args:
        value: anything.

    Returns:
        Tensors, numpy arrays, numbers, strings, None, lists and dicts of these, and `Opaque` for the rest.
    """
    match value:
        case Tensor():
            if value.is_meta:
                return Opaque("meta tensor, which holds no values")
            dense = value if value.layout == torch.strided else value.to_dense()
            return dense.detach().as_subclass(Tensor).cpu().clone()
        case np.ndarray() if value.ndim:
            return value.copy()
        case np.generic() | np.ndarray():  # np.where of two numbers gives an array without dimensions
            scalar = value.item()
            return Opaque(type(value).__name__) if isinstance(scalar, np.generic) else observe(scalar)
        case None | bool():
            return value
        case int():  # these methods make exact copies also of a subclass
            plain = int.__int__(value)
            return plain if plain.bit_length() < 1024 else Opaque(f"int, and it has {plain.bit_length()} bits")
        case float():
            return float.__float__(value)
        case complex():
            return complex.__complex__(value)
        case str():
            return str.__str__(value)
        case nn.Linear():
            sizes = {name: observe(getattr(value, name, None)) for name in ("in_features", "out_features")}
            return {MODULE: True} | sizes | observe(value.state_dict())
        case nn.Module():
            return {MODULE: True} | observe(value.state_dict())
        case Recorder():
            return list(value.calls)
        case Watched():
            return observe(value.seen())
        case dict():
            return {_key(key): observe(entry) for key, entry in value.items()}
        case list() | tuple() | torch.Size():
            return [observe(entry) for entry in value]
    return Opaque(type(value).__name__)


def _key(key):
    if isinstance(key, tuple):
        return tuple(map(_key, key))
    return observe(key) if isinstance(key, str | float | int | np.generic | None) else Opaque(type(key).__name__)
