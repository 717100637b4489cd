"""A run for TensorBoard: one event file of scalars per seed, written without TensorBoard or protobuf.

A file is a row of records: length u64le, its checksum, an ``Event`` message, its checksum. Checksums are CRC-32C
(RFC 3720), masked as TensorFlow's records have them. Of ``Event`` are used ``wall_time`` (1), ``step`` (2),
``file_version`` (3) and ``summary`` (5), whose values have a tag (1) and a float (2). The wall time is the round, so
that the same run gives the same bytes.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from quidnunc.crypto.errors import StoreUnwritable
from quidnunc.sim.scenarios.columns import COLUMNS
from quidnunc.sim.scenarios.stored import Record, StoredRun

DIRECTORY = "tensorboard"
FILE = "events.out.tfevents.0.quidnunc"
_POLYNOMIAL = 0x82F63B78
_MASK = 0xA282EAD8


def _table() -> tuple[int, ...]:
    made = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        made.append(value)
    return tuple(made)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, reflected) of ``data``."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def event_file(records: Sequence[Record]) -> bytes:
    """The scalars of one seed, by round, as an event file."""
    first = records[0].round if records else 0
    made = [_record(_event(first, 0, _field(3, b"brain.Event:2")))]
    for record in records:
        values = [(name, getattr(record, name)) for name in SCALARS]
        summary = b"".join(_field(1, _value(name, value)) for name, value in values if value is not None)
        made.append(_record(_event(record.round, record.round, _field(5, summary))))
    return b"".join(made)


SCALARS = ("train_loss", "accuracy_best", *(name for name, _, _ in COLUMNS))
"""The columns that are shown, those without a value in a run left out."""


def write_events(run: StoredRun) -> Path:
    """Write ``tensorboard/seed-N/`` into the run's directory; returns that of all seeds. Raises StoreUnwritable."""
    top = run.path / DIRECTORY
    try:
        for seed in dict.fromkeys(record.seed for record in run.records):
            place = top / f"seed-{seed}"
            place.mkdir(parents=True, exist_ok=True)
            new = place / f".{FILE}.new"
            new.write_bytes(event_file([record for record in run.records if record.seed == seed]))
            os.replace(new, place / FILE)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise StoreUnwritable(f"{top}: cannot be written: {why}", hint="is the run directory yours?") from None
    return top


def _event(time: int, step: int, rest: bytes) -> bytes:
    numbered = b"\x10" + _varint(step) if step else b""
    return b"\x09" + struct.pack("<d", time) + numbered + rest


def _value(tag: str, value: float) -> bytes:
    try:
        number = struct.pack("<f", value)
    except OverflowError:  # a distance that exploded: more than a float32 holds
        number = struct.pack("<f", math.copysign(math.inf, value))
    return _field(1, tag.encode()) + b"\x15" + number


def _field(number: int, data: bytes) -> bytes:
    """A field of bytes, behind its number and length."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return b"".join((length, _checksum(length), data, _checksum(data)))


def _checksum(data: bytes) -> bytes:
    value = crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + _MASK) & 0xFFFFFFFF)
