"""Proofs on the command line: made from a ledger, checked by a stranger, and every wrong file told by name."""

from __future__ import annotations

import hashlib
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import make_home, quidnunc
from founders import charter, founders
from histories import T_MS, History, cosigned, key_of, witness

from quidnunc.crypto.checkpoint import cosign_checkpoint, origin_of, witness_verifier
from quidnunc.crypto.encoding import encode
from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.fork_build import against_witness, fork_of_headers, fork_of_notes, fork_of_prefix
from quidnunc.crypto.fork_proof import encode_fork
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.crypto.note import Verifier, format_vkey
from quidnunc.crypto.policy import Witness, flat_policy
from quidnunc.crypto.policy_file import format_policy
from quidnunc.crypto.proof_file import entry_proof, open_proof
from quidnunc.crypto.suspicion import Suspicion, SuspicionKind, encode_suspicion
from quidnunc.gossip.federation.card import open_card
from quidnunc.gossip.federation.founding import draft_note
from quidnunc.gossip.provenance import EquivocationProof, payload_of
from quidnunc.peer import keys
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store

COUNT = 9


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose ledger holds a genesis and eight evaluations, one with a private part."""
    root = tmp_path_factory.mktemp("proof") / "a"
    make_home(root, "Hospital A")
    home = Home.at(root)
    card = open_card(home.card.read_bytes())
    key = SecretKey(derive_seed(keys.load(home.operational_key, "operational"), Role.LOG, 0))
    log = Log(card.log_id)
    with Store.open(home.ledger) as store:
        entries = [log.append(EntryType.GENESIS, card.genesis, salt=b"s" * 16, t_ms=T_MS)]
        for n in range(1, COUNT):
            entries.append(log.append(EntryType.EVAL, encode({"n": n}), salt=bytes([n]) * 16, t_ms=T_MS + n * 1000))
        store.commit(entries, log.checkpoint(key))
    return root


@pytest.fixture
def home(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(written, tmp_path / "a"))


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A place without a home: what a stranger has."""
    return tmp_path / "nobody"


def proven(home: Path, out: Path, ref: str = "5") -> Any:
    return quidnunc("--home", home, "--json", "ledger", "prove", ref, "--out", out).data


def checked(where: Path, *words: str | Path) -> Any:
    return quidnunc("--home", where, "--json", "ledger", "verify-proof", *words)


# prove.


def test_every_entry_can_be_proven_to_a_stranger(written: Path, tmp_path: Path, nowhere: Path) -> None:
    for seq in range(COUNT):
        out = tmp_path / f"{seq}.tlog-proof"
        made = proven(written, out, str(seq))
        assert (made["seq"], made["size"], made["file"]) == (seq, COUNT, str(out))
        found = checked(nowhere, out, "--key", made["key"]).data
        assert (found["seq"], found["size"], found["included"], found["verified"]) == (seq, COUNT, True, True)
        assert found["verdict"] == "SELF-ATTESTED"
        assert found["payload"] == ({"n": seq} if seq else found["payload"])
    assert out.stat().st_mode & 0o777 == 0o644


def test_prove_names_an_entry_by_hash_and_says_what_to_do_next(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = quidnunc("--home", written, "--json", "ledger", "show", "4").data
    result = quidnunc("--home", written, "ledger", "prove", shown["hash"][:12])
    assert result.code == 0
    assert "entry 4 of 9 is in entry-4.tlog-proof" in result.out
    command = next(line.split() for line in result.out.splitlines() if "verify-proof" in line)
    assert quidnunc("--home", tmp_path / "nobody", *command[1:]).code == 0
    again = quidnunc(*["--home", str(tmp_path / "nobody"), *command[1:], "--explain"])
    steps = [line.split()[:2] for line in again.out.splitlines() if line.split()[0] in ("leaf", "node", "root")]
    proof = open_proof((tmp_path / "entry-4.tlog-proof").read_bytes(), [_verifier(written)])
    assert steps[0] == ["leaf", proof.leaf.hex()]
    assert steps[-2][1] == steps[-1][1] == proof.checkpoint.root.hex()


def _verifier(home: Path) -> Verifier:
    card = open_card(Home.at(home).card.read_bytes())
    return Verifier(origin_of(card.log_id), card.log)


def test_explained_steps_lead_to_the_root_in_trees_of_any_shape(tmp_path: Path, nowhere: Path) -> None:
    log = History("clinic").grow(23)
    for size in range(1, 24):
        for seq in {0, size // 2, size - 1}:
            out = tmp_path / "p"
            out.write_bytes(entry_proof(log.entries[seq], log.log.inclusion(seq, size), log.note(size), index=seq))
            result = quidnunc(
                "--home", nowhere, "ledger", "verify-proof", out, "--key", format_vkey(log.verifier), "--explain"
            )
            hashes = [
                line.split()[1] for line in result.out.splitlines() if line.split()[0] in ("leaf", "node", "root")
            ]
            assert hashes[-1] == hashes[-2] == log.log.root_at(size).hex()


@pytest.mark.parametrize(
    ("ref", "code"), [("9", 2), ("-1", 2), ("00000000", 2), ("abc", 2), ("", 2)], ids=lambda each: str(each)
)
def test_prove_says_why_there_is_nothing_to_prove(written: Path, tmp_path: Path, ref: str, code: int) -> None:
    result = quidnunc("--home", written, "ledger", "prove", ref, "--out", tmp_path / "p")
    assert (result.code, (tmp_path / "p").exists()) == (code, False)


def test_prove_writes_nothing_it_could_not_check(home: Path, tmp_path: Path) -> None:
    with sqlite3.connect(Home.at(home).ledger) as connection:
        connection.execute("UPDATE entry SET payload = x'80' WHERE seq = 5")
    connection.close()
    result = quidnunc("--home", home, "ledger", "prove", "5", "--out", tmp_path / "p")
    assert (result.code, (tmp_path / "p").exists()) == (30, False)
    with sqlite3.connect(Home.at(home).ledger) as connection:
        connection.execute("UPDATE entry SET header = x'90' WHERE seq = 3")
    connection.close()
    result = quidnunc("--home", home, "ledger", "prove", "4", "--out", tmp_path / "p")
    assert (result.code, (tmp_path / "p").exists()) == (30, False)
    full = quidnunc("--home", home, "ledger", "prove", "1", "--out", tmp_path / "no" / "p")
    assert full.code in (30, 73)


def test_a_proof_that_cannot_be_written(written: Path, tmp_path: Path) -> None:
    assert quidnunc("--home", written, "ledger", "prove", "1", "--out", tmp_path / "no" / "p").code == 73
    assert quidnunc("--home", tmp_path / "nobody", "ledger", "prove", "1").code == 64


# verify-proof.

LOG = History("clinic").grow(40)
VKEY = format_vkey(LOG.verifier)
NAMES = ("b", "c", "d")


def proof_of(seq: int = 13, size: int = 37, names: str = "") -> bytes:
    note = cosigned(LOG.note(size), *names)
    return entry_proof(LOG.entries[seq], LOG.log.inclusion(seq, size), note, index=seq)


@pytest.fixture
def proof(tmp_path: Path) -> Callable[[bytes], Path]:
    def put(data: bytes) -> Path:
        path = tmp_path / "some.tlog-proof"
        path.write_bytes(data)
        return path

    return put


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Two of three witnesses."""
    path = tmp_path / "consortium.policy"
    chosen = [Witness(name, witness_verifier(witness(name)[0], witness(name)[1].public)) for name in NAMES]
    path.write_bytes(format_policy(flat_policy(LOG.verifier, chosen, 2)))
    return path


def test_a_quorum_of_witnesses(proof: Callable[[bytes], Path], policy: Path, nowhere: Path) -> None:
    for names, code in (("", 32), ("b", 32), ("bx", 32), ("bc", 0), ("bcd", 0)):
        result = checked(nowhere, proof(proof_of(names=names)), "--policy", policy)
        data = result.envelope["data"]
        assert (result.code, data["quorum_met"], data["policy"]) == (code, code == 0, "2 of 3")
        assert [each["witness"] for each in data["cosigned"]] == [name for name in names if name != "x"]
        assert data["not_after"] == (None if code else "2025-10-09T08:53:21.000Z")
    shown = quidnunc("--home", nowhere, "ledger", "verify-proof", proof(proof_of(names="bcd")), "--policy", policy)
    assert "WITNESSED 3 of 3, quorum 2 of 3" in shown.out
    assert "INCLUDED" in shown.out.splitlines()[0]
    below = quidnunc("--home", nowhere, "ledger", "verify-proof", proof(proof_of(names="b")), "--policy", policy)
    assert "SELF-ATTESTED: 1 of 3 witnesses, quorum 2 of 3" in below.out
    assert "1 of 3 witnesses cosigned, the policy needs 2 of 3" in below.err


def test_a_claim_after_the_quorum_is_flagged(proof: Callable[[bytes], Path], policy: Path, nowhere: Path) -> None:
    note = cosigned(LOG.note(37), "b", "c", time=T_MS // 1000 - 3600)
    data = entry_proof(LOG.entries[13], LOG.log.inclusion(13, 37), note, index=13)
    result = checked(nowhere, proof(data), "--policy", policy)
    assert result.data["flag"] == "POSTDATED"
    assert "POSTDATED" in result.envelope["warnings"][0]


def test_an_erased_payload_is_incomplete(proof: Callable[[bytes], Path], nowhere: Path) -> None:
    erased = LOG.entries[13]._replace(payload=b"", salt=b"")
    data = entry_proof(erased, LOG.log.inclusion(13, 37), LOG.note(37), index=13)
    result = checked(nowhere, proof(data), "--key", VKEY)
    assert (result.code, result.envelope["data"]["erased"], result.envelope["data"]["included"]) == (32, True, True)


def test_a_key_may_lie_in_a_file(proof: Callable[[bytes], Path], tmp_path: Path, nowhere: Path) -> None:
    path = tmp_path / "clinic.vkey"
    path.write_text(VKEY + "\n")
    assert checked(nowhere, proof(proof_of()), "--key", path).code == 0
    path.write_text("no key")
    assert checked(nowhere, proof(proof_of()), "--key", path).code == 2
    assert checked(nowhere, proof(proof_of()), "--key", tmp_path / "absent").code == 64
    assert checked(nowhere, proof(proof_of()), "--key", VKEY[:-1]).code == 2
    cosigner = format_vkey(witness_verifier(witness("b")[0], witness("b")[1].public))
    assert "key of a log" in checked(nowhere, proof(proof_of()), "--key", cosigner).err


DATA = proof_of(names="b")
STRANGER = History("stranger").grow(20)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a proof file"),
        (b"\n", "not a proof file"),
        (bytes(range(256)) * 9, "must be UTF-8"),
        (b"SQLite format 3\0" * 20, "not a proof file"),
        (LOG.note(), "not a proof file"),
        (LOG.token(13), "must be UTF-8"),
        (encode(["quidnunc/v1/equivocation", "A", LOG.note(), LOG.note()]), "must be UTF-8|not a proof file"),
        (DATA[:300], "cut short"),
        (DATA[:-40], "a note must be|ending in a newline"),
        (DATA + DATA, "three lines|signature line"),
        (DATA.replace(b"tlog-proof@v1", b"tlog-proof@v2"), "known is c2sp.org/tlog-proof@v1"),
        (DATA.replace(b"index 13", b"index 14"), "entry 13 of log"),
        (DATA.replace(b"\n37\n", b"\n38\n"), "not signed by key"),
        (b"x" * 200_000, "limit is 131072"),
        (
            entry_proof(STRANGER.entries[3], STRANGER.log.inclusion(3), STRANGER.note(), index=3),
            "whose key is not known here",
        ),
        (entry_proof(LOG.entries[13], LOG.log.inclusion(13), LOG.note(key=key_of("x")), index=13), "not signed"),
        (entry_proof(LOG.entries[13], LOG.log.inclusion(13, 36), LOG.note(37), index=13), "does not lead|hashes"),
        (
            entry_proof(LOG.entries[13], LOG.log.inclusion(13), LOG.fork(9).grow(31, "x").note(), index=13),
            "does not lead",
        ),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_wrong_files_are_told_by_name(proof: Callable[[bytes], Path], nowhere: Path, data: bytes, why: str) -> None:
    path = proof(data)
    result = checked(nowhere, path, "--key", VKEY)
    assert result.code == (64 if len(data) > 131_072 else 42 if b"tlog-proof@v2" in data else 30)
    error = result.envelope["error"]
    assert str(path) in error["message"]
    assert re.search(why, error["message"]), error["message"]
    assert error["hint"] or result.code == 64


def test_without_any_key_nothing_is_claimed(proof: Callable[[bytes], Path], nowhere: Path, tmp_path: Path) -> None:
    result = checked(nowhere, proof(DATA))
    assert (result.code, result.envelope["data"]) == (32, None)
    assert "--key" in result.envelope["error"]["hint"]
    (tmp_path / "none.policy").write_bytes(b"quorum none\n")
    assert checked(nowhere, proof(DATA), "--policy", tmp_path / "none.policy").code == 32
    assert checked(nowhere, proof(DATA), "--policy", tmp_path / "none.policy", "--key", VKEY).code == 0
    (tmp_path / "bad.policy").write_bytes(b"quorum x\n")
    bad = checked(nowhere, proof(DATA), "--policy", tmp_path / "bad.policy")
    assert (bad.code, "policy line 1" in bad.err) == (64, True)
    assert checked(nowhere, tmp_path / "absent.tlog-proof").code == 64


def test_a_home_knows_the_members_of_its_charter(home: Path, tmp_path: Path) -> None:
    trio = founders(4)
    (home / "charter.note").write_bytes(draft_note(charter(trio)))
    owner, *others = trio
    key = SecretKey(derive_seed(owner.secret, Role.LOG, 0))
    log = Log(owner.member.log_id)
    entry = log.append(EntryType.GENESIS, owner.member.genesis, salt=b"s" * 16, t_ms=T_MS)
    note = log.checkpoint(key)
    for count, label in ((0, "SELF-ATTESTED"), (1, "SELF-ATTESTED"), (2, "WITNESSED 2 of 3"), (3, "WITNESSED 3 of 3")):
        path = tmp_path / "p"
        path.write_bytes(entry_proof(entry, [], note, index=0))
        found = checked(home, path).data
        assert (found["verdict"], found["name"], found["policy"]) == (label, owner.member.name, "2 of 3")
        assert len(found["cosigned"]) == count
        if count < 3:
            secret = SecretKey(derive_seed(others[count].secret, Role.WITNESS, 0))
            note = cosign_checkpoint(note, others[count].member.log_id, secret, time=T_MS // 1000)
    own = proven(home, tmp_path / "own")
    # This home is not in that charter, whose members are all it knows.
    assert checked(home, own["file"]).code == 30
    (home / "charter.note").unlink()
    assert checked(home, own["file"]).data["name"] == "Hospital A"


# evidence verify.

OURS = History("guilty").grow(40)
THEIRS = OURS.fork(12).grow(28, "forked")
GUILTY = format_vkey(OURS.verifier)
LAZY = witness_verifier(witness("v")[0], witness("v")[1].public)


def judged(where: Path, path: Path, *words: str) -> Any:
    return quidnunc("--home", where, "--json", "ledger", "evidence", "verify", path, *words)


def test_a_fork_is_proven_to_anybody_with_the_key(proof: Callable[[bytes], Path], nowhere: Path) -> None:
    cases = {
        "A": fork_of_notes(OURS.note(30), THEIRS.note(30)),
        "B": fork_of_headers(OURS.note(20), OURS.headers, THEIRS.note(33), THEIRS.headers),
        "B2": fork_of_prefix(OURS.note(20), THEIRS.note(33), THEIRS.log._tree),
    }
    for kind, found in cases.items():
        assert found is not None
        result = judged(nowhere, proof(encode_fork(found)), "--key", GUILTY)
        data = result.envelope["data"]
        assert (result.code, data["proven"], data["kind"], data["culprit"]) == (31, True, kind, OURS.origin)
        assert data["keys"] == [OURS.key.public.hex()]
    size = cases["A"]
    assert size is not None
    order = sorted((cosigned(OURS.note(30), "v"), cosigned(THEIRS.note(30), "v")))
    path = proof(encode_fork(against_witness(LAZY.name, size, *order)))
    result = judged(nowhere, path, "--key", format_vkey(LAZY))
    assert (result.code, result.envelope["data"]["role"]) == (31, "witness")
    shown = quidnunc("--home", nowhere, "ledger", "evidence", "verify", path, "--key", format_vkey(LAZY))
    assert shown.out.startswith("PROVEN, kind D")
    assert "does not say whether its holder cheated or lost it" in shown.out
    # With another key only, it cannot be judged.
    assert judged(nowhere, path, "--key", GUILTY).code == 32


def test_evidence_that_proves_nothing(proof: Callable[[bytes], Path], nowhere: Path) -> None:
    good = fork_of_notes(OURS.note(30), THEIRS.note(30))
    assert good is not None
    data = encode_fork(good)
    for wrong, code, why in (
        (b"", 30, "not canonical"),
        (b"hello", 30, "not canonical|proves nothing"),
        (data[:-1], 30, "not canonical"),
        (data + b"\0", 30, "not canonical"),
        (OURS.token(3), 30, "not a proof of equivocation"),
        (OURS.note(), 30, "not canonical"),
        (DATA, 30, "not canonical"),
        (encode(["quidnunc/v2/equivocation", "A"]), 42, "quidnunc/v2/equivocation"),
        (encode(["quidnunc/v2/suspicion", "E"]), 42, "quidnunc/v2/suspicion"),
        (encode(["quidnunc/v1/equivocation", "Z", 1]), 30, "no kind of proof is 'Z'"),
        (encode_fork(good._replace(note_b=good.note_a)), 30, "both notes say the same"),
        (data.replace(b"\n30\n", b"\n31\n", 1), 30, "not signed by key"),
        (bytes(100_000), 30, "limit is 65536"),
    ):
        result = judged(nowhere, proof(wrong), "--key", GUILTY)
        assert result.code in (code, 64), (why, result.err)
        assert re.search(why, result.envelope["error"]["message"]), result.err
        assert result.envelope["error"]["hint"] or result.code == 64
    assert judged(nowhere, proof(data)).code == 32
    assert judged(nowhere, proof(data), "--key", VKEY).code == 32
    assert judged(nowhere, nowhere / "absent", "--key", VKEY).code == 64


def test_a_suspicion_is_never_shown_as_a_proof(proof: Callable[[bytes], Path], nowhere: Path) -> None:
    for kind in SuspicionKind:
        data = encode_suspicion(Suspicion(kind, OURS.log.log_id, T_MS, b"c" * 32, OURS.note(30)))
        result = judged(nowhere, proof(data), "--key", GUILTY)
        assert (result.code, result.envelope["data"]["proven"]) == (32, False)
        assert result.envelope["data"]["suspicion"] == kind.label
        assert "proves nothing" in result.envelope["error"]["message"]


# evidence list and export.


def test_a_held_proof_is_listed_exported_and_accepted_by_a_stranger(home: Path, nowhere: Path, tmp_path: Path) -> None:
    assert quidnunc("--home", home, "--json", "ledger", "evidence", "list").data == {"proofs": []}
    found = fork_of_notes(OURS.note(30), THEIRS.note(30))
    assert found is not None
    proof = encode_fork(found)
    record = EquivocationProof(OURS.log.log_id, "A", hashlib.sha256(proof).digest(), None)
    key = SecretKey(derive_seed(keys.load(Home.at(home).operational_key, "operational"), Role.LOG, 0))
    with Store.open(Home.at(home).ledger) as store:
        log = Log(store.log_id)
        for entry in store.entries():
            log.replay(entry)
        entry = log.append(record.TYPE, payload_of(record), salt=b"s" * 16, t_ms=T_MS * 2)
        store.commit([entry], log.checkpoint(key), proofs=[proof])
        assert store.verify().ok
    row = quidnunc("--home", home, "--json", "ledger", "evidence", "list").data["proofs"][0]
    assert (row["kind"], row["proof"], row["bytes"]) == ("A", record.proof.hex(), len(proof))
    out = tmp_path / "fork.proof"
    made = quidnunc("--home", home, "--json", "ledger", "evidence", "export", row["proof"][:8], "--out", out)
    assert made.code == 0
    assert out.read_bytes() == proof
    assert judged(nowhere, out, "--key", GUILTY).code == 31
    assert quidnunc("--home", home, "ledger", "evidence", "export", "0" * 8).code == 2
    assert quidnunc("--home", home, "ledger", "evidence", "export", "xyz").code == 2
