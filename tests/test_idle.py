"""A federation that has finished: heartbeats grow rare, nobody loses sight of anybody, and news wakes everybody up."""

from __future__ import annotations

import pytest
from node_helpers import Bench, start_all, toy_world

from quidnunc.gossip.events import Finished, Paused, PeerUp, SetTimer
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.pace import HEARTBEAT_GROWTH, Pace
from quidnunc.gossip.rounds import ROUND_TIMER
from quidnunc.gossip.settings import Settings
from quidnunc.sim.world import EPOCH_S, World

ROUNDS = RoundSpec(5, 0, 0, "majority")
SETTINGS = Settings(repair_retry_s=0.5)
LONGEST = SETTINGS.heartbeat_max_s


def sizes(world: World) -> list[int]:
    return [len(peer.disk.entries) for peer in world.peers]


def strangers(world: World) -> list[tuple[int, str]]:
    """Who does not see whom as live now."""
    found = []
    for peer in world.alive():
        assert peer.node is not None
        seen = {n.log_id for n in peer.node.rounds.live(EPOCH_S + world.now)}
        found += [(peer.index, n.member.name) for n in peer.node.neighbors.values() if n.log_id not in seen]
    return found


@pytest.mark.parametrize("periods", [(1.0,), (1.0, 0.2, 3.0)])
def test_idle_neighbors_see_each_other_as_live_while_their_heartbeats_grow_rare(periods: tuple[float, ...]) -> None:
    world, watch = toy_world(3, rounds=ROUNDS, periods_s=periods, settings=SETTINGS)
    start_all(world)
    world.run(30.0)
    second = 30.0
    while second < 20_000.0:
        second += 5.0 if second < 3_000 else 40.0
        world.run(second)
        assert not strangers(world), f"at {second} s"
    before = sizes(world)
    world.run(second + 10 * LONGEST)
    # In ten heartbeats: the own update and merge, and each of two neighbors' updates.
    assert all(now - then <= 11 * 4 for now, then in zip(sizes(world), before, strict=True))
    assert all(now - then >= 9 * 4 for now, then in zip(sizes(world), before, strict=True))
    watch.check(world)


def test_a_late_joiner_among_idle_peers_is_served_and_wakes_them_up() -> None:
    world, watch = toy_world(3, rounds=ROUNDS, settings=SETTINGS)
    world.start(0)
    world.start(1)
    world.run(10_000.0)
    before = sizes(world)
    world.start(2)
    late = world.peers[2]
    assert late.node is not None
    world.run(10_060.0)
    assert late.node.rounds.finished
    assert all(n.number for n in late.node.neighbors.values())
    assert all(now - then >= 5 * 3 for now, then in zip(sizes(world)[:2], before[:2], strict=True)), "they woke up"
    assert not strangers(world)
    watch.check(world)
    world.run(20_000.0)
    before = sizes(world)
    world.run(20_000.0 + 10 * LONGEST)
    assert all(now - then <= 11 * 4 for now, then in zip(sizes(world), before, strict=True)), "and fell asleep again"


def idle_bench() -> Bench:
    bench = Bench(rounds=RoundSpec(3, 0, 0, "majority"))
    bench.greet()
    for _ in range(3):
        bench.tick(0)
        bench.now += 5.0
        bench.settle()
    for _ in range(20):
        bench.tick(bench.timers[ROUND_TIMER] - bench.now)
        bench.settle()
    assert pause(bench) > 5 * 10
    return bench


def pause(bench: Bench) -> float:
    return bench.timers[ROUND_TIMER] - bench.now


def test_a_trained_update_brings_the_usual_pace_back_and_a_heartbeat_does_not() -> None:
    bench = idle_bench()
    author = bench.authors[0]
    rest = pause(bench)
    bench.receive(author, author.update(steps=0).frame)
    bench.settle()
    assert pause(bench) == rest
    bench.now += 1.0
    bench.receive(author, author.update(steps=3).frame)
    bench.settle()
    assert pause(bench) == pytest.approx(4.0)
    for _ in range(2):
        bench.tick(pause(bench))
        bench.settle()
    assert pause(bench) == pytest.approx(5.0 * HEARTBEAT_GROWTH), "asleep again, step by step"
    bench.now += 100.0
    bench.receive(author, author.update(steps=3).frame)
    bench.settle()
    assert pause(bench) == 0.0, "overdue"


def test_a_neighbor_that_comes_up_and_a_resume_bring_the_usual_pace_back() -> None:
    bench = idle_bench()
    bench.disconnect(bench.authors[0])
    assert pause(bench) > 50
    bench.feed(PeerUp(bench.authors[0].transport))
    assert pause(bench) == pytest.approx(5.0)
    bench = idle_bench()
    assert not [effect for effect in bench.feed(Paused(True)) if isinstance(effect, SetTimer)]
    bench.feed(Paused(False))
    assert pause(bench) == pytest.approx(5.0)


def test_news_during_a_turn_counts_for_the_pause_after_it() -> None:
    bench = idle_bench()
    bench.tick(pause(bench))
    bench.feed(PeerUp(bench.authors[0].transport))
    while bench.jobs:
        bench.feed(Finished(bench.worker(bench.jobs.pop(0))))
    assert pause(bench) == pytest.approx(5.0)


def test_the_longest_pause_is_a_bound_and_never_shortens_a_slow_pace() -> None:
    for interval, longest in ((1.0, LONGEST), (2_000.0, 2_000.0)):
        pace, now = Pace(interval, SETTINGS), 0.0
        pauses = []
        for _ in range(60):
            pace.begin(now)
            pauses.append(pace.publish(now, trained=False))
            now += pauses[-1]
        assert pauses[0] == interval
        assert pauses == sorted(pauses)
        assert max(pauses) == pauses[-1] == longest
