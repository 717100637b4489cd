"""Own params that the disk has lost: rebuilt from what is left, or asked for, or the peer stops and names the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from node_helpers import DIM, GENESIS_NAME, Bench

from quidnunc.crypto.errors import BlobLost
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.jobs import MergeJob, TrainJob
from quidnunc.gossip.provenance import UpdatePublished
from quidnunc.gossip.resume import Resume, fold
from quidnunc.peer.blobs import FileBlobs
from quidnunc.peer.node_builder import discard_unused
from quidnunc.peer.recovery import restore

TURNS = 12


@pytest.fixture
def bench() -> Bench:
    bench = Bench(rounds=RoundSpec(50, 0, 0, "majority"))
    bench.greet()
    for _ in range(TURNS):
        bench.turn()
    return bench


def updates(bench: Bench) -> list[UpdatePublished]:
    return [record for record in bench.records() if isinstance(record, UpdatePublished)]


def resumed(bench: Bench) -> Resume:
    resume = fold(bench.disk.entries)
    resume.tokens = sorted(bench.disk.tokens.items())
    return resume


def restored(bench: Bench) -> Resume:
    resume = resumed(bench)
    restore(resume, bench.disk.blobs, bench.charter, bench.own.log_id, bench.own.key.public)
    return resume


def lose(bench: Bench, *names: bytes) -> None:
    for name in names:
        bench.disk.blobs.discard(name)


def test_nothing_is_touched_when_nothing_is_lost(bench: Bench) -> None:
    before, resume = dict(bench.disk.blobs.data), restored(bench)
    assert bench.disk.blobs.data == before
    assert resume == resumed(bench)
    restore(Resume(), bench.disk.blobs, bench.charter, bench.own.log_id, bench.own.key.public)


def test_the_own_replica_is_rebuilt_from_an_older_one_and_the_deltas_since(bench: Bench) -> None:
    published = updates(bench)
    for kept in (published[-4].replica_after, GENESIS_NAME):
        older = {each.replica_after for each in published} - {kept}
        data = bench.disk.blobs.data[published[-1].replica_after]
        lose(bench, *older)
        restored(bench)
        assert bench.disk.blobs.get(published[-1].replica_after) == data
        lose(bench, published[-4].replica_after)
    bench.restart()
    bench.greet()
    bench.turn()
    assert updates(bench)[-1].number == TURNS + 1


@pytest.mark.parametrize("delta", [0, TURNS // 2, TURNS - 1])
def test_an_own_replica_that_nothing_leads_to_is_asked_for(bench: Bench, delta: int) -> None:
    """As of any update from which the deltas that are left lead to the newest; and nothing is written meanwhile."""
    published = updates(bench)
    lose(bench, *(each.replica_after for each in published), published[delta].delta)
    before = dict(bench.disk.blobs.data)
    assert restored(bench).recall == tuple(published[delta:])
    assert bench.disk.blobs.data == before


def test_an_own_replica_of_which_not_even_the_token_is_left_is_named(bench: Bench) -> None:
    published = updates(bench)
    lose(bench, *(each.replica_after for each in published), GENESIS_NAME)
    bench.disk.tokens.clear()
    name = published[-1].replica_after
    with pytest.raises(BlobLost) as caught:
        restored(bench)
    assert caught.value.name == name
    assert f"state/blobs/{name.hex()[:2]}/{name.hex()[2:]}" in caught.value.message
    assert "backup" in caught.value.hint


def test_more_updates_than_deltas_kept_cannot_be_rebuilt_from_the_genesis(bench: Bench) -> None:
    lose(bench, *(each.replica_after for each in updates(bench)))
    resume = resumed(bench)
    resume.tokens = resume.tokens[1:]
    restore(resume, bench.disk.blobs, bench.charter, bench.own.log_id, bench.own.key.public)
    assert [update.number for update in resume.recall] == list(range(2, TURNS + 1))


def test_states_of_neighbors_that_are_lost_are_known_at_the_start(bench: Bench) -> None:
    for author in bench.authors:
        bench.receive(author, author.update(1.0 + bench.authors.index(author)).frame)
    bench.settle()
    bench.turn()
    held = [bench.neighbor(author).state for author in bench.authors]
    lose(bench, held[0], held[2])
    assert restored(bench).missing == {held[0], held[2]}


def test_without_the_last_merge_the_peer_merges_again_from_its_own_replica(bench: Bench) -> None:
    for author in bench.authors:
        bench.receive(author, author.update().frame)
    bench.settle()
    bench.tick()
    bench.settle_one()  # merged, not yet trained
    resume = resumed(bench)
    assert not resume.unmerged
    assert resume.base is not None
    lose(bench, resume.base)
    resume = restored(bench)
    assert (resume.base, resume.unmerged) == (resume.replica, True)


@pytest.mark.parametrize("kind", [MergeJob, TrainJob])
def test_a_running_peer_that_loses_its_own_replica_stops(bench: Bench, kind: type) -> None:
    """Regression: the turn was tried again for ever."""
    bench.tick()
    while not isinstance(bench.jobs[0], kind):
        bench.settle_one()
    lose(bench, bench.node.publisher.replica)
    with pytest.raises(BlobLost, match="own replica"):
        bench.settle_one()


def test_a_start_discards_what_a_kill_left_behind(bench: Bench, tmp_path: Path) -> None:
    """A kill between a job's blobs and the commit of its result leaves params that no ledger will ever name."""
    blobs = FileBlobs(tmp_path)
    for data in bench.disk.blobs.data.values():
        blobs.put(data)
    orphans = [blobs.put(bytes([n]) * 4 * DIM, durable=True) for n in range(1, 4)]
    bench.restart()
    used = set(bench.node.in_use()) & bench.disk.blobs.data.keys()
    assert len(used) > TURNS
    discard_unused(blobs, bench.node)
    assert set(blobs.names()) == used
    assert not any(blobs.path(name).exists() for name in orphans)
    bench.disk.blobs.data = {name: bench.disk.blobs.data[name] for name in used}
    bench.greet()
    bench.turn()
    assert updates(bench)[-1].number == TURNS + 1, "nothing that is needed was discarded"
