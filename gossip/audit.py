"""Does a ledger make sense? Beyond hashes and signatures: what its entries must say for them all to be true.

The codes are those of docs/wire.md: I4 payloads of known types parse, and the log begins with its own genesis; I9
nothing follows a retirement, and the root key signed it; I10 every private update names an earlier, unused spend of its
own round and unit, and the spent epsilon of a unit never falls or passes the cap; I11 the effective weights of a merge
sum to one, and its inputs are own updates and accepted ones; I12 own updates are numbered without gaps, each begins at
the replica where the one before ended, and was trained from the newest merge, the own replica or the charter's params;
I13 accepted updates of another peer follow each other without a gap, except where a snapshot stands for what was
missed; I15 what takes a suspicion back names it; I16 a summary of cosignatures is of other logs, each once, and of
sizes that there were; I22 log keys change by the root key only, epoch by epoch.
"""

from __future__ import annotations

from typing import NamedTuple

from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import RemoteProtocolError
from quidnunc.crypto.log_keys import LogKeys
from quidnunc.gossip.attestation import SuspicionCleared, SuspicionRaised, WitnessSummary
from quidnunc.gossip.federation.genesis import Genesis, parse_genesis
from quidnunc.gossip.jobs import PPB, Unit
from quidnunc.gossip.key_change import KeyRevoke, KeyRotate, follow
from quidnunc.gossip.provenance import (
    RECORDS,
    Decision,
    Merge,
    MergeRow,
    PrivacyClaim,
    PrivacySpend,
    UpdatePublished,
    UpdateReceived,
    parse_record,
)
from quidnunc.gossip.retirement import LogRetire, check_retirement

REPLICAS_KEPT = 64
"""Newest accepted updates of each member among which the inputs of merges are looked for."""


class Finding(NamedTuple):
    """One thing that cannot be true: the invariant's code, the entry, and why."""

    code: str
    seq: int
    why: str


class Audit:
    """Reads the entries of the log ``log_id`` in order; :attr:`findings` says what does not hold.

    ``keys`` are its log keys as the entries read so far leave them, None before a genesis.
    """

    def __init__(self, log_id: bytes) -> None:
        self._log_id = log_id
        self.findings: list[Finding] = []
        self.checked = 0
        self._retired = False
        self._root: bytes | None = None
        self.keys: LogKeys | None = None
        self._number = 0
        self._replica = b""
        self._published_at: int | None = None
        self._initial: bytes | None = None
        self._merged: bytes | None = None
        self._cumulative_u: dict[Unit, int] = {}
        self._unused_spends: dict[int, PrivacySpend] = {}
        self._accepted: dict[bytes, int] = {}
        self._gaps = False
        self._certain: set[bytes] = set()
        self._suspected: dict[bytes, int] = {}
        self._replicas: dict[bytes, dict[int, bytes]] = {}

    def erased(self, seq: int, kind: int) -> None:
        """Entry ``seq`` lost its payload: an accepted update may be missing from what follows."""
        if seq == 0:
            self._find("I4", seq, "its genesis was erased")
        if kind == EntryType.UPDATE_RECEIVED:
            self._gaps = True
            self._certain.clear()

    def read(self, seq: int, kind: int, payload: bytes) -> object:
        """Judge entry ``seq`` by what came before it, and return its record, None without one.

        Never raises, whatever the payload.
        """
        if (seq == 0) != (kind == EntryType.GENESIS):
            self._find("I4", seq, "a log begins with its genesis and has no second one")
        if self._retired:
            self._find("I9", seq, "follows a retirement")
        self._retired = self._retired or kind == EntryType.LOG_RETIRE
        if kind != EntryType.GENESIS and kind not in RECORDS:
            return None
        self.checked += 1
        try:
            record = parse_genesis(payload) if kind == EntryType.GENESIS else parse_record(kind, payload)
        except RemoteProtocolError as error:
            self._find("I4", seq, f"payload: {error.message}")
            return None
        match record:
            case Genesis():
                self._root, self.keys = record.root, LogKeys.of(record.key)
                if record.log_id != self._log_id:
                    self._find("I4", seq, f"is the genesis of log {record.log_id.hex()[:16]}")
            case PrivacySpend():
                self._spend(seq, record)
            case UpdatePublished():
                self._published(seq, record)
            case UpdateReceived(decision=Decision.ACCEPT):
                self._received(seq, record)
            case Merge():
                self._merge(seq, record)
            case WitnessSummary():
                self._summary(seq, record)
            case LogRetire():
                self._retire(seq, record)
            case KeyRotate() | KeyRevoke():
                self._change_keys(seq, record)
            case SuspicionRaised():
                self._suspected[record.who] = seq
            case SuspicionCleared():
                if self._suspected.pop(record.who, None) != record.raised:
                    self._find("I15", seq, f"takes back entry {record.raised}, which is no open suspicion")
        return record

    def _retire(self, seq: int, record: LogRetire) -> None:
        if self._root is None:
            return  # without a genesis nobody is known who could end this log; that is a finding of its own
        try:
            check_retirement(record, self._log_id, seq, self._root)
        except RemoteProtocolError as error:
            self._find("I9", seq, f"retirement: {error.message}")

    def _change_keys(self, seq: int, record: KeyRotate | KeyRevoke) -> None:
        if self._root is None or self.keys is None:
            return
        try:
            self.keys = follow(self.keys, record, self._log_id, seq, self._root)
        except RemoteProtocolError as error:
            self._find("I22", seq, error.message)

    def _summary(self, seq: int, record: WitnessSummary) -> None:
        witnesses = [row.witness for row in record.rows]
        if witnesses != sorted(set(witnesses)) or self._log_id in witnesses:
            self._find("I16", seq, "summary: its witnesses do not ascend, or the log is among them")
        if any(row.size > seq for row in record.rows):
            self._find("I16", seq, "summary: cosignatures of more entries than there were")

    def _merge(self, seq: int, record: Merge) -> None:
        total = sum(row.effective for row in record.rows)
        if total != PPB:
            self._find("I11", seq, f"effective weights sum to {total}, must be {PPB}")
        for row in record.rows:
            if not self._is_known(row):
                who = "this log" if row.log_id in (None, self._log_id) else row.log_id.hex()[:16]
                self._find("I11", seq, f"merges {row.state.hex()[:16]}, which no accepted update of {who} led to")
        self._merged = record.result

    def _is_known(self, row: MergeRow) -> bool:
        """Whether an input is an own update or an accepted one; of those long gone nothing can be said."""
        if row.seq is None:
            return self._initial in (None, row.state)
        if row.log_id is None or row.log_id == self._log_id:
            return (row.seq, row.state) == (self._published_at, self._replica)
        known = self._replicas.get(row.log_id, {})
        evicted = len(known) == REPLICAS_KEPT and row.seq < min(known)
        return evicted or known.get(row.seq) == row.state

    def _spend(self, seq: int, record: PrivacySpend) -> None:
        before = self._cumulative_u.get(record.unit, 0)
        if record.cumulative_u < before:
            self._find("I10", seq, f"spent epsilon falls from {before} to {record.cumulative_u} millionths")
        if record.cumulative_u > record.cap_u:
            self._find("I10", seq, f"spent epsilon {record.cumulative_u} passes the cap {record.cap_u} (millionths)")
        self._cumulative_u[record.unit] = max(before, record.cumulative_u)
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
        if self._initial is None:
            self._initial = record.replica_before
        if record.base not in (self._merged, self._replica, record.replica_before, self._initial):
            self._find("I12", seq, f"was trained from {record.base.hex()[:16]}, which nothing in this log led to")
        self._number, self._replica, self._published_at = record.number, record.replica_after, seq
        claim = record.privacy
        if claim is None:
            return
        spend = self._unused_spends.pop(claim.spend_seq, None)
        if spend is None or spend.round != record.round:
            self._find("I10", seq, f"names entry {claim.spend_seq}, which is no unused spend of round {record.round}")
        elif claim.unit != spend.unit:
            units = claim.unit.label, spend.unit.label
            self._find("I10", seq, f"claims privacy of unit {units[0]}, its spend is of unit {units[1]}")
        elif (claim.noise_u, *_pairs(claim)) != (spend.noise_u, *_pairs(spend)) and claim.unit == Unit.SUM:
            self._find("I10", seq, "claims other noise, members or colluders than its spend")
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
        known = self._replicas.setdefault(record.sender, {})
        known[record.seq] = record.replica
        if len(known) > REPLICAS_KEPT:
            del known[min(known)]

    def _find(self, code: str, seq: int, why: str) -> None:
        self.findings.append(Finding(code, seq, why))


def _pairs(record: PrivacyClaim | PrivacySpend) -> tuple[int, int, int]:
    return record.pair_u, record.members, record.colluders
