"""The host under trio: effects in order, durable before sent, bounded queues, one way to end."""

from __future__ import annotations

from pathlib import Path

import hosts
import pytest
import trio
from hosts import Seat, Table, until

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.crypto.errors import LedgerCorrupt, Reason, StoreUnwritable
from quidnunc.gossip.events import Frame, Report, Send, SetTimer, TimerFired
from quidnunc.gossip.jobs import TrainJob
from quidnunc.gossip.message import Update
from quidnunc.gossip.message_codec import parse_message
from quidnunc.peer import health, outboxes
from quidnunc.peer import host as host_module

pytestmark = pytest.mark.trio


def published(seat: Seat) -> int:
    return seat.node.publisher.number


async def test_peers_train_merge_and_keep_ledgers_that_verify(tmp_path: Path) -> None:
    table = Table(tmp_path, 3, rounds=3)
    async with table.running():
        await until(lambda: all(seat.node.rounds.finished for seat in table.seats), "finished")
        for seat in table.seats:
            await seat.host.pause(True)
    for seat in table.seats:
        assert seat.store.verify().ok
        assert seat.store.size == seat.node.recorder.size
        assert seat.node.rounds.trained == 3
        assert sum(neighbor.accepted for neighbor in seat.node.neighbors.values()) >= 4


async def test_every_update_is_durable_before_it_is_sent(tmp_path: Path) -> None:
    table = Table(tmp_path, 2, rounds=5)
    async with table.running():
        await until(lambda: all(published(seat) >= 8 for seat in table.seats), "eight updates")
    for seat in table.seats:
        durable: set[bytes] = set()
        sent = 0
        for kind, what in seat.happenings:
            if kind == "commit":
                durable.update(what)
                continue
            message = parse_message(what.header, table.charter.federation_id)
            if isinstance(message, Update):
                assert message.token in durable
                sent += 1
        assert sent >= 3


async def test_a_store_that_fails_stops_the_host_with_its_error_and_nothing_is_sent_or_acknowledged(
    tmp_path: Path,
) -> None:
    table = Table(tmp_path, 2, rounds=1000)
    failing, other = table.seats
    with pytest.RaisesGroup(StoreUnwritable, flatten_subgroups=True, allow_unwrapped=True):
        async with table.running():
            await until(lambda: published(failing) >= 2, "two updates")
            failing.watched.fails_from = failing.store.size
            await trio.sleep_forever()
    assert failing.host.stopped.is_set()
    size = failing.store.size
    failing.store.close()
    other.store.close()
    again = table.seat(0)
    assert again.store.size == size
    assert again.store.verify().ok
    # Whatever the neighbor holds of the failed peer is on the failed peer's disk.
    held = other.node.neighbors[failing.founder.member.log_id].number
    assert held <= again.node.publisher.number


async def test_a_waiter_is_not_told_that_a_failed_event_was_handled(tmp_path: Path) -> None:
    table = Table(tmp_path, 2, rounds=1000)
    failing = table.seats[0]
    answers: list[Reason | None] = []

    async def feed_garbage() -> None:
        frame = Frame(b"\xff garbage")
        answers.append(await failing.host.received(table.seats[1].founder.member.transport, frame))

    with pytest.RaisesGroup(StoreUnwritable, flatten_subgroups=True, allow_unwrapped=True):
        async with table.running() as nursery:
            await until(lambda: published(failing) >= 1, "an update")
            failing.watched.fails_from = 0
            nursery.start_soon(feed_garbage)
            await trio.sleep_forever()
    assert answers == []


async def test_a_refusal_reaches_the_transport_and_the_ledger(tmp_path: Path) -> None:
    table = Table(tmp_path, 2, rounds=1000)
    seat, other = table.seats
    async with table.running():
        await until(lambda: published(seat) >= 1, "an update")
        before = seat.node.refused_total
        answer = await seat.host.received(other.founder.member.transport, Frame(b"\xff garbage"))
        assert answer is Reason.MALFORMED
        assert seat.node.refused_total == before + 1
        assert EntryType.MESSAGE_REFUSED in [parse_header(entry.header).type for entry in seat.store.entries()]
        stranger = await seat.host.received(b"?" * 32, Frame(b"\xff garbage"))
        assert stranger is Reason.STRANGER


class Slow:
    """An overlay on which every send takes until ``go`` is set."""

    def __init__(self, peer: bytes) -> None:
        self.peer = peer
        self.go = trio.Event()
        self.sent: list[bytes] = []

    def connected(self) -> frozenset[bytes]:
        return frozenset({self.peer})

    async def send(self, peer: bytes, frame: Frame) -> None:
        self.sent.append(frame.header)
        await self.go.wait()


async def test_the_send_queue_is_bounded_and_drops_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "SEND_QUEUE", 4)
    seat, other = Table(tmp_path, 2).seats
    peer = other.founder.member.transport
    overlay = Slow(peer)
    seat.host.outboxes._overlay = overlay  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        seat.host.outboxes.open(nursery)
        await perform(seat, Send(peer, Frame(b"0")))
        await until(lambda: overlay.sent == [b"0"], "the first is on its way")
        for number in range(1, 10):
            await perform(seat, Send(peer, Frame(b"%d" % number)))
        outbox = seat.host.outboxes.of(peer)
        assert [frame.header for frame, _ in outbox.queue] == [b"6", b"7", b"8", b"9"]
        assert seat.host.outboxes.dropped == 5
        overlay.go.set()
        await until(lambda: not outbox.busy, "sent")
        assert overlay.sent == [b"0", b"6", b"7", b"8", b"9"]
        nursery.cancel_scope.cancel()


async def test_frames_for_a_peer_that_is_gone_are_dropped(tmp_path: Path) -> None:
    table = Table(tmp_path, 2, rounds=1)
    seat, other = table.seats
    peer = other.founder.member.transport
    async with table.running():
        await until(lambda: peer in seat.overlay.connected(), "connected")
        table.network.cut(seat.founder.member.transport, peer)
        await until(lambda: peer not in seat.overlay.connected(), "cut off")
        before = len(list(hosts.first_sends(seat.happenings)))
        await perform(seat, Send(peer, Frame(b"too late")))
        await until(lambda: not seat.host.outboxes.of(peer).busy, "dropped")
        assert len(list(hosts.first_sends(seat.happenings))) == before


async def perform(seat: Seat, *effects: object) -> None:
    for effect in effects:
        await seat.host._perform(effect, host_module._Pending(TimerFired("none")))  # type: ignore[arg-type]


async def test_a_timer_replaces_the_pending_one_of_its_name(tmp_path: Path, autojump_clock: object) -> None:
    table = Table(tmp_path, 2)
    host = table.seats[0].host
    host.clock.now = trio.current_time  # type: ignore[method-assign]
    fired: list[tuple[str, float]] = []

    async def feed(event: object) -> None:
        assert isinstance(event, TimerFired)
        fired.append((event.timer, trio.current_time()))
        if event.timer == "first":
            # Performed while a second timer is due as well: it must not fire at its old time.
            await perform(table.seats[0], SetTimer("second", 50.0))

    host.feed = feed  # type: ignore[method-assign, assignment]
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        await perform(table.seats[0], SetTimer("first", 5.0), SetTimer("second", 5.0), SetTimer("third", 100.0))
        nursery.start_soon(host._run_timers)
        await trio.sleep(1.0)
        await perform(table.seats[0], SetTimer("third", 1.0))
        await trio.sleep(1000.0)
        nursery.cancel_scope.cancel()
    assert [(name, round(when - start)) for name, when in fired] == [("third", 2), ("first", 5), ("second", 55)]


async def test_an_orderly_stop_publishes_the_turn_that_runs(tmp_path: Path) -> None:
    table = Table(tmp_path, 2, rounds=1000)
    seat, other = table.seats
    async with table.running():
        await until(lambda: published(seat) >= 2, "two updates")
        seat.computer.hold = trio.Event()
        started = len(seat.computer.jobs)
        await until(lambda: any(isinstance(job, TrainJob) for job in seat.computer.jobs[started:]), "a training runs")
        before = published(seat)
        seat.stop.set()
        await until(lambda: seat.host._draining, "stopping")
        seat.computer.hold.set()
        await seat.host.stopped.wait()
        assert published(seat) == before + 1
        me = seat.founder.member.log_id
        await until(lambda: other.node.neighbors[me].number == before + 1, "the last update arrived")
        assert seat.store.size == seat.node.recorder.size


async def test_a_turn_that_hangs_cannot_prevent_the_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "TURN_GRACE_S", 0.05)
    table = Table(tmp_path, 2, rounds=1000)
    async with table.running():
        await until(lambda: published(table.seats[0]) >= 1, "an update")
        table.seats[0].computer.hold = trio.Event()
        await until(lambda: table.seats[0].host._heavy_left > 0, "a job hangs")
    assert table.seats[0].store.verify().ok


async def test_a_failing_computer_is_reported_and_the_peer_goes_on(tmp_path: Path) -> None:
    table = Table(tmp_path, 2, rounds=1000)
    seat = table.seats[0]
    async with table.running():
        await until(lambda: published(seat) >= 1, "an update")
        seat.computer.failing = "was killed by SIGKILL"
        await until(lambda: seat.node.rounds.failures >= 2, "two failures")
        assert any("was killed by SIGKILL" in report.text for _, report in seat.host.reports)
        seat.computer.failing = ""
        before = published(seat)
        await until(lambda: published(seat) > before, "the next update")
        assert seat.node.rounds.failures == 0


async def test_a_peer_restarted_from_its_ledger_continues_where_it_was(tmp_path: Path) -> None:
    table = Table(tmp_path, 3, rounds=1000)
    async with table.running() as nursery:
        await until(lambda: all(published(seat) >= 3 for seat in table.seats), "three updates")
        old = table.seats[0]
        old.stop.set()
        await old.host.stopped.wait()
        number, size = published(old), old.store.size
        old.store.close()
        seat = table.seats[0] = table.seat(0)
        seat.blobs.data.update(old.blobs.data)
        assert (published(seat), seat.node.recorder.size) == (number, size)
        await nursery.start(seat.host.run, seat.stop)
        await until(lambda: published(seat) >= number + 2, "two more updates")
        me = seat.founder.member.log_id
        for other in table.seats[1:]:
            await until(lambda n=other.node.neighbors[me]: n.number >= number + 2, "a neighbor took them")
    assert seat.store.verify().ok


async def test_reports_are_bounded(tmp_path: Path) -> None:
    seat = Table(tmp_path, 2).seats[0]
    for number in range(host_module.REPORTS_KEPT + 10):
        await perform(seat, Report("test", f"report {number}"))
    assert len(seat.host.reports) == host_module.REPORTS_KEPT
    assert seat.host.reports[-1][1].text == f"report {host_module.REPORTS_KEPT + 9}"


async def test_a_corrupt_ledger_ends_the_host_too(tmp_path: Path) -> None:
    table = Table(tmp_path, 2, rounds=1000)
    seat = table.seats[0]

    def corrupt(*arguments: object) -> None:
        raise LedgerCorrupt(seat.store.size, "its checkpoint does not verify")

    with pytest.RaisesGroup(LedgerCorrupt, flatten_subgroups=True, allow_unwrapped=True):
        async with table.running():
            await until(lambda: published(seat) >= 1, "an update")
            seat.watched.commit = corrupt  # type: ignore[method-assign]
            await trio.sleep_forever()


async def test_without_room_nothing_is_committed_and_it_goes_on_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LOOK_S", 0.01)
    free = 1000
    monkeypatch.setattr(health, "free_bytes", lambda paths: free)
    table = Table(tmp_path, 2, rounds=1000)
    seat = table.seats[0]
    watch = health.Health(seat.host, seat.computer, seat.overlay, health.Room((tmp_path,), 100))

    def told() -> set[str]:
        return {each["id"] for each in watch.tell()["conditions"]}

    async with table.running() as nursery:
        nursery.start_soon(watch.run)
        await until(lambda: published(seat) >= 2, "two updates")
        assert not told()
        free = 99
        await until(lambda: "disk-full" in told() and seat.node.frugal.active, "no room is told")
        size, asked = seat.store.size, len(seat.happenings)
        other = table.seats[1].founder.member.transport
        hello = seat.node.publisher.hello(other, reply=True).frame
        assert await seat.host.received(other, hello) is None
        await until(lambda: any(kind == "send" for kind, _ in seat.happenings[asked:]), "it still answers")
        assert seat.store.size == size
        free = 1000
        await until(lambda: seat.store.size > size, "it goes on")
        await until(lambda: "disk-full" not in told(), "nothing is told any more")
        assert watch.tell()["recent_conditions"][0]["id"] == "disk-full"
        nursery.cancel_scope.cancel()
