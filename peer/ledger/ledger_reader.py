"""Reading a ledger database: beside the daemon that writes it, or on a copy of one."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from quidnunc.crypto.checkpoint import open_checkpoint, origin_of
from quidnunc.crypto.entry import Entry, Header, parse_header
from quidnunc.crypto.errors import (
    LedgerCorrupt,
    LocalProtocolError,
    Malformed,
    QuidnuncError,
    RemoteProtocolError,
    StoreUnwritable,
)
from quidnunc.crypto.log_keys import LogKeys
from quidnunc.crypto.merkle import MAX_SIZE, empty_root
from quidnunc.crypto.tiled import Tiled
from quidnunc.crypto.token import parse_token
from quidnunc.peer.ledger import database
from quidnunc.peer.ledger.database import DatabaseCorrupt, row_seal, translated
from quidnunc.peer.ledger.findings import Layer, Report
from quidnunc.peer.ledger.key_track import CHANGES, KeyTrack
from quidnunc.peer.ledger.ledger_check import check
from quidnunc.peer.ledger.meaning_check import check_meaning

_BATCH = 256

_SELECT = (
    "SELECT seq, header, type, payload, entry.salt, bytes, private.salt "
    "FROM entry LEFT JOIN private USING (seq) WHERE seq >= ? AND seq < ? ORDER BY seq"
)

_Self = TypeVar("_Self", bound="LedgerReader")


class LedgerReader:
    """What is committed in a ledger database, as it stands there: only :meth:`verify` checks it.

    Methods may be called from any thread; one at a time gets through. After LedgerCorrupt or StoreUnwritable
    every call raises it again.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()
        self._dead: QuidnuncError | None = None
        with translated(path):
            self.log_id = self._identity("log_id")
            self.public = self._identity("public")

    def close(self) -> None:
        """Close the database; the last writer folds the WAL into it."""
        with self._lock:
            self._connection.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size(self) -> int:
        """The number of committed entries."""
        with self._guarded():
            return self._size_on_disk()

    @property
    def missing(self) -> int:
        """How many entries below :attr:`size` have no row; none do in a ledger that only its daemon wrote."""
        with self._guarded():
            # In one question: between two of them the daemon may have written.
            rows, last = self._connection.execute("SELECT count(*), max(seq) FROM entry").fetchone()
        return 0 if last is None else int(last) + 1 - int(rows)

    @property
    def keys(self) -> LogKeys:
        """The log keys of all epochs; raises LedgerCorrupt for a change of keys that the root key did not sign."""
        size = self.size
        track = KeyTrack(self.log_id, self.public)
        if not size or not self._has_changed_keys(size):
            return track.keys
        with self._guarded():
            rows = self._connection.execute("SELECT seq FROM entry WHERE type IN (?, ?) ORDER BY seq", CHANGES)
            seqs = [0, *(row[0] for row in rows)]
        for seq in seqs:
            entry = self.entry(seq)
            try:
                track.read(seq, parse_header(entry.header).type, entry.payload)
            except RemoteProtocolError as error:
                raise LedgerCorrupt(seq, error.message) from error
        return track.keys

    def _has_changed_keys(self, size: int) -> bool:
        """Whether any entry changes keys: the newest one knows."""
        try:
            newest = parse_header(self.entry(size - 1).header)
        except Malformed:
            return False
        return newest.key_epoch > 0 or newest.type in CHANGES

    @property
    def root(self) -> bytes:
        """The Merkle root last signed."""
        note = self.checkpoint()
        if note is None:
            return empty_root()
        try:
            return open_checkpoint(note, origin_of(self.log_id), self.keys).root
        except RemoteProtocolError as error:
            raise LedgerCorrupt(self.size - 1, f"its checkpoint does not verify: {error.message}") from error

    def entry(self, seq: int) -> Entry:
        """Entry number ``seq``. Raises LocalProtocolError outside 0 to size - 1."""
        for found in self.entries(seq, seq + 1):
            return found
        raise LocalProtocolError(f"no entry {seq} in a ledger of {self.size}")

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
        """Entries ``start`` up to but not including ``stop`` (default: all there are now), in order."""
        end = self.size if stop is None else min(stop, self.size)
        for first in range(max(0, start), end, _BATCH):
            with self._guarded():
                batch = self._rows(first, min(end, first + _BATCH))
            for _, entry in batch:
                yield entry

    def headers(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[Header, Entry]]:
        """What :meth:`entries` gives, with the parsed headers; raises LedgerCorrupt where one is none."""
        for seq, entry in enumerate(self.entries(start, stop), max(0, start)):
            try:
                yield parse_header(entry.header), entry
            except Malformed as error:
                raise LedgerCorrupt(seq, f"its header does not parse: {error.message}") from error

    def of_type(self, *kinds: int) -> Iterator[Entry]:
        """The entries of these types, in order."""
        marks = ", ".join("?" * len(kinds))
        with self._guarded():
            # By all of them at once: there is no index, each question reads the whole table.
            rows = self._connection.execute(f"SELECT seq FROM entry WHERE type IN ({marks})", kinds)
            found = [row[0] for row in rows]
        for seq in sorted(found):
            yield self.entry(seq)

    def tree(self) -> Tiled:
        """The tree over what is committed now, for proofs: it reads a few hundred rows for each."""
        return Tiled(self.size, self._hashes)

    def _hashes(self, level: int, start: int, stop: int) -> list[bytes]:
        with self._guarded():
            found = database.stored_hashes(self._connection, level, start, stop)
        if len(found) != stop - start:
            what = f"{len(found)} of the hashes {start} to {stop - 1} of level {level} are there"
            raise DatabaseCorrupt(self.path, what)
        return found

    def checkpoint(self) -> bytes | None:
        """The newest signed checkpoint, or None for an empty ledger."""
        with self._guarded():
            row = self._connection.execute("SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1").fetchone()
        return row[0] if row else None

    def checkpoint_at(self, size: int) -> bytes | None:
        """The own checkpoint over ``size`` entries, or None."""
        with self._guarded():
            row = self._connection.execute("SELECT note FROM checkpoint WHERE size = ?", (size,)).fetchone()
        return row[0] if row else None

    def signed_from(self, seq: int) -> int | None:
        """The size of the first own checkpoint over entry ``seq``, or None."""
        with self._guarded():
            found = self._connection.execute("SELECT min(size) FROM checkpoint WHERE size > ?", (seq,)).fetchone()[0]
        return None if found is None else int(found)

    def checkpoints(self) -> Iterator[tuple[int, bytes]]:
        """All own checkpoints as (size, note), by size."""
        last = -1
        while True:
            with self._guarded():
                rows = self._connection.execute(
                    "SELECT size, note FROM checkpoint WHERE size > ? ORDER BY size LIMIT ?", (last, _BATCH)
                ).fetchall()
            if not rows:
                return
            yield from rows
            last = rows[-1][0]

    def token_by_number(self, author: bytes, number: int) -> bytes | None:
        """The token of ``author``'s update ``number``, the first one seen if there were two, or None."""
        with self._guarded():
            row = self._connection.execute(
                "SELECT hash, author, number, body, seal FROM token WHERE author = ? AND number = ? "
                "ORDER BY rowid LIMIT 1",
                (author, number),
            ).fetchone()
            if row is not None and row[4] != row_seal("token", *row[:4]):
                raise DatabaseCorrupt(self.path, f"the token of update {number} of {author.hex()[:16]} is damaged")
        return row[3] if row else None

    def token_by_seq(self, author: bytes, seq: int) -> bytes | None:
        """The token of entry ``seq`` of ``author``'s log, or None; quick for the newest ones."""
        last = 2**63 - 1
        while True:
            with self._guarded():
                found = self._connection.execute(
                    "SELECT max(number) FROM token WHERE author = ? AND number < ?", (author, last)
                ).fetchone()
            token = None if found[0] is None else self.token_by_number(author, found[0])
            if token is None:
                return None
            at = parse_header(parse_token(token).header).seq
            if at <= seq:
                return token if at == seq else None
            last = found[0]

    def proof(self, name: bytes) -> bytes | None:
        """The proof of equivocation, or the notice, with that SHA-256, or None."""
        with self._guarded():
            row = self._connection.execute("SELECT body FROM evidence WHERE hash = ?", (name,)).fetchone()
            if row is not None and hashlib.sha256(row[0]).digest() != name:
                raise DatabaseCorrupt(self.path, f"the proof {name.hex()[:16]} is damaged")
        return row[0] if row else None

    def heads(self) -> dict[bytes, tuple[int, bytes, bytes]]:
        """Other logs as last seen: (size, root, note) by log id."""
        return {log_id: (size, root, note) for log_id, size, root, note in self._sealed("head", "log_id, size, root")}

    def cosignatures(self) -> dict[bytes, tuple[int, bytes]]:
        """The newest cosignature of every witness under an own checkpoint: (size, note) by its log id."""
        return {witness: (size, note) for witness, size, note in self._sealed("cosignature", "witness, size")}

    def _sealed(self, table: str, columns: str) -> list[Any]:
        """All rows of a side table whose last columns are a note and a seal."""
        with self._guarded():
            rows = self._connection.execute(f"SELECT {columns}, note, seal FROM {table}").fetchall()
            for *row, seal in rows:
                if row_seal(table, *row) != seal:
                    raise DatabaseCorrupt(self.path, f"a row of {table} is damaged")
        return [row for *row, _ in rows]

    def get_meta(self, key: str) -> bytes | None:
        """The value kept under ``key``, or None."""
        with self._guarded():
            row = self._connection.execute("SELECT value, seal FROM meta WHERE key = ?", (key,)).fetchone()
            if row is not None and row[1] != row_seal("meta", key, row[0]):
                raise DatabaseCorrupt(self.path, f"meta {key!r} is damaged")
        return row[0] if row else None

    def verify(self, progress: Callable[[int, int], None] | None = None) -> Report:
        """Check every row of every table on a connection of its own, beside a daemon that goes on writing.

        Never stops at the first problem. ``progress`` is called with (entries checked, entries).
        """
        with contextlib.closing(database.open_database(self.path, readonly=True)) as connection:
            return check(connection, self.path, self.log_id, self.public, progress)

    def meaning(self) -> tuple[Layer, ...]:
        """Check what the entries say, and what they name beside themselves, as :meth:`verify` does with the rows."""
        with contextlib.closing(database.open_database(self.path, readonly=True)) as connection:
            return check_meaning(connection, self.path, self.log_id, self.public)

    def backup(self, path: Path) -> None:
        """Copy the ledger, whole and consistent, to a new file, beside a daemon that goes on writing."""
        database.copy(self.path, path)

    def _rows(self, start: int, stop: int) -> list[tuple[int, Entry]]:
        """Rows ``start`` to ``stop`` as (type column, entry), none of them checked but for gaps."""
        rows = self._connection.execute(_SELECT, (start, stop)).fetchall()
        entries = []
        for seq, (found, header, kind, payload, salt, private, private_salt) in enumerate(rows, start):
            if found != seq:
                raise LedgerCorrupt(seq, "is missing")
            entries.append((kind, Entry(header, payload, salt, private or b"", private_salt or b"")))
        if len(entries) < stop - start:
            raise LedgerCorrupt(start + len(entries), "is missing")
        return entries

    def _size_on_disk(self) -> int:
        last = self._connection.execute("SELECT max(seq) FROM entry").fetchone()[0]
        if last is None:
            return 0
        if not 0 <= last < MAX_SIZE:
            raise DatabaseCorrupt(self.path, f"an entry is numbered {last}, the last one possible is {MAX_SIZE - 1}")
        return int(last) + 1

    def _identity(self, key: str) -> bytes:
        value = self.get_meta(key)
        if value is None or len(value) != 32:
            raise DatabaseCorrupt(self.path, f"meta {key!r} is missing")
        return value

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """One caller at a time; SQLite's errors as ours; no way back after an error of the disk."""
        with self._lock:
            if self._dead is not None:
                raise self._dead
            try:
                with translated(self.path):
                    yield
            except (LedgerCorrupt, StoreUnwritable) as error:
                self._dead = error
                raise
