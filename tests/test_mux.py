"""Our yamux: against itself, against py-libp2p's, and against peers that break its rules."""

from __future__ import annotations

import math
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from quidnunc.peer.network.mux import (
    ACCEPT_MAX,
    ACK,
    ANSWER_BYTES_MAX,
    DATA,
    DISCARD_BYTES_MAX,
    FIN,
    GO_AWAY,
    HEADER,
    PING,
    RST,
    SYN,
    WINDOW,
    Mux,
    MuxBroken,
)
from quidnunc.peer.network.mux_stream import BULK_WINDOW_BYTES, WINDOW_BYTES, MuxStream
from quidnunc.peer.network.transfer import StreamEnded

PATIENCE = 20.0
ROOM = 65_519


def mux(dialed: bool = True, limit: float = math.inf) -> Mux:
    made: Mux = Mux(dialed=dialed, may_hold=lambda count: made.unread + count <= limit)
    return made


def said(one: Mux, room: int = ROOM) -> bytes:
    """What ``one`` sends next."""
    space = memoryview(bytearray(room))
    return bytes(space[: one.fill(space)])


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, length or bytes) of what was sent."""
    found = []
    while data:
        _, kind, flags, number, value = HEADER.unpack(data[:12])
        data = data[12:]
        if kind == DATA:
            found.append((kind, flags, number, data[:value]))
            data = data[value:]
        else:
            found.append((kind, flags, number, value))
    return found  # type: ignore[return-value]


def frame(kind: int, flags: int, number: int, value: int, version: int = 0) -> bytes:
    return HEADER.pack(version, kind, flags, number, value)


def tell(one: Mux, data: bytes) -> None:
    one.feed(memoryview(data))


def exchange(one: Mux, two: Mux, cuts: Iterator[int] | None = None) -> None:
    """Carry bytes both ways until there are none."""
    moved = True
    while moved:
        moved = False
        for source, target in ((one, two), (two, one)):
            while data := said(source):
                moved = True
                while data:
                    size = len(data) if cuts is None else next(cuts)
                    tell(target, data[:size])
                    data = data[size:]


@asynccontextmanager
async def joined() -> AsyncIterator[tuple[Mux, Mux]]:
    """Two multiplexers whose bytes are carried in the background."""
    one, two = mux(), mux(dialed=False)

    async def carry(source: Mux, target: Mux) -> None:
        while True:
            await source.wait_for_work()
            tell(target, said(source))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, one, two)
        nursery.start_soon(carry, two, one)
        yield one, two
        nursery.cancel_scope.cancel()


# -- both ends ours ----------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 2), st.binary(min_size=1, max_size=400)), max_size=12),
    st.lists(st.integers(1, 500), min_size=1, max_size=5),
)
@settings(deadline=None, max_examples=100)
def test_bytes_of_every_stream_arrive_in_order_however_they_are_cut(
    writes: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    def cuts() -> Iterator[int]:
        while True:
            yield from sizes

    async def main() -> None:
        one, two = mux(), mux(dialed=False)
        streams = [one.open() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for number, data in writes:
                nursery.start_soon(streams[number].write, data)
                await trio.testing.wait_all_tasks_blocked()
            exchange(one, two, cuts())
        for number in range(3):
            expected = b"".join(data for which, data in writes if which == number)
            assert await (await two.accept()).read_exactly(len(expected)) == expected
        assert two.unread == 0

    trio.run(main)


@pytest.mark.trio
@pytest.mark.parametrize("size", [1, WINDOW_BYTES, WINDOW_BYTES + 1, 5_000_000])
async def test_large_writes_pass_the_window_in_both_directions(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    with trio.fail_after(PATIENCE):
        async with joined() as (one, two):
            ours = one.open()
            theirs = await two.accept()
            for writer, reader in ((ours, theirs), (theirs, ours)):
                target = bytearray(size)
                heard: list[int] = []
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(writer.write, body)
                    reader.expect(size)
                    await reader.read_into(memoryview(target), 5.0, heard.append)
                assert target == body
                assert heard[-1] == size
                assert heard == sorted(heard)
        assert one.unread == two.unread == 0


@pytest.mark.trio
async def test_a_slow_reader_bounds_the_sender() -> None:
    with trio.fail_after(PATIENCE):
        async with joined() as (one, two):
            ours = one.open()
            theirs = await two.accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.write, bytes(2_000_000))
                await trio.testing.wait_all_tasks_blocked()
                assert two.unread == WINDOW_BYTES
                theirs.expect(2_000_000)
                await trio.testing.wait_all_tasks_blocked()
                assert two.unread == BULK_WINDOW_BYTES
                await theirs.read_exactly(BULK_WINDOW_BYTES // 4 - 1)
                await trio.testing.wait_all_tasks_blocked()
                assert two.unread == BULK_WINDOW_BYTES * 3 // 4 + 1, "credit is returned in steps"
                await theirs.read_exactly(1)
                await trio.testing.wait_all_tasks_blocked()
                assert two.unread == BULK_WINDOW_BYTES
                nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_small_write_waits_for_one_frame_of_a_large_one_and_no_more() -> None:
    one = mux()
    bulk, small = one.open(), one.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bulk.write, bytes(WINDOW_BYTES))
        await trio.testing.wait_all_tasks_blocked()
        assert len(said(one)) == ROOM
        nursery.start_soon(small.write, b"ping")
        await trio.testing.wait_all_tasks_blocked()
        said(one)
        assert (DATA, 0, small.number, b"ping") in frames(said(one))
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_small_writes_share_a_message_with_what_answers_them() -> None:
    one = mux()
    streams = [one.open() for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.write, b"x")
        await trio.testing.wait_all_tasks_blocked()
        sent = frames(said(one))
    assert [each[:2] for each in sent] == [(WINDOW, SYN)] * 3 + [(DATA, 0)] * 3


# -- what cancelling and ending do -------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_write_cancelled_before_it_began_leaves_the_stream_as_it_was() -> None:
    one = mux()
    stream = one.open()
    said(one)
    with trio.move_on_after(0):
        await stream.write(b"never")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.write, b"after")
        await trio.testing.wait_all_tasks_blocked()
        assert frames(said(one)) == [(DATA, 0, 1, b"after")]


@pytest.mark.trio
async def test_a_write_cancelled_halfway_ends_its_stream_and_no_other() -> None:
    with trio.fail_after(PATIENCE):
        async with joined() as (one, two):
            ours, other = one.open(), one.open()
            theirs, fine = await two.accept(), await two.accept()
            with trio.move_on_after(PATIENCE) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ours.write, bytes(2 * WINDOW_BYTES))
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            with pytest.raises(StreamEnded):
                await theirs.read_exactly(2 * WINDOW_BYTES)
            with pytest.raises(StreamEnded):
                await ours.write(b"more")
            await other.write(b"fine")
            assert await fine.read_exactly(4) == b"fine"
            assert two.unread == 0


@pytest.mark.trio
async def test_silence_ends_a_write_and_a_read_and_progress_does_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, two = mux(), mux(dialed=False)
    ours = one.open()
    exchange(one, two)
    theirs = await two.accept()
    target = memoryview(bytearray(1_000_000))
    outcomes: list[str] = []

    async def write() -> None:
        with pytest.raises(trio.TooSlowError):
            await ours.write(bytes(800_000), 15.0)
        outcomes.append(f"write {trio.current_time() - began:g}")

    async def read() -> None:
        with pytest.raises(trio.TooSlowError):
            await theirs.read_into(target, 15.0)
        outcomes.append(f"read {trio.current_time() - began:g}")

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        nursery.start_soon(read)
        for _ in range(4):
            await trio.sleep(10)
            tell(two, said(one))
        # Four frames of 65,507 bytes were taken, the last one at 40 s.
    assert sorted(outcomes) == ["read 55", "write 55"]


@pytest.mark.trio
@pytest.mark.parametrize("how", ["reset", "connection"])
async def test_whoever_waits_hears_of_the_end(how: str) -> None:
    one, two = mux(), mux(dialed=False)
    ours = one.open()
    exchange(one, two)
    theirs = await two.accept()
    ended: list[str] = []

    async def expect(name: str, call: object, *args: object) -> None:
        with pytest.raises(StreamEnded):
            await call(*args)  # type: ignore[operator]
        ended.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, "read", ours.read_exactly, 1)
        nursery.start_soon(expect, "write", ours.write, bytes(2 * WINDOW_BYTES))
        await trio.testing.wait_all_tasks_blocked()
        exchange(one, two)
        if how == "reset":
            theirs.reset()
            exchange(one, two)
        else:
            nursery.start_soon(expect, "accept", one.accept)
            await trio.testing.wait_all_tasks_blocked()
            one.end()
    assert set(ended) == {"read", "write", *(["accept"] if how == "connection" else [])}
    with pytest.raises(StreamEnded):
        await ours.write(b"x")
    if how == "connection":
        with pytest.raises(StreamEnded):
            one.open()


@pytest.mark.trio
async def test_what_came_before_a_half_close_can_be_read() -> None:
    two = mux(dialed=False)
    tell(two, frame(WINDOW, SYN, 1, 0) + frame(DATA, FIN, 1, 3) + b"end")
    stream = await two.accept()
    assert await stream.read_exactly(2) == b"en"
    with pytest.raises(StreamEnded):
        await stream.read_exactly(2)
    assert await stream.read_exactly(1) == b"d"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.write, b"still ours")
        await trio.testing.wait_all_tasks_blocked()
        assert (DATA, 0, 1, b"still ours") in frames(said(two))


async def _read(stream: MuxStream, count: int) -> bytes:
    return await stream.read_exactly(count)


@pytest.mark.trio
async def test_bytes_for_a_stream_that_is_over_are_dropped() -> None:
    two = mux(dialed=False)
    tell(two, frame(WINDOW, SYN, 1, 0) + frame(DATA, 0, 1, 5) + b"he")
    (await two.accept()).reset()
    tell(two, b"llo" + frame(DATA, 0, 1, 4) + b"gone" + frame(WINDOW, 0, 1, 9) + frame(WINDOW, SYN, 3, 0))
    assert two.unread == 0
    tell(two, frame(DATA, 0, 3, 2) + b"ok")
    assert await _read(await two.accept(), 2) == b"ok"
    assert (WINDOW, RST, 1, 0) in frames(said(two))


# -- peers that break the rules ----------------------------------------------------------------------------------

OPEN = frame(WINDOW, SYN, 1, 0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frame(DATA, 0, 1, 0, version=1), "version 1"),
        (frame(4, 0, 0, 0), "type 4"),
        (frame(GO_AWAY, 0, 0, 0), "closed by the peer"),
        (OPEN + OPEN, "may not open stream 1"),
        (frame(WINDOW, SYN, 2, 0), "may not open stream 2"),
        (frame(WINDOW, SYN, 0, 0), "may not open stream 0"),
        (OPEN + frame(DATA, 0, 1, WINDOW_BYTES + 1), f"{WINDOW_BYTES + 1} bytes on stream 1"),
        (OPEN + frame(DATA, 0, 1, WINDOW_BYTES) + bytes(WINDOW_BYTES) + frame(DATA, 0, 1, 1), "where 0 were granted"),
        (OPEN + frame(DATA, 0, 1, 2**32 - 1), "4294967295 bytes"),
        (frame(DATA, 0, 9, DISCARD_BYTES_MAX + 1), "on stream 9"),
        (frame(PING, SYN, 0, 7) * (ANSWER_BYTES_MAX // 12 + 1), "does not read"),
    ],
)
def test_a_broken_rule_ends_the_connection(data: bytes, why: str) -> None:
    with pytest.raises(MuxBroken, match=why):
        tell(mux(dialed=False), data)


def test_everything_up_to_the_limits_is_fine() -> None:
    two = mux(dialed=False)
    tell(two, OPEN + frame(DATA, 0, 1, WINDOW_BYTES) + bytes(WINDOW_BYTES) + frame(DATA, 0, 1, 0))
    tell(two, frame(DATA, 0, 9, DISCARD_BYTES_MAX))
    assert two.unread == WINDOW_BYTES
    tell(mux(), frame(PING, SYN, 0, 7) * (ANSWER_BYTES_MAX // 12))


def test_unread_bytes_are_held_up_to_the_limit() -> None:
    for size, fine in ((1_000, True), (1_001, False)):
        two = mux(dialed=False, limit=1_000)
        data = OPEN + frame(DATA, 0, 1, size) + bytes(size)
        if fine:
            tell(two, data)
        else:
            with pytest.raises(MuxBroken, match="unread bytes over the limit"):
                tell(two, data)


def test_pings_are_answered_with_their_number() -> None:
    one = mux()
    tell(one, frame(PING, SYN, 0, 77) + frame(PING, ACK, 0, 3))
    assert frames(said(one)) == [(PING, ACK, 0, 77)]


def test_streams_beyond_the_backlog_are_reset() -> None:
    two = mux(dialed=False)
    for number in range(ACCEPT_MAX + 2):
        tell(two, frame(WINDOW, SYN, 2 * number + 1, 0))
    answers = frames(said(two))
    assert [flags for _, flags, _, _ in answers] == [ACK] * ACCEPT_MAX + [RST] * 2


@given(
    st.lists(
        st.builds(
            lambda version, kind, flags, number, value, body: (
                struct.pack(">BBHII", version, kind, flags, number, value) + body
            ),
            st.sampled_from([0, 0, 0, 0, 1]),
            st.integers(0, 4),
            st.integers(0, 15),
            st.integers(0, 5),
            st.one_of(st.integers(0, 40), st.sampled_from([WINDOW_BYTES, 2**32 - 1])),
            st.binary(max_size=40),
        ),
        max_size=12,
    ),
    st.integers(1, 60),
)
@settings(deadline=None, max_examples=300)
def test_whatever_a_peer_sends_is_taken_or_refused_and_never_held_beyond_the_limit(
    pieces: list[bytes], cut: int
) -> None:
    two = mux(dialed=False, limit=100)
    data = b"".join(pieces)
    try:
        for start in range(0, len(data), cut):
            tell(two, data[start : start + cut])
            assert two.unread <= 100
    except MuxBroken:
        pass
    held = sum(len(stream._buffer) for stream in two._streams.values())
    assert two.unread == held
    two.end()
    assert two.unread == 0


# -- the other end is py-libp2p's --------------------------------------------------------------------------------


class Pipe:
    """What stock yamux takes for a secured connection; our multiplexer is at the other end."""

    def __init__(self, one: Mux) -> None:
        self._one = one
        self._buffer = bytearray()
        self._closed = False

    async def read(self, n: int) -> bytes:
        while len(self._buffer) < n:
            await self._one.wait_for_work()
            self._buffer += said(self._one)
        taken = bytes(self._buffer[:n])
        del self._buffer[:n]
        return taken

    async def write(self, data: bytes) -> None:
        tell(self._one, data)
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        self._closed = True


@asynccontextmanager
async def beside_stock(dialed: bool) -> AsyncIterator[tuple[Mux, Yamux]]:
    one = mux(dialed=dialed)
    peer = ID.from_pubkey(create_new_key_pair(seed=bytes(32)).public_key)
    stock = Yamux(Pipe(one), peer, is_initiator=not dialed)  # type: ignore[arg-type]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stock.start)
            await stock.event_started.wait()
            yield one, stock
            nursery.cancel_scope.cancel()


async def _read_stock(stream: YamuxStream, count: int) -> bytes:
    found = b""
    while len(found) < count:
        found += await stream.read(count - len(found))
    return found


@pytest.mark.trio
@pytest.mark.parametrize("dialed", [True, False], ids=["we-dial", "they-dial"])
@pytest.mark.parametrize("opener", ["ours", "stock"])
@pytest.mark.parametrize("size", [5, 3_000_000])
async def test_streams_work_both_ways_beside_stock_yamux(dialed: bool, opener: str, size: int) -> None:
    body = (bytes(range(251)) * (size // 251 + 1))[:size]
    async with beside_stock(dialed) as (one, stock):
        if opener == "ours":
            ours = one.open()
            theirs = await stock.accept_stream()
        else:
            theirs = await stock.open_stream()
            ours = await one.accept()
        found: list[bytes] = []

        async def read() -> None:
            found.append(await _read_stock(theirs, size))  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await ours.write(body)
        assert found == [body]
        target = bytearray(size)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.write, body)
            ours.expect(size)
            await ours.read_into(memoryview(target), 5.0)
        assert target == body
        await theirs.close()
        with pytest.raises(StreamEnded):
            await ours.read_exactly(1)
        await ours.write(b"last words")
        assert await _read_stock(theirs, 10) == b"last words"  # type: ignore[arg-type]
        ours.reset()
        with pytest.raises(MuxedStreamError):
            await _read_stock(theirs, 1)  # type: ignore[arg-type]


@pytest.mark.trio
async def test_stock_yamux_ends_our_streams_by_its_reset_and_by_its_goodbye() -> None:
    async with beside_stock(True) as (one, stock):
        first, second = one.open(), one.open()
        await (await stock.accept_stream()).reset()
        await stock.accept_stream()
        with pytest.raises(StreamEnded):
            await first.read_exactly(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.write, b"x")
            await trio.testing.wait_all_tasks_blocked()
        goodbye = frame(GO_AWAY, 0, 0, 0)
        with pytest.raises(MuxBroken, match="closed by the peer"):
            tell(one, goodbye)
