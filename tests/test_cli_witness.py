"""What ``ledger verify`` and ``ledger status`` make of the cosignatures that a ledger keeps."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import make_home, quidnunc
from founders import Founder, charter, founder, founders

from quidnunc.crypto.checkpoint import cosign_checkpoint, witness_verifier
from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.crypto.note import Verifier, format_vkey, parse_note
from quidnunc.crypto.token import make_token
from quidnunc.gossip.attestation import CosignatureRow, SuspicionCleared, SuspicionRaised, WitnessSummary
from quidnunc.gossip.federation.card import make_card
from quidnunc.gossip.federation.founding import draft_note
from quidnunc.gossip.provenance import EquivocationProof, MemberNotice, NodeStart, payload_of
from quidnunc.gossip.retirement import RetireReason, retire
from quidnunc.peer.commands import ledger_judged
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store

SECONDS = 1_760_000_000


def key_of(member: Founder, role: Role) -> SecretKey:
    return SecretKey(derive_seed(member.secret, role, 0))


class Ledger:
    """The ledger of the first of some founders, five without another word, in a home like any other."""

    def __init__(self, path: Path, members: int = 5, **terms: Any) -> None:
        self.group = founders(members)
        self.own = self.group[0]
        self.path = path
        make_home(path, "any")
        home = Home.at(path)
        for each in home.ledger.parent.glob(f"{home.ledger.name}*"):
            each.unlink()
        home.card.write_bytes(make_card(self.own.member, self.own.root))
        home.charter.write_bytes(draft_note(charter(self.group, **terms)))
        self.log = Log(self.own.member.log_id)
        self.ledger = home.ledger
        Store.create(self.ledger, self.log.log_id, self.own.member.log).close()
        self.notes: dict[int, bytes] = {}
        genesis = self.log.append(EntryType.GENESIS, self.own.member.genesis, salt=bytes(16), t_ms=1)
        self.commit([genesis])

    def commit(self, entries: list[Any], cosigned: list[tuple[bytes, int, bytes]] | None = None) -> None:
        note = self.log.checkpoint(key_of(self.own, Role.LOG))
        self.notes[self.log.size] = note
        with Store.open(self.ledger) as store:
            store.commit(entries, note, cosigned=cosigned or [])

    def grow(self, *cosigned: tuple[Founder, int, bytes]) -> None:
        """One entry more, and with it cosignatures (witness, size, note) that came in."""
        start = NodeStart(self.log.size, "0.1.0", "3.11.7", "2.13.0", "cpu")
        entry = self.log.append(start.TYPE, payload_of(start), salt=bytes(16), t_ms=2)
        self.commit([entry], [(who.member.log_id, size, note) for who, size, note in cosigned])

    def sum_up(self, *cosigned: tuple[Founder, int, bytes], sized: int = 0) -> int:
        """An entry that holds these cosignatures; its number."""
        rows = []
        for who, size, note in cosigned:
            line = next(each for each in parse_note(note).signatures if len(each.signature) == 72)
            rows.append(CosignatureRow(who.member.log_id, sized or size, line.signature))
        summary = WitnessSummary(len(rows), tuple(sorted(rows)))
        self.commit([self.log.append(summary.TYPE, payload_of(summary), salt=bytes(16), t_ms=2)])
        return self.log.size - 1

    def show(self, seq: int) -> Any:
        return quidnunc("--home", self.path, "--json", "ledger", "show", str(seq)).data["times"]

    def cosign(self, who: Founder, size: int, note: bytes | None = None) -> tuple[Founder, int, bytes]:
        key = key_of(who, Role.WITNESS)
        return who, size, cosign_checkpoint(note or self.notes[size], who.member.log_id, key, time=SECONDS + size)

    def verify(self) -> Any:
        return quidnunc("--home", self.path, "--json", "ledger", "verify")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "a")
    for _ in range(3):
        made.grow()
    return made


def test_without_cosignatures_a_ledger_is_self_attested(ledger: Ledger) -> None:
    data = ledger.verify().data
    assert (data["witnesses"], data["witnessed_size"], data["cosigners"]) == ("SELF-ATTESTED", 0, [])


def test_a_quorum_witnesses_up_to_the_size_that_so_many_have_seen(ledger: Ledger) -> None:
    _, b, c, d, _ = ledger.group
    ledger.grow(ledger.cosign(b, 4), ledger.cosign(c, 3), ledger.cosign(d, 2))
    data = ledger.verify().data
    assert (data["witnesses"], data["witnessed_size"]) == ("WITNESSED 3 of 4", 2)
    assert {(each["name"], each["size"], each["time"]) for each in data["cosigners"]} == {
        (b.member.name, 4, SECONDS + 4),
        (c.member.name, 3, SECONDS + 3),
        (d.member.name, 2, SECONDS + 2),
    }
    shown = quidnunc("--home", ledger.path, "ledger", "verify").out.splitlines()[-1]
    assert (
        shown == "  witnesses       WITNESSED 3 of 4 members, a quorum of 3 up to entry 2, the last 3 entries not yet"
    )
    assert quidnunc("--home", ledger.path, "--json", "ledger", "status").data["verdict"] == "WITNESSED 3 of 4"


def test_verify_and_status_tell_how_old_the_vouching_is(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    _, b, c, d, _ = ledger.group
    ledger.grow(ledger.cosign(b, 4), ledger.cosign(c, 3), ledger.cosign(d, 2))
    monkeypatch.setattr(ledger_judged.time, "time", lambda: SECONDS + 4 + 600.5)
    for word in ("verify", "status"):
        data = quidnunc("--home", ledger.path, "--json", "ledger", word).data
        found = [data[key] for key in ("witnessed_size", "witnessed_at", "witnessed_age_s")]
        assert found == [2, when((SECONDS + 4) * 1000), 600]
    assert "WITNESSED 3 of 4 up to entry 2 of 5, 10 min ago" in quidnunc("--home", ledger.path, "ledger", "status").out
    assert f"since {when((SECONDS + 4) * 1000)}, 10 min ago" in quidnunc("--home", ledger.path, "ledger", "verify").out


def test_verify_and_status_name_whom_this_ledger_exposes_and_suspects(ledger: Ledger) -> None:
    _, b, c, d, _ = (each.member for each in ledger.group)

    def write(*records: Any) -> None:
        for record in records:
            ledger.commit([ledger.log.append(record.TYPE, payload_of(record), salt=bytes(16), t_ms=3)])

    def told(word: str) -> tuple[list[Any], list[Any]]:
        data = quidnunc("--home", ledger.path, "--json", "ledger", word).envelope["data"]
        rows = [[(each["name"], each["entry"]) for each in data[key]] for key in ("exposed", "suspected")]
        return rows[0], rows[1]

    assert told("verify") == told("status") == ([], [])
    assert "none is exposed or suspected" in quidnunc("--home", ledger.path, "ledger", "verify").out
    raised = [SuspicionRaised(each.log_id, "E", bytes(32), 9) for each in (b, c, d)]
    write(*raised, SuspicionCleared(b.log_id, 4), EquivocationProof(c.log_id, "A", b"p" * 32, None))
    assert told("verify") == told("status") == ([(c.name, 8)], [(d.name, 6)])
    for word in ("verify", "status"):
        shown = quidnunc("--home", ledger.path, "ledger", word).out
        assert f"EXPOSED   {c.name}: signed two histories (entry 8, proof 7070707070707070)" in shown
        assert f"SUSPECTED {d.name}" in shown


def test_show_says_what_a_proof_of_the_entry_would_show(ledger: Ledger) -> None:
    _, b, c, d, _ = ledger.group
    ledger.grow(ledger.cosign(b, 4), ledger.cosign(c, 3), ledger.cosign(d, 3))

    def proof(seq: int) -> Any:
        return quidnunc("--home", ledger.path, "--json", "ledger", "show", str(seq)).data["proof"]

    whole = {"signed_from": 3, "verdict": "WITNESSED 3 of 4"}
    assert {key: value for key, value in proof(2).items() if key != "cosigned_by"} == whole
    assert proof(2)["cosigned_by"] == sorted(each.member.log_id.hex() for each in (b, c, d))
    assert proof(3) == {"signed_from": 4, "cosigned_by": [b.member.log_id.hex()], "verdict": "SELF-ATTESTED"}
    assert proof(4) == {"signed_from": 5, "cosigned_by": [], "verdict": "SELF-ATTESTED"}
    shown = quidnunc("--home", ledger.path, "ledger", "show", "3").out
    assert f"  proof       signed from size 4 on, SELF-ATTESTED: {b.member.name}" in shown


def test_evidence_of_a_later_kind_is_listed_as_such(ledger: Ledger) -> None:
    """Regression: its kind was looked up in a table, and not finding it was called a bug of this program."""
    proof = b"a proof of a kind that is not known yet"
    record = EquivocationProof(ledger.group[1].member.log_id, "Z", hashlib.sha256(proof).digest(), None)
    entry = ledger.log.append(record.TYPE, payload_of(record), salt=bytes(16), t_ms=3)
    with Store.open(ledger.ledger) as store:
        store.commit([entry], ledger.log.checkpoint(key_of(ledger.own, Role.LOG)), proofs=[proof])
    (row,) = quidnunc("--home", ledger.path, "--json", "ledger", "evidence", "list").data["proofs"]
    assert (row["kind"], row["meaning"]) == ("Z", "of a kind unknown here")


def test_one_less_than_a_quorum_is_not_enough(ledger: Ledger) -> None:
    ledger.grow(*(ledger.cosign(each, 4) for each in ledger.group[1:3]))
    assert ledger.verify().data["witnesses"] == "SELF-ATTESTED"
    shown = quidnunc("--home", ledger.path, "ledger", "verify").out.splitlines()[-1]
    assert "only 2 of 4 members have cosigned it, a quorum is 3" in shown


def ended(who: Founder, root: SecretKey) -> tuple[MemberNotice, bytes]:
    """The notice that ``who`` has ended its log, said by ``root``, and the entry that takes it in."""
    log = Log(who.member.log_id)
    log.append(EntryType.GENESIS, who.member.genesis, salt=bytes(16), t_ms=1)
    record = retire(root, log.log_id, log.size, RetireReason.ENDED, None)
    entry = log.append(record.TYPE, payload_of(record), salt=bytes(16), t_ms=2)
    token = make_token(entry, log.inclusion(1), log.checkpoint(key_of(who, Role.LOG)))
    return MemberNotice(log.log_id, record.TYPE, 1, hashlib.sha256(token).digest()), token


def take_in(ledger: Ledger, notice: tuple[MemberNotice, bytes]) -> None:
    record, token = notice
    entry = ledger.log.append(record.TYPE, payload_of(record), salt=bytes(16), t_ms=2)
    note = ledger.log.checkpoint(key_of(ledger.own, Role.LOG))
    with Store.open(ledger.ledger) as store:
        store.commit([entry], note, proofs=[token])


def test_members_that_have_ended_their_logs_are_no_witnesses(ledger: Ledger, tmp_path: Path) -> None:
    _, b, c, d, e = ledger.group
    ledger.grow(ledger.cosign(b, 4), ledger.cosign(c, 4), ledger.cosign(d, 3))
    assert ledger.verify().data["witnesses"] == "WITNESSED 3 of 4"
    take_in(ledger, ended(d, d.root))
    found = ledger.verify().data
    assert (found["witnesses"], found["witnessed_size"]) == ("WITNESSED 2 of 3", 4)
    assert [each["name"] for each in found["cosigners"] if not each["counts"]] == [d.member.name]
    take_in(ledger, ended(e, e.root))
    assert ledger.verify().data["witnesses"] == "WITNESSED 2 of 2"
    policy, proof = tmp_path / "p", tmp_path / "x"
    made = quidnunc("--home", ledger.path, "ledger", "prove", "2", "--out", proof, "--policy-out", policy)
    assert "2 of 2 witnesses cosigned the checkpoint in it: WITNESSED 2 of 2" in made.out
    assert quidnunc("ledger", "verify-proof", proof, "--policy", policy).code == 0


def test_in_a_large_federation_the_neighbors_are_the_witnesses(tmp_path: Path) -> None:
    """Of eleven others six cosign: a quorum of eleven could never be reached."""
    ends = ((i, (i + step) % 12) for i in range(12) for step in (1, 2, 3))
    edges = tuple(sorted((min(each), max(each)) for each in ends))
    made = Ledger(tmp_path / "a", 12, edges=edges)
    made.grow()
    near = {each.log_id for each in charter(made.group, edges=edges).neighbors(made.own.member.log_id)}
    able = [each for each in made.group if each.member.log_id in near]
    far = [each for each in made.group if each is not made.own and each not in able]
    made.grow(*(made.cosign(each, 2) for each in (*able[:3], *far)))
    assert (len(able), made.verify().data["witnesses"]) == (6, "SELF-ATTESTED")
    made.grow(made.cosign(able[3], 2))
    assert made.verify().data["witnesses"] == "WITNESSED 4 of 6"
    proof, policy = tmp_path / "x", tmp_path / "p"
    shown = quidnunc("--home", made.path, "ledger", "prove", "1", "--out", proof, "--policy-out", policy).out
    assert "4 of 6 witnesses cosigned" in shown
    assert (
        quidnunc("--home", made.path, "--json", "ledger", "verify-proof", proof).data["verdict"] == "WITNESSED 4 of 6"
    )


def test_an_owner_that_makes_up_the_end_of_a_log_does_not_get_rid_of_a_witness(ledger: Ledger) -> None:
    _, b, c, d, e = ledger.group
    ledger.grow(ledger.cosign(b, 4), ledger.cosign(c, 4))
    take_in(ledger, ended(d, e.root))
    found = ledger.verify()
    assert (found.code, found.envelope["data"]["witnesses"]) == (30, "SELF-ATTESTED")
    (layer,) = [each for each in found.envelope["data"]["layers"] if each["name"] == "cosignatures"]
    assert [(each["code"], each["seq"]) for each in layer["problems"]] == [("I15", 5)]


def test_cosignatures_that_are_none_are_named(ledger: Ledger) -> None:
    _, b, c, d, e = ledger.group
    stranger = founder(77)
    other = Log(ledger.log.log_id)
    other.append(EntryType.GENESIS, ledger.own.member.genesis, salt=b"x" * 16, t_ms=1)
    forked = other.checkpoint(key_of(ledger.own, Role.LOG))
    ledger.grow(
        ledger.cosign(stranger, 2),
        ledger.cosign(b, 1, forked),
        (c, 2, ledger.cosign(d, 2)[2]),
        (d, 3, ledger.notes[3]),
        (e, 9, ledger.cosign(e, 4)[2]),
    )
    result = ledger.verify()
    assert result.code == 30
    layers = {layer["name"]: layer for layer in result.envelope["data"]["layers"]}
    found = layers["cosignatures"]
    assert (found["checked"], found["failed"]) == (5, 5)
    assert {each["code"] for each in found["problems"]} == {"I16"}
    whys = " / ".join(each["why"] for each in found["problems"])
    for part in ("not a member of the charter", "not the own checkpoint of that size", "did not cosign the note"):
        assert part in whys
    assert result.envelope["data"]["witnesses"] == "SELF-ATTESTED"


def shown_time(size: int) -> str:
    return when((SECONDS + size) * 1000)


def test_an_entry_is_bounded_by_the_cosignatures_after_it_and_those_cited_before_it(ledger: Ledger) -> None:
    _, b, c, d, e = ledger.group
    first = ledger.sum_up(ledger.cosign(b, 3), ledger.cosign(c, 4), ledger.cosign(d, 4), ledger.cosign(e, 2))
    ledger.grow(ledger.cosign(b, 5), ledger.cosign(c, 5))
    ledger.grow(ledger.cosign(d, 6))
    assert ledger.verify().code == 0
    assert ledger.verify().data["layers"][-1]["checked"] == 4 + 3
    covered = ledger.show(1)
    assert covered["not_after"] == shown_time(4), "the third of four was the last the quorum needed"
    assert covered["not_before"] is None
    later = ledger.show(first)
    assert later["not_before"] == shown_time(4)
    assert later["not_after"] == shown_time(6), "by what lies beside the ledger: 5, 5 and 6"
    last = ledger.show(ledger.log.size - 1)
    assert (last["not_after"], last["first_unseen"]) == (None, shown_time(6))
    assert last["flag"] == "BACKDATED", "it claims two milliseconds after 1970"
    text = quidnunc("--home", ledger.path, "ledger", "show", str(first)).out
    assert f"not before {shown_time(4)} · not after {shown_time(6)} · BACKDATED" in text


def test_one_witness_less_than_a_quorum_bounds_nothing(ledger: Ledger) -> None:
    ledger.grow(*(ledger.cosign(each, 4) for each in ledger.group[1:3]))
    assert ledger.show(1)["not_after"] is None


def test_a_summary_of_what_nobody_cosigned_is_named_by_its_entry(ledger: Ledger) -> None:
    _, b, c, d, _ = ledger.group
    seq = ledger.sum_up(ledger.cosign(b, 2), (c, 3, ledger.cosign(d, 3)[2]), ledger.cosign(founder(77), 2))
    late = ledger.sum_up(ledger.cosign(d, 3), sized=9)
    result = ledger.verify()
    assert result.code == 30
    layers = result.envelope["data"]["layers"]
    found = [(p["code"], p["seq"], p["why"]) for layer in layers for p in layer["problems"]]
    assert {(code, at) for code, at, _ in found} == {("I16", seq), ("I16", late)}
    whys = " / ".join(why for _, _, why in found)
    for part in (f"{c.member.name} did not cosign", "is not a member", "more entries than there were"):
        assert part in whys
    assert ledger.show(seq)["not_before"] == shown_time(2), "what holds still counts"


# Proofs with cosignatures.

TOOL = Path(__file__).parent.parent / "tools" / "verify_proof.py"


def prove(ledger: Ledger, ref: int, path: Path, *words: str | Path) -> Any:
    return quidnunc("--home", ledger.path, "--json", "ledger", "prove", str(ref), "--out", path, *words).data


def test_a_proof_carries_the_checkpoint_that_most_have_cosigned(ledger: Ledger, tmp_path: Path) -> None:
    _, b, c, d, e = ledger.group
    ledger.grow(ledger.cosign(b, 4), ledger.cosign(c, 3), ledger.cosign(d, 3), ledger.cosign(e, 3))
    data = prove(ledger, 1, tmp_path / "p", "--policy-out", tmp_path / "policy")
    assert (data["size"], data["verdict"]) == (3, "WITNESSED 3 of 4")
    assert {each["witness"] for each in data["cosigned"]} == {each.member.name for each in (c, d, e)}
    # Entry 3 came after that checkpoint: one cosigned it, which is no quorum.
    later = prove(ledger, 3, tmp_path / "q")
    assert (later["size"], later["verdict"], len(later["cosigned"])) == (4, "SELF-ATTESTED", 1)
    made = prove(ledger, 4, tmp_path / "r")
    assert (made["size"], made["cosigned"]) == (5, [])
    checked = ("--home", tmp_path / "nowhere", "--json", "ledger", "verify-proof")
    found = quidnunc(*checked, tmp_path / "p", "--policy", tmp_path / "policy").data
    assert (found["verdict"], found["quorum_met"]) == ("WITNESSED 3 of 4", True)
    assert found["not_after"] == "2025-10-09T08:53:23.000Z"
    assert quidnunc(*checked, tmp_path / "q", "--policy", tmp_path / "policy").code == 32


def test_of_as_many_cosignatures_the_newest_checkpoint_counts(ledger: Ledger, tmp_path: Path) -> None:
    _, b, c, _, _ = ledger.group
    ledger.grow(ledger.cosign(b, 2), ledger.cosign(c, 4))
    assert prove(ledger, 0, tmp_path / "p")["size"] == 4


def test_the_independent_verifier_counts_the_same_witnesses(ledger: Ledger, tmp_path: Path) -> None:
    ledger.grow(*(ledger.cosign(each, 4) for each in ledger.group[1:4]))
    key = prove(ledger, 2, tmp_path / "p")["key"]
    words = [word for each in ledger.group[1:] for word in ("--witness", format_vkey(witness_of(each)))]
    for quorum, code in (("3", 0), ("4", 32)):
        ran = subprocess.run(
            [sys.executable, TOOL, "--log", key, *words, "--quorum", quorum, tmp_path / "p"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == code, ran.stdout + ran.stderr
        assert "3 of 4 witnesses" in ran.stdout


def witness_of(member: Founder) -> Verifier:
    return witness_verifier(member.member.log_id, key_of(member, Role.WITNESS).public)


def test_a_cosignature_that_does_not_verify_stays_behind(ledger: Ledger, tmp_path: Path) -> None:
    """One bad line of a known key would spoil the proof for whoever knows that key."""
    _, b, c, d, _ = ledger.group
    bad = cosign_checkpoint(ledger.notes[4], c.member.log_id, key_of(d, Role.WITNESS), time=SECONDS)
    ledger.grow(ledger.cosign(b, 4), (c, 4, bad), (d, 4, ledger.notes[4]), ledger.cosign(founder(77), 4))
    data = prove(ledger, 1, tmp_path / "p")
    assert [each["witness"] for each in data["cosigned"]] == [b.member.name]
    assert len((tmp_path / "p").read_text().split("\n\n")[2].splitlines()) == 2


def test_without_a_charter_a_proof_has_no_cosignatures(ledger: Ledger, tmp_path: Path) -> None:
    ledger.grow(*(ledger.cosign(each, 4) for each in ledger.group[1:4]))
    Home.at(ledger.path).charter.write_bytes(b"broken")
    result = quidnunc("--home", ledger.path, "--json", "ledger", "prove", "1", "--out", tmp_path / "p")
    assert (result.data["cosigned"], result.data["size"]) == ([], 5)
    assert "cosignatures are left out" in result.envelope["warnings"][0]
