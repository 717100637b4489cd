"""What ``quidnunc ledger verify`` does: every row of a ledger database, layer by layer, never a bare "OK".

Each problem carries the number of the invariant it breaks (see docs/wire.md): I1 gap-free, I2 linked, I3 time, I4
canonical, I5 payload as committed, I7 checkpoints, I8 nothing unsigned, I15 what is kept beside, I18 no checkpoint is
missing, I19 derived columns, I20 limits, I22 key epochs. One damaged byte can break several; the first problem of the
chain layer names the entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from quidnunc.crypto.encoding import decode
from quidnunc.crypto.entry import (
    MAX_PAYLOAD_BYTES,
    SALT_BYTES,
    ZERO_HASH,
    Entry,
    EntryType,
    Header,
    commit_payload,
    commit_private,
    parse_header,
)
from quidnunc.crypto.errors import Malformed, RemoteProtocolError
from quidnunc.crypto.merkle import MAX_SIZE, leaf_hash
from quidnunc.gossip.erasure import Erasures
from quidnunc.gossip.provenance import LogRecover, parse_record
from quidnunc.peer.ledger.database import WITHHELD, integrity_check, oversized, row_seal, sound
from quidnunc.peer.ledger.findings import LAYERS, Layer, Report
from quidnunc.peer.ledger.key_track import CHANGES, KeyTrack
from quidnunc.peer.ledger.tally import lost_checkpoints, lost_small
from quidnunc.peer.ledger.tree_check import TreeCheck

_EVERY = 1024

_SEALED: dict[str, dict[str, type]] = {
    "token": {"hash": bytes, "author": bytes, "number": int, "body": bytes},
    "head": {"log_id": bytes, "size": int, "root": bytes, "note": bytes},
    "cosignature": {"witness": bytes, "size": int, "note": bytes},
    "meta": {"key": str, "value": bytes},
}
"""The columns under the seal of each table that has one."""

Blob = bytes | None


def check(
    connection: sqlite3.Connection,
    path: Path,
    log_id: bytes,
    public: bytes,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check the ledger behind ``connection`` in one read transaction. Problems are reported, never raised."""
    checker = _Checker(connection, log_id, public, progress)
    try:
        connection.execute("BEGIN")
        checker.database()
        checker.entries()
        checker.orphans()
        checker.side_tables()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        checker.layers["database"].report("I6", -1, f"{path}: {error}")
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_TOOBIG:
            checker.too_large()
    return checker.result()


class _Checker:
    def __init__(
        self,
        connection: sqlite3.Connection,
        log_id: bytes,
        public: bytes,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._connection = connection
        self._log_id = log_id
        self._keys = KeyTrack(log_id, public)
        self._progress = progress
        self._head = ZERO_HASH
        self._last_t_ms = 0
        self._without_private: list[int] = []
        self._withheld = False
        self._erasures = Erasures()
        self.layers = {name: Layer(name) for name in LAYERS}
        self._tree = TreeCheck(log_id, self._keys, self.layers["merkle"], self.layers["own signatures"])

    def result(self) -> Report:
        checkpoints = self.layers["own signatures"].checked
        return Report(self._log_id, self._tree.size, self._tree.root, checkpoints, tuple(self.layers.values()))

    def too_large(self) -> None:
        """Name the rows at which reading ended, because SQLite makes no room for so much."""
        for table, seq, size in oversized(self._connection):
            self.layers["payloads"].report("I20", seq, f"{table}: {size} bytes; what comes after it was not read")

    def database(self) -> None:
        layer = self.layers["database"]
        layer.checked = self._connection.execute("PRAGMA page_count").fetchone()[0]
        for problem in integrity_check(self._connection):
            layer.report("I6", -1, problem)
        found = self._connection.execute("SELECT 1 FROM meta WHERE key = ?", (WITHHELD,))
        self._withheld = found.fetchone() is not None

    def entries(self) -> None:
        """Every entry and, as the tree grows, every checkpoint over it: the tree itself is never held."""
        rows = self._connection.execute("SELECT size, note FROM checkpoint ORDER BY size")
        self._tree.begin(sound(rows, int, bytes))
        total = self._connection.execute("SELECT count(*) FROM entry").fetchone()[0]
        rows = self._connection.execute(
            "SELECT seq, header, type, payload, entry.salt, bytes, private.salt FROM entry "
            "LEFT JOIN private USING (seq) ORDER BY seq"
        )
        expected = erased = 0
        for done, row in enumerate(sound(rows, int, bytes, int, bytes, bytes, Blob, Blob)):
            seq, header, kind, payload, salt, private, private_salt = row
            if self._progress is not None and done % _EVERY == 0:
                self._progress(done, total)
            if not 0 <= seq < MAX_SIZE:
                self.layers["chain"].report("I1", -1, f"a row is numbered {seq}, entries are from 0 on")
                continue
            if seq != expected:
                self.layers["chain"].report("I1", expected, f"missing: the next row is {seq}")
            expected = seq + 1
            erased += not payload and not salt
            parsed = self._header(seq, header)
            if parsed is not None:
                self._place(seq, parsed, kind)
            entry = Entry(header, payload, salt, private or b"", private_salt or b"")
            if parsed is None or not self._erasures.read(seq, parsed.type, entry):
                if parsed is not None:
                    self._payload(seq, parsed, payload, salt)
                self._content(seq, payload, private, private_salt)
                if parsed is not None and parsed.type == EntryType.LOG_RECOVER:
                    self._recovered(payload)
                if parsed is not None and (seq == 0 or parsed.type in CHANGES):
                    self._follow_keys(seq, parsed, payload)
            self._head = leaf_hash(header)
            self._tree.append(self._head, self._stored)
        self._tree.rest()
        for seq in self._without_private:
            self.layers["payloads"].report("I5", seq, "private: missing, the payload names one (pv)")
        self._tree.end(lambda: int(self._connection.execute("SELECT count(*) FROM node").fetchone()[0]))
        for seq in sorted(self._erasures.unexplained):
            self.layers["payloads"].report("I5", seq, "payload: missing, and no later entry says it was erased")
        if erased:
            self.layers["payloads"].note = f"{erased} erased, {erased - len(self._erasures.unexplained)} by an entry"
        changes = ", ".join(str(span.first) for span in self._keys.keys.spans[1:])
        if changes:
            told = f"{len(self._keys.keys.spans)} key epochs, new keys from the sizes {changes} on"
            self.layers["own signatures"].note = told
        if self._progress is not None:
            self._progress(total, total)

    def _header(self, seq: int, header: bytes) -> Header | None:
        layer = self.layers["canonical"]
        layer.checked += 1
        try:
            return parse_header(header)
        except Malformed as error:
            layer.report("I4", seq, f"header: {error.message}")
            return None

    def _place(self, seq: int, header: Header, kind: int) -> None:
        layer = self.layers["chain"]
        layer.checked += 1
        previous = self._head
        if header.log_id != self._log_id:
            layer.report("I4", seq, f"header: belongs to log {header.log_id.hex()[:16]}")
        if header.seq != seq:
            layer.report("I1", seq, f"header: calls itself entry {header.seq}")
        if header.prev != previous:
            found = header.prev.hex()[:16]
            layer.report(
                "I2",
                seq,
                f"header: follows {found}, entry {seq - 1} is {previous.hex()[:16]}: one was changed",
            )
        if header.t_ms < self._last_t_ms:
            layer.report("I3", seq, f"header: of {header.t_ms} ms, the entry before of {self._last_t_ms} ms")
        valid = self._keys.keys.epoch_at(seq + 1)
        if header.key_epoch != valid:
            layer.report("I22", seq, f"header: of key epoch {header.key_epoch}, that of the key valid here is {valid}")
        if header.type != kind:
            layer.report("I19", seq, f"type: {kind}, the header says {header.type}")
        self._last_t_ms = max(self._last_t_ms, header.t_ms)

    def _payload(self, seq: int, header: Header, payload: bytes, salt: bytes) -> None:
        layer = self.layers["payloads"]
        layer.checked += 1
        if len(payload) > MAX_PAYLOAD_BYTES:
            layer.report("I20", seq, f"payload: {len(payload)} bytes, limit is {MAX_PAYLOAD_BYTES}")
        elif len(payload) != header.payload_len:
            layer.report("I5", seq, f"payload: {len(payload)} bytes, the header says {header.payload_len}")
        elif len(salt) != SALT_BYTES:
            layer.report("I5", seq, f"salt: {len(salt)} bytes, must be {SALT_BYTES}")
        elif commit_payload(salt, payload) != header.payload_cmt:
            layer.report("I5", seq, "payload or salt: not what the header commits to")

    def _content(self, seq: int, payload: bytes, private: bytes | None, private_salt: bytes | None) -> None:
        try:
            value = decode(payload, max_bytes=MAX_PAYLOAD_BYTES)
        except Malformed as error:
            self.layers["canonical"].report("I4", seq, f"payload: {error.message}")
            return
        named = value.get("pv") if isinstance(value, dict) else None
        if private is None or private_salt is None:
            if named is not None and not self._withheld:
                self._without_private.append(seq)
        elif named is None:
            self.layers["payloads"].report("I5", seq, "private: the payload names none (pv)")
        elif len(private_salt) != SALT_BYTES or commit_private(private_salt, private) != named:
            self.layers["payloads"].report("I5", seq, "private or its salt: not what the payload commits to (pv)")

    def _recovered(self, payload: bytes) -> None:
        """Entries that came back from neighbors lack their private parts: nobody else had them."""
        try:
            record = parse_record(EntryType.LOG_RECOVER, payload)
        except Malformed as error:
            self.layers["payloads"].report("I5", self._tree.size, f"log.recover: {error.message}")
            return
        if isinstance(record, LogRecover):
            self._without_private = [seq for seq in self._without_private if not record.had <= seq < record.to]

    def _follow_keys(self, seq: int, header: Header, payload: bytes) -> None:
        """What is wrong with a change of keys is told by the audit of meanings: here it changes nothing."""
        with contextlib.suppress(RemoteProtocolError):
            self._keys.read(seq, header.type, payload)

    def _stored(self, level: int, position: int) -> bytes | None:
        row = self._connection.execute(
            "SELECT hash FROM node WHERE level = ? AND position = ?", (level, position)
        ).fetchone()
        return None if row is None else row[0] or b""

    def orphans(self) -> None:
        rows = self._connection.execute("SELECT seq FROM private WHERE seq NOT IN (SELECT seq FROM entry)")
        for (seq,) in rows:
            self.layers["payloads"].report("I5", seq, "private: belongs to no entry")

    def side_tables(self) -> None:
        layer = self.layers["side tables"]
        for lost in (*lost_small(self._connection), *lost_checkpoints(self._connection)):
            layer.report(*lost)
        for name, body in sound(self._connection.execute("SELECT hash, body FROM evidence"), bytes, bytes):
            layer.checked += 1
            if hashlib.sha256(body).digest() != name:
                layer.report("I15", -1, f"evidence {name.hex()[:16]}: not what was written")
        for table, kinds in _SEALED.items():
            rows = self._connection.execute(f"SELECT {', '.join(kinds)}, seal FROM {table}")
            for *row, seal in sound(rows, *kinds.values(), bytes):
                layer.checked += 1
                if row_seal(table, *row) != seal:
                    key = repr(row[0]) if isinstance(row[0], str) else row[0].hex()[:16]
                    layer.report("I15", -1, f"{table} {key}: not what was written")
