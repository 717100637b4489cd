"""The overlay's twin in memory: same interface, same refusals, no sockets, for tests above it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING

import trio

from quidnunc.crypto.errors import Reason
from quidnunc.gossip.events import Frame
from quidnunc.peer.network.overlay_api import DoorStats, Member, OverlayEvents, OverlaySettings, PeerStats, SendFailed
from quidnunc.peer.network.transfer import Offer, digest_of, judge

if TYPE_CHECKING:
    from trio_typing import TaskStatus


class MemoryNetwork:
    """A switch between :class:`MemoryOverlay` instances, in which single links can be cut."""

    def __init__(self) -> None:
        self.serving: dict[bytes, MemoryOverlay] = {}
        self._cut: set[frozenset[bytes]] = set()

    def cut(self, one: bytes, other: bytes) -> None:
        """Break the link between two peers; both are told soon."""
        self._cut.add(frozenset((one, other)))
        self.changed()

    def heal(self, one: bytes, other: bytes) -> None:
        """Mend the link between two peers; both are told soon if both serve."""
        self._cut.discard(frozenset((one, other)))
        self.changed()

    def linked(self, one: bytes, other: bytes) -> bool:
        """Whether both serve, know each other as members and are not cut off."""
        first, second = self.serving.get(one), self.serving.get(other)
        if first is None or second is None or frozenset((one, other)) in self._cut:
            return False
        return first.knows(other) and second.knows(one)

    def changed(self) -> None:
        """Have every serving peer tell its host what has changed for it."""
        for overlay in self.serving.values():
            overlay.settle_soon()


class MemoryOverlay:
    """An :class:`~quidnunc.peer.network.overlay_api.Overlay` on a :class:`MemoryNetwork`."""

    def __init__(
        self,
        public: bytes,
        network: MemoryNetwork,
        *,
        federation: bytes,
        members: Iterable[Member] = (),
        settings: OverlaySettings | None = None,
    ) -> None:
        self.public = public
        self._network = network
        self._federation = federation
        self._settings = settings or OverlaySettings()
        self._members: frozenset[bytes] = frozenset()
        self._up: set[bytes] = set()
        self.resting: set[bytes] = set()
        self._telling = trio.Lock()
        self._stats: dict[bytes, PeerStats] = {}
        self._events: OverlayEvents
        self._nursery: trio.Nursery | None = None
        self._taking: set[trio.CancelScope] = set()
        self.set_members(members)

    async def serve(
        self, events: OverlayEvents, *, task_status: TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Be reachable on the network until cancelled."""
        self._events = events
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    self._network.serving[self.public] = self
                    task_status.started(list(self.addresses()))
                    self._network.changed()
                    await trio.sleep_forever()
                finally:
                    self._nursery = None
        finally:
            self._network.serving.pop(self.public, None)
            self._up.clear()
            for scope in self._taking:
                scope.cancel()
            self._network.changed()

    def settle_soon(self) -> None:
        """Have :meth:`settle` run in this overlay's own task group."""
        if self._nursery is not None:
            self._nursery.start_soon(self.settle)

    async def settle(self) -> None:
        """Bring what the host was told in line with the network."""
        async with self._telling:
            for peer in sorted(self._members | self._up):
                linked = self._network.linked(self.public, peer)
                if linked and peer not in self._up:
                    self._up.add(peer)
                    self._stats_of(peer).connections += 1
                    await self._events.peer_up(peer)
                elif not linked and peer in self._up:
                    self._up.discard(peer)
                    await self._events.peer_down(peer)

    def knows(self, peer: bytes) -> bool:
        """Whether ``peer`` is on the allow-list."""
        return peer in self._members

    async def send(self, peer: bytes, frame: Frame) -> None:
        """Return once ``peer`` has acknowledged ``frame``; SendFailed otherwise."""
        try:
            await self._send(peer, frame)
        except SendFailed:
            self._stats_of(peer).send_failures += 1
            raise

    async def _send(self, peer: bytes, frame: Frame) -> None:
        if why := self._settings.oversize(frame):
            raise SendFailed(peer, why)
        if not self._network.linked(self.public, peer):
            raise SendFailed(peer, "not connected")
        offer = Offer(self._federation, len(frame.header), len(frame.body), await digest_of(frame))
        lost, reason = await self._network.serving[peer].take(self.public, offer, Frame(frame.header, frame.body))
        stats = self._stats_of(peer)
        if reason is not None:
            stats.refused_by_peer[reason] = stats.refused_by_peer.get(reason, 0) + 1
            raise SendFailed(peer, f"refused: {reason.label}", reason=reason)
        if lost or not self._network.linked(self.public, peer):
            raise SendFailed(peer, "connection lost")
        stats.frames_sent += 1
        stats.bytes_sent += offer.size

    async def take(self, peer: bytes, offer: Offer, frame: Frame) -> tuple[bool, Reason | None]:
        """The receiving side of :meth:`send`: whether the link ended meanwhile, and why the frame was refused.

        It runs in the sender's task, so a host that stops answering as it ends must not keep the sender.
        """
        reason = None
        with trio.CancelScope() as scope:
            self._taking.add(scope)
            try:
                reason = await self._take(peer, offer, frame)
            finally:
                self._taking.discard(scope)
        return scope.cancelled_caught, reason

    async def _take(self, peer: bytes, offer: Offer, frame: Frame) -> Reason | None:
        stats = self._stats_of(peer)
        reason = judge(offer, self._federation, self._settings)
        if reason is None:
            stats.bytes_received += offer.size
            reason = await self._events.received(peer, frame)
        if reason is None:
            stats.frames_received += 1
        else:
            stats.refused_by_us[reason] = stats.refused_by_us.get(reason, 0) + 1
        return reason

    def connected(self) -> frozenset[bytes]:
        """Peers for which the last event was ``peer_up``."""
        return frozenset(self._up)

    def addresses(self) -> tuple[str, ...]:
        """One made-up address while serving."""
        return (f"/memory/{self.public.hex()[:12]}",) if self.public in self._network.serving else ()

    def set_members(self, members: Iterable[Member]) -> None:
        """Replace the allow-list; links follow as soon as the scheduler gets to it."""
        self._members = frozenset(member.public for member in members) - {self.public}
        self._network.changed()

    def rest(self, peer: bytes) -> None:
        """Nobody dials here; :attr:`resting` is who would not be."""
        self.resting.add(peer)

    def stats(self) -> Mapping[bytes, PeerStats]:
        """A copy of the counters of every peer ever connected; bytes without any framing."""
        return deepcopy(self._stats)

    def strangers(self) -> DoorStats:
        """There is no door."""
        return DoorStats()

    def _stats_of(self, peer: bytes) -> PeerStats:
        return self._stats.setdefault(peer, PeerStats())
