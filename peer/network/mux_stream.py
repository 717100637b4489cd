"""One stream of a multiplexed connection, as its reader and its writer see it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from quidnunc.peer.network.transfer import StreamEnded

if TYPE_CHECKING:
    from quidnunc.peer.network.mux import Mux

WINDOW_BYTES = 262_144
"""What a side may send on a fresh stream (yamux's constant)."""
BULK_WINDOW_BYTES = 1_048_576
"""The same for a transfer that was announced: enough for 20 MB/s at a round trip of 50 ms."""


class _Outgoing:
    """Bytes on their way out, and who waits for that."""

    __slots__ = ("done", "failed", "idle_s", "scope", "started", "view")

    def __init__(self, data: bytes | memoryview, idle_s: float) -> None:
        self.view = memoryview(data)
        self.idle_s = idle_s
        self.scope = trio.CancelScope(deadline=trio.current_time() + idle_s)
        self.done = trio.Event()
        self.started = False
        self.failed = False

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes."""
        piece = self.view[:count]
        self.view = self.view[count:]
        self.started = True
        if not self.view:
            self.done.set()
        elif self.idle_s != math.inf:
            self.scope.deadline = trio.current_time() + self.idle_s
        return piece


class _Sink:
    """Where a reader wants the next bytes; ``told`` hears how many are there."""

    __slots__ = ("filled", "idle_s", "scope", "told", "view")

    def __init__(self, view: memoryview, idle_s: float, told: Callable[[int], None] | None) -> None:
        self.view = view
        self.filled = 0
        self.idle_s = idle_s
        self.scope = trio.CancelScope(deadline=trio.current_time() + idle_s)
        self.told = told

    def put(self, piece: memoryview | bytearray) -> int:
        """Copy as much of ``piece`` as there is room for; returns how much that was."""
        count = min(len(piece), len(self.view) - self.filled)
        self.view[self.filled : self.filled + count] = piece[:count]
        self.filled += count
        self.scope.deadline = trio.current_time() + self.idle_s
        if self.told is not None:
            self.told(self.filled)
        return count

    @property
    def full(self) -> bool:
        return self.filled == len(self.view)


class MuxStream:
    """A ByteStream for transfers. ``credit`` is what the peer may still send, ``allowance`` what we may."""

    def __init__(self, mux: Mux, number: int) -> None:
        self._mux = mux
        self.number = number
        self.credit = WINDOW_BYTES
        self.in_line = False
        self._allowance = WINDOW_BYTES
        self._window = WINDOW_BYTES
        self._owed = 0
        self._buffer = bytearray()
        self._sink: _Sink | None = None
        self._arrived = trio.Event()
        self._outgoing: deque[_Outgoing] = deque()
        self._closed = False
        self._half_closed = False

    # -- reading ------------------------------------------------------------------------------------------------

    async def read_exactly(self, count: int) -> bytes:
        """Exactly ``count`` bytes; what a cancelled call has not returned stays for the next one."""
        while len(self._buffer) < count:
            await self._arrival()
        taken = bytes(self._buffer[:count])
        self._drained(count)
        return taken

    async def read_into(self, target: memoryview, idle_s: float, told: Callable[[int], None] | None = None) -> None:
        """Fill ``target``; trio.TooSlowError when nothing came for ``idle_s``.

        ``told`` is called with the number of bytes that are there, at any time and often; it must not raise. A call
        that does not return has spoiled the stream.
        """
        sink = _Sink(target, idle_s, told)
        self._drained(sink.put(self._buffer))
        self._sink = sink
        try:
            with sink.scope:
                while not sink.full:
                    await self._arrival()
        finally:
            self._sink = None
        if not sink.full:
            raise trio.TooSlowError

    async def _arrival(self) -> None:
        if self._closed or self._half_closed:
            raise StreamEnded("end of stream")
        self._arrived = trio.Event()
        await self._arrived.wait()

    def _drained(self, count: int) -> None:
        del self._buffer[:count]
        self._mux.hold(-count)
        self._consumed(count)

    def _consumed(self, count: int) -> None:
        self._owed += count
        if self._owed >= self._window // 4 and not (self._closed or self._half_closed):
            self._mux.grant(self, self._owed)
            self._owed = 0

    def expect(self, count: int) -> None:
        """Widen the window once for ``count`` bytes that were announced."""
        if count > self._window // 2 and self._window < BULK_WINDOW_BYTES:
            self._mux.grant(self, BULK_WINDOW_BYTES - self._window)
            self._window = BULK_WINDOW_BYTES

    # -- writing ------------------------------------------------------------------------------------------------

    async def write(self, data: bytes | memoryview, idle_s: float = math.inf) -> None:
        """Return once all of ``data`` is with the connection; trio.TooSlowError when nothing moved for ``idle_s``.

        Waits for the window as long as that. A call that ends otherwise has sent nothing, or ends the stream: half a
        message must not be followed by another.
        """
        if self._closed:
            raise StreamEnded("stream is closed")
        if not data:
            return
        item = _Outgoing(data, idle_s)
        self._outgoing.append(item)
        self._mux.send_soon(self)
        try:
            with item.scope:
                await item.done.wait()
        finally:
            if not item.done.is_set():
                self._withdraw(item)
        if item.scope.cancelled_caught and (item.failed or item.view):
            raise trio.TooSlowError
        if item.failed:
            raise StreamEnded("stream is closed")

    def _withdraw(self, item: _Outgoing) -> None:
        if item.started:
            self._mux.drop(self)
        else:
            self._outgoing.remove(item)

    def reset(self) -> None:
        """End the stream both ways and forget what was not read."""
        self._mux.drop(self)

    # -- the multiplexer's side ---------------------------------------------------------------------------------

    @property
    def sendable(self) -> bool:
        """Whether there are bytes to send and the peer will take some."""
        return bool(self._outgoing) and self._allowance > 0

    def give(self, room: memoryview) -> int:
        """Write the next bytes to ``room``; returns how many."""
        item = self._outgoing[0]
        count = min(len(item.view), self._allowance, len(room))
        room[:count] = item.take(count)
        self._allowance -= count
        if not item.view:
            self._outgoing.popleft()
        return count

    def allow(self, count: int) -> None:
        """The peer will take ``count`` more bytes."""
        self._allowance += count
        self._mux.send_soon(self)

    def arrive(self, piece: memoryview) -> None:
        """Bytes came; raises MuxBroken when they may not be held."""
        if self._closed:
            return
        sink = self._sink
        taken = 0
        if sink is not None and not sink.full:
            taken = sink.put(piece)
            self._consumed(taken)
        if taken < len(piece):
            self._mux.hold(len(piece) - taken)
            self._buffer += piece[taken:]
        if sink is None or sink.full:
            self._arrived.set()

    def half_close(self) -> None:
        """The peer will send no more."""
        self._half_closed = True
        self._arrived.set()

    def end(self) -> None:
        """The stream is over, both ways: whoever waits hears so."""
        self._closed = True
        self._mux.hold(-len(self._buffer))
        self._buffer.clear()
        self._arrived.set()
        while self._outgoing:
            item = self._outgoing.popleft()
            item.failed = True
            item.done.set()
