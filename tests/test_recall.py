"""The own replica back from neighbors: asked for one by one, believed by hash only, and nothing is trained before."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_helpers import DIM, Author, Bench, header_of
from test_recovery import lose, restored, updates

from quidnunc.crypto.errors import Reason
from quidnunc.gossip.events import Finished, Frame, PeerUp, Send
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.jobs import AdvanceJob, JobFailed
from quidnunc.gossip.message import Hello, Recall, Recalled, Unavailable, Want
from quidnunc.gossip.message_codec import write_message
from quidnunc.gossip.provenance import UpdatePublished
from quidnunc.gossip.rounds import Phase
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.status import state_of

TURNS = 6
BOUNDED = settings(deadline=None, max_examples=100)


class Lost:
    """A bench whose own replica is gone; ``states`` are what it had published, by update number."""

    def __init__(self, *keep: int, connect: bool = True) -> None:
        """``keep`` names own updates whose delta is still there."""
        self.bench = bench = Bench(rounds=RoundSpec(50, 0, 0, "majority"), settings=Settings(keep_rounds=1000))
        bench.greet()
        for _ in range(TURNS):
            bench.turn()
        published = updates(bench)
        self.states = {each.number: bench.disk.blobs.data[each.replica_after] for each in published}
        lose(bench, *(each.replica_after for each in published))
        lose(bench, *(each.delta for each in published if each.number not in keep))
        bench.sent.clear()
        bench.resume(restored(bench))
        if connect:
            bench.connect()

    def asked(self) -> list[Author]:
        """Whom it asked, in order."""
        federation = self.bench.charter.federation_id
        by_transport = {author.transport: author for author in self.bench.authors}
        wants = [send for send in self.bench.sent if b"v1/recall" in send.frame.header]
        assert {send.frame.header for send in wants} <= {
            write_message(Recall(federation, first, TURNS)) for first in range(1, TURNS + 1)
        }
        return [by_transport[send.peer] for send in wants]

    def answer(self, author: Author, number: int = TURNS, body: bytes | None = None) -> list[Reason]:
        message = Recalled(self.bench.charter.federation_id, number)
        return self.bench.receive(author, Frame(write_message(message), self.states[number] if body is None else body))

    def deny(self, author: Author) -> None:
        message = Unavailable(self.bench.charter.federation_id, TURNS, TURNS)
        assert self.bench.receive(author, header_of(message)) == []

    def phase(self) -> Phase:
        return self.bench.node.rounds.phase

    def goes_on(self) -> None:
        """It is back: the next turn publishes the next number from the replica that was lost."""
        bench = self.bench
        assert self.phase() == Phase.STARTING
        assert bench.disk.blobs.get(bench.node.publisher.replica) == self.states[TURNS]
        for author in bench.authors:
            bench.receive(author, header_of(Hello(bench.charter.federation_id, b"", False)))
        bench.turn(10.0)
        newest = updates(bench)[-1]
        assert newest.number == TURNS + 1
        assert newest.replica_before == hashlib.sha256(self.states[TURNS]).digest()


def test_the_own_replica_comes_back_from_a_neighbor_and_the_next_update_follows() -> None:
    lost = Lost()
    (author,) = lost.asked()
    assert lost.answer(author) == []
    lost.goes_on()
    assert lost.asked() == [author], "nobody else was troubled"


def test_an_older_one_will_do_where_the_deltas_lead_on() -> None:
    lost = Lost(TURNS - 1, TURNS)
    assert lost.answer(lost.asked()[0], TURNS - 3) == [Reason.UNSOLICITED], "no delta leads on from there"
    lost.bench.tick(5.0)
    assert lost.answer(lost.asked()[1], TURNS - 2) == []
    assert lost.phase() == Phase.RECOVERING
    lost.bench.settle()
    lost.goes_on()


def test_nothing_is_trained_merged_published_or_served_before_it_is_back() -> None:
    lost = Lost()
    bench = lost.bench
    for author in bench.authors:
        bench.receive(author, author.update().frame)
    bench.settle()
    for _ in range(5):
        bench.tick(1.0)
        assert not bench.jobs
    author = bench.authors[0]
    bench.receive(author, header_of(Want(bench.charter.federation_id, TURNS, TURNS, True)))
    assert isinstance(bench.messages(author)[-1], Unavailable)
    assert len(updates(bench)) == TURNS
    word, sentence = state_of(bench.node, bench.now)
    assert word == "recovering"
    assert all(each.member.name in sentence for each in lost.asked())


def test_silent_neighbors_are_asked_in_turn_ever_more_slowly() -> None:
    lost = Lost()
    while lost.bench.now < 60 + lost.bench.settings.window_s + 1_800_000_000:
        lost.bench.tick(0.1)
    asked = lost.asked()
    others = len(lost.bench.authors)
    assert {author.member.name for author in asked[:others]} == {a.member.name for a in lost.bench.authors}
    assert others * 3 <= len(asked) <= others * 5
    assert lost.answer(asked[0]) == [], "an answer that was long in coming is as good"
    lost.goes_on()


def test_those_who_do_not_have_it_are_named_and_the_next_is_asked_at_once() -> None:
    lost = Lost()
    for number in range(1, len(lost.bench.authors) + 1):
        assert len(lost.asked()) == number
        lost.deny(lost.asked()[-1])
        if number < len(lost.bench.authors):
            assert lost.bench.timers["round"] == lost.bench.now
            lost.bench.tick(0.0)
    assert lost.bench.timers["round"] > lost.bench.now, "nobody is left to be asked at once"
    _, sentence = state_of(lost.bench.node, lost.bench.now)
    assert "without it: " + ", ".join(n.member.name for n in lost.bench.node.neighbors.values()) in sentence
    assert "backup" in sentence


def test_a_neighbor_that_goes_away_is_not_waited_for() -> None:
    lost = Lost()
    first = lost.asked()[0]
    lost.bench.disconnect(first)
    lost.bench.tick(0.0)
    assert len(lost.asked()) == 2
    assert lost.asked()[1] is not first


def test_with_nobody_connected_it_waits_and_says_so() -> None:
    lost = Lost(connect=False)
    lost.bench.tick()
    assert lost.asked() == []
    assert "backup" not in state_of(lost.bench.node, lost.bench.now)[1]
    assert "no neighbor" in state_of(lost.bench.node, lost.bench.now)[1]
    lost.bench.feed(PeerUp(lost.bench.authors[1].transport))
    assert lost.answer(lost.asked()[0]) == []
    lost.goes_on()


@pytest.mark.parametrize("body", [b"", bytes(4 * DIM), bytes(4 * DIM + 4), bytes(1000)])
def test_wrong_bytes_are_refused_and_another_neighbor_is_asked(body: bytes) -> None:
    lost = Lost()
    liar = lost.asked()[0]
    before = lost.bench.params()
    assert lost.answer(liar, body=body) == [Reason.HASH_MISMATCH]
    assert lost.bench.refused()[-1].sender == liar.member.log_id
    assert lost.answer(liar) == [Reason.UNSOLICITED], "one question, one answer"
    assert lost.bench.params() == before
    assert lost.phase() == Phase.RECOVERING
    lost.bench.tick(5.0)
    assert lost.answer(lost.asked()[1]) == []
    lost.goes_on()


def test_more_than_the_charter_allows_is_refused_unread() -> None:
    lost = Lost()
    size = lost.bench.charter.payload_bytes
    assert lost.answer(lost.asked()[0], body=bytes(size + 1)) == [Reason.TOO_LARGE]
    assert lost.answer(lost.asked()[0], body=bytes(size)) == [Reason.HASH_MISMATCH]


def test_what_was_not_asked_for_is_refused() -> None:
    lost = Lost()
    other = next(author for author in lost.bench.authors if author is not lost.asked()[0])
    assert lost.answer(other) == [Reason.UNSOLICITED]
    whole = Lost()
    assert whole.answer(whole.asked()[0]) == []
    assert whole.answer(whole.asked()[0]) == [Reason.UNSOLICITED]
    healthy = Bench()
    healthy.greet()
    healthy.turn()
    answer = Frame(write_message(Recalled(healthy.charter.federation_id, 1)), bytes(4 * DIM))
    assert healthy.receive(healthy.authors[0], answer) == [Reason.UNSOLICITED]


def test_a_late_second_answer_is_harmless() -> None:
    lost = Lost()
    lost.bench.tick(5.0)
    first, second = lost.asked()
    assert lost.answer(second) == []
    before = lost.bench.params()
    assert lost.answer(first) == []
    assert lost.bench.params() == before
    lost.goes_on()


def test_when_a_delta_fails_the_newest_itself_is_asked_for() -> None:
    lost = Lost(TURNS)
    assert lost.answer(lost.asked()[0], TURNS - 1) == []
    (job,) = lost.bench.jobs
    assert isinstance(job, AdvanceJob)
    lost.bench.jobs.clear()
    lost.bench.feed(Finished(JobFailed("AdvanceJob", "gone", job.delta, job.author, job.number)))
    lost.bench.tick(5.0)
    assert lost.answer(lost.asked()[1], TURNS - 1) == [Reason.UNSOLICITED]
    lost.bench.tick(20.0)
    assert lost.answer(lost.asked()[2], TURNS) == []
    lost.goes_on()


def test_a_crash_while_it_waits_changes_nothing() -> None:
    lost = Lost()
    lost.bench.sent.clear()
    lost.bench.resume(restored(lost.bench))
    assert lost.phase() == Phase.RECOVERING
    lost.bench.connect()
    assert lost.answer(lost.asked()[0]) == []
    lost.goes_on()


# What others are given.


def recall(bench: Bench, author: Author, first: int, last: int) -> Send:
    before = len(bench.sent)
    assert bench.receive(author, header_of(Recall(bench.charter.federation_id, first, last))) == []
    (send,) = bench.sent[before:]
    assert send.peer == author.transport
    return send


def tracking(updates_each: int, **limits: int) -> Bench:
    """A node that holds ``updates_each`` updates of every neighbor."""
    bench = Bench(settings=Settings(**limits))
    bench.greet()
    for author in bench.authors:
        for _ in range(updates_each):
            bench.receive(author, author.update(1.0 + bench.authors.index(author)).frame)
            bench.settle()
    return bench


@pytest.mark.parametrize(("first", "last", "given"), [(3, 3, True), (1, 9, True), (4, 4, False), (1, 2, False)])
def test_a_neighbor_is_given_its_own_replica_and_no_other(first: int, last: int, given: bool) -> None:
    bench = tracking(3)
    author = bench.authors[0]
    send = recall(bench, author, first, last)
    federation = bench.charter.federation_id
    expected = Recalled(federation, 3) if given else Unavailable(federation, first, last)
    assert bench.messages(author)[-1] == expected
    assert send.body_blob == (bench.neighbor(author).state if given else b"")


def test_what_is_not_tracked_or_lost_here_as_well_is_not_given() -> None:
    bench = tracking(0)
    assert recall(bench, bench.authors[0], 1, 9).body_blob == b""
    bench = tracking(2)
    bench.neighbor(bench.authors[0]).missing = True
    assert recall(bench, bench.authors[0], 1, 9).body_blob == b""


def test_recalls_are_limited_like_other_repairs() -> None:
    bench = tracking(1, wants_per_window=2)
    author = bench.authors[0]
    assert [bool(recall(bench, author, 1, 1).body_blob) for _ in range(3)] == [True, True, False]
    assert recall(bench, bench.authors[1], 1, 1).body_blob


@BOUNDED
@given(data=st.data())
def test_whatever_neighbors_say_only_the_signed_bits_bring_it_back(data: st.DataObject) -> None:
    lost = Lost(*data.draw(st.sets(st.integers(1, TURNS))))
    bench = lost.bench
    for _ in range(data.draw(st.integers(1, 12))):
        author = data.draw(st.sampled_from(bench.authors))
        number = data.draw(st.integers(1, TURNS + 1))
        right = lost.states.get(number, b"")
        body = data.draw(st.sampled_from([right, right[:-1], random.Random(number).randbytes(4 * DIM)]))
        match data.draw(st.integers(0, 3)):
            case 0:
                bench.tick(data.draw(st.floats(0, 30)))
            case 1:
                lost.deny(author)
            case 2:
                bench.disconnect(author)
                bench.connect(author)
            case _:
                message = Recalled(bench.charter.federation_id, number)
                bench.receive(author, Frame(write_message(message), body))
        bench.settle()
        assert len([r for r in bench.records() if isinstance(r, UpdatePublished)]) >= TURNS
        if lost.phase() == Phase.RECOVERING:
            assert len(updates(bench)) == TURNS
            continue
        assert bench.disk.blobs.get(updates(bench)[TURNS - 1].replica_after) == lost.states[TURNS]
        return
