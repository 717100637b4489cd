"""``ledger gc``: what a peer can still need is kept, and nothing is deleted that nobody asked to be deleted."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import quidnunc
from federation_homes import Federation, federation
from node_helpers import parsed

from quidnunc.gossip.provenance import UpdatePublished
from quidnunc.gossip.settings import Settings
from quidnunc.peer.blobs import FileBlobs, blob_path
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.reachable import KEPT_ROUNDS, reachable

OLD = b"an old state"


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    from quidnunc.gossip.federation.charter import RoundSpec

    return federation(tmp_path_factory.mktemp("gc"), 40.0, 4, rounds=RoundSpec(100, 0, 0, "majority"))


@pytest.fixture
def home(four: Federation, tmp_path: Path) -> Home:
    """A home with all blobs its peer has, an old one, a damaged one and half of one."""
    import shutil

    home = Home.at(shutil.copytree(four.homes[0], tmp_path / "a"))
    home.config.write_text("")
    blobs = FileBlobs(home.blobs)
    for data in four.world.peers[0].disk.blobs.data.values():
        blobs.put(data)
    blobs.put(OLD)
    bad = blob_path(home.blobs, hashlib.sha256(b"bad").digest())
    bad.parent.mkdir(exist_ok=True)
    bad.with_name(bad.name + ".bad").write_bytes(b"damaged")
    (home.blobs / "tmp" / ("0" * 32)).write_bytes(b"half")
    return home


def gc(home: Home, *words: str) -> Any:
    return quidnunc("--home", home.root, "--json", "ledger", "gc", *words)


def names(home: Home) -> set[bytes]:
    return set(FileBlobs(home.blobs).names())


def test_whatever_a_node_has_in_use_is_reachable_by_its_ledger(four: Federation) -> None:
    settings = Settings()
    assert settings.keep_rounds + settings.absent_rounds < KEPT_ROUNDS
    for peer in four.world.peers:
        # What a running node has in mind beyond its ledger it asks for again after a stop.
        four.world.crash(peer.index)
        found = reachable(peer.disk.entries, four.world.charter.task.genesis)
        four.world.start(peer.index)
        assert peer.node is not None
        assert len(set(peer.node.in_use())) > 10
        assert set(peer.node.in_use()) <= found


def test_old_updates_are_let_go_at_the_limit_and_not_before(four: Federation) -> None:
    entries = four.world.peers[0].disk.entries
    updates = [record for _, record in parsed(entries) if isinstance(record, UpdatePublished)]
    assert len(updates) > KEPT_ROUNDS + 2
    found = reachable(entries, b"g" * 32)
    assert updates[-KEPT_ROUNDS].replica_before in found
    assert updates[-KEPT_ROUNDS - 2].replica_before not in found
    assert b"g" * 32 in found


def test_by_default_it_only_says_what_would_go(home: Home) -> None:
    before = sorted(path for path in home.blobs.rglob("*"))
    data = gc(home).data
    assert {"hash": hashlib.sha256(OLD).hexdigest(), "bytes": len(OLD)} in data["unreachable"]
    assert len(data["leftovers"]) == 2
    assert data["bytes"] >= len(OLD) + len(b"damaged") + len(b"half")
    assert (data["deleted"], data["kept"] > 4) == (False, True)
    assert sorted(path for path in home.blobs.rglob("*")) == before


def test_with_delete_exactly_that_goes(home: Home) -> None:
    told = gc(home).data
    assert gc(home, "--delete").code == 2, "nobody can be asked"
    gone = gc(home, "--delete", "--yes").data
    assert gone["unreachable"] == told["unreachable"]
    assert {name.hex() for name in names(home)}.isdisjoint(each["hash"] for each in told["unreachable"])
    after = gc(home).data
    assert (after["unreachable"], after["leftovers"], after["kept"]) == ([], [], told["kept"])
    assert quidnunc("--home", home.root, "ledger", "verify").code == 0


def test_not_beside_a_running_peer(home: Home) -> None:
    with home.lock():
        result = gc(home, "--delete", "--yes")
        assert (result.code, "stop the peer" in result.err) == (4, True)
        assert gc(home).code == 0
    assert hashlib.sha256(OLD).digest() in names(home)


def test_the_window_has_a_least_size(home: Home, tmp_path: Path) -> None:
    assert gc(home, "--keep-rounds", str(KEPT_ROUNDS)).code == 0
    assert gc(home, "--keep-rounds", str(KEPT_ROUNDS - 1)).code == 2
    assert len(gc(home, "--keep-rounds", "1000").data["unreachable"]) <= len(gc(home).data["unreachable"])
    assert gc(Home.at(tmp_path / "nobody")).code == 64
