"""Whether a ledger has ended: nothing may be written behind its retirement."""

from __future__ import annotations

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.crypto.errors import LogRetired
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
