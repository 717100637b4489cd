"""What ``ledger status`` and ``verify`` tell besides the own log: whom it exposes, and how old its vouching is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.crypto.errors import Malformed
from quidnunc.crypto.suspicion import SuspicionKind
from quidnunc.gossip.attestation import SuspicionCleared, SuspicionRaised
from quidnunc.gossip.provenance import EquivocationProof
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.entry_view import record_of, who
from quidnunc.peer.commands.ledger_witness import Witnessed
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import Styled


class Judged(NamedTuple):
    """The other logs that a ledger holds a proof against, and those it suspects and has not cleared, a row for each."""

    exposed: list[dict[str, Any]]
    suspected: list[dict[str, Any]]

    @property
    def lines(self) -> list[Styled]:
        """One line for each of them."""
        found = [
            Styled(
                f"EXPOSED   {row['name']}: signed two histories (entry {row['entry']}, proof {row['proof'][:16]})",
                "bad",
            )
            for row in self.exposed
        ]
        return found + [
            Styled(f"SUSPECTED {row['name']}: {row['kind']}, since entry {row['entry']}", "warn")
            for row in self.suspected
        ]


def judged(store: Store, names: Mapping[bytes, str]) -> Judged:
    """Read it from the entries; raises LedgerCorrupt where these cannot be read."""
    exposed, suspected = dict[bytes, dict[str, Any]](), dict[bytes, dict[str, Any]]()
    kinds = (EntryType.EQUIVOCATION_PROOF, EntryType.SUSPICION, EntryType.SUSPICION_CLEARED)
    for entry in store.of_type(*kinds):
        try:
            header = parse_header(entry.header)
        except Malformed:
            continue
        seq = header.seq
        match record_of(header.type, entry.payload):
            case EquivocationProof(who=log_id, proof=proof):
                row = {"log_id": log_id.hex(), "name": who(log_id, names), "entry": seq, "proof": proof.hex()}
                exposed.setdefault(log_id, row)
            case SuspicionRaised(who=log_id, kind=code):
                label = SuspicionKind(code).label if code in set(SuspicionKind) else str(code)
                suspected[log_id] = {"log_id": log_id.hex(), "name": who(log_id, names), "entry": seq, "kind": label}
            case SuspicionCleared(who=log_id):
                suspected.pop(log_id, None)
    return Judged(list(exposed.values()), [row for log_id, row in suspected.items() if log_id not in exposed])


def vouched_at(vouched: Witnessed) -> int | None:
    """The second at which the last cosignature came that the quorum needed, None without a quorum."""
    times = sorted(each.time for each in vouched.counted if each.size >= vouched.size)
    return times[vouched.quorum - 1] if vouched.size and 0 < vouched.quorum <= len(times) else None


def vouching(vouched: Witnessed) -> dict[str, Any]:
    """Up to which size a quorum vouches, since when, and how many seconds ago that is by this machine's clock."""
    at = vouched_at(vouched)
    told = {"witnessed_size": vouched.size, "witnessed_at": None if at is None else when(at * 1000)}
    return told | {"witnessed_age_s": None if at is None else max(0, int(time.time()) - at)}


def age(seconds: int) -> str:
    """``42 s``, ``7 min``, ``3 h`` or ``12 days``."""
    for limit, unit, word in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // unit} {word}"
    return f"{seconds // 86_400} days"
