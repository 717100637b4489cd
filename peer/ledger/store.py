"""The ledger of one peer on disk: the only thing that makes an entry durable.

:meth:`Store.commit` is the write-ahead step. In one transaction it compares what is on disk with what this
process last committed, inserts, reads the rows back, recomputes the Merkle root from what it read, verifies
the signed checkpoint against that root with our own public key, and commits with a synced WAL. Any difference
is :class:`LedgerCorrupt` and ends the store: a peer that signed something its disk does not hold would fork.

Opening replays every entry the same way, so that the start-up path is the recovery path.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from quidnunc.crypto.checkpoint import open_checkpoint
from quidnunc.crypto.encoding import decode
from quidnunc.crypto.entry import MAX_PAYLOAD_BYTES, Entry, parse_header
from quidnunc.crypto.errors import LedgerCorrupt, LocalProtocolError, Malformed, RemoteProtocolError
from quidnunc.crypto.log import Log
from quidnunc.crypto.log_keys import LogKeys
from quidnunc.crypto.tiles import TILE_HEIGHT
from quidnunc.gossip.erasure import Erasures, erased_by, unexplained
from quidnunc.gossip.provenance import UpdateReceived, parse_record
from quidnunc.peer.ledger import database, tally
from quidnunc.peer.ledger.database import DatabaseCorrupt, row_seal
from quidnunc.peer.ledger.key_track import KeyTrack
from quidnunc.peer.ledger.ledger_reader import LedgerReader
from quidnunc.peer.ledger.start_check import check_checkpoints, check_tokens

META_BYTES_MAX = 1024 * 1024
TAIL_ROWS = 256
"""Newest entries whose payloads are decoded strictly at every start; the others match their commitment."""

ORIGIN = "origin"
LOST, RESTORED = b"lost", b"restored"
"""The key in ``meta`` that says how a ledger without entries came here, and what it says; without it, it is new."""
RESTORED_AT = "restored-at"
"""The key in ``meta`` that says how many entries a ledger had when it came out of a backup."""

_REPLAY_ROWS = 256
_RESERVED = ("log_id", "public")


class Store(LedgerReader):
    """One ledger database, made by :meth:`create` or :meth:`open`, and a mirror of its tree in memory."""

    def __init__(self, path: Path, connection: sqlite3.Connection, *, readonly: bool) -> None:
        super().__init__(path, connection)
        self.readonly = readonly
        self._log = Log(self.log_id)
        self._erasures = Erasures()
        self._tallied = 0
        self._keys = KeyTrack(self.log_id, self.public)

    @classmethod
    def create(cls, path: Path, log_id: bytes, public: bytes, *, lost: bool = False) -> Store:
        """A new, empty ledger for the log ``log_id`` whose checkpoints ``public`` verifies (32 bytes each).

        ``lost`` says in it that the log is not new: it must not begin, only come back from others.

        Raises ConfigError when there is one already, StoreUnwritable when the disk fails.
        """
        if len(log_id) != 32 or len(public) != 32:
            raise LocalProtocolError("a log id and a public key have 32 bytes each")
        origin = {ORIGIN: LOST} if lost else {}
        database.create(path, {"log_id": log_id, "public": public, **origin})
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, readonly: bool = False) -> Store:
        """The ledger at ``path``, after checking all of it against its signed checkpoint unless ``readonly``.

        ``readonly`` reads what is committed beside a daemon that goes on writing. Raises LedgerCorrupt,
        StoreNewer, StoreLocked, StoreUnwritable, or ConfigError when there is no ledger.
        """
        connection = database.open_database(path, readonly=readonly)
        try:
            store = cls(path, connection, readonly=readonly)
            if not readonly:
                with store._guarded():
                    connection.execute(f"PRAGMA cache_size=-{database.CACHE_KIB}")
                    store._recover()
                    store._begin_tally()
        except BaseException:
            connection.close()
            raise
        return store

    @property
    def size(self) -> int:
        """The number of committed entries."""
        if self.readonly:
            return super().size
        with self._guarded():
            return self._log.size

    @property
    def keys(self) -> LogKeys:
        """The log keys of all epochs."""
        return super().keys if self.readonly else self._keys.keys

    @property
    def root(self) -> bytes:
        """The Merkle root over all committed entries; of a read-only store, the one last signed."""
        if self.readonly:
            return super().root
        with self._guarded():
            return self._log.root

    def commit(
        self,
        entries: Sequence[Entry],
        note: bytes,
        tokens: Sequence[tuple[bytes, bytes, int, bytes]] = (),
        proofs: Sequence[bytes] = (),
        cosigned: Sequence[tuple[bytes, int, bytes]] = (),
        earlier: Sequence[tuple[int, bytes]] = (),
    ) -> None:
        """Make ``entries``, the signed checkpoint ``note`` over them, and what comes with them durable, or
        nothing of it.

        ``tokens`` are (SHA-256 of the token, author's log id, update number, token bytes); known ones are
        kept. ``proofs`` are proofs of equivocation and notices, ``cosigned`` are (witness log id, size, note), of which
        the newest of each witness is kept. ``earlier`` are (size, note) of own checkpoints over some of the entries.
        Raises LedgerCorrupt when anything read back differs from what was meant, StoreUnwritable when the disk fails.
        """
        self._check_writable()
        if not entries:
            raise LocalProtocolError("a commit without entries")
        if any(entry.erased for entry in entries) and unexplained(entries, self.size):
            raise LocalProtocolError("a commit of an entry without its payload")
        rows = [_token_row(*token) for token in tokens]
        with self._guarded():
            # Until the end the mirror in memory may be ahead of the disk; whatever happens, even an exception
            # that has nothing to do with the disk, must not let a later call believe it.
            self._dead = LedgerCorrupt(self._log.size, "its commit was interrupted", hint="start the peer again")
            with self._transaction() as connection:
                self._compare()
                start = self._log.size
                self._insert(connection, start, entries)
                self._replay(start, start + len(entries))
                self._check_note(note)
                self._check_earlier(start, earlier)
                connection.executemany("INSERT INTO checkpoint VALUES (?, ?)", earlier)
                nodes = self._new_nodes(start, self._log.size)
                connection.executemany("INSERT INTO node VALUES (?, ?, ?)", nodes)
                connection.execute("INSERT INTO checkpoint VALUES (?, ?)", (self._log.size, note))
                connection.executemany("INSERT OR IGNORE INTO token VALUES (?, ?, ?, ?, ?)", rows)
                named = [(hashlib.sha256(proof).digest(), proof) for proof in proofs]
                connection.executemany("INSERT OR IGNORE INTO evidence VALUES (?, ?)", named)
                sealed = [(*each, row_seal("cosignature", *each)) for each in cosigned]
                connection.executemany("INSERT OR REPLACE INTO cosignature VALUES (?, ?, ?, ?)", sealed)
            self._dead = None

    def erase(self, seqs: Sequence[int]) -> None:
        """Remove payload, salt and private part of the entries ``seqs``, and the tokens they name, from the disk.

        A ``payload.erased`` that names them must be committed before: else the ledger would not open again.
        """
        self._check_writable()
        named = {seq for entry in self.entries() for seq in erased_by(parse_header(entry.header).type, entry.payload)}
        if not set(seqs) <= named:
            raise LocalProtocolError(f"entries {sorted(set(seqs) - named)[:8]}: no entry says that they are erased")
        tokens = [record.token for _, record in self._received(seqs)]
        with self._guarded():
            # Overwrite, do not only unlink, and keep no copy in the WAL.
            self._connection.execute("PRAGMA secure_delete=ON")
            with self._transaction() as connection:
                rows = [(seq,) for seq in seqs]
                connection.executemany("UPDATE entry SET payload = x'', salt = x'' WHERE seq = ?", rows)
                connection.executemany("DELETE FROM private WHERE seq = ?", rows)
                connection.executemany("DELETE FROM token WHERE hash = ?", [(token,) for token in tokens])
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _received(self, seqs: Sequence[int]) -> Iterator[tuple[int, UpdateReceived]]:
        for seq in seqs:
            entry = self.entry(seq)
            kind = parse_header(entry.header).type
            record = None if entry.erased or kind != UpdateReceived.TYPE else parse_record(kind, entry.payload)
            if isinstance(record, UpdateReceived):
                yield seq, record

    def witness(self, log_id: bytes, size: int, root: bytes, note: bytes) -> None:
        """Remember durably that the log ``log_id`` was seen with ``size`` entries and ``root``, under ``note``.

        What was seen before is read again in the same transaction. One log with two roots at one size, or shrinking,
        raises LocalProtocolError and changes nothing: whoever verified it looked at an older state than this.
        """
        self._check_writable()
        row = (log_id, size, root, note)
        with self._guarded(), self._transaction() as connection:
            select = "SELECT log_id, size, root, note, seal FROM head WHERE log_id = ?"
            found = connection.execute(select, (log_id,)).fetchone()
            if found is not None:
                if found[4] != row_seal("head", *found[:4]):
                    raise DatabaseCorrupt(self.path, f"the head of log {log_id.hex()[:16]} is damaged")
                if found[1] > size or (found[1] == size and found[2] != root):
                    seen = f"{found[1]} entries with root {found[2].hex()[:16]}"
                    raise LocalProtocolError(
                        f"log {log_id.hex()[:16]} was seen with {seen}: never again with {size} and {root.hex()[:16]}"
                    )
            connection.execute("INSERT OR REPLACE INTO head VALUES (?, ?, ?, ?, ?)", (*row, row_seal("head", *row)))

    def _new_nodes(self, old: int, new: int) -> Iterator[tuple[int, int, bytes]]:
        """(level, position, hash) of the kept subtrees that the entries ``old`` to ``new`` completed."""
        level = TILE_HEIGHT
        while new >> level:
            for position in range(old >> level, new >> level):
                yield level, position, self._log.subtree(level, position)
            level += TILE_HEIGHT

    def put_meta(self, key: str, value: bytes) -> None:
        """Keep ``value`` (at most META_BYTES_MAX) under ``key``, durably, in place of what was there."""
        self._check_writable()
        if key in _RESERVED or tally.reserved(key) or len(value) > META_BYTES_MAX:
            raise LocalProtocolError(f"meta {key!r} of {len(value)} bytes: reserved, or over {META_BYTES_MAX}")
        with self._guarded(), self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value, row_seal("meta", key, value))
            )

    def _recover(self) -> None:
        problems = database.quick_check(self._connection)
        if problems:
            raise DatabaseCorrupt(self.path, problems[0])
        size = self._size_on_disk()
        tail = max(0, size - TAIL_ROWS)
        for first in range(0, tail, _REPLAY_ROWS):
            self._replay(first, min(tail, first + _REPLAY_ROWS))
        self._replay(tail, size, strict=True)
        if self._erasures.unexplained:
            first = min(self._erasures.unexplained)
            raise LedgerCorrupt(first, "its payload is missing, and no later entry says it was erased")
        row = self._connection.execute("SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1").fetchone()
        if row is None and size == 0:
            return
        if row is None or row[0] != size:
            signed = row[0] if row else 0
            raise LedgerCorrupt(
                min(signed, size), f"the newest checkpoint is of size {signed}, there are {size} entries"
            )
        self._check_note(row[1])
        notes = self._connection.execute("SELECT size, note FROM checkpoint ORDER BY size")
        check_checkpoints(notes, self._log, self.keys, tail)
        check_tokens(self._connection.execute("SELECT hash, author, number, body, seal FROM token"), self.path)
        kept = self._connection.execute("SELECT level, position, hash FROM node ORDER BY level, position")
        if list(kept) != sorted(self._new_nodes(0, size)):
            raise DatabaseCorrupt(self.path, "its stored tree is not that of its entries")

    def _begin_tally(self) -> None:
        """Rows that are missing would be forgotten by the next commit; a ledger without a tally gets one."""
        if not tally.begun(self._connection):
            with self._transaction():
                return
        for lost in tally.lost_small(self._connection):
            raise DatabaseCorrupt(self.path, lost.why)
        self._tallied = self._log.size

    def _replay(self, start: int, stop: int, *, strict: bool = False) -> None:
        """Read rows from disk and add them to the mirror, which checks each against its place."""
        for seq, (kind, entry) in enumerate(self._rows(start, stop), start):
            header = self._log.replay(entry)
            absent = self._erasures.read(seq, header.type, entry)
            if kind != header.type:
                raise LedgerCorrupt(seq, f"its row is of type {kind}, its header of type {header.type}")
            if header.key_epoch != self.keys.epoch_at(seq + 1):
                raise LedgerCorrupt(seq, f"is of key epoch {header.key_epoch}, another key is valid there")
            if not absent:
                try:
                    self._keys.read(seq, header.type, entry.payload)
                except RemoteProtocolError as error:
                    raise LedgerCorrupt(seq, error.message) from error
            if strict and not absent:
                try:
                    decode(entry.payload, max_bytes=MAX_PAYLOAD_BYTES)
                except Malformed as error:
                    raise LedgerCorrupt(seq, f"payload: {error.message}") from error

    def _compare(self) -> None:
        """Compare and swap: what is on disk must be what this process put there last."""
        size = self._size_on_disk()
        signed = self._connection.execute("SELECT max(size) FROM checkpoint").fetchone()[0] or 0
        head = self._rows(size - 1, size)[0][1].leaf if size else self._log.head
        if (size, signed, head) != (self._log.size, self._log.size, self._log.head):
            raise LedgerCorrupt(
                min(size, self._log.size),
                f"the ledger on disk has {size} entries, {signed} signed, and head {head.hex()[:16]}; "
                f"this process left {self._log.size} with head {self._log.head.hex()[:16]}",
                hint="another process wrote to it: stop both and run quidnunc ledger verify",
            )

    @staticmethod
    def _insert(connection: sqlite3.Connection, start: int, entries: Sequence[Entry]) -> None:
        for seq, entry in enumerate(entries, start):
            try:
                kind = parse_header(entry.header).type
            except Malformed as error:
                raise LedgerCorrupt(seq, error.message) from error
            connection.execute(
                "INSERT INTO entry VALUES (?, ?, ?, ?, ?)",
                (seq, entry.header, kind, entry.payload, entry.salt),
            )
            if entry.private or entry.private_salt:
                connection.execute("INSERT INTO private VALUES (?, ?, ?)", (seq, entry.private_salt, entry.private))

    def _check_note(self, note: bytes) -> None:
        try:
            checkpoint = open_checkpoint(note, self._log.origin, self.keys)
        except RemoteProtocolError as error:
            raise LedgerCorrupt(self._log.size - 1, f"its checkpoint does not verify: {error.message}") from error
        if (checkpoint.size, checkpoint.root) != (self._log.size, self._log.root):
            raise LedgerCorrupt(
                self._log.size - 1,
                f"its checkpoint is of size {checkpoint.size} and root {checkpoint.root.hex()[:16]}, "
                f"the entries read back are {self._log.size} with root {self._log.root.hex()[:16]}",
            )

    def _check_earlier(self, start: int, notes: Sequence[tuple[int, bytes]]) -> None:
        for size, note in notes:
            if not start < size < self._log.size:
                raise LocalProtocolError(f"a checkpoint of {size} entries between {start} and {self._log.size}")
            try:
                found = open_checkpoint(note, self._log.origin, self.keys)
            except RemoteProtocolError as error:
                raise LedgerCorrupt(size - 1, f"its checkpoint does not verify: {error.message}") from error
            if (found.size, found.root) != (size, self._log.root_at(size)):
                raise LedgerCorrupt(size - 1, f"its checkpoint is of size {found.size} and another root")

    def _check_writable(self) -> None:
        if self.readonly:
            raise LocalProtocolError(f"{self.path} was opened read-only")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            covered = tally.update(self._connection, self._tallied)
            self._connection.execute("COMMIT")
            self._tallied = covered
        except BaseException:
            # SQLite has rolled back by itself after some errors, and says so here.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise


def _token_row(name: bytes, author: bytes, number: int, body: bytes) -> tuple[bytes, bytes, int, bytes, bytes]:
    if hashlib.sha256(body).digest() != name or len(author) != 32 or not 0 <= number < 2**63:
        raise LocalProtocolError("a token is (SHA-256 of its bytes, 32-byte log id, number, bytes)")
    return name, author, number, body, row_seal("token", name, author, number, body)
