"""The listening sockets, and how long somebody unknown may stand in the door.

Our own listeners, not libp2p's: closed when we say so, refused when the port is taken, and with a bounded queue of
unauthenticated connections, in which older ones give way to newer ones of the same source address. So a flood from one
address displaces itself, and nobody who comes from elsewhere.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from quidnunc.crypto.errors import ConfigError
from quidnunc.peer.network.address import Endpoint
from quidnunc.peer.network.overlay_api import DoorStats, OverlaySettings

if TYPE_CHECKING:
    from quidnunc.peer.network.transport import Connection, Transport

_log = logging.getLogger("quidnunc.overlay")
_IP6_SITE_BITS = 64
"""One customer's network in IPv6: all its addresses are one source, else a machine would be as many as it likes."""


def source_of(host: str) -> str:
    """What counts as one source: an IPv4 address, or the /64 network of an IPv6 address; any other text is itself."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IP6_SITE_BITS), strict=False))


class Queue:
    """Who waits in the door, by number, and who must give way. No IO.

    A source has at most ``per_source`` places, and all sources together ``total``. ``known`` tells sources that members
    are expected from: those do not give way to others.
    """

    def __init__(self, total: int, per_source: int, known: Callable[[str], bool]) -> None:
        self._total = total
        self._per_source = per_source
        self._known = known
        self._waiting: dict[int, str] = {}
        self._places: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, number: int, source: str) -> int | None:
        """Take in ``number``; returns whom it displaces, or None."""
        displaced = self._displaced_by(source)
        if displaced is not None:
            self.leave(displaced)
        self._waiting[number] = source
        self._places[source] += 1
        return displaced

    def leave(self, number: int) -> None:
        """``number`` is done, or displaced; again is no harm."""
        source = self._waiting.pop(number, None)
        if source is not None:
            self._places[source] -= 1
            if not self._places[source]:
                del self._places[source]

    def _displaced_by(self, source: str) -> int | None:
        """The oldest of the own source when that has all its places, else of the one with most, known ones last."""
        if self._places[source] >= self._per_source:
            return self._oldest(source)
        if len(self._waiting) < self._total:
            return None
        strangers = [each for each in self._places if not self._known(each)]
        return self._oldest(max(strangers or self._places, key=self._places.__getitem__))

    def _oldest(self, source: str) -> int:
        return next(number for number, each in self._waiting.items() if each == source)


class Door:
    """Accepts TCP connections, has them authenticated and hands them to ``admit``, with the source they came from.

    ``known`` tells sources that members are expected from.
    """

    def __init__(
        self,
        transport: Transport,
        settings: OverlaySettings,
        admit: Callable[[Connection, str], Awaitable[None]],
        known: Callable[[str], bool],
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._admit = admit
        self._listeners: list[trio.SocketListener] = []
        self._queue = Queue(settings.handshakes_max, settings.handshakes_per_source, known)
        self._scopes: dict[int, trio.CancelScope] = {}
        self._count = 0
        self._stats = DoorStats(limit=settings.handshakes_max)

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

    def stats(self) -> DoorStats:
        """A copy of the counters."""
        return replace(self._stats, waiting=len(self._queue))

    async def _accept(self, tcp: trio.SocketStream) -> None:
        self._count += 1
        number, source, connection = self._count, _source(tcp), None
        with trio.move_on_after(self._settings.handshake_timeout_s) as scope:
            self._scopes[number] = scope
            self._give_way(self._queue.enter(number, source), source)
            try:
                connection = await self._transport.accept(tcp)
            except Exception as error:  # noqa: BLE001 - anything a stranger sends may surface as anything
                _log.debug("inbound connection refused: %r", error)
            finally:
                self._queue.leave(number)
                del self._scopes[number]
        if connection is not None:
            await self._admit(connection, source)
        else:
            self._stats.refused += 1

    def _give_way(self, displaced: int | None, source: str) -> None:
        if displaced is not None:
            self._scopes[displaced].cancel()
            self._stats.displaced += 1
            self._stats.last_source = source


def _source(tcp: trio.SocketStream) -> str:
    try:
        return source_of(str(tcp.socket.getpeername()[0]))
    except OSError:  # gone already
        return ""


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
