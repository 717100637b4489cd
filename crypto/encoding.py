"""Canonical msgpack, profile QN/1: one byte string per value and one value per byte string.

Everything that is hashed or signed is encoded here. The profile is a subset of msgpack:

* nil, bool, int (-2**63 to 2**64-1), str, bin, array, and map with str keys only;
* no float, no extension, no timestamp: reals are scaled integers or decimal strings;
* the shortest form of every header; map keys unique and in the order of their UTF-8 bytes;
* strings are UTF-8 in Unicode NFC without control characters (category Cc), so that what is signed can be
  printed on a terminal and two strings that look alike by composition are one string;
* at most 8 levels, 4096 array elements, 256 map keys, 4096 bytes of string; bin is bounded by the message.

Received bytes are primary: store, hash and forward them; re-encoding only proves that they are canonical.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgpack

from quidnunc.crypto.errors import LocalProtocolError, Malformed

MAX_DEPTH = 8
MAX_ARRAY = 4096
MAX_MAP = 256
MAX_STR_BYTES = 4096
MIN_INT = -(2**63)
MAX_INT = 2**64 - 1

Value: TypeAlias = "bool | int | str | bytes | list[Value] | dict[str, Value] | None"
"""What :func:`decode` returns."""

Encodable: TypeAlias = "bool | int | str | bytes | Sequence[Encodable] | Mapping[str, Encodable] | None"
"""What :func:`encode` takes: a :data:`Value`, with tuples for lists where that is handy."""


def encode(value: Encodable) -> bytes:
    """Encode ``value`` canonically; a value outside the profile raises :class:`LocalProtocolError`."""
    try:
        return _pack(_canonical(value, 0))
    except ValueError as error:
        raise LocalProtocolError(f"cannot encode: {error}") from None


def decode(data: bytes, *, max_bytes: int) -> Value:
    """Decode ``data``, the canonical encoding of exactly one value; anything else raises :class:`Malformed`.

    ``encode(decode(data)) == data`` holds for everything that is accepted. No claimed length is believed
    before it was compared with its bound and with the bytes at hand.
    """
    size = len(data)
    if size > max_bytes:
        raise Malformed(f"{size} encoded bytes, limit is {max_bytes}")
    try:
        if size > _SMALL_BYTES:
            # A walk that builds nothing: a claimed length that the bytes do not bear out ends here. Without it
            # 64 kB of nested array headers would have 32 MB of lists made before they are seen to be cut short.
            skipper = msgpack.Unpacker(max_buffer_size=size, read_size=size, strict_map_key=False)
            skipper.feed(data)
            skipper.skip()
        value: Value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=min(size, MAX_STR_BYTES),
            max_bin_len=size,
            max_array_len=min(size, MAX_ARRAY),
            max_map_len=min(size, MAX_MAP),
            max_ext_len=0,
        )
        _check(value, 0)
        same = _pack(value) == data
    # ExtraData, FormatError, StackError and UnicodeDecodeError are all ValueErrors; the others are msgpack's
    # signs of unhashable keys, of lengths that overflow and of deep nesting.
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise Malformed(f"not canonical msgpack: {_say(error)}") from None
    if not same:
        raise Malformed("not canonical msgpack: another encoding of the same value is shorter or sorted")
    return value


_SMALL_BYTES = 512
"""Up to here no claimed length can make more than a megabyte of empty containers."""

_PLAIN = (bytes, int, bool, type(None))
"""What msgpack makes of the types that need no check: integers come in range by themselves."""


def _check(value: object, depth: int) -> None:
    """Check what msgpack made of some bytes against the profile, without a copy: :func:`_canonical` for a decoder."""
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind is str:
        _checked_str(value)  # type: ignore[arg-type]
        return
    if kind is not list and kind is not dict:
        raise _bad(f"{kind.__name__} is not part of the encoding")
    if depth == MAX_DEPTH:
        raise _bad(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, list):
        for element in value:
            if type(element) not in _PLAIN:
                _check(element, depth + 1)
    elif isinstance(value, dict):
        before = ""
        for key, element in value.items():
            if type(key) is not str:
                raise _bad(f"a map key is {type(key).__name__}, must be str")
            # Code point order is the order of UTF-8 bytes; a key that stood there twice is one here and packs shorter.
            if key < before:
                raise _bad("map keys are not sorted")
            before = _checked_str(key)
            if type(element) not in _PLAIN:
                _check(element, depth + 1)


def _pack(value: Value) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def _say(error: Exception) -> str:
    """What was wrong, without quoting the bytes: they may be a secret or escape codes for a terminal."""
    if isinstance(error, UnicodeError):
        return "a string is not UTF-8"
    if type(error) is ValueError and error.args and isinstance(error.args[0], _Why):
        return error.args[0]
    return type(error).__name__


class _Why(str):
    """A reason written in this file, hence safe to repeat."""

    __slots__ = ()


def _bad(why: str) -> ValueError:
    return ValueError(_Why(why))


def _canonical(value: object, depth: int) -> Value:
    """Check ``value`` against the profile and return it with lists for tuples and with sorted maps."""
    if value is None or isinstance(value, bool | bytes):
        return value
    if isinstance(value, int):
        if not MIN_INT <= value <= MAX_INT:
            raise _bad("an integer is outside -2**63 to 2**64-1")
        return int(value)
    if isinstance(value, str):
        return _checked_str(value)
    if depth == MAX_DEPTH:
        raise _bad(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, list | tuple):
        if len(value) > MAX_ARRAY:
            raise _bad(f"{len(value)} array elements, limit is {MAX_ARRAY}")
        return [_canonical(element, depth + 1) for element in value]
    if isinstance(value, Mapping):
        return _sorted_map(value, depth)
    raise _bad(f"{type(value).__name__} is not part of the encoding")


def _sorted_map(value: Mapping[object, object], depth: int) -> dict[str, Value]:
    if len(value) > MAX_MAP:
        raise _bad(f"{len(value)} map keys, limit is {MAX_MAP}")
    keys: list[str] = []
    for key in value:
        if not isinstance(key, str):
            raise _bad(f"a map key is {type(key).__name__}, must be str")
        keys.append(key)
    # Code point order is the order of UTF-8 bytes.
    return {_checked_str(key): _canonical(value[key], depth + 1) for key in sorted(keys)}


def _checked_str(text: str) -> str:
    # An IntEnum or StrEnum must leave as the plain type that a decoder would return.
    text = str(text)
    if len(text) > MAX_STR_BYTES:
        raise _bad(f"a string is {len(text)} characters, limit is {MAX_STR_BYTES} bytes")
    if text.isascii():
        if not text.isprintable():
            raise _bad("a string holds a control character")
        return text
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise _bad("a string holds a lone surrogate") from None
    if size > MAX_STR_BYTES:
        raise _bad(f"a string is {size} bytes, limit is {MAX_STR_BYTES}")
    if not unicodedata.is_normalized("NFC", text):
        raise _bad("a string is not in Unicode normal form C")
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise _bad("a string holds a control character")
    return text
