"""Conditions in the virtual world: none in healthy federations, the right one for each fault, within few intervals."""

from __future__ import annotations

from dataclasses import replace

import pytest
from founders import private
from node_helpers import start_all, toy_world

from quidnunc.gossip.conditions import Severity
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.health import conditions
from quidnunc.gossip.jobs import Job, JobFailed, Result, TrainJob
from quidnunc.sim.network import Link
from quidnunc.sim.world import EPOCH_S, World

LEAD = RoundSpec(40, 0, 2, "majority")
ENDLESS = replace(LEAD, count=1_000_000)
VICTIM = 3


def seen(world: World, *, notes: bool = False) -> set[tuple[int, str, str]]:
    """(peer, condition, subject) of everything that is wrong now, notes perhaps included."""
    return {
        (peer.index, each.id, each.subject)
        for peer in world.alive()
        if peer.node is not None
        for each in conditions(peer.node, EPOCH_S + world.now)
        if notes or each.severity != Severity.NOTE
    }


def name(world: World, index: int) -> str:
    return next(m.name for m in world.charter.members if m.log_id == world.peers[index].log_id)


def appears(world: World, wanted: set[tuple[int, str, str]], within: float) -> None:
    """Let time pass until all of these are seen."""
    world.run(world.now + within, stop=lambda: wanted <= seen(world))
    assert wanted <= seen(world), f"{wanted - seen(world)} not within {within} s"


def clears(world: World, within: float) -> None:
    world.run(world.now + within, stop=lambda: not seen(world))
    assert not seen(world)


@pytest.mark.parametrize(
    ("periods", "loss", "rounds", "dp"),
    [
        ((1.0,), 0.0, LEAD, False),
        ((1.0,), 0.2, LEAD, True),
        ((1.0, 2.0), 0.2, LEAD, True),
        ((1.0, 1.3, 1.7, 2.2), 0.0, LEAD, True),
        ((60.0, 70.0), 0.05, LEAD, True),
        ((1.0, 5.0), 0.2, replace(LEAD, lead=0), False),
    ],
)
def test_a_healthy_federation_shows_no_condition_from_its_start_to_long_after_its_end(
    periods: tuple[float, ...], loss: float, rounds: RoundSpec, dp: bool
) -> None:
    changes = {"privacy": private(rounds=rounds.count)} if dp else {}
    world, _ = toy_world(4, rounds=rounds, periods_s=periods, link=Link(loss=loss), watch=False, **changes)
    start_all(world)
    end = rounds.count * max(periods)
    while world.now < 3 * end:
        world.run(world.now + min(periods) / 3)
        assert not seen(world, notes=loss == 0 and max(periods) < 2 * min(periods)), f"at {world.now:.1f} s"
    assert all(peer.node is not None and peer.node.rounds.finished for peer in world.peers)


def test_peers_that_start_one_after_the_other_are_not_gone() -> None:
    world, _ = toy_world(4, rounds=LEAD, watch=False)
    for index in range(4):
        world.start(index)
        world.run(world.now + 4.0)
        assert not seen(world, notes=True)
    clears(world, 30.0)


def begun() -> World:
    world, _ = toy_world(4, rounds=ENDLESS, watch=False)
    start_all(world)
    world.run(20.0)
    assert not seen(world)
    return world


def test_a_peer_that_dies_is_named_and_welcomed_back() -> None:
    world = begun()
    world.crash(VICTIM)
    gone = {(index, "neighbor-disconnected", name(world, VICTIM)) for index in range(3)}
    appears(world, gone, 8.0)
    assert seen(world) == gone
    world.run(world.now + 30.0)
    assert seen(world) == gone
    world.start(VICTIM)
    clears(world, 8.0)


def test_a_peer_whose_training_hangs_is_named_by_its_neighbors_and_by_itself() -> None:
    world = begun()
    victim = world.peers[VICTIM]
    victim.period_s = 1e6
    stalled = {(index, "neighbor-stalled", name(world, VICTIM)) for index in range(3)}
    appears(world, stalled, 25.0)
    assert {subject for _, _, subject in seen(world)} <= {name(world, VICTIM)}
    appears(world, {(VICTIM, "rounds-stalled", "rounds")}, 60.0)
    world.crash(VICTIM)
    victim.period_s = 1.0
    world.start(VICTIM)
    clears(world, 30.0)


@pytest.mark.parametrize("period", [6.0, 9.0, 25.0])
def test_a_peer_that_becomes_slow_is_named_and_only_that_one(period: float) -> None:
    world = begun()
    victim = world.peers[VICTIM]
    victim.period_s = period
    slow = {(index, "neighbor-slow", name(world, VICTIM)) for index in range(3)}
    appears(world, slow, 20 * period)
    world.run(world.now + 5 * period)
    assert {subject for _, _, subject in seen(world)} <= {name(world, VICTIM)}
    victim.period_s = 1.0
    clears(world, 60.0 + 2 * period)


def test_a_peer_whose_jobs_fail_says_so_and_recovers() -> None:
    world = begun()
    victim = world.peers[VICTIM]
    works = victim.worker

    def fails(job: Job) -> Result:
        return JobFailed("TrainJob", "killed") if isinstance(job, TrainJob) else works(job)

    victim.worker = fails
    appears(world, {(VICTIM, "trainer-failing", "trainer")}, 5.0)
    appears(world, {(index, "neighbor-stalled", name(world, VICTIM)) for index in range(3)}, 40.0)
    victim.worker = works
    clears(world, 120.0)
