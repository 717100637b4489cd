"""Freeze proofs of every kind for tests/test_wire_proofs.py; the log of the first is that of tests/vectors/ledger.json.

Run ``python tools/make_proof_vectors.py`` only when a format gets a new version: the old vectors stay readable.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fuzzing import fork_examples, fork_logs
from histories import T_MS, witness

from quidnunc.crypto.checkpoint import witness_verifier
from quidnunc.crypto.entry import Entry
from quidnunc.crypto.fork_proof import encode_fork, kind_of
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.note import COSIGNATURE, Verifier, format_vkey
from quidnunc.crypto.policy import Witness, flat_policy
from quidnunc.crypto.policy_file import format_policy
from quidnunc.crypto.proof_file import entry_proof
from quidnunc.crypto.suspicion import Suspicion, SuspicionKind, encode_suspicion

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write tests/vectors/proofs.json."""
    known: dict[str, Any] = json.loads((ROOT / "tests/vectors/ledger.json").read_text("utf-8"))
    leaf, last = (bytes.fromhex(known["entries"][at]["leaf"]) for at in (0, 1))
    header, payload = (bytes.fromhex(known["entries"][1][name]) for name in ("header", "payload"))
    entry = Entry(header, payload, bytes.fromhex(known["salt"]))
    log = Verifier(known["origin"], bytes.fromhex(known["public"]))
    seed = bytes.fromhex(known["witness"]["seed"])
    cosigner = Verifier(known["witness"]["name"], SecretKey(seed).public, COSIGNATURE)
    ours, _ = fork_logs()
    lazy = witness_verifier(witness("v")[0], witness("v")[1].public)
    suspected = Suspicion(SuspicionKind.NO_ANSWER, ours.log.log_id, T_MS, last, ours.note(30))
    vectors = {
        "source": "tools/make_proof_vectors.py",
        "proof file": entry_proof(entry, [leaf], known["note"].encode(), index=1).decode(),
        "policy": format_policy(flat_policy(log, [Witness("w", cosigner)], 1)).decode(),
        "guilty log": format_vkey(ours.verifier),
        "guilty witness": format_vkey(lazy),
        "forks": {kind_of(proof).value: encode_fork(proof).hex() for proof in fork_examples()},
        "suspicion": encode_suspicion(suspected).hex(),
    }
    text = json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"
    (ROOT / "tests/vectors/proofs.json").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
