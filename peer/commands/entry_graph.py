"""``ledger log --graph``: who published what, and what a merge read, as lanes beside the lines.

One lane for the own log and one for each member that the lines speak of::

    *              an update with training in it (o: a heartbeat), own or taken in
    x              an update or a message that was refused
    M-<-+-<        a merge that read the members whose lanes have a <
    !  ?           a proof against a member, a suspicion of it
    .              anything else that this log wrote
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quidnunc.crypto.entry import Entry, parse_header
from quidnunc.crypto.errors import Malformed
from quidnunc.gossip.attestation import SuspicionRaised
from quidnunc.gossip.provenance import (
    Decision,
    EquivocationProof,
    Merge,
    MessageRefused,
    UpdatePublished,
    UpdateReceived,
)
from quidnunc.peer.commands.entry_view import record_of, who


def graph(own: bytes, entries: Sequence[Entry], names: Mapping[bytes, str]) -> tuple[list[str], list[str]]:
    """The names of the lanes, one a line, and the lanes beside every entry, all of one width."""
    records = [_record(entry) for entry in entries]
    others = {log_id for record in records for log_id in _involved(record)} - {own}
    lanes = [own, *sorted(others, key=lambda log_id: (who(log_id, names), log_id))]
    heads = [f"{'| ' * at}{who(log_id, names)}" for at, log_id in enumerate(lanes)]
    return heads, [_lanes(own, lanes, record) for record in records]


def _record(entry: Entry) -> object:
    try:
        return record_of(parse_header(entry.header).type, entry.payload)
    except Malformed:
        return None


def _involved(record: object) -> set[bytes]:
    match record:
        case Merge(rows=rows):
            return {row.log_id for row in rows if row.log_id is not None and row.effective}
        case UpdateReceived(sender=log_id) | EquivocationProof(who=log_id) | SuspicionRaised(who=log_id):
            return {log_id}
        case MessageRefused(sender=sender) if sender is not None:
            return {sender}
    return set()


def _lanes(own: bytes, lanes: Sequence[bytes], record: object) -> str:
    involved = _involved(record)
    if isinstance(record, Merge):
        last = max((at for at, log_id in enumerate(lanes) if log_id in involved), default=0)
        drawn = ["<" if log_id in involved else "+" if at < last else "|" for at, log_id in enumerate(lanes)]
        drawn[0] = "M"
        return "".join(f"{mark}{'-' if at < last else ' '}" for at, mark in enumerate(drawn))
    mark = _mark(record)
    at = involved or {own}
    return "".join(f"{mark if log_id in at else '|'} " for log_id in lanes)


def _mark(record: object) -> str:
    match record:
        case UpdatePublished(steps=steps):
            return "*" if steps else "o"
        case UpdateReceived(decision=decision):
            return "*" if decision == Decision.ACCEPT else "x"
        case MessageRefused():
            return "x"
        case EquivocationProof():
            return "!"
        case SuspicionRaised():
            return "?"
    return "."
