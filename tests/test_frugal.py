"""A node without room on its disk: it answers, signs nothing, and loses nothing."""

from __future__ import annotations

from founders import private
from node_helpers import Bench, header_of

from quidnunc.crypto.errors import Reason
from quidnunc.gossip.events import (
    Commit,
    Finished,
    Frame,
    PeerUp,
    Run,
    SetTimer,
    Stopping,
    Storage,
    StoreBlob,
    TimerFired,
)
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.jobs import TrainJob
from quidnunc.gossip.message import Hello, Unavailable, Update, Want
from quidnunc.gossip.provenance import PrivacySpend, UpdatePublished
from quidnunc.gossip.repairs import REPAIR_TIMER
from quidnunc.gossip.rounds import ROUND_TIMER
from quidnunc.gossip.status import state_of


def running() -> Bench:
    bench = Bench(4, privacy=private(rounds=20), rounds=RoundSpec(20, 1000, 0, "majority"))
    bench.greet()
    for _ in range(3):
        for author in bench.authors:
            bench.receive(author, author.update().frame)
        bench.settle()
        bench.turn()
    return bench


def commits_nothing(bench: Bench, *effects: object) -> None:
    assert not [each for each in effects if isinstance(each, Commit | StoreBlob | Run)]


def test_it_begins_nothing_and_says_why() -> None:
    bench = running()
    size = len(bench.disk.entries)
    assert bench.feed(Storage(False)) == []
    for _ in range(5):
        effects = bench.tick(10.0)
        assert effects == [SetTimer(ROUND_TIMER, bench.settings.repair_retry_s)]
    assert len(bench.disk.entries) == size
    word, sentence = state_of(bench.node, bench.now)
    assert word == "waiting"
    assert "disk" in sentence


def test_small_frames_are_answered_bulk_is_not_taken_and_nobody_is_blamed() -> None:
    bench = running()
    author = bench.authors[0]
    bench.feed(Storage(False))
    size, refused = len(bench.disk.entries), bench.node.refused_total
    bench.sent.clear()
    assert bench.receive(author, header_of(Hello(bench.charter.federation_id, b"", True))) == []
    assert bench.receive(author, header_of(Want(bench.charter.federation_id, 1, 1, False))) == []
    assert [type(each) for each in bench.messages(author)] == [Hello, Update]
    assert bench.receive(author, header_of(Unavailable(bench.charter.federation_id, 1, 1))) == []
    assert bench.receive(author, author.update().frame) == [Reason.RATE_LIMITED]
    assert bench.neighbor(author).refused == 0
    assert bench.node.refused_total == refused
    bench.feed(PeerUp(author.transport))
    assert len(bench.disk.entries) == size


def test_garbage_is_refused_and_counted_for_later() -> None:
    bench = running()
    author = bench.authors[0]
    bench.feed(Storage(False))
    size, refused = len(bench.disk.entries), bench.node.refused_total
    for _ in range(3):
        assert bench.receive(author, Frame(b"garbage")) == [Reason.MALFORMED]
        assert bench.receive(b"?" * 32, Frame(b"garbage")) == [Reason.STRANGER]
    assert len(bench.disk.entries) == size
    assert bench.node.refused_total == refused + 6
    bench.feed(Storage(True))
    bench.turn()
    counted = {(each.sender, each.reason): each.count for each in bench.refused()}
    assert counted == {(author.member.log_id, Reason.MALFORMED): 3, (None, Reason.STRANGER): 3}
    assert {each.first for each in bench.refused()} == {Frame(b"garbage").digest()}, "named as anywhere else"


def test_a_training_that_was_under_way_is_published_when_there_is_room() -> None:
    bench = running()
    bench.tick(1.0)
    while not isinstance(bench.jobs[0], TrainJob):
        bench.settle_one()
    spent = sum(isinstance(each, PrivacySpend) for each in bench.records())
    number = bench.node.publisher.number
    bench.feed(Storage(False))
    commits_nothing(bench, *bench.feed(Finished(bench.worker(bench.jobs.pop(0)))))
    assert bench.node.publisher.number == number
    bench.tick(100.0)
    effects = bench.feed(Storage(True))
    assert any(isinstance(each, Commit) for each in effects)
    assert bench.node.publisher.number == number + 1
    published = [each for each in bench.records() if isinstance(each, UpdatePublished)]
    assert sum(each.privacy is not None for each in published) == spent, "the spend was used, not repeated"
    assert bench.node.rounds.period < 10.0, "a full disk says nothing of the own pace"
    bench.greet()  # after a hundred seconds somebody must be heard before more is spent
    bench.turn()
    assert bench.node.publisher.number == number + 2


def test_what_was_missed_is_asked_for_when_there_is_room() -> None:
    bench = running()
    author = bench.authors[0]
    bench.feed(Storage(False))
    missed = author.update()
    bench.receive(author, missed.frame)
    bench.sent.clear()
    bench.feed(Storage(True))
    for each in bench.authors:
        assert [message.reply for message in bench.messages(each) if isinstance(message, Hello)] == [True]
    bench.receive(author, missed.hello())
    assert any(isinstance(message, Want) for message in bench.messages(author))
    bench.receive(author, missed.frame)
    bench.settle()
    assert bench.neighbor(author).number == author.number


def test_a_stop_signs_nothing_and_the_repair_timer_goes_on() -> None:
    bench = running()
    bench.feed(Storage(False))
    size = len(bench.disk.entries)
    assert bench.node.handle(Stopping(), bench.now) == []
    assert len(bench.disk.entries) == size
    assert bench.feed(TimerFired(REPAIR_TIMER)) == [SetTimer(REPAIR_TIMER, bench.settings.repair_retry_s)]


def test_room_that_was_there_all_along_changes_nothing() -> None:
    bench = running()
    assert bench.feed(Storage(True)) == []
