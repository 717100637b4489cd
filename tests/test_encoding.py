"""The canonical encoding: everything it accepts is the only encoding of its value."""

from __future__ import annotations

import struct
import tracemalloc
import unicodedata
from enum import IntEnum, StrEnum

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto import encoding
from quidnunc.crypto.encoding import Value, decode, encode
from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason

MAX = 65_535
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20).map(
    lambda text: unicodedata.normalize("NFC", text)
)
scalars = st.none() | st.booleans() | st.integers(encoding.MIN_INT, encoding.MAX_INT) | texts | st.binary(max_size=300)
values: st.SearchStrategy[Value] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(texts, inner, max_size=20),
    max_leaves=25,
).filter(lambda value: depth_of(value) <= encoding.MAX_DEPTH)


def depth_of(value: Value) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 0


def nested(levels: int) -> list[Value]:
    value: list[Value] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@given(values)
@settings(deadline=None, max_examples=200)
def test_every_value_of_the_profile_survives(value: Value) -> None:
    data = encode(value)
    assert decode(data, max_bytes=MAX) == value
    assert encode(decode(data, max_bytes=MAX)) == data
    # A foreign msgpack decoder reads the same value.
    assert msgpack.unpackb(data) == value


@given(values, st.data())
@settings(deadline=None, max_examples=200)
def test_a_mutated_encoding_is_canonical_or_refused(value: Value, data: st.DataObject) -> None:
    mutated = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(mutated)))
        action = data.draw(st.sampled_from(["set", "insert", "delete"]))
        if action == "insert" or where == len(mutated):
            mutated.insert(where, data.draw(st.integers(0, 255)))
        elif action == "set":
            mutated[where] = data.draw(st.integers(0, 255))
        else:
            del mutated[where]
    check_canonical_or_malformed(bytes(mutated))


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=200)
def test_arbitrary_bytes_are_canonical_or_refused(data: bytes) -> None:
    check_canonical_or_malformed(data)


def check_canonical_or_malformed(data: bytes) -> None:
    try:
        value = decode(data, max_bytes=MAX)
    except Malformed:
        return
    assert encode(value) == data


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, "c0"),
        (False, "c2"),
        (0, "00"),
        (127, "7f"),
        (128, "cc80"),
        (-32, "e0"),
        (-33, "d0df"),
        (65536, "ce00010000"),
        (2**64 - 1, "cf" + "ff" * 8),
        (-(2**63), "d38000000000000000"),
        ("a", "a161"),
        (b"", "c400"),
        ([1, "x"], "9201a178"),
        ({"b": 1, "a": 2, "é": 3}, "83a16102a16201a2c3a903"),
        ((1, (2,)), "92019102"),
    ],
)
def test_known_bytes_of_the_msgpack_format(value: Value, data: str) -> None:
    assert encode(value).hex() == data


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "nothing"),
        (b"\xc1", "the reserved byte"),
        (b"\xcc\x01", "an integer not in its shortest form"),
        (b"\xd0\x01", "a positive integer in a signed form"),
        (b"\xd9\x01a", "str8 where fixstr does"),
        (b"\xc5\x00\x01a", "bin16 where bin8 does"),
        (b"\xdc\x00\x01\x01", "array16 where fixarray does"),
        (b"\xde\x00\x01\xa1a\x01", "map16 where fixmap does"),
        (b"\x82\xa1a\x01\xa1a\x02", "a key twice"),
        (b"\x82\xa1a\x01\xa1a\x01", "a key twice with one value"),
        (b"\x82\xa1b\x01\xa1a\x02", "keys out of order"),
        (b"\x81\x01\x01", "an integer as a key"),
        (b"\x81\xc4\x01a\x01", "bytes as a key"),
        (b"\x81\xc0\x01", "nil as a key"),
        (b"\x81\x90\x01", "an array as a key"),
        (b"\x81\x80\x01", "a map as a key"),
        (b"\xca" + struct.pack(">f", 1.0), "a float32"),
        (b"\xcb" + struct.pack(">d", 1.0), "a float64"),
        (b"\xcb" + struct.pack(">d", float("nan")), "not a number"),
        (b"\xd4\x05a", "an extension"),
        (b"\xd6\xff\x00\x00\x00\x00", "a timestamp"),
        (b"\xc7\x00\x05", "an empty extension"),
        (b"\x01\x01", "trailing bytes"),
        (b"\x92\x01", "a missing element"),
        (b"\xa2\xc3\x28", "bad UTF-8"),
        (b"\xa3\xed\xa0\x80", "a surrogate"),
        (b"\xa1\x00", "NUL"),
        (b"\xa1\x1b", "escape"),
        (b"\xa1\x7f", "delete"),
        (b"\xa2\xc2\x9b", "a C1 control"),
        (b"\xa3ab", "a string shorter than claimed"),
        (b"\xa3e\xcc\x81", "a string not in NFC"),
        (b"\x91" * 2000 + b"\xc0", "2000 levels"),
        (b"\x91" * 200 + b"\xc0", "200 levels"),
        (b"\xdd\xff\xff\xff\xff", "an array of 4 G elements"),
        (b"\xdf\xff\xff\xff\xff", "a map of 4 G keys"),
        (b"\xc6\xff\xff\xff\xff", "4 GB of bytes"),
        (b"\xdb\xff\xff\xff\xff", "4 GB of string"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_hostile_forms_are_refused(data: bytes, what: str) -> None:
    with pytest.raises(Malformed):
        decode(data, max_bytes=MAX)


def test_every_limit_holds_exactly() -> None:
    inside: list[Value] = [
        nested(encoding.MAX_DEPTH),
        [0] * encoding.MAX_ARRAY,
        {f"{number:03}": 0 for number in range(encoding.MAX_MAP)},
        "x" * encoding.MAX_STR_BYTES,
        "é" * (encoding.MAX_STR_BYTES // 2),
        bytes(60_000),
    ]
    outside: list[Value] = [
        nested(encoding.MAX_DEPTH + 1),
        [0] * (encoding.MAX_ARRAY + 1),
        {f"{number:03}": 0 for number in range(encoding.MAX_MAP + 1)},
        "x" * (encoding.MAX_STR_BYTES + 1),
        "é" * (encoding.MAX_STR_BYTES // 2 + 1),
    ]
    for value in inside:
        assert decode(encode(value), max_bytes=MAX) == value
    for value in outside:
        with pytest.raises(LocalProtocolError):
            encode(value)
        with pytest.raises(Malformed):
            decode(msgpack.packb(value), max_bytes=10 * MAX)


def test_the_size_is_checked_first() -> None:
    with pytest.raises(Malformed, match="12 encoded bytes, limit is 11") as caught:
        decode(encode(bytes(10)), max_bytes=11)
    assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        {1: 2},
        {b"a": 1},
        bytearray(b"x"),
        object(),
        {1, 2},
        2**64,
        -(2**63) - 1,
        "\ud800",
        "e\u0301",
        "a\n",
    ],
)
def test_values_outside_the_profile_are_a_bug_of_ours(value: object) -> None:
    with pytest.raises(LocalProtocolError, match="cannot encode"):
        encode(value)  # type: ignore[arg-type]


def test_enums_leave_as_plain_values() -> None:
    class Number(IntEnum):
        SEVEN = 7

    class Word(StrEnum):
        SEVEN = "seven"

    assert encode([Number.SEVEN, Word.SEVEN, {Word.SEVEN: True}]) == encode([7, "seven", {"seven": True}])


def test_a_refusal_does_not_repeat_the_bytes() -> None:
    with pytest.raises(Malformed) as caught:
        decode(b"\xaasecret\x1b[2J", max_bytes=MAX)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdc\x10\x00" * 21_000,
        b"\xde\x01\x00\xa1a" * 12_000,
        b"\x91" * 60_000,
        b"\xdd\x00\x00\x10\x00" * 12_000,
    ],
    ids=["arrays", "maps", "depth", "array32"],
)
def test_a_bomb_costs_little_memory(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            decode(bomb, max_bytes=MAX)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20
