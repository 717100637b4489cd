"""Yamux, one connection's worth: what its frames mean, what is sent next, who waits for what. No IO.

The format is https://github.com/hashicorp/yamux/blob/master/spec.md, as libp2p uses it (``/yamux/1.0.0``): a header of
version, type, flags, stream and length (1, 1, 2, 4, 4 bytes, big-endian), and bytes behind it for type data. Stricter
than most: a peer that sends more than it was granted, reuses a stream, or makes us answer more than it reads, has
ended the connection. Incoming bytes go where a reader waits for them, without a copy in between, and credit for them
is returned in large steps; outgoing bytes are taken from all streams in turn, so that no stream waits behind another.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable

import trio

from quidnunc.peer.network.mux_stream import MuxStream
from quidnunc.peer.network.transfer import StreamEnded

HEADER = struct.Struct(">BBHII")
DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
ACCEPT_MAX = 256
"""Streams the peer may have opened that nobody has accepted yet, as in the reference implementation."""
ANSWER_BYTES_MAX = 65_536
"""What we may owe a peer in headers alone before we believe that it does not read them."""
DISCARD_BYTES_MAX = 16_777_216
"""Largest data frame for a stream that is over: what was on its way is dropped as it comes."""


class MuxBroken(Exception):
    """The peer broke the format or a limit, or said goodbye: the connection is over."""


class Mux:
    """The streams of one connection. ``may_hold(n)`` says whether ``n`` more unread bytes may be held for this peer."""

    def __init__(self, *, dialed: bool, may_hold: Callable[[int], bool]) -> None:
        self._may_hold = may_hold
        self._parity = 0 if dialed else 1
        self._next = 1 if dialed else 2
        self._streams: dict[int, MuxStream] = {}
        self._opened: deque[MuxStream] = deque()
        self._news = trio.Event()
        self._answers = bytearray()
        self._sending: deque[MuxStream] = deque()
        self._work = trio.Event()
        self._header = bytearray()
        self._body_left = 0
        self._body_of: MuxStream | None = None
        self._body_flags = 0
        self.unread = 0
        self.ended = False

    # -- streams ------------------------------------------------------------------------------------------------

    def open(self) -> MuxStream:
        """A new stream to the peer; StreamEnded when the connection is over."""
        if self.ended:
            raise StreamEnded("connection is over")
        stream = self._streams[self._next] = MuxStream(self, self._next)
        self._next += 2
        self._say(WINDOW, SYN, stream.number, 0)
        return stream

    async def accept(self) -> MuxStream:
        """The next stream that the peer opens; StreamEnded when there are no more."""
        while not self._opened:
            if self.ended:
                raise StreamEnded("connection is over")
            self._news = trio.Event()
            await self._news.wait()
        return self._opened.popleft()

    def grant(self, stream: MuxStream, count: int) -> None:
        """Let the peer send ``count`` more bytes on ``stream``."""
        stream.credit += count
        self._say(WINDOW, 0, stream.number, count)

    def hold(self, count: int) -> None:
        """Account for ``count`` bytes that nobody waits for (negative: that were read); raises MuxBroken."""
        if count > 0 and not self._may_hold(count):
            raise MuxBroken("unread bytes over the limit")
        self.unread += count

    def drop(self, stream: MuxStream) -> None:
        """Reset ``stream`` toward the peer, if it is not over already, and forget it."""
        if self._streams.pop(stream.number, None) is not None:
            self._say(WINDOW, RST, stream.number, 0)
        stream.end()

    def send_soon(self, stream: MuxStream) -> None:
        """Put ``stream`` in line, if it has something that may be sent and does not stand there yet."""
        if stream.sendable and not stream.in_line:
            stream.in_line = True
            self._sending.append(stream)
            self._work.set()

    def end(self) -> None:
        """Everything that waits on this connection ends with StreamEnded."""
        self.ended = True
        while self._streams:
            self._streams.popitem()[1].end()
        self._news.set()
        self._work.set()

    # -- outgoing -----------------------------------------------------------------------------------------------

    async def wait_for_work(self) -> None:
        """Return once :meth:`fill` has something to say."""
        while not (self._answers or self._sending):
            self._work = trio.Event()
            await self._work.wait()

    def fill(self, room: memoryview) -> int:
        """Write what is to be sent next to ``room``; returns how many bytes that is, 0 for nothing."""
        used = min(len(self._answers), len(room))
        room[:used] = self._answers[:used]
        del self._answers[:used]
        while self._sending and len(room) - used > HEADER.size:
            stream = self._sending.popleft()
            stream.in_line = False
            if not stream.sendable:
                continue
            start = used + HEADER.size
            count = stream.give(room[start:])
            HEADER.pack_into(room, used, 0, DATA, 0, stream.number, count)
            used = start + count
            self.send_soon(stream)
        return used

    def _say(self, kind: int, flags: int, number: int, value: int) -> None:
        self._answers += HEADER.pack(0, kind, flags, number, value)
        self._work.set()

    # -- incoming -----------------------------------------------------------------------------------------------

    def feed(self, plain: memoryview) -> int:
        """Take the next bytes of the peer, cut anywhere; returns in how many steps; raises MuxBroken."""
        at = steps = 0
        while at < len(plain):
            steps += 1
            if self._body_left:
                piece = plain[at : at + self._body_left]
                self._body_left -= len(piece)
                at += len(piece)
                if self._body_of is not None:
                    self._body_of.arrive(piece)
                if not self._body_left:
                    self._finish(self._body_of, self._body_flags)
            elif not self._header and len(plain) - at >= HEADER.size:
                self._on_header(*HEADER.unpack_from(plain, at))
                at += HEADER.size
            else:
                piece = plain[at : at + HEADER.size - len(self._header)]
                self._header += piece
                at += len(piece)
                if len(self._header) == HEADER.size:
                    fields = HEADER.unpack(self._header)
                    self._header.clear()
                    self._on_header(*fields)
        return steps

    def _on_header(self, version: int, kind: int, flags: int, number: int, value: int) -> None:
        if version != 0:
            raise MuxBroken(f"frame of version {version}, must be 0")
        if kind in (DATA, WINDOW):
            self._on_stream(kind, flags, number, value)
        elif kind == PING:
            if flags & SYN:
                self._say(PING, ACK, 0, value)
        elif kind == GO_AWAY:
            raise MuxBroken("closed by the peer")
        else:
            raise MuxBroken(f"frame of type {kind}, must be 0 to {GO_AWAY}")
        if len(self._answers) > ANSWER_BYTES_MAX:
            raise MuxBroken(f"{len(self._answers)} bytes of answers that the peer does not read")

    def _on_stream(self, kind: int, flags: int, number: int, value: int) -> None:
        stream = self._introduced(number) if flags & SYN else self._streams.get(number)
        if kind == WINDOW:
            if stream is not None:
                stream.allow(value)
            self._finish(stream, flags)
            return
        most = DISCARD_BYTES_MAX if stream is None else stream.credit
        if value > most:
            raise MuxBroken(f"{value} bytes on stream {number} where {most} were granted")
        if stream is not None:
            stream.credit -= value
        self._body_left, self._body_of, self._body_flags = value, stream, flags
        if not value:
            self._finish(stream, flags)

    def _introduced(self, number: int) -> MuxStream | None:
        if number == 0 or number % 2 != self._parity or number in self._streams:
            raise MuxBroken(f"the peer may not open stream {number}")
        if len(self._opened) >= ACCEPT_MAX:
            self._say(WINDOW, RST, number, 0)
            return None
        stream = self._streams[number] = MuxStream(self, number)
        self._opened.append(stream)
        self._news.set()
        self._say(WINDOW, ACK, number, 0)
        return stream

    def _finish(self, stream: MuxStream | None, flags: int) -> None:
        """What the flags of a whole frame mean for its stream."""
        if stream is None or not flags & (FIN | RST):
            return
        if flags & RST:
            self._streams.pop(stream.number, None)
            stream.end()
        else:
            stream.half_close()
