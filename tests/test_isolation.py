"""Peers that cannot hear each other for a while, with privacy: nothing is spent, and everybody goes on afterwards."""

from __future__ import annotations

import tiny_task

from quidnunc.gossip.jobs import Job, JobFailed, Result
from quidnunc.gossip.task import Training
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.network import Link
from quidnunc.sim.world import World

ROUNDS = 12
PAIRS = ((0, 1), (0, 2), (1, 2))


def started() -> World:
    scenario = Scenario(
        tiny_task.task, Training(0.5), peers=3, rounds=ROUNDS, epsilon=8.0, edges=PAIRS, link=Link(0.02, 0.02)
    )
    world = build(scenario)
    for index in range(3):
        world.start(index)
    world.run(60, stop=lambda: all(number >= 4 for number in numbers(world)))
    return world


def numbers(world: World) -> list[int]:
    return [peer.node.publisher.number for peer in world.alive() if peer.node is not None]


def spent(world: World) -> list[int]:
    return [peer.node.budget.releases for peer in world.alive() if peer.node is not None]


def finished(world: World) -> bool:
    return all(peer.node is not None and peer.node.rounds.finished for peer in world.peers)


def failing(job: Job) -> Result:
    return JobFailed(type(job).__name__, "no memory")


def test_peers_that_all_fell_silent_at_once_find_together_again() -> None:
    """With everybody's newest update received, each of them used to wait for another to make the next one."""
    world = started()
    workers = [peer.worker for peer in world.peers]
    for peer in world.peers:
        peer.worker = failing
    world.run(world.now + 60)
    assert not finished(world)
    for peer, worker in zip(world.peers, workers, strict=True):
        peer.worker = worker
    world.run(world.now + 600, stop=lambda: finished(world))
    assert finished(world)
    assert spent(world) == [ROUNDS] * 3


def test_peers_that_all_lost_each_other_find_together_again_and_spent_nothing_meanwhile() -> None:
    world = started()
    for pair in PAIRS:
        world.cut(*pair)
    world.run(world.now + 120)
    assert not finished(world)
    before = spent(world)
    world.run(world.now + 120)
    assert spent(world) == before
    for pair in PAIRS:
        world.heal(*pair)
    world.run(world.now + 300, stop=lambda: finished(world))
    assert finished(world)
    assert spent(world) == [ROUNDS] * 3


def test_without_any_connection_nothing_is_published() -> None:
    world = started()
    for index in (1, 2):
        world.crash(index)
    world.run(world.now + 60)
    before = numbers(world), spent(world)
    world.run(world.now + 600)
    assert (numbers(world), spent(world)) == before
    assert spent(world)[0] < ROUNDS
    for index in (1, 2):
        world.start(index)
    world.run(world.now + 300, stop=lambda: finished(world))
    assert finished(world)
