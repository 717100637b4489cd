"""What a peer publishes, and the repairs it serves."""

from __future__ import annotations

import pytest
from node_helpers import Author, Bench, header_of

from quidnunc.gossip.events import Commit, Send
from quidnunc.gossip.message import Hello, Message, Snapshot, Unavailable, Update, Want
from quidnunc.gossip.settings import Settings


def published(turns: int, **limits: int) -> Bench:
    bench = Bench(settings=Settings(**limits))  # type: ignore[arg-type]
    bench.greet()
    for _ in range(turns):
        bench.turn()
    return bench


def ask(bench: Bench, first: int, last: int, snapshot: bool = False, author: Author | None = None) -> list[Message]:
    """What a neighbor gets that asks for updates ``first`` to ``last``."""
    author = author or bench.authors[0]
    before = len(bench.messages(author))
    want = Want(bench.charter.federation_id, first, last, snapshot)
    assert bench.receive(author, header_of(want)) == []
    return bench.messages(author)[before:]


def test_an_update_goes_to_all_who_are_connected_after_its_commit() -> None:
    bench = published(0)
    bench.disconnect(bench.authors[0])
    bench.tick()
    effects = bench.node.handle(finished(bench), bench.now)
    commit = next(i for i, effect in enumerate(effects) if isinstance(effect, Commit))
    sends = [(i, effect.peer) for i, effect in enumerate(effects) if isinstance(effect, Send) and effect.body_blob]
    assert [peer for _, peer in sends] == [author.transport for author in bench.authors[1:]]
    assert all(i > commit for i, _ in sends)
    bodies = {effect.body_blob for effect in effects if isinstance(effect, Send) and effect.body_blob}
    assert len(bodies) == 1, "one body for all"


def finished(bench: Bench) -> object:
    from quidnunc.gossip.events import Finished

    return Finished(bench.worker(bench.jobs.pop(0)))


def test_missed_deltas_are_served_as_they_were_published() -> None:
    bench = published(5)
    answers = ask(bench, 3, 5)
    assert all(isinstance(answer, Update) for answer in answers)
    assert [answer.token for answer in answers] == [bench.disk.tokens[n] for n in (3, 4, 5)]  # type: ignore[union-attr]
    for send, number in zip(bench.sent[-3:], (3, 4, 5), strict=True):
        assert bench.disk.blobs.data[send.body_blob]
        assert bench.node.publisher._deltas[number] == send.body_blob


@pytest.mark.parametrize(
    ("first", "last", "snapshot"),
    [(2, 5, False), (5, 5, True), (1, 2**62, False), (1, 5, False)],
)
def test_long_gaps_and_requests_for_it_are_served_by_a_snapshot(first: int, last: int, snapshot: bool) -> None:
    bench = published(5)
    (answer,) = ask(bench, first, last, snapshot)
    assert answer == Snapshot(bench.charter.federation_id, bench.disk.tokens[5])
    assert bench.sent[-1].body_blob == bench.node.publisher.replica


def test_deltas_that_are_gone_are_replaced_by_a_snapshot() -> None:
    bench = published(6, keep_deltas=3)
    assert isinstance(ask(bench, 3, 4)[0], Snapshot)
    assert isinstance(ask(bench, 4, 5)[0], Update)


def test_a_number_that_is_not_published_yet_is_unavailable() -> None:
    """Regression: it was answered with a whole snapshot."""
    bench = published(2)
    assert ask(bench, 3, 3) == [Unavailable(bench.charter.federation_id, 3, 3)]
    assert len(ask(bench, 2, 9)) == 1


def test_before_the_first_update_nothing_is_available() -> None:
    bench = published(0)
    assert ask(bench, 1, 1, True) == [Unavailable(bench.charter.federation_id, 1, 1)]


def test_repairs_are_limited_per_neighbor_and_window() -> None:
    bench = published(3, wants_per_window=2)
    assert [type(ask(bench, 1, 3, True)[0]) for _ in range(3)] == [Snapshot, Snapshot, Unavailable]
    assert isinstance(ask(bench, 1, 3, True, bench.authors[1])[0], Snapshot)
    bench.now += bench.settings.window_s
    assert isinstance(ask(bench, 1, 3, True)[0], Snapshot)


def test_a_hello_carries_the_newest_token() -> None:
    bench = published(2)
    bench.disconnect(bench.authors[0])
    bench.connect(bench.authors[0])
    assert bench.messages(bench.authors[0])[-1] == Hello(bench.charter.federation_id, bench.disk.tokens[2], True)


def test_tokens_and_deltas_come_back_after_a_restart() -> None:
    bench = published(5)
    bench.restart()
    bench.connect()
    assert [type(answer) for answer in ask(bench, 3, 5)] == [Update] * 3
    bench.disk.tokens.clear()
    bench.restart()
    bench.connect()
    assert bench.messages(bench.authors[0])[-1] == Hello(bench.charter.federation_id, b"", True)
    assert ask(bench, 5, 5) == [Unavailable(bench.charter.federation_id, 5, 5)]


def test_no_more_deltas_are_kept_than_the_limit() -> None:
    bench = published(9, keep_deltas=4, keep_rounds=1)
    assert sorted(bench.node.publisher._tokens) == sorted(bench.node.publisher._deltas) == [6, 7, 8, 9]
