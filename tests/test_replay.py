"""A journal replayed: the same ledger head whatever happened, and the first event at which anything differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from journals import Paper, journal_of, kept_world, read
from node_helpers import ToyWorker, start_all

from quidnunc.gossip.events import Finished, Received, Started
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.jobs import Job, JobFailed, Result, Trained
from quidnunc.gossip.journal.records import LEFT_OUT, End, Entered, Heard, Life, Set, Step
from quidnunc.gossip.journal.replay import Replay, Replayed
from quidnunc.gossip.node import Node
from quidnunc.sim.disk import Disk
from quidnunc.sim.network import Link
from quidnunc.sim.world import World

ROUGH = Link(delay_s=0.02, jitter_s=0.05, loss=0.1)
LONG: dict[str, Any] = {"rounds": RoundSpec(1000, 0, 0, "majority")}


def replayed(paper: Paper, **options: Any) -> Replayed:
    return Replay(**options).run(read(bytes(paper.data)))


def same(world: World, papers: list[Paper]) -> None:
    """Every journal leads to the ledger of the peer that kept it."""
    for peer, paper in zip(world.peers, papers, strict=True):
        leaves = dict(enumerate(entry.leaf for entry in peer.disk.entries))
        found = replayed(paper, ledger=leaves.get)
        assert found.divergence is None, found.divergence
        assert (found.size, found.head) == (len(leaves), leaves[len(leaves) - 1])
        assert found.compared == found.entries > 3
        assert (found.lost, found.outside, found.ended) == (0, 0, "")


@pytest.fixture(scope="module")
def lived() -> tuple[World, list[Paper]]:
    """Three peers with a lossy network; one was killed and one stopped, and both came back. To be read only."""
    world, papers = kept_world(3, link=ROUGH, **LONG)
    start_all(world)
    world.run(6)
    world.crash(0)
    world.run(9)
    world.start(0)
    world.run(12)
    world.stop(1)
    world.start(1)
    world.run(20)
    return world, papers


def test_lives_with_losses_kills_and_stops_lead_to_the_same_head(lived: tuple[World, list[Paper]]) -> None:
    world, papers = lived
    same(world, papers)
    assert [replayed(paper).lives for paper in papers] == [2, 2, 1]


def test_a_peer_that_takes_its_entries_back_is_replayed_through_its_rebuilding() -> None:
    world, papers = kept_world(3, watch=False, **LONG)
    start_all(world)
    world.run(6)
    world.crash(0)
    held = list(world.peers[0].disk.entries)
    world.peers[0].disk.entries[len(held) // 2 :] = []
    world.start(0)
    world.run(20)
    lives = [record for record in read(bytes(papers[0].data)) if isinstance(record, Life)]
    assert [life.rebuilt for life in lives] == [False, False, True]
    assert len(world.peers[0].disk.entries) > len(held)
    found = replayed(papers[0])
    assert (found.divergence, found.size) == (None, len(world.peers[0].disk.entries))
    assert found.head == world.heads()[0]


def test_failed_jobs_and_pauses_are_replayed_without_the_words_of_the_task() -> None:
    world, papers = kept_world(2, **LONG)
    secret = "the scanner of ward 7 is on fire"
    worker = world.peers[0].worker
    assert isinstance(worker, ToyWorker)
    failing = [True]

    def run(job: Job) -> Result:
        return JobFailed(type(job).__name__, secret) if failing[0] else worker(job)

    world.peers[0].worker = run
    start_all(world)
    world.run(5)
    node = world.peers[0].node
    assert node is not None
    assert secret in node.rounds.last_failure
    recording = world.hooks.recordings[0]
    recording.set_paused(node, True)
    failing[0] = False
    world.run(8)
    recording.set_paused(node, False)
    world.run(12)
    records = list(read(bytes(papers[0].data)))
    assert any(isinstance(r, Step) and r.event == Finished(JobFailed("TrainJob", LEFT_OUT)) for r in records)
    assert [record.paused for record in records if isinstance(record, Set)] == [True, False]
    assert secret.encode() not in papers[0].data
    same(world, papers)


def test_a_journal_holds_no_key_no_body_and_no_hash_of_the_data(lived: tuple[World, list[Paper]]) -> None:
    world, papers = lived
    for peer, paper in zip(world.peers, papers, strict=True):
        data = bytes(paper.data)
        assert peer.secret.public in data
        assert peer.secret.seed not in data
        assert peer.witness.seed not in data
        blobs = [blob for blob in peer.disk.blobs.data.values() if len(blob) >= 16]
        assert blobs
        assert not any(blob in data for blob in blobs)
        lives = [record for record in read(data) if isinstance(record, Life)]
        assert all((each.described.data_root, each.described.holdout) == (b"", 0) for each in lives)
        assert all(each.described.examples & (each.described.examples - 1) == 0 for each in lives)
        heard = [r.event for r in read(data) if isinstance(r, Step) and isinstance(r.event, Heard)]
        assert any(each.size for each in heard)


def changed(records: list[Entered], at: int, **changes: Any) -> list[Entered]:
    """The records with event ``at`` (from 1) changed."""
    place = [i for i, record in enumerate(records) if isinstance(record, Step)][at - 1]
    step = records[place]
    assert isinstance(step, Step)
    return [*records[:place], replace(step, **changes), *records[place + 1 :]]


def nth(records: list[Entered], wanted: Callable[[Step], bool]) -> tuple[int, Step]:
    """The first event that is wanted, from the tenth on, and its number."""
    steps = [record for record in records if isinstance(record, Step)]
    return next((i, step) for i, step in enumerate(steps, start=1) if i >= 10 and wanted(step))


def entries_before(records: list[Entered], before: int) -> int:
    """The entries that a journal's only life has committed before event ``before``."""
    steps = [record for record in records if isinstance(record, Step)]
    return sum(len(step.leaves) for step in steps[: before - 1]) // 32


def is_training(step: Step) -> bool:
    return isinstance(step.event, Finished) and isinstance(step.event.result, Trained)


def test_the_first_difference_is_named_with_its_event(lived: tuple[World, list[Paper]]) -> None:
    records = list(read(bytes(lived[1][2].data)))
    at, step = nth(records, is_training)

    def differs(number: int = at, **changes: Any) -> str:
        found = Replay().run(read(journal_of(changed(records, number, **changes))))
        assert found.divergence is not None
        assert (found.divergence.event, found.events) == (number, number)
        return found.divergence.what

    salts = (bytes(16), *step.entropy[1:])
    # Entries of before wait for the commit that this event makes, and each entry draws its salt when it is made.
    first, entry = entries_before(records, at), entries_before(records, at + 1) - len(step.entropy)
    assert differs(entropy=salts) == f"entry {entry} is another one"
    assert differs(entropy=step.entropy[1:]) == "it draws 16 random bytes, and then nothing more was drawn"
    assert differs(entropy=(step.entropy[0][:8], *step.entropy[1:])) == "it draws 16 random bytes, then it drew 8"
    assert differs(entropy=(*step.entropy, bytes(16))) == "it leaves 1 draws and 0 signatures over"
    assert differs(signatures=()) == "it signs something, and then nothing more was signed"
    assert differs(now=step.now + 1) == f"entry {entry} is another one"
    assert differs(signatures=(bytes(64),)) == "it signs other bytes than then"
    assert f"entry {first} (" in differs(leaves=bytes(32) + step.leaves[32:])
    assert differs(leaves=b"").startswith("it commits ")
    assert differs(effects=step.effects[:-9]).startswith("it has ")
    assert differs(effects=bytes([99]) + step.effects[1:]) == "effect 1 is a Commit, then it was a kind 99"
    assert differs(effects=step.effects[:1] + bytes(8) + step.effects[9:]) == "effect 1, a Commit, is another one"
    assert differs(raised="KeyError") == "it went well, then it ended with KeyError"
    assert differs(event=Started()) == f"entry {entry} is another one"
    heard, _ = nth(records, lambda each: isinstance(each.event, Heard) and each.event.size > 0)
    assert differs(heard, event=Started()).startswith("it ")
    told = Replay().run(read(journal_of(changed(records, heard, event=Started())))).divergence
    assert told is not None
    assert told.kind == "Started"


def test_entries_that_are_not_the_ledgers_are_named(lived: tuple[World, list[Paper]]) -> None:
    world, papers = lived
    leaves = dict(enumerate(entry.leaf for entry in world.peers[2].disk.entries))
    found = replayed(papers[2], ledger=(leaves | {5: bytes(32)}).get)
    assert found.divergence is not None
    assert found.divergence.what == "entry 5 is not the ledger's"
    assert 0 < found.divergence.event < found.events


def test_what_the_last_event_made_may_be_lost_and_nothing_before() -> None:
    world, papers = kept_world(2, **LONG)
    start_all(world)
    world.run(6)
    entries = world.peers[0].disk.entries
    records = list(read(bytes(papers[0].data)))
    last = max(place for place, each in enumerate(records) if isinstance(each, Step) and each.leaves)
    cut = journal_of(records[: last + 1])
    whole = Replay().run(read(cut))
    assert (whole.divergence, whole.lost) == (None, 0)
    final = records[last]
    assert isinstance(final, Step)
    made = len(final.leaves) // 32
    leaves = dict(enumerate(entry.leaf for entry in entries[: whole.size - made]))
    killed = Replay(ledger=leaves.get).run(read(cut))
    assert (killed.divergence, killed.lost, killed.compared) == (None, made, len(leaves))
    other = leaves | {whole.size - made: b"o" * 32}
    assert Replay(ledger=other.get).run(read(cut)).divergence is None
    other = leaves | {whole.size - made - 1: b"o" * 32}
    assert Replay(ledger=other.get).run(read(cut)).divergence is not None


def test_entries_made_without_a_journal_are_counted_and_other_ones_in_their_place_found() -> None:
    world, papers = kept_world(2, **LONG)
    start_all(world)
    world.run(4)
    world.crash(0)
    recordings = world.hooks.recordings
    before = len(world.peers[0].disk.entries)
    world.hooks.recordings = {}
    world.start(0)
    world.run(8)
    world.crash(0)
    outside = len(world.peers[0].disk.entries) - before
    world.hooks.recordings = recordings
    world.start(0)
    world.run(12)
    found = replayed(papers[0])
    assert (found.divergence, found.outside, found.head) == (None, outside, world.heads()[0])
    records = list(read(bytes(papers[0].data)))
    place = max(i for i, record in enumerate(records) if isinstance(record, Life))
    life = records[place]
    assert isinstance(life, Life)
    records[place] = replace(life, leaves=bytes(32) + life.leaves[32:])
    divergence = Replay().run(read(journal_of(records))).divergence
    assert divergence is not None
    assert divergence.what == "life 2 begins with another entry 0 than was made before it"


def test_an_error_that_ended_the_daemon_ends_the_replay_at_the_same_event(monkeypatch: pytest.MonkeyPatch) -> None:
    world, papers = kept_world(2, **LONG)
    start_all(world)
    world.run(5)
    handled = Node._handle

    def broken(self: Node, event: Any, now: float) -> Any:
        if isinstance(event, Received) and self.publisher.number >= 5:
            raise ZeroDivisionError("a bug")
        return handled(self, event, now)

    with monkeypatch.context() as patch:
        patch.setattr(Node, "_handle", broken)
        with pytest.raises(ZeroDivisionError):
            world.run(20)
        ended = [paper for paper in papers if replayed(paper).raised]
        assert len(ended) == 1
        found = replayed(ended[0])
        assert found.raised == {found.events: "ZeroDivisionError"}
        assert found.divergence is None
    fixed = replayed(ended[0])
    assert fixed.divergence is not None
    assert fixed.divergence.what == "it went well, then it ended with ZeroDivisionError"


def test_it_stops_where_it_is_told_to_and_says_why_a_journal_ends(lived: tuple[World, list[Paper]]) -> None:
    data = bytes(lived[1][2].data)
    every: list[int] = []
    found = Replay(told=lambda number, step, effects: every.append(number)).run(read(data), until=7)
    assert (found.events, every) == (7, [1, 2, 3, 4, 5, 6, 7])
    assert Replay().run(read(data), until=0).events == 0
    assert Replay().run([*read(data), End("full")]).ended == "full"
    assert Replay().run([]) == Replayed()


def test_records_that_fit_together_badly_are_a_difference_and_no_crash(lived: tuple[World, list[Paper]]) -> None:
    first, *rest = read(bytes(lived[1][2].data))
    assert isinstance(first, Life)
    nothing = Replay().run(rest)
    assert nothing.divergence is not None
    assert nothing.divergence.what == "no node was built before it"
    for life, what in (
        (replace(first, charter=b"no charter"), "CharterError"),
        (replace(first, described=replace(first.described, dim=1)), "SchemaMismatch"),
        (replace(first, log_id=bytes(32)), "life 1 cannot be built: it ends with KeyError"),
        (replace(first, log_key=bytes(32)), "it signs other bytes than then"),
    ):
        found = Replay().run([life, *rest])
        assert found.divergence is not None
        assert what in found.divergence.what


def test_a_fresh_disk_is_another_log(lived: tuple[World, list[Paper]]) -> None:
    """What happens beside a journal leaves no trace in it: a disk that was emptied begins at nothing."""
    world, papers = kept_world(2, **LONG)
    start_all(world)
    world.run(4)
    world.crash(0)
    world.peers[0].disk = Disk(lost=True)
    assert isinstance(world.peers[0].worker, ToyWorker)
    world.start(0)
    world.run(5)
    assert replayed(papers[0]).divergence is None
