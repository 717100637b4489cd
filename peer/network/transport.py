"""py-libp2p behind one door: authenticated, multiplexed connections made of its parts.

We use libp2p's wire protocols (TCP, multistream-select, noise XX, yamux) from py-libp2p 0.8.1, but neither
its host nor its swarm. Those were measured or read to: offer plaintext by default, under which a stranger
passes for any peer; end the process when a stream handler raises; go on listening after they were stopped;
bind with SO_REUSEPORT, so that two daemons silently share a port; keep one of 250 inbound slots forever for
every connection ever accepted; dial at most one TCP address of a peer and wait 0.25 s each time; let a peer
rewrite its addresses by identify. Owning the few lines that put the parts together removes all of it. This
module guards:

- noise only, yamux only; the peer must be a member before the multiplexer is even negotiated;
- before that it may make us hold 64 KiB, no more;
- unread bytes of one peer are capped, whatever its connections: yamux itself lets a peer ignore its window;
- a write that is cancelled halfway leaves half a noise message on the wire, so it ends the connection;
- flow control is ours: credit returned in large steps, 1 MiB for an announced transfer, never 16 MiB; the
  sender waits for it without yamux's 10 ms steps and 5 s limit (16 MB: 0.14 s instead of 0.33 s).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from weakref import WeakSet

import trio
from libp2p.abc import ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from quidnunc.peer.network.address import multihash_of, public_of
from quidnunc.peer.network.guards import GatedNoise, GuardedYamux, HandshakeRefused, Wire
from quidnunc.peer.network.transfer import WRITE_BYTES, StreamEnded

NEGOTIATION_BYTES = 1_024
_WINDOW = 262_144
_BULK_WINDOW = 1_048_576
_WINDOW_POLL_S = 0.001
_LOST = (BaseLibp2pError, StreamEnded, OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class MuxStream(ReadWriteCloser):  # type: ignore[misc]
    """One stream of a connection; a ByteStream for transfers and a reader-writer for multistream-select."""

    def __init__(self, connection: Connection, stream: YamuxStream) -> None:
        self._connection = connection
        self._stream = stream
        self._buffer = bytearray()
        self._credit = 0
        self._window = _WINDOW

    async def read_some(self, limit: int) -> bytes:
        """1 to ``limit`` bytes; StreamEnded at the end."""
        if self._buffer:
            piece = bytes(self._buffer[:limit])
            del self._buffer[: len(piece)]
            return piece
        return await self._fetch(limit)

    async def read_exactly(self, count: int) -> bytes:
        """Exactly ``count`` bytes; what a cancelled call has taken stays for the next one."""
        while len(self._buffer) < count:
            self._buffer += await self._fetch(count - len(self._buffer))
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def _fetch(self, limit: int) -> bytes:
        try:
            piece: bytes = await self._connection.muxed.read_stream(self._stream.stream_id, limit)
        except _LOST as error:
            raise StreamEnded(str(error)) from error
        if not piece:
            raise StreamEnded("end of stream")
        # YamuxStream.read would answer every read with a window update: an encrypted message for each one.
        self._credit += len(piece)
        if self._credit >= self._window // 4:
            await self._grant(self._credit)
            self._credit = 0
        return piece

    async def expect(self, count: int) -> None:
        """Widen the window once for ``count`` bytes that were announced."""
        if count > self._window // 2 and self._window < _BULK_WINDOW:
            await self._grant(_BULK_WINDOW - self._window)
            self._window = _BULK_WINDOW

    async def _grant(self, count: int) -> None:
        self._stream.recv_window += count
        await self._whole(self._stream.send_window_update(count))

    async def write(self, data: bytes) -> None:
        """Send ``data``, waiting for the window as long as it takes; cancelling it may end the connection."""
        # Yamux itself looks at an exhausted window every 10 ms and breaks the stream after 5 s of it.
        stream = self._stream
        needed = min(len(data), WRITE_BYTES)
        while stream.send_window < needed and not (stream.send_closed or stream.closed):
            await trio.sleep(_WINDOW_POLL_S)
        await self._whole(stream.write(data))

    async def _whole(self, writing: Awaitable[None]) -> None:
        try:
            await writing
        except _LOST as error:
            raise StreamEnded(str(error)) from error
        except trio.Cancelled:
            self._connection.abort()
            raise

    async def read(self, n: int | None = None) -> bytes:
        """Multistream-select's read: short messages only."""
        if n is None or n > NEGOTIATION_BYTES:
            raise ConnectionClosedError(f"protocol name of {n} bytes")
        return await self.read_exactly(n)

    async def reset(self) -> None:
        """End the stream both ways and forget what was not read; never takes longer than two seconds."""
        with trio.move_on_after(2) as scope:
            scope.shield = True
            buffered = self._connection.muxed.stream_buffers.get(self._stream.stream_id)
            if buffered is not None:
                buffered.clear()
            try:
                await self._whole(self._stream.reset())
            except StreamEnded:
                return

    async def close(self) -> None:
        await self.reset()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Not known; asked for by the interface."""
        return None

    async def answer(self, protocols: Sequence[str]) -> str:
        """Let the opener choose one of ``protocols``; StreamEnded when it does not."""
        chooser = Multiselect({TProtocol(name): None for name in protocols})
        try:
            chosen, _ = await chooser.negotiate(MultiselectCommunicator(self))
        except (UnicodeDecodeError, *_LOST) as error:
            raise StreamEnded(f"no protocol: {error!r}") from error
        return str(chosen)


class Connection:
    """One authenticated connection to ``peer`` (32-byte transport key); ``outbound`` if we dialed."""

    def __init__(self, peer: bytes, wire: Wire, muxed: GuardedYamux, *, outbound: bool) -> None:
        self.peer = peer
        self.outbound = outbound
        self.wire = wire
        self.muxed = muxed

    async def run(self) -> None:
        """Move bytes until the connection ends or this is cancelled."""
        await self.muxed.start()

    async def open(self, protocol: str) -> MuxStream:
        """A new stream that speaks ``protocol``; StreamEnded if the other side will not."""
        await self.muxed.event_started.wait()
        try:
            stream = MuxStream(self, await self.muxed.open_stream())
        except _LOST as error:
            raise StreamEnded(str(error)) from error
        try:
            await MultiselectClient().select_one_of([TProtocol(protocol)], MultiselectCommunicator(stream))
        except (UnicodeDecodeError, *_LOST) as error:
            await stream.reset()
            raise StreamEnded(f"cannot open {protocol}: {error}") from error
        return stream

    async def accept(self) -> MuxStream:
        """The next stream the peer opens, its protocol not yet chosen; StreamEnded when there are no more."""
        try:
            return MuxStream(self, await self.muxed.accept_stream())
        except _LOST as error:
            raise StreamEnded(str(error)) from error

    def abort(self) -> None:
        """Close the socket at once."""
        self.wire.abort()


class Transport:
    """Turns TCP streams into authenticated connections under the Ed25519 key of ``seed``."""

    def __init__(self, seed: bytes, allowed: Callable[[bytes], bool], *, buffer_bytes_max: int) -> None:
        # libp2p reports ordinary failures as errors, one line per abusive frame; our log says it once.
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)
        noise = GatedNoise(create_new_key_pair(seed=seed), allowed)
        self._security = SecurityMultistream({NOISE_ID: noise})
        self._muxers = MuxerMultistream({TProtocol(YAMUX_ID): GuardedYamux})
        self._buffer_bytes_max = buffer_bytes_max
        self._open: WeakSet[Connection] = WeakSet()

    def _held(self, peer: bytes) -> int:
        """Unread bytes of all connections of ``peer`` that stand."""
        return sum(each.muxed.unread for each in self._open if each.peer == peer and not each.wire.aborted)

    async def accept(self, tcp: trio.SocketStream) -> Connection:
        """Authenticate whoever connected; HandshakeRefused or another exception ends in a closed socket."""
        wire = Wire(tcp)
        try:
            secured = await self._security.secure_inbound(RawConnection(wire, False))
            return await self._multiplex(wire, secured, outbound=False)
        except BaseException:
            wire.abort()
            raise

    async def connect(self, tcp: trio.SocketStream, peer: bytes) -> Connection:
        """Authenticate to ``peer`` and make sure that it is ``peer``."""
        wire = Wire(tcp)
        try:
            secured = await self._security.secure_outbound(RawConnection(wire, True), ID(multihash_of(peer)))
            return await self._multiplex(wire, secured, outbound=True)
        except BaseException:
            wire.abort()
            raise

    async def _multiplex(self, wire: Wire, secured: ISecureConn, *, outbound: bool) -> Connection:
        await self._muxers.select_transport(secured)
        public = public_of(secured.get_remote_peer().to_bytes())
        if public is None:
            raise HandshakeRefused("peer id holds no Ed25519 key")
        wire.authenticated()
        muxed = GuardedYamux(
            secured,
            secured.get_remote_peer(),
            partial(self._held, public),
            is_initiator=outbound,
            buffer_bytes_max=self._buffer_bytes_max,
        )
        connection = Connection(public, wire, muxed, outbound=outbound)
        self._open.add(connection)
        return connection
