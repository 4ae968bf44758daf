"""Bytes that are no outcome, from a program in the sandbox that does as it likes: nothing but Refused, and quickly."""

import contextlib
import json
import math
import struct
import time
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autograder.inside import wire
from autograder.inside.case import Opaque, call
from autograder.inside.outcome import Outcome, Raised
from autograder.inside.wire import MAX_ANSWER, Refused, decode_outcome, encode

QUICK = 6  # seconds of CPU; what is linear takes about one, and the texts that are meant to take long take far more


def file(text: str | bytes, header: dict | None = None, data: bytes = b"") -> bytes:
    """Bytes as a program in the sandbox may write them: a JSON text and a safetensors header of its own."""
    meta = {"__metadata__": {"value": text}} if isinstance(text, str) else {}
    head = text if isinstance(text, bytes) else json.dumps(meta | (header or {})).encode()
    return struct.pack("<Q", len(head)) + head + data


NONE = '{"dict":[]}'


def outcome(value="null", after=NONE, gradients=NONE, again=NONE, error="null", printed='""', traffic=NONE) -> str:
    return f'{{"Outcome":[{value},{after},{gradients},{again},{error},{printed},{traffic}]}}'


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


USES = outcome('{"tensor":["0",[1]]}')
COLLIDING = [f"[{i * (2**61 - 1)},0]" for i in range(32_000)]  # Python gives these integers the same hash
HOSTILE = {
    "nothing": b"",
    "a short frame": b"\0" * 7,
    "an empty header": bytes(8),
    "a header longer than the file": struct.pack("<Q", 10_000) + b"{}",
    "a header of 2**64 bytes": b"\xff" * 8 + b"{}",
    "too much text": file(outcome(json.dumps("x" * wire.MAX_TEXT))),
    "65 MB": bytes(65 * 2**20),
    "a header nested deep": file(b"[" * 100_000 + b"]" * 100_000),
    "a value nested deep": file("[" * 100_000 + "]" * 100_000),
    "a value nested less deep": file(outcome("[" * 900 + "]" * 900)),
    "tuples nested deep": file(outcome('{"tuple":[' * 3000 + "]}" * 3000)),
    "a header that is a list": file(b"[1]"),
    "a header that is no UTF-8": file(b'{"__metadata__":{"value":"\xff"}}'),
    "no metadata": file(b"{}"),
    "metadata of another type": file(b'{"__metadata__":{"value":{"Outcome":[]}}}'),
    "no value": file(b'{"__metadata__":{}}'),
    "no JSON": file("Outcome"),
    "a plain value": file("3"),
    "a case": encode(call(torch.ones(2))),
    "a case as the value": file(outcome('{"Case":{"args":{"tuple":[]}}}')),
    "a recipe": file(outcome('{"Module":{"kind":"Linear","arguments":{"tuple":[1,1]},"state":{"dict":[]}}}')),
    "a dtype": file(outcome('{"dtype":"float32"}')),
    "an attribute of torch": file(outcome('{"dtype":"load"}')),
    "an unknown kind": file(outcome('{"__reduce__":["os.system","true"]}')),
    "a long unknown kind": file(outcome(json.dumps({"k" * 500_000: 1}))),
    "an object of two kinds": file(outcome('{"tuple":[],"opaque":"x"}')),
    "an object of no kind": file(outcome("{}")),
    "kinds with odd contents": file(outcome('{"tuple":5}')),
    "a dict of odd pairs": file(outcome('{"dict":[[1]]}')),
    "a list as a key": file(outcome('{"dict":[[[1],1]]}')),
    "a tensor as a key": file(outcome('{"dict":[[{"tensor":["0",[1]]},1]]}'), {"0": tensor()}, bytes(8)),
    "an error as a key": file(outcome('{"dict":[[{"Raised":[{"tuple":["E"]},"","",""]},1]]}')),
    "an error in a tuple as a key": file(outcome('{"dict":[[{"tuple":[{"Raised":[{"tuple":["E"]},"","",""]}]},1]]}')),
    "a complex number as a key": file(outcome('{"dict":[[{"complex":[1,2]},1]]}')),
    "many keys": file(outcome('{"dict":[' + ",".join(f"[{i},0]" for i in range(1001)) + "]}")),
    "complex with three parts": file(outcome('{"complex":[1,2,3]}')),
    "NaN of three bytes": file(outcome('{"nan":"7ff800"}')),
    "NaN of no bytes": file(outcome('{"nan":1}')),
    "complex with a huge part": file(outcome('{"complex":[1' + "0" * 400 + ",0]}")),
    "an integer of 1300 bits": file(outcome("1" + "0" * 400)),
    "an integer of 5000 digits": file(outcome("1" + "0" * 5000)),
    "a tensor that is missing": file(USES),
    "a tensor by a number": file(outcome('{"tensor":[0,[1]]}'), {"0": tensor()}, bytes(8)),
    "a tensor without a name": file(outcome('{"tensor":[]}'), {"0": tensor()}, bytes(8)),
    "an array of bfloat16": file(outcome('{"array":["0",[1]]}'), {"0": tensor("BF16", (4,))}, bytes(8)),
    "overlapping tensors": file(USES, {"0": tensor(), "1": tensor(offsets=(4, 12))}, bytes(12)),
    "a tensor out of the file": file(USES, {"0": tensor(offsets=(0, 8))}, bytes(4)),
    "negative offsets": file(USES, {"0": tensor(offsets=(-8, 0))}, bytes(8)),
    "offsets the other way round": file(USES, {"0": tensor(offsets=(8, 0))}, bytes(8)),
    "another size than the shape's": file(USES, {"0": tensor(shape=(3,))}, bytes(8)),
    "a negative shape": file(USES, {"0": tensor(shape=(-2,))}, bytes(8)),
    "a shape that overflows": file(USES, {"0": tensor(shape=(2**62, 2**62))}, bytes(8)),
    "an empty shape that overflows": file(USES, {"0": tensor(shape=(0, 2**63), offsets=(0, 0))}),
    "100,000 dimensions": file(USES, {"0": tensor(shape=(1,) * 100_000, offsets=(0, 4))}, bytes(4)),
    "an unknown tensor type": file(USES, {"0": tensor("P64")}, bytes(8)),
    "half a byte": file(USES, {"0": tensor("F4", (2,), (0, 1))}, bytes(1)),
    "bytes left over": file(outcome(), {"0": tensor()}, bytes(9)),
    "counts of bytes that are none": file(outcome("0", traffic='{"dict":[[0,{"tuple":[1,"2"]}]]}')),
    "counts of bytes in a float": file(
        outcome("0", traffic='{"dict":[[0,{"tuple":[{"tensor":["0",[1]]},{"tensor":["0",[1]]}]}]]}'), {"0": tensor()}, bytes(8)
    ),
    "an outcome too short": file('{"Outcome":[null]}'),
    "an outcome too long": file('{"Outcome":[1,2,3,4,5,6,7,8]}'),
    "after: a list": file(outcome(after="[]")),
    "gradients: a tensor": file(outcome(gradients='{"tensor":["0",[1]]}'), {"0": tensor()}, bytes(8)),
    "again: a list": file(outcome(again="[1]")),
    "again: nothing": file(outcome(again="null")),
    "error: text": file(outcome(error='"ValueError"')),
    "printed: a number": file(outcome(printed="7")),
    "printed: missing": file(outcome(printed="null")),
    "an error without types": file(outcome(error='{"Raised":[{"tuple":[]},"","",""]}')),
    "an error with a type that is none": file(outcome(error='{"Raised":[{"tuple":[3]},"","",""]}')),
    "an error with types as text": file(outcome(error='{"Raised":["ValueError","","",""]}')),
    "an error with a message that is none": file(outcome(error='{"Raised":[{"tuple":["E"]},["x"],"",""]}')),
    "an error that says it is ours": file(outcome(error='{"Raised":[{"tuple":["E"]},"","","",true]}')),
}


def decode_quickly(data: bytes) -> Outcome:
    start = time.process_time()
    try:
        return decode_outcome(data)
    finally:
        assert time.process_time() - start < QUICK


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_outcome_is_refused_quickly(data):
    with pytest.raises(Refused) as refused:
        decode_quickly(data)
    assert len(str(refused.value)) < 200


def test_a_refusal_says_why():
    with pytest.raises(Refused, match="too large"):
        decode_outcome(bytes(MAX_ANSWER + 1))
    with pytest.raises(Refused, match="too much text"):
        decode_outcome(HOSTILE["too much text"])
    with pytest.raises(Refused, match="unknown kind of value: 'kkk"):
        decode_outcome(HOSTILE["a long unknown kind"])


@pytest.mark.parametrize(
    "value",
    [
        '{"dict":[' + ",".join(COLLIDING) + "]}",
        "[" + ",".join(['{"dict":[' + ",".join(COLLIDING[:900]) + "]}"] * 40) + "]",
        "[" + ",".join(["[]"] * 330_000) + "]",
        "[" + ",".join(['{"dict":[]}'] * 80_000) + "]",
        "[" + ",".join(["1e999"] * 150_000) + "]",
        "[" + ",".join(["9" * 4000] * 200) + "]",
        "[" + ",".join(['{"tensor":["0",[1]]}'] * 40_000) + "]",
    ],
    ids=["hashes", "many hashes", "lists", "dicts", "numbers", "digits", "one tensor many times"],
)
def test_no_text_takes_long_to_read(value):
    count = 2**22
    data = file(outcome(value), {"0": tensor("BOOL", (count,), (0, count))}, bytes(count))
    with contextlib.suppress(Refused):
        decode_quickly(data)


def test_a_truth_value_is_one_of_two():
    data = file(outcome('{"tensor":["0",[1]]}'), {"0": tensor("BOOL", (4,), (0, 4))}, bytes([0, 1, 2, 255]))
    assert decode_outcome(data).value.view(torch.uint8).tolist() == [0, 1, 1, 1]


def test_keys_of_every_plain_kind_pass():
    value = '{"dict":[[true,0],[NaN,0],[null,0],["a",0],[{"tuple":[1,2]},0],[{"opaque":"set"},0]]}'
    keys = list(decode_outcome(file(outcome(value))).value)
    assert keys[0] is True
    assert math.isnan(keys[1])
    assert keys[2:] == [None, "a", (1, 2), Opaque("set")]


def check_any(data: bytes) -> None:
    with contextlib.suppress(Refused):
        assert isinstance(decode_quickly(data), Outcome)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(data):
    check_any(data)
    check_any(struct.pack("<Q", len(data)) + data)


GOOD = encode(
    Outcome(
        [torch.arange(6.0), {"a": (1, None)}, 1j],
        {0: torch.ones(2)},
        (1,),
        Raised(("E",), "m"),
        "text",
        {0: (torch.ones(3).long(),) * 2},
    )
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(GOOD)))
def test_damaged_outcomes(changes, end):
    damaged = bytearray(GOOD)
    for position, byte in changes:
        damaged[position] = byte
    check_any(bytes(damaged))
    check_any(bytes(damaged[:end]))


KINDS = (
    "tuple",
    "dict",
    "complex",
    "nan",
    "opaque",
    "tensor",
    "array",
    "dtype",
    "Raised",
    "Outcome",
    "Case",
    "MLP",
    "Optimizer",
)
PLAIN = (None, True, 0, -1, 2.5, math.nan, 10**400, "", "0", "E", "float32", "\ud800\u202e", [1])


def forged(random: Random, depth: int = 4):
    """A value as nobody would write it by mistake."""
    parts = [forged(random, depth - 1) for _ in range(random.randrange(6))] if depth else []
    return random.choice([random.choice(PLAIN), parts, {random.choice(KINDS): parts}, {random.choice(KINDS): parts}])


@pytest.mark.parametrize("seed", range(20))
def test_forged_values(seed):
    random = Random(seed)
    for _ in range(100):
        value = forged(random)
        pair = {"Outcome": [value, {"dict": [[forged(random), value]]}, {"tuple": []}, None, "", {"dict": []}]}
        for made in (value, pair, {"Outcome": [forged(random) for _ in range(6)]}):
            check_any(file(json.dumps(made), {"0": tensor()}, bytes(8)))
