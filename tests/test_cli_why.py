"""``ledger why``, ``peers``, ``watch``, and the filters of ``log``: what one ledger tells of its neighbors."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import quidnunc
from founders import charter, founders

from quidnunc.crypto.entry import commit_private
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.gossip.federation.card import make_card
from quidnunc.gossip.federation.founding import draft_note
from quidnunc.gossip.federation.terms import MergeSpec
from quidnunc.gossip.jobs import PPB, WITHHELD, Standing
from quidnunc.gossip.merging import rule_hash_of
from quidnunc.gossip.provenance import (
    EquivocationProof,
    Merge,
    MergeRow,
    MessageRefused,
    Record,
    ReputationChange,
    UpdateReceived,
    payload_of,
    write_standings,
)
from quidnunc.peer.commands import ledger_peers
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store

OWN, B, C, D, E = founders(5)
NAMES = {each.member.log_id: each.member.name for each in (OWN, B, C, D, E)}
STATE = {name: bytes([ord(name)]) * 32 for name in "bcdxyz"}


class Author:
    """Writes a ledger into a home of its own, one entry a commit."""

    def __init__(self, path: Path) -> None:
        self.home = Home.at(path)
        self.home.create()
        self.home.card.write_bytes(make_card(OWN.member, OWN.root))
        self.home.charter.write_bytes(draft_note(charter([OWN, B, C, D, E])))
        Store.create(self.home.ledger, OWN.member.log_id, OWN.member.log).close()
        self.log = Log(OWN.member.log_id)
        self.key = SecretKey(derive_seed(OWN.secret, Role.LOG, 0))

    def write(self, *records: Record, private: bytes = b"") -> None:
        with Store.open(self.home.ledger) as store:
            for record in records:
                salts = {"private": private, "private_salt": b"p" * 16} if private else {}
                t_ms = 1_800_000_000_000 + 1000 * self.log.size
                entry = self.log.append(record.TYPE, payload_of(record), salt=b"s" * 16, t_ms=t_ms, **salts)
                store.commit([entry], self.log.checkpoint(self.key))


def received(who: Any, number: int, state: bytes, *reasons: int) -> UpdateReceived:
    hashes = (b"l" * 32, number, b"t" * 32, b"k" * 32)
    return UpdateReceived(
        who.member.log_id, number, *hashes, number, b"m" * 32, state, False, int(bool(reasons)), reasons
    )


def row(who: Any, seq: int, state: bytes, weight: int, effective: int, clip: int = PPB) -> MergeRow:
    return MergeRow(state, who.member.log_id, seq, weight, effective, clip)


STANDINGS = write_standings({B.member.log_id: Standing(3.0, 1.0, 0.5)})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two merges: B whole, C clipped, D excluded and once refused, E never heard of."""
    made = Author(tmp_path_factory.mktemp("why") / "a")
    made.write(received(B, 1, STATE["b"]), received(C, 1, STATE["c"]), received(D, 1, STATE["d"]))
    made.write(ReputationChange(D.member.log_id, 0, 2, (2,)), received(D, 2, STATE["x"], 2))
    own = MergeRow(b"o" * 32, OWN.member.log_id, 0, PPB, 7 * PPB // 10, PPB)
    rows = (
        own,
        row(B, 1, STATE["b"], PPB // 5, PPB // 5),
        row(C, 1, STATE["c"], PPB // 5, PPB // 10, PPB // 2),
        row(D, 1, STATE["d"], PPB // 5, 0),
    )
    commitment = commit_private(b"p" * 16, STANDINGS)
    made.write(Merge(4, STATE["y"], b"a" * 32, rows, False, 0, (0, 1, 2), commitment), private=STANDINGS)
    made.write(
        received(C, 2, STATE["x"]),
        MessageRefused(B.member.log_id, 1, 3, 100, b"h" * 32),
        EquivocationProof(D.member.log_id, "A", b"e" * 32, None),
        Merge(5, STATE["z"], b"a" * 32, (own, row(C, 2, STATE["x"], PPB // 5, PPB // 20)), False, 1, (6,), None),
    )
    return made.home.root


def ledger(home: Path, *words: str) -> Any:
    return quidnunc("--home", home, "--json", "ledger", *words).data


def test_why_tells_of_every_member_what_the_merge_made_of_it(home: Path) -> None:
    (merge,) = ledger(home, "why", "4", "--private")["merges"]
    inputs = {each["name"]: each for each in merge["inputs"]}
    assert (merge["entry"], merge["round"], merge["step"], merge["own"]) == (5, 4, "full step", 0.7)
    whole, clipped, excluded = (inputs[each.member.name] for each in (B, C, D))
    assert (whole["weight"], whole["effective"], whole["clip"], whole["reasons"]) == (0.2, 0.2, 1.0, [])
    assert (whole["update"], whole["entry"], whole["new"]) == (1, 0, True)
    assert clipped["reasons"] == ["its difference was longer than the clip radius: 50% of it counts"]
    assert excluded["standing"] == "excluded"
    assert excluded["reasons"][0] == "its standing is excluded"
    assert excluded["reasons"][-1] == "it was not used"
    assert [(each["name"], each["entry"], each["reason"]) for each in merge["refused"]] == [
        (D.member.name, 4, "bad_signature")
    ]
    assert [each["name"] for each in merge["absent"]] == [E.member.name]
    assert merge["private"]["standings"][0]["harm"] == 0.5
    shown = quidnunc("--home", home, "ledger", "why", "4").out
    assert "clip radius" in shown
    assert "harm" not in shown, "what is private is told only when asked for"
    assert "private" not in ledger(home, "why", "4")["merges"][0]
    assert "harm 0.5" in quidnunc("--home", home, "ledger", "why", "4", "--private").out


def test_why_goes_on_from_merge_to_merge(home: Path) -> None:
    (merge,) = ledger(home, "why", STATE["z"].hex()[:8])["merges"]
    assert (merge["round"], merge["step"]) == (5, "quarter step")
    assert "a quarter of it was taken" in merge["step_reason"]
    assert merge["inputs"][0]["reasons"] == [], "it counts a quarter, as everybody does"
    absent = {each["name"]: each["reasons"][0] for each in merge["absent"]}
    assert absent[D.member.name] == "frozen since entry 8: its key signed two histories"
    assert "not connected" in absent[B.member.name]
    assert "no neighbor, or has not spoken" in absent[E.member.name]
    assert [each["reason"] for each in merge["refused"]] == ["malformed"]


def test_why_of_an_update_says_where_it_went(home: Path) -> None:
    told = ledger(home, "why", STATE["c"].hex())
    assert told["merges"] == []
    assert [(each["entry"], each["what"]) for each in told["mentions"]] == [
        (1, f"update 1 of {C.member.name} accepted"),
        (5, "merged in round 4 with 10.0%"),
    ]
    refused = ledger(home, "why", STATE["x"].hex()[:10])["mentions"]
    assert refused[0]["what"] == f"update 2 of {D.member.name} refused: bad_signature"


def test_why_explains_a_rule_without_weights(tmp_path: Path) -> None:
    made = Author(tmp_path / "a")
    agreed = charter([OWN, B, C, D, E], merge=MergeSpec("trimmed_mean", 1_000_000, {"bad": 1_000_000}))
    made.home.charter.write_bytes(draft_note(agreed))
    named = rule_hash_of(agreed.merge)
    own = MergeRow(b"o" * 32, OWN.member.log_id, 0, PPB, PPB // 2, PPB)
    rows = (own, row(B, 1, STATE["b"], PPB // 5, PPB // 2), row(C, 1, STATE["c"], PPB // 5, 0))
    kept = (own._replace(effective=PPB), row(B, 1, STATE["b"], PPB // 5, 0))
    made.write(
        Merge(4, STATE["y"], named, rows, True, 0, (), None),
        Merge(5, STATE["z"], named, kept, False, WITHHELD, (), None),
        Merge(6, STATE["x"], b"a" * 32, rows, True, 0, (), None),
    )
    (merge,) = ledger(tmp_path / "a", "why", "4")["merges"]
    assert (merge["rule"], merge["approximate"]) == ("trimmed_mean", True)
    assert [each["reasons"] for each in merge["inputs"]] == [
        ["trimmed_mean treats every coordinate by itself: it decided 50.0% of them"],
        ["trimmed_mean treats every coordinate by itself: it decided 0.0% of them"],
    ]
    (few,) = ledger(tmp_path / "a", "why", "5")["merges"]
    assert (few["step"], few["step_reason"]) == (
        "too few rows",
        "the rule needs more rows than were heard: the own state was kept",
    )
    (other,) = ledger(tmp_path / "a", "why", "6")["merges"]
    assert (other["rule"], other["inputs"][1]["reasons"]) == (None, ["it was not used"]), "a rule that is not known"


@pytest.mark.parametrize(
    ("ref", "why"),
    [("99", "no merge of round 99"), ("0" * 8, "no state with a hash"), ("xyz", "neither a round"), ("abc", "neither")],
)
def test_why_of_nothing(home: Path, ref: str, why: str) -> None:
    result = quidnunc("--home", home, "ledger", "why", ref)
    assert (result.code, why in result.err) == (2, True)


def test_peers_sums_up_every_member(home: Path) -> None:
    rows = {each["name"]: each for each in ledger(home, "peers")["peers"]}
    assert OWN.member.name not in rows
    b, c, d, e = (rows[each.member.name] for each in (B, C, D, E))
    assert (b["accepted"], b["refused"], b["update"]) == (1, 3, 1)
    assert (c["accepted"], c["refused"], c["update"]) == (2, 0, 2)
    assert (d["accepted"], d["refused"], d["standing"], d["frozen"]) == (1, 1, "excluded", 8)
    assert (e["accepted"], e["update"], e["cosigned"], e["last"]) == (0, None, None, None)
    assert "EXPOSED" in quidnunc("--home", home, "ledger", "peers").out


def seqs(home: Path, *words: str) -> list[int]:
    return [each["seq"] for each in ledger(home, "log", "-n", "0", *words)["log"]]


def test_log_selects_by_member_model_round_and_time(home: Path) -> None:
    assert seqs(home, "--peer", C.member.name) == [1, 5, 6, 9]
    assert seqs(home, "--peer", D.member.log_id.hex()[:8]) == [2, 3, 4, 5, 8]
    assert seqs(home, "--model", STATE["x"].hex()[:8]) == [4, 6, 9]
    assert seqs(home, "--round", "5") == [9]
    assert seqs(home, "--since", "2027-01-15T08:00:07Z") == [7, 8, 9]
    assert seqs(home, "--until", "2027-01-15T08:00:02") == [0, 1]
    assert seqs(home, "--since", "2027-01-15T09:00:07+01:00", "--type", "merge", "--peer", C.member.name) == [9]
    for words in (["--peer", "nobody"], ["--model", "xy"], ["--since", "yesterday"], ["--round", "x"]):
        assert quidnunc("--home", home, "ledger", "log", *words).code == 2


def test_show_tells_what_an_entry_has_to_do_with(home: Path) -> None:
    merge = ledger(home, "show", "5", "--raw", "--private")
    assert (merge["cites"], merge["cited_by"]) == ([0, 1, 2], [])
    assert {(each["name"], each["seq"]) for each in merge["elsewhere"]} == {(each.member.name, 1) for each in (B, C, D)}
    assert merge["blobs"] == [{"what": "result", "hash": STATE["y"].hex(), "held": False}]
    assert merge["private"]["standings"][0]["good"] == 3.0
    assert merge["raw"]["salt"] == (b"s" * 16).hex()
    assert ledger(home, "show", "2")["cited_by"] == [3, 5]
    plain = ledger(home, "show", "5")
    assert not {"raw", "private"} & plain.keys()


# watch.


def test_watch_begins_where_it_is_told_and_ends_after_so_many(home: Path) -> None:
    result = quidnunc("--home", home, "ledger", "watch", "-n", "4", "--count", "4")
    assert [line.split()[0] for line in result.out.splitlines()] == ["6", "7", "8", "9"]
    alarms = quidnunc("--home", home, "ledger", "watch", "-n", "100", "--count", "4", "--alarms").out.splitlines()
    assert [line.split()[0] for line in alarms] == ["3", "4", "7", "8"]
    assert "signed two histories" in alarms[-1]
    for words in (["-n", "-1"], ["--count", "0"]):
        assert quidnunc("--home", home, "ledger", "watch", *words).code == 2


def test_watch_tells_an_entry_that_comes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Author(tmp_path / "a")
    made.write(received(B, 1, STATE["b"]))
    looked, found = threading.Event(), []

    def pause(seconds: float) -> None:
        looked.set()
        written.wait(60.0)

    written = threading.Event()
    monkeypatch.setattr(ledger_peers.time, "sleep", pause)

    def follow() -> None:
        found.append(quidnunc("--home", made.home.root, "--json", "ledger", "watch", "--count", "2"))

    thread = threading.Thread(target=follow)
    thread.start()
    assert looked.wait(60.0), "the watcher has seen that there is nothing new"
    made.write(received(C, 1, STATE["c"]), received(D, 1, STATE["d"], 2))
    written.set()
    thread.join(60.0)
    lines = [json.loads(line) for line in found[0].out.splitlines()]
    assert [(line.get("seq"), line.get("alarm")) for line in lines[:2]] == [
        (1, None),
        (2, f"an update of {D.member.name} was refused"),
    ]
