"""Typed values as canonical arrays and back: what a journal holds is read no more loosely than it was declared.

How a value is written follows from its declared type: a dataclass or named tuple as the array of its fields, a map as
its pairs in their order, a set in ascending order, a float as 8 bytes (IEEE 754, big-endian), one of several classes
with its name before its fields. Nothing else of a type can come back.
"""

from __future__ import annotations

import dataclasses
import struct
import types
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from quidnunc.crypto.encoding import Encodable, Value
from quidnunc.crypto.errors import Malformed


class Form(NamedTuple):
    """How values of one type are written and read; ``read`` raises Malformed."""

    write: Callable[[Any], Encodable]
    read: Callable[[Any], Any]


@cache
def form(hint: Any) -> Form:
    """The form of a declared type; raises TypeError for one that has none."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in (bytes, str, bool, int, types.NoneType):
        return _plain(hint)
    if hint is float:
        return Form(lambda value: struct.pack(">d", value), _read_float)
    if origin in (Union, types.UnionType):
        return _union(parts)
    if origin is tuple and len(parts) == 2 and parts[1] is Ellipsis:
        return _many(parts[0], tuple)
    if origin is tuple:
        return _fixed(parts, tuple)
    if origin is list:
        return _many(parts[0], list)
    if origin is set:
        return _many(parts[0], set)
    if origin is dict:
        return _pairs(parts[0], parts[1], dict)
    if origin is Counter:
        return _pairs(parts[0], int, Counter)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enumerated(hint)
    if isinstance(hint, type):
        return _fixed(tuple(_fields(hint).values()), lambda values: hint(*values), of=hint)
    raise TypeError(f"{hint!r} has no form")


def _fields(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        return {each.name: hints[each.name] for each in dataclasses.fields(kind)}
    return {name: hints[name] for name in kind._fields}  # type: ignore[attr-defined]


def _plain(kind: type) -> Form:
    def read(value: Value) -> Value:
        if type(value) is not kind:
            raise Malformed(f"{type(value).__name__} where {kind.__name__} belongs")
        return value

    return Form(kind if kind is int else lambda value: value, read)


def _read_float(value: Value) -> float:
    if type(value) is not bytes or len(value) != 8:
        raise Malformed("a float is not 8 bytes")
    number: float = struct.unpack(">d", value)[0]
    return number


def _enumerated(kind: type[Enum]) -> Form:
    def read(value: Value) -> Enum:
        try:
            return kind(value)
        except ValueError:
            raise Malformed(f"no {kind.__name__} has this value") from None

    return Form(lambda value: value.value, read)


def _list(value: Value) -> list[Value]:
    if type(value) is not list:
        raise Malformed(f"{type(value).__name__} where an array belongs")
    return value


def _many(part: Any, kind: Callable[[list[Any]], Any]) -> Form:
    inner = form(part)

    def write(values: Any) -> Encodable:
        return [inner.write(each) for each in (sorted(values) if kind is set else values)]

    def read(value: Value) -> Any:
        values = kind([inner.read(each) for each in _list(value)])
        if write(values) != value:
            raise Malformed("a set is not sorted")
        return values

    return Form(write, read if kind is set else lambda value: kind([inner.read(each) for each in _list(value)]))


def _fixed(parts: Sequence[Any], make: Callable[[list[Any]], Any], of: type | None = None) -> Form:
    inner = [form(part) for part in parts]
    names = None if of is None else tuple(_fields(of))
    what = "a tuple" if of is None else of.__name__

    def write(value: Any) -> Encodable:
        values = value if names is None else [getattr(value, name) for name in names]
        return [each.write(part) for each, part in zip(inner, values, strict=True)]

    def read(value: Value) -> Any:
        values = _list(value)
        if len(values) != len(inner):
            raise Malformed(f"{what} of {len(values)} fields, must be {len(inner)}")
        return make([each.read(part) for each, part in zip(inner, values, strict=True)])

    return Form(write, read)


def _pairs(key: Any, value: Any, kind: Callable[[list[Any]], Any]) -> Form:
    inner = form(tuple[key, value])

    def read(data: Value) -> Any:
        pairs = [inner.read(each) for each in _list(data)]
        made = kind([]) if kind is Counter else kind(pairs)
        if kind is Counter:
            made.update(dict(pairs))
        if len(made) != len(pairs):
            raise Malformed("a map has a key twice")
        return made

    return Form(lambda values: [inner.write(each) for each in values.items()], read)


def _union(parts: Sequence[Any]) -> Form:
    """One of several classes, its name before its fields; of one class and nil the class alone."""
    kinds = {each.__name__: form(each) for each in parts if each is not types.NoneType}
    empty = len(kinds) < len(parts)
    alone = next(iter(kinds.values())) if len(kinds) == 1 else None

    def write(value: Any) -> Encodable:
        if value is None and empty:
            return None
        if alone is not None:
            return alone.write(value)
        name = type(value).__name__
        fields = kinds[name].write(value)
        assert isinstance(fields, list)
        return [name, *fields]

    def read(value: Value) -> Any:
        if value is None and empty:
            return None
        if alone is not None:
            return alone.read(value)
        named = _list(value)
        if not named or not isinstance(named[0], str) or named[0] not in kinds:
            raise Malformed(f"none of {', '.join(kinds)}"[:200])
        return kinds[named[0]].read(named[1:])

    return Form(write, read)
