"""Strict, typed reading of decoded maps: exactly the keys that are expected, each of exactly its type."""

from __future__ import annotations

from collections.abc import Iterable

from quidnunc.crypto.encoding import Value
from quidnunc.crypto.errors import Malformed

_SHOWN = 32


class Fields:
    """One map of a message, charter or card whose key set is fixed; every violation raises Malformed.

    ``what`` names the map in errors, for example ``charter.rounds``. Ranges are for the caller to judge: what
    is checked here is that a value is an integer (and not a boolean), a text, bytes of a length and so on.
    """

    __slots__ = ("_map", "_what")

    def __init__(self, value: Value, what: str, keys: Iterable[str]) -> None:
        if not isinstance(value, dict):
            raise Malformed(f"{what} is {_kind(value)}, must be a map")
        expected = frozenset(keys)
        for key in sorted(value.keys() - expected):
            raise Malformed(f"{what} has the unknown key {key[:_SHOWN]!r}")
        for key in sorted(expected - value.keys()):
            raise Malformed(f"{what} lacks the key {key!r}")
        self._map = value
        self._what = what

    def integer(self, key: str) -> int:
        """An integer of any size; ``True`` is not one."""
        value = self._map[key]
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, "an integer")
        return value

    def text(self, key: str, limit: int) -> str:
        """A text of at most ``limit`` UTF-8 bytes."""
        return checked_text(self._map[key], f"{self._what}.{key}", limit)

    def data(self, key: str, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        value = self.blob(key, size)
        if len(value) != size:
            raise Malformed(f"{self._what}.{key} is {len(value)} bytes, must be {size}")
        return value

    def blob(self, key: str, limit: int) -> bytes:
        """At most ``limit`` bytes."""
        value = self._map[key]
        if not isinstance(value, bytes):
            raise self._wrong(key, "bytes")
        if len(value) > limit:
            raise Malformed(f"{self._what}.{key} is {len(value)} bytes, limit is {limit}")
        return value

    def document(self, key: str, limit: int) -> str:
        """A text of several lines: at most ``limit`` bytes that are UTF-8."""
        try:
            return self.blob(key, limit).decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed(f"{self._what}.{key} is not UTF-8") from None

    def nothing(self, key: str) -> None:
        """Nil, and nothing else: a place kept for later."""
        if self._map[key] is not None:
            raise self._wrong(key, "nil")

    def items(self, key: str, limit: int) -> list[Value]:
        """An array of at most ``limit`` values."""
        value = self._map[key]
        if not isinstance(value, list):
            raise self._wrong(key, "an array")
        if len(value) > limit:
            raise Malformed(f"{self._what}.{key} has {len(value)} elements, limit is {limit}")
        return value

    def texts(self, key: str, limit: int, each: int) -> tuple[str, ...]:
        """An array of at most ``limit`` texts of at most ``each`` UTF-8 bytes."""
        items = self.items(key, limit)
        return tuple(checked_text(item, f"{self._what}.{key}[{i}]", each) for i, item in enumerate(items))

    def inner(self, key: str, keys: Iterable[str]) -> Fields:
        """The map under ``key``, to be read just as strictly."""
        return Fields(self._map[key], f"{self._what}.{key}", keys)

    def open_map(self, key: str, limit: int) -> dict[str, Value]:
        """A map whose keys are not fixed, of at most ``limit`` keys."""
        value = self._map[key]
        if not isinstance(value, dict):
            raise self._wrong(key, "a map")
        if len(value) > limit:
            raise Malformed(f"{self._what}.{key} has {len(value)} keys, limit is {limit}")
        return value

    def _wrong(self, key: str, expected: str) -> Malformed:
        return Malformed(f"{self._what}.{key} is {_kind(self._map[key])}, must be {expected}")


def checked_text(value: Value, what: str, limit: int) -> str:
    """``value`` if it is a text of at most ``limit`` UTF-8 bytes; else Malformed, naming ``what``."""
    if not isinstance(value, str):
        raise Malformed(f"{what} is {_kind(value)}, must be a text")
    size = len(value.encode("utf-8"))
    if size > limit:
        raise Malformed(f"{what} is {size} bytes, limit is {limit}")
    return value


def _kind(value: Value) -> str:
    names = {
        type(None): "nil",
        bool: "a boolean",
        int: "an integer",
        str: "a text",
        bytes: "bytes",
        list: "an array",
    }
    return names.get(type(value), "a map")
