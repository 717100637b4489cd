"""libp2p's parts with the holes stopped: the TCP stream and the noise handshake."""

from __future__ import annotations

from collections.abc import Callable

import trio

from quidnunc.peer.network.address import public_of
from quidnunc.peer.network.libp2p_parts import (
    ConnectionClosedError,
    IRawConnection,
    ISecureConn,
    KeyPair,
    Noise,
    ReadWriteCloser,
    create_new_x25519_key_pair,
)

HANDSHAKE_BYTES = 65_536
_RECEIVE = 131_072


class HandshakeRefused(Exception):
    """The other side is not who it must be, or does not speak noise and yamux."""


class Wire(ReadWriteCloser):  # type: ignore[misc]
    """A TCP connection with byte counters and, until it is authenticated, a receive buffer and a budget."""

    def __init__(self, tcp: trio.SocketStream) -> None:
        self._tcp = tcp
        self._buffer = bytearray()
        self._budget = HANDSHAKE_BYTES
        self.aborted = False
        self.sent = 0
        self.received = 0

    def leftover(self) -> bytearray:
        """What was received and not read; afterwards bytes come by :meth:`receive_into` only."""
        left, self._buffer = self._buffer, bytearray()
        return left

    async def receive_into(self, room: memoryview) -> int:
        """Some bytes into ``room``; returns how many, 0 at the end."""
        try:
            count: int = await self._tcp.socket.recv_into(room)
        except OSError as error:
            raise ConnectionClosedError(str(error)) from error
        except trio.ClosedResourceError:
            return 0
        self.received += count
        return count

    async def read(self, n: int | None = None) -> bytes:
        """Exactly ``n`` bytes, fewer only at the end (libp2p gives up after 101 short reads)."""
        wanted = 1 if n is None else n
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

    async def write(self, data: bytes | memoryview) -> None:
        """Send all of ``data``; one call at a time."""
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
