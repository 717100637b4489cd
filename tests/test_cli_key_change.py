"""``key rotate`` and ``key revoke``: entries by the root key; what is signed behind a rotation is by the new key."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import make_home, quidnunc

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.crypto.errors import LedgerCorrupt
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.gossip.federation.card import open_card
from quidnunc.gossip.provenance import NodeStart, payload_of
from quidnunc.peer import keys
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store

START = NodeStart(1, "1", "3", "2", "cpu")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose ledger holds a genesis and a start."""
    root = tmp_path_factory.mktemp("rotate") / "a"
    make_home(root, "Hospital A")
    home = Home.at(root)
    member = open_card(home.card.read_bytes())
    log = Log(member.log_id)
    entries = [log.append(EntryType.GENESIS, member.genesis, salt=b"s" * 16, t_ms=1), started(log)]
    with Store.open(home.ledger) as store:
        store.commit(entries, log.checkpoint(log_key(home)))
    return root


@pytest.fixture
def home(written: Path, tmp_path: Path) -> Home:
    return Home.at(Path(shutil.copytree(written, tmp_path / "a")))


def log_key(home: Home, epoch: int = 0) -> SecretKey:
    return SecretKey(derive_seed(keys.load(home.operational_key, "operational"), Role.LOG, epoch))


def started(log: Log, epoch: int = 0) -> Any:
    return log.append(START.TYPE, payload_of(START), salt=b"t" * 16, t_ms=2, key_epoch=epoch)


def run(home: Home, *words: Any) -> Any:
    return quidnunc("--home", home.root, "--json", "--yes", *words)


def replayed(store: Store) -> Log:
    log = Log(store.log_id)
    for entry in store.entries():
        log.replay(entry)
    return log


def test_a_rotated_log_verifies_goes_on_by_the_new_key_and_proves_its_entries_by_the_valid_one(home: Home) -> None:
    told = run(home, "key", "rotate").data
    assert (told["entry"], told["epoch"], told["public"]) == (2, 1, log_key(home, 1).public.hex())
    assert run(home, "key", "rotate").data["epoch"] == 2
    assert run(home, "key", "revoke", "--epoch", "0", "--since", "2").data == {
        "revoked": True,
        "entry": 4,
        "epoch": 0,
        "since": 2,
    }
    assert run(home, "ledger", "erase", "1", "--reason", "request").code == 40, "the newest start"
    with Store.open(home.ledger) as store:
        log = replayed(store)
        store.commit([started(log, 2)], log.checkpoint(log_key(home, 2)))
        assert [span.public for span in store.keys.spans] == [log_key(home, epoch).public for epoch in range(3)]
        assert store.keys.revoked == ((0, 2),)
    assert run(home, "ledger", "erase", "1", "--reason", "request").data["entry"] == 6
    assert run(home, "ledger", "fsck").code == 0
    assert run(home, "ledger", "verify").code in (0, 32)
    status = run(home, "ledger", "status").data
    spans = [(each["first"], each["last"], each["since"]) for each in status["keys"]]
    assert spans == [(0, 3, 2), (4, 4, None), (5, None, None)]
    assert "log key 0" in quidnunc("--home", home.root, "ledger", "status").out
    proof = home.root / "p.tlog-proof"
    proven = run(home, "ledger", "prove", "0", "--out", proof).data
    assert quidnunc("ledger", "verify-proof", proof, "--key", proven["key"]).code == 0
    assert run(home, "ledger", "verify-proof", proof).code == 0, "this home knows its own keys"
    assert quidnunc("ledger", "verify-proof", proof, "--key", proven["key"].replace("A", "B", 1)).code != 0
    assert run(home, "ledger", "retire", "--reason", "ended").data["entry"] == 7
    assert run(home, "ledger", "fsck").code == 0
    assert run(home, "key", "rotate").code == 40


@pytest.mark.parametrize(("epoch", "signer"), [(0, 1), (1, 0), (0, 0)])
def test_the_store_takes_nothing_of_an_epoch_that_is_not_valid(home: Home, epoch: int, signer: int) -> None:
    assert run(home, "key", "rotate").code == 0
    with Store.open(home.ledger) as store:
        log = replayed(store)
        with pytest.raises(LedgerCorrupt):
            store.commit([started(log, epoch)], log.checkpoint(log_key(home, signer)))
    with Store.open(home.ledger) as store:
        assert store.size == 3


def test_a_header_of_another_epoch_and_a_checkpoint_by_an_old_key_are_named(home: Home) -> None:
    before = home.ledger.read_bytes()
    with Store.open(home.ledger, readonly=True) as store:
        log = replayed(store)
    entry = started(log, 1)
    note = log.checkpoint(log_key(home))
    with sqlite3.connect(home.ledger) as connection:
        row = (2, entry.header, parse_header(entry.header).type, entry.payload, entry.salt)
        connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", row)
        connection.execute("INSERT INTO checkpoint VALUES (3, ?)", (note,))
    connection.close()
    assert ("I22", 2) in broken(home)
    home.ledger.write_bytes(before)
    assert run(home, "key", "rotate").code == 0
    with Store.open(home.ledger, readonly=True) as store:
        log = replayed(store)
    entry = started(log, 1)
    with sqlite3.connect(home.ledger) as connection:
        row = (3, entry.header, parse_header(entry.header).type, entry.payload, entry.salt)
        connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", row)
        connection.execute("INSERT INTO checkpoint VALUES (4, ?)", (log.checkpoint(log_key(home)),))
    connection.close()
    assert ("I7", 4) in broken(home)
    with pytest.raises(LedgerCorrupt):
        Store.open(home.ledger)


def test_a_rotation_that_was_tampered_with_is_named_by_verify_and_ends_a_start(home: Home) -> None:
    assert run(home, "key", "rotate").code == 0
    with sqlite3.connect(home.ledger) as connection:
        ((payload,),) = connection.execute("SELECT payload FROM entry WHERE seq = 2")
        place = payload.index(log_key(home, 1).public)
        spoiled = payload[:place] + log_key(home, 2).public + payload[place + 32 :]
        connection.execute("UPDATE entry SET payload = ? WHERE seq = 2", (spoiled,))
    connection.close()
    assert {("I22", 2), ("I5", 2)} <= broken(home)
    assert run(home, "ledger", "verify").code == 30
    with pytest.raises(LedgerCorrupt):
        Store.open(home.ledger)


def broken(home: Home) -> set[tuple[str, int]]:
    found = run(home, "ledger", "fsck").envelope["data"]["invariants"]
    return {(each["code"], problem["seq"]) for each in found for problem in each["problems"]}


def test_what_is_refused_changes_nothing(home: Home, tmp_path: Path) -> None:
    before = home.ledger.read_bytes()
    make_home(tmp_path / "c", "Hospital C")
    assert run(home, "key", "rotate", "--key", Home.at(tmp_path / "c").root_key).code == 77
    assert quidnunc("--home", home.root, "--no-input", "key", "rotate").code == 2
    assert run(home, "key", "revoke", "--epoch", "0", "--since", "1").code == 2, "rotate first"
    assert run(home, "key", "revoke", "--epoch", "-1", "--since", "1").code == 2
    for epoch, since in ((2**64, 1), (0, 2**64), (10**38, 10**38), (2**64 - 1, 2**64 - 1)):
        refused = run(home, "key", "revoke", "--epoch", str(epoch), "--since", str(since))
        assert refused.code == 2, "regression: what no entry can hold ended as a bug"
    with home.lock():
        assert run(home, "key", "rotate").code == 4
    assert run(Home.at(tmp_path / "c"), "key", "rotate").code == 2, "nothing was signed yet"
    assert home.ledger.read_bytes() == before
    assert run(home, "key", "rotate").code == 0
    after = home.ledger.read_bytes()
    assert run(home, "key", "revoke", "--epoch", "1", "--since", "3").code == 2, "the newest"
    assert run(home, "key", "revoke", "--epoch", "0", "--since", "4").code == 2, "beyond what it signed"
    assert home.ledger.read_bytes() == after
    assert run(home, "ledger", "farewell").code in (2, 64), "it goes on, and has no charter"
