"""The listening sockets, and how long somebody unknown may stand in the door.

Our own listeners, not libp2p's: closed when we say so, refused when the port is taken, and with a queue of
unauthenticated connections in which the oldest gives way to the newest. A flood must make a whole queue of
new connections within the few milliseconds of an honest handshake before it keeps anybody out.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from quidnunc.crypto.errors import ConfigError
from quidnunc.peer.network.address import Endpoint
from quidnunc.peer.network.overlay_api import OverlaySettings

if TYPE_CHECKING:
    from quidnunc.peer.network.transport import Connection, Transport

_log = logging.getLogger("quidnunc.overlay")


class Door:
    """Accepts TCP connections, has them authenticated and hands them to ``admit``."""

    def __init__(
        self, transport: Transport, settings: OverlaySettings, admit: Callable[[Connection], Awaitable[None]]
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._admit = admit
        self._listeners: list[trio.SocketListener] = []
        self._waiting: OrderedDict[int, trio.CancelScope] = OrderedDict()
        self._count = 0

    async def bind(self, endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        """Take ``endpoints``; returns the bound addresses. ConfigError when one cannot be had."""
        try:
            for endpoint in endpoints:
                self._listeners.append(await _bind(endpoint))
        except ConfigError:
            self.close()
            raise
        return tuple(_bound_text(listener) for listener in self._listeners)

    async def open(self, nursery: trio.Nursery) -> None:
        """Start accepting; what becomes of each connection runs in ``nursery``."""
        if self._listeners:
            serve = partial(trio.serve_listeners, self._accept, self._listeners, handler_nursery=nursery)
            await nursery.start(serve)

    def close(self) -> None:
        """Stop listening, at once."""
        for listener in self._listeners:
            listener.socket.close()

    async def _accept(self, tcp: trio.SocketStream) -> None:
        self._count += 1
        number = self._count
        connection = None
        with trio.move_on_after(self._settings.handshake_timeout_s) as scope:
            if len(self._waiting) >= self._settings.handshakes_max:
                self._waiting.popitem(last=False)[1].cancel()
            self._waiting[number] = scope
            try:
                connection = await self._transport.accept(tcp)
            except Exception as error:  # noqa: BLE001 - anything a stranger sends may surface as anything
                _log.debug("inbound connection refused: %r", error)
            finally:
                self._waiting.pop(number, None)
        if connection is not None:
            await self._admit(connection)


async def _bind(endpoint: Endpoint) -> trio.SocketListener:
    try:
        return (await trio.open_tcp_listeners(endpoint.port, host=endpoint.host))[0]
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {endpoint.text}: {error.strerror}",
            hint="is another peer or program using this port? choose another one",
        ) from error


def _bound_text(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return Endpoint("ip6" if ":" in host else "ip4", host, port).text
