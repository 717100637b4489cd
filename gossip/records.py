"""Strict typed maps: how dataclasses become canonical payload bytes and back.

A record class lists its keys once, as ``FIELDS``: payload key -> (attribute, :class:`Kind`). Unknown keys, missing keys
and values outside their kind are refused, so that a new key forces a new version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.errors import Malformed

PAYLOAD_BYTES_MAX = 65_535
_UINT_MAX = 2**64 - 1


class Kind(NamedTuple):
    """How one value is checked when it comes in (``parse``) and written when it goes out (``write``).

    A key whose value is ``absent`` is left out, and must be: there is one spelling for everything.
    """

    parse: Callable[[str, Any], Any]
    write: Callable[[Any], Any]
    absent: Any = None


Fields = Mapping[str, tuple[str, Kind]]


def _same(value: Any) -> Any:
    return value


def _fail(key: str, what: str) -> Malformed:
    return Malformed(f"payload key {key!r}: {what}")


def _uint(key: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _UINT_MAX:
        raise _fail(key, "expected an unsigned integer")
    return value


def _boolean(key: str, value: Any) -> bool:
    if type(value) is not bool:
        raise _fail(key, "expected a boolean")
    return value


def _fixed(length: int) -> Callable[[str, Any], bytes]:
    def parse(key: str, value: Any) -> bytes:
        if type(value) is not bytes or len(value) != length:
            raise _fail(key, f"expected {length} bytes")
        return value

    return parse


def _text(limit: int) -> Callable[[str, Any], str]:
    def parse(key: str, value: Any) -> str:
        if type(value) is not str or len(value) > limit:
            raise _fail(key, f"expected a string of at most {limit} characters")
        return value

    return parse


UINT = Kind(_uint, _same)
BOOL = Kind(_boolean, _same)
HASH = Kind(_fixed(32), _same)
COSIGNATURE = Kind(_fixed(72), _same)
SIGNATURE = Kind(_fixed(64), _same)
WORD = Kind(_text(64), _same)


def optional(kind: Kind) -> Kind:
    """The same kind, or nil for None."""

    def parse(key: str, value: Any) -> Any:
        return None if value is None else kind.parse(key, value)

    def write(value: Any) -> Any:
        return None if value is None else kind.write(value)

    return Kind(parse, write)


def usually(kind: Kind, value: Any) -> Kind:
    """The same kind for a key that is left out where it would be ``value``: how a version adds a key to a record."""
    return kind._replace(absent=value)


def listing(kind: Kind, limit: int = 4096) -> Kind:
    """A list of at most ``limit`` values of one kind, as a tuple."""

    def parse(key: str, value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > limit:
            raise _fail(key, f"expected a list of at most {limit}")
        return tuple(_each((kind,) * len(value), key, value))

    def write(value: Any) -> Any:
        return [kind.write(item) for item in value]

    return Kind(parse, write)


def _each(kinds: Sequence[Kind], key: str, values: list[Any]) -> list[Any]:
    """Every value by its kind. Places are named only where one is wrong: most of the time went into their names."""
    try:
        return [kind.parse(key, item) for kind, item in zip(kinds, values, strict=True)]
    except Malformed:
        return [kind.parse(f"{key}[{at}]", item) for at, (kind, item) in enumerate(zip(kinds, values, strict=True))]


def row(make: Callable[..., Any], *kinds: Kind) -> Kind:
    """A fixed-length list written from and parsed into the named tuple ``make``."""

    def parse(key: str, value: Any) -> Any:
        if type(value) is not list or len(value) != len(kinds):
            raise _fail(key, f"expected a list of {len(kinds)}")
        return make(*_each(kinds, key, value))

    def write(value: Any) -> Any:
        return [kind.write(item) for kind, item in zip(kinds, value, strict=True)]

    return Kind(parse, write)


def record(make: Callable[..., Any], fields: Fields) -> Kind:
    """A map with exactly the keys of ``fields``, written from and parsed into ``make``."""

    def parse(key: str, value: Any) -> Any:
        return parse_map(make, fields, value, key)

    def write(value: Any) -> Any:
        return write_map(fields, value)

    return Kind(parse, write)


def write_map(fields: Fields, value: Any) -> dict[str, Any]:
    """The canonical map of a record object."""
    whole = {key: (kind, getattr(value, attribute)) for key, (attribute, kind) in fields.items()}
    return {key: kind.write(it) for key, (kind, it) in whole.items() if kind.absent is None or it != kind.absent}


def parse_map(make: Callable[..., Any], fields: Fields, value: Any, where: str = "payload") -> Any:
    """A record object from an already decoded map; raises Malformed for any unknown, missing or wrong key."""
    if type(value) is not dict:
        raise _fail(where, "expected a map")
    missing = {key for key in fields.keys() - value.keys() if fields[key][1].absent is None}
    if missing or value.keys() - fields.keys():
        odd = sorted(key[:16] for key in missing | (value.keys() - fields.keys()))
        raise _fail(where, f"unknown or missing keys {odd[:4]}")
    made = {}
    for key, (attribute, kind) in fields.items():
        made[attribute] = kind.parse(key, value[key]) if key in value else kind.absent
        if key in value and kind.absent is not None and made[attribute] == kind.absent:
            raise _fail(key, f"must be left out where it is {kind.absent}")
    return make(**made)


def write_payload(fields: Fields, value: Any) -> bytes:
    """Canonical payload bytes of a record object."""
    return encode(write_map(fields, value))


def parse_payload(make: Callable[..., Any], fields: Fields, payload: bytes) -> Any:
    """A record object from payload bytes; raises Malformed."""
    return parse_map(make, fields, decode(payload, max_bytes=PAYLOAD_BYTES_MAX))
