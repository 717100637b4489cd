"""``ledger erase``: the payload is gone from the disk, the entry stays, and nothing that matters may go."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import make_home, quidnunc
from node_helpers import parsed, start_all, toy_world

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.crypto.errors import LedgerCorrupt, LocalProtocolError
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.crypto.token import make_token
from quidnunc.gossip.audit import Audit
from quidnunc.gossip.erasure import why_not
from quidnunc.gossip.federation.card import open_card
from quidnunc.gossip.neighbor import LEAVES_KEPT
from quidnunc.gossip.provenance import (
    CharterAdopt,
    MessageRefused,
    NodeStart,
    PayloadErased,
    Record,
    ReputationChange,
    UpdatePublished,
    UpdateReceived,
    payload_of,
)
from quidnunc.gossip.resume import fold
from quidnunc.peer import keys
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store

OTHER = b"o" * 32
MARK = "device-that-must-be-forgotten"


class Sender:
    """A neighbor whose updates, with their tokens, all tests take in."""

    def __init__(self) -> None:
        self.log = Log(OTHER)
        self.tokens: dict[int, bytes] = {}
        self.leaves: dict[int, bytes] = {}
        key = SecretKey.from_seed(b"k" * 32)
        for number in range(1, LEAVES_KEPT + 2):
            states = bytes([number - 1]) * 32, bytes([number]) * 32
            update = UpdatePublished(
                b"f" * 32, b"s" * 32, number, number, states[0], *states, b"m" * 32, 9, 1, 1, b"d" * 32, 9, None
            )
            entry = self.log.append(update.TYPE, payload_of(update), salt=b"t" * 16, t_ms=number)
            self.tokens[number] = make_token(entry, self.log.inclusion(number - 1), self.log.checkpoint(key))
            self.leaves[number] = entry.leaf


SENDER = Sender()


def received(number: int, reason: int = 0) -> UpdateReceived:
    token = hashlib.sha256(SENDER.tokens[number]).digest()
    reasons = (reason,) if reason else ()
    hashes = (b"t" * 32, token, number, b"m" * 32, bytes([number]) * 32)
    return UpdateReceived(OTHER, number - 1, SENDER.leaves[number], number, *hashes, False, int(bool(reason)), reasons)


START = NodeStart(1, "0.1.0", "3.11.7", "2.13.0", MARK)
RECORDS: list[Record] = [
    CharterAdopt(b"c" * 32, 0, (OTHER,), 1, b"g" * 32),
    START,
    received(1),
    MessageRefused(OTHER, 1, 3, 100, b"h" * 32),
    received(2, 2),
    ReputationChange(OTHER, 0, 1, (5,)),
    *(received(number) for number in range(2, LEAVES_KEPT + 2)),
    replace(START, incarnation=2),
]
"""Entries 1 and on; the last one is the newest start."""

MAY = [2, 3, 4, 6]
LAST = len(RECORDS)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("erase") / "a"
    make_home(root, "Hospital A")
    home = Home.at(root)
    card = open_card(home.card.read_bytes())
    log = Log(card.log_id)
    key = SecretKey(derive_seed(keys.load(home.operational_key, "operational"), Role.LOG, 0))
    entries = [log.append(EntryType.GENESIS, card.genesis, salt=b"s" * 16, t_ms=1)]
    for number, record in enumerate(RECORDS):
        entries.append(
            log.append(
                record.TYPE, payload_of(record), salt=hashlib.sha256(bytes([number])).digest()[:16], t_ms=2 + number
            )
        )
    with Store.open(home.ledger) as store:
        rows = [(hashlib.sha256(body).digest(), OTHER, number, body) for number, body in SENDER.tokens.items()]
        store.commit(entries, log.checkpoint(key), rows)
    return root


@pytest.fixture
def home(written: Path, tmp_path: Path) -> Home:
    return Home.at(shutil.copytree(written, tmp_path / "a"))


def erase(home: Home, *words: str | int) -> Any:
    return quidnunc(
        "--home", home.root, "--json", "ledger", "erase", *map(str, words), "--reason", "request", "--no-input"
    )


def ledger(home: Home, *words: str) -> Any:
    return quidnunc("--home", home.root, "--json", "ledger", *words)


def raw(home: Home) -> bytes:
    return b"".join(path.read_bytes() for path in home.state.glob("ledger.db*"))


def test_the_payload_is_gone_and_everything_still_verifies(home: Home, tmp_path: Path) -> None:
    with Store.open(home.ledger, readonly=True) as store:
        salt, before = store.entry(2).salt, [entry.leaf for entry in store.entries()]
    data = erase(home, *MAY, "--yes").data
    assert (data["erased"], data["entry"]) == (MAY, LAST + 1)
    bytes_left = raw(home)
    assert SENDER.tokens[1] not in bytes_left, "with the entry goes the copy of what it is about"
    assert SENDER.tokens[2] in bytes_left
    assert salt not in bytes_left
    assert bytes_left.count(MARK.encode()) == 1, "that of the newest start"
    verified = ledger(home, "verify")
    assert verified.code == 0, verified.err
    with Store.open(home.ledger) as store:
        assert [entry.leaf for entry in store.entries(0, LAST + 1)] == before
        assert [seq for seq, entry in enumerate(store.entries()) if entry.erased] == MAY
        resumed = fold(store.entries())
    assert (resumed.incarnation, resumed.tracked[OTHER].number) == (2, LEAVES_KEPT + 1)
    shown = ledger(home, "show", "2").data
    assert (shown["erased"], shown["payload"], shown["summary"]) == (True, None, "payload was erased")
    last = ledger(home, "log", "-n", "1").data["log"][0]
    assert last["summary"] == "payloads of 4 entries erased (request): 2, 3, 4, 6"
    assert quidnunc("--home", home.root, "ledger", "prove", "2", "--out", tmp_path / "p").code == 0
    proven = quidnunc("--home", home.root, "--json", "ledger", "verify-proof", tmp_path / "p")
    assert (proven.code, proven.envelope["data"]["erased"]) == (32, True)


def test_again_is_no_harm_and_finishes_what_was_cut_short(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Store, "erase", lambda self, seqs: None)
        assert erase(home, 2, "--yes").code == 0
    assert ledger(home, "verify").code == 0
    with Store.open(home.ledger, readonly=True) as store:
        assert not store.entry(2).erased
    first = erase(home, 2, "--yes").data
    assert first == erase(home, 2, "--yes").data
    with Store.open(home.ledger, readonly=True) as store:
        assert store.entry(2).erased
        assert store.size == LAST + 2


@pytest.mark.parametrize(
    ("seq", "why"),
    [
        (0, "the peer's start, its budget or a proof rests on it"),
        (1, "the peer's start, its budget or a proof rests on it"),
        (5, "it is a refusal"),
        (7, f"only {LEAVES_KEPT - 1} later updates"),
        (LAST, "the newest start"),
        (LAST + 1, "there is no such entry"),
        (-1, "there is no such entry"),
    ],
)
def test_what_matters_cannot_be_erased(home: Home, seq: int, why: str) -> None:
    before = home.ledger.read_bytes()
    words = ["--yes", "2", "--", str(seq)] if seq < 0 else ["--yes", "2", str(seq)]
    result = quidnunc("--home", home.root, "--json", "ledger", "erase", "--reason", "request", *words)
    assert result.code == 40
    assert list(result.envelope["data"]["refused"]) == [str(seq)]
    assert why in result.envelope["data"]["refused"][str(seq)]
    assert home.ledger.read_bytes() == before
    with Store.open(home.ledger, readonly=True) as store:
        assert (store.size, store.entry(2).erased) == (LAST + 1, False)


def test_it_asks_first_and_not_beside_a_running_peer(home: Home) -> None:
    asked = erase(home, 2)
    assert (asked.code, "add --yes" in asked.err) == (2, True)
    with home.lock():
        assert erase(home, 2, "--yes").code == 4
    with Store.open(home.ledger, readonly=True) as store:
        assert store.size == LAST + 1


def test_a_payload_that_is_missing_without_a_word_is_damage(home: Home) -> None:
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("UPDATE entry SET payload = x'', salt = x'' WHERE seq = 3")
    connection.close()
    result = ledger(home, "verify")
    assert result.code == 30
    problems = [each for layer in result.envelope["data"]["layers"] for each in layer["problems"]]
    assert [(each["code"], each["seq"]) for each in problems] == [("I5", 3)]
    with pytest.raises(LedgerCorrupt, match="no later entry says it was erased"):
        Store.open(home.ledger)
    with Store.open(home.ledger, readonly=True) as store, pytest.raises(LedgerCorrupt, match="no later entry"):
        fold(store.entries())


def test_a_store_erases_only_what_an_entry_names(home: Home) -> None:
    with Store.open(home.ledger) as store:
        with pytest.raises(LocalProtocolError, match="no entry says that they are erased"):
            store.erase([2])
        with pytest.raises(LocalProtocolError, match="without its payload"):
            store.commit([store.entry(2)._replace(payload=b"", salt=b"")], b"")


def test_an_erased_update_does_not_look_like_a_gap_but_only_once(home: Home) -> None:
    """After an erasure the next accepted update of each sender is believed; one after that must follow it."""

    def findings(*numbers: int | None) -> list[str]:
        audit = Audit(OTHER)
        for seq, number in enumerate(numbers, 1):
            if number is None:
                audit.erased(seq, EntryType.UPDATE_RECEIVED)
            else:
                audit.read(seq, EntryType.UPDATE_RECEIVED, payload_of(received(number)))
        return [finding.code for finding in audit.findings]

    assert findings(1, 2, 3) == findings(None, 2, 3) == findings(1, None, 3, 4) == findings(None, None, 3) == []
    assert findings(1, 3) == findings(None, 2, 4) == findings(1, None, 3, 5) == ["I13"]
    assert findings(1, 2, None, 2) == ["I13"]


def test_erasing_the_newest_and_only_what_is_asked(written: Path) -> None:
    with Store.open(Home.at(written).ledger, readonly=True) as store:
        entries = list(store.entries())
    assert why_not(entries, MAY) == {}
    assert set(why_not(entries, range(len(entries)))) == set(range(len(entries))) - set(MAY)
    assert parse_header(entries[LAST].header).type == EntryType.NODE_START


def test_a_peer_goes_on_from_a_ledger_with_erased_payloads() -> None:
    """Its first start is erased while it is down: it starts again, and its neighbors take what it publishes."""
    world, _ = toy_world(3)
    start_all(world)
    world.run(6.0)
    world.crash(0)
    world.start(0)
    world.run(9.0)
    world.crash(0)
    peer = world.peers[0]
    log = Log(peer.log_id)
    for entry in peer.disk.entries:
        log.replay(entry)
    starts = [header.seq for header, record in parsed(peer.disk.entries) if isinstance(record, NodeStart)]
    assert why_not(peer.disk.entries, starts) == {starts[-1]: "it is the newest start, which the next one counts from"}
    record = PayloadErased((starts[0],), 1)
    peer.disk.entries.append(log.append(record.TYPE, payload_of(record), salt=b"e" * 16, t_ms=log.last_t_ms))
    peer.disk.entries[starts[0]] = peer.disk.entries[starts[0]]._replace(payload=b"", salt=b"")
    number = fold(peer.disk.entries).number
    world.start(0)
    world.run(20.0)
    assert peer.node is not None
    assert peer.node.publisher.number > number
    for other in world.peers[1:]:
        assert other.node is not None
        assert other.node.neighbors[peer.log_id].number >= peer.node.publisher.number - 2
        assert not other.node.exposure.frozen(peer.log_id)
