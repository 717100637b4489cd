"""Whether the entries of a ledger can all be true, and whether what they name beside the ledger is kept.

The rows themselves are :mod:`quidnunc.peer.ledger.ledger_check`'s affair. Here every entry is read once: by itself and
after those before it (:class:`~quidnunc.gossip.audit.Audit`), against the tokens and proofs that it names (I15, I18),
and for what it claims of contributions (I21). Tokens of others are taken as what the own, signed entry says of them:
their signatures were verified when they came in.
"""

from __future__ import annotations

import hashlib
import sqlite3
from functools import partial
from pathlib import Path

from quidnunc.crypto.checkpoint import open_checkpoint, origin_of, parse_checkpoint
from quidnunc.crypto.entry import Entry, EntryType, open_entry
from quidnunc.crypto.errors import LedgerCorrupt, LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.merkle import MAX_SIZE, leaf_hash, verify_inclusion
from quidnunc.crypto.note import parse_note
from quidnunc.crypto.tiled import Tiled
from quidnunc.crypto.token import TokenParts, parse_token
from quidnunc.gossip.audit import Audit
from quidnunc.gossip.claims import ClaimAudit, believable
from quidnunc.gossip.provenance import (
    Decision,
    EquivocationProof,
    LogRecover,
    MemberNotice,
    UpdatePublished,
    UpdateReceived,
    parse_record,
)
from quidnunc.peer.ledger.database import row_seal, sound, stored_hashes
from quidnunc.peer.ledger.findings import Layer


def check_meaning(
    connection: sqlite3.Connection, path: Path, log_id: bytes, public: bytes
) -> tuple[Layer, Layer, Layer]:
    """The layers ``meaning``, ``evidence`` and ``claims``, in one read transaction. Problems are never raised."""
    checker = _Checker(connection, log_id, public)
    try:
        connection.execute("BEGIN")
        checker.entries()
        checker.last_leaf()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        checker.meaning.report("I6", -1, f"{path}: {error}")
    return checker.result()


class _Checker:
    def __init__(self, connection: sqlite3.Connection, log_id: bytes, public: bytes) -> None:
        self._connection = connection
        self._log_id = log_id
        self._public = public
        self._audit = Audit(log_id)
        self._claims = ClaimAudit(log_id)
        self._evidence = Layer("evidence")
        self._missing: list[tuple[int, str, str]] = []
        self.meaning = Layer("meaning")

    def result(self) -> tuple[Layer, Layer, Layer]:
        for seq, code, why in self._missing:
            self._evidence.report(code, seq, why)
        claims = Layer("claims", self._claims.checked)
        self.meaning.checked = self._audit.checked
        for layer, findings in ((self.meaning, self._audit.findings), (claims, self._claims.findings)):
            for finding in findings:
                layer.report(*finding)
        return self.meaning, self._evidence, claims

    def entries(self) -> None:
        rows = self._connection.execute(
            "SELECT seq, header, type, payload, salt FROM entry WHERE seq >= 0 ORDER BY seq"
        )
        for seq, header, kind, payload, salt in sound(rows, int, bytes, int, bytes, bytes):
            if Entry(header, payload, salt).erased:
                self._audit.erased(seq, kind)
                self._claims.read(seq, None)
                continue
            record = self._audit.read(seq, kind, payload)
            match record:
                case UpdatePublished():
                    self._published(seq, record, leaf_hash(header))
                case UpdateReceived():
                    self._received(seq, record)
                case EquivocationProof():
                    self._kept_beside(seq, "proof", record.proof)
                case MemberNotice():
                    self._kept_beside(seq, "notice", record.token)
                case LogRecover():
                    # Neighbors give entries back, not what was kept beside them; own tokens are made anew.
                    self._missing = [each for each in self._missing if not record.had <= each[0] < record.to]
            self._claims.read(seq, record)

    def _published(self, seq: int, record: UpdatePublished, leaf: bytes) -> None:
        """The token that went out with an own update: it is kept, of this entry, under a checkpoint that is kept."""
        self._evidence.checked += 1
        parts = self._token("author = ? AND number = ?", self._log_id, record.number)
        if parts is None:
            self._missing.append((seq, "I15", f"the token of update {record.number} is not kept, or damaged"))
        elif leaf_hash(parts.header) != leaf:
            self._evidence.report("I15", seq, f"the token of update {record.number} is of another entry")
        elif not self._is_kept(parts.note):
            self._missing.append((seq, "I18", f"the token of update {record.number} has a checkpoint that is not kept"))

    def _received(self, seq: int, record: UpdateReceived) -> None:
        """The token that an acceptance, or a refusal for equivocation, names."""
        accepted = record.decision == Decision.ACCEPT
        if not accepted and Reason.EQUIVOCATION not in record.reasons:
            return
        self._evidence.checked += 1
        parts = self._token("hash = ?", record.token)
        if parts is None:
            self._missing.append(
                (seq, "I15", f"the token it names, {record.token.hex()[:16]}, is not kept, or damaged")
            )
        elif leaf_hash(parts.header) != record.leaf:
            self._evidence.report("I15", seq, f"the token it names, {record.token.hex()[:16]}, is of another update")
        elif accepted:
            self._take_claim(seq, record, parts)

    def _take_claim(self, seq: int, record: UpdateReceived, parts: TokenParts) -> None:
        try:
            header = open_entry(Entry(parts.header, parts.payload, parts.salt))
            update = parse_record(EntryType.UPDATE_PUBLISHED, parts.payload)
        except RemoteProtocolError as error:
            self._evidence.report("I15", seq, f"the token it names: {error.message}")
            return
        if isinstance(update, UpdatePublished):
            said = believable(update.claims, header.log_id, update.steps)
            self._claims.received(record.sender, header.seq, said)

    def _kept_beside(self, seq: int, what: str, name: bytes) -> None:
        self._evidence.checked += 1
        rows = self._connection.execute("SELECT body FROM evidence WHERE hash = ?", (name,))
        body = next(sound(rows, bytes), None)
        if body is None or hashlib.sha256(body[0]).digest() != name:
            self._missing.append((seq, "I15", f"the {what} it names, {name.hex()[:16]}, is not kept, or damaged"))

    def last_leaf(self) -> None:
        """The proof that the last entry stands under the newest checkpoint, made as for a stranger."""
        last = self._connection.execute("SELECT seq, header FROM entry ORDER BY seq DESC LIMIT 1")
        newest = self._connection.execute("SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1")
        entry, signed = next(sound(last, int, bytes), None), next(sound(newest, bytes), None)
        if entry is None or signed is None:
            return
        seq, header = entry
        if not 0 <= seq < MAX_SIZE:
            return
        self._evidence.checked += 1
        try:
            checkpoint = open_checkpoint(signed[0], origin_of(self._log_id), self._audit.keys or self._public)
            tree = Tiled(seq + 1, partial(stored_hashes, self._connection))
            path = tree.inclusion(seq)
            verify_inclusion(leaf_hash(header), seq, checkpoint.size, path, checkpoint.root)
        except (RemoteProtocolError, LocalProtocolError, LedgerCorrupt) as error:
            self._evidence.report("I17", seq, f"it cannot be proven to be the last leaf of the signed tree: {error}")

    def _token(self, where: str, *values: bytes | int) -> TokenParts | None:
        """The parts of a token that is as it was written, else None."""
        columns = "hash, author, number, body, seal"
        rows = self._connection.execute(f"SELECT {columns} FROM token WHERE {where} ORDER BY rowid", values)
        found = next(sound(rows, bytes, bytes, int, bytes, bytes), None)
        if found is None:
            return None
        *row, seal = found
        try:
            parts = parse_token(row[3])
        except Malformed:
            return None
        return parts if row_seal("token", *row) == seal and hashlib.sha256(row[3]).digest() == row[0] else None

    def _is_kept(self, note: bytes) -> bool:
        try:
            size = parse_checkpoint(parse_note(note).text).size
        except RemoteProtocolError:
            return False
        kept = self._connection.execute("SELECT note FROM checkpoint WHERE size = ?", (size,)).fetchone()
        return kept is not None and bool(kept[0] == note)
