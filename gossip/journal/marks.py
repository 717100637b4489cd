"""Short marks of effects, so that a journal can tell whether a node did the same again, and what not.

One byte for the kind and 8 of a hash over everything in it. Left out are the words of a report, which may quote what
is not kept, and the bytes of a body.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Iterable, Iterator

from quidnunc.gossip import events
from quidnunc.gossip.events import Commit, Effect, Report, StoreBlob

MARK_BYTES = 9
KINDS: tuple[type[Effect], ...] = (
    events.Commit,
    events.Witness,
    events.Mirror,
    events.Supply,
    events.Compare,
    events.Rebuild,
    events.StoreBlob,
    events.Forget,
    events.Send,
    events.SetTimer,
    events.Run,
    events.Rest,
    events.Refuse,
    events.Report,
)
"""Places in here stand in journals: kinds are only ever added, at the end."""


def marks(effects: Iterable[Effect]) -> bytes:
    """The marks of ``effects``, in order."""
    return b"".join(bytes([KINDS.index(type(each))]) + _digest(each) for each in effects)


def leaves(effects: Iterable[Effect]) -> bytes:
    """The leaf hashes of all entries that ``effects`` commit."""
    return b"".join(entry.leaf for each in effects if isinstance(each, Commit) for entry in each.entries)


def split(found: bytes) -> list[bytes]:
    """The single marks among ``found``."""
    return [found[at : at + MARK_BYTES] for at in range(0, len(found), MARK_BYTES)]


def name(mark: bytes) -> str:
    """The kind of effect that ``mark`` is of, in words of this program."""
    return KINDS[mark[0]].__name__ if mark[0] < len(KINDS) else f"kind {mark[0]}"


def _digest(effect: Effect) -> bytes:
    value: object = effect
    if isinstance(effect, StoreBlob):
        value = len(effect.data)
    elif isinstance(effect, Report):
        value = effect.kind
    return hashlib.sha256(b"".join(_flat(value))).digest()[: MARK_BYTES - 1]


def _flat(value: object) -> Iterator[bytes]:
    """All that is in a value, each part behind its type and length."""
    if isinstance(value, bytes):
        yield b"b%d:" % len(value)
        yield value
    elif isinstance(value, float):
        yield b"f" + struct.pack(">d", value)
    elif value is None or isinstance(value, int):
        yield b"n" if value is None else b"i%d:" % value
    elif isinstance(value, str):
        data = value.encode()
        yield b"s%d:" % len(data)
        yield data
    elif isinstance(value, tuple | list):
        yield b"t%d:" % len(value)
        for each in value:
            yield from _flat(each)
    elif dataclasses.is_dataclass(value):
        yield b"d"
        yield from _flat(type(value).__name__)
        for field in dataclasses.fields(value):
            if field.compare:
                yield from _flat(getattr(value, field.name))
    else:
        raise TypeError(f"an effect holds a {type(value).__name__}")
