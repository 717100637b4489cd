"""libp2p's parts with the holes stopped: the TCP stream, the noise handshake, the multiplexer."""

from __future__ import annotations

from collections.abc import Callable

import trio
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import Yamux

from quidnunc.peer.network.address import public_of

HANDSHAKE_BYTES = 65_536
_RECEIVE = 131_072


class HandshakeRefused(Exception):
    """The other side is not who it must be, or does not speak noise and yamux."""


class Wire(ReadWriteCloser):  # type: ignore[misc]
    """A TCP connection with a receive buffer, byte counters, and a budget until it is authenticated."""

    def __init__(self, tcp: trio.SocketStream) -> None:
        self._tcp = tcp
        self._buffer = bytearray()
        self._budget: int | None = HANDSHAKE_BYTES
        self.aborted = False
        self.sent = 0
        self.received = 0

    def authenticated(self) -> None:
        """Lift the budget."""
        self._budget = None

    async def read(self, n: int | None = None) -> bytes:
        """Exactly ``n`` bytes, fewer only at the end (libp2p gives up after 101 short reads)."""
        wanted = 1 if n is None else n
        if self._budget is not None:
            self._budget -= wanted
            if self._budget < 0:
                raise ConnectionClosedError("more bytes than a handshake needs")
        while len(self._buffer) < wanted:
            try:
                piece = await self._tcp.receive_some(_RECEIVE)
            except trio.BrokenResourceError as error:
                raise ConnectionClosedError(str(error)) from error
            except trio.ClosedResourceError:
                break
            if not piece:
                break
            self.received += len(piece)
            self._buffer += piece
        taken = bytes(self._buffer) if n is None else bytes(self._buffer[:n])
        del self._buffer[: len(taken)]
        return taken

    async def write(self, data: bytes) -> None:
        """Send all of ``data``; yamux serializes the calls."""
        try:
            await self._tcp.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(str(error)) from error
        self.sent += len(data)

    def abort(self) -> None:
        """Close the socket at once; every blocked call on it ends."""
        self.aborted = True
        self._tcp.socket.close()

    async def close(self) -> None:
        self.abort()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Not known to libp2p: nothing of ours may depend on it."""
        return None


class GatedNoise(Noise):  # type: ignore[misc]
    """Noise XX that lets only members in, whatever else follows."""

    def __init__(self, keys: KeyPair, allowed: Callable[[bytes], bool]) -> None:
        super().__init__(keys, noise_privkey=create_new_x25519_key_pair().private_key)
        self._allowed = allowed

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Authenticate an inbound connection; HandshakeRefused for anybody but a member."""
        secured = await super().secure_inbound(conn)
        public = public_of(secured.get_remote_peer().to_bytes())
        if public is None or not self._allowed(public):
            await secured.close()
            raise HandshakeRefused(f"{secured.get_remote_peer()} is not a member")
        return secured


class GuardedYamux(Yamux):  # type: ignore[misc]
    """Yamux that closes a connection by which the unread bytes of its peer pass ``buffer_bytes_max``.

    ``held`` counts those of all connections of this peer.
    """

    def __init__(
        self, secured: ISecureConn, peer: ID, held: Callable[[], int], *, is_initiator: bool, buffer_bytes_max: int
    ) -> None:
        super().__init__(secured, peer, is_initiator=is_initiator)
        self._held = held
        self._buffer_bytes_max = buffer_bytes_max
        self.overflowed = False

    @property
    def unread(self) -> int:
        """Bytes received on this connection that nobody has read."""
        return sum(map(len, self.stream_buffers.values()))

    async def _read_data_body(self, length: int) -> bytes:
        if length + self._held() > self._buffer_bytes_max:
            self.overflowed = True
            # The one exception of this hook upon which yamux closes the whole connection.
            raise trio.TooSlowError
        body: bytes = await super()._read_data_body(length)
        return body
