"""The overlay over libp2p: who is dialed when, which connection counts, what the host is told.

Between two members the one with the lower transport key dials (bytewise). The other dials too when it has an
address and nobody came for ``redial_max_s``; the first time for ``first_dial_s`` only, because a peer that starts
cannot know how long the others have been pausing. Should both get through, the connection dialed by the lower
key stays; of two from the same side the newer stays, because its maker had lost the older one. A connection
counts only once it has answered a ping, so a peer that does not accept us is never reported as up.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

import trio

from quidnunc.crypto.identity import SecretKey
from quidnunc.gossip.events import Frame
from quidnunc.peer.network.address import Endpoint, parse_address
from quidnunc.peer.network.door import Door, source_of
from quidnunc.peer.network.link import Link
from quidnunc.peer.network.overlay_api import (
    DoorStats,
    Member,
    Overlay,
    OverlayEvents,
    OverlaySettings,
    PeerStats,
    SendFailed,
)

if TYPE_CHECKING:
    from trio_typing import TaskStatus

    from quidnunc.peer.network.transport import Connection, Transport

__all__ = [
    "Libp2pOverlay",
    "Member",
    "Overlay",
    "OverlayEvents",
    "OverlaySettings",
    "PeerStats",
    "SendFailed",
]
_log = logging.getLogger("quidnunc.overlay")


class _Neighbor:
    """What we know and hold of one member."""

    def __init__(self, public: bytes, endpoints: tuple[Endpoint, ...]) -> None:
        self.public = public
        self.endpoints = endpoints
        self.came_from = ""
        self.link: Link | None = None
        self.changed = trio.Event()
        self.tending: trio.CancelScope | None = None
        self.telling = trio.Lock()
        self.lived = 0.0
        self.dials = 0
        self.resting = False

    def idle(self) -> bool:
        """Whether nobody is to be dialed: it is connected, has no address, or is not expected any more."""
        return self.link is not None or not self.endpoints or self.resting

    def wake(self) -> None:
        """Let the tending task look again."""
        self.changed.set()
        self.changed = trio.Event()


class Libp2pOverlay:
    """An :class:`Overlay` over TCP, noise and yamux. ``seed`` is the 32-byte transport key seed."""

    def __init__(
        self,
        seed: bytes,
        *,
        listen: Sequence[str],
        federation: bytes,
        members: Iterable[Member] = (),
        settings: OverlaySettings | None = None,
    ) -> None:
        self._seed = seed
        self.public = SecretKey.from_seed(seed).public
        self._listen = tuple(parse_address(address, listen=True) for address in listen)
        self._federation = federation
        self._settings = settings or OverlaySettings()
        self._neighbors: dict[bytes, _Neighbor] = {}
        self._stats: dict[bytes, PeerStats] = {}
        self._links: dict[Link, None] = {}
        self._door: Door | None = None
        self._sources: frozenset[str] = frozenset()
        self._bulk = trio.Semaphore(self._settings.inbound_transfers)
        self._random = random.Random(self.public)
        self._bound: tuple[str, ...] = ()
        self._nursery: trio.Nursery | None = None
        self._events: OverlayEvents
        self._transport: Transport
        self.set_members(members)

    async def serve(
        self, events: OverlayEvents, *, task_status: TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen, dial, receive until cancelled; reports the bound addresses. ConfigError if one is taken."""
        # libp2p takes over a second to import: only a running daemon pays for it.
        from quidnunc.peer.network.transport import Transport

        self._events = events
        self._transport = Transport(
            self._seed, self._neighbors.__contains__, buffer_bytes_max=self._settings.buffer_bytes_max
        )
        door = self._door = Door(self._transport, self._settings, self._admit, self._expects)
        self._bound = await door.bind(self._listen)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await door.open(nursery)
                for neighbor in self._neighbors.values():
                    self._tend_soon(neighbor)
                task_status.started(list(self._bound))
                await trio.sleep_forever()
        finally:
            door.close()
            self._nursery = None
            self._bound = ()
            for neighbor in self._neighbors.values():
                neighbor.link = None

    async def send(self, peer: bytes, frame: Frame) -> None:
        """Return once ``peer`` has acknowledged ``frame``; SendFailed otherwise."""
        if why := self._settings.oversize(frame):
            raise SendFailed(peer, why)
        neighbor = self._neighbors.get(peer)
        if neighbor is None or neighbor.link is None:
            raise SendFailed(peer, "not connected")
        try:
            await neighbor.link.send(frame)
        except SendFailed:
            self._stats_of(peer).send_failures += 1
            raise

    def connected(self) -> frozenset[bytes]:
        """Peers with a connection that answers."""
        return frozenset(public for public, neighbor in self._neighbors.items() if neighbor.link is not None)

    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs bound at the moment."""
        return self._bound

    def stats(self) -> Mapping[bytes, PeerStats]:
        """A copy of the counters of every peer ever connected."""
        stats = deepcopy(self._stats)
        for link in self._links:
            sent, received = link.wire_bytes
            stats[link.peer].bytes_sent += sent
            stats[link.peer].bytes_received += received
        return stats

    def set_members(self, members: Iterable[Member]) -> None:
        """Replace the allow-list and dial list; connections to those no longer in it are closed."""
        wanted = {
            member.public: tuple(parse_address(address) for address in member.addresses)
            for member in members
            if member.public != self.public
        }
        for public in self._neighbors.keys() - wanted.keys():
            neighbor = self._neighbors.pop(public)
            if neighbor.tending is not None:
                neighbor.tending.cancel()
            for link in self._links:
                if link.peer == public:
                    link.drop("no longer a member")
        for public, endpoints in wanted.items():
            known = self._neighbors.get(public)
            if known is None:
                self._neighbors[public] = _Neighbor(public, endpoints)
                self._tend_soon(self._neighbors[public])
            elif known.endpoints != endpoints:
                known.endpoints = endpoints
                known.wake()
        self._note_sources()

    def rest(self, peer: bytes) -> None:
        """Do not dial ``peer`` any more; it is let in as before should it come."""
        neighbor = self._neighbors.get(peer)
        if neighbor is not None and not neighbor.resting:
            neighbor.resting = True
            neighbor.wake()

    def strangers(self) -> DoorStats:
        """Counters of inbound connections that are not authenticated, since the overlay serves."""
        return DoorStats() if self._door is None else self._door.stats()

    def _expects(self, source: str) -> bool:
        """Whether a member listens at that source, by its addresses, or has come from there before."""
        return source in self._sources

    def _note_sources(self) -> None:
        """Of a member with a name for an address nothing is expected before it has come."""
        found = {source_of(endpoint.host) for each in self._neighbors.values() for endpoint in each.endpoints}
        self._sources = frozenset(found | {each.came_from for each in self._neighbors.values()})

    async def _admit(self, connection: Connection, source: str) -> None:
        neighbor = self._neighbors.get(connection.peer)
        if neighbor is None:
            connection.abort()
        else:
            neighbor.came_from = source
            self._note_sources()
            await self._carry(neighbor, connection)

    # Connections going out

    def _tend_soon(self, neighbor: _Neighbor) -> None:
        if self._nursery is not None:
            neighbor.tending = trio.CancelScope()
            self._nursery.start_soon(self._tend, neighbor, neighbor.tending)

    async def _tend(self, neighbor: _Neighbor, scope: trio.CancelScope) -> None:
        """Dial whenever there is no connection, with growing pauses."""
        settings = self._settings
        ours = self.public < neighbor.public
        patience = settings.redial_min_s if ours else settings.redial_max_s
        pause = 0.0 if ours else min(settings.first_dial_s, patience)
        with scope:
            while True:
                with trio.move_on_after(pause * self._random.uniform(0.8, 1.2)) as waiting:
                    await neighbor.changed.wait()
                if neighbor.idle():
                    while neighbor.idle():
                        await neighbor.changed.wait()
                    pause = patience
                    continue
                if not waiting.cancelled_caught:
                    pause = 0.0  # a new address
                    continue
                neighbor.dials += 1
                if await self._dial(neighbor) >= settings.redial_max_s or not ours:
                    pause = patience
                else:
                    pause = min(max(2 * pause, settings.redial_min_s), settings.redial_max_s)

    async def _dial(self, neighbor: _Neighbor) -> float:
        """Try every address once, carry the first connection made; returns for how many seconds it was up."""
        for endpoint in neighbor.endpoints:
            try:
                with trio.fail_after(self._settings.dial_timeout_s):
                    tcp = await trio.open_tcp_stream(endpoint.host, endpoint.port)
                with trio.fail_after(self._settings.handshake_timeout_s):
                    connection = await self._transport.connect(tcp, neighbor.public)
            except Exception as error:  # noqa: BLE001 - whatever listens there may make libp2p raise anything
                self._stats_of(neighbor.public).last_trouble = f"dialing {endpoint.text}: {_plain(error)}"
                _log.debug("dialing %s at %s failed: %r", neighbor.public.hex()[:12], endpoint.text, error)
                continue
            if self._nursery is not None:
                ended = trio.Event()
                # Not in this task: it is cancelled when the member leaves, and peer_down must still be told.
                self._nursery.start_soon(self._carry, neighbor, connection, ended)
                await ended.wait()
            return neighbor.lived
        return 0.0

    # Connections that stand

    async def _carry(self, neighbor: _Neighbor, connection: Connection, ended: trio.Event | None = None) -> None:
        stats = self._stats_of(connection.peer)
        link = Link(connection, self._federation, self._settings, self._events, stats, self._bulk)
        self._make_room(connection.peer)
        self._links[link] = None
        proved_at = float("inf")

        async def proved(link: Link) -> None:
            nonlocal proved_at
            proved_at = trio.current_time()
            await self._proved(neighbor, link)

        try:
            await link.run(proved)
        except Exception:  # noqa: BLE001 - the boundary: one connection must not end the process
            _log.exception("connection to %s failed", link.peer.hex()[:12])
        finally:
            del self._links[link]
            sent, received = link.wire_bytes
            stats.bytes_sent += sent
            stats.bytes_received += received
        async with neighbor.telling:
            if neighbor.link is link:
                neighbor.link = None
                neighbor.wake()
                stats.last_trouble = link.why
                await self._events.peer_down(link.peer)
        neighbor.lived = max(0.0, trio.current_time() - proved_at)
        if ended is not None:
            ended.set()

    def _make_room(self, peer: bytes) -> None:
        """The oldest connections of ``peer`` that have proved nothing give way to one more."""
        unproven = [link for link in self._links if link.peer == peer and link.unproven]
        for link in unproven[: len(unproven) + 1 - self._settings.unproven_per_peer]:
            link.drop("too many connections that answer no ping")

    async def _proved(self, neighbor: _Neighbor, link: Link) -> None:
        """Make ``link`` the connection to its peer, unless a better one exists."""
        async with neighbor.telling:
            current = neighbor.link
            if self._neighbors.get(link.peer) is not neighbor:
                link.drop("no longer a member")
            elif current is not None and self._preferred(current) and not self._preferred(link):
                link.drop("there is a connection already")
            else:
                neighbor.link = link
                neighbor.wake()
                self._stats_of(link.peer).connections += 1
                self._stats_of(link.peer).last_trouble = ""
                if current is not None:
                    current.drop("replaced by another connection")
                    await self._events.peer_down(link.peer)
                await self._events.peer_up(link.peer)

    def _preferred(self, link: Link) -> bool:
        return link.outbound == (self.public < link.peer)

    def _stats_of(self, peer: bytes) -> PeerStats:
        return self._stats.setdefault(peer, PeerStats())


def _plain(error: BaseException) -> str:
    """What a failed dial was about, without a word of the other side's."""
    if isinstance(error, trio.TooSlowError):
        return "no answer in time"
    causes = [error, error.__cause__, *getattr(error.__cause__, "exceptions", ())]
    codes = [cause.errno for cause in causes if isinstance(cause, OSError) and cause.errno]
    return os.strerror(codes[-1]).lower() if codes else f"no handshake ({type(error).__name__})"
