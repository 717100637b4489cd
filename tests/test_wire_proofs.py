"""docs/wire.md on proofs says what the code does, and the frozen proofs of tests/vectors/proofs.json hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from wire_tables import blocks, section, table

from quidnunc.crypto.encoding import decode
from quidnunc.crypto.fork import KeySpan, KnownKeys, verify_fork
from quidnunc.crypto.fork_proof import FORK_TAG, MAX_FORK_BYTES, ForkKind, encode_fork, parse_fork
from quidnunc.crypto.note import parse_vkey
from quidnunc.crypto.policy import judge, time_bounds
from quidnunc.crypto.policy_file import format_policy, parse_policy
from quidnunc.crypto.proof_file import ENTRY_TAG, PROOF_LINE, format_proof, open_proof, parse_proof
from quidnunc.crypto.suspicion import SUSPICION_TAG, SuspicionKind, encode_suspicion, parse_suspicion

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "proofs.json").read_text("utf-8"))
LOG, WITNESS = parse_vkey(VECTORS["guilty log"]), parse_vkey(VECTORS["guilty witness"])
KNOWN = KnownKeys({LOG.name: [KeySpan(LOG.public)]}, {WITNESS.name: [WITNESS.public]})


def test_the_kinds_are_the_documents() -> None:
    assert [row["kind"] for row in table("4.7 Proof of equivocation")] == [kind.value for kind in ForkKind]
    rows = {row["kind"]: row["name"] for row in table("4.8 Suspicion")}
    assert rows == {kind.value: kind.label for kind in SuspicionKind}
    assert f'["{FORK_TAG}", kind, ...]' in section("4.7 Proof of equivocation")
    assert f'["{SUSPICION_TAG}", kind,' in section("4.8 Suspicion")
    assert PROOF_LINE in section("4.5 Proof file")
    assert f'"{ENTRY_TAG}"' in section("4.5 Proof file")


@pytest.mark.parametrize("kind", list(ForkKind))
def test_frozen_proofs_hold_and_have_the_documents_fields(kind: ForkKind) -> None:
    data = bytes.fromhex(VECTORS["forks"][kind])
    assert hashlib.sha256(data).digest() == blocks("14.6 Proofs")[f"proof {kind.value}"]
    assert encode_fork(parse_fork(data)) == data
    found = verify_fork(data, KNOWN)
    assert (found.kind, found.origin) == (kind, LOG.name)
    assert found.culprit == (WITNESS.name if kind is ForkKind.WITNESS else LOG.name)
    fields: Any = decode(data, max_bytes=MAX_FORK_BYTES)
    named = next(row["fields behind it"] for row in table("4.7 Proof of equivocation") if row["kind"] == kind)
    if kind is not ForkKind.WITNESS:
        assert len(fields) - 2 == len(named.split(", "))


def test_the_frozen_proof_file_and_policy_are_the_documents() -> None:
    fenced = section("14.6 Proofs").split("```\n")
    assert fenced[1] == VECTORS["proof file"]
    assert fenced[3] == VECTORS["policy"]
    data = VECTORS["proof file"].encode()
    assert format_proof(parse_proof(data)) == data
    policy = parse_policy(VECTORS["policy"].encode())
    assert format_policy(policy).decode() == VECTORS["policy"]
    proof = open_proof(data, policy.logs)
    verdict = judge(proof.note, policy)
    assert (verdict.label, verdict.since) == ("WITNESSED 1 of 1", 1_760_000_002)
    assert time_bounds(1, proof.header.t_ms, [verdict]).not_after == 1_760_000_002
    assert proof.leaf == blocks("14.3 Log, checkpoint, token")["leaf 1"]


def test_the_frozen_suspicion_is_the_documents() -> None:
    data = bytes.fromhex(VECTORS["suspicion"])
    assert hashlib.sha256(data).digest() == blocks("14.6 Proofs")["suspicion"]
    assert encode_suspicion(parse_suspicion(data)) == data
