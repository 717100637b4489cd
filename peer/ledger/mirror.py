"""Entries of neighbors' logs, kept for neighbors whose disk has lost them: a database of its own beside the ledger.

Nothing of our own depends on it, and whoever asks for what it holds checks all of it. So it is not synced at every
write, is made anew when it is damaged, and is no part of a backup.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from quidnunc.crypto.entry import Entry
from quidnunc.crypto.errors import LedgerCorrupt, StoreNewer
from quidnunc.crypto.merkle import leaf_hash
from quidnunc.gossip.message import ENTRIES_BYTES, ENTRIES_MAX
from quidnunc.peer.files import PRIVATE_FILE
from quidnunc.peer.ledger.database import CACHE_KIB, translated

log = logging.getLogger("quidnunc.peer")

MIRROR_BYTES = 256 * 1024 * 1024
"""Bytes of one neighbor's entries that are kept; the oldest give way."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS entry (log_id BLOB NOT NULL, seq INTEGER NOT NULL, header BLOB NOT NULL, "
    "payload BLOB NOT NULL, salt BLOB NOT NULL, PRIMARY KEY (log_id, seq)) STRICT, WITHOUT ROWID"
)
MIRROR_VERSION = 0
"""The ``user_version`` of these databases."""
_SIZE = "length(header) + length(payload) + length(salt)"


class MirrorStore:
    """The entries kept of other logs, at ``path``; each log's are without gaps. Any thread may call."""

    def __init__(self, path: Path, connection: sqlite3.Connection, bytes_max: int) -> None:
        self._path = path
        self._connection = connection
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        rows = connection.execute(f"SELECT log_id, sum({_SIZE}) FROM entry GROUP BY log_id")
        self._bytes: dict[bytes, int] = dict(rows.fetchall())

    @classmethod
    def open(cls, path: Path, *, bytes_max: int = MIRROR_BYTES) -> MirrorStore:
        """The mirror at ``path``, made if there is none, and made anew if it is damaged.

        Raises StoreUnwritable, and StoreNewer for one that a later version of this program has made.
        """
        try:
            return cls._open(path, bytes_max)
        except LedgerCorrupt as error:
            log.warning("%s: what was kept for neighbors is damaged and begun anew: %s", path, error.message)
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return cls._open(path, bytes_max)

    @classmethod
    def _open(cls, path: Path, bytes_max: int) -> MirrorStore:
        with translated(path):
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE))
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version > MIRROR_VERSION:
                    raise StoreNewer(
                        f"{path}: what is kept for neighbors is of version {version}, known is {MIRROR_VERSION}",
                        hint="use a newer version of this program",
                    )
                connection.execute("PRAGMA journal_mode=wal")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
                connection.execute(_SCHEMA)
                made = cls(path, connection, bytes_max)
                made._check_gaps()
            except BaseException:
                connection.close()
                raise
        return made

    def _check_gaps(self) -> None:
        rows = self._connection.execute("SELECT count(*), max(seq) - min(seq) + 1 FROM entry GROUP BY log_id")
        if any(count != span for count, span in rows):
            raise LedgerCorrupt(-1, "entries of a mirror are missing")

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def held(self) -> dict[bytes, tuple[int, int, bytes]]:
        """Of each log the first entry kept, the one after the last, and the leaf hash of the last."""
        with self._guarded():
            spans = self._connection.execute("SELECT log_id, min(seq), max(seq) FROM entry GROUP BY log_id").fetchall()
            select = "SELECT header FROM entry WHERE log_id = ? AND seq = ?"
            heads = [self._connection.execute(select, (log_id, last)).fetchone()[0] for log_id, _, last in spans]
        return {
            log_id: (first, last + 1, leaf_hash(head)) for (log_id, first, last), head in zip(spans, heads, strict=True)
        }

    def keep(self, log_id: bytes, first: int, entries: Sequence[Entry]) -> None:
        """Keep ``entries``, which follow those kept before; the oldest give way above the bound."""
        rows = [(log_id, seq, e.header, e.payload, e.salt) for seq, e in enumerate(entries, first)]
        size = sum(len(e.header) + len(e.payload) + len(e.salt) for e in entries)
        with self._guarded():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?)", rows)
                left = self._prune(log_id, self._bytes.get(log_id, 0) + size)
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
            self._bytes[log_id] = left

    def _prune(self, log_id: bytes, size: int) -> int:
        """Drop the oldest entries of a log until the rest is within the bound; returns the bytes that are left."""
        if size <= self._bytes_max:
            return size
        last = None
        rows = self._connection.execute(f"SELECT seq, {_SIZE} FROM entry WHERE log_id = ? ORDER BY seq", (log_id,))
        for seq, each in rows:
            if size <= self._bytes_max:
                break
            last, size = seq, size - each
        self._connection.execute("DELETE FROM entry WHERE log_id = ? AND seq <= ?", (log_id, last))
        return size

    def read(self, log_id: bytes, first: int, last: int) -> list[Entry]:
        """Entries ``first`` up to ``last`` of a log, as many as one message takes; none if the first is gone."""
        found: list[Entry] = []
        size = 0
        select = "SELECT seq, header, payload, salt FROM entry WHERE log_id = ? AND seq >= ? AND seq < ? ORDER BY seq"
        with self._guarded():
            stop = min(last, first + ENTRIES_MAX)
            for seq, header, payload, salt in self._connection.execute(select, (log_id, first, stop)):
                if seq != first + len(found) or size >= ENTRIES_BYTES:
                    break
                found.append(Entry(header, payload, salt))
                size += len(header) + len(payload) + len(salt)
        return found

    def headers(self, log_id: bytes) -> Iterator[bytes]:
        """The headers of a log from its first entry on, read as they are asked for; none if that is gone."""
        select = "SELECT seq, header FROM entry WHERE log_id = ? AND seq >= ? ORDER BY seq LIMIT ?"
        first = 0
        while True:
            with self._guarded():
                rows = self._connection.execute(select, (log_id, first, ENTRIES_MAX)).fetchall()
            if not rows or rows[0][0] != first:
                return
            yield from (header for _, header in rows)
            first += len(rows)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._lock, translated(self._path):
            yield
