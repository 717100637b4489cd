"""A connection between its socket and its streams."""

from __future__ import annotations

import contextlib

import pytest
import trio

from quidnunc.peer.network.mux import DATA, HEADER, SYN, WINDOW, Mux
from quidnunc.peer.network.sealing import PLAIN_BYTES, Opener, Sealer
from quidnunc.peer.network.transfer import StreamEnded
from quidnunc.peer.network.transport import Connection

KEY = bytes(range(32))
PATIENCE = 20.0


class FakeWire:
    """Bytes that were sealed beforehand, and then the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.aborted = False

    async def receive_into(self, room: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        count = min(len(room), len(self.data))
        room[:count] = self.data[:count]
        self.data = self.data[count:]
        return count

    async def write(self, data: memoryview) -> None:
        await trio.sleep_forever()

    def abort(self) -> None:
        self.aborted = True


def connection(plains: list[bytes]) -> Connection:
    """One whose peer has sent ``plains``, each in a message of its own."""
    sealer = Sealer(KEY, 0, 1)
    data = b""
    for plain in plains:
        sealer.plain[: len(plain)] = plain
        sealer.seal(len(plain))
        data += bytes(sealer.take())
    mux = Mux(dialed=False, may_hold=lambda count: True)
    wire = FakeWire(data)
    return Connection(b"p" * 32, wire, mux, Sealer(KEY, 0, 1), Opener(KEY, 0, 8), outbound=False)  # type: ignore[arg-type]


async def accept_until_the_end(one: Connection) -> None:
    with contextlib.suppress(StreamEnded):
        while True:
            await one.accept()


OPEN = HEADER.pack(0, WINDOW, SYN, 1, 0)
UPDATE = HEADER.pack(0, WINDOW, 0, 1, 1)


@pytest.mark.trio
@pytest.mark.parametrize(
    "plains",
    [[OPEN] + [UPDATE] * 8_000, [OPEN] + [UPDATE * (PLAIN_BYTES // len(UPDATE))] * 8],
    ids=["tiny-messages", "tiny-frames"],
)
async def test_a_flood_of_tiny_frames_leaves_others_their_turn(plains: list[bytes]) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await connection(plains).run()
            nursery.cancel_scope.cancel()
    assert turns >= min(len(plains), 100) - 1


@pytest.mark.trio
@pytest.mark.parametrize(
    ("plains", "why"),
    [
        ([], "closed by the peer"),
        ([OPEN], "closed by the peer"),
        ([OPEN, OPEN], "the peer may not open stream 1"),
        ([HEADER.pack(0, DATA, 0, 1, 2**32 - 1)], "4294967295 bytes on stream 1"),
    ],
)
async def test_the_end_of_a_connection_says_why_and_reaches_whoever_waits(plains: list[bytes], why: str) -> None:
    one = connection(plains)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_until_the_end, one)
            await one.run()
    assert one.why.startswith(why)
    assert one.ended.is_set()
    assert one.wire.aborted


@pytest.mark.trio
async def test_a_message_that_does_not_authenticate_ends_the_connection() -> None:
    one = connection([OPEN, OPEN])
    wire = one.wire
    wire.data = wire.data[:-1] + bytes([wire.data[-1] ^ 1])  # type: ignore[attr-defined]
    with trio.fail_after(PATIENCE):
        await one.run()
    assert one.why == "message 1 does not authenticate"
