"""Which blobs a peer can still need, by its ledger alone: a superset of what its node will ask for when it starts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from quidnunc.crypto.entry import Entry, parse_header
from quidnunc.crypto.errors import Malformed
from quidnunc.gossip.personal import parse_personal
from quidnunc.gossip.provenance import Decision, Merge, UpdatePublished, UpdateReceived, parse_record
from quidnunc.gossip.settings import Settings

KEPT_ROUNDS = 16
"""Own updates back from the newest for which everything that was named is kept: more than merges reach back."""

KEPT_DELTAS = Settings().keep_deltas
"""Newest own deltas, which neighbors may ask for."""


def reachable(entries: Iterable[Entry], genesis: bytes, rounds: int = KEPT_ROUNDS) -> set[bytes]:
    """The blobs named since the last ``rounds`` own updates, the newest own deltas, the newest state of every member,
    and ``genesis``.

    Entries of other types and versions name no blobs that a peer reads.
    """
    newest: dict[bytes, bytes] = {}
    base: bytes | None = None
    deltas: deque[bytes] = deque(maxlen=KEPT_DELTAS)
    recent: deque[set[bytes]] = deque([set()], maxlen=rounds + 1)
    for entry in entries:
        try:
            header = parse_header(entry.header)
            record = parse_record(header.type, entry.payload)
        except Malformed:
            continue
        match record:
            case UpdatePublished():
                recent.append(set())
                newest[b""] = record.replica_after
                deltas.append(record.delta)
                recent[-1] |= {record.base, record.replica_before, record.replica_after}
                if entry.private:
                    recent[-1].add(parse_personal(entry.private))
            case UpdateReceived(decision=Decision.ACCEPT):
                newest[record.sender] = record.replica
                recent[-1] |= {record.replica, record.delta}
            case Merge():
                base = record.result
                recent[-1] |= {record.result, *(row.state for row in record.rows)}
    return set[bytes]().union(*recent, deltas, newest.values(), {genesis}, {base} if base else ())
