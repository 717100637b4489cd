"""py-libp2p behind one door: authenticated, multiplexed connections made of its parts and of ours.

We speak libp2p's wire protocols (TCP, multistream-select, noise XX, yamux). Handshake and protocol selection are those
of py-libp2p 0.8.1, but neither its host nor its swarm is used. Those were measured or read to: offer plaintext by
default, under which a stranger passes for any peer; end the process when a stream handler raises; go on listening
after they were stopped; bind with SO_REUSEPORT, so that two daemons silently share a port; keep one of 250 inbound
slots forever for every connection ever accepted; dial at most one TCP address of a peer and wait 0.25 s each time; let
a peer rewrite its addresses by identify. Owning the few lines that put the parts together removes all of it.

Once a peer is authenticated, bytes are moved by ``sealing.py`` and ``mux.py`` instead of libp2p's noise session and
yamux: those spend ten times the cipher's time in copies, locks and awaits for each 64 KiB (``bench/transfer.py``). This
module guards:

- noise only, yamux only; the peer must be a member before the multiplexer is even negotiated;
- before that it may make us hold 64 KiB, no more;
- unread bytes of one peer are capped, whatever its connections, and one that ignores its window is ended;
- one task writes to the socket, so that no cancelled call can leave half a noise message on the wire.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakSet

import trio

from quidnunc.peer.network.address import multihash_of, public_of
from quidnunc.peer.network.guards import GatedNoise, HandshakeRefused, Wire
from quidnunc.peer.network.libp2p_parts import (
    ID,
    NOISE_ID,
    YAMUX_ID,
    BaseLibp2pError,
    ConnectionClosedError,
    ISecureConn,
    Multiselect,
    MultiselectClient,
    MultiselectCommunicator,
    MuxerMultistream,
    RawConnection,
    ReadWriteCloser,
    SecurityMultistream,
    TProtocol,
    Yamux,
    create_new_key_pair,
)
from quidnunc.peer.network.mux import Mux, MuxBroken
from quidnunc.peer.network.mux_stream import MuxStream
from quidnunc.peer.network.sealing import BadMessage, Opener, Sealer
from quidnunc.peer.network.transfer import StreamEnded

NEGOTIATION_BYTES = 1_024
BATCH_MESSAGES = 8
"""Full noise messages, 64 KiB each, that are sent or received by one system call."""
STEPS_MAX = 64
"""Headers and pieces of bodies handled in one go: who sends tiny frames does not hold up the loop."""
_LOST = (BaseLibp2pError, StreamEnded, OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class _Negotiation(ReadWriteCloser):  # type: ignore[misc]
    """A stream as multistream-select wants it: short messages only."""

    def __init__(self, stream: MuxStream) -> None:
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        if n is None or n > NEGOTIATION_BYTES:
            raise ConnectionClosedError(f"protocol name of {n} bytes")
        return await self._stream.read_exactly(n)

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    async def close(self) -> None:
        self._stream.reset()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Not known; asked for by the interface."""
        return None


class Connection:
    """One authenticated connection to ``peer`` (32-byte transport key); ``outbound`` if we dialed."""

    def __init__(self, peer: bytes, wire: Wire, mux: Mux, sealer: Sealer, opener: Opener, *, outbound: bool) -> None:
        self.peer = peer
        self.outbound = outbound
        self.wire = wire
        self.mux = mux
        self.why = "closed by the peer"
        self.ended = trio.Event()
        self._sealer = sealer
        self._opener = opener

    async def run(self) -> None:
        """Move bytes until the connection ends, ``why`` then says how come, or this is cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._transmit)
                await self._receive()
                nursery.cancel_scope.cancel()
        finally:
            self.mux.end()
            self.abort()
            self.ended.set()

    async def _receive(self) -> None:
        """Whatever is wrong with what the peer sends ends the connection, and nothing else."""
        count = steps = 0
        try:
            while True:
                for plain in self._opener.opened(count):
                    steps += self.mux.feed(plain)
                    if steps > STEPS_MAX:
                        steps = 0
                        await trio.lowlevel.checkpoint()
                count = await self.wire.receive_into(self._opener.room)
                if not count:
                    return
        except ConnectionClosedError:
            return
        except (BadMessage, MuxBroken) as error:
            self.why = str(error)

    async def _transmit(self) -> None:
        while True:
            await self.mux.wait_for_work()
            while not self._sealer.full and (size := self.mux.fill(self._sealer.plain)):
                self._sealer.seal(size)
            try:
                await self.wire.write(self._sealer.take())
            except ConnectionClosedError:
                self.abort()
                return

    async def open(self, protocol: str) -> MuxStream:
        """A new stream that speaks ``protocol``; StreamEnded if the other side will not."""
        stream = self.mux.open()
        try:
            communicator = MultiselectCommunicator(_Negotiation(stream))
            await MultiselectClient().select_one_of([TProtocol(protocol)], communicator)
        except (UnicodeDecodeError, *_LOST) as error:
            stream.reset()
            raise StreamEnded(f"cannot open {protocol}: {error}") from error
        return stream

    async def accept(self) -> MuxStream:
        """The next stream the peer opens, its protocol not yet chosen; StreamEnded when there are no more."""
        return await self.mux.accept()

    async def answer(self, stream: MuxStream, protocols: Sequence[str]) -> str:
        """Let the opener of ``stream`` choose one of ``protocols``; StreamEnded when it does not."""
        chooser = Multiselect({TProtocol(name): None for name in protocols})
        try:
            chosen, _ = await chooser.negotiate(MultiselectCommunicator(_Negotiation(stream)))
        except (UnicodeDecodeError, *_LOST) as error:
            raise StreamEnded(f"no protocol: {error!r}") from error
        return str(chosen)

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
        self._muxers = MuxerMultistream({TProtocol(YAMUX_ID): Yamux})
        self._buffer_bytes_max = buffer_bytes_max
        self._open: WeakSet[Connection] = WeakSet()

    def held(self, peer: bytes) -> int:
        """Unread bytes of all connections of ``peer`` that stand."""
        return sum(each.mux.unread for each in self._open if each.peer == peer and not each.wire.aborted)

    def _may_hold(self, peer: bytes, count: int) -> bool:
        return self.held(peer) + count <= self._buffer_bytes_max

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
        mux = Mux(dialed=outbound, may_hold=partial(self._may_hold, public))
        # What came in the same noise message as the choice of yamux is in the session's own buffer.
        mux.feed(memoryview(secured._drain(None)))
        connection = Connection(public, wire, mux, *_takeover(secured, wire), outbound=outbound)
        self._open.add(connection)
        return connection


def _takeover(secured: ISecureConn, wire: Wire) -> tuple[Sealer, Opener]:
    """The two directions of the channel, from where libp2p's session leaves them: keys, counters, early bytes."""
    noise = secured.conn.noise_state.noise_protocol
    ours, theirs = noise.cipher_state_encrypt, noise.cipher_state_decrypt
    return Sealer(ours.k, ours.n, BATCH_MESSAGES), Opener(theirs.k, theirs.n, BATCH_MESSAGES, wire.leftover())
