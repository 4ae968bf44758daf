"""What crosses the wall: every kind of value there and back, text made harmless, and frames on a socket."""

import math
import socket
import struct
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autograder.exercises import all_exercises
from autograder.inside import wire
from autograder.inside.case import Case, Opaque, call, script
from autograder.inside.outcome import Outcome, Raised
from autograder.inside.recipes import MLP, RECIPES, Add, Module, Optimizer, Train, Training
from autograder.inside.runner import run
from autograder.inside.wire import Refused, decode_case, decode_outcome, encode, printable, receive, send

DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")


def same(a, b, strides: bool = False) -> bool:
    """Whether two values are the same to the bit, types included."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if (a.dtype, a.shape) != (b.dtype, b.shape) or (strides and a.stride() != b.stride()):
            return False
        return torch.equal(*(t.contiguous().flatten().view(torch.uint8) for t in (a, b)))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, complex) and isinstance(b, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y, strides) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key], strides) for key in a)
    if isinstance(a, (Case, Outcome, Raised, *RECIPES)):
        return type(a) is type(b) and same(vars(a), vars(b), strides)
    return type(a) is type(b) and a == b


def random_tensor(shape, seed: int = 1) -> torch.Tensor:
    return 10 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sent(value):
    """A value as it is on the other side, as an answer."""
    return decode_outcome(encode(Outcome(value))).value


def given_to_student(value):
    """A value as it is on the other side, as an argument."""
    return decode_case(encode(call(value))).args[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 4), (2, 0, 3)])
def test_tensors_of_every_type_and_shape(dtype, shape):
    tensor = random_tensor(shape).to(getattr(torch, dtype))
    assert same(sent(tensor), tensor)
    assert same(given_to_student(tensor), tensor, strides=True)


@pytest.mark.parametrize(
    "tensor",
    [torch.randn(3, 4).T, torch.randn(2, 3, 4).permute(2, 0, 1), torch.randn(1, 2, 3, 3).to(memory_format=torch.channels_last)],
)
def test_an_input_has_its_strides_there(tensor):
    assert not tensor.is_contiguous()
    assert same(given_to_student(tensor), tensor, strides=True)


@pytest.mark.parametrize("tensor", [torch.ones(1, 3).expand(4, 3), torch.randn(4, 6)[:, ::2], torch.randn(5)[2:]])
def test_an_input_that_shares_memory_arrives_as_its_copy(tensor):
    arrived = given_to_student(tensor)
    assert torch.equal(arrived, tensor)
    assert arrived.stride() == tensor.clone().stride()


def test_a_negated_view_arrives_negated():
    negated = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert negated.is_neg()
    assert sent(negated).tolist() == [-2.0, 4.0]


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", ["complex32", "complex64", "complex128"])
def test_a_tensor_that_no_file_can_hold_is_opaque(dtype):
    assert sent(torch.zeros(2, dtype=getattr(torch, dtype))) == Opaque(f"{dtype} tensor")


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.array([True, False]), np.zeros((0, 2), dtype=np.int16)])
def test_numpy_arrays(array):
    assert same(sent(array), array)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None, 3], dtype=object), np.arange(3)[::-1]])
def test_numpy_arrays_without_plain_numbers_are_opaque(array):
    assert isinstance(sent(array), Opaque)


VALUES = [
    None,
    True,
    -1,
    2**1023 - 1,
    -(2**1023) + 1,
    0.1,
    -0.0,
    math.inf,
    -math.inf,
    math.nan,
    -math.nan,
    struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_1234))[0],
    complex(math.nan, -math.nan),
    5e-324,
    2 - 3j,
    "",
    "é😀\n\t'\"\\\x00",
    [],
    (),
    {},
    [1, [2.0, ("x", None)], {"a": (True,)}],
    {("a", 1): [torch.ones(2)], 2: "b", 2.5: None, None: 1, Opaque("set"): ()},
    Opaque("generator"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_plain_values(value):
    assert same(sent(value), value)
    assert same(given_to_student(value), value)


def test_the_largest_integer_fits_into_a_float():
    assert wire.MAX_BITS == 1023
    with pytest.raises(Refused, match="1024 bits"):
        sent(2**1023)


def test_outcomes_and_errors():
    error = Raised(("MyError", "ValueError", "Exception"), "n must be\tpositive", "line 3: f(x)", "helper")
    outcome = Outcome([torch.ones(2)], {0: torch.zeros(3), "n": [1]}, {0: None}, {"second": 1.0}, error, "printed\n")
    assert same(decode_outcome(encode(outcome)), outcome)


def test_nobody_in_there_speaks_for_the_judge():
    mine = Outcome(error=Raised(("TimeUp",), "the score is 100", ours=True))
    assert not decode_outcome(encode(mine)).error.ours


CASES = [
    script(torch.ones(2), calls=[("add", torch.zeros(1)), ("total",)], bias=True),
    call(torch.float16, [torch.int8], changes=(0,), times=3, dtype=torch.bfloat16),
    call(MLP((torch.randn(3, 2), torch.randn(1, 3)), (torch.randn(3), torch.randn(1)))),
    call(Module("Sequential", (Module("Linear", (2, 3), {"weight": torch.ones(3, 2)}), Module("ReLU"))), [Module("Tanh")]),
    call(MLP((torch.ones(1, 1),), (torch.ones(1),)), Optimizer("AdamW", 0, {"lr": 0.1, "betas": (0.9, 0.99)}, 2, 0.5)),
    call(Add((torch.randn(2, 2), torch.randn(1, 2)))),
    script(Training(MLP((torch.ones(2, 3),), (torch.ones(2),)), torch.ones(4, 3), torch.arange(4) % 2), calls=[(0, 2)]),
    call(Train(detailed=False)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.args[0])[:20])
def test_cases_with_every_recipe(case):
    assert same(decode_case(encode(case)), case, strides=True)


@pytest.mark.parametrize("exercise", all_exercises(), ids=lambda exercise: exercise.id)
def test_the_wall_changes_no_case_and_no_outcome(exercise):
    for case in (case for stage in exercise.stages for case in exercise.cases(stage, "wire")):
        there = decode_case(encode(case))
        assert same(there, case, strides=True)
        outcome = run(case, exercise.reference)
        assert same(decode_outcome(encode(run(there, exercise.reference))), outcome)


scalars = st.none() | st.booleans() | st.integers(-(2**1023) + 1, 2**1023 - 1) | st.floats() | st.complex_numbers() | st.text()
keys = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text()
tensors = st.builds(
    lambda shape, dtype, seed: random_tensor(shape, seed).to(getattr(torch, dtype)),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
    st.integers(0, 99),
)


def nested(parts):
    lists = st.lists(parts, max_size=4)
    return lists | lists.map(tuple) | st.dictionaries(keys | st.tuples(keys, keys), parts, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.recursive(scalars | tensors | st.builds(Opaque, st.from_regex("[ -~]{0,9}", fullmatch=True)), nested, max_leaves=12))
def test_what_is_sent_arrives(value):
    assert same(sent(value), value)


EVIL = "\x1b[31mred\x1b[0m\x1b]8;;http://x\x07\x00\x08\r\x9b\u202eesrever\u2066\ufeff\ud83dé\tb\nc"


def test_text_of_an_answer_is_made_harmless():
    error = Raised((EVIL,), EVIL, EVIL, EVIL)
    arrived = decode_outcome(encode(Outcome(Opaque(EVIL), error=error, printed=EVIL)))
    harmless = "red]8;;http://xesreveré\tb\nc"
    assert arrived.printed == arrived.value.kind == harmless
    assert arrived.error == Raised((harmless,), harmless, harmless, harmless)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters() | st.sampled_from(EVIL)), st.integers(1, 30))
def test_printable_text(text, most):
    shown = printable(text, most)
    assert len(shown) <= most + 4
    assert all(c in "\t\n" or c >= " " for c in shown)
    assert not set(shown) & {*"\x7f\x85\x9b\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"}
    shown.encode()
    if text.isascii() and text.isprintable() and len(text) <= most:
        assert shown == text


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("data", [b"", b"x", bytes(3 * 2**20)])
def test_frames(ends, data):
    ours, theirs = ends
    thread = threading.Thread(target=lambda: (send(theirs, data), send(theirs, b"next")))
    thread.start()
    assert receive(ours, time.monotonic() + 5) == data
    assert receive(ours) == b"next"
    thread.join()


@pytest.mark.parametrize("part", [b"", b"\x05\0\0", struct.pack("<Q", 5), struct.pack("<Q", 5) + b"abcd"])
def test_the_other_side_goes_away(ends, part):
    ours, theirs = ends
    theirs.sendall(part)
    theirs.close()
    with pytest.raises(EOFError):
        receive(ours, time.monotonic() + 5)


@pytest.mark.parametrize("length", [wire.MAX_ANSWER + 1, 2**64 - 1])
def test_a_frame_that_is_too_large_is_not_read(ends, length):
    ours, theirs = ends
    theirs.sendall(struct.pack("<Q", length))
    with pytest.raises(Refused, match=str(length)):
        receive(ours, time.monotonic() + 5)


@pytest.mark.parametrize("start", [b"", struct.pack("<Q", 1000)], ids=["no length", "no content"])
def test_bytes_that_drip_do_not_keep_the_judge(ends, start):
    ours, theirs = ends
    done = threading.Event()

    def drip():
        theirs.sendall(start)
        while not done.wait(0.02):
            theirs.sendall(b"\x01")

    thread = threading.Thread(target=drip)
    thread.start()
    began = time.monotonic()
    try:
        with pytest.raises(TimeoutError):
            receive(ours, began + 0.3, most=2**63) if start else receive(ours, began + 0.1)
    finally:
        done.set()
        thread.join()
    assert time.monotonic() - began < 5


def test_bytes_that_are_there_after_the_deadline_are_not_read(ends):
    ours, theirs = ends
    send(theirs, b"late")
    with pytest.raises(TimeoutError):
        receive(ours, time.monotonic() - 1)
