"""One node and small federations: order, gaps, loss, crashes, and what must hold after each."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from founders import private
from node_helpers import (
    DIM,
    EPOCH_S,
    GENESIS_NAME,
    Author,
    Bench,
    Signed,
    header_of,
)

from quidnunc.crypto.entry import open_entry
from quidnunc.crypto.errors import LocalProtocolError, Reason, SchemaMismatch
from quidnunc.gossip.audit import Audit
from quidnunc.gossip.events import (
    Finished,
    Frame,
    Paused,
    PeerUp,
    Run,
    TimerFired,
)
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.jobs import JobFailed, MedianJob, TrainJob
from quidnunc.gossip.learning import codec
from quidnunc.gossip.message import Entries, Hello, Update, Want
from quidnunc.gossip.pace import HEARTBEAT_GROWTH
from quidnunc.gossip.provenance import (
    CharterAdopt,
    Merge,
    NodeStart,
    PrivacySpend,
    UpdatePublished,
    UpdateReceived,
)
from quidnunc.gossip.rounds import Phase
from quidnunc.gossip.settings import Settings


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.greet()
    return bench


def updates(author: Author, count: int) -> list[Signed]:
    return [author.update() for _ in range(count)]


def wants(bench: Bench, author: Author) -> list[Want]:
    return [message for message in bench.messages(author) if isinstance(message, Want)]


# Starting.


def test_a_fresh_log_begins_with_genesis_charter_and_start() -> None:
    bench = Bench()
    assert len(bench.disk.entries) == 3
    assert [type(record) for record in bench.records()] == [CharterAdopt, NodeStart]
    bench.restart()
    starts = [record for record in bench.records() if isinstance(record, NodeStart)]
    assert [start.incarnation for start in starts] == [1, 2]


@pytest.mark.parametrize("changes", [{"schema": b"x" * 32}, {"dim": DIM + 1}, {"genesis": b"x" * 32}])
def test_a_model_that_is_not_the_charters_is_refused(changes: dict[str, object]) -> None:
    described = replace(Bench().own.described, **changes)  # type: ignore[arg-type]
    with pytest.raises(SchemaMismatch):
        Bench(own={"described": described})


def test_nobody_starts_alone() -> None:
    bench = Bench(rounds=RoundSpec(20, 0, 0, "all"))
    bench.connect()
    for author in bench.authors[:-1]:
        bench.receive(author, header_of(Hello(bench.charter.federation_id, b"", False)))
        bench.tick()
        assert bench.node.rounds.phase == Phase.STARTING
        assert not bench.jobs
    bench.receive(bench.authors[-1], header_of(Hello(bench.charter.federation_id, b"", False)))
    assert bench.timers["round"] == bench.now, "the last word needed starts the turn at once"
    bench.tick(0)
    assert isinstance(bench.jobs[0], TrainJob)


def test_an_unknown_timer_is_a_bug_of_the_host(bench: Bench) -> None:
    with pytest.raises(LocalProtocolError):
        bench.feed(TimerFired("nap"))


# The turn.


def test_a_turn_merges_trains_and_publishes(bench: Bench) -> None:
    bench.turn()
    first = [record for record in bench.records() if isinstance(record, UpdatePublished)]
    assert [(u.number, u.round, u.replica_before, u.base) for u in first] == [(1, 1, GENESIS_NAME, GENESIS_NAME)]
    for author in bench.authors:
        *_, sent, entries = bench.messages(author)
        assert isinstance(sent, Update)
        assert isinstance(entries, Entries)
        bench.receive(author, author.update().frame)
    bench.settle()
    bench.turn()
    merge = next(record for record in bench.records() if isinstance(record, Merge))
    assert sum(row.effective for row in merge.rows) == sum(row.weight for row in merge.rows) == 10**9
    assert merge.rows[0].state == first[0].replica_after, "the pivot is the own replica as published"
    assert {row.log_id for row in merge.rows[1:]} == {author.member.log_id for author in bench.authors}
    second = [record for record in bench.records() if isinstance(record, UpdatePublished)][1]
    assert (second.base, second.replica_before) == (merge.result, first[0].replica_after)
    states = [(row.state, row.effective) for row in merge.rows]
    vectors = {name: codec.parse_state(bench.disk.blobs.data[name], DIM) for name, _ in states}
    expected = vectors[states[0][0]]
    for name, effective in states[1:]:
        expected = expected + np.float32(effective / 1e9) * (vectors[name] - vectors[states[0][0]])
    assert hashlib.sha256(codec.state_bytes(expected)).digest() == merge.result


def test_no_merge_follows_a_merge_without_an_update_between(bench: Bench) -> None:
    for _ in range(12):
        bench.turn()
    kinds = [r for r in bench.records() if isinstance(r, Merge | UpdatePublished)]
    for a, b in pairwise(kinds):
        assert not (isinstance(a, Merge) and isinstance(b, Merge))


def test_ticks_and_results_out_of_turn_do_nothing(bench: Bench) -> None:
    bench.tick()
    job = bench.jobs[0]
    assert isinstance(job, TrainJob)
    assert not [e for e in bench.tick() if isinstance(e, Run)], "no second turn while one runs"
    bench.settle()
    again = bench.worker(job)
    entries = len(bench.disk.entries)
    bench.feed(Finished(again))
    assert len(bench.disk.entries) == entries, "a result that comes twice is published once"


def test_a_peer_that_has_finished_goes_on_without_training() -> None:
    bench = Bench(rounds=RoundSpec(2, 0, 0, "majority"))
    bench.greet()
    for _ in range(5):
        bench.turn()
    published = [record for record in bench.records() if isinstance(record, UpdatePublished)]
    assert [bool(record.steps) for record in published] == [True, True, False, False, False]
    assert bench.node.rounds.finished


def test_heartbeats_keep_the_pace_of_training_and_never_hurry() -> None:
    """Regression: without training a turn takes no time, and a finished peer filled its ledger at full speed."""
    bench = Bench(rounds=RoundSpec(3, 0, 0, "majority"))
    bench.greet()
    for _ in range(3):
        bench.tick(0)
        bench.now += 5.0
        bench.settle()
    for heartbeats in range(4):
        bench.tick(bench.timers["round"] - bench.now)
        bench.settle()
        assert bench.timers["round"] - bench.now == pytest.approx(5.0 * HEARTBEAT_GROWTH**heartbeats)
    bench.restart()
    bench.connect()
    for author in bench.authors:
        bench.receive(author, header_of(Hello(bench.charter.federation_id, b"", False)))
    bench.tick(0)
    bench.settle()
    assert bench.timers["round"] - bench.now == pytest.approx(bench.settings.heartbeat_s)


def test_a_paused_peer_publishes_without_training(bench: Bench) -> None:
    bench.feed(Paused(True))
    bench.turn()
    bench.feed(Paused(False))
    bench.turn()
    published = [record for record in bench.records() if isinstance(record, UpdatePublished)]
    assert [record.steps for record in published] == [0, bench.charter.training.local_steps]


# Order, gaps, repair.


def test_updates_that_come_in_any_order_are_applied_in_theirs(bench: Bench) -> None:
    author = bench.authors[0]
    first, second, third = updates(author, 3)
    for signed in (third, first, second):
        assert bench.receive(author, signed.frame) == []
    bench.settle()
    assert bench.neighbor(author).number == 3
    assert bench.neighbor(author).state == third.update.replica_after
    bench.turn()
    received = [record.number for record in bench.records() if isinstance(record, UpdateReceived)]
    assert received == [1, 2, 3]


def test_a_short_gap_is_closed_by_the_missed_deltas(bench: Bench) -> None:
    author = bench.authors[0]
    first, second, third = updates(author, 3)
    bench.receive(author, third.frame)
    assert wants(bench, author) == [Want(bench.charter.federation_id, 1, 2, False)]
    for signed in (first, second):
        assert bench.receive(author, signed.frame) == []
    bench.settle()
    assert bench.neighbor(author).number == 3


def test_a_long_gap_is_closed_by_a_snapshot(bench: Bench) -> None:
    author = bench.authors[0]
    gap = bench.settings.fetch_deltas
    at, past = updates(author, gap + 1)[-1], updates(author, 1)[-1]
    bench.receive(author, at.frame)
    assert wants(bench, author)[-1].snapshot is False, "a gap of as many as are fetched"
    bench = Bench()
    bench.greet()
    author_number = bench.neighbor(author)
    bench.receive(author, past.frame)
    assert wants(bench, author)[-1] == Want(bench.charter.federation_id, 1, gap + 1, True)
    assert bench.receive(author, past.snapshot) == []
    bench.settle()
    assert (author_number.number, author_number.state) == (gap + 2, past.update.replica_after)


def test_deltas_that_are_gone_are_answered_with_a_snapshot_and_that_is_welcome(bench: Bench) -> None:
    """Regression: the answer to a request for deltas was refused as a snapshot nobody asked for."""
    author = bench.authors[0]
    first, second = updates(author, 2)
    bench.receive(author, second.frame)
    assert wants(bench, author)[-1].snapshot is False
    assert bench.receive(author, second.snapshot) == []
    bench.settle()
    assert bench.neighbor(author).number == 2
    assert bench.receive(author, first.frame) in ([Reason.STALE], [])


def test_a_snapshot_that_is_not_what_was_signed_is_refused(bench: Bench) -> None:
    author = bench.authors[0]
    far = updates(author, 9)[-1]
    bench.receive(author, far.frame)
    before = bench.params()
    assert bench.receive(author, Frame(far.snapshot.header, bytes(4 * DIM))) == [Reason.HASH_MISMATCH]
    assert bench.params() == before


def test_a_lost_request_is_repeated_then_escalated_then_slowed_down() -> None:
    bench = Bench(settings=Settings(snapshot_attempts=3, silent_requests=10))
    bench.greet()
    author = bench.authors[0]
    bench.receive(author, updates(author, 2)[-1].frame)
    asked = []
    for _ in range(400):
        bench.now += 0.1
        if bench.timers.get("repair", 1e18) <= bench.now:
            del bench.timers["repair"]
            before = len(wants(bench, author))
            bench.feed(TimerFired("repair"))
            asked += [(bench.now - EPOCH_S, want.snapshot) for want in wants(bench, author)[before:]]
    assert [snapshot for _, snapshot in asked[:2]] == [False, False]
    assert all(snapshot for _, snapshot in asked[2:])
    assert asked[0][0] <= 1.5, "the first repeat comes after repair_retry_s"
    pauses = [b - a for (a, _), (b, _) in pairwise(asked)]
    assert pauses[:10] == pytest.approx([1.0] * 10, abs=0.15), "nobody waits for the timer of another"
    assert pauses[10:] == pytest.approx([2.0, 4.0, 8.0], abs=0.25)
    assert 12 <= len(asked) <= 14, "forty seconds of silence"


def test_a_neighbor_that_is_heard_again_is_asked_again_at_once() -> None:
    """Regression: after a cut of a minute the next request waited as long as those to a neighbor that says nothing."""
    bench = Bench(settings=Settings(silent_requests=10))
    bench.greet()
    author = bench.authors[0]
    late = updates(author, 2)[-1]
    bench.receive(author, late.frame)
    for _ in range(60):
        bench.now += 1.0
        if bench.timers.get("repair", 1e18) <= bench.now:
            del bench.timers["repair"]
            bench.feed(TimerFired("repair"))
    assert bench.timers["repair"] - bench.now > 5.0
    before = len(wants(bench, author))
    bench.receive(author, author.update().frame)
    assert len(wants(bench, author)) == before + 1
    bench.receive(author, author.update().frame)
    assert len(wants(bench, author)) == before + 1, "not for every word of it"
    assert bench.timers["repair"] - bench.now < 1.5, "and again soon, should that be lost"
    bench.now = bench.timers.pop("repair")
    bench.feed(TimerFired("repair"))
    assert len(wants(bench, author)) == before + 2


def test_no_neighbor_puts_off_the_repair_of_another(bench: Bench) -> None:
    """Regression: every new request set the one repair timer back."""
    first, other = bench.authors[:2]
    bench.receive(first, updates(first, 2)[-1].frame)
    due = bench.timers["repair"]
    bench.now += 0.9
    bench.receive(other, updates(other, 2)[-1].frame)
    assert bench.timers["repair"] == due


def test_what_is_being_applied_is_not_asked_for_again(bench: Bench) -> None:
    author = bench.authors[0]
    bench.receive(author, author.update().frame)
    assert bench.neighbor(author).in_flight is not None
    bench.tick()
    assert wants(bench, author) == []


def test_an_answer_that_comes_twice_blames_nobody(bench: Bench) -> None:
    author = bench.authors[0]
    first, second = updates(author, 2)
    bench.receive(author, second.frame)
    for _ in range(2):
        assert bench.receive(author, first.frame) == []
        bench.settle()
    assert bench.refused() == []


def test_a_waiting_room_is_bounded_and_keeps_the_oldest() -> None:
    bench = Bench(settings=Settings(buffered_updates=3))
    bench.greet()
    author = bench.authors[0]
    signed = updates(author, 8)
    for each in reversed(signed[1:]):
        bench.receive(author, each.frame)
    assert sorted(bench.neighbor(author).waiting) == [2, 3, 4]
    bench.receive(author, signed[0].frame)
    bench.settle()
    assert bench.neighbor(author).number == 3
    assert bench.neighbor(author).behind


def test_a_rejected_body_is_judged_once_and_left_behind_by_a_snapshot(bench: Bench) -> None:
    """Regression: a bad update was asked for again and punished again, for ever."""
    author = bench.authors[0]
    bad = author.update(replica_after=b"r" * 32)
    bench.receive(author, bad.frame)
    bench.settle()
    standing = bench.neighbor(author).standing
    for _ in range(5):
        bench.turn(2.0)
        bench.receive(author, bad.frame)
        bench.settle()
    assert bench.neighbor(author).standing == standing
    assert len(bench.rejected()) == 1
    assert wants(bench, author) == []
    good = author.update()
    bench.receive(author, good.frame)
    assert wants(bench, author)[-1].snapshot
    bench.receive(author, good.snapshot)
    bench.settle()
    assert bench.neighbor(author).number == good.update.number


def test_more_updates_than_a_merge_entry_can_list_do_not_break_the_ledger() -> None:
    """Regression: a fast neighbor could make an entry that this version refuses to read back."""
    bench = Bench()
    bench.greet()
    bench.turn()
    received = bench.node.replicas._received
    received.extend(range(5000))
    bench.turn()
    merge = next(record for record in bench.records() if isinstance(record, Merge))
    assert len(merge.received) == 4096
    bench.restart()


def test_accepted_updates_do_not_pile_up_in_memory() -> None:
    bench = Bench(settings=Settings(pending_entries=10))
    bench.greet()
    bench.tick()
    training = bench.jobs.pop()
    author = bench.authors[0]
    for each in updates(author, 35):
        bench.receive(author, each.frame)
        bench.settle()
        assert bench.node.recorder.pending < 10
    assert isinstance(training, TrainJob)


# Hellos, polls, floods.


def test_a_hello_is_answered_once_and_an_answer_never(bench: Bench) -> None:
    author = bench.authors[0]
    before = len(bench.sent)
    bench.receive(author, author.update().hello(reply=True))
    answers = [m for m in bench.messages(author)[-2:] if isinstance(m, Hello)]
    assert [m.reply for m in answers if not m.reply] == [False]
    after = len(bench.sent)
    bench.receive(author, header_of(Hello(bench.charter.federation_id, b"", False)))
    assert len(bench.sent) == after
    assert after - before <= 3, "one hello, at most one request and one question about its log"


def test_messages_are_limited_per_window() -> None:
    bench = Bench(settings=Settings(messages_per_window=5, window_s=10.0))
    bench.connect()
    author, hello = bench.authors[0], header_of(Hello(bench.charter.federation_id, b"", True))
    sent = len(bench.sent)
    assert [bench.receive(author, hello) for _ in range(6)] == [[]] * 5 + [[Reason.RATE_LIMITED]]
    assert len(bench.sent) - sent == 5
    assert bench.receive(bench.authors[1], hello) == []
    bench.now += 10.0
    assert bench.receive(author, hello) == []


def test_connections_that_come_and_go_cost_one_hello_each(bench: Bench) -> None:
    author = bench.authors[0]
    entries, sent = len(bench.disk.entries), len(bench.sent)
    for _ in range(100):
        bench.disconnect(author)
        bench.connect(author)
    assert len(bench.sent) - sent == 100
    assert len(bench.disk.entries) == entries
    bench.feed(PeerUp(b"?" * 32))
    assert len(bench.sent) - sent == 100


def test_a_neighbor_that_claims_and_never_delivers_holds_up_no_start() -> None:
    bench = Bench()
    bench.connect()
    liar, *others = bench.authors
    claim = updates(liar, 9)[-1].hello()
    for author in others:
        bench.receive(author, header_of(Hello(bench.charter.federation_id, b"", False)))
    bench.receive(liar, claim)
    bench.tick(0)
    assert bench.node.rounds.blocked.startswith("catching up")
    for _ in range(12):
        bench.disconnect(liar)
        bench.connect(liar)
        bench.tick(1.1)
    assert not bench.node.rounds.blocked


def test_a_neighbor_that_publishes_without_pause_holds_up_no_start() -> None:
    """Regression: a start waited until nothing was on its way from anybody."""
    bench = Bench()
    bench.connect()
    for author in bench.authors:
        bench.receive(author, author.update().frame)
    bench.settle()
    for author in bench.authors:
        bench.receive(author, author.update().frame)
    assert bench.jobs
    bench.tick()
    assert bench.node.rounds.phase == Phase.TRAINING


def test_a_convicted_neighbor_holds_up_no_start() -> None:
    """Regression: a start waited for a quarantined neighbor to be caught up with, which nobody tries."""
    bench = Bench()
    bench.greet()
    author = bench.authors[0]
    other = author.twin()
    bench.receive(author, updates(author, 2)[-1].frame)
    bench.receive(author, [other.update(3.0) for _ in range(2)][-1].frame)
    assert bench.neighbor(author).quarantined
    bench.tick()
    assert bench.node.rounds.phase == Phase.TRAINING


# Blobs.


def test_blobs_are_forgotten_and_those_in_use_are_kept() -> None:
    bench = Bench(settings=Settings(keep_deltas=3, keep_rounds=2))
    bench.greet()
    sizes = []
    for _ in range(30):
        for author in bench.authors:
            bench.receive(author, author.update().frame)
        bench.turn()
        held = set(bench.disk.blobs.data)
        assert set(bench.node.in_use()) <= held
        sizes.append(len(held))
    assert max(sizes[10:]) <= sizes[10] + 6, "no growth"


@pytest.mark.parametrize("how", ["rejected", "snapshot", "convicted", "failed", "base"])
def test_bodies_that_came_to_nothing_are_forgotten(how: str) -> None:
    bench = Bench(codec=codec.FLOAT32, settings=Settings(keep_rounds=1))
    bench.greet()
    bench.turn()
    author = bench.authors[0]
    body = np.full(DIM, np.nan, "<f4").tobytes() if how in ("rejected", "snapshot") else None
    if how == "snapshot":
        bench.receive(author, updates(author, 9)[-1].frame)
        nan = np.full(DIM, np.nan, "<f4").tobytes()
        far = author.update(replica_after=hashlib.sha256(nan).digest())
        name = hashlib.sha256(nan).digest()
        bench.receive(author, Frame(far.snapshot.header, nan))
    elif how == "convicted":
        other = author.twin()
        _, second = updates(author, 2)
        bench.receive(author, second.frame)
        name = second.update.delta
        other.update(3.0)
        bench.receive(author, other.update(3.0).frame)
        assert bench.neighbor(author).quarantined
    else:
        changes = {"replica_before": b"b" * 32} if how == "base" else {}
        signed = author.update(0.7, body=body, **changes)
        name = signed.update.delta
        bench.receive(author, signed.frame)
    assert name in bench.disk.blobs.data
    if how == "failed":
        bench.jobs.clear()
        bench.feed(Finished(JobFailed("AdvanceJob", "crashed", b"", author.member.log_id, 1)))
    for _ in range(4):
        bench.turn()
    assert name not in bench.disk.blobs.data


def test_a_lost_replica_of_a_neighbor_is_fetched_again(bench: Bench) -> None:
    author = bench.authors[0]
    first = author.update()
    bench.receive(author, first.frame)
    bench.settle()
    bench.disk.blobs.discard(first.update.replica_after)
    bench.receive(author, author.update().frame)
    bench.settle()
    assert bench.neighbor(author).missing
    assert wants(bench, author)[-1].snapshot
    newest = author.update()
    bench.receive(author, newest.snapshot)
    bench.settle()
    assert not bench.neighbor(author).missing
    assert bench.neighbor(author).state == newest.update.replica_after


def test_a_merge_that_misses_a_state_goes_on_without_it(bench: Bench) -> None:
    bench.turn()
    author, other = bench.authors[:2]
    for each in (author, other):
        bench.receive(each, each.update().frame)
    bench.settle()
    bench.disk.blobs.discard(bench.neighbor(author).state)
    other_name = bench.neighbor(other).state
    bench.worker._put(np.ones(DIM, np.float32))  # both published the same state
    author_third = author.update(2.0)
    bench.receive(author, author_third.frame)
    bench.settle()
    bench.disk.blobs.discard(bench.neighbor(author).state)
    bench.turn()
    assert bench.node.rounds.last_failure.startswith("MergeJob")
    assert bench.neighbor(author).missing
    bench.turn(bench.timers["round"] - bench.now)
    merge = [record for record in bench.records() if isinstance(record, Merge)][-1]
    assert author.member.log_id not in {row.log_id for row in merge.rows}
    assert other_name in {row.state for row in merge.rows}


def test_a_lost_base_gives_way_to_the_own_replica(bench: Bench) -> None:
    """Regression: with its base lost a peer retried the same training for ever."""
    bench.turn()
    author = bench.authors[0]
    bench.receive(author, author.update(5.0).frame)
    bench.settle()
    bench.tick()
    bench.feed(Finished(bench.worker(bench.jobs.pop(0))))
    training = bench.jobs.pop()
    assert isinstance(training, TrainJob)
    assert training.base != training.replica
    bench.disk.blobs.discard(training.base)
    bench.feed(Finished(bench.worker(training)))
    bench.turn(bench.timers["round"] - bench.now)
    published = [record for record in bench.records() if isinstance(record, UpdatePublished)]
    assert published[-1].base == training.replica
    assert bench.node.rounds.failures == 0


# Failing compute.


def test_a_failed_turn_is_tried_again_later_and_later(bench: Bench) -> None:
    bench.tick()
    delays = []
    for _ in range(10):
        bench.jobs.clear()
        bench.feed(Finished(JobFailed("TrainJob", "ZeroDivisionError: division by zero")))
        delays.append(bench.timers["round"] - bench.now)
        bench.tick(delays[-1])
    assert delays == pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60])
    bench.settle()
    assert bench.node.rounds.failures == 0
    assert [r.round for r in bench.records() if isinstance(r, UpdatePublished)] == [1]


def test_a_failing_trainer_does_not_burn_the_budget() -> None:
    """Regression: every retry of a training that released nothing was paid for anew."""
    bench = Bench(privacy=private(rounds=20), rounds=RoundSpec(20, 0, 2, "majority"))
    bench.greet()
    bench.tick()
    for _ in range(5):
        bench.jobs.clear()
        bench.feed(Finished(JobFailed("TrainJob", "killed")))
        bench.now += 60.0
        bench.greet()
        bench.tick()
    bench.settle()
    spends = [record for record in bench.records() if isinstance(record, PrivacySpend)]
    published = [record for record in bench.records() if isinstance(record, UpdatePublished)]
    assert len(spends) == len(published) == 1
    assert published[0].privacy is not None
    assert published[0].privacy.cumulative_u == spends[0].cumulative_u


def test_a_training_that_failed_before_a_pause_is_not_claimed_by_a_later_round() -> None:
    """Regression: after the pause the spend of the failed round paid for another one, which its own ledger forbids."""
    bench = Bench(privacy=private(rounds=20), rounds=RoundSpec(20, 0, 2, "majority"))
    bench.greet()
    bench.tick()
    bench.jobs.clear()
    bench.feed(Finished(JobFailed("TrainJob", "killed")))
    bench.feed(Paused(True))
    bench.now += 60.0
    bench.greet()
    bench.turn()
    bench.feed(Paused(False))
    for author in bench.authors:
        bench.receive(author, author.update().frame)
    bench.settle()
    bench.turn()
    spends = [record for record in bench.records() if isinstance(record, PrivacySpend)]
    published = [record for record in bench.records() if isinstance(record, UpdatePublished)]
    assert [record.steps > 0 for record in published] == [False, True]
    assert len(spends) == 2, "what was spent stays spent"
    audit = Audit(bench.own.log_id)
    for entry in bench.disk.entries:
        header = open_entry(entry)
        audit.read(header.seq, header.type, entry.payload)
    assert audit.findings == []


# Return after an absence.


def test_a_newcomer_adopts_the_median_of_experienced_neighbors() -> None:
    bench = Bench()
    bench.connect()
    states = []
    for step, author in enumerate(bench.authors):
        signed = [author.update(1.0 + step) for _ in range(5)][-1]
        assert bench.receive(author, signed.hello()) == []
        assert bench.receive(author, signed.snapshot) == []
        states.append(author.vector)
    bench.settle()
    bench.tick()
    assert isinstance(bench.jobs[0], MedianJob)
    bench.settle()
    merge = next(record for record in bench.records() if isinstance(record, Merge))
    assert (merge.step, merge.approximate) == (3, True)
    assert sum(row.effective for row in merge.rows) == 10**9
    median = codec.state_bytes(np.median(states, axis=0).astype(np.float32))
    assert merge.result == hashlib.sha256(median).digest()
    published = next(record for record in bench.records() if isinstance(record, UpdatePublished))
    assert (published.base, published.replica_before) == (merge.result, GENESIS_NAME)


def test_one_neighbor_with_a_large_number_makes_nobody_adopt() -> None:
    """Regression: the largest number decided, and anybody may choose that."""
    bench = Bench()
    bench.connect()
    liar, *others = bench.authors
    far = updates(liar, 50)[-1]
    bench.receive(liar, far.hello())
    bench.receive(liar, far.snapshot)
    for author in others:
        bench.receive(author, author.update().frame)
    bench.settle()
    bench.tick()
    assert isinstance(bench.jobs[0], TrainJob)
