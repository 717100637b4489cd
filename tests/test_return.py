"""A peer that was away: bounded bytes however long, one snapshot from each neighbor, whatever happens meanwhile."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any

import pytest
from founders import private
from node_helpers import DIM, Bench, header_of, parsed, start_all, toy_world

from quidnunc.gossip.audit import Audit
from quidnunc.gossip.events import Event, Received, Send, TimerFired
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.jobs import Job, MedianJob, MergeJob, Result, TrainJob
from quidnunc.gossip.message import Entries, Snapshot, Unavailable, Want
from quidnunc.gossip.message_codec import parse_message
from quidnunc.gossip.provenance import Merge, PrivacySpend, UpdatePublished, UpdateReceived
from quidnunc.gossip.repairs import BACKOFF_DOUBLINGS
from quidnunc.gossip.settings import Settings
from quidnunc.sim.network import Link
from quidnunc.sim.world import Peer, World

CALM = Link(delay_s=0.02, jitter_s=0.05)
ROUNDS: dict[str, Any] = {"rounds": RoundSpec(100_000, 0, 0, "majority")}
STATE = 4 * DIM
DELTA = DIM + 1
"""Bytes of an update: three may come while a snapshot is on its way, and one in each second that it takes longer."""
HEADERS = 8_192
"""Bytes of headers, tokens in them, of one neighbor until the first merge: a few hellos, updates and a snapshot."""
HEADERS_PER_S = 1_024
"""And for each second that the first merge takes: an update of a round, a claim and a checkpoint."""
MIRRORED = 10_000
"""Bytes of the entries of one round of one neighbor, which a returner keeps for its sake."""


@dataclass
class Watched:
    """What a world's peers receive, and which jobs they do, from a moment on."""

    world: World
    bodies: Counter[int] = field(default_factory=Counter)
    headers: Counter[int] = field(default_factory=Counter)
    snapshots: Counter[tuple[int, int]] = field(default_factory=Counter)
    wants: Counter[tuple[int, int]] = field(default_factory=Counter)
    mirrored: Counter[int] = field(default_factory=Counter)
    jobs: dict[int, list[Job]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.since = self.world.now
        self._place = {peer.transport: peer.index for peer in self.world.peers}
        self._feed = self.world._feed
        self.world._feed = self.feed  # type: ignore[method-assign]
        self.world.hooks.on_result = self.done

    def feed(self, peer: Peer, event: Event) -> None:
        """Count a frame on its way into a node."""
        if isinstance(event, Received) and peer.node is not None:
            message = parse_message(event.frame.header, self.world.charter.federation_id)
            self.bodies[peer.index] += len(event.frame.body)
            # What is kept for a neighbor's sake grows with what was missed; no turn waits for it.
            of = self.mirrored if isinstance(message, Entries) else self.headers
            of[peer.index] += len(event.frame.header)
            edge = self._place[event.peer], peer.index
            self.snapshots[edge] += isinstance(message, Snapshot)
            self.wants[edge] += isinstance(message, Want)
        self._feed(peer, event)

    def done(self, peer: Peer, job: Job, _: Result) -> None:
        self.jobs.setdefault(peer.index, []).append(job)

    def merged(self, *indices: int) -> bool:
        """Whether each of them has merged or adopted."""
        return all(any(isinstance(j, MedianJob | MergeJob) for j in self.jobs.get(i, [])) for i in indices)

    def requests(self, index: int) -> int:
        """How often a peer has asked its neighbors for what it missed."""
        return sum(times for (asker, _), times in self.wants.items() if asker == index)

    def adopted(self, index: int) -> list[MedianJob]:
        return [job for job in self.jobs.get(index, []) if isinstance(job, MedianJob)]


def away(*gone: int, absence: float, members: int = 5, link: Link = CALM, seed: int = 0, **changes: Any) -> Watched:
    """Peers ``gone`` leave after ten rounds, the rest go on; they are about to be started over ``link``."""
    world, _ = toy_world(members, seed=seed, link=CALM, **(ROUNDS | changes))
    start_all(world)
    world.run(10.0)
    for index in gone:
        world.crash(index)
    world.run(10.0 + absence)
    world.network.link = link
    return Watched(world)


def until_merged(watched: Watched, *indices: int, within: float = 120.0) -> None:
    world = watched.world
    world.run(world.now + within, stop=lambda: watched.merged(*indices))
    assert watched.merged(*indices)


def check_no_storm(watched: Watched) -> None:
    """A neighbor is asked again once it may have answered: on average less than once in the pause between requests."""
    waits = 1 + (watched.world.now - watched.since) / watched.world.settings.repair_retry_s
    edges = sum(len(peer.node.neighbors) for peer in watched.world.alive() if peer.node is not None)
    assert sum(watched.wants.values()) <= edges * waits
    assert max(watched.wants.values(), default=0) <= 2 * waits, "a gap that opens meanwhile is asked for at once"


def check_bounds(watched: Watched, index: int, neighbors: int) -> None:
    took = watched.world.now - watched.since
    assert watched.bodies[index] <= neighbors * (STATE + (3 + int(took)) * DELTA)
    assert watched.headers[index] <= neighbors * (HEADERS + HEADERS_PER_S * took)
    assert all(times <= 1 for (_, to), times in watched.snapshots.items() if to == index)


@pytest.mark.parametrize("loss", [0.0, 0.2])
@pytest.mark.parametrize("rounds", [4, 40, 400])
def test_what_a_return_costs_does_not_depend_on_the_absence(rounds: int, loss: float) -> None:
    watched = away(0, absence=rounds, link=Link(0.02, 0.05, loss), seed=1)
    watched.world.start(0)
    until_merged(watched, 0)
    check_bounds(watched, 0, 4)
    check_no_storm(watched)
    assert watched.requests(0) <= 4 * (1 if not loss else 2)
    assert watched.mirrored[0] <= 4 * (rounds + 10) * MIRRORED, "the entries of four neighbors, each once"
    (adopted,) = watched.adopted(0)
    assert len(adopted.states) >= 3


def test_with_half_of_all_messages_lost_a_returner_still_asks_little_and_mostly_adopts() -> None:
    """By chance it hears too little to take a median and merges what it heard, so twelve returns are counted."""
    asked, adopted = [], 0
    for seed in range(12):
        watched = away(0, absence=20, link=Link(0.02, 0.05, 0.5), seed=seed)
        watched.world.start(0)
        until_merged(watched, 0)
        check_bounds(watched, 0, 4)
        check_no_storm(watched)
        asked.append(watched.requests(0))
        adopted += any(len(job.states) >= 3 for job in watched.adopted(0))
    assert max(asked) <= 4 * 5
    assert fmean(asked) <= 4 * 2
    assert adopted >= 6, "at most half may go on without a median"


def test_two_that_return_at_once_get_back_beside_each_other() -> None:
    watched = away(0, 1, absence=40)
    watched.world.start(0)
    watched.world.start(1)
    until_merged(watched, 0, 1)
    for index in (0, 1):
        check_bounds(watched, index, 4)
        assert len(watched.adopted(index)) == 1
    watched.world.run(watched.world.now + 20)
    assert_level(watched.world)


def test_after_a_power_cut_everywhere_all_go_on_from_what_they_had() -> None:
    watched = away(absence=30)
    world = watched.world
    for index in range(5):
        world.crash(index)
    world.run(world.now + 1000)
    start_all(world)
    until_merged(watched, *range(5))
    for index in range(5):
        check_bounds(watched, index, 4)
        assert not watched.adopted(index), "nobody missed anything"
    world.run(world.now + 20)
    assert_level(world)


def test_a_source_that_dies_midway_is_done_without() -> None:
    """Its snapshot is sent and never arrives, since its connection is lost with it."""
    watched = away(0, absence=40)
    world = watched.world

    def kill(sender: Peer, target: Peer, send: Send, body: bytes) -> tuple[bytes, bytes] | None:
        if sender.index == 1 and target.index == 0 and b"v1/snapshot" in send.frame.header:
            world.at(world.now, lambda: world.crash(1))
            return None
        return send.frame.header, body

    world.hooks.tamper = kill
    world.start(0)
    until_merged(watched, 0)
    check_bounds(watched, 0, 4)
    assert world.peers[1].node is None
    assert len(watched.adopted(0)[0].states) == 3


def test_a_return_while_neighbors_fetch_from_each_other_costs_no_more() -> None:
    """Halves that were cut apart meet again just as the peer comes back."""
    watched = away(0, absence=5)
    world = watched.world
    for a, b in ((1, 3), (1, 4), (2, 3), (2, 4)):
        world.cut(a, b)
    world.run(world.now + 40)
    for a, b in ((1, 3), (1, 4), (2, 3), (2, 4)):
        world.heal(a, b)
    world.start(0)
    until_merged(watched, 0)
    check_bounds(watched, 0, 4)
    world.run(world.now + 20)
    assert_level(world)


def assert_level(world: World) -> None:
    """Everybody tracks everybody, and nobody is suspected of anything."""
    for peer in world.alive():
        assert peer.node is not None
        for neighbor in peer.node.neighbors.values():
            assert not neighbor.missing
            assert neighbor.goal <= neighbor.number
            assert neighbor.standing.bad == 0


def test_a_short_absence_keeps_the_own_params() -> None:
    watched = away(0, absence=1.5, seed=1)
    watched.world.start(0)
    until_merged(watched, 0)
    assert not watched.adopted(0)


# What it means for budget and ledger.


def test_a_returner_has_neither_lost_nor_regained_budget() -> None:
    rounds = 40
    terms: dict[str, Any] = {"privacy": private(rounds=rounds), "rounds": RoundSpec(rounds, 0, 2, "majority")}
    watched = away(0, absence=25, **terms)
    world = watched.world
    disk = world.peers[0].disk
    spent = [record for _, record in parsed(disk.entries) if isinstance(record, PrivacySpend)]
    world.start(0)
    node = world.peers[0].node
    assert node is not None
    assert (node.budget.releases, node.budget.cumulative_u) == (len(spent), spent[-1].cumulative_u)
    world.run(world.now + 120)
    after = [record for _, record in parsed(disk.entries) if isinstance(record, PrivacySpend)]
    assert after[: len(spent)] == spent
    assert [record.release for record in after] == list(range(1, rounds + 1))
    trained = [r for _, r in parsed(disk.entries) if isinstance(r, UpdatePublished) and r.steps]
    assert rounds - 1 <= len(trained) <= rounds, "one release at most was under way when it went"


def test_what_was_missed_stands_in_the_ledger_as_numbers() -> None:
    watched = away(0, absence=40)
    world, peer = watched.world, watched.world.peers[0]
    before = len(peer.disk.entries)
    world.start(0)
    until_merged(watched, 0)
    world.run(world.now + 3)
    last: dict[bytes, int] = {}
    gaps: dict[bytes, list[tuple[int, int]]] = {}
    audit = Audit(peer.log_id)
    for header, record in parsed(peer.disk.entries):
        audit.read(header.seq, header.type, peer.disk.entries[header.seq].payload)
        if isinstance(record, UpdateReceived) and not record.decision:
            known = last.get(record.sender, 0)
            if record.number > known + 1:
                assert record.snapshot
                assert header.seq >= before
                gaps.setdefault(record.sender, []).append((known + 1, record.number - 1))
            last[record.sender] = record.number
    assert audit.findings == []
    assert len(gaps) == 4
    assert all(len(missed) == 1 and missed[0][1] - missed[0][0] > 30 for missed in gaps.values())


# Joiners whom the charter gives few neighbors.


@pytest.mark.parametrize("degree", [1, 2])
def test_a_joiner_with_few_neighbors_adopts_what_they_all_have(degree: int) -> None:
    edges = (*((a, b) for a in range(4) for b in range(a + 1, 4)), *((i, 4) for i in range(degree)))
    world, _ = toy_world(5, link=CALM, edges=tuple(sorted(edges)), **ROUNDS)
    for index in range(4):
        world.start(index)
    world.run(30.0)
    watched = Watched(world)
    world.start(4)
    until_merged(watched, 4)
    (adopted,) = watched.adopted(4)
    genesis = world.charter.task.genesis
    assert len(adopted.states) == (1 if degree == 1 else 3)
    assert (genesis in adopted.states) == (degree == 2)
    (merge,) = [record for _, record in parsed(world.peers[4].disk.entries) if isinstance(record, Merge)]
    assert {row.state for row in merge.rows} == set(adopted.states)
    assert sum(row.effective for row in merge.rows) == 10**9


def test_a_joiner_that_hears_half_of_its_neighbors_waits_for_more() -> None:
    """Two may be two liars: neither a median nor a first training follows them."""
    world, _ = toy_world(5, link=CALM, **ROUNDS)
    for index in range(4):
        world.start(index)
    world.run(30.0)
    world.crash(2)
    world.crash(3)
    watched = Watched(world)
    world.start(4)
    world.run(world.now + 30)
    node = world.peers[4].node
    assert node is not None
    assert not watched.merged(4)
    assert node.rounds.blocked.startswith("heard 2 of 3 neighbors")
    world.start(2)
    until_merged(watched, 4)
    assert len(watched.adopted(4)[0].states) == 3


def test_a_returner_with_too_few_states_for_a_median_merges_before_it_trains() -> None:
    """It was stopped in training from a merge that is old by now."""
    bench = Bench(2, settings=Settings(evaluate_every=1000))
    bench.greet()
    (author,) = bench.authors
    for _ in range(5):
        bench.receive(author, author.update().frame)
        bench.settle()
        bench.turn()
    bench.tick()
    bench.settle_one()
    assert isinstance(bench.jobs[0], TrainJob)
    stale = bench.jobs[0].base
    bench.restart()
    assert not bench.node.rounds.unmerged
    later = [author.update() for _ in range(20)][-1]
    bench.connect()
    bench.receive(author, later.hello())
    bench.receive(author, later.snapshot)
    bench.settle()
    bench.tick()
    job = bench.jobs[0]
    assert isinstance(job, MergeJob)
    assert [given.state for given in job.inputs] == [bench.neighbor(author).state]
    bench.settle_one()
    assert isinstance(bench.jobs[0], TrainJob)
    assert bench.jobs[0].base != stale


# Bytes of large models.


def pauses(bench: Bench, seconds: float) -> list[float]:
    """When a node that hears nothing repeats its request for a snapshot, over ``seconds``."""
    author = bench.authors[0]
    bench.receive(author, [author.update() for _ in range(9)][-1].frame)
    began, asked = bench.now, [0.0]
    assert isinstance(bench.messages(author)[-1], Want)
    while bench.now < began + seconds:
        bench.now += 0.25
        if bench.timers.get("repair", 1e18) <= bench.now:
            del bench.timers["repair"]
            bench.feed(TimerFired("repair"))
            if isinstance(bench.messages(author)[-1], Want):
                asked.append(bench.now - began)
    return [b - a for a, b in pairwise(asked)]


def test_a_large_snapshot_on_its_way_is_not_asked_for_again_and_again() -> None:
    """The state takes 100 s at the rate reckoned with: over a link four times slower it is asked for three times."""
    bench = Bench(settings=Settings(repair_bytes_per_s=STATE / 100))
    bench.greet()
    assert pauses(bench, 400) == pytest.approx([101, 201], abs=1)
    small = Bench()
    small.greet()
    assert pauses(small, 20) == pytest.approx([1.25] * 16), "at the next quarter of a second"


def test_the_pauses_of_a_large_snapshot_end_doubling() -> None:
    bench = Bench(settings=Settings(repair_bytes_per_s=float(STATE)))
    bench.greet()
    assert max(pauses(bench, 600)) == pytest.approx(1 + 2**BACKOFF_DOUBLINGS, abs=0.5)


def ask(bench: Bench, count: int) -> list[type]:
    """What a neighbor gets that asks ``count`` times for a snapshot."""
    author = bench.authors[0]
    want = Want(bench.charter.federation_id, 1, 1, True)
    for _ in range(count):
        bench.receive(author, header_of(want))
    return [type(message) for message in bench.messages(author)[-count:]]


def test_a_neighbor_that_asks_again_and_again_gets_bytes_at_the_agreed_rate() -> None:
    """A snapshot of 100 s is served once, and again when all but a window of that time is over."""
    bench = Bench(settings=Settings(repair_bytes_per_s=STATE / 100, window_s=10.0))
    bench.greet()
    bench.turn()
    assert ask(bench, 3) == [Snapshot, Unavailable, Unavailable]
    bench.now += 89.9
    assert ask(bench, 1) == [Unavailable]
    bench.now += 0.1
    assert ask(bench, 2) == [Snapshot, Unavailable]
    rng, served, began = random.Random(1), 0, bench.now
    while bench.now < began + 5000:
        bench.now += rng.uniform(0, 20)
        served += ask(bench, 1) == [Snapshot]
    assert served <= 5000 / 100 + 1


def test_small_snapshots_are_limited_by_number_only() -> None:
    bench = Bench()
    bench.greet()
    bench.turn()
    limit = bench.settings.wants_per_window
    assert ask(bench, limit + 1) == [Snapshot] * limit + [Unavailable]
