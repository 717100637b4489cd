"""``ledger succeed``: one log ends, another begins under the same root key, and what was spent counts in both."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import quidnunc
from test_cli_ledger_wrong import snapshot
from test_cli_retire import SPEND, written
from test_shared_account import elsewhere, names

from quidnunc.crypto.keyfile import MIN_MEM_KIB, MIN_OPS, Cost
from quidnunc.gossip.federation.card import open_card
from quidnunc.peer import config, keys
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store

__all__ = ["written"]


@pytest.fixture
def home(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "a"))


def succeed(home: Path, into: Path, *words: str | Path) -> Any:
    return quidnunc("--home", home, "--json", "--yes", "ledger", "succeed", "--reason", "moved", "--into", into, *words)


def test_the_new_home_has_new_keys_the_same_root_and_the_same_account(home: Path, tmp_path: Path) -> None:
    text = Home.at(home).config.read_text()
    told = succeed(home, tmp_path / "b").data
    old, new = Home.at(home), Home.at(tmp_path / "b")
    mine, heir = open_card(old.card.read_bytes()), open_card(new.card.read_bytes())
    assert told == {
        "succeeded": True,
        "entry": 2,
        "reason": "moved",
        "successor": heir.log_id.hex(),
        "home": str(new.root),
        "card": str(new.card),
        "epsilon": 0.4,
    }
    assert (heir.name, heir.root, heir.size_bucket, heir.addresses) == (
        mine.name,
        mine.root,
        mine.size_bucket,
        mine.addresses,
    )
    assert not set(heir.keys[1:]) & set(mine.keys)
    assert not new.root_key.exists(), "it belongs offline"
    status = quidnunc("--home", home, "--json", "ledger", "status").data["retired"]
    assert status == {"entry": 2, "reason": "moved", "successor": heir.log_id.hex()}
    assert elsewhere(new.root) == ((SPEND.kind, 1),), "nothing is refunded"
    assert elsewhere(old.root) == ()
    before, after = config.parse(text), config.load(new.config)
    assert config.with_shared_homes(after, ()) == before
    assert after.privacy.shared_homes == (str(home),)
    with Store.open(new.ledger, readonly=True) as store:
        assert (store.log_id, store.size) == (heir.log_id, 0)
    again = succeed(home, tmp_path / "c")
    assert (again.code, again.envelope["error"]["id"]) == (40, "log_retired")
    assert not (tmp_path / "c").exists()


def test_a_home_is_not_made_among_other_files(home: Path, tmp_path: Path) -> None:
    """Regression: keys, ledger and configuration were strewn into whatever directory was named."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    for name in ("full", "file", "dangling"):
        result = succeed(home, tmp_path / name)
        assert (result.code, "no empty directory" in result.err) == (64, True), result.err
    assert os.listdir(tmp_path / "full") == ["notes.txt"]
    assert quidnunc("--home", home, "--json", "ledger", "status").data["retired"] is None
    (tmp_path / "empty").mkdir()
    assert succeed(home, tmp_path / "empty").code == 0


def test_whoever_shares_the_account_has_to_name_the_new_home_too(home: Path, tmp_path: Path) -> None:
    names(home, tmp_path / "z")
    told = quidnunc("--home", home, "--yes", "ledger", "succeed", "--reason", "moved", "--into", tmp_path / "b").out
    assert f"add {tmp_path / 'b'} to privacy.shared_homes of {tmp_path / 'z'}" in told
    assert config.load(Home.at(tmp_path / "b").config).privacy.shared_homes == (str(home), str(tmp_path / "z"))


def test_keys_that_were_locked_are_locked_again(home: Path, tmp_path: Path) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text("twelve little words\n")
    os.chmod(phrase, 0o600)
    for path, kind in ((Home.at(home).root_key, "root"), (Home.at(home).operational_key, "operational")):
        path.write_bytes(keys.encode(kind, keys.load(path, kind), b"twelve little words", Cost(MIN_OPS, MIN_MEM_KIB)))
    assert succeed(home, tmp_path / "b", "--passphrase-file", tmp_path / "none").code != 0
    descriptor = os.open(phrase, os.O_RDONLY)
    assert succeed(home, tmp_path / "b", "--passphrase-fd", str(descriptor)).code == 0
    assert keys.load(Home.at(tmp_path / "b").operational_key, "operational", lambda: b"twelve little words")


def test_nothing_is_begun_that_cannot_be_ended(home: Path, tmp_path: Path) -> None:
    with Home.at(home).lock():
        pass  # its file is no change

    def refused(code: int, *words: str | Path, into: Path = tmp_path / "b") -> None:
        before = snapshot(home)
        assert succeed(home, into, *words).code == code
        assert snapshot(home) == before
        assert not (tmp_path / "b").exists()

    refused(64, into=home)
    with Home.at(home).lock():
        refused(4)
    path = Home.at(home).config
    text = path.read_text()
    path.write_text(text.replace("shared_homes = []", "shared_homes = [\n]"))
    refused(64)
    path.write_text(text.replace("shared_homes = []\n", ""))
    refused(64)
    path.write_text(text)
    asked = quidnunc("--home", home, "--no-input", "ledger", "succeed", "--reason", "moved", "--into", tmp_path / "b")
    assert asked.code == 2
    os.rename(Home.at(home).root_key, tmp_path / "root.key")
    refused(77)
    assert succeed(home, tmp_path / "b", "--key", tmp_path / "root.key").code == 0
