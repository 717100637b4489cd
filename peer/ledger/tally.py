"""Which rows a ledger database must have, where no entry says so: a row that is gone is named as well as a changed one.

Entries, private parts, tokens and proofs are named by entries or follow each other without a gap. Checkpoints, heads
of other logs, cosignatures and meta values are not. So two kinds of rows in ``meta`` are kept in step with them, by
every transaction: for each 256 sizes which of them have a checkpoint, as a bitmap, and for the small tables key and
seal of every row, shortened. Like a seal this finds damage, not intent: whoever changes a ledger on purpose changes
these too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from quidnunc.peer.ledger.database import row_seal, sound

ROWS = "rows"
BLOCK = "checkpoints/"
BLOCK_SIZES = 256

_SMALL = {"head": "log_id", "cosignature": "witness", "meta": "key"}
_SHOWN = 8
_IN_BLOCKS = (BLOCK, BLOCK[:-1] + chr(ord(BLOCK[-1]) + 1))
_BESIDE_BLOCKS = "WHERE key < ? UNION ALL SELECT key, seal FROM meta WHERE key >= ?"


class Lost(NamedTuple):
    """A row that is missing or too much: the invariant it breaks, the checkpoint's size or -1, and which one."""

    code: str
    seq: int
    why: str


def reserved(key: str) -> bool:
    """Whether a meta key belongs to the tally."""
    return key == ROWS or key.startswith(BLOCK)


def begun(connection: sqlite3.Connection) -> bool:
    """Whether this ledger has a tally; those of the first release got none."""
    return connection.execute("SELECT 1 FROM meta WHERE key = ?", (ROWS,)).fetchone() is not None


def update(connection: sqlite3.Connection, after: int) -> int:
    """Bring the tally up to date within a transaction, given that it covers checkpoints up to size ``after``.

    Returns the size of the newest checkpoint.
    """
    sizes = [row[0] for row in connection.execute("SELECT size FROM checkpoint WHERE size > ? ORDER BY size", (after,))]
    for block, group in groupby(sizes, lambda size: size // BLOCK_SIZES):
        key = f"{BLOCK}{block:016x}"
        found = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        bits = int.from_bytes(found[0], "big") if found else 0
        for size in group:
            bits |= 1 << size % BLOCK_SIZES
        _put(connection, key, bits.to_bytes(BLOCK_SIZES // 8, "big"))
    rows = "\n".join(_fingerprints(connection)).encode()
    found = connection.execute("SELECT value FROM meta WHERE key = ?", (ROWS,)).fetchone()
    if found is None or found[0] != rows:
        _put(connection, ROWS, rows)
    return sizes[-1] if sizes else after


def lost_small(connection: sqlite3.Connection) -> Iterator[Lost]:
    """Rows of heads, cosignatures and meta that are missing, or that nothing put there."""
    found = next(sound(connection.execute("SELECT value FROM meta WHERE key = ?", (ROWS,)), bytes), None)
    if found is None:
        yield Lost("I15", -1, f"meta {ROWS!r}: missing, it says which rows there are")
        return
    told, there = set(found[0].decode("utf-8", "replace").split("\n")), set(_fingerprints(connection))
    for each in sorted(told - there):
        yield Lost("I15", -1, f"{_name(each)}: missing, or an older one stands in its place")
    for each in sorted(there - told):
        yield Lost("I15", -1, f"{_name(each)}: is not the row that was put there last")


def lost_checkpoints(connection: sqlite3.Connection) -> Iterator[Lost]:
    """Checkpoints that were signed and are missing, and such that nothing put there."""
    where = "SELECT key, value FROM meta WHERE key >= ? AND key < ?"
    blocks = sound(connection.execute(where, _IN_BLOCKS), str, bytes)
    told = {key: int.from_bytes(value, "big") for key, value in blocks}
    rows = connection.execute("SELECT size FROM checkpoint WHERE size >= 0 ORDER BY size")
    sizes = (row[0] for row in sound(rows, int))
    for block, group in groupby(sizes, lambda size: size // BLOCK_SIZES):
        there = list(group)
        bits = told.pop(f"{BLOCK}{block:016x}", None)
        if bits is None:
            yield Lost("I18", there[0], f"meta '{BLOCK}{block:016x}': missing, it says which checkpoints there are")
        else:
            yield from _differences(block, bits, sum(1 << size % BLOCK_SIZES for size in there))
    for key, bits in told.items():
        try:
            yield from _differences(int(key.removeprefix(BLOCK), 16), bits, 0)
        except ValueError:
            yield Lost("I15", -1, f"meta {key!a}: says nothing of any checkpoint")


def _differences(block: int, told: int, there: int) -> Iterator[Lost]:
    for at in range(max(told.bit_length(), there.bit_length())):
        size = block * BLOCK_SIZES + at
        if told >> at & 1 > there >> at & 1:
            yield Lost("I18", size, "checkpoint: was signed over so many entries, and is missing")
        elif told >> at & 1 < there >> at & 1:
            yield Lost("I18", size, "checkpoint: none was signed over so many entries")


def _put(connection: sqlite3.Connection, key: str, value: bytes) -> None:
    row = (key, value, row_seal("meta", key, value))
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", row)


def _fingerprints(connection: sqlite3.Connection) -> list[str]:
    """Table, beginning of the key and beginning of the seal of every row of the small tables, sorted."""
    found: list[str] = []
    for table, column in _SMALL.items():
        # There is a block for every 256 entries: they are not read through with every commit.
        where, values = (_BESIDE_BLOCKS, _IN_BLOCKS) if table == "meta" else ("", ())
        rows = connection.execute(f"SELECT {column}, seal FROM {table} {where}", values)
        found += [f"{table} {_text(key)} {_text(seal)}" for key, seal in rows if key != ROWS]
    return sorted(found)


def _text(value: object) -> str:
    """A key as it is shown elsewhere: the beginning of a hash in hex, or a word."""
    return value[:_SHOWN].hex() if isinstance(value, bytes) else ascii(value)[1:-1][:64]


def _name(fingerprint: str) -> str:
    table, _, rest = fingerprint.partition(" ")
    key = rest.rpartition(" ")[0]
    return f"meta '{key}'" if table == "meta" else f"{table} {key}"
