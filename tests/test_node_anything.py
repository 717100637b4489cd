"""Anything in any order: three nodes, and what must hold after every step."""

from __future__ import annotations

from founders import private
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from node_helpers import GENESIS, GENESIS_NAME, Bench

from quidnunc.gossip.events import Finished, Frame, PeerUp, Received, Stopping, Storage, TimerFired
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.jobs import AdoptJob, AdvanceJob, JobFailed, MedianJob, MergeJob, TrainJob
from quidnunc.gossip.provenance import PrivacySpend, UpdatePublished
from quidnunc.gossip.resume import fold
from quidnunc.gossip.rounds import Phase
from quidnunc.peer.recovery import restore

PRIVATE = private(rounds=20)


class Federation(RuleBasedStateMachine):
    """Three nodes whose messages are delivered, dropped, doubled and reordered at will, and whose power fails."""

    @initialize()
    def begin(self) -> None:
        self.benches = [Bench(3, me=me, privacy=PRIVATE, rounds=RoundSpec(20, 0, 2, "majority")) for me in range(3)]
        self.signed: dict[tuple[bytes, int], bytes] = {}
        self.taken = [0, 0, 0]
        self.lost: set[int] = set()
        self.frugal_at: list[int | None] = [None, None, None]
        self.air: list[tuple[int, int, Frame]] = []
        for index in range(3):
            self.link(index)
        self.work(3)

    def link(self, index: int) -> None:
        """Connect one node to the others, and the others to it."""
        for other in range(3):
            if other != index:
                self.benches[index].feed(PeerUp(self.transport(other)))
                self.benches[other].feed(PeerUp(self.transport(index)))
        self.collect()

    def transport(self, index: int) -> bytes:
        return self.benches[0].founders[index].member.transport

    def collect(self) -> None:
        """What was sent is in the air now."""
        for index, bench in enumerate(self.benches):
            for send in bench.sent[self.taken[index] :]:
                target = next(i for i in range(3) if self.transport(i) == send.peer)
                body = bench.disk.blobs.get(send.body_blob) if send.body_blob else b""
                if body is not None:
                    self.air.append((index, target, Frame(send.frame.header, body)))
            self.taken[index] = len(bench.sent)
        self.air = self.air[-60:]

    @rule(pick=st.integers(0, 59), copies=st.integers(0, 2))
    def deliver(self, pick: int, copies: int) -> None:
        """Deliver a message, twice, or never."""
        if not self.air:
            return
        sender, target, frame = self.air.pop(pick % len(self.air))
        for _ in range(copies):
            self.benches[target].feed(Received(self.transport(sender), frame))
        self.collect()

    @rule(rounds=st.integers(1, 3))
    def work(self, rounds: int) -> None:
        """Everything goes well for a while."""
        for _ in range(rounds):
            for bench in self.benches:
                bench.turn(1.0)
            self.collect()
            while self.air:
                self.deliver(0, 1)
            for bench in self.benches:
                bench.settle()
            self.collect()

    @rule(count=st.integers(1, 12))
    def deliver_in_order(self, count: int) -> None:
        for _ in range(min(count, len(self.air))):
            self.deliver(0, 1)

    @rule(index=st.integers(0, 2), seconds=st.floats(0.0, 3.0))
    def turn(self, index: int, seconds: float) -> None:
        self.benches[index].turn(seconds)
        self.collect()

    @rule(index=st.integers(0, 2), jobs=st.integers(1, 3))
    def compute(self, index: int, jobs: int) -> None:
        bench = self.benches[index]
        for job in [bench.jobs.pop(0) for _ in range(min(jobs, len(bench.jobs)))]:
            bench.feed(Finished(bench.worker(job)))
        self.collect()

    @rule(index=st.integers(0, 2))
    def tick(self, index: int) -> None:
        self.benches[index].tick(0.5)
        self.collect()

    @rule(index=st.integers(0, 2))
    def repair(self, index: int) -> None:
        self.benches[index].now += 1.0
        self.benches[index].feed(TimerFired("repair"))
        self.collect()

    @rule(index=st.integers(0, 2))
    def fail(self, index: int) -> None:
        """The compute process dies with the job it has."""
        bench = self.benches[index]
        if bench.jobs:
            job = bench.jobs.pop(0)
            author = job.author if isinstance(job, AdvanceJob | AdoptJob) else b""
            bench.feed(Finished(JobFailed(type(job).__name__, "killed", b"", author)))
            self.collect()

    @rule(index=st.integers(0, 2), room=st.booleans())
    def storage(self, index: int, room: bool) -> None:
        """The disk fills up, or is freed."""
        self.benches[index].feed(Storage(room))
        self.collect()

    @invariant()
    def nothing_is_signed_without_room(self) -> None:
        for index, bench in enumerate(self.benches):
            size = len(bench.disk.entries)
            if bench.node.frugal.active and self.frugal_at[index] is not None:
                assert size == self.frugal_at[index]
            self.frugal_at[index] = size if bench.node.frugal.active else None

    @rule(index=st.integers(0, 2), cleanly=st.booleans())
    def restart(self, index: int, cleanly: bool) -> None:
        bench = self.benches[index]
        if cleanly:
            bench.feed(Stopping())
        self.frugal_at[index] = None
        self.start(index)

    def start(self, index: int) -> None:
        """A start as the daemon does it."""
        bench = self.benches[index]
        resume = bench.disk.fold(bench.settings.keep_deltas)
        restore(resume, bench.disk.blobs, bench.charter, bench.own.log_id, bench.own.key.public)
        bench.resume(resume)
        used = set(bench.node.in_use())
        for name in set(bench.disk.blobs.data) - used:
            bench.disk.blobs.discard(name)
        self.link(index)

    @rule(index=st.integers(0, 2))
    def lose_everything(self, index: int) -> None:
        """The power fails, and all params are gone with it; only the ledger is left."""
        bench = self.benches[index]
        bench.disk.blobs.data = {GENESIS_NAME: GENESIS}
        self.lost.add(index)
        self.start(index)

    @invariant()
    def nothing_is_published_from_a_replica_that_is_lost(self) -> None:
        for bench in self.benches:
            if bench.node.rounds.phase == Phase.RECOVERING:
                assert not [job for job in bench.jobs if isinstance(job, TrainJob | MergeJob | MedianJob)]
            else:
                assert bench.node.publisher.replica in bench.disk.blobs.data

    @invariant()
    def replicas_are_as_signed(self) -> None:
        for bench in self.benches:
            for record in bench.records():
                if isinstance(record, UpdatePublished):
                    key = bench.own.log_id, record.number
                    assert self.signed.setdefault(key, record.replica_after) == record.replica_after
        for bench in self.benches:
            for neighbor in bench.node.neighbors.values():
                assert not neighbor.quarantined
                assert neighbor.standing.bad == 0, neighbor.last_reason
                if neighbor.number:
                    assert self.signed[neighbor.log_id, neighbor.number] == neighbor.state
                assert len(neighbor.waiting) <= bench.settings.buffered_updates
                assert len(neighbor.asked) <= 256
                assert len(neighbor.leaves) <= 64

    @invariant()
    def ledgers_hold(self) -> None:
        for bench in self.benches:
            entries = bench.entries()
            numbers = [record.number for _, record in entries if isinstance(record, UpdatePublished)]
            assert numbers == list(range(1, len(numbers) + 1))
            spends = {header.seq for header, record in entries if isinstance(record, PrivacySpend)}
            claims = [record.privacy for _, record in entries if isinstance(record, UpdatePublished)]
            paid = [claim.spend_seq for claim in claims if claim is not None]
            assert len(set(paid)) == len(paid)
            assert set(paid) <= spends
            assert bench.node.budget.releases == len(spends)

    @invariant()
    def restarting_leads_to_the_same_place(self) -> None:
        for index, bench in enumerate(self.benches):
            node, state = bench.node, fold(bench.disk.entries)
            if node.recorder.pending:
                continue
            assert (state.number, state.trained, state.merges) == (
                node.publisher.number,
                node.rounds.trained,
                node.rounds.merges,
            )
            assert (state.replica or GENESIS_NAME) == node.publisher.replica
            if index not in self.lost:  # who lost its last merge merges again
                assert (state.base or GENESIS_NAME) == node.rounds.base
                assert state.unmerged == node.rounds.unmerged
            for neighbor in node.neighbors.values():
                tracked = state.tracked.get(neighbor.log_id)
                assert (0 if tracked is None else tracked.number) == neighbor.number


Federation.TestCase.settings = hypothesis_settings(deadline=None, max_examples=15, stateful_step_count=40)
TestFederation = Federation.TestCase
