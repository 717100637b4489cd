"""``ledger recover``: an empty ledger in place of a lost one, which never begins by itself; nothing is deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_helpers import quidnunc
from test_cli_ledger_wrong import snapshot
from test_cli_witness import Ledger
from test_shared_account import elsewhere, names, pair

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.resume import Resume
from quidnunc.peer import keys
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import LOST, ORIGIN, Store
from quidnunc.peer.node_builder import fill

__all__ = ["pair"]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a charter, the keys that it names, and a ledger."""
    made = Ledger(tmp_path / "a")
    made.grow()
    found = Home.at(made.path)
    found.operational_key.write_bytes(keys.encode("operational", made.own.secret, None))
    return found


def recover(home: Home, *words: str) -> Any:
    return quidnunc("--home", home.root, "--json", "--yes", "ledger", "recover", *words)


def remove(home: Home) -> None:
    for path in home.ledger.parent.glob(f"{home.ledger.name}*"):
        path.unlink()


def marked(home: Home) -> Resume:
    """What a daemon is told of the ledger."""
    with Store.open(home.ledger) as store:
        assert store.size == 0
        resume = Resume()
        fill(resume, store)
        return resume


def test_in_place_of_a_ledger_that_is_gone_comes_one_that_knows_it(home: Home) -> None:
    remove(home)
    result = recover(home)
    assert result.data == {"recovering": True, "why": f"{home.ledger} is missing", "kept": None}
    assert (marked(home).lost, marked(home).copied) == (True, False)
    again = recover(home)
    assert (again.code, "waits for its entries already" in again.err) == (2, True)
    assert quidnunc("--home", home.root, "--json", "ledger", "verify").code == 32


def test_a_damaged_ledger_is_kept_beside(home: Home) -> None:
    whole = home.ledger.read_bytes()
    for number in (1, 2):
        home.ledger.write_bytes(whole[:-3000])
        kept = home.ledger.with_name(f"ledger.db.lost-{number}")
        assert recover(home).data["kept"] == str(kept)
        assert kept.read_bytes() == whole[:-3000]
        assert marked(home).lost


def test_a_ledger_that_is_whole_is_left_alone_and_so_is_everything_if_something_is_amiss(home: Home) -> None:
    with home.lock():
        pass  # its file is no change

    def refused(code: int, *words: str) -> None:
        before = snapshot(home.root)
        assert quidnunc("--home", home.root, *words, "ledger", "recover").code == code
        assert snapshot(home.root) == before

    refused(2, "--yes")
    remove(home)
    refused(2, "--no-input")
    with home.lock():
        refused(4, "--yes")
    own = home.operational_key.read_bytes()
    home.operational_key.write_bytes(keys.encode("operational", bytes(32), None))
    refused(77, "--yes")
    home.operational_key.write_bytes(own)
    charter = home.charter.read_bytes()
    home.charter.unlink()
    refused(64, "--yes")
    home.charter.write_bytes(charter)
    assert recover(home).code == 0


def test_what_a_lost_ledger_has_spent_is_not_taken_for_nothing(pair: tuple[Path, Path]) -> None:
    first, second = pair
    lost = Home.at(second)
    with Store.open(lost.ledger, readonly=True) as store:
        log_id, public = store.log_id, store.public
    remove(lost)
    Store.create(lost.ledger, log_id, public, lost=True).close()
    with pytest.raises(ConfigError, match="is not back yet, so that what it spent cannot be counted"):
        elsewhere(first)
    names(first)
    assert elsewhere(first) == ()
    with Store.open(lost.ledger, readonly=True) as store:
        assert store.get_meta(ORIGIN) == LOST
