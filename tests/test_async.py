"""Rounds without a barrier: the acceptance numbers of asynchronous learning, on the real node in virtual time.

Sizes are the smallest that still show each effect; ``bench/asynchrony.py`` measures the full ones. Every target has a
control beside it: the same trial with the mechanism off misses it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from quidnunc.gossip import rounds
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.neighbor import usable as usable_always
from quidnunc.gossip.rounds import Phase
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.task import Training
from quidnunc.sim.federation import Scenario
from quidnunc.sim.network import Link
from quidnunc.sim.trials import (
    PACE,
    Audit,
    Outcome,
    accuracy,
    begin,
    crash,
    digits_trial,
    finish,
    mean_param,
    quadratic,
    start,
    time_for,
)
from quidnunc.sim.world import World


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def trained(world: World) -> list[int]:
    """Rounds of training of each living peer."""
    return [peer.node.rounds.trained for peer in world.alive() if peer.node is not None]


def all_finished(world: World) -> bool:
    return all(peer.node is not None and peer.node.rounds.finished for peer in world.peers)


# -- bits -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_replica_equals_its_signed_hash_at_every_holder() -> None:
    """S1: half of the messages lost, speeds 1 to 5, three peers crash and come back from their disks."""
    audit = Audit()
    scenario = digits_trial(loss=0.5, model="softmax", learning_rate=0.5)
    until = time_for(scenario.periods_s, 160)
    happenings = [(0.2, crash(3)), (0.3, start(3)), (0.4, crash(0, 9)), (0.7, start(0, 9))]
    world = begin(scenario, until, happenings, hooks=audit.hooks())
    world.run(until)
    assert audit.advances >= 10_000
    assert audit.snapshots > 100
    assert audit.wrong == 0
    for peer in world.peers:
        assert peer.node is not None
        for neighbor in peer.node.neighbors.values():
            assert neighbor.state == audit.signed[neighbor.log_id, neighbor.number]
            assert neighbor.refused == 0 or neighbor.last_reason in ("duplicate", "stale", "unsolicited")


def test_power_of_two_scales_make_fused_and_unfused_kernels_agree() -> None:
    """S1: with a free scale the same advance has other bits on other kernels, hence powers of two."""
    generator = torch.Generator().manual_seed(1)
    start_ = torch.randn(100_003, generator=generator)
    levels = torch.randint(-127, 128, (100_003,), generator=generator, dtype=torch.int8).float()

    def differing(scale: float) -> int:
        unfused = start_ + levels * scale
        fused = torch.add(start_, levels, alpha=scale)
        wide = (start_.double() + levels.double() * scale).float()
        return int(((unfused != fused) | (unfused != wide)).sum())

    assert differing(2.0**-9) == 0
    assert differing(0.002) > 1000


# -- fairness ---------------------------------------------------------------------------------------------------


def tug_of_war(ratio: float, rounds_of_slowest: float, **others: object) -> float:
    """Where four peers settle, two of them ``ratio`` times slower; 0 is fair, -1 ignores the slow ones."""
    scenario = Scenario(
        task=quadratic,
        training=Training(0.1, 0.0, 1, 1),
        peers=4,
        rounds=1_000_000,
        periods_s=(1.0, 1.0, ratio, ratio),
        rule="mean",
        drag_cap=1.0,
        link=Link(loss=0.2),
        settings=PACE,
    )
    world = begin(replace(scenario, **others), 0.0)  # type: ignore[arg-type]
    world.run(rounds_of_slowest * ratio)
    return mean_param(world, 10, ratio)


@pytest.mark.parametrize("ratio", [5.0, 20.0])
def test_slow_peers_count_as_much_as_fast_ones(ratio: float) -> None:
    """S3: re-reading a slow peer's replica every round gives its data the weight its rare rounds take away."""
    assert abs(tug_of_war(ratio, 40)) <= 0.02


def test_merging_only_fresh_replicas_ignores_slow_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3, control: the rule that seems natural, to merge what is new, follows the fast peers."""

    def usable_when_fresh(neighbor: Neighbor, now: float, period: float, settings: Settings) -> bool:
        return neighbor.fresh and usable_always(neighbor, now, period, settings)

    monkeypatch.setattr(rounds, "usable", usable_when_fresh)
    assert tug_of_war(5.0, 40) <= -0.25


# -- drag, loss, death ------------------------------------------------------------------------------------------


def learn(rounds_each: float = 150, **others: object) -> Outcome:
    scenario = digits_trial(peers=8, **others)
    until = time_for(scenario.periods_s, rounds_each)
    return finish(begin(scenario, until), until)


@pytest.mark.slow
def test_unequal_speeds_and_losses_cost_little() -> None:
    """S4, S5: compensated learning reaches its accuracy at 20% loss, and hardly notices 50%; uncompensated does."""
    usual = learn(loss=0.2)
    assert usual.mean >= 0.925
    assert usual.worst >= 0.90
    calm, stormy = learn(loss=0.0), learn(loss=0.5)
    assert calm.mean - stormy.mean <= 0.02
    dragged = learn(loss=0.5, drag_cap=1.0)
    assert calm.mean - dragged.mean >= 0.02


@pytest.mark.slow
def test_the_dead_do_not_hold_back_the_living() -> None:
    """S8: two peers die for good early on; without the liveness window their old replicas anchor everybody."""

    def with_two_dead(settings: Settings) -> Outcome:
        scenario = digits_trial(peers=8, ratio=1.0, learning_rate=0.4, drag_cap=1.0, settings=settings)
        return finish(begin(scenario, 150.0, [(0.13, crash(3, 6))]), 150.0)

    assert with_two_dead(PACE).mean >= 0.93
    assert with_two_dead(replace(PACE, live_intervals=1e9)).mean <= 0.86


# -- joining and returning --------------------------------------------------------------------------------------


def join_at_half_time(settings: Settings) -> tuple[float, float, World]:
    """Accuracy of a genesis joiner half a round after its first turn, of the others, and the world."""
    joiner = 4
    scenario = digits_trial(peers=8, start="majority", settings=settings)
    half = time_for(scenario.periods_s, 75)
    world = begin(scenario, 2 * half, absent=(joiner,))
    world.run(half)
    world.start(joiner)
    node = world.peers[joiner].node
    assert node is not None
    world.run(half + 20, stop=lambda: node.rounds.phase not in (Phase.STARTING, Phase.ADOPTING))
    world.run(world.now + 0.5 * scenario.periods_s[joiner])
    others = [accuracy(peer) for peer in world.peers if peer.index != joiner]
    return accuracy(world.peers[joiner]), sum(others) / len(others), world


@pytest.mark.slow
def test_a_joiner_is_level_with_its_neighbors_at_once() -> None:
    """S9: it adopts the median of its neighbors; one that keeps its own params is still guessing then."""
    joined, others, world = join_at_half_time(PACE)
    assert joined >= others - 0.03
    world.run(world.now + 20)
    assert min(accuracy(peer) for peer in world.peers) >= others - 0.03, "nobody is harmed"
    keeping, _, _ = join_at_half_time(replace(PACE, absent_rounds=1_000_000))
    assert keeping <= 0.3


# -- privacy and the lead bound ---------------------------------------------------------------------------------


def private(lead: int, **others: object) -> tuple[Outcome, World]:
    """Fifty private rounds at epsilon 8; the bounded run goes at the pace of the slowest."""
    scenario = digits_trial(peers=8, model="softmax", learning_rate=3.0, epsilon=8.0, rounds=50, lead=lead, **others)
    world = begin(scenario, 312.0)
    return finish(world, 312.0), world


@pytest.mark.slow
def test_the_lead_bound_keeps_private_rounds_worth_their_budget() -> None:
    """S11: peers that run free spend their budget long before the slow ones have learned anything to share."""
    bounded, world = private(lead=2)
    assert trained(world) == [50] * 8
    assert bounded.mean >= 0.84
    together, _ = private(lead=1, ratio=1.0, loss=0.0)
    assert together.mean - bounded.mean <= 0.03
    free, _ = private(lead=0)
    assert free.mean <= 0.82


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "dead"), [(0.2, (3, 6)), (0.5, ())])
def test_the_lead_bound_never_deadlocks(loss: float, dead: tuple[int, ...]) -> None:
    """S12: with two dead, or half of the messages lost, the living go on at nearly the pace of the slowest."""
    scenario = digits_trial(peers=8, loss=loss, model="softmax", learning_rate=0.5, lead=2)
    world = begin(scenario, 150.0, [(0.13, crash(*dead))])
    world.run(150.0)
    pace_of_slowest = 150.0 / max(scenario.periods_s)
    assert min(trained(world)) >= 0.75 * pace_of_slowest
    assert max(trained(world)) <= 1.25 * pace_of_slowest
