"""Whether a ledger has ended: nothing may be written behind its retirement. And what others are told of it."""

from __future__ import annotations

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.crypto.errors import LedgerCorrupt, LogRetired
from quidnunc.crypto.token import make_token
from quidnunc.gossip.provenance import parse_record
from quidnunc.gossip.retirement import LogRetire
from quidnunc.peer.ledger.ledger_reader import LedgerReader


def retirement(ledger: LedgerReader) -> LogRetire | None:
    """The record that ends ``ledger``, None while it goes on. It can only be the last entry (I9)."""
    if not ledger.size:
        return None
    entry = ledger.entry(ledger.size - 1)
    if parse_header(entry.header).type != EntryType.LOG_RETIRE:
        return None
    record = parse_record(EntryType.LOG_RETIRE, entry.payload)
    return record if isinstance(record, LogRetire) else None


def require_open(ledger: LedgerReader) -> None:
    """Raise LogRetired, which names the log that goes on, if this one has ended."""
    found = retirement(ledger)
    if found is None:
        return
    heir = "" if found.successor is None else f"; log {found.successor.hex()[:16]} goes on"
    raise LogRetired(
        f"{ledger.path}: this log was retired by its organization with entry {found.last}{heir}",
        hint="run the successor's home, or make one: quidnunc --home DIR init --root-key FILE; nothing is added here",
    )


def entry_notice(ledger: LedgerReader, seq: int) -> bytes:
    """The notice of an entry that the root key signed: its token under the checkpoint that ends with it."""
    note = ledger.checkpoint_at(seq + 1)
    if note is None:
        raise LedgerCorrupt(seq, "no checkpoint ends with it, so that others cannot be told of it")
    return make_token(ledger.entry(seq), ledger.tree().inclusion(seq, seq + 1), note)
