"""Every release that a ledger says was paid for: an account that is short by one says too little."""

from __future__ import annotations

from typing import NamedTuple

from quidnunc.crypto.entry import EntryType, commit_payload, parse_header
from quidnunc.crypto.errors import LedgerCorrupt, Malformed
from quidnunc.gossip.provenance import PrivacySpend, parse_record
from quidnunc.peer.ledger.ledger_reader import LedgerReader


class Spend(NamedTuple):
    """A release as its ledger has it: entry number, claimed time in ms, and what was committed."""

    seq: int
    t_ms: int
    record: PrivacySpend


def spends(store: LedgerReader) -> list[Spend]:
    """Every release of a ledger, in order.

    Raises LedgerCorrupt where a spend is not what its entry commits to or does not parse, and where a release or any
    entry is missing. It does not check signatures, nor that the newest entries are there: that takes ``ledger verify``.
    """
    missing = store.missing
    if missing:
        raise LedgerCorrupt(-1, f"{missing} of its {store.size} entries are missing: what was spent cannot be told")
    found: list[Spend] = []
    for entry in store.of_type(EntryType.DP_SPEND):
        seq = found[-1].seq if found else -1
        try:
            header = parse_header(entry.header)
            seq = header.seq
            record = parse_record(header.type, entry.payload)
        except Malformed as error:
            raise LedgerCorrupt(seq, f"a spend does not parse: {error.message}") from None
        if not isinstance(record, PrivacySpend) or commit_payload(entry.salt, entry.payload) != header.payload_cmt:
            raise LedgerCorrupt(seq, "a spend that is not what its header commits to")
        if record.release != len(found) + 1:
            due = len(found) + 1
            raise LedgerCorrupt(seq, f"release {record.release} stands where release {due} is due")
        found.append(Spend(seq, header.t_ms, record))
    return found
