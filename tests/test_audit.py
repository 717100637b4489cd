"""The audit: a ledger whose every hash holds, and which nevertheless cannot be true."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from founders import founder
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.identity import SecretKey
from quidnunc.gossip.audit import REPLICAS_KEPT, Audit
from quidnunc.gossip.jobs import PPB
from quidnunc.gossip.key_change import KeyRevoke, KeyRotate, revoke, rotate
from quidnunc.gossip.provenance import (
    Merge,
    MergeRow,
    PrivacyClaim,
    PrivacySpend,
    Record,
    UpdatePublished,
    UpdateReceived,
    payload_of,
)
from quidnunc.gossip.retirement import LogRetire, RetireReason, retire

MEMBER = founder(1).member
OTHER = b"o" * 32
Told = list[Record | tuple[int, bytes]]


def spend(round_: int, cumulative_u: int) -> PrivacySpend:
    return PrivacySpend(round_, round_, 1, cumulative_u, 1000, 5, 1, 1, 1, b"d" * 32)


def update(number: int, seq: int, cumulative_u: int) -> UpdatePublished:
    claim = PrivacyClaim(1, 1, 1_000_000, 1, 1, 1, 5, 1, cumulative_u, "analytic-gaussian/1", seq)
    replicas = bytes([number - 1]) * 32, bytes([number]) * 32
    hashes = b"f" * 32, b"s" * 32
    return UpdatePublished(*hashes, number, number, replicas[0], *replicas, b"m" * 32, 9, 1, 1, b"d" * 32, 3, claim)


def received(number: int, decision: int = 0, snapshot: bool = False) -> UpdateReceived:
    hashes = b"t" * 32, b"k" * 32
    return UpdateReceived(OTHER, 3, b"l" * 32, 4, *hashes, number, b"m" * 32, b"r" * 32, snapshot, decision)


def merge(*effective: int) -> Merge:
    rows = tuple(MergeRow(b"r" * 32, OTHER, 3, 0, each, 0) for each in effective)
    return Merge(1, b"z" * 32, b"a" * 32, rows, False, 0, (), None)


def retired(last: int, signer: int = 1, log_id: bytes = MEMBER.log_id) -> LogRetire:
    return retire(founder(signer).root, log_id, last, RetireReason.ENDED, None)


def rotated(seq: int, signer: int = 1, epoch: int = 1) -> KeyRotate:
    return rotate(founder(signer).root, MEMBER.log_id, seq, epoch, SecretKey(bytes([epoch]) * 32))


def revoked(seq: int, since: int, signer: int = 1) -> KeyRevoke:
    return revoke(founder(signer).root, MEMBER.log_id, seq, 0, since)


def story() -> Told:
    return [
        (EntryType.GENESIS, MEMBER.genesis),
        spend(1, 400),
        update(1, 1, 400),
        received(1),
        received(2, decision=1),
        received(2),
        received(2, snapshot=True),
        merge(600_000_000, 400_000_000),
        spend(2, 900),
        update(2, 8, 900),
        (EntryType.EVAL, b"anything"),
    ]


def codes(told: Told) -> list[tuple[str, int]]:
    audit = Audit(MEMBER.log_id)
    for seq, each in enumerate(told):
        kind, payload = each if isinstance(each, tuple) else (int(each.TYPE), payload_of(each))
        audit.read(seq, kind, payload)
    return [(finding.code, finding.seq) for finding in audit.findings]


def test_a_true_story_passes() -> None:
    assert codes(story()) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({0: (EntryType.GENESIS, founder(2).member.genesis)}, [("I4", 0)]),
        ({0: (EntryType.GENESIS, b"\x80")}, [("I4", 0)]),
        ({0: (EntryType.EVAL, b"")}, [("I4", 0)]),
        ({10: (EntryType.GENESIS, MEMBER.genesis)}, [("I4", 10)]),
        ({3: (EntryType.UPDATE_RECEIVED, encode({}))}, [("I4", 3), ("I13", 5)]),
        ({5: (EntryType.LOG_RETIRE, b"")}, [("I4", 5), *(("I9", seq) for seq in range(6, 11))]),
        ({5: retired(5)}, [("I9", seq) for seq in range(6, 11)]),
        ({10: retired(10)}, []),
        ({10: retired(9)}, [("I9", 10)]),
        ({10: replace(retired(10), why=5)}, [("I9", 10)]),
        ({10: replace(retired(10), why=2)}, [("I9", 10)]),
        ({10: replace(retired(10), successor=OTHER)}, [("I9", 10)]),
        ({10: replace(retired(10), successor=MEMBER.log_id)}, [("I9", 10)]),
        ({10: retired(10, signer=2)}, [("I9", 10)]),
        ({10: retired(10, log_id=OTHER)}, [("I9", 10)]),
        ({4: rotated(4)}, []),
        ({4: rotated(4), 6: rotated(6, epoch=2), 10: revoked(10, 5)}, []),
        ({4: rotated(5)}, [("I22", 4)]),
        ({4: rotated(4, signer=2)}, [("I22", 4)]),
        ({4: rotated(4, epoch=2)}, [("I22", 4)]),
        ({4: rotated(4), 10: rotated(10)}, [("I22", 10)]),
        ({10: revoked(10, 5)}, [("I22", 10)]),
        ({4: rotated(4), 10: revoked(10, 6)}, [("I22", 10)]),
        ({4: rotated(4), 10: revoked(10, 5, signer=2)}, [("I22", 10)]),
        ({8: spend(2, 399)}, [("I10", 8)]),
        ({8: spend(2, 1001)}, [("I10", 8), ("I10", 9)]),
        ({8: spend(3, 900)}, [("I10", 9)]),
        ({9: update(2, 7, 900)}, [("I10", 9)]),
        ({9: update(2, 1, 900)}, [("I10", 9)]),
        ({9: update(2, 8, 899)}, [("I10", 9)]),
        ({7: merge(600_000_000, 399_999_999)}, [("I11", 7)]),
        ({7: replace(merge(PPB), rows=(MergeRow(b"?" * 32, OTHER, 3, 0, PPB, 0),))}, [("I11", 7)]),
        ({7: replace(merge(PPB), rows=(MergeRow(b"r" * 32, OTHER, 4, 0, PPB, 0),))}, [("I11", 7)]),
        ({7: replace(merge(PPB), rows=(MergeRow(b"r" * 32, b"?" * 32, 3, 0, PPB, 0),))}, [("I11", 7)]),
        ({7: replace(merge(PPB), rows=(MergeRow(b"r" * 32, None, None, 0, PPB, 0),))}, [("I11", 7)]),
        ({7: replace(merge(PPB), rows=(MergeRow(b"\1" * 32, MEMBER.log_id, 3, 0, PPB, 0),))}, [("I11", 7)]),
        ({7: replace(merge(PPB), rows=(MergeRow(b"\1" * 32, MEMBER.log_id, 2, 0, PPB, 0),))}, []),
        ({7: replace(merge(PPB), rows=(MergeRow(bytes(32), None, None, 0, PPB, 0),))}, []),
        ({9: replace(update(2, 8, 900), base=b"?" * 32)}, [("I12", 9)]),
        ({9: replace(update(2, 8, 900), base=b"z" * 32)}, []),
        ({9: replace(update(2, 8, 900), base=bytes(32))}, []),
        ({9: update(3, 8, 900)}, [("I12", 9), ("I12", 9), ("I10", 9)]),
        ({9: replace(update(2, 8, 900), replica_before=b"?" * 32)}, [("I12", 9)]),
        ({5: received(1)}, [("I13", 5)]),
        ({10: received(1)}, [("I13", 10)]),
        ({10: received(4)}, [("I13", 10)]),
        ({10: received(1, snapshot=True)}, [("I13", 10)]),
        ({10: received(3)}, []),
        ({10: received(9, snapshot=True)}, []),
    ],
)
def test_a_story_that_cannot_be_true_is_found(changes: dict[int, Any], expected: list[tuple[str, int]]) -> None:
    told = story()
    for seq, each in changes.items():
        told[seq] = each
    assert codes(told) == expected


@pytest.mark.parametrize(("age", "found"), [(REPLICAS_KEPT - 1, True), (REPLICAS_KEPT, False)])
def test_inputs_are_looked_for_among_the_newest_updates(age: int, found: bool) -> None:
    """What is older than all that is remembered may well have been there."""
    told: Told = [(EntryType.GENESIS, MEMBER.genesis)]
    for number in range(1, age + 2):
        told.append(replace(received(number), seq=number))
    told.append(replace(merge(PPB), rows=(MergeRow(b"?" * 32, OTHER, 1, 0, PPB, 0),)))
    assert codes(told) == ([("I11", len(told) - 1)] if found else [])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=10))
def test_no_payload_makes_the_audit_fail(told: list[tuple[int, bytes]]) -> None:
    audit = Audit(OTHER)
    for seq, (kind, payload) in enumerate(told):
        audit.read(seq, kind, payload)
    assert all(0 <= finding.seq < len(told) for finding in audit.findings)
