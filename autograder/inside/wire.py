"""The one way between the judge and student code: cases go in, outcomes come out, both as bytes.

    judge  --- frame(encode(case)) --->  a snapshot of the student's program, in the sandbox (answer.py)
    judge  <-- frame(encode(outcome)) -  the same

Before an outcome may come launches of kernels, which the judge answers (launches.py); these, too, are plain values.

A frame is eight bytes of length and a safetensors file: the tensors, and one JSON text that says how they make a value. What
comes out of the sandbox is only ever read by `decode_outcome`: capped in size, built from plain values and nothing else, never
pickle, never code.
"""

import json
import re
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import fields
from types import NoneType

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from autograder.inside.case import Case, Opaque
from autograder.inside.outcome import Outcome, Raised
from autograder.inside.recipes import RECIPES

MAX_ANSWER = 64 * 2**20  # bytes of one outcome
MAX_TEXT = 2**20  # bytes of its JSON
MAX_KEYS = 1000  # of one dict: keys can be chosen to have the same hash, and then each new one meets all others
MAX_DIMENSIONS = 64
MAX_BITS = 1023  # of an integer, which then fits into a float
_KINDS = {kind.__name__: kind for kind in (Case, *RECIPES)}
_NOTHING = torch.zeros(1)  # where the bytes of an empty tensor are, whose own pointer is null
_UNSAFE = ("complex32", "complex64", "complex128", "float8_e8m0fnu")  # safetensors has no place for these


class Refused(ValueError):
    """What came out of the sandbox is no outcome."""


def encode(value) -> bytes:
    """A case, an outcome, or plain values as bytes.

    Args:
        value: plain values and recipes only. A tensor has the strides that a copy of it has; those of a type that
            safetensors cannot hold become `Opaque`.

    Returns:
        A safetensors file.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(value, tensors))
    # not safetensors.torch.save, which takes three times as long: it looks for memory that is shared, and these are all copies
    specs = {name: _spec(tensor) for name, tensor in tensors.items()}
    return bytes(safetensors.serialize(specs, metadata={"value": text}))


def _spec(tensor: Tensor) -> safetensors.TensorSpec:
    dtype, pointer = str(tensor.dtype).removeprefix("torch."), tensor.data_ptr() or _NOTHING.data_ptr()
    return safetensors.TensorSpec(dtype=dtype, shape=tensor.shape, data_ptr=pointer, data_len=tensor.nbytes)


def decode_case(data: bytes):
    """The case, or plain values, in bytes that the judge wrote."""
    return _read(data, trusted=True)


def decode_outcome(data: bytes) -> Outcome:
    """The outcome in bytes that student code may have written.

    Args:
        data: anything.

    Returns:
        An outcome of plain values.

    Raises:
        Refused: the bytes are no outcome.
    """
    outcome = decode_plain(data)
    if not isinstance(outcome, Outcome):
        raise Refused("what came out of the sandbox is no outcome")
    return outcome


def decode_plain(data: bytes):
    """Plain values, or an outcome, in bytes that student code may have written.

    Args:
        data: anything.

    Returns:
        The values.

    Raises:
        Refused: the bytes are none.
    """
    try:
        return _read(data, trusted=False)
    except Refused:
        raise
    except Exception as error:  # whatever json, safetensors and torch may say to nonsense
        raise Refused(f"{type(error).__name__} in what came out of the sandbox") from error


def _read(data: bytes, trusted: bool):
    if len(data) > MAX_ANSWER and not trusted:
        raise Refused("too large")
    header = int.from_bytes(data[:8], "little")  # safetensors keeps its metadata in a JSON header behind eight bytes of length
    if header > MAX_TEXT and not trusted:
        raise Refused("too much text")
    text = json.loads(data[8 : 8 + header])["__metadata__"]["value"]
    tensors = safetensors.torch.load(data)
    return _unpack(json.loads(text), tensors if trusted else {name: _checked(tensors[name]) for name in tensors}, trusted)


def _checked(tensor: Tensor) -> Tensor:
    if tensor.ndim > MAX_DIMENSIONS:
        raise Refused(f"a tensor of {tensor.ndim} dimensions")
    # a byte other than 0 and 1 would be neither True nor False
    return tensor.view(torch.uint8) != 0 if tensor.dtype == torch.bool else tensor


def _pack(value, tensors: dict[str, Tensor]):
    """JSON for a value; everything but null, booleans, numbers, strings and lists is an object with one key, its kind."""

    def pack(entry):
        return _pack(entry, tensors)

    match value:
        case float() if value != value:  # JSON has one NaN: no sign, no payload
            return {"nan": struct.pack(">d", value).hex()}
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [pack(entry) for entry in value]
        case tuple():
            return {"tuple": [pack(entry) for entry in value]}
        case dict():
            return {"dict": [[pack(key), pack(entry)] for key, entry in value.items()]}
        case Tensor():
            return _pack_tensor("tensor", value, tensors)
        case np.ndarray():
            try:
                return _pack_tensor("array", torch.from_numpy(value), tensors)
            except (TypeError, ValueError):  # strings, objects, negative strides
                return {"opaque": f"numpy array of {value.dtype}"}
        case complex():
            return {"complex": [pack(value.real), pack(value.imag)]}
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case Opaque():
            return {"opaque": value.kind}
        case Outcome():
            return {"Outcome": [pack(part) for part in _parts(value)]}
        case Raised():
            return {"Raised": [pack(part) for part in (value.types, value.message, value.line, value.inside)]}
    return {type(value).__name__: {field.name: pack(getattr(value, field.name)) for field in fields(value)}}


def _parts(outcome: Outcome) -> tuple:
    return tuple(getattr(outcome, part.name) for part in fields(outcome))


def _pack_tensor(kind: str, tensor: Tensor, tensors: dict[str, Tensor]):
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype in _UNSAFE or tensor.is_quantized:
        return {"opaque": f"{dtype} tensor"}
    name = str(len(tensors))
    strides = torch.empty_like(tensor).stride()  # a copy's: an expanded tensor's entries cannot be filled one by one
    tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return {kind: [name, list(strides)]}


def _unpack(value, tensors: dict[str, Tensor], trusted: bool):
    if value is None or isinstance(value, bool | int | float | str):
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise Refused(f"an integer of {value.bit_length()} bits")
        return value

    def unpack(entry):
        return _unpack(entry, tensors, trusted)

    if isinstance(value, list):
        return [unpack(entry) for entry in value]
    [(kind, content)] = value.items()
    if kind == "tuple":
        return tuple(map(unpack, content))
    if kind == "dict":
        if not trusted and len(content) > MAX_KEYS:
            raise Refused(f"a dict with {len(content)} entries")
        return {_key(unpack(key)): unpack(entry) for key, entry in content}
    if kind == "complex":
        return complex(*(float(unpack(part)) for part in content))
    if kind == "nan":
        return struct.unpack(">d", bytes.fromhex(content))[0]
    if kind == "opaque":
        return Opaque(printable(str(content), 200))
    if kind in ("tensor", "array"):
        tensor = tensors[content[0]]
        if kind == "array":
            return tensor.numpy()
        if trusted and list(tensor.stride()) != content[1]:
            return torch.empty_strided(tensor.shape, content[1], dtype=tensor.dtype).copy_(tensor)
        return tensor
    if trusted and kind in _KINDS:
        return _KINDS[kind](**{name: unpack(entry) for name, entry in content.items()})
    if trusted and kind == "dtype":
        return getattr(torch, content)
    if kind == "Raised":
        return _raised(*map(unpack, content))
    if kind == "Outcome":
        return _outcome(*map(unpack, content))
    raise Refused(f"an unknown kind of value: {kind[:40]!r}")


def _key(key):
    if isinstance(key, tuple):
        return tuple(map(_key, key))
    if key is None or isinstance(key, bool | int | float | str | Opaque):
        return key
    raise Refused("a dict with a key that is none")


def _raised(types, message, line, inside) -> Raised:
    if not (isinstance(types, tuple) and types and all(isinstance(name, str) for name in (*types, message, line, inside))):
        raise Refused("an error that is none")
    return Raised(tuple(map(printable, types[:20])), *(printable(text) for text in (message, line, inside)))


def _outcome(value, after, gradients, again, error, printed, traffic) -> Outcome:
    dicts = (after, gradients, again, traffic)
    if not (
        all(isinstance(part, dict) for part in dicts) and isinstance(error, Raised | NoneType) and isinstance(printed, str)
    ):
        raise Refused("an outcome that is none")
    for key, counts in traffic.items():
        kind = _is_count if isinstance(key, str) else _are_counts  # of all rows together, or of each row of an argument
        if not (isinstance(counts, tuple) and len(counts) == 2 and all(map(kind, counts))):
            raise Refused("counts of bytes that are none")
    return Outcome(value, after, gradients, again, error, printable(printed), traffic)


def _is_count(count) -> bool:
    return type(count) is int


def _are_counts(counts) -> bool:
    return isinstance(counts, Tensor) and counts.dtype == torch.int64 and counts.ndim == 1


_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # ANSI sequences
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # other control characters, but not tab and newline
    r"|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"  # what turns the direction of text around
    r"|[\ud800-\udfff]"  # half of a pair, which cannot be written as UTF-8
)


def printable(text: str, most: int = 2000) -> str:
    """Text of a student that can be shown: without ANSI, control and bidirectional characters, and not too long."""
    text = _CONTROL.sub("", text[: 2 * most].replace("\r\n", "\n"))
    return text if len(text) <= most else text[:most] + " ..."


def send(connection: socket.socket, data: bytes) -> None:
    """Send one frame."""
    connection.sendall(len(data).to_bytes(8, "little") + data)


def receive(connection: socket.socket, deadline: float | None = None, most: int = MAX_ANSWER) -> bytes:
    """Receive one frame.

    Args:
        connection: a stream socket.
        deadline: on `time.monotonic`'s clock; None waits for ever.
        most: bytes that a frame may have.

    Returns:
        Its content.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: the deadline has passed.
        Refused: the frame is too large.
    """

    def exactly(count: int, read: Callable[[int], bytes]) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            if deadline is not None:
                connection.settimeout(max(deadline - time.monotonic(), 1e-3))
                if time.monotonic() > deadline:  # a byte now and then does not keep the judge waiting
                    raise TimeoutError
            part = read(min(count - len(parts), 2**20))
            if not part:
                raise EOFError("the other side is gone")
            parts += part
        return bytes(parts)

    length = int.from_bytes(exactly(8, connection.recv), "little")
    if length > most:
        raise Refused(f"an answer of {length} bytes; at most {most} are read")
    return exactly(length, connection.recv)
