"""``ledger retire``: the last entry, by the root key; nothing is added behind it, and no peer starts from it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import make_home, quidnunc

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.crypto.errors import LogRetired
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.gossip.federation.card import open_card
from quidnunc.gossip.provenance import PrivacySpend, payload_of
from quidnunc.gossip.resume import fold
from quidnunc.peer import keys
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.ending import require_open
from quidnunc.peer.ledger.store import Store

SPEND = PrivacySpend(1, 1, 1, 400_000, 1_000_000, 5, 1, 1, 1, b"d" * 32)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose ledger has spent epsilon 0.4."""
    root = tmp_path_factory.mktemp("retire") / "a"
    make_home(root, "Hospital A")
    home = Home.at(root)
    member = open_card(home.card.read_bytes())
    log = Log(member.log_id)
    entries = [
        log.append(EntryType.GENESIS, member.genesis, salt=b"s" * 16, t_ms=1),
        log.append(SPEND.TYPE, payload_of(SPEND), salt=b"t" * 16, t_ms=2),
    ]
    with Store.open(home.ledger) as store:
        store.commit(entries, log.checkpoint(key_of(home)))
    return root


@pytest.fixture
def home(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "a"))


def key_of(home: Home) -> SecretKey:
    return SecretKey(derive_seed(keys.load(home.operational_key, "operational"), Role.LOG, 0))


def ledger(home: Path, *words: Any) -> Any:
    return quidnunc("--home", home, "--json", "--yes", "ledger", *words)


def retire(home: Path, *words: Any) -> Any:
    return ledger(home, "retire", "--reason", "key-stolen", *words)


def test_a_log_ends_names_its_heir_and_takes_nothing_more(home: Path, tmp_path: Path) -> None:
    card = make_home(tmp_path / "b", "Hospital A", "--root-key", str(Home.at(home).root_key))
    heir = open_card(card.read_bytes()).log_id.hex()
    told = retire(home, "--successor", card).data
    expected = {"entry": 2, "reason": "key-stolen", "successor": heir}
    assert told == {"retired": True, "epsilon": 0.4, **expected}
    assert ledger(home, "status").data["retired"] == expected
    assert f"key-stolen, log {heir[:16]} goes on" in quidnunc("--home", home, "ledger", "log").out
    assert ledger(home, "fsck").code == 0
    assert ledger(home, "verify").code in (0, 32)
    before = Home.at(home).ledger.read_bytes()
    for words in (("retire", "--reason", "ended"), ("erase", "1", "--reason", "request")):
        again = ledger(home, *words)
        assert (again.code, again.envelope["error"]["id"]) == (40, "log_retired")
    assert Home.at(home).ledger.read_bytes() == before
    with Store.open(Home.at(home).ledger, readonly=True) as store:
        retired = fold(store.entries()).retired
        assert retired is not None
        assert retired.last == 2
        with pytest.raises(LogRetired, match="retired by its organization with entry 2"):
            require_open(store)


def test_only_the_root_key_ends_a_log_and_only_for_its_own(home: Path, tmp_path: Path) -> None:
    before = Home.at(home).ledger.read_bytes()
    other = make_home(tmp_path / "c", "Hospital C")
    assert retire(home, "--key", Home.at(tmp_path / "c").root_key).code == 77
    assert retire(home, "--successor", other).code == 64
    assert retire(home, "--successor", Home.at(home).card).code == 2
    assert quidnunc("--home", home, "--no-input", "ledger", "retire", "--reason", "ended").code == 2
    assert ledger(home, "retire", "--reason", "bored").code == 2
    with Home.at(home).lock():
        assert retire(home).code == 4
    os.rename(Home.at(home).root_key, tmp_path / "root.key")
    assert retire(home).code == 77
    assert Home.at(home).ledger.read_bytes() == before
    assert retire(home, "--key", tmp_path / "root.key").code == 0


def test_the_entry_is_the_last_leaf_under_a_checkpoint_of_the_log_key(home: Path) -> None:
    assert retire(home).data["successor"] is None
    with Store.open(Home.at(home).ledger) as store:
        assert parse_header(store.entry(store.size - 1).header).type == EntryType.LOG_RETIRE


SIGNING = [
    ("ledger", "retire", "--reason", "ended"),
    ("ledger", "erase", "1", "--reason", "request"),
    ("key", "rotate"),
    ("key", "revoke", "--epoch", "0", "--since", "1"),
]


@pytest.mark.parametrize("words", SIGNING, ids=" ".join)
def test_a_restored_ledger_signs_nothing_before_its_peer_has_asked(
    home: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Regression: what was written into a restored home beside its peer could be a second entry at its place."""
    assert quidnunc("--home", home, "backup", tmp_path / "file").code == 0
    restored = Home.at(tmp_path / "r")
    assert quidnunc("--home", restored.root, "restore", tmp_path / "file").code == 0
    assert quidnunc("--home", restored.root, "--json", "--yes", "ledger", "fsck").code == 0
    with restored.lock():
        before = restored.ledger.read_bytes()
    result = quidnunc("--home", restored.root, "--json", "--yes", *words)
    assert result.code == 40
    if words[1] != "erase":  # this one has been refused for what it would erase
        assert result.envelope["error"]["id"] == "never_asked"
        assert "start the peer" in result.envelope["error"]["hint"]
    assert restored.ledger.read_bytes() == before
    shown = quidnunc("--home", restored.root, "--json", "budget", "show")
    assert not shown.envelope["data"]["asked"]
    (warning,) = shown.envelope["warnings"]
    assert "came out of a backup; neighbors have not been asked yet" in warning
    log = Log(open_card(restored.card.read_bytes()).log_id)
    with Store.open(restored.ledger) as store:
        for entry in store.entries():
            log.replay(entry)
        more = log.append(EntryType.EVAL, b"\x80", salt=bytes(16), t_ms=3)
        store.commit([more], log.checkpoint(key_of(restored)))
    assert quidnunc("--home", restored.root, "--json", "budget", "show").envelope["data"]["asked"]
    assert quidnunc("--home", restored.root, "--json", "--yes", "ledger", "retire", "--reason", "ended").code == 0


def test_a_ledger_that_is_to_come_back_or_has_not_begun_cannot_be_ended(home: Path, tmp_path: Path) -> None:
    """Regression: the end of an empty ledger was its entry 0, beside the genesis that others had seen there."""
    fresh = Home.at(tmp_path / "b")
    make_home(fresh.root, "Hospital B")
    assert ledger(fresh.root, "retire", "--reason", "ended").code == 2
    lost = Home.at(home)
    member = open_card(lost.card.read_bytes())
    lost.ledger.unlink()
    Store.create(lost.ledger, member.log_id, member.log, lost=True).close()
    result = retire(home)
    assert (result.code, result.envelope["error"]["id"]) == (40, "never_asked")
    for each in (fresh, lost):
        with Store.open(each.ledger, readonly=True) as store:
            assert store.size == 0
