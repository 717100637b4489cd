"""Small federations in virtual time: loss, cuts, and a crash at every commit."""

from __future__ import annotations

from itertools import pairwise

import pytest
from founders import private
from node_helpers import parsed, start_all, toy_world

from quidnunc.crypto.errors import Reason
from quidnunc.gossip.events import Commit
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.provenance import Merge, NodeStart, PrivacySpend, UpdatePublished, UpdateReceived
from quidnunc.sim.network import Link
from quidnunc.sim.world import Peer, World

# Federations.


def published_by(peer: Peer) -> list[int]:
    return [record.number for _, record in parsed(peer.disk.entries) if isinstance(record, UpdatePublished)]


def test_the_same_seed_gives_the_same_heads_and_another_does_not() -> None:
    heads = []
    for seed in (1, 1, 2):
        world, _ = toy_world(seed=seed, link=Link(loss=0.2, duplicate=0.1))
        start_all(world)
        world.run(6.0)
        world.crash(1)
        world.run(8.0)
        world.start(1)
        world.run(15.0)
        heads.append(world.heads())
    assert heads[0] == heads[1]
    assert all(a != b for a, b in zip(heads[0], heads[2], strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_loss_reordering_duplicates_and_crashes_leave_every_replica_as_signed(seed: int) -> None:
    link = Link(loss=0.5, jitter_s=1.0, duplicate=0.2)
    world, watch = toy_world(4, seed=seed, link=link, periods_s=(1.0, 0.2, 1.0, 1.0))
    start_all(world)
    for second in range(1, 40):
        world.run(float(second))
        watch.check(world)
        if second % 8 == 0:
            world.crash(second // 8 % 4)
            world.start(second // 8 % 4)
    world.network.link = Link(jitter_s=0.0)
    world.run(60.0)
    watch.check(world)
    for peer in world.alive():
        assert peer.node is not None
        for neighbor in peer.node.neighbors.values():
            own = published_by(next(p for p in world.peers if p.log_id == neighbor.log_id))
            assert neighbor.number >= own[-1] - 2, "repaired once messages arrive again"
        numbers = published_by(peer)
        assert numbers == list(range(1, len(numbers) + 1))
        records = [record for _, record in parsed(peer.disk.entries)]
        assert not [r for r in records if isinstance(r, UpdateReceived) and r.decision and r.reasons != (Reason.STALE,)]


def test_two_parts_that_cannot_reach_each_other_go_on_and_meet_again() -> None:
    world, watch = toy_world(4)
    start_all(world)
    world.run(5.0)
    for a in (0, 1):
        for b in (2, 3):
            world.cut(a, b)
    world.run(30.0)
    assert all(published_by(peer)[-1] > 15 for peer in world.peers)
    for a in (0, 1):
        for b in (2, 3):
            world.heal(a, b)
    world.run(45.0)
    watch.check(world)
    for peer in world.peers:
        assert peer.node is not None
        assert len(peer.node.rounds.live(world.now + 1_760_000_000.0)) == 3


# A crash at every commit.


class Crash(Exception):
    """The power goes off now."""


def crash_at(count: int, durable: bool, *, seconds: float = 5.0, **changes: object) -> tuple[World, int]:
    """Run a federation in which the ``count``-th commit is the last thing its peer does, made durable or not."""
    world, watch = toy_world(3, seed=5, link=Link(jitter_s=0.05), **changes)  # type: ignore[arg-type]
    seen = 0

    def on_commit(peer: Peer, commit: Commit) -> None:
        nonlocal seen
        seen += 1
        if seen != count:
            return
        if not durable:
            del peer.disk.entries[-len(commit.entries) :]
            for _, author, number, _ in commit.tokens:
                if author == peer.log_id:
                    del peer.disk.tokens[number]
                    watch.published[author, number] -= 1
        raise Crash(peer.index)

    watch.on_commit = on_commit
    for index in range(3):
        crashing(world, lambda index=index: world.start(index))
    for step in range(1, int(4 * seconds)):
        crashing(world, lambda step=step: world.run(step / 4))
    watch.check(world)
    return world, seen


def crashing(world: World, action: object) -> None:
    assert callable(action)
    try:
        action()
    except Crash as crash:
        world.crash(crash.args[0])
        world.start(crash.args[0])


def check_ledgers(world: World, *, absences: bool = False) -> None:
    """What every ledger keeps to; with ``absences``, one that was away merges anew, or adopts, what others have come to
    instead of training from an old merge.
    """
    world.heads()
    for peer in world.peers:
        entries = parsed(peer.disk.entries)
        numbers = [record.number for _, record in entries if isinstance(record, UpdatePublished)]
        assert numbers == list(range(1, len(numbers) + 1))
        spends = [(header.seq, record) for header, record in entries if isinstance(record, PrivacySpend)]
        assert [record.release for _, record in spends] == list(range(1, len(spends) + 1))
        totals = [record.cumulative_u for _, record in spends]
        assert totals == sorted(totals), "a budget is never refunded"
        claims = [record.privacy for _, record in entries if isinstance(record, UpdatePublished)]
        paid = [claim.spend_seq for claim in claims if claim is not None]
        assert len(set(paid)) == len(paid), "a spend pays for one release"
        assert set(paid) <= {seq for seq, _ in spends}
        between = (Merge, UpdatePublished, NodeStart) if absences else (Merge, UpdatePublished)
        kinds = [record for _, record in entries if isinstance(record, between)]
        for a, b in pairwise(kinds):
            assert not (isinstance(a, Merge) and isinstance(b, Merge))


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("with_privacy", [True, False])
def test_a_crash_at_any_commit_loses_nothing_and_repeats_nothing(durable: bool, with_privacy: bool) -> None:
    changes = {"privacy": private(rounds=20), "rounds": RoundSpec(20, 0, 2, "all")} if with_privacy else {}
    total = crash_at(0, durable, **changes)[1]
    assert total > 20
    for count in range(1, total + 1):
        world, _ = crash_at(count, durable, **changes)
        check_ledgers(world)
        assert all(len(published_by(peer)) >= 2 for peer in world.peers), "everybody gets on"
