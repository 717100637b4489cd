"""``ledger diff``: copies of one log, logs of two members, two points of one log."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import quidnunc
from federation_homes import Federation, federation
from histories import History
from node_helpers import parsed

from quidnunc.crypto.note import format_vkey
from quidnunc.gossip.provenance import UpdatePublished, payload_of
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store


def stored(path: Path, history: History, *sizes: int) -> Path:
    """A ledger of ``history`` with checkpoints at these sizes."""
    with Store.create(path, history.log.log_id, history.key.public) as store:
        done = 0
        for size in sizes or (len(history.entries),):
            store.commit(history.entries[done:size], history.note(size))
            done = size
    return path


def diff(where: Path, *words: str | Path) -> Any:
    return quidnunc("--home", where / "nobody", "--json", "ledger", "diff", *words)


OURS = History("guilty").grow(40)


def test_the_older_of_two_copies_is_the_beginning_of_the_newer(tmp_path: Path) -> None:
    old = stored(tmp_path / "old.db", OURS, 25)
    new = stored(tmp_path / "new.db", OURS, 25, 40)
    for pair, only in (((old, new), [0, 15]), ((new, old), [15, 0]), ((new, new), [0, 0])):
        data = diff(tmp_path, *pair).data
        assert (data["diverged"], data["only"], data["common"]) == (False, only, 25 if sum(only) else 40)
        assert (data["first"], data["proof"]) == (None, None)


@pytest.mark.parametrize(("at", "sizes"), [(0, (40, 30)), (12, (40, 33)), (39, (40, 40)), (20, (21, 21))])
def test_copies_that_part_are_a_proof_that_a_stranger_accepts(tmp_path: Path, at: int, sizes: tuple[int, int]) -> None:
    ours = stored(tmp_path / "a.db", OURS, sizes[0])
    theirs = stored(tmp_path / "b.db", OURS.fork(at).grow(sizes[1] - at, "forked"), sizes[1])
    out = tmp_path / "fork.proof"
    result = diff(tmp_path, ours, theirs, "--proof-out", out)
    assert result.code == 31
    data = result.envelope["data"]
    assert (data["common"], data["diverged"], data["only"]) == (at, True, [sizes[0] - at, sizes[1] - at])
    assert [each["seq"] for each in data["first"]] == [at, at]
    assert data["first"][0]["hash"] != data["first"][1]["hash"]
    assert out.read_bytes().hex() == data["proof"]
    judged = quidnunc(
        "--home", tmp_path / "nobody", "ledger", "evidence", "verify", out, "--key", format_vkey(OURS.verifier)
    )
    assert judged.code == 31
    assert diff(tmp_path, theirs, ours).envelope["data"]["common"] == at


def test_a_copy_that_was_changed_and_not_signed_proves_nothing(tmp_path: Path) -> None:
    ours = stored(tmp_path / "a.db", OURS, 40)
    theirs = stored(tmp_path / "b.db", OURS.fork(30).grow(10, "changed"), 40)
    with sqlite3.connect(theirs) as connection:
        connection.execute("DELETE FROM checkpoint")
    connection.close()
    result = diff(tmp_path, ours, theirs)
    assert (result.code, result.envelope["data"]["proof"]) == (30, None)
    assert "not both were signed" in result.envelope["error"]["message"]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return federation(tmp_path_factory.mktemp("diff"), 9.0)


def test_two_members_agree_on_what_they_sent_each_other(three: Federation) -> None:
    data = quidnunc("--home", three.homes[0], "--json", "ledger", "diff", three.homes[1]).data
    assert data["conflicts"] == []
    for way, index in zip(data["ways"], (1, 0), strict=True):
        assert (way["author"], way["receiver"]) == (three.name(index), three.name(1 - index))
        assert way["accepted"] > 3
        assert way["accepted"] + way["refused"] + way["missing"] >= way["published"] > 0


def test_a_member_that_claims_another_delta_is_told_by_entry(three: Federation, tmp_path: Path) -> None:
    """In the author's copy one update says something else than the receiver wrote down when it came."""
    other = tmp_path / "other.db"
    with Store.open(Home.at(three.homes[1]).ledger, readonly=True) as store:
        store.backup(other)
    updates = [(h.seq, r) for h, r in parsed(three.world.peers[1].disk.entries) if isinstance(r, UpdatePublished)]
    seq, record = updates[2]
    with sqlite3.connect(other) as connection:
        changed = payload_of(replace(record, delta=b"x" * 32))
        connection.execute("UPDATE entry SET payload = ? WHERE seq = ?", (changed, seq))
    connection.close()
    result = quidnunc("--home", three.homes[0], "--json", "ledger", "diff", other)
    assert result.code == 30
    (conflict,) = result.envelope["data"]["conflicts"]
    assert (conflict["seq"], conflict["receiver"]) == (seq, three.name(0))
    assert "another delta" in conflict["why"]


def test_two_points_of_one_log(three: Federation) -> None:
    def between(*words: str) -> Any:
        return quidnunc("--home", three.homes[0], "--json", "ledger", "diff", *words)

    with Store.open(Home.at(three.homes[0]).ledger, readonly=True) as store:
        size, roots = store.size, [store.tree().root(at) for at in (10, store.size)]
    data = between("--since", "10").data
    assert (data["since"], data["until"], sum(data["types"].values())) == (10, size, size - 10)
    assert data["roots"] == [root.hex() for root in roots]
    assert data["signed"][1]
    assert len(data["consistency"]) > 1
    assert between("--since", "10", "--until", "10").data["types"] == {}
    assert between("--until", "5").data["consistency"] == []
    for words in (["--since", str(size + 1)], ["--since", "5", "--until", "4"], ["--since", "-1"], []):
        assert between(*words).code == 2
    assert between("--since", "1", three.homes[1], three.homes[2]).code == 2
    assert between(three.homes[0], three.homes[1], three.homes[2]).code == 2
