"""A link that drops for six minutes in mid-run, in virtual time: it costs nothing but the dropped peer's progress.

Eight peers, rounds of a minute, epsilon 8, lead bound 2. The undisturbed run with the same seed is the control.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from statistics import fmean

import pytest
import torch
from node_helpers import parsed

from quidnunc.gossip.conditions import Severity
from quidnunc.gossip.evidence import standing_class
from quidnunc.gossip.health import conditions
from quidnunc.gossip.provenance import PrivacySpend, UpdatePublished
from quidnunc.gossip.reputation import StandingClass
from quidnunc.gossip.settings import Settings
from quidnunc.sim.trials import Happening, accuracy, begin, digits_trial, rejoin, split
from quidnunc.sim.world import EPOCH_S, World

ROUND_S, ROUNDS = 60.0, 30
CUT_AT, CUT_S = 600.0, 360.0
NOTICE_S, REDIAL_S = 30.0, 15.0
"""Two pings of 15 s without an answer end a connection; a dial comes at most half a minute after the link is back."""
LAST_S = 2.0 * ROUNDS * ROUND_S
TOLERANCE = 0.03
"""Of accuracy. What other noise costs is about .01 at this size."""
DROPPED = 3
ALONE = ({DROPPED}, set(range(8)) - {DROPPED})
HALVES = ({0, 1, 2, 3}, {4, 5, 6, 7})

Seen = dict[float, set[tuple[int, str, str]]]


@dataclass(frozen=True)
class Run:
    """How a run ended: when each peer had trained all its rounds, accuracy, and what was seen of conditions."""

    world: World
    finished_at: dict[int, float]
    mean: float
    seen: Seen

    def during(self, first: float, last: float) -> set[tuple[int, str, str]]:
        """(peer, condition, subject) of all looks from ``first`` to ``last``."""
        return {each for when, found in self.seen.items() if first <= when <= last for each in found}


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def run(happenings: Iterable[Happening] = (), seed: int = 0) -> Run:
    scenario = digits_trial(
        seed=seed,
        peers=8,
        ratio=1.0,
        loss=0.0,
        model="softmax",
        learning_rate=3.0,
        epsilon=8.0,
        rounds=ROUNDS,
        lead=2,
        periods_s=(ROUND_S,),
        settings=Settings(evaluate_every=1_000_000),
    )
    world = begin(scenario, 1.0, happenings)
    finished_at: dict[int, float] = {}
    seen: Seen = {}
    while world.now < LAST_S:
        world.run(world.now + 10.0)
        seen[world.now] = look(world)
        for peer in world.peers:
            if peer.node is not None and peer.node.rounds.finished:
                finished_at.setdefault(peer.index, world.now)
    return Run(world, finished_at, fmean(accuracy(peer) for peer in world.peers), seen)


def look(world: World) -> set[tuple[int, str, str]]:
    found = set()
    for peer in world.alive():
        assert peer.node is not None
        for each in conditions(peer.node, EPOCH_S + world.now):
            if each.severity != Severity.NOTE:
                found.add((peer.index, each.id, each.subject))
    return found


@cache
def undisturbed(seed: int = 0) -> Run:
    return run(seed=seed)


def check_nothing_was_wasted(done: Run) -> None:
    """Everybody has trained all its rounds, paid for each once, and trusts everybody."""
    for peer in done.world.peers:
        node = peer.node
        assert node is not None
        records = [record for _, record in parsed(peer.disk.entries)]
        trained = sum(isinstance(each, UpdatePublished) and each.steps > 0 for each in records)
        spent = sum(isinstance(each, PrivacySpend) for each in records)
        assert trained == spent == node.budget.releases == ROUNDS
        for neighbor in node.neighbors.values():
            assert standing_class(neighbor) == StandingClass.NORMAL
            assert not neighbor.offence


def test_a_healthy_run_shows_no_condition_and_none_is_left_when_it_has_finished() -> None:
    control = undisturbed()
    assert not control.during(0.0, LAST_S)
    check_nothing_was_wasted(control)


def test_six_minutes_without_one_peer_cost_nobody_else_time() -> None:
    """The transport notices: nobody waits for a neighbor that is not connected."""
    control = undisturbed()
    happenings = [
        (CUT_AT, split(*ALONE, notice_s=NOTICE_S)),
        (CUT_AT + CUT_S, rejoin(*ALONE, redial_s=REDIAL_S)),
    ]
    dropped = run(happenings)
    check_nothing_was_wasted(dropped)
    for index in ALONE[1]:
        assert dropped.finished_at[index] <= control.finished_at[index] + ROUND_S
    assert dropped.finished_at[DROPPED] <= control.finished_at[DROPPED] + CUT_S + 3 * ROUND_S
    assert dropped.mean >= control.mean - TOLERANCE
    _named_and_cleared(dropped)


def _named_and_cleared(dropped: Run) -> None:
    name = f"peer-{DROPPED}"
    nodes = {peer.index: peer.node for peer in dropped.world.alive() if peer.node is not None}
    known = {index for index, node in nodes.items() if name in {n.member.name for n in node.neighbors.values()}}
    assert not dropped.during(0.0, CUT_AT)
    during = dropped.during(CUT_AT + NOTICE_S + 2 * REDIAL_S, CUT_AT + CUT_S)
    assert {(index, "neighbor-disconnected", name) for index in known} <= during
    assert (DROPPED, "isolated", "rounds") in during
    assert {index for index, _, subject in during if subject != name} == {DROPPED}, "nobody else is blamed"
    assert not dropped.during(CUT_AT + CUT_S + REDIAL_S + 2 * ROUND_S, LAST_S)


def test_if_nobody_notices_the_lead_bound_is_what_it_costs() -> None:
    """A neighbor that is connected and silent is waited for until its liveness window ends: five intervals.

    Two rounds are ahead of it by then, so the others lose at most the three that are left, and a round that is begun.
    """
    lost = []
    for seed in range(2):
        control = undisturbed(seed)
        silent = run([(CUT_AT, split(*ALONE)), (CUT_AT + CUT_S, rejoin(*ALONE))], seed)
        check_nothing_was_wasted(silent)
        for index in ALONE[1]:
            assert silent.finished_at[index] <= control.finished_at[index] + 4 * ROUND_S
        lost.append(control.mean - silent.mean)
    assert fmean(lost) <= TOLERANCE


def test_six_minutes_in_halves_cost_nobody_time() -> None:
    control = undisturbed()
    halves = run([(CUT_AT, split(*HALVES, notice_s=NOTICE_S)), (CUT_AT + CUT_S, rejoin(*HALVES, redial_s=REDIAL_S))])
    check_nothing_was_wasted(halves)
    for index in range(8):
        assert halves.finished_at[index] <= control.finished_at[index] + ROUND_S
    assert halves.mean >= control.mean - TOLERANCE
    assert not any(id_ in ("isolated", "rounds-stalled") for _, id_, _ in halves.during(0.0, LAST_S))
    assert not halves.during(CUT_AT + CUT_S + REDIAL_S + 2 * ROUND_S, LAST_S)
