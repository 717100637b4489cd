"""Own params that the disk has lost: rebuilt from what is left, or the peer stops and names the file."""

from __future__ import annotations

import pytest
from node_helpers import GENESIS_NAME, Bench

from quidnunc.crypto.errors import BlobLost
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.jobs import MergeJob, TrainJob
from quidnunc.gossip.provenance import UpdatePublished
from quidnunc.gossip.resume import Resume, fold
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
def test_an_own_replica_that_nothing_leads_to_is_named(bench: Bench, delta: int) -> None:
    published = updates(bench)
    lose(bench, *(each.replica_after for each in published), published[delta].delta)
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
    with pytest.raises(BlobLost):
        restore(resume, bench.disk.blobs, bench.charter, bench.own.log_id, bench.own.key.public)


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
