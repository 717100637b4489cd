"""Does a ledger make sense? Beyond hashes and signatures: what its entries must say for them all to be true.

The codes are those of docs/wire.md: I4 payloads of known types parse, and the log begins with its own genesis; I9
nothing follows a retirement; I10 every private update names an earlier, unused spend of its own round, and the spent
epsilon never falls or passes the cap; I11 the effective weights of a merge sum to one; I12 own updates are numbered
without gaps, and each begins at the replica where the one before ended; I13 accepted updates of another peer
follow each other without a gap, except where a snapshot stands for what was missed.
"""

from __future__ import annotations

from typing import NamedTuple

from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import RemoteProtocolError
from quidnunc.gossip.federation.genesis import Genesis, parse_genesis
from quidnunc.gossip.jobs import PPB
from quidnunc.gossip.provenance import (
    RECORDS,
    Decision,
    Merge,
    PrivacySpend,
    UpdatePublished,
    UpdateReceived,
    parse_record,
)


class Finding(NamedTuple):
    """One thing that cannot be true: the invariant's code, the entry, and why."""

    code: str
    seq: int
    why: str


class Audit:
    """Reads the entries of the log ``log_id`` in order; :attr:`findings` says what does not hold."""

    def __init__(self, log_id: bytes) -> None:
        self._log_id = log_id
        self.findings: list[Finding] = []
        self.checked = 0
        self._retired = False
        self._number = 0
        self._replica = b""
        self._cumulative_u = 0
        self._unused_spends: dict[int, PrivacySpend] = {}
        self._accepted: dict[bytes, int] = {}
        self._gaps = False
        self._certain: set[bytes] = set()

    def erased(self, seq: int, kind: int) -> None:
        """Entry ``seq`` lost its payload: an accepted update may be missing from what follows."""
        if seq == 0:
            self._find("I4", seq, "its genesis was erased")
        if kind == EntryType.UPDATE_RECEIVED:
            self._gaps = True
            self._certain.clear()

    def read(self, seq: int, kind: int, payload: bytes) -> None:
        """Judge entry ``seq`` by what came before it. Never raises, whatever the payload."""
        if (seq == 0) != (kind == EntryType.GENESIS):
            self._find("I4", seq, "a log begins with its genesis and has no second one")
        if self._retired:
            self._find("I9", seq, "follows a retirement")
        self._retired = self._retired or kind == EntryType.LOG_RETIRE
        if kind != EntryType.GENESIS and kind not in RECORDS:
            return
        self.checked += 1
        try:
            record = parse_genesis(payload) if kind == EntryType.GENESIS else parse_record(kind, payload)
        except RemoteProtocolError as error:
            self._find("I4", seq, f"payload: {error.message}")
            return
        match record:
            case Genesis():
                if record.log_id != self._log_id:
                    self._find("I4", seq, f"is the genesis of log {record.log_id.hex()[:16]}")
            case PrivacySpend():
                self._spend(seq, record)
            case UpdatePublished():
                self._published(seq, record)
            case UpdateReceived(decision=Decision.ACCEPT):
                self._received(seq, record)
            case Merge():
                total = sum(row.effective for row in record.rows)
                if total != PPB:
                    self._find("I11", seq, f"effective weights sum to {total}, must be {PPB}")

    def _spend(self, seq: int, record: PrivacySpend) -> None:
        if record.cumulative_u < self._cumulative_u:
            self._find("I10", seq, f"spent epsilon falls from {self._cumulative_u} to {record.cumulative_u} millionths")
        if record.cumulative_u > record.cap_u:
            self._find("I10", seq, f"spent epsilon {record.cumulative_u} passes the cap {record.cap_u} (millionths)")
        self._cumulative_u = max(self._cumulative_u, record.cumulative_u)
        self._unused_spends[seq] = record

    def _published(self, seq: int, record: UpdatePublished) -> None:
        if record.number != self._number + 1:
            self._find("I12", seq, f"update {record.number} follows update {self._number}")
        if self._number and record.replica_before != self._replica:
            self._find(
                "I12",
                seq,
                f"begins at replica {record.replica_before.hex()[:16]}, "
                f"update {self._number} ended at {self._replica.hex()[:16]}",
            )
        self._number, self._replica = record.number, record.replica_after
        claim = record.privacy
        if claim is None:
            return
        spend = self._unused_spends.pop(claim.spend_seq, None)
        if spend is None or spend.round != record.round:
            self._find("I10", seq, f"names entry {claim.spend_seq}, which is no unused spend of round {record.round}")
        elif claim.cumulative_u < spend.cumulative_u:
            self._find("I10", seq, f"claims epsilon {claim.cumulative_u}, its spend says {spend.cumulative_u}")

    def _received(self, seq: int, record: UpdateReceived) -> None:
        before = self._accepted.get(record.sender, 0)
        follows = record.number >= before if record.snapshot else record.number == before + 1
        # After an erasure the next one of each sender may follow one that nobody can read any more.
        forgiven = self._gaps and record.sender not in self._certain and record.number > before
        if not follows and not forgiven:
            kind = "snapshot" if record.snapshot else "update"
            self._find("I13", seq, f"{kind} {record.number} of {record.sender.hex()[:16]} follows update {before}")
        self._certain.add(record.sender)
        self._accepted[record.sender] = max(before, record.number)

    def _find(self, code: str, seq: int, why: str) -> None:
        self.findings.append(Finding(code, seq, why))
