"""Ledger entries with meaning: the typed payload of every entry type this version writes.

``docs/wire.md`` lists the keys. Reals are scaled integers: ``_u`` is 1e-6, weights are parts per billion (ppb).
Public keys of a payload are readable by every member; what would teach an attacker (standings, distances, losses)
goes into the private part of an entry, behind the salted commitment ``pv``.
"""

from __future__ import annotations

from typing import Any

from quidnunc.crypto.errors import Malformed
from quidnunc.gossip.attestation import SuspicionCleared, SuspicionRaised, WitnessSummary
from quidnunc.gossip.key_change import KeyRevoke, KeyRotate
from quidnunc.gossip.provenance.judgments import (
    STANDING_LABELS,
    EquivocationProof,
    Merge,
    MergeRow,
    ReputationChange,
    parse_standings,
    standing_code,
    write_standings,
)
from quidnunc.gossip.provenance.life import (
    CharterAdopt,
    LogRecover,
    MemberNotice,
    NodeStart,
    PayloadErased,
    RecoveredFrom,
    Recovery,
)
from quidnunc.gossip.provenance.privacy import Mechanism, NoiseSource, PrivacyClaim, PrivacyExhausted, PrivacySpend
from quidnunc.gossip.provenance.updates import (
    CLAIM_ROWS_MAX,
    ContributionClaim,
    Decision,
    MessageRefused,
    MetricRow,
    UpdatePublished,
    UpdateReceived,
    reason_labels,
)
from quidnunc.gossip.records import parse_payload, write_payload
from quidnunc.gossip.retirement import LogRetire

__all__ = [
    "CLAIM_ROWS_MAX",
    "RECORDS",
    "STANDING_LABELS",
    "CharterAdopt",
    "ContributionClaim",
    "Decision",
    "EquivocationProof",
    "LogRecover",
    "Mechanism",
    "MemberNotice",
    "Merge",
    "MergeRow",
    "MessageRefused",
    "MetricRow",
    "NodeStart",
    "NoiseSource",
    "PayloadErased",
    "PrivacyClaim",
    "PrivacyExhausted",
    "PrivacySpend",
    "Record",
    "RecoveredFrom",
    "Recovery",
    "ReputationChange",
    "UpdatePublished",
    "UpdateReceived",
    "parse_record",
    "parse_standings",
    "payload_of",
    "reason_labels",
    "standing_code",
    "write_standings",
]


Record = (
    CharterAdopt
    | KeyRotate
    | KeyRevoke
    | LogRecover
    | LogRetire
    | NodeStart
    | UpdatePublished
    | UpdateReceived
    | MessageRefused
    | Merge
    | ReputationChange
    | PrivacySpend
    | PrivacyExhausted
    | EquivocationProof
    | MemberNotice
    | PayloadErased
    | WitnessSummary
    | SuspicionRaised
    | SuspicionCleared
)


RECORDS: dict[int, type[Any]] = {
    kind.TYPE: kind
    for kind in (
        CharterAdopt,
        KeyRotate,
        KeyRevoke,
        LogRecover,
        LogRetire,
        NodeStart,
        UpdatePublished,
        UpdateReceived,
        MessageRefused,
        Merge,
        ReputationChange,
        PrivacySpend,
        PrivacyExhausted,
        EquivocationProof,
        MemberNotice,
        PayloadErased,
        WitnessSummary,
        SuspicionRaised,
        SuspicionCleared,
    )
}


def payload_of(entry: Record) -> bytes:
    """Canonical payload bytes of a record."""
    return write_payload(entry.FIELDS, entry)


def parse_record(kind: int, payload: bytes) -> Record:
    """The record in a payload of entry type ``kind``; raises Malformed for unknown types and wrong payloads."""
    make = RECORDS.get(kind)
    if make is None:
        raise Malformed(f"entry type {kind:#04x} has no payload format in this version")
    parsed: Record = parse_payload(make, make.FIELDS, payload)
    return parsed
