"""``quidnunc ledger fsck --repair-derived``: what follows from entries and checkpoints is written anew.

Derived are the stored subtrees (``node``), the ``type`` column of an entry, the tokens of own updates and the indexes
of SQLite. Entries, private parts, checkpoints, evidence, tokens of others, heads, cosignatures and meta values are not:
if one of them is damaged nothing here can know what it was, and a backup is the remedy. Nothing is repaired beneath
entries that are not those that were signed: a tree computed from them would make the damage look whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from quidnunc.crypto.entry import Entry, EntryType, parse_header
from quidnunc.crypto.errors import LedgerCorrupt, RemoteProtocolError
from quidnunc.crypto.merkle import leaf_hash
from quidnunc.crypto.tiled import Frontier, Tiled
from quidnunc.crypto.token import make_token, parse_token
from quidnunc.gossip.provenance import UpdatePublished, parse_record
from quidnunc.peer.ledger.database import Connection, open_database, row_seal, stored_hashes, translated
from quidnunc.peer.ledger.findings import Problem, Report

_INDEX = re.compile(r"(row \d+ missing from index|wrong # of entries in index) \S+")
_ENTRIES = frozenset({"I1", "I2", "I3", "I4", "I5", "I7", "I8", "I18", "I20"})
"""Invariants of entries and checkpoints themselves."""


@dataclass(frozen=True, slots=True)
class Derived:
    """Rows that are not what they must be: subtrees as (level, position), entries with a wrong type, own updates
    without their token as (seq, number), and whether an index of SQLite is."""

    nodes: tuple[tuple[int, int], ...]
    types: tuple[int, ...]
    tokens: tuple[tuple[int, int], ...]
    indexes: bool

    def __bool__(self) -> bool:
        return bool(self.nodes or self.types or self.tokens or self.indexes)


def in_the_way(report: Report) -> Problem | None:
    """The first finding that forbids any repair: entries or checkpoints are not what was signed, or pages are lost."""
    for layer in report.layers:
        for problem in layer.problems:
            if problem.code in _ENTRIES:
                return problem
            if layer.name == "database" and not _INDEX.fullmatch(problem.why):
                return problem
    return None


def damaged(path: Path, report: Report) -> Derived:
    """What of the derived rows of the ledger at ``path`` is to be written anew; ``report`` has nothing in the way."""
    with contextlib.closing(open_database(path, readonly=True)) as connection, translated(path):
        return _damaged(connection, report)


def _damaged(connection: Connection, report: Report) -> Derived:
    wanted = dict(_subtrees(connection))
    found = {(level, position): node for level, position, node in connection.execute("SELECT * FROM node")}
    nodes = {key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)}
    rows = connection.execute("SELECT seq, header, type FROM entry ORDER BY seq")
    types = tuple(seq for seq, header, kind in rows if parse_header(header).type != kind)
    indexes = any(_INDEX.fullmatch(problem.why) for problem in report.layer("database").problems)
    kept = _own_tokens(connection, report.log_id)
    tokens = tuple((seq, number) for seq, header, number in _updates(connection) if kept.get(number) != header)
    return Derived(tuple(sorted(nodes)), types, tokens, indexes)


def repair(path: Path, log_id: bytes, derived: Derived) -> None:
    """Write ``derived`` anew in the ledger at ``path``, all or nothing; nobody else may use it.

    Raises LedgerCorrupt, StoreLocked or StoreUnwritable, and has changed nothing then.
    """
    with contextlib.closing(open_database(path)) as connection, translated(path):
        # What is not committed is rolled back when the connection closes.
        connection.execute("BEGIN IMMEDIATE")
        _repair(connection, log_id, derived)
        connection.execute("COMMIT")


def _repair(connection: Connection, log_id: bytes, derived: Derived) -> None:
    if derived.indexes:
        connection.execute("REINDEX")
    if derived.nodes:
        connection.execute("DELETE FROM node")
        rows = ((level, position, node) for (level, position), node in _subtrees(connection))
        connection.executemany("INSERT INTO node VALUES (?, ?, ?)", rows)
    for seq in derived.types:
        header = connection.execute("SELECT header FROM entry WHERE seq = ?", (seq,)).fetchone()[0]
        connection.execute("UPDATE entry SET type = ? WHERE seq = ?", (parse_header(header).type, seq))
    for seq, number in derived.tokens:
        row = (log_id, number, token := _token(connection, seq))
        connection.execute("DELETE FROM token WHERE author = ? AND number = ?", (log_id, number))
        name = hashlib.sha256(token).digest()
        seal = row_seal("token", name, *row)
        connection.execute("INSERT OR REPLACE INTO token VALUES (?, ?, ?, ?, ?)", (name, *row, seal))


def _subtrees(connection: Connection) -> Iterator[tuple[tuple[int, int], bytes]]:
    """((level, position), hash) of every subtree that is kept, from the entries."""
    tree = Frontier()
    for (header,) in connection.execute("SELECT header FROM entry ORDER BY seq"):
        for level, node in tree.append(leaf_hash(header)):
            yield (level, (tree.size >> level) - 1), node


def _updates(connection: Connection) -> list[tuple[int, bytes, int]]:
    """(seq, header, number) of every own update."""
    found = []
    # By the header and not by the column, which may be what is damaged.
    for seq, header, payload in connection.execute("SELECT seq, header, payload FROM entry ORDER BY seq"):
        if parse_header(header).type != EntryType.UPDATE_PUBLISHED or not payload:
            continue
        record = parse_record(EntryType.UPDATE_PUBLISHED, payload)
        if isinstance(record, UpdatePublished):
            found.append((seq, header, record.number))
    return found


def _own_tokens(connection: Connection, log_id: bytes) -> dict[int, bytes | None]:
    """By number of an own update the header in the token that came first, None where that is not as it was written.

    Read from the table itself: an index that lacks a row must not make the token look lost.
    """
    found: dict[int, bytes | None] = {}
    where = "FROM token NOT INDEXED WHERE author = ? ORDER BY rowid"
    for *row, seal in connection.execute(f"SELECT hash, author, number, body, seal {where}", (log_id,)):
        name, _, number, body = row
        whole = row_seal("token", *row) == seal and hashlib.sha256(body).digest() == name
        found.setdefault(number, _header_of(body) if whole else None)
    return found


def _header_of(token: bytes) -> bytes | None:
    try:
        return parse_token(token).header
    except RemoteProtocolError:
        return None


def _token(connection: Connection, seq: int) -> bytes:
    """The token of the own update at ``seq`` under the checkpoint that it was committed with: the one that went out."""
    row = connection.execute("SELECT header, payload, salt FROM entry WHERE seq = ?", (seq,)).fetchone()
    over = "SELECT size, note FROM checkpoint WHERE size > ? ORDER BY size"
    signed = connection.execute(over, (seq,)).fetchone()
    if row is None or signed is None:
        raise LedgerCorrupt(seq, "no checkpoint covers this update: its token cannot be made again")
    size, note = signed
    return make_token(Entry(*row), Tiled(size, partial(stored_hashes, connection)).inclusion(seq), note)
